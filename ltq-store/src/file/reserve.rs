//! What the store keeps back so that it can open files when others have all that the process may have
//! open; and what it says when that is not enough.

use std::{
    collections::HashMap,
    error, fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Duration,
};

use ltq_core::StoreError;
use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::time::Instant;

use super::{
    filesystem::{FileSystem, OpenMode, StoreFile},
    identity::IDENTITY,
    segments::SegmentKey,
};

/// A file system, and open files that are given up one after another where another one cannot be opened
/// for want of descriptors: those that are open to be read again, then those kept for this alone.
#[derive(Debug)]
pub(super) struct Reserve {
    files: Arc<dyn FileSystem>,
    /// Of what those are handles that are kept for this alone: it is always there.
    identity: PathBuf,
    spare: Mutex<Vec<Arc<dyn StoreFile>>>,
    /// Segments that are open, and how often each was used of late.
    pub(super) read: Mutex<HashMap<SegmentKey, Handle>>,
    /// Whether the last attempt to open something failed so.
    short: AtomicBool,
    shortages: AtomicU64,
    /// When that was said last, and whether it is still to be said that it is over.
    said: Mutex<Option<(Instant, bool)>>,
}

/// An open file, and how often it was used of late.
pub(super) type Handle = (Arc<dyn StoreFile>, u64);

/// What a store keeps to open files with when others have all descriptors, and how often that was not
/// enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileReserve {
    /// Descriptors that are kept for that.
    pub spare: u64,
    /// Files that could not be opened for want of descriptors or memory, since the store was opened.
    pub shortages: u64,
    /// Whether the last one was such.
    pub is_short: bool,
}

impl Reserve {
    pub(super) fn new(files: Arc<dyn FileSystem>, store_dir: &Path) -> Self {
        Self {
            files,
            identity: store_dir.join(IDENTITY),
            spare: Mutex::default(),
            read: Mutex::default(),
            short: AtomicBool::new(false),
            shortages: AtomicU64::new(0),
            said: Mutex::default(),
        }
    }

    /// Keeps as many as there are to be, as far as there are descriptors.
    pub(super) fn refill(&self) {
        while self.spare.lock().len() < SPARE_FILES {
            let Ok(file) = self.files.open(&self.identity, OpenMode::Read) else { return };
            self.spare.lock().push(file);
            self.note_opened();
        }
    }

    /// Closes all of them.
    pub(super) fn clear(&self) {
        self.read.lock().clear();
        self.spare.lock().clear();
    }

    /// Whether the last file that was to be opened could not be.
    pub(super) fn is_short(&self) -> bool {
        self.short.load(Acquire)
    }

    pub(super) fn figures(&self) -> FileReserve {
        FileReserve {
            spare: self.spare.lock().len() as u64,
            shortages: self.shortages.load(Relaxed),
            is_short: self.is_short(),
        }
    }

    /// Does what opens something, at the expense of what is kept.
    fn opening<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match open() {
                // Others may be faster with what is closed here: then the next one goes.
                Err(error) if is_short(&error) && !is_memory(&error) && self.give_up_one() => (),
                Err(error) => {
                    if is_short(&error) {
                        self.note_short(&error);
                    }
                    return Err(error);
                }
                opened => {
                    self.note_opened();
                    return opened;
                }
            }
        }
    }

    fn give_up_one(&self) -> bool {
        let mut read = self.read.lock();
        // What somebody reads from at the moment would stay open.
        let idle = read.iter().filter(|(_, (file, _))| Arc::strong_count(file) == 1);
        let least = idle.min_by_key(|(key, (_, uses))| (*uses, **key)).map(|(key, _)| *key);
        if let Some(key) = least {
            return read.remove(&key).is_some();
        }
        drop(read);
        let spare = self.spare.lock().pop();
        spare.is_some()
    }

    fn note_short(&self, error: &io::Error) {
        self.shortages.fetch_add(1, Relaxed);
        if self.short.swap(true, AcqRel) {
            return;
        }
        let mut said = self.said.lock();
        if said.is_none_or(|(at, _)| at.elapsed() >= SAID_PAUSE) {
            *said = Some((Instant::now(), true));
            tracing::warn!(%error, "no file can be opened; what needs one is refused until it can");
        }
    }

    fn note_opened(&self) {
        if self.is_short()
            && self.short.swap(false, AcqRel)
            && let Some((_, over)) = self.said.lock().as_mut()
            && std::mem::take(over)
        {
            let shortages = self.shortages.load(Relaxed);
            tracing::info!(shortages, "files can be opened again");
        }
    }
}

impl FileSystem for Reserve {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.files.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.opening(|| self.files.list(dir))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>> {
        self.opening(|| self.files.open(path, mode).map_err(not_opened))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.opening(|| self.files.sync_dir(dir))
    }

    fn sync_files(&self, files: &[Arc<dyn StoreFile>]) -> io::Result<()> {
        self.files.sync_files(files)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.files.free_space(dir)
    }
}

/// Says of an error of opening something, and of nothing else, whether it passes: for want of descriptors
/// or memory nothing was opened, so that nothing was done and nothing is in doubt.
pub(crate) fn not_opened(error: io::Error) -> io::Error {
    if is_want(&error) { io::Error::new(error.kind(), NotOpened(error)) } else { error }
}

/// Whether the operating system's number is one of those for a want of descriptors or memory.
pub(crate) fn is_want(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// Whether something was not opened for want of descriptors or memory. No error of a write or a sync is
/// such, whatever its number.
pub(super) fn is_short(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|within| within.is::<NotOpened>())
}

fn is_memory(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
}

/// The error for what could not be done for that.
pub(super) fn short(doing: &str, error: &io::Error) -> StoreError {
    StoreError::Short { doing: doing.to_owned(), cause: error.to_string() }
}

/// Whether an error says that there is no room, or nothing to open a file with: nothing was done, and it
/// may be done later.
pub(super) const fn passes(error: &StoreError) -> bool {
    matches!(error, StoreError::Full { .. } | StoreError::Short { .. })
}

#[derive(Debug)]
struct NotOpened(io::Error);

impl fmt::Display for NotOpened {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(to)
    }
}

impl error::Error for NotOpened {}

/// So many descriptors are kept for when others have all: a journal file takes two while it is made, a
/// checkpoint two, a segment three, and a few readers one each.
const SPARE_FILES: usize = 8;
/// While none can be opened it is tried again after this, whether or not anybody asks for one.
pub(super) const SHORT_AGAIN: Duration = Duration::from_secs(1);
/// That none can be opened is said so often at most: whoever takes the descriptors must not fill the
/// disk with it.
const SAID_PAUSE: Duration = Duration::from_secs(10);
