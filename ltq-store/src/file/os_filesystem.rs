//! The operating system's files.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, IoSlice},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use super::{
    filesystem::{FileSystem, OpenMode, StoreFile},
    reserve::not_opened,
};

/// The operating system's files: what a store uses unless told otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFileSystem;

impl FileSystem for OsFileSystem {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(dir).map_err(not_opened)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read).create(mode == OpenMode::Create);
        // A pipe of that name would have us wait for its other end.
        let file = options.custom_flags(NO_WAITING).open(path)?;
        let kind = file.metadata()?.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() { "a directory" } else { "a pipe or a device" };
            return Err(io::Error::other(format!("it is {what} and no file")));
        }
        Ok(Arc::new(OsFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir).map_err(not_opened)?.sync_all()
    }

    /// From several threads at once where there are many: a journaling file system commits once for
    /// all that wait, where one after another would have it commit for each.
    fn sync_files(&self, files: &[Arc<dyn StoreFile>]) -> io::Result<()> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Relaxed)) {
                file.sync()?;
            }
            Ok(())
        };
        let helpers = if files.len() > FEW_FILES { SYNCS_AT_ONCE - 1 } else { 0 };
        thread::scope(|scope| {
            let spawn = |_| {
                let thread = thread::Builder::new().name("ltq-sync".to_owned());
                thread.spawn_scoped(scope, work).ok()
            };
            // With fewer, or none, it takes longer.
            let helpers: Vec<_> = (0..helpers).map_while(spawn).collect();
            let died = |_| Err(io::Error::other("a thread that synced files died"));
            let own = work();
            helpers.into_iter().fold(own, |done, helper| {
                let synced = helper.join().unwrap_or_else(died);
                done.and(synced)
            })
        })
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let space = rustix::fs::statvfs(dir)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// Changes nothing about files.
const NO_WAITING: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
/// So many are synced one after another.
const FEW_FILES: usize = 4;
/// How many wait for the device at once.
const SYNCS_AT_ONCE: usize = 8;

#[derive(Debug)]
struct OsFile(File);

impl StoreFile for OsFile {
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(into, position)
    }

    #[cfg(target_os = "linux")]
    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut position = position;
        for parts in parts.chunks(PARTS_MAX) {
            let mut parts = parts.to_vec();
            let mut rest = parts.as_mut_slice();
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                let written = match rustix::io::pwritev(&self.0, rest, position) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => written,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                };
                position += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut position = position;
        for part in parts {
            self.0.write_all_at(part, position)?;
            position += part.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// As many parts as one call of the operating system takes.
#[cfg(target_os = "linux")]
const PARTS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promise_1_one_of_many_files_that_cannot_be_synced_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = |at: usize| {
            let file = OsFileSystem.open(&dir.path().join(at.to_string()), OpenMode::Create);
            file.unwrap()
        };
        for count in [0, 1, FEW_FILES, 40] {
            let mut files: Vec<_> = (0..count).map(file).collect();
            OsFileSystem.sync_files(&files).unwrap();
            // The kernel syncs nothing of these: EINVAL.
            files.insert(
                count / 2,
                OsFileSystem.open("/proc/version".as_ref(), OpenMode::Read).unwrap(),
            );
            OsFileSystem.sync_files(&files).unwrap_err();
        }
    }
}
