//! A topic's limits: when they give messages up, and how the marks they go by are kept.

use super::{
    Command, Removed, RequestId, Topic,
    commit::Effect,
    keys,
    persisting::States,
    run_set::Run,
    state::{self, TopicState},
    topic::Stage,
};
use crate::{Keep, Monotonic, Offset, Retention, RetentionChange, TopicSettings};

impl Topic {
    /// Gives up what is beyond a limit: at once for all channels, and in the log once every
    /// channel's state says so in the store.
    pub(super) fn apply_limits(&mut self) {
        let retention = &self.settings.retention;
        if !retention.has_limit() || !self.limits_work() {
            return;
        }
        let first = self.first_kept();
        let beyond = self.marks.beyond(retention, first, self.now.monotonic);
        let Some((until, limit)) = beyond else { return };
        let bytes = self.marks.bytes_of(Run::new(first, until));
        self.cut = until;
        let mut dropped = Vec::new();
        for index in self.channels.indexes() {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            let lost = channel.drop_before(until);
            if lost > 0 {
                dropped.push((channel.name.clone(), lost));
            }
            self.channels.touch(index);
        }
        self.list_truncation();
        self.out.push_back(Command::Removed(Removed { first, until, bytes, limit, dropped }));
    }

    /// When a limit gives up something next, as far as that is a matter of time.
    pub(super) fn limits_due(&self) -> Option<Monotonic> {
        match self.limits_work() {
            true => self.marks.next_age(&self.settings.retention, self.first_kept()),
            false => None,
        }
    }

    /// Where a channel that wants everything begins.
    pub(super) fn first_kept(&self) -> Offset {
        self.bounds.first.max(self.cut)
    }

    /// Whether everything before `first` was given up by the topic itself, be it in the commit under
    /// way: then a read that finds it gone came too late, and nothing was lost.
    pub(crate) fn gave_up_before(&self, first: Offset) -> bool {
        first <= self.first_kept().max(self.commit.truncate.unwrap_or_default())
    }

    /// About how many bytes are kept.
    pub(super) fn bytes_kept(&self) -> u64 {
        self.marks.bytes_of(Run::new(self.first_kept(), self.bounds.end))
    }

    /// Where the log may begin once the commit under way has succeeded.
    pub(super) fn log_start(&self) -> Offset {
        let made = self.commit.creating.values().copied();
        let wanted = self.channels.lowest_floor().into_iter().chain(made).min();
        match (wanted, self.settings.retention.keep) {
            (Some(wanted), Keep::Unacked) => wanted,
            (Some(wanted), Keep::All) => wanted.min(self.cut),
            (None, _) => self.cut,
        }
    }

    /// Makes other limits part of the commit: they hold when it has succeeded.
    pub(super) fn alter(&mut self, change: RetentionChange, request: RequestId) {
        let retention = change.apply(self.settings.retention);
        let settings = TopicSettings { retention, ..self.settings };
        let value = TopicState { settings, paused: self.paused };
        self.commit.batch.put(keys::topic_key(&self.name), state::encode(&value));
        self.commit.effects.push(Effect::Altered { retention, request });
    }

    /// Other limits hold from now on.
    pub(super) fn altered(&mut self, retention: Retention) {
        self.settings.retention = retention;
        // What was kept though all had acked it may be kept no longer.
        self.list_truncation();
    }

    /// The marks came out of the store. Those of an age limit have to be there after a second
    /// restart too, or what came last would begin to grow old again at each. Those `ahead` of their
    /// log, whose end is lost, must not be taken for others' that will have those offsets.
    pub(super) fn marks_restored(&mut self, closed: bool, ahead: bool) {
        if ahead || closed && self.settings.retention.age_max.is_some() {
            let soon = self.now.monotonic.plus(self.limits.ack_commit_interval);
            self.persisting.marks_at = Some(soon);
        }
    }

    /// When marks need a commit of their own.
    pub(super) fn marks_due(&self) -> Option<Monotonic> {
        if !self.limits_work() {
            return None;
        }
        let close = self.marks.close_due(&self.settings.retention);
        let due = self.persisting.marks_at.into_iter().chain(close).min()?;
        Some(self.states_pause().unwrap_or(due))
    }

    /// Whether the last commit before the topic comes to rest has marks to store: with a limit,
    /// nothing that was appended should be unknown after a clean stop; or those that are there are
    /// not so.
    pub(super) fn marks_waiting(&self) -> bool {
        let open = self.settings.retention.has_limit() && self.marks.is_open();
        open || self.persisting.marks_at.is_some()
    }

    /// Puts the marks into the commit if it makes some.
    pub(super) fn add_marks(&mut self, which: States) {
        let apart = self.states_failed() && which == States::Riding;
        let close = match which {
            States::None => return,
            States::Last => self.marks_waiting(),
            States::Riding | States::Alone => {
                !apart && self.marks_due().is_some_and(|due| due <= self.now.monotonic)
            }
        };
        let batches = &self.commit.appends.written_batches;
        let bytes = self.commit.appends.bytes as u64;
        let step = self.mark_step();
        let discards = &self.commit.discards;
        if !close && discards.is_empty() && !self.marks.fills(bytes, step) {
            return;
        }
        let mut marks = Box::new(self.marks.clone());
        discards.iter().for_each(|&run| marks.discard(run));
        if close {
            marks.close();
        }
        marks.append(batches, step, self.now.monotonic);
        if let Some(first) = self.commit.truncate {
            marks.truncate(first);
        }
        let value = state::encode(&marks.state(self.now));
        self.commit.batch.put(keys::marks_key(&self.name), value);
        self.commit.marks = Some(marks);
    }

    /// The commit has succeeded, and with it what it appended.
    pub(super) fn marks_stored(&mut self) {
        let (end, bytes) = (self.commit.appends.end, self.commit.appends.bytes as u64);
        match self.commit.marks.take() {
            Some(marks) => {
                self.marks = *marks;
                self.persisting.marks_at = None;
            }
            None => self.marks.grow(end, bytes, self.now.monotonic),
        }
    }

    /// The least number of bytes from one mark to the next.
    fn mark_step(&self) -> u64 {
        let usual = self.limits.mark_bytes.max(1);
        let fine = self.settings.retention.bytes_max.map_or(usual, |bytes| bytes / FINENESS);
        // Marks for a small limit cost more, but never much beside what they mark.
        fine.clamp(usual.div_ceil(FINENESS), usual)
    }

    /// Whether anything is given up now by the topic itself.
    pub(super) fn limits_work(&self) -> bool {
        self.stage == Stage::Live && !self.stopping && self.store.failed.is_none()
    }
}

/// A stretch is this part of what a limit by size keeps.
const FINENESS: u64 = 64;
