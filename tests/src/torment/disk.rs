//! A disk in memory, with a file system on it, that refuses to be written when it is told to: zram, whose limit of
//! memory can be set while it is in use. What was written before can be read all the while.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::device::run;

/// There until this is dropped, if nobody has a file open there.
pub(super) struct Disk {
    number: u32,
    /// Where it is mounted, on a file system that passes on to all hosts what is mounted and unmounted there.
    at: PathBuf,
}

impl Disk {
    /// One that is mounted in a folder of this one, which is made for it.
    pub(super) fn new(folder: &Path, mib: u32) -> io::Result<Self> {
        let number = fs::read_to_string("/sys/class/zram-control/hot_add")?;
        let number = number.trim().parse().map_err(io::Error::other)?;
        let disk = Self { number, at: folder.join("disk") };
        disk.set("disksize", &format!("{mib}M"))?;
        let device = disk.device();
        let now = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-E", now]).arg(&device))?;
        fs::create_dir_all(folder)?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder))?;
        // Programs on other hosts see it as it was when they were started; so they let go of it, too.
        run(Command::new("mount").arg("--make-shared").arg(folder))?;
        fs::create_dir(&disk.at)?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    /// From now on nothing is written to it: what is tried fails, some of it later, when it is synced.
    pub(super) fn refuse_writes(&self) -> io::Result<()> {
        // One page, which is less than it has.
        self.set("mem_limit", "4096")
    }

    /// It takes what is written again. Nobody may have a file open there; what it had not taken is gone, also from
    /// the memory of this machine.
    pub(super) fn heal(&self) -> io::Result<()> {
        self.set("mem_limit", "0")?;
        insist(|| run(Command::new("umount").arg(&self.at)))?;
        // 1 is what it ends by where it found something to mend, as after errors there is.
        let mend = || {
            let output = Command::new("e2fsck").args(["-p", "-f"]).arg(self.device()).output()?;
            let said = String::from_utf8_lossy(&output.stdout);
            let is_sound = matches!(output.status.code(), Some(0 | 1));
            if is_sound { Ok(()) } else { Err(io::Error::other(format!("e2fsck: {said}"))) }
        };
        insist(mend)?;
        self.mount()
    }

    fn mount(&self) -> io::Result<()> {
        run(Command::new("mount").args(["-t", "ext4"]).arg(self.device()).arg(&self.at))
    }

    fn device(&self) -> PathBuf {
        format!("/dev/zram{}", self.number).into()
    }

    fn set(&self, name: &str, value: &str) -> io::Result<()> {
        fs::write(format!("/sys/block/zram{}/{name}", self.number), value)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.set("mem_limit", "0");
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.at));
        if let Some(folder) = self.at.parent() {
            let _ = run(Command::new("umount").arg("--lazy").arg(folder));
        }
        // Programs that were killed may take a moment to let go of it.
        let removed = insist(|| fs::write(HOT_REMOVE, self.number.to_string()));
        if let Err(error) = removed {
            println!("zram{} is left behind: {error}", self.number);
        }
    }
}

/// Tries again for a while what may be in use still.
fn insist(mut what: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let until = Instant::now() + INSIST_MAX;
    loop {
        match what() {
            Err(_) if Instant::now() < until => thread::sleep(AGAIN),
            done => return done,
        }
    }
}

const HOT_REMOVE: &str = "/sys/class/zram-control/hot_remove";
const INSIST_MAX: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write as _};

    use super::*;
    use crate::{require, skipped, torment::device::Device};

    #[test]
    fn what_refuses_writes_keeps_what_it_had_and_takes_something_again() {
        if !Device::may_fail() {
            return skipped(require::DISKS, "a disk that refuses writes", &"there may be no zram");
        }
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(&folder.path().join("device"), 64).unwrap();
        let noise = |seed: u32| -> Vec<u8> {
            (0..64_u32 << 10)
                .map(|n| (n ^ seed).wrapping_mul(0x9e37_79b9).to_be_bytes()[0])
                .collect()
        };
        let path = disk.at().join("file");
        let write = |bytes: &[u8]| {
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        for turn in 0..3 {
            write(&noise(turn)).unwrap();
            disk.refuse_writes().unwrap();
            let other = disk.at().join("other");
            let refused = File::create(other).and_then(|mut file| {
                file.write_all(&noise(9))?;
                file.sync_all()
            });
            assert!(refused.is_err());
            assert!(fs::read(&path).unwrap() == noise(turn));
            disk.heal().unwrap();
            assert!(fs::read(&path).unwrap() == noise(turn));
        }
    }
}
