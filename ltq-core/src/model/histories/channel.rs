//! A channel as simple as can be, with one entry for every message.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    ChannelStats, Monotonic, Now, Tag, TagRange, Timestamp, Verdict,
    model::{ConsumerId, ModelSettings},
};

/// The one state that a message is in, for one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Due {
        attempts: u32,
    },
    Delayed {
        attempts: u32,
        due: Monotonic,
    },
    InFlight {
        to: ConsumerId,
        tag: u64,
        attempt: u32,
        delivered: Monotonic,
        deadline: Monotonic,
    },
    Acked,
    /// A limit took it before it was acked.
    Dropped,
    /// It could not be read.
    Damaged,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Channel {
    pub(super) start: u64,
    /// By offset; offsets beyond wait.
    pub(super) states: Vec<State>,
    pub(super) figures: Figures,
    /// Its log lost its end, and what was dropped of that nobody knows.
    pub(super) cut: bool,
}

/// What was counted since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) delivered: u64,
    pub(super) redelivered: u64,
    requeued: u64,
    timed_out: u64,
    /// At least and at most: tags that one request names twice may count twice.
    stale: (u64, u64),
}

/// What consumers and the topic agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settling<'a> {
    pub(super) by: ConsumerId,
    pub(super) timeout: Duration,
    pub(super) last_tag: u64,
    pub(super) now: Monotonic,
    pub(super) limits: &'a ModelSettings,
}

impl Channel {
    pub(super) fn at(&mut self, offset: u64) -> &mut State {
        let offset = offset as usize;
        if offset >= self.states.len() {
            self.states.resize(offset + 1, State::Waiting);
        }
        &mut self.states[offset]
    }

    /// Whether nothing of a stretch is wanted.
    pub(super) fn is_done(&self, from: u64, until: u64, discarded: &BTreeSet<u64>) -> bool {
        (from..until).all(|offset| match self.states.get(offset as usize) {
            Some(State::Acked | State::Dropped | State::Damaged) => true,
            Some(State::Waiting) | None => discarded.contains(&offset),
            _ => false,
        })
    }

    /// Takes what was gone before it came to it as done.
    pub(super) fn pass_over(&mut self, until: u64, discarded: &BTreeSet<u64>) {
        if discarded.is_empty() {
            return;
        }
        for offset in self.start..until {
            if *self.at(offset) == State::Waiting && discarded.contains(&offset) {
                *self.at(offset) = State::Acked;
            }
        }
    }

    /// A limit removes everything below `until`; says how much of it was not done.
    pub(super) fn drop_below(&mut self, until: u64) -> u64 {
        let mut lost = 0;
        for offset in self.start..until {
            let state = self.at(offset);
            if !matches!(state, State::Acked | State::Dropped | State::Damaged) {
                *state = State::Dropped;
                lost += 1;
            }
        }
        lost
    }

    /// So many in all were given up because they could not be read: finds out which.
    pub(super) fn give_up(
        &mut self,
        told: &ChannelStats,
        end: u64,
        (damaged, discarded): (&BTreeSet<u64>, &BTreeSet<u64>),
    ) {
        for _ in self.count(|state| *state == State::Damaged)..told.damaged {
            let above = self.above_the_dropped(told.dropped);
            let among = |channel: &Self, which: fn(&State) -> bool| {
                let state = |at: u64| *channel.states.get(at as usize).unwrap_or(&State::Waiting);
                let first = |from| {
                    damaged.range(from..end.max(from)).copied().find(|&at| which(&state(at)))
                };
                first(above).or_else(|| first(channel.start))
            };
            // What was damaged first and discarded then may have been taken for passed over.
            let acked = |state: &State| *state == State::Acked;
            let taken = (self.count(acked) > told.acked).then(|| among(self, acked)).flatten();
            let offset = taken
                .or_else(|| among(self, |state| matches!(state, State::Due { .. })))
                .or_else(|| among(self, |state| *state == State::Waiting))
                .or_else(|| among(self, |state| *state == State::Dropped))
                .or_else(|| among(self, acked))
                .filter(|offset| {
                    self.states.get(*offset as usize) != Some(&State::Acked)
                        || discarded.contains(offset)
                });
            let offset = offset.expect("promise 8: more were given up than were damaged");
            *self.at(offset) = State::Damaged;
        }
    }

    /// Where those end that a limit took, so many in all, as far as that was not heard yet.
    fn above_the_dropped(&self, told: u64) -> u64 {
        let mut more = told.saturating_sub(self.count(|state| *state == State::Dropped));
        let mut offset = self.start;
        while more > 0 {
            let state = self.states.get(offset as usize);
            more -=
                u64::from(!matches!(state, Some(State::Acked | State::Dropped | State::Damaged)));
            offset += 1;
        }
        offset
    }

    /// The next message to be delivered.
    pub(super) fn next(&self, end: u64) -> Option<u64> {
        let due = self.first(end, |state| matches!(state, State::Due { .. }));
        due.or_else(|| self.first(end, |state| *state == State::Waiting))
    }

    /// What runs out of time at `now` is due.
    pub(super) fn expire(&mut self, now: Monotonic) {
        for state in &mut self.states {
            match *state {
                State::InFlight { attempt: attempts, deadline, .. } if deadline <= now => {
                    *state = State::Due { attempts };
                    self.figures.timed_out += 1;
                }
                State::Delayed { attempts, due } if due <= now => *state = State::Due { attempts },
                _ => {}
            }
        }
    }

    /// What a consumer had is due.
    pub(super) fn leave(&mut self, id: ConsumerId) {
        for state in &mut self.states {
            match *state {
                State::InFlight { to, attempt: attempts, .. } if to == id => {
                    *state = State::Due { attempts };
                }
                _ => {}
            }
        }
    }

    /// Applies a settlement and says which tags are stale.
    pub(super) fn settle(
        &mut self,
        who: Settling<'_>,
        tags: TagRange,
        verdict: Verdict,
    ) -> Vec<TagRange> {
        let mine = |state: &State| match *state {
            State::InFlight { to, tag, .. } if to == who.by => Some(tag),
            _ => None,
        };
        let mut held: Vec<u64> = self.states.iter().filter_map(mine).collect();
        held.sort_unstable();
        let (mut first, last) = (tags.first.0, tags.last.0);
        if last < first || last == 0 {
            return Vec::new();
        }
        if first == 0 {
            first = held.first().copied().filter(|&oldest| oldest <= last).unwrap_or(last);
        }
        for state in &mut self.states {
            let State::InFlight { to, tag, attempt, delivered, .. } = *state else { continue };
            if to != who.by || tag < first || tag > last {
                continue;
            }
            *state = match verdict {
                Verdict::Ack => State::Acked,
                Verdict::Requeue { delay_ms } => {
                    self.figures.requeued += 1;
                    let delay = Duration::from_millis(delay_ms);
                    let due = who.now.plus(delay.min(who.limits.requeue_delay_max));
                    match delay_ms {
                        0 => State::Due { attempts: attempt },
                        _ => State::Delayed { attempts: attempt, due },
                    }
                }
                Verdict::Touch => {
                    let most = delivered.plus(who.limits.delivery_timeout_max);
                    let deadline = who.now.plus(who.timeout).min(most);
                    State::InFlight { to, tag, attempt, delivered, deadline }
                }
            };
        }
        let mut stale = Vec::new();
        let mut at = first;
        for tag in held.into_iter().filter(|&tag| (first..=last).contains(&tag)) {
            if at < tag {
                stale.push(TagRange { first: Tag(at), last: Tag(tag - 1) });
            }
            at = tag + 1;
        }
        if at <= last {
            stale.push(TagRange { first: Tag(at), last: Tag(last) });
        }
        stale
    }

    /// Counts what a request told too late.
    pub(super) fn count_stale(&mut self, told: &[TagRange], last_tag: u64) {
        let count = |range: &TagRange| {
            (range.last.0.min(last_tag) + 1).saturating_sub(range.first.0.max(1))
        };
        self.figures.stale.0 += union(told).iter().map(count).sum::<u64>();
        self.figures.stale.1 += told.iter().map(count).sum::<u64>();
    }

    pub(super) fn count(&self, which: impl Fn(&State) -> bool) -> u64 {
        let from = (self.start as usize).min(self.states.len());
        self.states[from..].iter().filter(|state| which(state)).count() as u64
    }

    /// What users are told of it, the log ending at `end`, is so.
    pub(super) fn check(&self, told: &ChannelStats, end: u64, discarded: &BTreeSet<u64>) {
        let delayed = self.count(|state| matches!(state, State::Delayed { .. }));
        let in_flight = self.count(|state| matches!(state, State::InFlight { .. }));
        let acked = self.count(|state| *state == State::Acked);
        let dropped = self.count(|state| *state == State::Dropped);
        let damaged = self.count(|state| *state == State::Damaged);
        let all = end.saturating_sub(self.start);
        // What was discarded before this channel was made is done once it comes to it.
        let passed = told.acked.saturating_sub(acked);
        let not_dropped = dropped.saturating_sub(told.dropped);
        let most = discarded.len() as u64;
        assert!(passed <= most && not_dropped <= passed, "{told:?} {passed} {not_dropped}");
        let (acked, dropped) = (acked + passed, dropped - not_dropped);
        let waiting = all - delayed - in_flight - acked - dropped - damaged;
        let ours = (self.start, waiting, delayed, in_flight, acked, damaged, dropped);
        let theirs = (
            told.start.0,
            told.waiting,
            told.delayed,
            told.in_flight,
            told.acked,
            told.damaged,
            told.dropped,
        );
        if self.cut {
            let done = told.acked + told.dropped;
            assert_eq!(done, acked + dropped, "promise 13: {told:?}");
        } else {
            assert_eq!(theirs, ours, "promise 13: {told:?}");
        }
        let figures = Figures {
            delivered: told.delivered,
            redelivered: told.redelivered,
            requeued: told.requeued,
            timed_out: told.timed_out,
            ..self.figures
        };
        assert_eq!(figures, self.figures, "promise 13: figures of {told:?}");
        let (least, most) = self.figures.stale;
        assert!(
            least <= told.stale && told.stale <= most,
            "promise 13: {:?} {told:?}",
            least..most
        );
    }

    /// Whether it came through a clean restart as `before`; the node stopped at `then`.
    pub(super) fn is_as_kept(
        &self,
        before: &Self,
        then: Now,
        now: Now,
        discarded: &BTreeSet<u64>,
    ) -> bool {
        let away = now.wall.since(then.wall);
        let kept = |before: State, after: State| match (before, after) {
            (State::Delayed { attempts, due }, State::Delayed { attempts: kept, due: after }) => {
                // Promise 14: stored times are in milliseconds, rounded so that none ends early.
                let left = due.since(then.monotonic).saturating_sub(away);
                attempts == kept && after.since(now.monotonic) >= left
            }
            (State::Delayed { attempts, due }, State::Due { attempts: kept }) => {
                attempts == kept && due.since(then.monotonic) <= away
            }
            // What a limit is to remove may be removed only after the restart.
            (before, State::Dropped) => before != State::Acked,
            (before, after) => before == after,
        };
        // What was discarded before the channel came to it may be passed over or dropped: it is gone.
        let gone = |offset: u64, state: State| {
            discarded.contains(&offset)
                && matches!(state, State::Waiting | State::Acked | State::Dropped)
        };
        let mut after = self.clone();
        let states = (before.start..).zip(before.states.iter().skip(before.start as usize));
        self.start == before.start
            && states.into_iter().all(|(offset, &state)| {
                let after = *after.at(offset);
                kept(state, after) || gone(offset, state) && gone(offset, after)
            })
    }

    /// As it is read back at `now` when it was stored at `then`.
    pub(super) fn restored(&self, then: Now, now: Now, len: usize, limits: &ModelSettings) -> Self {
        let state = |state: &State| after_restart(*state, then, now, limits);
        let states = self.states.iter().take(len).map(state).collect();
        let lost = self.states.get(len..).unwrap_or_default();
        let cut = self.cut || lost.contains(&State::Dropped);
        Self { start: self.start.min(len as u64), states, figures: Figures::default(), cut }
    }

    /// The next moment at which something must happen.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let deadline = |state: &State| match *state {
            State::InFlight { deadline, .. } => Some(deadline),
            State::Delayed { due, .. } => Some(due),
            _ => None,
        };
        self.states.iter().filter_map(deadline).min()
    }

    /// Whether nothing from here on was ever delivered or done.
    pub(super) fn is_new(&self, offset: u64) -> bool {
        let known = self.states.get(offset as usize..).unwrap_or_default();
        known.iter().all(|state| *state == State::Waiting)
    }

    /// How many runs of unlike fate there are at the very least.
    pub(super) fn runs_at_least(&self) -> usize {
        let fates: Vec<_> = self.above().map(|state| Fate::of(*state)).collect();
        fates.chunk_by(|one, next| one == next).filter(|run| run[0] != Fate::Waiting).count()
    }

    /// How many runs there are at the very most: what is done next to each other is one, and everything
    /// else may be one each.
    fn runs_at_most(&self) -> usize {
        let fates: Vec<_> = self.above().map(|state| Fate::of(*state)).collect();
        let runs = fates.chunk_by(|one, next| one == next).map(|run| match run[0] {
            Fate::Waiting => 0,
            Fate::Done => 1,
            _ => run.len(),
        });
        runs.sum()
    }

    /// The messages above the floor.
    fn above(&self) -> impl Iterator<Item = &State> {
        let states = self.states.get(self.start as usize..).unwrap_or_default();
        let done = |state: &&State| matches!(state, State::Acked | State::Dropped | State::Damaged);
        states.iter().skip_while(done)
    }

    /// Whether it may have so many runs that it delivers nothing new, and nothing else is due.
    pub(super) fn may_be_full(&self, limits: &ModelSettings, discarded: &BTreeSet<u64>) -> bool {
        let due = |state: &State| matches!(state, State::Due { .. });
        if self.states.iter().any(due) {
            return false;
        }
        // Looking for the next message it has passed over what was discarded before it.
        let mut passed = self.clone();
        let waits = |offset: &u64| {
            matches!(self.states.get(*offset as usize), None | Some(State::Waiting))
                && !discarded.contains(offset)
        };
        let next = (self.start..).find(waits).unwrap_or(self.start);
        passed.pass_over(next, discarded);
        passed.runs_at_most() >= limits.channel_runs_max
    }

    fn first(&self, end: u64, which: impl Fn(&State) -> bool) -> Option<u64> {
        (self.start..end)
            .find(|&offset| which(self.states.get(offset as usize).unwrap_or(&State::Waiting)))
    }
}

/// What messages of one run have in common, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Due(u32),
    Delayed(u32, Monotonic),
    InFlight(ConsumerId, u32),
    Done,
}

impl Fate {
    const fn of(state: State) -> Self {
        match state {
            State::Waiting => Self::Waiting,
            State::Due { attempts } => Self::Due(attempts),
            State::Delayed { attempts, due } => Self::Delayed(attempts, due),
            State::InFlight { to, attempt, .. } => Self::InFlight(to, attempt),
            State::Acked | State::Dropped | State::Damaged => Self::Done,
        }
    }
}

/// What a stored state has become when it is read back.
fn after_restart(state: State, then: Now, now: Now, limits: &ModelSettings) -> State {
    match state {
        State::InFlight { attempt: attempts, .. } => State::Due { attempts },
        State::Delayed { attempts, due } => {
            let left = due.since(then.monotonic).as_micros().div_ceil(1_000) as u64;
            let left = Timestamp(then.wall.0 + left).since(now.wall).min(limits.requeue_delay_max);
            match left.is_zero() {
                true => State::Due { attempts },
                false => State::Delayed { attempts, due: now.monotonic.plus(left) },
            }
        }
        other => other,
    }
}

/// The same tags in order, each once.
pub(super) fn union(ranges: &[TagRange]) -> Vec<TagRange> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable_by_key(|range| (range.first, range.last));
    let mut joined: Vec<TagRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.first.0 <= last.last.0.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => joined.push(range),
        }
    }
    joined
}
