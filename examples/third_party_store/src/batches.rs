//! The file: batches one after the other.
//!
//! ```text
//! "LTQ one-file 1\n"
//! for each batch:
//!   body_len   u64, little-endian
//!   body_crc   u32  CRC-32C of body_len and the body
//!   body       postcard of `[Change]`
//! ```
//!
//! What is not whole at the very end was being written when the machine or the process stopped, and
//! is cut. With whole batches behind it, it is damage, and the file is refused. (A damaged *last*
//! batch cannot be told from the first of these: who must tell them apart notes in the file what was
//! known to be synced.)

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use ltq_core::{LogName, LogOptions, Offset, StoreError, Timestamp, WriteBatch, WriteOp};
use serde::{Deserialize, Serialize};

/// What a batch changes, as it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Change {
    Create { log: LogName, options: LogOptions, first: Offset, end: Offset },
    Delete { log: LogName },
    Append { log: LogName, at: Offset, time: Timestamp, base: u32, table: Bytes, payload: Bytes },
    Truncate { log: LogName, before: Offset },
    Discard { log: LogName, from: Offset, until: Offset },
    Put { key: Bytes, value: Bytes },
    Remove { key: Bytes },
}

/// A batch as it is written. What it brings is copied: a message may share its memory with a
/// megabyte of others that came from the same socket.
pub(crate) fn changes_of(batch: &WriteBatch) -> Vec<Change> {
    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    let change = |op: &WriteOp| match op.clone() {
        WriteOp::CreateLog { log, options, first } => {
            Change::Create { log, options, first, end: first }
        }
        WriteOp::DeleteLog { log } => Change::Delete { log },
        WriteOp::Append { log, at, time, records } => {
            let (table, payload) = (copy(records.table()), copy(records.payload()));
            Change::Append { log, at, time, base: records.base(), table, payload }
        }
        WriteOp::Truncate { log, before } => Change::Truncate { log, before },
        WriteOp::Discard { log, from, until } => Change::Discard { log, from, until },
        WriteOp::Put { key, value } => Change::Put { key: copy(&key), value: copy(&value) },
        WriteOp::Delete { key } => Change::Remove { key: copy(&key) },
    };
    batch.ops().iter().map(change).collect()
}

/// The open file, locked.
#[derive(Debug)]
pub(crate) struct Batches {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Batches {
    /// Opens or makes it, and hands on what is in it.
    pub(crate) fn open(path: &Path, mut each: impl FnMut(Vec<Change>)) -> Result<Self, StoreError> {
        let failed = |doing: &str, error: io::Error| StoreError::Io {
            doing: format!("{doing} {}", path.display()),
            cause: error.to_string(),
        };
        let refused =
            |why: &str| StoreError::Open { path: path.display().to_string(), why: why.to_owned() };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(|error| failed("opening", error))?;
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => {
                return Err(refused("it is open already; close that one first"));
            }
            Err(TryLockError::Error(error)) => return Err(failed("locking", error)),
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(|error| failed("reading", error))?;
        let mut rest = match content.strip_prefix(OPENING) {
            Some(rest) => rest,
            // A crash may leave a part of it.
            None if OPENING.starts_with(&content) => {
                let made = file.rewind().and_then(|()| file.write_all(OPENING));
                let made = made.and_then(|()| file.sync_all()).and_then(|()| sync_dir(path));
                made.map_err(|error| failed("making", error))?;
                &[]
            }
            None => return Err(refused("it is no store of this kind")),
        };
        while let Some((changes, behind)) = decode(rest) {
            each(changes);
            rest = behind;
        }
        if (1..rest.len()).any(|at| decode(rest.get(at..).unwrap_or_default()).is_some()) {
            let at = content.len() - rest.len();
            return Err(refused(&format!("the batch at byte {at} is damaged")));
        }
        let bytes = (content.len().max(OPENING.len()) - rest.len()) as u64;
        // What was read may be in the operating system's memory only, and is built upon from now on.
        let cut = file.set_len(bytes).and_then(|()| file.sync_all());
        cut.map_err(|error| failed("syncing", error))?;
        file.seek(SeekFrom::Start(bytes)).map_err(|error| failed("opening", error))?;
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a batch. It survives the process now.
    pub(crate) fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let entry = encode(changes)?;
        self.file.write_all(&entry)?;
        self.bytes += entry.len() as u64;
        Ok(())
    }

    /// What was added survives the machine now.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Replaces all batches by one: the file of that name is the old one or the new one, whole and
    /// synced.
    pub(crate) fn write_anew(&mut self, everything: &[Change]) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.try_lock()?;
        let entry = encode(everything)?;
        file.write_all(OPENING)?;
        file.write_all(&entry)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        sync_dir(&self.path)?;
        self.file = file;
        self.bytes = (OPENING.len() + entry.len()) as u64;
        Ok(())
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

fn encode(changes: &[Change]) -> io::Result<Vec<u8>> {
    let mut entry =
        postcard::to_extend(changes, vec![0; HEADER_BYTES]).map_err(io::Error::other)?;
    let len = ((entry.len() - HEADER_BYTES) as u64).to_le_bytes();
    let crc = checksum(len, entry.get(HEADER_BYTES..).unwrap_or_default()).to_le_bytes();
    for (place, byte) in entry.iter_mut().zip(len.into_iter().chain(crc)) {
        *place = byte;
    }
    Ok(entry)
}

/// The batch at the beginning of these bytes, if it is whole, and what is behind it.
fn decode(bytes: &[u8]) -> Option<(Vec<Change>, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (body, behind) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    if checksum(*len, body) != u32::from_le_bytes(*crc) {
        return None;
    }
    Some((postcard::from_bytes(body).ok()?, behind))
}

fn checksum(len: [u8; 8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len), body)
}

const OPENING: &[u8] = b"LTQ one-file 1\n";
const HEADER_BYTES: usize = 12;
