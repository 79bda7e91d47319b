//! Wall clocks that can be stepped, one for each program: by `libfaketime`, which answers programs that ask for
//! the time of day, and lets monotonic clocks be.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::bad_network::Host;

/// What makes wall clocks differ from the machine's.
#[derive(Clone, Debug)]
pub(super) struct Clocks {
    library: PathBuf,
}

impl Clocks {
    /// `None` where there is no `libfaketime`: Debian has it in the package `faketime`.
    pub(super) fn find() -> Option<Self> {
        let mut folders = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/local/lib")];
        let of_architectures = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        folders.extend(of_architectures.map(|entry| entry.path()));
        // There may be one for another kind of program, too.
        let is_other = |folder: &PathBuf| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            !name.starts_with(std::env::consts::ARCH)
        };
        folders.sort_by_key(is_other);
        let mut places = folders.into_iter().map(|folder| folder.join("faketime").join(LIBRARY));
        places.find(|place| place.exists()).map(|library| Self { library })
    }
}

/// The wall clock of what runs on one host.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    clocks: Option<Clocks>,
    /// By how much it is wrong.
    file: PathBuf,
    offset: i64,
}

impl Clock {
    /// One that is right. The file is its own.
    pub(super) fn new(clocks: Option<Clocks>, file: PathBuf) -> io::Result<Self> {
        let mut clock = Self { clocks, file, offset: 0 };
        clock.set(0)?;
        Ok(clock)
    }

    /// A program that runs on a host with this clock, with its arguments to be added.
    pub(super) fn command(&self, host: &Host, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        let Some(Clocks { library }) = &self.clocks else { return host.command(program) };
        // `ip` is to have the machine's own.
        let mut command = host.command("env");
        command.arg(format!("LD_PRELOAD={}", library.display()));
        command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()));
        command.args(["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"]);
        command.arg(program);
        command
    }

    /// It is wrong by so many seconds from now on; for programs that run, too.
    pub(super) fn set(&mut self, offset: i64) -> io::Result<()> {
        // In one step, so that nobody reads half of it.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset:+}\n"))?;
        fs::rename(&new, &self.file)?;
        self.offset = offset;
        Ok(())
    }

    /// Whether a program that says that it is `shown` goes by this clock. Both are milliseconds since 1970, or
    /// within a day.
    pub(super) fn check(&self, shown: i64, is_of_a_day: bool) -> io::Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let wanted = since.as_millis() as i64 + self.offset * 1_000;
        let difference = match is_of_a_day {
            true => (shown - wanted + DAY / 2).rem_euclid(DAY) - DAY / 2,
            false => shown - wanted,
        };
        if difference.abs() < TOLERANCE {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "its clock is to be wrong by {} s, and is off that by {difference} ms",
            self.offset
        )))
    }
}

/// Removes what `libfaketime` leaves of a program that was killed: a later one of the same number would take it for
/// its own.
pub(super) fn forget(pid: u32) {
    for name in ["faketime_shm_", "sem.faketime_sem_"] {
        // It is not there where the program ended by itself.
        let _ = fs::remove_file(format!("/dev/shm/{name}{pid}"));
    }
}

/// The milliseconds of the day with which the last line of a log begins that begins with a time.
pub(super) fn time_of_last_line(log: &str) -> Option<i64> {
    log.lines().rev().find_map(|line| {
        let (_, time) = line.split_whitespace().next()?.split_once('T')?;
        let mut parts = time.trim_end_matches('Z').split([':', '.']).map(str::parse::<i64>);
        let mut next = || parts.next()?.ok();
        Some(((next()? * 60 + next()?) * 60 + next()?) * 1_000)
    })
}

/// That for programs of several threads.
const LIBRARY: &str = "libfaketimeMT.so.1";
const DAY: i64 = 86_400_000;
/// What two busy processors may make of asking for the time; less than any step.
const TOLERANCE: i64 = 30_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_log_is_that_of_its_last_line_with_one() {
        let log = "2026-11-23T00:00:01.5Z  INFO a\n2026-11-23T10:20:30.123Z  INFO b\n  more of b\n";
        assert_eq!(time_of_last_line(log), Some(((10 * 60 + 20) * 60 + 30) * 1_000));
        assert_eq!(time_of_last_line("no time\n"), None);
    }

    #[test]
    fn a_clock_that_is_not_stepped_is_found_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut clock = Clock::new(None, folder.path().join("clock")).expect("a clock");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now").as_millis() as i64;
        clock.check(now, false).expect("right");
        clock.check(now % DAY, true).expect("right");
        clock.set(-120).expect("set");
        clock.check(now, false).expect_err("it stands where it stood");
        clock.check(now % DAY, true).expect_err("it stands where it stood");
        clock.check((now - 120_000).rem_euclid(DAY), true).expect("stepped");
    }
}
