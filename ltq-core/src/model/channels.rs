//! The channels of one topic, and which of them have something to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::channel::Channel;
use crate::{ChannelName, Monotonic, Offset};

/// A channel's place in the table.
pub(super) type Index = u32;

/// All channels of a topic.
#[derive(Debug, Default)]
pub(super) struct Channels {
    slots: Vec<Option<Box<Channel>>>,
    free: Vec<Index>,
    names: BTreeMap<ChannelName, Index>,
    /// Some came or went, and nobody was told.
    is_changed: bool,
    /// Those to look at before the topic comes to rest.
    touched: VecDeque<Index>,
    /// Those whose consumers wait for the next publish.
    hungry: Vec<Index>,
    /// Those whose consumers wait for records to be read.
    starved: Vec<Index>,
    /// Those that wait for time, by when.
    timers: BTreeSet<(Monotonic, Index)>,
}

impl Channels {
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn find(&self, name: &ChannelName) -> Option<Index> {
        self.names.get(name).copied()
    }

    pub(super) fn get(&self, index: Index) -> Option<&Channel> {
        self.slots.get(index as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, index: Index) -> Option<&mut Channel> {
        self.slots.get_mut(index as usize)?.as_deref_mut()
    }

    /// All channels in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Channel> + '_ {
        self.names.values().filter_map(|&index| self.get(index))
    }

    /// Their names.
    pub(super) fn names(&self) -> impl Iterator<Item = &ChannelName> {
        self.names.keys()
    }

    /// Whether some came or went since this was asked last.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// All places that are taken.
    pub(super) fn indexes(&self) -> Vec<Index> {
        self.names.values().copied().collect()
    }

    pub(super) fn add(&mut self, channel: Channel) -> Index {
        let name = channel.name.clone();
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as Index
        });
        if let Some(slot) = self.slots.get_mut(index as usize) {
            *slot = Some(Box::new(channel));
        }
        self.names.insert(name, index);
        self.is_changed = true;
        self.touch(index);
        index
    }

    pub(super) fn remove(&mut self, index: Index) -> Option<Box<Channel>> {
        let channel = self.slots.get_mut(index as usize)?.take()?;
        self.names.remove(&channel.name);
        self.is_changed = true;
        if let Some(timer) = channel.marks.timer {
            self.timers.remove(&(timer, index));
        }
        self.free.push(index);
        Some(channel)
    }

    /// Notes that a channel may have something to deliver, to store or to wait for.
    pub(super) fn touch(&mut self, index: Index) {
        if let Some(channel) = self.get_mut(index)
            && !std::mem::replace(&mut channel.marks.touched, true)
        {
            self.touched.push_back(index);
        }
    }

    pub(super) fn touch_all(&mut self) {
        for index in self.indexes() {
            self.touch(index);
        }
    }

    /// The next channel to look at.
    pub(super) fn next_touched(&mut self) -> Option<Index> {
        loop {
            let index = self.touched.pop_front()?;
            if let Some(channel) = self.get_mut(index) {
                channel.marks.touched = false;
                return Some(index);
            }
        }
    }

    /// Notes that a channel's consumers wait for the next publish.
    pub(super) fn mark_hungry(&mut self, index: Index) {
        if let Some(channel) = self.get_mut(index)
            && !std::mem::replace(&mut channel.marks.hungry, true)
        {
            self.hungry.push(index);
        }
    }

    /// There is something new: touches all that waited for it, and says whether any did.
    pub(super) fn feed_hungry(&mut self) -> bool {
        let mut hungry = std::mem::take(&mut self.hungry);
        let mut any = false;
        for index in hungry.drain(..) {
            if let Some(channel) = self.get_mut(index) {
                channel.marks.hungry = false;
                self.touch(index);
                any = true;
            }
        }
        self.hungry = hungry;
        any
    }

    /// Notes that a channel's consumers wait for records.
    pub(super) fn mark_starved(&mut self, index: Index) {
        if let Some(channel) = self.get_mut(index)
            && !std::mem::replace(&mut channel.marks.starved, true)
        {
            self.starved.push(index);
        }
    }

    /// Records came, or may be asked for again.
    pub(super) fn feed_starved(&mut self) {
        for index in std::mem::take(&mut self.starved) {
            if let Some(channel) = self.get_mut(index) {
                channel.marks.starved = false;
                self.touch(index);
            }
        }
    }

    /// Puts a channel where its next deadline belongs.
    pub(super) fn set_timer(&mut self, index: Index) {
        let Some(channel) = self.get_mut(index) else { return };
        let next = channel.next_deadline();
        let before = std::mem::replace(&mut channel.marks.timer, next);
        if before == next {
            return;
        }
        if let Some(before) = before {
            self.timers.remove(&(before, index));
        }
        if let Some(next) = next {
            self.timers.insert((next, index));
        }
    }

    /// The next deadline of any channel.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let untouched = self.timers.first().map(|&(deadline, _)| deadline);
        let touched = self.touched.iter().filter_map(|&index| self.get(index)?.next_deadline());
        touched.chain(untouched).min()
    }

    /// Lets time pass in all channels for which it matters.
    pub(super) fn handle_timeout(&mut self, now: Monotonic) {
        while let Some(&(deadline, index)) = self.timers.first()
            && deadline <= now
        {
            self.timers.pop_first();
            if let Some(channel) = self.get_mut(index) {
                channel.marks.timer = None;
                channel.expire(now);
            }
            self.touch(index);
        }
    }

    /// Where the channel stands that has consumers and is furthest behind.
    pub(super) fn lowest_cursor(&self) -> Offset {
        let reading = |channel: &Channel| channel.consumers.count() > 0 && !channel.paused;
        let channels = self.slots.iter().flatten().filter(|channel| reading(channel));
        channels.map(|channel| channel.cursor).min().unwrap_or(Offset(u64::MAX))
    }

    /// Up to where the log may go once the commit under way has succeeded: what every channel is
    /// done with as far as the store knows, or as far as anyone does for an ephemeral one.
    pub(super) fn lowest_floor(&self) -> Option<Offset> {
        self.slots.iter().flatten().map(|channel| channel.floor_kept()).min()
    }

    /// Gives back memory that was needed in busier times.
    pub(super) fn relax(&mut self) {
        if self.touched.is_empty() && self.hungry.is_empty() && self.starved.is_empty() {
            self.touched = VecDeque::new();
            self.hungry = Vec::new();
            self.starved = Vec::new();
        }
        if self.timers.is_empty() {
            self.timers = BTreeSet::new();
        }
    }
}
