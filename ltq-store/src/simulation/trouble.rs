//! What goes wrong with a disk, and when; and who gets on while it is busy.

use std::{fmt, io, sync::Arc};

/// Random numbers from a seed: the same again for the same one.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number, of 48 bits.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// One of the numbers below `limit`; 0 when that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// Yes once in `count` times; always when that is 0 or 1.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What goes wrong by chance: one in so many of each kind; none where it is 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Reads that fail. Others then bring less than was asked for, too.
    pub reads: u64,
    /// Writes that fail, or find no room.
    pub writes: u64,
    /// Syncs that fail, or find no room: what they were for is not durable, and counts as clean.
    pub syncs: u64,
    /// Changes of names that fail, after which nothing can be changed any more.
    pub names: u64,
}

/// What goes wrong, and what did.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) faults: Faults,
    pub(super) chance: Chance,
    /// Whether the file system has stopped changing anything.
    pub(super) stopped: bool,
    /// Whether anything was written that the disk will never have.
    pub(super) forgot: bool,
}

impl Default for Trouble {
    fn default() -> Self {
        Self { faults: Faults::default(), chance: Chance::new(0), stopped: false, forgot: false }
    }
}

impl Trouble {
    pub(super) fn read(&mut self) -> bool {
        self.faults.reads > 0 && self.chance.one_in(self.faults.reads)
    }

    /// Whether a read brings less than was asked for.
    pub(super) fn is_short(&mut self) -> bool {
        self.faults.reads > 0 && self.chance.one_in(8)
    }

    pub(super) fn write(&mut self) -> Option<io::Error> {
        (self.faults.writes > 0 && self.chance.one_in(self.faults.writes)).then(|| self.error())
    }

    pub(super) fn sync(&mut self) -> Option<io::Error> {
        (self.faults.syncs > 0 && self.chance.one_in(self.faults.syncs)).then(|| self.error())
    }

    pub(super) fn name(&mut self) -> Option<io::Error> {
        (self.faults.names > 0 && self.chance.one_in(self.faults.names)).then(broken)
    }

    fn error(&mut self) -> io::Error {
        match self.chance.below(6) {
            0 => io::ErrorKind::StorageFull.into(),
            1 => io::ErrorKind::QuotaExceeded.into(),
            _ => broken(),
        }
    }
}

/// How a disk failed whoever uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFailure {
    /// Nothing more could be opened.
    Open,
    /// A read brought nothing.
    Read,
    /// A write, or a change of a length, was not done, or in part.
    Write,
    /// There was no room for a write.
    NoRoom,
    /// A sync failed, and what it was for counts as clean.
    Sync,
    /// A name was not changed, and nothing is any more.
    Name,
    /// The operation of [`crash_at`](super::SimulatedDisk::crash_at) was reached: nothing is changed
    /// any more.
    Stopped,
}

impl fmt::Display for DiskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "an attempt to open a file, for want of descriptors",
            Self::Read => "a read",
            Self::Write => "a write",
            Self::NoRoom => "a write, for want of room",
            Self::Sync => "a sync",
            Self::Name => "a change of names, and all changes from now on",
            Self::Stopped => "all changes from now on",
        })
    }
}

/// Whoever is told of failures.
#[derive(Clone)]
pub(super) struct Told(pub(super) Arc<dyn Fn(DiskFailure) + Send + Sync>);

impl fmt::Debug for Told {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Told")
    }
}

/// The error of a device that fails.
pub(super) fn broken() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

/// Who gets on while the disk is busy.
#[derive(Clone)]
pub(super) struct Others(pub(super) Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Others {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Others")
    }
}
