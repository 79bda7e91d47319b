//! What is done to a simulated disk behind everybody's back.

use std::path::{Path, PathBuf};

use super::{Chance, disk::SimulatedDisk, inode::SECTOR};

impl SimulatedDisk {
    /// Changes a file behind everybody's back: what is there now is durable.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.0.lock();
        let inode = disk.names[path];
        let inode = &mut disk.inodes[inode];
        edit(&mut inode.current);
        inode.durable.clone_from(&inode.current);
        inode.pending.clear();
    }

    /// Damages a sector of a file that is not blank: a bit, all of it, or another sector in its place.
    /// Says which file, and what.
    ///
    /// # Panics
    /// When it holds no file with anything in it.
    pub fn damage(&self, chance: &mut Chance) -> (PathBuf, String) {
        let files: Vec<_> = self.files().into_iter().filter(|(_, len)| *len > 0).collect();
        let (from, from_len) = &files[chance.below(files.len() as u64) as usize];
        let from = self.content(from);
        let sector = |at: usize, bytes: &[u8]| at..bytes.len().min(at + SECTOR);
        let from_at = chance.below(from_len.div_ceil(SECTOR) as u64) as usize * SECTOR;
        let source = from[sector(from_at, &from)].to_vec();
        let (path, _) = &files[chance.below(files.len() as u64) as usize];
        let content = self.content(path);
        let starts: Vec<_> = (0..content.len()).step_by(SECTOR).collect();
        let used = |at: &&usize| content[sector(**at, &content)].iter().any(|&byte| byte != 0);
        let used: Vec<_> = starts.iter().filter(used).collect();
        let Some(&&at) = used.get(chance.below(used.len() as u64) as usize) else {
            return (path.clone(), "nothing".to_owned());
        };
        let how = chance.below(3);
        let what = ["a bit", "nothing left", "another sector"][how as usize];
        let place = at + chance.below(sector(at, &content).len() as u64) as usize;
        self.edit(path, |bytes| match how {
            0 => bytes[place] ^= 1 << chance.below(8),
            1 => bytes[sector(at, &content)].fill(0),
            _ => {
                let into = &mut bytes[sector(at, &content)];
                let len = into.len().min(source.len());
                into[..len].copy_from_slice(&source[..len]);
            }
        });
        (path.clone(), format!("{what} at {at}"))
    }

    /// The sector of a file that this byte lies in cannot be read any more, until it is written.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn spoil(&self, path: &Path, byte: u64) {
        let mut disk = self.0.lock();
        let inode = disk.names[path];
        disk.unreadable.entry(inode).or_default().insert(byte - byte % SECTOR as u64);
    }

    /// All sectors can be read again, with what they had: the device came back.
    pub fn mend_sectors(&self) {
        self.0.lock().unreadable.clear();
    }

    /// Gives each of two files the other's name.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn swap(&self, a: &Path, b: &Path) {
        let mut disk = self.0.lock();
        let (of_a, of_b) = (disk.names[a], disk.names[b]);
        for names in [true, false] {
            let names = if names { &mut disk.names } else { &mut disk.durable_names };
            names.insert(a.to_owned(), of_b);
            names.insert(b.to_owned(), of_a);
        }
    }
}
