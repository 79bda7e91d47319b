//! What is given up so that something can be opened, and for the want of what.

use std::{io, path::Path, sync::Arc};

use ltq_core::Offset;
use parking_lot::Mutex;
use rustix::io::Errno;

use super::{
    super::{
        StoreFile,
        filesystem::{FileSystem, OpenMode},
        reserve::{Reserve, is_short},
        segments::SegmentKey,
    },
    model::path,
};
use crate::simulation::SimulatedDisk;

/// A disk on which so many files in a row cannot be opened, for this.
#[derive(Debug)]
struct Lacking {
    disk: SimulatedDisk,
    next: Mutex<Option<(usize, Errno)>>,
}

impl FileSystem for Lacking {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>> {
        match &mut *self.next.lock() {
            Some((times @ 1.., errno)) => {
                *times -= 1;
                Err(io::Error::from_raw_os_error(errno.raw_os_error()))
            }
            _ => self.disk.open(path, mode),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_space(dir)
    }
}

/// What is kept, of which this opens a file that so many attempts fail before.
struct Kept {
    reserve: Reserve,
    disk: Arc<Lacking>,
}

impl Kept {
    /// Segments that are open to be read, by how often each was used of late.
    fn new(segments: &[(u64, u64)]) -> Self {
        let disk = Arc::new(Lacking { disk: SimulatedDisk::default(), next: Mutex::default() });
        for name in ["", "identity", "x"] {
            match name {
                "" => disk.create_dir_all(&path(name)).unwrap(),
                name => drop(disk.open(&path(name), OpenMode::Create).unwrap()),
            }
        }
        let reserve = Reserve::new(disk.clone(), &path(""));
        reserve.refill();
        for (first, uses) in segments {
            let file = disk.open(&path("x"), OpenMode::Read).unwrap();
            reserve.read.lock().insert(key(*first), (file, *uses));
        }
        Self { reserve, disk }
    }

    fn open_after(&self, times: usize, errno: Errno) -> io::Result<Arc<dyn StoreFile>> {
        *self.disk.next.lock() = Some((times, errno));
        self.reserve.open(&path("x"), OpenMode::Read)
    }

    /// Which segments are open, and how many files are kept besides.
    fn left(&self) -> (Vec<u64>, u64) {
        let mut open: Vec<_> = self.reserve.read.lock().keys().map(|key| key.first.0).collect();
        open.sort_unstable();
        (open, self.reserve.figures().spare)
    }
}

fn key(first: u64) -> SegmentKey {
    SegmentKey { log: 1, first: Offset(first), rewrite: 0 }
}

#[test]
fn promise_10_what_was_read_least_is_given_up_first_and_what_is_being_read_never() {
    for errno in [Errno::MFILE, Errno::NFILE] {
        let kept = Kept::new(&[(1, 5), (2, 1), (3, 3)]);
        assert_eq!(kept.left(), (vec![1, 2, 3], 8));
        let reading = kept.reserve.read.lock()[&key(2)].0.clone();
        for left in [(vec![1, 2], 8), (vec![2], 8), (vec![2], 7)] {
            kept.open_after(1, errno).unwrap();
            assert_eq!(kept.left(), left, "{errno}");
        }
        assert_eq!(kept.reserve.figures().shortages, 0);
        drop(reading);
        // When there is nothing left to give up it is said, and passes.
        let error = kept.open_after(100, errno).unwrap_err();
        assert!(is_short(&error), "{error}");
        assert_eq!(kept.left(), (vec![], 0));
        let figures = kept.reserve.figures();
        assert!(figures.is_short && figures.shortages == 1, "{figures:?}");
    }
}

#[test]
fn promise_10_for_want_of_memory_nothing_is_given_up_and_it_passes() {
    let kept = Kept::new(&[(1, 5)]);
    let error = kept.open_after(1, Errno::NOMEM).unwrap_err();
    assert!(is_short(&error), "{error}");
    assert_eq!(kept.left(), (vec![1], 8));
    assert_eq!(kept.reserve.figures().shortages, 1);
    kept.open_after(0, Errno::NOMEM).unwrap();
    assert!(!kept.reserve.is_short());
    // Any other error is what it is.
    let error = kept.open_after(1, Errno::IO).unwrap_err();
    assert!(!is_short(&error) && !kept.reserve.is_short(), "{error}");
    assert_eq!(kept.left(), (vec![1], 8));
}
