//! The device that a node has for itself, which can be full.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::disk::Disk;

/// A small file system in memory, mounted until this is dropped.
pub(super) struct Device {
    at: PathBuf,
    /// What it is on, if that can refuse to be written.
    disk: Option<Disk>,
}

impl Device {
    /// One at a folder that is made for it.
    pub(super) fn new(at: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&at)?;
        let size = format!("size={MIB}m");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at))?;
        Ok(Self { at, disk: None })
    }

    /// The same, which can refuse to be written, too.
    pub(super) fn on_disk(at: &Path) -> io::Result<Self> {
        let disk = Disk::new(at, MIB)?;
        Ok(Self { at: disk.at().to_owned(), disk: Some(disk) })
    }

    /// Whether there may be one here.
    pub(super) fn is_permitted() -> bool {
        let Ok(folder) = tempfile::tempdir() else { return false };
        Self::new(folder.path().join("device")).is_ok()
    }

    /// Whether there may be one here that refuses to be written.
    pub(super) fn may_fail() -> bool {
        let Ok(folder) = tempfile::tempdir() else { return false };
        Self::on_disk(&folder.path().join("device")).is_ok()
    }

    /// What it is on, if that can refuse to be written.
    pub(super) fn disk(&self) -> io::Result<&Disk> {
        self.disk.as_ref().ok_or_else(|| io::Error::other("it is on no disk"))
    }

    /// Where a node has its data.
    pub(super) fn data(&self) -> PathBuf {
        self.at.join("data")
    }

    /// Takes up all the room that is left, or gives it back.
    pub(super) fn fill(&self, is_full: bool) -> io::Result<()> {
        let ballast = self.at.join("ballast");
        if !is_full {
            fs::remove_file(ballast)?;
            // Or it is full again when writes are refused next, and what was not written by then is lost.
            return fs::File::open(&self.at)?.sync_all();
        }
        let mut file = fs::OpenOptions::new().create(true).append(true).open(ballast)?;
        for size in [1 << 20, 4 << 10] {
            let block = vec![0; size];
            loop {
                match file.write_all(&block) {
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    written => written?,
                }
            }
        }
        Ok(())
    }

    /// Copies what is on it to a folder that stays.
    pub(super) fn keep(&self, to: &Path) -> io::Result<()> {
        let copied = Command::new("cp").arg("-a").arg(self.data()).arg(to).status()?;
        if copied.success() { Ok(()) } else { Err(io::Error::other(format!("cp: {copied}"))) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.disk.is_some() {
            return;
        }
        // Whoever still has files open there keeps it until they are closed.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).stderr(Stdio::null()).status();
    }
}

/// Runs a program that ends by itself, and has to end well.
pub(super) fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{}: {said}", command.get_program().to_string_lossy())))
}

/// Much more than a node needs that is consumed from.
const MIB: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{require, skipped};

    #[test]
    fn what_is_full_no_more_has_room_after_writes_were_refused() {
        if !Device::may_fail() {
            return skipped(require::DISKS, "a disk that refuses writes", &"there may be no zram");
        }
        let folder = tempfile::tempdir().unwrap();
        let device = Device::on_disk(&folder.path().join("device")).unwrap();
        device.fill(true).unwrap();
        device.fill(false).unwrap();
        device.disk().unwrap().refuse_writes().unwrap();
        device.disk().unwrap().heal().unwrap();
        fs::write(device.data(), vec![1; 8 << 20]).unwrap();
    }

    #[test]
    fn what_is_full_takes_nothing_and_then_something_again() {
        let folder = tempfile::tempdir().unwrap();
        if !Device::is_permitted() {
            return skipped(require::MOUNTS, "a full device", &"mounting is not allowed here");
        }
        let device = Device::new(folder.path().join("device")).unwrap();
        let file = device.data();
        fs::write(&file, "one").unwrap();
        for _ in 0..2 {
            device.fill(true).unwrap();
            let error = fs::write(folder.path().join("device/more"), vec![1; 8 << 10]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            device.fill(false).unwrap();
            fs::write(&file, vec![1; 8 << 10]).unwrap();
        }
        device.keep(&folder.path().join("kept")).unwrap();
        assert_eq!(fs::read(folder.path().join("kept")).unwrap(), vec![1; 8 << 10]);
    }
}
