//! A disk in memory that does its worst: what was not synced is lost, torn or kept as chance will
//! have it, names too; it fills up, fails, forgets what it was given, and takes its time.
//!
//! It does what a Linux file system on a disk may do:
//!
//! - *Power cut.* Of what was written since a file's last sync any sectors may be there, in any order;
//!   the file may have its new length with zeros in it. Names reach a directory in order, and by no
//!   promise together with what they name, unless the directory was synced. That is less than ext4
//!   keeps with `data=ordered`, and what `data=writeback` and xfs leave open (the kernel's
//!   Documentation/filesystems/ext4; Pillai et al., "All File Systems Are Not Created Equal", OSDI
//!   2014, table 1: overwrites and appends are not atomic, and only `fsync` orders content and names).
//!   A sector of 512 bytes is written or not: disks promise that.
//! - *A failed sync.* Its pages count as clean afterwards, wherever their content is: some sectors were
//!   written, the others never will be, and the next sync says that all is well. Readers get what was
//!   written for as long as it stays in memory, and what the disk has after that (Rebello et al., "Can
//!   Applications Recover from fsync Failures?", USENIX ATC 2020, section 3: ext4 and xfs mark the pages
//!   clean and keep them). A process that starts again finds them like that; only a power cut makes the
//!   disk all that there is. Where space is given out late, a sync also tells that there is none
//!   (fsync(2): ENOSPC, EDQUOT).
//! - *A failed change of names.* The file system's own journal stops: nothing is changed any more until
//!   the machine starts again, and reads go on (ext4 with `errors=remount-ro`).
//! - *A failed write* may have been done in part.
//! - *A failed read* says nothing of the next one; and a read may bring less than was asked for.
//! - *No descriptors.* While too much is open nothing more can be opened, directories among it, to be listed
//!   or synced (open(2): EMFILE). What is open goes on.
//! - *Taking its time.* While something is under way others get on: [`SimulatedDisk::meanwhile`].

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    Chance, DiskFailure, Faults,
    file::SimulatedFile,
    inode::Inode,
    trouble::{Others, Told, Trouble},
};
use crate::{FileSystem, OpenMode, StoreFile, file::not_opened};

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

/// What it is made of.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) inodes: Vec<Inode>,
    pub(super) durable_names: BTreeMap<PathBuf, usize>,
    pub(super) names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<NameChange>,
    dirs: Vec<PathBuf>,
    handles: u64,
    /// Files that are open now, and how many may be.
    pub(super) open: u64,
    pub(super) descriptors: Option<u64>,
    /// Whether others have at once what is closed.
    pub(super) taken: bool,
    /// Operations that change something, so far.
    operations: u64,
    /// From this one on all fail: the power is gone.
    crash_at: Option<u64>,
    /// This many syncs from now one fails, and what it should have made durable is lost.
    pub(super) fail_sync_in: Option<u64>,
    /// This many reads from now one fails.
    pub(super) fail_read_in: Option<u64>,
    pub(super) capacity: Option<u64>,
    latency_max: Duration,
    read_only: bool,
    pub(super) trouble: Trouble,
    others: Option<Others>,
    told: Option<Told>,
    /// Of each file, the sectors that cannot be read, by where they begin.
    pub(super) unreadable: BTreeMap<usize, BTreeSet<u64>>,
    /// Of each file, how far it was read.
    pub(super) read_to: BTreeMap<usize, u64>,
}

/// The disk. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk(pub(super) Arc<Mutex<Disk>>);

impl SimulatedDisk {
    /// How many operations have changed something so far.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Up to where the file of that name was read so far.
    pub fn furthest_read(&self, path: &Path) -> u64 {
        let disk = self.0.lock();
        let inode = disk.names.get(path);
        inode.and_then(|inode| disk.read_to.get(inode)).copied().unwrap_or(0)
    }

    /// From this operation on all that change something fail: the power is gone. What was counted
    /// before counts.
    pub fn crash_at(&self, operation: u64) {
        self.0.lock().crash_at = Some(operation);
    }

    /// So many syncs from now one fails, and what it should have made durable is lost.
    pub fn fail_sync_in(&self, syncs: u64) {
        self.0.lock().fail_sync_in = Some(syncs);
    }

    /// So many reads from now one fails; none, if this is `None`.
    pub fn fail_read_in(&self, reads: Option<u64>) {
        self.0.lock().fail_read_in = reads;
    }

    /// From now on things go wrong, as this chance will have it.
    pub fn set_faults(&self, faults: Faults, chance: &Chance) {
        let mut disk = self.0.lock();
        disk.trouble.faults = faults;
        disk.trouble.chance = chance.clone();
    }

    /// Whether anything was written that the disk will never have, though it may still be read.
    pub fn has_forgotten(&self) -> bool {
        self.0.lock().trouble.forgot
    }

    /// Calls this whenever a write, a sync or a change of names is under way and before it is done:
    /// what others get on with while the disk takes its time. It may use the disk.
    pub fn meanwhile(&self, others: Option<Arc<dyn Fn() + Send + Sync>>) {
        self.0.lock().others = others.map(Others);
    }

    /// Calls this at each failure, but for those that only say again that nothing is changed any more.
    /// It must not use the disk.
    pub fn on_failure(&self, told: Option<Arc<dyn Fn(DiskFailure) + Send + Sync>>) {
        self.0.lock().told = told.map(Told);
    }

    /// What goes wrong with another one goes wrong with this one, but for its having stopped: this is the
    /// same device, after a kill or a power cut.
    pub fn goes_wrong_as(&self, other: &Self) {
        let (capacity, latency_max, fail_sync_in, fail_read_in, faults, chance) = {
            let other = other.0.lock();
            let Trouble { faults, chance, .. } = &other.trouble;
            let (capacity, latency_max) = (other.capacity, other.latency_max);
            let (fail_sync_in, fail_read_in) = (other.fail_sync_in, other.fail_read_in);
            (capacity, latency_max, fail_sync_in, fail_read_in, *faults, chance.clone())
        };
        let mut disk = self.0.lock();
        disk.capacity = capacity;
        disk.latency_max = latency_max;
        disk.fail_sync_in = fail_sync_in;
        disk.fail_read_in = fail_read_in;
        disk.trouble.faults = faults;
        disk.trouble.chance = chance;
    }

    /// How long it takes at most for whatever is asked of it, in simulated time; no time at first. The
    /// disk itself does not wait: whoever works on it does, as a store that is
    /// [`simulated`](crate::FileStoreOptions::simulated).
    pub fn set_latency_max(&self, latency: Duration) {
        self.0.lock().latency_max = latency;
    }

    /// How long whoever works on it waits at most before each step.
    pub fn latency_max(&self) -> Duration {
        self.0.lock().latency_max
    }

    pub(super) fn wait(&self) {
        let others = self.0.lock().others.clone();
        if let Some(Others(others)) = others {
            others();
        }
    }

    /// How many bytes it holds; without a limit at first.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// Whether a write may be told that there is no room.
    pub fn may_be_full(&self) -> bool {
        let disk = self.0.lock();
        disk.capacity.is_some() || disk.trouble.faults.writes > 0 || disk.trouble.faults.syncs > 0
    }

    /// Whether reads may fail.
    pub fn may_fail_to_read(&self) -> bool {
        let disk = self.0.lock();
        disk.trouble.faults.reads > 0 || disk.fail_read_in.is_some()
    }

    /// Whether nothing is changed any more until the machine starts again.
    pub fn has_stopped(&self) -> bool {
        self.0.lock().trouble.stopped
    }

    /// Whether it refuses every change.
    pub fn set_read_only(&self, read_only: bool) {
        self.0.lock().read_only = read_only;
    }

    /// How many more files may be open at a time than are now: as where others have the other descriptors of
    /// the process; with `taken` they have each at once that is closed. Without a limit at first.
    pub fn set_descriptors(&self, more: Option<u64>, taken: bool) {
        let mut disk = self.0.lock();
        disk.descriptors = more.map(|more| disk.open + more);
        disk.taken = taken;
    }

    /// Whether there is a limit to how many may be open.
    pub fn may_be_short(&self) -> bool {
        self.0.lock().descriptors.is_some()
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// The disk after a power cut.
    pub fn after_power_cut(&self, chance: &mut Chance) -> Self {
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
            if let Some(sectors) = old.unreadable.get(&inode) {
                disk.unreadable.insert(disk.inodes.len(), sectors.clone());
            }
            let inode = Inode::of(old.inodes[inode].torn(chance));
            disk.durable_names.insert(path.clone(), disk.inodes.len());
            disk.names.insert(path, disk.inodes.len());
            disk.inodes.push(inode);
        }
        Self(Arc::new(Mutex::new(disk)))
    }

    /// The disk after the process was killed: all that was written is there to be read.
    pub fn after_kill(&self) -> Self {
        let old = self.0.lock();
        let mut disk = Disk { dirs: old.dirs.clone(), ..Disk::default() };
        disk.inodes.clone_from(&old.inodes);
        disk.inodes.iter_mut().for_each(|inode| inode.locked = None);
        disk.names.clone_from(&old.names);
        disk.durable_names.clone_from(&old.durable_names);
        disk.pending_names.clone_from(&old.pending_names);
        disk.unreadable.clone_from(&old.unreadable);
        disk.trouble.stopped = old.trouble.stopped;
        disk.trouble.forgot = old.trouble.forgot;
        Self(Arc::new(Mutex::new(disk)))
    }

    /// All files and their lengths, ordered by path.
    pub fn files(&self) -> Vec<(PathBuf, usize)> {
        let disk = self.0.lock();
        let len =
            |(path, &inode): (&PathBuf, &usize)| (path.clone(), disk.inodes[inode].current.len());
        disk.names.iter().map(len).collect()
    }

    /// What readers get of a file.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let disk = self.0.lock();
        disk.inodes[disk.names[path]].current.clone()
    }

    /// Puts a file there, durably.
    pub fn put_file(&self, path: &Path, bytes: &[u8]) {
        let mut disk = self.0.lock();
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::of(bytes.to_vec()));
        disk.names.insert(path.to_owned(), inode);
        disk.durable_names.insert(path.to_owned(), inode);
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
    pub(super) fn operate(&mut self) -> io::Result<()> {
        if self.read_only || self.trouble.stopped {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.operations += 1;
        if self.crash_at == Some(self.operations) {
            self.tell(DiskFailure::Stopped);
        }
        if self.crash_at.is_some_and(|at| self.operations >= at) {
            return Err(io::Error::other("the power is gone"));
        }
        Ok(())
    }

    pub(super) fn tell(&self, failure: DiskFailure) {
        if let Some(Told(told)) = &self.told {
            told(failure);
        }
    }

    /// The error of opening something while too much is open.
    fn may_open(&self) -> io::Result<()> {
        if self.descriptors.is_none_or(|most| self.open < most) {
            return Ok(());
        }
        self.tell(DiskFailure::Open);
        Err(not_opened(io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error())))
    }

    /// Whether nothing is changed any more: nor is a part of anything.
    pub(super) fn is_dead(&self) -> bool {
        let gone = self.crash_at.is_some_and(|at| self.operations > at);
        gone || self.read_only || self.trouble.stopped
    }

    /// The same for names: when that fails, nothing is changed any more.
    fn operate_on_names(&mut self) -> io::Result<()> {
        self.operate()?;
        match self.trouble.name() {
            Some(error) => {
                self.trouble.stopped = true;
                self.tell(DiskFailure::Name);
                Err(error)
            }
            None => Ok(()),
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.names.values().map(|&inode| self.inodes[inode].current.len() as u64).sum()
    }

    fn rename(&mut self, change: NameChange) {
        apply_name(&mut self.names, &change);
        self.pending_names.push(change);
    }
}

impl FileSystem for SimulatedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.wait();
        let mut disk = self.0.lock();
        if !disk.dirs.iter().any(|known| known == dir) {
            disk.operate_on_names()?;
            disk.dirs.push(dir.to_owned());
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.0.lock();
        disk.may_open()?;
        if !disk.dirs.iter().any(|known| known == dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = disk.names.keys().chain(&disk.dirs);
        let inside = paths.filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>> {
        if mode == OpenMode::Create {
            self.wait();
        }
        let mut disk = self.0.lock();
        disk.may_open()?;
        if disk.read_only && mode != OpenMode::Read {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let inode = match disk.names.get(path) {
            Some(&inode) => inode,
            None if mode == OpenMode::Create => {
                disk.operate_on_names()?;
                let inode = disk.inodes.len();
                disk.inodes.push(Inode::default());
                disk.rename(NameChange::Link(path.to_owned(), inode));
                inode
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        disk.handles += 1;
        disk.open += 1;
        let handle = disk.handles;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), inode, handle }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.wait();
        let mut disk = self.0.lock();
        disk.operate_on_names()?;
        let inode = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        disk.rename(NameChange::Link(to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.wait();
        let mut disk = self.0.lock();
        disk.operate_on_names()?;
        disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        disk.rename(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.wait();
        let mut disk = self.0.lock();
        // The directory is opened for it.
        disk.may_open()?;
        disk.operate_on_names()?;
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
