//! When and how the channels' states get into the store, and the log's start after them.

use std::time::Duration;

use super::{Topic, channel::Channel, channels::Index, keys, state, topic::Stage};
use crate::{ChannelName, Durability, Monotonic, Offset};

/// Which channels' states are to be stored.
#[derive(Debug, Default)]
pub(super) struct Persisting {
    /// Channels with changes that the store does not know.
    list: Vec<Index>,
    /// A channel is gone, so that the log may have to be kept from further on.
    truncate: bool,
    /// When to store them in a commit of their own, if none goes by before.
    due: Option<Monotonic>,
    /// When to store the marks even if no more come.
    pub(super) marks_at: Option<Monotonic>,
    /// After a commit with states failed: when to try them again, apart from publishes.
    apart_from: Option<Monotonic>,
    failures: u32,
    /// The node stops, and storing them for the last time has begun.
    last: bool,
}

/// Which states a commit takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum States {
    /// None at all.
    None,
    /// Those that have not been stored lately.
    Riding,
    /// The same, and nothing else is in the commit.
    Alone,
    /// All that have changed, for the last time.
    Last,
}

impl Persisting {
    /// Gives back memory that was needed in busier times.
    pub(super) fn relax(&mut self) {
        self.list.shrink_to_fit();
    }
}

impl Topic {
    /// Notes that a channel changed, if it did.
    pub(super) fn list_state(&mut self, index: Index) {
        let Some(channel) = self.channels.get_mut(index) else { return };
        let put = &mut channel.put;
        if !std::mem::take(&mut put.changed) || std::mem::replace(&mut put.listed, true) {
            return;
        }
        let soon = self.now.monotonic.plus(self.limits.ack_commit_interval);
        put.due = soon.max(put.rides_from);
        self.persisting.list.push(index);
        self.persisting.due = self.persisting.due.into_iter().chain([put.due]).min();
    }

    /// Notes that the log may be kept from further on.
    pub(super) fn list_truncation(&mut self) {
        self.persisting.truncate = true;
        self.discarding.missed = true;
        let soon = self.now.monotonic.plus(self.limits.ack_commit_interval);
        self.persisting.due = self.persisting.due.into_iter().chain([soon]).min();
    }

    /// When states need a commit of their own.
    pub(super) fn states_due(&self) -> Option<Monotonic> {
        if self.stage != Stage::Live || self.store.failed.is_some() || !self.states_waiting() {
            return None;
        }
        self.persisting.apart_from.or(self.persisting.due)
    }

    /// Whether a channel is known to have changed.
    pub(super) const fn states_listed(&self) -> bool {
        !self.persisting.list.is_empty()
    }

    /// Whether there are states that the store does not know.
    pub(super) const fn states_waiting(&self) -> bool {
        self.states_listed() || self.persisting.truncate
    }

    /// Until when nothing is tried, storing having failed the last time.
    pub(super) const fn states_pause(&self) -> Option<Monotonic> {
        self.persisting.apart_from
    }

    /// Whether storing them failed the last time.
    pub(super) const fn states_failed(&self) -> bool {
        self.persisting.apart_from.is_some()
    }

    /// Whether states that must not go along with publishes have waited long enough.
    pub(super) fn states_overdue_apart(&self) -> bool {
        self.states_failed() && self.states_due().is_some_and(|due| due <= self.now.monotonic)
    }

    /// Stores states and marks, and discards, in a commit of their own if it is time.
    pub(super) fn put_states_if_due(&mut self) {
        let due = [self.states_due(), self.marks_due(), self.discards_due()];
        let due = due.into_iter().flatten().min();
        if due.is_some_and(|due| due <= self.now.monotonic) {
            self.commit.begin(self.bounds.end, self.now.wall);
            self.commit.needs(Durability::Os);
            self.close_commit(States::Alone);
        }
    }

    /// Whether nothing can be done any more about states that the store does not know.
    pub(super) const fn states_given_up(&self) -> bool {
        self.persisting.last && self.states_failed()
    }

    /// Whether there are forgotten names that the last commit can still delete. It is tried once.
    pub(super) const fn names_waiting(&self) -> bool {
        !self.persisting.last && !self.producers.forgotten.is_empty()
    }

    /// Stores all states for the last time, whatever happened before.
    pub(super) fn put_last_states(&mut self) {
        if !std::mem::replace(&mut self.persisting.last, true) {
            self.persisting.apart_from = None;
        }
        self.commit.begin(self.bounds.end, self.now.wall);
        self.commit.needs(self.settings.durability);
        self.close_commit(States::Last);
    }

    /// Adds the states whose turn it is to the commit.
    pub(super) fn add_states(&mut self, which: States) {
        let apart = self.states_failed() && which == States::Riding;
        let rides_on_nothing = which == States::Riding && self.commit.batch.is_empty();
        if which == States::None || apart || rides_on_nothing || self.stage != Stage::Live {
            return;
        }
        // What failed together is tried together, so that trying again always does something.
        let looks = self.looks_for_discards();
        let all = which == States::Last || self.states_failed() || looks;
        let now = self.now.monotonic;
        let mut bytes = 0;
        let mut due: Option<Monotonic> = None;
        let mut list = std::mem::take(&mut self.persisting.list);
        list.retain(|&index| {
            let Some(channel) = self.channels.get(index) else { return false };
            if !channel.put.listed {
                return false;
            }
            let waits = !all && now < channel.put.rides_from
                || self.commit.dropping.contains(&channel.name);
            if waits || bytes >= STATES_BYTES_MAX {
                due = due.into_iter().chain([channel.put.due]).min();
                return true;
            }
            bytes += self.put_channel(index);
            false
        });
        self.persisting.list = list;
        self.persisting.due = due;
        let stores = !self.commit.states.is_empty();
        if !stores && !self.persisting.truncate {
            self.persisting.apart_from = None;
        }
        self.discarding.missed |= stores && !looks;
        if !stores && !looks && !self.persisting.truncate {
            return;
        }
        self.persisting.truncate = false;
        let before = self.log_start();
        if before > self.bounds.first {
            self.commit.batch.truncate(self.log.clone(), before);
            self.commit.truncate = Some(before);
        }
        if looks {
            self.add_discards();
        }
    }

    /// Puts a channel's state into the commit, and says how large it is.
    pub(super) fn put_channel(&mut self, index: Index) -> usize {
        let Some(channel) = self.channels.get_mut(index) else { return 0 };
        channel.put.changed = false;
        channel.put.listed = false;
        channel.put.next_floor = Some(channel.floor);
        self.commit.states.push(index);
        let mut interval = self.limits.ack_commit_interval;
        let mut bytes = 0;
        if !channel.name.is_ephemeral() {
            let value = state::encode_channel(channel, self.now);
            bytes = value.len();
            let rate = self.limits.ack_commit_rate.max(1);
            let stretched = Duration::from_micros(bytes as u64 * 1_000_000 / rate);
            interval = interval.max(stretched);
            self.commit.batch.put(keys::channel_key(&self.name, &channel.name), value);
            // An ack is to outlive the node even where messages need not.
            self.commit.needs(Durability::Os);
        }
        channel.put.rides_from = self.now.monotonic.plus(interval);
        bytes
    }

    /// Puts the state of a channel that does not exist yet into the commit.
    pub(super) fn put_new_channel(&mut self, name: &ChannelName, start: Offset) {
        let value = state::encode_channel(&Channel::new(name.clone(), start), self.now);
        self.commit.batch.put(keys::channel_key(&self.name, name), value);
        self.commit.needs(Durability::Disk);
    }

    /// The commit's states are in the store.
    pub(super) fn states_stored(&mut self) {
        let stored = !self.commit.states.is_empty() || self.commit.truncate.is_some();
        if stored || self.commit.marks.is_some() {
            self.persisting.apart_from = None;
            self.persisting.failures = 0;
        }
        for &index in &self.commit.states {
            if let Some(channel) = self.channels.get_mut(index)
                && let Some(floor) = channel.put.next_floor.take()
            {
                channel.put.floor = floor;
            }
        }
    }

    /// The commit's states are not in the store: they are tried again after a pause, without
    /// publishes, since giving up records is what makes room in a store that is full.
    pub(super) fn states_not_stored(&mut self) {
        self.discarding.missed |= !self.commit.discards.is_empty();
        let truncate = self.commit.truncate.is_some();
        let marks = self.commit.marks.is_some() && self.commit.appends.publishes == 0;
        if self.commit.states.is_empty() && !truncate && !marks {
            return;
        }
        self.persisting.truncate |= truncate;
        for &index in &self.commit.states {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            channel.put.next_floor = None;
            if !std::mem::replace(&mut channel.put.listed, true) {
                channel.put.due = self.now.monotonic;
                self.persisting.list.push(index);
            }
            channel.put.rides_from = self.now.monotonic;
        }
        let pause = RETRY_MIN * 2u32.saturating_pow(self.persisting.failures.min(16));
        self.persisting.failures = self.persisting.failures.saturating_add(1);
        self.persisting.apart_from = Some(self.now.monotonic.plus(pause.min(RETRY_MAX)));
        self.persisting.due = self.persisting.apart_from;
    }
}

/// The most bytes of states in one commit, but for the last one's: the rest goes with the next.
#[cfg(not(test))]
const STATES_BYTES_MAX: usize = 4 << 20;
/// Small, so that tests meet it.
#[cfg(test)]
const STATES_BYTES_MAX: usize = 1 << 10;
/// The first pause after states could not be stored. Each further failure doubles it.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause after states could not be stored.
const RETRY_MAX: Duration = Duration::from_secs(5);
