//! Whether a directory is a store of this kind, and that nobody else has it open. Nothing is
//! written before that is clear.
//!
//! | name | what |
//! |---|---|
//! | `rocksdb-identity` | one line: `ltq store on rocksdb, format N`, and its CRC-32C in hexadecimal |
//! | `lock` | empty; locked while the store is open |
//! | `db` | RocksDB's own files |
//! | `damaged` | write-ahead logs that did not read to their end, kept as they were |

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use ltq_core::StoreError;

use super::format::VERSION;

const IDENTITY: &str = "rocksdb-identity";
const IDENTITY_TEMPORARY: &str = "rocksdb-identity-new";
const LOCK: &str = "lock";
const DATABASE: &str = "db";
const DAMAGED: &str = "damaged";
const OPENING: &str = "ltq store on rocksdb, format ";

/// A directory that is to be opened, locked until this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Whether RocksDB has to make its files.
    pub(super) new: bool,
    /// A copy of a store that is only read may lack it.
    _lock: Option<File>,
}

impl Directory {
    /// Locks the directory of a store, or makes one of an empty directory.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed = |doing: &'static str| {
            move |error: io::Error| refuse(dir, &format!("{doing} failed: {error}"))
        };
        std::fs::create_dir_all(dir).map_err(failed("making the directory"))?;
        let has = |name: &str| dir.join(name).exists();
        if !has(IDENTITY) {
            check_empty(dir).map_err(failed("listing the directory"))??;
        } else {
            // Before the lock, which is a file too.
            read_identity(dir)?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK));
        let lock = lock.map_err(failed("opening its lock for writing"))?;
        take(&lock, dir)?;
        if has(IDENTITY) {
            read_identity(dir)?;
            if !has(DATABASE) {
                let why = format!("it is a store whose directory {DATABASE:?} is missing");
                return Err(refuse(dir, &why));
            }
        } else {
            // Before the identity, so that one without it has lost it.
            std::fs::create_dir_all(dir.join(DATABASE))
                .and_then(|()| File::open(dir)?.sync_all())
                .map_err(failed("making a store"))?;
            write_identity(dir).map_err(failed("making a store"))?;
        }
        let database = dir.join(DATABASE);
        let new = !database.join("CURRENT").exists();
        if new {
            // A crash while RocksDB made its files leaves none of these; losing CURRENT does.
            let names = names(&database).map_err(failed("listing the directory"))?;
            let data = |name: &&String| name.ends_with(".sst") || name.ends_with(".log");
            if let Some(found) = names.iter().find(data) {
                let why = format!("RocksDB's file \"CURRENT\" is missing beside {found:?}");
                return Err(refuse(&database, &why));
            }
        }
        Ok(Self { path: dir.to_owned(), new, _lock: Some(lock) })
    }

    /// The same for a store that is only read: nothing is made.
    pub(super) fn open_read_only(dir: &Path) -> Result<Self, StoreError> {
        if !dir.join(IDENTITY).exists() {
            let why = format!("it is no RocksDB database of LTQ: there is no file {IDENTITY:?}");
            return Err(refuse(dir, &why));
        }
        read_identity(dir)?;
        let lock = match File::open(dir.join(LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            lock => Some(
                lock.map_err(|error| refuse(dir, &format!("opening its lock failed: {error}")))?,
            ),
        };
        if let Some(lock) = &lock {
            take(lock, dir)?;
        }
        Ok(Self { path: dir.to_owned(), new: false, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A file that is always there.
    pub(super) fn identity(&self) -> PathBuf {
        self.path.join(IDENTITY)
    }

    /// Where RocksDB has its files.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Sets the write-ahead logs aside, so that nothing is lost by what RocksDB makes of them.
    /// Returns where they are.
    pub(super) fn keep_logs(&self) -> io::Result<PathBuf> {
        let damaged = self.path.join(DAMAGED);
        let kept = (1..).map(|number| damaged.join(number.to_string()));
        let kept = kept.into_iter().find(|dir| !dir.exists()).unwrap_or(damaged);
        std::fs::create_dir_all(&kept)?;
        let database = self.database();
        for name in names(&database)?.iter().filter(|name| name.ends_with(".log")) {
            std::fs::copy(database.join(name), kept.join(name))?;
        }
        Ok(kept)
    }
}

fn take(lock: &File, dir: &Path) -> Result<(), StoreError> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(refuse(dir, "another process has it open; stop that one first"))
        }
        Err(TryLockError::Error(error)) => Err(refuse(dir, &format!("locking it failed: {error}"))),
    }
}

/// Refuses a directory without an identity that holds something.
fn check_empty(dir: &Path) -> io::Result<Result<(), StoreError>> {
    for name in names(dir)? {
        let why = match &*name {
            LOCK | IDENTITY_TEMPORARY | "lost+found" => continue,
            DATABASE if names(&dir.join(DATABASE))?.is_empty() => continue,
            DATABASE | DAMAGED => format!("it is a store whose file {IDENTITY:?} is missing"),
            "identity" | "journal" | "segments" => {
                "it is a file store; open it as one, or use another directory".to_owned()
            }
            strange => format!("it is no store and not empty: there is {strange:?}; use another"),
        };
        return Ok(Err(refuse(dir, &why)));
    }
    Ok(Ok(()))
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn write_identity(dir: &Path) -> io::Result<()> {
    let line = format!("{OPENING}{VERSION}");
    let temporary = dir.join(IDENTITY_TEMPORARY);
    let mut file = File::create(&temporary)?;
    writeln!(file, "{line} {:08x}", crc32c::crc32c(line.as_bytes()))?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(IDENTITY))?;
    File::open(dir)?.sync_all()
}

fn read_identity(dir: &Path) -> Result<(), StoreError> {
    let damaged = || refuse(dir, &format!("its file {IDENTITY:?} is damaged"));
    let text = std::fs::read(dir.join(IDENTITY))
        .map_err(|error| refuse(dir, &format!("reading its identity failed: {error}")))?;
    let text = String::from_utf8(text).map_err(|_| damaged())?;
    let (line, crc) = text.trim_end().rsplit_once(' ').ok_or_else(damaged)?;
    if u32::from_str_radix(crc, 16) != Ok(crc32c::crc32c(line.as_bytes())) {
        return Err(damaged());
    }
    let version = line.strip_prefix(OPENING).and_then(|version| version.parse::<u32>().ok());
    match version.ok_or_else(damaged)? {
        VERSION => Ok(()),
        newer => Err(refuse(
            dir,
            &format!(
                "it has format {newer}, and this version of LTQ reads up to {VERSION}; use a newer \
                 one"
            ),
        )),
    }
}

/// The error for what is not to be opened.
pub(super) fn refuse(path: &Path, why: &str) -> StoreError {
    StoreError::Open { path: path.display().to_string(), why: why.to_owned() }
}
