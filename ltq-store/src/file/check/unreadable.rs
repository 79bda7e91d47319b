//! A device that refuses to read some sectors, for those who want what is around them: what it
//! refuses counts as zeros, which no checksum takes for good.

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    super::{
        filesystem::{FileSystem, OpenMode, StoreFile, read_up_to},
        options::FileStoreOptions,
    },
    CheckReport, Damage, Loss,
};

/// A file system whose files can be read from one end to the other.
#[derive(Debug)]
pub(in super::super) struct ReadsAround {
    files: Arc<dyn FileSystem>,
    unreadable: Unreadable,
}

/// Sectors that a device refused to read.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Unreadable(Arc<Mutex<BTreeSet<(PathBuf, u64)>>>);

impl Unreadable {
    /// Adds to a report those of which it does not tell.
    pub(super) fn tell(&self, report: &mut CheckReport, dir: &Path) {
        for (path, sector) in &*self.0.lock() {
            let file = path.strip_prefix(dir).unwrap_or(path).display().to_string();
            let inside = *sector..sector + SECTOR;
            let told = |damage: &Damage| damage.file == file && inside.contains(&damage.position);
            if !report.damage.iter().any(told) {
                let what = "the device refuses to read it".to_owned();
                report.damage.push(Damage { file, position: *sector, what, loss: Loss::Unknown });
            }
        }
    }

    /// Writes zeros where nothing can be read still: a disk puts another sector in the place of a bad
    /// one that is written.
    pub(super) fn overwrite(&self, files: &dyn FileSystem) -> io::Result<()> {
        for (path, sector) in &*self.0.lock() {
            let file = match files.open(path, OpenMode::Write) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            let len = file.size()?.saturating_sub(*sector).min(SECTOR);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
            match read_up_to(&*file, &mut bytes, *sector) {
                Err(error) if is_refusal(&error) => {
                    bytes.fill(0);
                    file.write_all_at(&[IoSlice::new(&bytes)], *sector)?;
                    file.sync()?;
                }
                read => drop(read?),
            }
        }
        Ok(())
    }
}

impl ReadsAround {
    /// The same store, read around what its device refuses.
    pub(in super::super) fn within(options: &FileStoreOptions) -> (FileStoreOptions, Unreadable) {
        let unreadable = Unreadable::default();
        let files = Arc::clone(&options.file_system);
        let files = Arc::new(Self { files, unreadable: unreadable.clone() });
        (options.clone().file_system(files), unreadable)
    }
}

impl FileSystem for ReadsAround {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.files.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.files.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>> {
        let file = self.files.open(path, mode)?;
        let (path, unreadable) = (path.to_owned(), self.unreadable.clone());
        Ok(Arc::new(ReadAround { file, path, unreadable }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.files.free_space(dir)
    }
}

#[derive(Debug)]
struct ReadAround {
    file: Arc<dyn StoreFile>,
    path: PathBuf,
    unreadable: Unreadable,
}

impl ReadAround {
    /// Reads to the end of the sector that `position` lies in; zeros if the device refuses. 0 at the end
    /// of the file.
    fn read_sector(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let in_sector = SECTOR - position % SECTOR;
        let most = usize::try_from(in_sector).unwrap_or(into.len()).min(into.len());
        let Some(into) = into.get_mut(..most) else { return Ok(0) };
        let error = match self.file.read_at(into, position) {
            Err(error) if is_refusal(&error) => error,
            read => return read,
        };
        let left = self.file.size()?.saturating_sub(position);
        let len = usize::try_from(left).unwrap_or(most).min(most);
        let Some(into) = into.get_mut(..len) else { return Ok(0) };
        into.fill(0);
        let sector = position - position % SECTOR;
        if self.unreadable.0.lock().insert((self.path.clone(), sector)) {
            let file = self.path.display();
            tracing::warn!(%file, sector, %error, "unreadable; taken for zeros");
        }
        Ok(len)
    }
}

impl StoreFile for ReadAround {
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        match self.file.read_at(into, position) {
            // Sector by sector, as callers ask for more where they got little.
            Err(error) if is_refusal(&error) => self.read_sector(into, position),
            read => read,
        }
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.file.write_all_at(parts, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
}

/// Whether a device says that it cannot read, rather than anybody that it may not.
fn is_refusal(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [rustix::io::Errno::IO, rustix::io::Errno::BADMSG]
        .iter()
        .any(|refusal| number == Some(refusal.raw_os_error()))
}

/// What a device loses at once.
const SECTOR: u64 = 512;
