//! Whether a directory is a store, which one, and that nobody else has it open.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use ltq_core::StoreError;

use super::{
    checkpoint::{CHECKPOINT_NAMES, CHECKPOINT_TEMPORARY},
    filesystem::{FileSystem, OpenMode, StoreFile, read_up_to},
    format::{FileHeader, HEADER_BYTES, HeaderError, Kind, StoreId, VERSION},
};

pub(super) const IDENTITY: &str = "identity";
pub(super) const IDENTITY_TEMPORARY: &str = "identity-new";
const LOCK: &str = "lock";
pub(super) const JOURNAL: &str = "journal";
pub(super) const SEGMENTS: &str = "segments";
/// Where the identity stands a second time: in another sector, on disks that have large ones too.
const SECOND_COPY_AT: u64 = 4096;
/// Where it stands.
pub(super) const COPIES_AT: [u64; 2] = [0, SECOND_COPY_AT];

/// Opens the directory of a store, or makes one of an empty directory, with this id. The store is
/// locked until the file that is returned is closed.
pub(super) fn open(
    files: &dyn FileSystem,
    dir: &Path,
    new: StoreId,
) -> Result<(StoreId, Arc<dyn StoreFile>), StoreError> {
    let refused = |why: &str| refuse(dir, why);
    let failed = |doing: &'static str| {
        move |error: io::Error| refuse(dir, &format!("{doing} failed: {error}"))
    };
    let names = match files.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files.create_dir_all(dir).map_err(failed("making the directory"))?;
            Vec::new()
        }
        names => names.map_err(failed("listing the directory"))?,
    };
    let has = |name: &str| names.iter().any(|found| found == name);
    let known = [IDENTITY_TEMPORARY, LOCK, JOURNAL, SEGMENTS, "lost+found"];
    if !has(IDENTITY) {
        if let Some(strange) = names.iter().find(|name| !known.contains(&name.as_str())) {
            let ours =
                CHECKPOINT_NAMES.contains(&strange.as_str()) || strange == CHECKPOINT_TEMPORARY;
            return Err(refused(&if ours {
                format!("it is a store whose file {IDENTITY:?} is missing")
            } else {
                format!("it is no store and not empty: there is {strange:?}; use another one")
            }));
        }
        for sub in [JOURNAL, SEGMENTS].into_iter().filter(|sub| has(sub)) {
            let inside = files.list(&dir.join(sub)).map_err(failed("listing the directory"))?;
            if !inside.is_empty() {
                return Err(refused(&format!("it is a store whose file {IDENTITY:?} is missing")));
            }
        }
    }
    let mode = if has(IDENTITY) && has(LOCK) { OpenMode::Write } else { OpenMode::Create };
    let lock = files.open(&dir.join(LOCK), mode).map_err(failed("opening its lock for writing"))?;
    if !lock.try_lock().map_err(failed("locking it"))? {
        return Err(refused("another process has it open; stop that one first"));
    }
    // Somebody may have made it between the look and the lock.
    let path = dir.join(IDENTITY);
    let store = match files.open(&path, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(files, dir, new).map_err(failed("making a store"))?
        }
        file => read(&*file.map_err(failed("reading its identity"))?, dir)?,
    };
    Ok((store, lock))
}

/// Which store a directory is, written nothing. Nobody can open it for writing until the file that
/// is returned is closed; a copy of a store may lack that file.
pub(super) fn open_read_only(
    files: &dyn FileSystem,
    dir: &Path,
) -> Result<(StoreId, Option<Arc<dyn StoreFile>>), StoreError> {
    let lock = lock_read_only(files, dir)?;
    let identity = match files.open(&dir.join(IDENTITY), OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refuse(dir, &format!("it is no store: there is no file {IDENTITY:?}")));
        }
        file => file.map_err(|error| refuse(dir, &format!("reading its identity failed: {error}"))),
    };
    Ok((read(&*identity?, dir)?, lock))
}

/// Keeps everybody else out, without making a file.
pub(super) fn lock_read_only(
    files: &dyn FileSystem,
    dir: &Path,
) -> Result<Option<Arc<dyn StoreFile>>, StoreError> {
    let listed = files.list(dir);
    listed.map_err(|error| refuse(dir, &format!("listing the directory failed: {error}")))?;
    let failed = |error: io::Error| refuse(dir, &format!("locking it failed: {error}"));
    let lock = match files.open(&dir.join(LOCK), OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        lock => lock.map_err(failed)?,
    };
    if !lock.try_lock().map_err(failed)? {
        return Err(refuse(dir, "another process has it open; stop that one first"));
    }
    Ok(Some(lock))
}

fn make(files: &dyn FileSystem, dir: &Path, store: StoreId) -> io::Result<StoreId> {
    files.create_dir_all(&dir.join(JOURNAL))?;
    files.create_dir_all(&dir.join(SEGMENTS))?;
    write(files, dir, store)?;
    Ok(store)
}

/// Writes both copies of the identity.
pub(super) fn write(files: &dyn FileSystem, dir: &Path, store: StoreId) -> io::Result<()> {
    let header = FileHeader::new(Kind::Identity, store).encode();
    let temporary = dir.join(IDENTITY_TEMPORARY);
    let file = files.open(&temporary, OpenMode::Create)?;
    file.write_all_at(&[IoSlice::new(&header)], 0)?;
    file.write_all_at(&[IoSlice::new(&header)], SECOND_COPY_AT)?;
    file.sync()?;
    files.rename(&temporary, &dir.join(IDENTITY))?;
    files.sync_dir(dir)
}

fn read(file: &dyn StoreFile, dir: &Path) -> Result<StoreId, StoreError> {
    let mut unread = None;
    let mut copy = |position| {
        let mut bytes = [0; HEADER_BYTES];
        match read_up_to(file, &mut bytes, position) {
            Ok(HEADER_BYTES) => FileHeader::decode(&bytes),
            Ok(_) => Err(HeaderError::Damaged),
            // No worse than damage where the other copy is whole.
            Err(error) => {
                unread = Some(error);
                Err(HeaderError::Damaged)
            }
        }
    };
    let header = match (copy(0), copy(SECOND_COPY_AT)) {
        (Ok(first), Ok(_)) => Ok(first),
        (Ok(whole), Err(HeaderError::Damaged)) | (Err(HeaderError::Damaged), Ok(whole)) => {
            tracing::warn!(dir = %dir.display(), "one copy of the store's identity is damaged");
            Ok(whole)
        }
        (Err(newer @ HeaderError::Other(_)), _) | (_, Err(newer @ HeaderError::Other(_))) => {
            Err(newer)
        }
        (Err(error), Err(_)) => Err(error),
    };
    match header {
        Ok(header) if header.kind == Kind::Identity => Ok(header.store),
        Ok(_) => Err(refuse(dir, "its file \"identity\" is another of a store's files")),
        Err(HeaderError::Other(version)) => Err(other_format(dir, version)),
        Err(HeaderError::Damaged) => Err(match unread {
            // It may be whole, and be read the next time.
            Some(error) => refuse(dir, &format!("reading its identity failed: {error}")),
            None => refuse(dir, "its file \"identity\" is damaged"),
        }),
    }
}

/// The error for files that this code is too old for.
pub(super) fn other_format(path: &Path, version: u16) -> StoreError {
    refuse(path, &why_other(version))
}

/// Why a file of another format is not read, and what to do.
pub(super) fn why_other(version: u16) -> String {
    let use_one = if version > VERSION { "a newer one" } else { "an older one" };
    format!("it has format {version}, and this version of LTQ reads {VERSION}; use {use_one}")
}

/// The error for what is not to be opened.
pub(super) fn refuse(path: &Path, why: &str) -> StoreError {
    StoreError::Open { path: path.display().to_string(), why: why.to_owned() }
}
