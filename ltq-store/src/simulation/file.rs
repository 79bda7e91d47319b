//! The files of a simulated disk, as a store works on them.

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
};

use super::{
    DiskFailure,
    disk::{Disk, SimulatedDisk},
    inode::SECTOR,
    trouble::broken,
};
use crate::StoreFile;

/// A file that was opened.
#[derive(Debug)]
pub(super) struct SimulatedFile {
    pub(super) disk: SimulatedDisk,
    pub(super) inode: usize,
    pub(super) handle: u64,
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        let mut disk = self.disk.0.lock();
        disk.open -= 1;
        if disk.taken {
            disk.descriptors = disk.descriptors.map(|most| most.saturating_sub(1));
        }
        let inode = &mut disk.inodes[self.inode];
        if inode.locked == Some(self.handle) {
            inode.locked = None;
        }
    }
}

impl StoreFile for SimulatedFile {
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let mut disk = self.disk.0.lock();
        let Disk { trouble, inodes, unreadable, fail_read_in, .. } = &mut *disk;
        let inode = &mut inodes[self.inode];
        if inode.forgotten && trouble.chance.one_in(4) {
            inode.evict();
        }
        let told = *fail_read_in == Some(0);
        *fail_read_in = fail_read_in.and_then(|left| left.checked_sub(1));
        let fails = trouble.read() || told;
        if fails || is_unreadable(unreadable.get(&self.inode), into.len(), position) {
            disk.tell(DiskFailure::Read);
            return Err(broken());
        }
        let most = if trouble.is_short() { into.len().div_ceil(2) } else { into.len() };
        let into = into.get_mut(..most).unwrap_or_default();
        let rest = inode.current.get(position as usize..).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        let read_to = disk.read_to.entry(self.inode).or_default();
        *read_to = (*read_to).max(position + len as u64);
        Ok(len)
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.disk.wait();
        let mut disk = self.disk.0.lock();
        let mut data = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| data.extend_from_slice(part));
        let (position, all) = (position as usize, data.len());
        let more = (position + all).saturating_sub(disk.inodes[self.inode].current.len()) as u64;
        let done = disk.operate().and_then(|()| {
            let full = disk.capacity.is_some_and(|capacity| disk.used() + more > capacity);
            if full && more > 0 {
                disk.tell(DiskFailure::NoRoom);
                return Err(io::ErrorKind::StorageFull.into());
            }
            let failed = disk.trouble.write();
            failed.map_or(Ok(()), |error| {
                disk.tell(DiskFailure::Write);
                Err(error)
            })
        });
        if disk.is_dead() {
            return done;
        }
        if done.is_err() {
            // It may have been done in part.
            data.truncate(all / 2);
        }
        if let Some(unreadable) = disk.unreadable.get_mut(&self.inode) {
            // A disk puts another sector in the place of a bad one that is written.
            unreadable.retain(|&at| at < position as u64 || at >= (position + data.len()) as u64);
        }
        disk.inodes[self.inode].write(position, data);
        done
    }

    fn sync(&self) -> io::Result<()> {
        // What is written from now on need not be in it.
        let count = self.disk.0.lock().inodes[self.inode].pending.len();
        self.disk.wait();
        let mut disk = self.disk.0.lock();
        disk.operate()?;
        let Disk { fail_sync_in, trouble, inodes, .. } = &mut *disk;
        let told = (*fail_sync_in == Some(0)).then(broken);
        *fail_sync_in = fail_sync_in.map(|left| left.wrapping_sub(1));
        let inode = &mut inodes[self.inode];
        if let Some(error) = told.or_else(|| trouble.sync()) {
            trouble.forgot = true;
            inode.forget(count, &mut trouble.chance);
            disk.tell(DiskFailure::Sync);
            return Err(error);
        }
        inode.settle(count);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.wait();
        let mut disk = self.disk.0.lock();
        disk.operate()?;
        if let Some(error) = disk.trouble.write() {
            disk.tell(DiskFailure::Write);
            return Err(error);
        }
        disk.inodes[self.inode].set_len(len as usize);
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

fn is_unreadable(sectors: Option<&BTreeSet<u64>>, len: usize, position: u64) -> bool {
    let first = position - position % SECTOR as u64;
    sectors.is_some_and(|sectors| sectors.range(first..position + len as u64).next().is_some())
}
