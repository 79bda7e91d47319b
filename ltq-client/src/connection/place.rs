//! On which lane a producer or subscription is.

use std::sync::atomic::{AtomicU32, Ordering};

/// One of the lanes of a connection. Numbers of lanes that are over are given out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LaneNumber(pub(super) u32);

impl LaneNumber {
    /// The one that the connection began with.
    pub(super) const FIRST: Self = Self(0);
}

/// Where a producer or subscription is on the connection that is up, if it is anywhere. Only the
/// connection's task, and who sends alone in its stead, look at it: under one lock.
#[derive(Debug)]
pub(crate) struct Place(AtomicU32);

impl Place {
    pub(crate) const fn nowhere() -> Self {
        Self(AtomicU32::new(NOWHERE))
    }

    pub(super) fn get(&self) -> Option<LaneNumber> {
        Some(self.0.load(Ordering::Relaxed)).filter(|number| *number != NOWHERE).map(LaneNumber)
    }

    pub(super) fn set(&self, lane: LaneNumber) {
        self.0.store(lane.0, Ordering::Relaxed);
    }

    /// The connection is gone.
    pub(super) fn clear(&self) {
        self.0.store(NOWHERE, Ordering::Relaxed);
    }
}

/// More lanes than there can be.
const NOWHERE: u32 = u32::MAX;
