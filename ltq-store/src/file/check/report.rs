//! What a check found.

use bytes::Bytes;
use ltq_core::{LogInfo, LogName, Offset, StoreError};

/// What [`FileStore::check`](super::super::FileStore::check) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// All files of the store, in the order in which they were read.
    pub files: Vec<CheckedFile>,
    /// What is wrong, in the order in which it was found.
    pub damage: Vec<Damage>,
    /// Records that were found lost earlier and are noted as that in the store: reading them is
    /// answered with [`StoreError::Damaged`]. No file is wrong for it.
    pub known_losses: Vec<KnownLoss>,
    /// Why the store would not open, where that is so. What could not be reached then was not
    /// checked.
    pub refused: Option<StoreError>,
    /// Where the journal ends in something that is either the torn end of a write that was never
    /// confirmed to be on the device, or damage to it; nothing can tell: the file, and where the
    /// entry begins. It was not counted as damage.
    pub torn_end: Option<(String, u64)>,
    /// Whether the store was closed in order. Without that, a file may end in what was never
    /// confirmed.
    pub closed_in_order: bool,
    /// The logs, ordered by name, as an opening would find them.
    pub logs: Vec<LogInfo>,
    /// The values, ordered by key, as an opening would find them.
    pub values: Vec<(Bytes, Bytes)>,
    /// Records whose checksums are right: in segments, and in the journal where they are not in
    /// segments yet.
    pub records: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty() && self.refused.is_none()
    }

    /// Bytes of all files; and of these, bytes that hold something, all of which were verified.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        self.files
            .iter()
            .fold((0, 0), |(all, checked), file| (all + file.bytes, checked + file.checked))
    }

    /// Records that are lost by the damage, as far as they are known by offset.
    #[must_use]
    pub fn lost_records(&self) -> u64 {
        let lost = |damage: &Damage| match &damage.loss {
            Loss::Records { from, until, .. } => until.since(*from),
            _ => 0,
        };
        self.damage.iter().map(lost).sum()
    }
}

/// A file of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedFile {
    /// Its path below the store's directory.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// How long it is.
    pub bytes: u64,
    /// How much of it, from its beginning, holds something: all of that was verified. What comes
    /// behind is room that was not used, or is not any more.
    pub checked: u64,
}

/// What a file of a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// Says that the directory is a store, and which.
    Identity,
    /// One of the two copies of everything but the records.
    Checkpoint,
    /// A file of the journal that is still needed.
    Journal,
    /// A file of records of one log.
    Segment,
    /// A file that nothing needs any more; the next opening removes it, or does not mind it.
    Superfluous,
}

impl FileKind {
    /// In one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Checkpoint => "checkpoint",
            Self::Journal => "journal",
            Self::Segment => "segment",
            Self::Superfluous => "superfluous",
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file's path below the store's directory.
    pub file: String,
    /// The byte of the file where it begins.
    pub position: u64,
    /// What is wrong there.
    pub what: String,
    /// What it costs.
    pub loss: Loss,
}

/// What damage costs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// Nothing: the same stands elsewhere, or nothing needs it.
    Nothing,
    /// Records of a log.
    Records {
        /// The log.
        log: LogName,
        /// The first that is lost.
        from: Offset,
        /// The first behind that is not.
        until: Offset,
    },
    /// Changes of so many values, whose keys are not known.
    Values(u64),
    /// So many batches of the journal, whatever they held. The records among them are told
    /// separately, as far as later ones show that they are missing.
    Batches(u64),
    /// Whatever the file held and nothing else tells. What of it is known to be missing is told
    /// separately.
    Unknown,
}

/// Records that are known to be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownLoss {
    /// The log.
    pub log: LogName,
    /// The first that is lost.
    pub from: Offset,
    /// The first behind that is not.
    pub until: Offset,
    /// The file in which they stood, as it was called then.
    pub file: String,
    /// Where in it.
    pub position: u64,
    /// What was wrong there.
    pub what: String,
}

/// How far a check has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckProgress<'a> {
    /// Bytes that were looked at.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
    /// The file that is being read, by its path below the store's directory.
    pub file: &'a str,
}

/// What [`FileStore::repair`](super::super::FileStore::repair) did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// What was wrong.
    pub report: CheckReport,
    /// The files that were set aside, by their paths below the store's directory; copies of them
    /// are in the folder under the same paths.
    pub set_aside: Vec<String>,
}
