//! What the store keeps of a topic besides its log: a version byte and a postcard value each.
//!
//! Runs are written as distances from one to the next, so that most take two or three bytes.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::{
    SequenceRange,
    channel::Channel,
    in_flight::Returned,
    run_set::{Run, RunSet},
    settings::ModelSettings,
};
use crate::{
    Bounds, ChannelName, Durability, Now, Offset, Timestamp, TopicSettings, VALUE_BYTES_MAX,
};

/// Why what the store holds is not a topic.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// The topic's own value is missing.
    #[error("topic {0} has a log or channels in the store, but no settings")]
    NoTopic(String),
    /// A key that is not one of this topic's.
    #[error("key {key:?} does not belong to topic {topic}")]
    ForeignKey {
        /// The topic being restored.
        topic: String,
        /// The key, as text as far as it is text.
        key: String,
    },
    /// A value of a format that this version does not know.
    #[error("the value of {key:?} has format {found}, and this version reads format {VERSION}")]
    Version {
        /// Its key.
        key: String,
        /// The version found; 0 for an empty value.
        found: u8,
    },
    /// A value that does not decode, or contradicts itself.
    #[error("the value of {key:?} cannot be read: {why}")]
    Value {
        /// Its key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The topic itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TopicState {
    pub(super) settings: TopicSettings,
    pub(super) paused: bool,
}

/// A named producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProducerState {
    pub(super) epoch: u64,
    /// The sequence of its last stored message.
    pub(super) last: u64,
    /// Its last stored messages.
    pub(super) range: Option<SequenceRange>,
    /// When it was last in use.
    pub(super) used: Timestamp,
    /// The least durable of its stored messages.
    pub(super) durability: Durability,
}

impl ProducerState {
    /// Whether messages that it speaks of are gone with the end of their log, as after a kill where
    /// messages need not last. Nobody knows then which of the earlier ones are, so that none of its
    /// repeats may be taken for stored.
    pub(super) fn is_ahead_of(&self, bounds: Bounds) -> bool {
        self.range.is_some_and(|range| {
            range.offset.is_some_and(|first| first.plus(range.count) > bounds.end)
        })
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct ChannelState {
    start: Offset,
    floor: Offset,
    paused: bool,
    damaged: u64,
    dropped: u64,
    delayed: Vec<DelayedRun>,
    returned: Vec<ReturnedRun>,
    done: Vec<DoneRun>,
}

/// How far behind the end of the one before, and how long.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct DoneRun(u64, u64);
/// The same, and how often it was delivered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct ReturnedRun(u64, u64, u32);
/// The same, and when it is due.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct DelayedRun(u64, u64, u32, Timestamp);

/// Encodes a value.
pub(super) fn encode<T: Serialize>(value: &T) -> Bytes {
    // Writing to a growing vector cannot fail, and no type here has a fallible encoder.
    postcard::to_extend(value, vec![VERSION]).unwrap_or_default().into()
}

/// Decodes the value of `key`.
pub(super) fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, RestoreError> {
    let key = || String::from_utf8_lossy(key).into_owned();
    match value.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body)
            .map_err(|error| RestoreError::Value { key: key(), why: error.to_string() }),
        other => {
            let found = other.map_or(0, |(&version, _)| version);
            Err(RestoreError::Version { key: key(), found })
        }
    }
}

/// Encodes what must be remembered of a channel.
pub(super) fn encode_channel(channel: &Channel, now: Now) -> Bytes {
    let mut room = STATE_RUNS_MAX;
    let mut delayed: Vec<_> = channel.redelivery.delayed().take(room).collect();
    room -= delayed.len();
    delayed.sort_unstable_by_key(|(returned, _)| returned.run.first);
    let mut returned: Vec<_> =
        channel.in_flight.iter().chain(channel.redelivery.due()).take(room).collect();
    room -= returned.len();
    returned.sort_unstable_by_key(|returned| returned.run.first);
    returned.dedup_by(|next, before| {
        let joined = before.run.end == next.run.first && before.attempt == next.attempt;
        if joined {
            before.run.end = next.run.end;
        }
        joined
    });

    let mut state = ChannelState {
        start: channel.start,
        floor: channel.floor,
        paused: channel.paused,
        damaged: channel.damaged,
        dropped: channel.dropped,
        ..ChannelState::default()
    };
    let mut at = channel.floor;
    state.delayed.extend(delayed.into_iter().map(|(returned, due)| {
        let (gap, len) = step(&mut at, returned.run);
        // The wall clock may have stepped since the delay began: what counts is what is left.
        DelayedRun(gap, len, returned.attempt, now.wall.plus(ceil_ms(due.since(now.monotonic))))
    }));
    at = channel.floor;
    state.returned.extend(returned.into_iter().map(|returned| {
        let (gap, len) = step(&mut at, returned.run);
        ReturnedRun(gap, len, returned.attempt)
    }));
    at = channel.floor;
    state.done.extend(channel.done.iter().take(room).map(|run| {
        let (gap, len) = step(&mut at, run);
        DoneRun(gap, len)
    }));
    encode(&state)
}

/// Restores a channel, what was in flight being due now. What lies behind the end of `bounds` was
/// never published as far as anyone can tell; what lies before their start stays, and is found to
/// be lost when it would be delivered.
pub(super) fn decode_channel(
    name: ChannelName,
    key: &[u8],
    value: &[u8],
    bounds: Bounds,
    settings: &ModelSettings,
    now: Now,
) -> Result<Channel, RestoreError> {
    let state: ChannelState = decode(key, value)?;
    let broken = |why: &str| RestoreError::Value {
        key: String::from_utf8_lossy(key).into_owned(),
        why: why.to_owned(),
    };
    let all_done = state.floor.since(state.start).saturating_add(done(&state));
    if state.floor < state.start || state.damaged.saturating_add(state.dropped) > all_done {
        return Err(broken("its floor, or its count of damaged or dropped messages is impossible"));
    }
    let start = state.start.min(bounds.end);
    let mut channel = Channel::new(name, start);
    channel.paused = state.paused;
    channel.floor = state.floor.min(bounds.end);

    let kept = Run::new(channel.floor, bounds.end);
    let mut taken = RunSet::default();
    let mut place = |at: &mut Offset, gap: u64, len: u64| {
        let first = at.0.checked_add(gap).filter(|_| len > 0);
        let end = first.and_then(|first| first.checked_add(len));
        let (Some(first), Some(end)) = (first, end) else {
            return Err(broken("a run is empty or ends beyond all offsets"));
        };
        *at = Offset(end);
        let run = Run::new(Offset(first), Offset(end)).within(kept);
        if taken.insert(run) != run.len() {
            return Err(broken("a message is in two states at once"));
        }
        Ok(run)
    };

    let mut at = state.floor;
    for DelayedRun(gap, len, attempt, due) in state.delayed {
        let run = place(&mut at, gap, len)?;
        // No delay was longer than this, whatever the wall clock says now.
        let left = due.since(now.wall).min(settings.requeue_delay_max);
        match run.is_empty() {
            true => {}
            false if left.is_zero() => {
                channel.redelivery.give_back(Returned { run, attempt });
                // It has ended, whatever the wall clock says at the next start.
                channel.put.changed = true;
            }
            false => {
                channel.redelivery.delay(Returned { run, attempt }, now.monotonic.plus(left));
            }
        }
    }
    at = state.floor;
    for ReturnedRun(gap, len, attempt) in state.returned {
        let run = place(&mut at, gap, len)?;
        if !run.is_empty() {
            channel.redelivery.give_back(Returned { run, attempt });
        }
    }
    at = state.floor;
    for DoneRun(gap, len) in state.done {
        channel.done.insert(place(&mut at, gap, len)?);
    }

    let last = taken.iter().last().map_or(channel.floor, |run| run.end);
    channel.cursor = last;
    for run in taken.gaps(Run::new(channel.floor, last)) {
        channel.redelivery.give_back(Returned { run, attempt: 0 });
    }
    while let Some(run) = channel.done.pop_at_or_below(channel.floor) {
        channel.floor = channel.floor.max(run.end);
    }
    let all_done = channel.floor.since(start) + channel.done.count();
    channel.damaged = state.damaged.min(all_done);
    channel.dropped = state.dropped.min(all_done - channel.damaged);
    channel.put.floor = channel.floor;
    Ok(channel)
}

/// The offset behind the last message that a channel's state speaks of.
pub(super) fn channel_end(key: &[u8], value: &[u8]) -> Result<Offset, RestoreError> {
    let state: ChannelState = decode(key, value)?;
    let behind = |runs: &mut dyn Iterator<Item = (u64, u64)>| {
        runs.fold(state.floor, |at, (gap, len)| at.plus(gap).plus(len))
    };
    let delayed = behind(&mut state.delayed.iter().map(|run| (run.0, run.1)));
    let returned = behind(&mut state.returned.iter().map(|run| (run.0, run.1)));
    let done = behind(&mut state.done.iter().map(|run| (run.0, run.1)));
    Ok(delayed.max(returned).max(done))
}

fn done(state: &ChannelState) -> u64 {
    state.done.iter().fold(0, |sum, run| sum.saturating_add(run.1))
}

/// How far `run` is from `at` and how long it is; moves `at` to its end.
fn step(at: &mut Offset, run: Run) -> (u64, u64) {
    let gap = run.first.since(*at);
    *at = run.end;
    (gap, run.len())
}

fn ceil_ms(duration: std::time::Duration) -> std::time::Duration {
    let millis = duration.as_micros().div_ceil(1_000);
    std::time::Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// The format of all values.
const VERSION: u8 = 2;

/// The most runs in one channel's state, so that the largest fits into a value: delays first,
/// then attempts, then acks. What does not fit is delivered again after a restart. Far beyond
/// [`ModelSettings::channel_runs_max`] unless consumers split runs on purpose.
const STATE_RUNS_MAX: usize = 400_000;
/// Three varints of ten bytes and one of five.
const RUN_BYTES_MAX: usize = 35;
const _: () = assert!(STATE_RUNS_MAX * RUN_BYTES_MAX + 100 < VALUE_BYTES_MAX);

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
