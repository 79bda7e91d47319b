//! What goes wrong.

use std::fmt;

/// Something that goes wrong in a simulation. All of it does, unless it is left out with
/// [`Simulation::without`](crate::Simulation::without).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Trouble {
    /// The network delays, stalls, cuts connections and single streams of them, ends one direction of
    /// them, falls silent, refuses or never answers who connects, and delivers in pieces.
    BadWeather,
    /// The node's process is killed, at any point of what it does, and started again.
    Kill,
    /// The node's machine loses its power, the same, and the disk what was not synced, whole or in part.
    PowerCut,
    /// The node is killed, loses its power or its disk stops while it starts, or soon after, several
    /// times in a row. Left out together with any of the three.
    DiesStarting,
    /// The disk stops in the middle of something, and then the power goes.
    DiskStops,
    /// The node is stopped as an operator does, or killed before that is done, and started again.
    Stop,
    /// The wall clock jumps, ahead or back, while the node is there or not.
    ClockJumps,
    /// The disk is full for a while, or the process has too few descriptors for files.
    DiskFull,
    /// A sync fails, and what it was for is gone; the node is started again.
    SyncFails,
    /// Reads fail for a while, or those of one sector until the disk is mended; the node may have to start
    /// meanwhile.
    ReadsFail,
    /// Writes, syncs and changes of names fail now and then; the node is started again.
    WritesFail,
    /// The disk takes up to two seconds for whatever is asked of it, for a while.
    DiskSlow,
    /// While the node is away, or while it is there, bits flip, or sectors are lost or misplaced.
    Damage,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadWeather => "the weather changes",
            Self::Kill => "the node is killed",
            Self::PowerCut => "the node loses its power",
            Self::DiesStarting => "the node dies, and again while it starts",
            Self::DiskStops => "the disk stops, and then the power goes",
            Self::Stop => "the node is stopped",
            Self::ClockJumps => "clocks jump",
            Self::DiskFull => "the disk is full",
            Self::SyncFails => "a sync fails",
            Self::ReadsFail => "reads fail",
            Self::WritesFail => "writes fail",
            Self::DiskSlow => "the disk is slow",
            Self::Damage => "the disk is damaged",
        })
    }
}
