//! A disk in memory that does its worst: what was not synced is lost, torn or kept as chance will
//! have it, names too; it fills up, and fails when told.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::super::filesystem::{FileSystem, OpenMode, StoreFile};

/// Small numbers from a seed.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// What was done since the last sync.
    pending: Vec<Change>,
    locked: Option<u64>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
}

impl NameChange {
    fn dir(&self) -> Option<&Path> {
        let (Self::Link(path, _) | Self::Unlink(path)) = self;
        path.parent()
    }
}

#[derive(Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    durable_names: BTreeMap<PathBuf, usize>,
    names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<NameChange>,
    dirs: Vec<PathBuf>,
    handles: u64,
    /// Operations that change something, so far.
    operations: u64,
    /// From this one on all fail: the power is gone.
    crash_at: Option<u64>,
    /// This many syncs from now one fails, and what it should have made durable is lost.
    fail_sync_in: Option<u64>,
    capacity: Option<u64>,
    read_only: bool,
}

/// The disk. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct SimFs(Arc<Mutex<Disk>>);

impl SimFs {
    pub(super) fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    pub(super) fn crash_at(&self, operation: u64) {
        self.0.lock().crash_at = Some(operation);
    }

    pub(super) fn fail_sync_in(&self, syncs: u64) {
        self.0.lock().fail_sync_in = Some(syncs);
    }

    pub(super) fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    pub(super) fn is_limited(&self) -> bool {
        self.0.lock().capacity.is_some()
    }

    pub(super) fn set_read_only(&self, read_only: bool) {
        self.0.lock().read_only = read_only;
    }

    pub(super) fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// The disk after a power cut.
    pub(super) fn after_power_cut(&self, chance: &mut Chance) -> Self {
        let old = self.0.lock();
        let mut disk = Disk { dirs: old.dirs.clone(), ..Disk::default() };
        let mut names = old.durable_names.clone();
        // Names reach a disk in order within a directory, and no directory waits for another.
        let mut dirs: Vec<_> = old.pending_names.iter().map(NameChange::dir).collect();
        dirs.sort_unstable();
        dirs.dedup();
        for dir in dirs {
            let changes = || old.pending_names.iter().filter(|change| change.dir() == dir);
            let kept = chance.below(changes().count() as u64 + 1) as usize;
            changes().take(kept).for_each(|change| apply_name(&mut names, change));
        }
        for (path, inode) in names {
            let mut bytes = old.inodes[inode].durable.clone();
            let mode = chance.below(3);
            for change in &old.inodes[inode].pending {
                match change {
                    Change::SetLen(len) if mode > 0 => bytes.resize(*len as usize, 0),
                    Change::SetLen(_) => (),
                    Change::Write(position, data) => {
                        tear(&mut bytes, *position as usize, data, mode, chance);
                    }
                }
            }
            let inode = Inode { durable: bytes.clone(), current: bytes, ..Inode::default() };
            disk.durable_names.insert(path.clone(), disk.inodes.len());
            disk.names.insert(path, disk.inodes.len());
            disk.inodes.push(inode);
        }
        Self(Arc::new(Mutex::new(disk)))
    }

    /// The disk after the process was killed: all that was written is there.
    pub(super) fn after_kill(&self) -> Self {
        let old = self.0.lock();
        let mut disk = Disk { dirs: old.dirs.clone(), ..Disk::default() };
        disk.inodes.clone_from(&old.inodes);
        disk.inodes.iter_mut().for_each(|inode| inode.locked = None);
        disk.names.clone_from(&old.names);
        disk.durable_names.clone_from(&old.durable_names);
        disk.pending_names.clone_from(&old.pending_names);
        Self(Arc::new(Mutex::new(disk)))
    }

    pub(super) fn files(&self) -> Vec<(PathBuf, usize)> {
        let disk = self.0.lock();
        let len =
            |(path, &inode): (&PathBuf, &usize)| (path.clone(), disk.inodes[inode].current.len());
        disk.names.iter().map(len).collect()
    }

    pub(super) fn content(&self, path: &Path) -> Vec<u8> {
        let disk = self.0.lock();
        disk.inodes[disk.names[path]].current.clone()
    }

    pub(super) fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.0.lock();
        let inode = disk.names[path];
        let inode = &mut disk.inodes[inode];
        edit(&mut inode.current);
        inode.durable.clone_from(&inode.current);
        inode.pending.clear();
    }

    pub(super) fn swap(&self, a: &Path, b: &Path) {
        let mut disk = self.0.lock();
        let (of_a, of_b) = (disk.names[a], disk.names[b]);
        for names in [true, false] {
            let names = if names { &mut disk.names } else { &mut disk.durable_names };
            names.insert(a.to_owned(), of_b);
            names.insert(b.to_owned(), of_a);
        }
    }

    pub(super) fn put_file(&self, path: &Path, bytes: &[u8]) {
        let mut disk = self.0.lock();
        let inode = disk.inodes.len();
        let (durable, current) = (bytes.to_vec(), bytes.to_vec());
        disk.inodes.push(Inode { durable, current, ..Inode::default() });
        disk.names.insert(path.to_owned(), inode);
        disk.durable_names.insert(path.to_owned(), inode);
    }
}

/// Sectors get through or do not, each for itself.
fn tear(bytes: &mut Vec<u8>, position: usize, data: &[u8], mode: u64, chance: &mut Chance) {
    for (at, sector) in data.chunks(512).enumerate() {
        let kept = match mode {
            0 => false,
            1 => chance.one_in(2),
            _ => !chance.one_in(20),
        };
        if kept {
            let start = position + at * 512;
            if bytes.len() < start + sector.len() {
                bytes.resize(start + sector.len(), 0);
            }
            bytes[start..start + sector.len()].copy_from_slice(sector);
        }
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    match change {
        NameChange::Link(path, inode) => {
            names.retain(|_, other| other != inode);
            names.insert(path.clone(), *inode);
        }
        NameChange::Unlink(path) => {
            names.remove(path);
        }
    }
}

impl Disk {
    /// Counts something that changes the disk, unless the power is gone.
    fn operate(&mut self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.operations += 1;
        if self.crash_at.is_some_and(|at| self.operations >= at) {
            return Err(io::Error::other("the power is gone"));
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.names.values().map(|&inode| self.inodes[inode].current.len() as u64).sum()
    }

    fn rename(&mut self, change: NameChange) {
        apply_name(&mut self.names, &change);
        self.pending_names.push(change);
    }
}

impl FileSystem for SimFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        if !disk.dirs.iter().any(|known| known == dir) {
            disk.operate()?;
            disk.dirs.push(dir.to_owned());
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.0.lock();
        if !disk.dirs.iter().any(|known| known == dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = disk.names.keys().chain(&disk.dirs);
        let inside = paths.filter(|path| path.parent() == Some(dir));
        Ok(inside.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>> {
        let mut disk = self.0.lock();
        if disk.read_only && mode != OpenMode::Read {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let inode = match disk.names.get(path) {
            Some(&inode) => inode,
            None if mode == OpenMode::Create => {
                disk.operate()?;
                let inode = disk.inodes.len();
                disk.inodes.push(Inode::default());
                disk.rename(NameChange::Link(path.to_owned(), inode));
                inode
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        disk.handles += 1;
        let handle = disk.handles;
        Ok(Arc::new(SimFile { disk: self.clone(), inode, handle }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.operate()?;
        let inode = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        disk.rename(NameChange::Link(to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.operate()?;
        disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        disk.rename(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.operate()?;
        let Disk { pending_names, durable_names, .. } = &mut *disk;
        for change in pending_names.extract_if(.., |change| change.dir() == Some(dir)) {
            apply_name(durable_names, &change);
        }
        Ok(())
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        let disk = self.0.lock();
        Ok(disk.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(disk.used())))
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimFs,
    inode: usize,
    handle: u64,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut disk = self.disk.0.lock();
        let inode = &mut disk.inodes[self.inode];
        if inode.locked == Some(self.handle) {
            inode.locked = None;
        }
    }
}

impl StoreFile for SimFile {
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let disk = self.disk.0.lock();
        let bytes = &disk.inodes[self.inode].current;
        let rest = bytes.get(position as usize..).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        let used = disk.used();
        let data: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let end = position as usize + data.len();
        let more = end.saturating_sub(disk.inodes[self.inode].current.len()) as u64;
        let crashed = disk.operate();
        let full = disk.capacity.is_some_and(|capacity| used + more > capacity);
        // What fails may have been done in part.
        let done = if crashed.is_err() || (full && more > 0) { data.len() / 2 } else { data.len() };
        let inode = &mut disk.inodes[self.inode];
        let end = position as usize + done;
        if inode.current.len() < end {
            inode.current.resize(end, 0);
        }
        inode.current[position as usize..end].copy_from_slice(&data[..done]);
        inode.pending.push(Change::Write(position, data[..done].to_vec()));
        crashed?;
        if done < data.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        disk.operate()?;
        let fails = disk.fail_sync_in == Some(0);
        disk.fail_sync_in = disk.fail_sync_in.map(|left| left.wrapping_sub(1));
        let inode = &mut disk.inodes[self.inode];
        inode.pending.clear();
        if fails {
            return Err(io::Error::other("the device does not answer"));
        }
        inode.durable = inode.current.clone();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        disk.operate()?;
        let inode = &mut disk.inodes[self.inode];
        inode.current.resize(len as usize, 0);
        inode.pending.push(Change::SetLen(len));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().inodes[self.inode].current.len() as u64)
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut disk = self.disk.0.lock();
        let inode = &mut disk.inodes[self.inode];
        let free = inode.locked.is_none_or(|handle| handle == self.handle);
        if free {
            inode.locked = Some(self.handle);
        }
        Ok(free)
    }
}
