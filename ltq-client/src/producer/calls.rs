//! The calls of a producer that wait for their answers, and the answers.

use std::collections::VecDeque;
use std::ops::Range;

use ltq_core::{Durability, Effect, Records, Refusal, model::SequenceRange};
use tokio::time::Instant;

use super::room::Room;
use crate::UnknownCause;

/// Calls in the order of their messages' positions. A call is answered once: when all of its
/// messages are stored, when one of them is not, or when its time is up. It keeps its place until
/// its messages are settled all the same, since others were numbered behind them.
#[derive(Debug)]
pub(super) struct Calls<R> {
    calls: VecDeque<Call<R>>,
    /// Calls that are not answered.
    pending: usize,
    /// No deadline is earlier.
    earliest: Option<Instant>,
    first_failure: Option<Failure>,
    answers: Vec<Answer<R>>,
    freed: Room,
}

#[derive(Debug)]
struct Call<R> {
    position: u64,
    count: u64,
    settled: u64,
    room: Room,
    deadline: Instant,
    reply: Option<R>,
    stored: RangeList,
    durability: Durability,
}

impl<R> Call<R> {
    const fn next(&self) -> u64 {
        self.position + self.settled
    }

    const fn end(&self) -> u64 {
        self.position + self.count
    }

    const fn is_settled(&self) -> bool {
        self.settled >= self.count
    }
}

/// Why a call's messages are not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Refused, nothing happened.
    Refused(Refusal),
    /// Its time was up before it was sent.
    NotSent,
    /// Its time was up after it was sent.
    Late,
    /// Nobody knows, for another reason.
    Unknown(UnknownCause),
    /// The producer was closed before it was sent.
    Closed,
}

impl Failure {
    pub(super) fn of(refusal: &Refusal) -> Self {
        match refusal.code.effect() {
            Effect::Nothing | Effect::Fatal => Self::Refused(refusal.clone()),
            Effect::Unknown => Self::Unknown(UnknownCause::Broker(refusal.clone())),
        }
    }
}

/// What of a call may be published by another producer: messages of which it is known that they are not
/// stored by this one, or will not be sent by it again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    /// The messages, in order.
    pub(crate) records: Vec<Records>,
    /// The room that they have, which is not given back.
    pub(crate) room: Room,
    /// The call's.
    pub(crate) deadline: Instant,
}

/// The answer to one call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer<R> {
    pub(super) reply: R,
    /// The messages from the front that are stored.
    pub(super) stored: RangeList,
    /// How durable.
    pub(super) durability: Durability,
    /// What became of the others.
    pub(super) failure: Option<Failure>,
    /// The others themselves, where another producer may publish them.
    pub(super) rest: Option<Rest>,
}

/// Like a vector of ranges, without its allocation for the one that there mostly is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeList {
    pub(crate) first: Option<SequenceRange>,
    pub(crate) more: Vec<SequenceRange>,
}

impl RangeList {
    pub(crate) fn into_vec(self) -> Vec<SequenceRange> {
        self.first.into_iter().chain(self.more).collect()
    }

    /// Adds a range; to the last one, where it follows on it.
    fn push(&mut self, range: SequenceRange) {
        let Some(last) = self.more.last_mut().or(self.first.as_mut()) else {
            self.first = Some(range);
            return;
        };
        let follows = last.sequence + last.count == range.sequence
            && last.offset.map(|first| first.plus(last.count)) == range.offset;
        if follows {
            last.count += range.count;
        } else {
            self.more.push(range);
        }
    }
}

impl<R> Default for Calls<R> {
    fn default() -> Self {
        Self {
            calls: VecDeque::new(),
            pending: 0,
            earliest: None,
            first_failure: None,
            answers: Vec::new(),
            freed: Room::default(),
        }
    }
}

impl<R> Calls<R> {
    /// Calls that are not answered.
    pub(super) const fn pending(&self) -> usize {
        self.pending
    }

    /// No unanswered call has an earlier deadline.
    pub(super) const fn earliest(&self) -> Option<Instant> {
        self.earliest
    }

    /// The first position that is not settled.
    pub(super) fn low(&self) -> Option<u64> {
        self.calls.front().map(Call::next)
    }

    /// The answers since the last time, and the room that is free again.
    pub(super) fn take(&mut self) -> (Vec<Answer<R>>, Room) {
        (std::mem::take(&mut self.answers), std::mem::take(&mut self.freed))
    }

    /// Adds a call of `count` messages; with none, it is a barrier, which is answered once
    /// everything before it is settled, with the first failure since the last barrier.
    pub(super) fn push(
        &mut self,
        position: u64,
        count: u64,
        room: Room,
        deadline: Instant,
        reply: R,
    ) {
        self.pending += 1;
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        self.calls.push_back(Call {
            position,
            count,
            settled: 0,
            room,
            deadline,
            reply: Some(reply),
            stored: RangeList::default(),
            durability: Durability::Disk,
        });
        if count == 0 {
            self.pop_settled();
        }
    }

    /// Messages from `position` on are stored.
    pub(super) fn settle(
        &mut self,
        mut position: u64,
        mut range: SequenceRange,
        durability: Durability,
    ) {
        while range.count > 0 {
            let index = match self.calls.front() {
                Some(front) if front.end() > position => 0,
                _ => self.calls.partition_point(|call| call.end() <= position),
            };
            let Some(call) = self.calls.get_mut(index) else { return };
            // Messages of a call that failed meanwhile belong to nobody any more.
            let skip = call.next().saturating_sub(position).min(range.count);
            let taken = call.end().saturating_sub(position + skip).min(range.count - skip);
            if taken > 0 {
                call.settled += taken;
                call.durability = call.durability.min(durability);
                call.stored.push(SequenceRange { count: taken, ..after(range, skip) });
            }
            position += skip + taken;
            range = after(range, skip + taken);
            if index == 0 {
                self.pop_settled();
            }
        }
    }

    /// Fails every call that has a message among `count` from `position` on, with whatever it has
    /// left, and tells of what of them lies at `cursor` or behind it. `keep` copies what is left of
    /// one for another producer, where it is to go to one.
    pub(super) fn fail(
        &mut self,
        position: u64,
        count: u64,
        cursor: u64,
        failure: &Failure,
        mut withdrawn: impl FnMut(Range<u64>),
        mut keep: impl FnMut(Range<u64>) -> Option<Vec<Records>>,
    ) {
        let end = position.saturating_add(count);
        let mut index = self.calls.partition_point(|call| call.end() <= position);
        while let Some(call) = self.calls.get_mut(index).filter(|call| call.position < end) {
            index += 1;
            if call.end() > cursor && !call.is_settled() {
                withdrawn(call.position.max(cursor)..call.end());
            }
            let left = call.next()..call.end();
            call.settled = call.count;
            if call.reply.is_some() {
                self.pending -= 1;
                let records = if left.is_empty() { None } else { keep(left) };
                let rest = records.map(|records| {
                    let room = std::mem::take(&mut call.room);
                    Rest { records, room, deadline: call.deadline }
                });
                answer(call, Some(failure), rest, &mut self.answers, &mut self.first_failure);
            }
        }
        self.pop_settled();
    }

    /// Answers the calls whose time is up, and tells of what of them lies at `cursor` or behind
    /// it: nothing from there on was ever sent.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        cursor: u64,
        mut withdrawn: impl FnMut(Range<u64>),
    ) {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return;
        }
        self.earliest = None;
        for call in self.calls.iter_mut().filter(|call| call.reply.is_some()) {
            if now < call.deadline {
                let deadline = call.deadline;
                self.earliest = Some(self.earliest.map_or(deadline, |e| e.min(deadline)));
                continue;
            }
            let barrier = call.count == 0;
            let sent = call.position < cursor || barrier;
            if call.end() > cursor && !barrier {
                withdrawn(call.position.max(cursor)..call.end());
                call.count = cursor.saturating_sub(call.position);
            }
            let failure = if sent { Failure::Late } else { Failure::NotSent };
            self.pending -= 1;
            answer(call, Some(&failure), None, &mut self.answers, &mut self.first_failure);
        }
        let freed = &mut self.freed;
        self.calls.retain(|call| {
            let keep = call.reply.is_some() || call.count > 0;
            if !keep {
                freed.messages += call.room.messages;
                freed.bytes += call.room.bytes;
            }
            keep
        });
        self.pop_settled();
    }

    /// What is left of the calls that are not answered, in order.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let open = self.calls.iter().filter(|call| call.reply.is_some() && !call.is_settled());
        open.map(|call| call.next()..call.end())
    }

    /// The messages of calls that are settled, but not taken off yet because one before is not.
    pub(super) fn settled(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let settled = self.calls.iter().filter(|call| call.is_settled() && call.count > 0);
        settled.map(|call| call.position..call.end())
    }

    fn pop_settled(&mut self) {
        while self.calls.front().is_some_and(Call::is_settled) {
            let Some(mut call) = self.calls.pop_front() else { return };
            self.freed.messages += call.room.messages;
            self.freed.bytes += call.room.bytes;
            if call.reply.is_some() {
                self.pending -= 1;
                let failure = if call.count == 0 { self.first_failure.take() } else { None };
                answer(&mut call, failure.as_ref(), None, &mut self.answers, &mut None);
            }
        }
        if self.pending == 0 {
            self.earliest = None;
        }
    }
}

fn answer<R>(
    call: &mut Call<R>,
    failure: Option<&Failure>,
    rest: Option<Rest>,
    answers: &mut Vec<Answer<R>>,
    first_failure: &mut Option<Failure>,
) {
    let Some(reply) = call.reply.take() else { return };
    if first_failure.is_none() && call.count > 0 {
        *first_failure = failure.cloned();
    }
    let stored = std::mem::take(&mut call.stored);
    let durability = if stored.first.is_some() { call.durability } else { Durability::Memory };
    answers.push(Answer { reply, stored, durability, failure: failure.cloned(), rest });
}

/// The range without its first messages.
fn after(range: SequenceRange, count: u64) -> SequenceRange {
    SequenceRange {
        sequence: range.sequence.saturating_add(count),
        count: range.count.saturating_sub(count),
        offset: range.offset.map(|first| first.plus(count)),
    }
}
