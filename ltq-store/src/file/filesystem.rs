//! The one door to files, so that tests can put a disk behind it that loses, tears and refuses.

use std::{
    fmt,
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading, what is there.
    Read,
    /// For reading and writing, what is there.
    Write,
    /// For reading and writing, made empty when there is none.
    Create,
}

/// What [`FileStore`](super::FileStore) needs of a file system. All calls block.
///
/// [`open`](Self::open) that fails for want of descriptors or memory says so by the operating system's
/// number (`EMFILE`, `ENFILE`, `ENOMEM`), with nothing done: the store then tries again later.
///
/// Paths lie in or below the store's directory. Implement it to run a store on a disk of your
/// own, a faulty one for instance; [`OsFileSystem`](super::OsFileSystem) is the real one.
pub trait FileSystem: fmt::Debug + Send + Sync + 'static {
    /// Makes a directory and its parents, whether or not they are there.
    ///
    /// # Errors
    /// The operating system's.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// The names of everything in a directory, in any order.
    ///
    /// # Errors
    /// The operating system's; [`io::ErrorKind::NotFound`] when there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens a file.
    ///
    /// # Errors
    /// The operating system's; [`io::ErrorKind::NotFound`] when there is none to be opened.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>>;

    /// Gives a file another name, replacing what has it.
    ///
    /// # Errors
    /// The operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The operating system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable: created, renamed and removed files.
    ///
    /// # Errors
    /// The operating system's. It is not known then which of them are.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes what was written to several files durable, in any order, or at once where that is
    /// cheaper. One after another unless it is overridden.
    ///
    /// # Errors
    /// One that [`StoreFile::sync`] had; it is not known then what is durable of any of them.
    fn sync_files(&self, files: &[Arc<dyn StoreFile>]) -> io::Result<()> {
        files.iter().try_for_each(|file| file.sync())
    }

    /// Bytes that may still be written to the device that holds a directory.
    ///
    /// # Errors
    /// The operating system's.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file. It is closed, and its lock given up, when the last clone of the handle goes.
pub trait StoreFile: fmt::Debug + Send + Sync + 'static {
    /// Reads some bytes from a position on; 0 at the end of the file.
    ///
    /// # Errors
    /// The operating system's.
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes all of these parts, one after another, from a position on.
    ///
    /// # Errors
    /// The operating system's. Any part of it may have been written then.
    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()>;

    /// Makes what was written durable, and the length when it changed.
    ///
    /// # Errors
    /// The operating system's. It is not known then what is durable, and asking again would not
    /// tell.
    fn sync(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// The operating system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// How long it is, in bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn size(&self) -> io::Result<u64>;

    /// Locks it against every other process and handle until it is closed; `false` when somebody
    /// else has it locked.
    ///
    /// # Errors
    /// The operating system's.
    fn try_lock(&self) -> io::Result<bool>;
}

/// Reads until the buffer is full or the file at its end. Returns how much was read.
pub(super) fn read_up_to(
    file: &dyn StoreFile,
    into: &mut [u8],
    position: u64,
) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, position + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Whether an error says that the device has no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
