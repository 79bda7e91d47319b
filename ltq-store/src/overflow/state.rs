//! What readers see of the store, beyond what the back store says by itself.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use ltq_core::{Bounds, LogInfo, LogName, LogOptions, Offset};

/// The part of the truth that neither store holds alone.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The logs that are not durable.
    pub(super) volatile: BTreeMap<LogName, Volatile>,
    /// Of durable logs, what the front holds a copy of.
    pub(super) cached: HashMap<LogName, Cached>,
    /// Logs that a commit is at work on.
    pub(super) busy: HashSet<LogName>,
    /// What the back store shows already, or is about to, of batches that are not to be seen yet:
    /// the durable logs and values that they change, as they were.
    pub(super) masked_logs: BTreeMap<LogName, Option<LogInfo>>,
    pub(super) masked_values: BTreeMap<Bytes, Masked>,
    /// Why nothing is taken any more.
    pub(super) failure: Option<String>,
    pub(super) closed: bool,
}

/// A log that is not durable: the back store holds what is older than `split`, the front the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Volatile {
    pub(super) options: LogOptions,
    pub(super) bounds: Bounds,
    /// From here on records are in the front.
    pub(super) split: Offset,
    /// Where the back store's log ends: at `split`, or before it where the records between were
    /// truncated without ever getting there.
    pub(super) back_end: Offset,
    /// Whether the front has a log of this name.
    pub(super) in_front: bool,
    /// What its records in the front take, about.
    pub(super) front_bytes: u64,
}

/// A stretch of a durable log of which the front holds a copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached {
    pub(super) from: Offset,
    pub(super) end: Offset,
    pub(super) bytes: u64,
}

/// A value as it was before a batch that is not to be seen yet.
#[derive(Debug)]
pub(super) struct Masked {
    pub(super) value: Option<Bytes>,
    /// Which batch will show it.
    pub(super) batch: u64,
}

impl Volatile {
    pub(super) fn new(options: LogOptions, first: Offset) -> Self {
        Self {
            options,
            bounds: Bounds { first, end: first },
            split: first,
            back_end: first,
            in_front: false,
            front_bytes: 0,
        }
    }

    pub(super) fn info(&self, log: &LogName) -> LogInfo {
        LogInfo { log: log.clone(), options: self.options, bounds: self.bounds }
    }

    /// Notes that the front's records before `before` are gone from it.
    pub(super) fn left_front(&mut self, before: Offset) {
        let before = before.clamp(self.split, self.bounds.end);
        self.front_bytes = share_left(self.front_bytes, self.split, before, self.bounds.end);
        self.split = before;
    }
}

impl Cached {
    /// Notes that the copies before `before` are gone.
    pub(super) fn left_front(&mut self, before: Offset) {
        let before = before.clamp(self.from, self.end);
        self.bytes = share_left(self.bytes, self.from, before, self.end);
        self.from = before;
    }
}

/// What is left of `bytes`, spread over `from..end`, once those before `before` are gone.
fn share_left(bytes: u64, from: Offset, before: Offset, end: Offset) -> u64 {
    let (all, left) = (end.since(from), end.since(before));
    if all == 0 {
        return 0;
    }
    let left = u128::from(bytes) * u128::from(left) / u128::from(all);
    u64::try_from(left).unwrap_or(bytes)
}
