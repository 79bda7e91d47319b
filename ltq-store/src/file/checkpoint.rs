//! Checkpoints: everything but the records, as of one place in the journal.
//!
//! ```text
//! byte  0  header       64   see `format`; its number counts checkpoints
//!      64  len          u64
//!      72  crc          u32  CRC-32C of the content
//!      76  content      len  postcard of `Snapshot`
//! ```
//!
//! There are two files of the same content, so that damage to one of them costs nothing. Each is
//! written beside its name, synced, and renamed, one after the other, before any file goes that
//! the checkpoint before needs.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use ltq_core::{LogName, LogOptions, Offset, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    filesystem::{FileSystem, OpenMode, StoreFile, read_up_to},
    format::{FileHeader, HEADER_BYTES, HeaderError, Kind, StoreId},
    identity::why_other,
    log::{Hole, Log, Segment},
};

/// The names of the two files.
pub(super) const CHECKPOINT_NAMES: [&str; 2] = ["checkpoint-0", "checkpoint-1"];
/// The name under which either is written.
pub(super) const CHECKPOINT_TEMPORARY: &str = "checkpoint-new";

/// What a checkpoint holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// Counts checkpoints.
    pub(super) number: u64,
    /// The first journal file that is still needed, and the first entry in it.
    pub(super) file: u64,
    /// The newest journal file with entries in it.
    pub(super) newest: u64,
    pub(super) sequence: u64,
    /// The last entry whose changes, apart from records, are all in here.
    pub(super) applied: u64,
    pub(super) next_log_id: u64,
    pub(super) logs: Vec<LogSnapshot>,
    pub(super) values: Vec<(Bytes, Bytes)>,
}

/// A log in a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LogSnapshot {
    pub(super) log: LogName,
    id: u64,
    options: LogOptions,
    first: Offset,
    /// Up to where its records are in segments.
    spilled_end: Offset,
    segments: Vec<SegmentSnapshot>,
    holes: Vec<(Offset, Offset, String, u64, String)>,
    /// Stretches that were discarded.
    discarded: Vec<(Offset, Offset)>,
}

/// A segment in a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
struct SegmentSnapshot {
    first: Offset,
    end: Offset,
    rewrite: u32,
    bytes: u64,
    time_max: Timestamp,
}

impl LogSnapshot {
    pub(super) fn of(name: &LogName, log: &Log) -> Self {
        let segments = log.segments.iter();
        let holes = log.holes.iter();
        Self {
            log: name.clone(),
            id: log.id,
            options: log.options,
            first: log.bounds.first,
            spilled_end: log.spilled_end,
            segments: segments
                .map(|&Segment { first, end, rewrite, bytes, time_max, .. }| SegmentSnapshot {
                    first,
                    end,
                    rewrite,
                    bytes,
                    time_max,
                })
                .collect(),
            holes: holes
                .map(|it| {
                    let (file, what) = (it.file.as_ref().into(), it.what.as_ref().into());
                    (it.from, it.until, file, it.position, what)
                })
                .collect(),
            discarded: log.discarded.iter().map(|it| (it.start, it.end)).collect(),
        }
    }

    /// The log as it was; what of it was not in segments is missing at its end.
    pub(super) fn restore(self) -> (LogName, Log) {
        let mut log = Log::new(self.id, self.options, self.first);
        log.segments = self
            .segments
            .into_iter()
            .map(|SegmentSnapshot { first, end, rewrite, bytes, time_max }| Segment {
                first,
                end,
                rewrite,
                bytes,
                time_max,
                index: None,
            })
            .collect();
        log.spilled_end = self.spilled_end.max(self.first);
        log.bounds.end = log.spilled_end;
        for (from, until, file, position, what) in self.holes {
            let (file, what) = (Arc::from(file), Arc::from(what));
            log.push_hole(Hole { from, until, file, position, what });
        }
        for (from, until) in self.discarded {
            log.discarded.insert(from..until);
        }
        (self.log, log)
    }
}

/// Writes both files. Returns how many bytes they take.
pub(super) fn write(
    files: &dyn FileSystem,
    dir: &Path,
    store: StoreId,
    snapshot: &Snapshot,
) -> io::Result<u64> {
    let content = postcard::to_extend(snapshot, Vec::new()).map_err(io::Error::other)?;
    let header =
        FileHeader { number: snapshot.number, ..FileHeader::new(Kind::Checkpoint, store) }.encode();
    let len = (content.len() as u64).to_le_bytes();
    let crc = crc32c::crc32c(&content).to_le_bytes();
    let parts = [&header[..], &len, &crc, &content].map(IoSlice::new);
    let temporary = dir.join(CHECKPOINT_TEMPORARY);
    for name in CHECKPOINT_NAMES {
        let written = files.open(&temporary, OpenMode::Create).and_then(|file| {
            file.set_len(0)?;
            file.write_all_at(&parts, 0)?;
            file.sync()
        });
        if written.is_err() {
            let _ = files.remove(&temporary);
        }
        written?;
        files.rename(&temporary, &dir.join(name))?;
        files.sync_dir(dir)?;
    }
    Ok(2 * (CONTENT_AT + content.len()) as u64)
}

/// What was found under the two names.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// The newest whole one.
    pub(super) snapshot: Option<Snapshot>,
    /// What is wrong with the others.
    pub(super) damaged: Vec<(PathBuf, &'static str)>,
    /// Whether one belongs to another store, or is of a newer format.
    pub(super) refused: Option<(PathBuf, String)>,
    /// Bytes that they take.
    pub(super) bytes: u64,
}

/// Reads both files.
pub(super) fn load(files: &dyn FileSystem, dir: &Path, store: StoreId) -> io::Result<Loaded> {
    let mut loaded = Loaded::default();
    for name in CHECKPOINT_NAMES {
        let path = dir.join(name);
        let file = match files.open(&path, OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        loaded.bytes += file.size()?;
        match decode(&*file, store)? {
            Ok(snapshot) => {
                let newest = loaded.snapshot.as_ref().map_or(0, |newest| newest.number);
                if snapshot.number > newest {
                    loaded.snapshot = Some(snapshot);
                }
            }
            Err(Unreadable::Damaged(what)) => loaded.damaged.push((path, what)),
            Err(Unreadable::Refused(why)) => loaded.refused = Some((path, why)),
        }
    }
    Ok(loaded)
}

enum Unreadable {
    Damaged(&'static str),
    Refused(String),
}

type Decoded = Result<Snapshot, Unreadable>;

/// Reads one file, and no more of it than it says that it has.
fn decode(file: &dyn StoreFile, store: StoreId) -> io::Result<Decoded> {
    let mut front = [0; CONTENT_AT];
    let read = read_up_to(file, &mut front, 0)?;
    let front = front.get(..read).unwrap_or_default();
    if let Err(unreadable) = check_header(front, store) {
        return Ok(Err(unreadable));
    }
    let content_bytes = file.size()?.saturating_sub(CONTENT_AT as u64);
    let (len, crc) =
        front.get(HEADER_BYTES..).unwrap_or_default().split_at_checked(8).unwrap_or_default();
    if len != content_bytes.to_le_bytes() {
        return Ok(Err(Unreadable::Damaged("its length is wrong")));
    }
    let mut content = vec![0; usize::try_from(content_bytes).map_err(io::Error::other)?];
    let read = read_up_to(file, &mut content, CONTENT_AT as u64)?;
    content.truncate(read);
    if crc != crc32c::crc32c(&content).to_le_bytes() {
        return Ok(Err(Unreadable::Damaged("its checksum is wrong")));
    }
    let snapshot = postcard::from_bytes(&content);
    Ok(snapshot.map_err(|_| Unreadable::Damaged("its content is no checkpoint")))
}

/// Whether a file begins as a checkpoint of that store does.
fn check_header(bytes: &[u8], store: StoreId) -> Result<(), Unreadable> {
    match bytes.first_chunk::<HEADER_BYTES>().map(FileHeader::decode) {
        Some(Ok(header)) if header.kind != Kind::Checkpoint => {
            Err(Unreadable::Refused("it is no checkpoint".to_owned()))
        }
        Some(Ok(header)) if header.store != store => {
            Err(Unreadable::Refused("it belongs to another store".to_owned()))
        }
        Some(Ok(_)) => Ok(()),
        Some(Err(HeaderError::Other(version))) => Err(Unreadable::Refused(why_other(version))),
        Some(Err(HeaderError::Damaged)) | None => Err(Unreadable::Damaged("its header is damaged")),
    }
}

const CONTENT_AT: usize = HEADER_BYTES + 12;
