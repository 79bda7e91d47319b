//! What the device can do by itself, which a store on it can at best come near to: how fast a file
//! is written from its beginning to its end, how fast it is read again once it is no longer in
//! memory, and how many small appends a second can be synced, one at a time.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use serde::Serialize;

use super::{
    report::{Latency, facts, grouped},
    run::histogram,
};
use crate::cli::CliError;

/// What the device did.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Device {
    mode: &'static str,
    /// Of the file that was written and read.
    bytes: u64,
    write_bytes_per_second: f64,
    read_bytes_per_second: f64,
    /// Of each append.
    size: usize,
    syncs: u64,
    seconds: f64,
    syncs_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<Latency>,
}

impl Device {
    /// Writes and reads a file of `bytes` in `dir`, then appends `size` bytes and syncs them, again
    /// and again for `duration`, to another. Both are removed afterwards.
    pub(super) fn measure(
        dir: &Path,
        bytes: u64,
        size: usize,
        duration: Duration,
    ) -> Result<Self, CliError> {
        let path = |what| dir.join(format!(".ltq-bench-{}-{what}", std::process::id()));
        let failed =
            |error| CliError::Failed(format!("{} cannot be measured: {error}", dir.display()));
        let (write, read) = removed(&path("stream"), |path| {
            let write = written(path, bytes)?;
            Ok((write, read(path)?))
        })
        .map_err(failed)?;
        let (seconds, each) =
            removed(&path("append"), |path| append(path, size, duration)).map_err(failed)?;
        let (syncs, mut latency) = (each.len() as u64, histogram());
        each.into_iter().for_each(|micros| latency.saturating_record(micros));
        Ok(Self {
            mode: "device",
            bytes,
            write_bytes_per_second: rate(bytes, write),
            read_bytes_per_second: rate(bytes, read),
            size,
            syncs,
            seconds,
            syncs_per_second: syncs as f64 / seconds.max(f64::MIN_POSITIVE),
            latency_us: Latency::of(&latency),
        })
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mib = self.bytes >> 20;
        let stream = |rate: f64| format!("{} MB/s, {mib} MiB in one file", grouped(rate / 1e6));
        let mut rows = vec![
            ("written and synced", stream(self.write_bytes_per_second)),
            ("read", stream(self.read_bytes_per_second)),
            (
                "syncs",
                format!(
                    "{}/s, one at a time, {} of {} bytes in {:.3} s",
                    grouped(self.syncs_per_second),
                    self.syncs,
                    self.size,
                    self.seconds
                ),
            ),
        ];
        if let Some(latency) = &self.latency_us {
            rows.push(("each", latency.line()));
        }
        facts(&rows)
    }
}

/// What was done with a file that is then removed, whatever came of it.
fn removed<T>(path: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let done = with(path);
    let removed = std::fs::remove_file(path);
    done.and_then(|done| removed.map(|()| done))
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// Writes a file whose space is reserved beforehand, a sync for every few dozen MiB as a store's
/// group commits would have it, so that the last one does not find everything still in memory.
fn written(path: &Path, bytes: u64) -> io::Result<Duration> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    // Where a file system cannot, the file grows as it is written.
    let _ = fallocate(&file, FallocateFlags::empty(), 0, bytes);
    file.sync_all()?;
    let block = vec![7; BLOCK_BYTES];
    let start = Instant::now();
    let (mut left, mut unsynced) = (bytes, 0);
    while left > 0 {
        let part = left.min(BLOCK_BYTES as u64);
        file.write_all(block.get(..part as usize).unwrap_or(&block))?;
        left -= part;
        unsynced += part;
        if unsynced >= SYNC_BYTES || left == 0 {
            file.sync_data()?;
            unsynced = 0;
        }
    }
    Ok(start.elapsed())
}

/// Reads it from the device: what the page cache holds of it is given up before.
fn read(path: &Path) -> io::Result<Duration> {
    let mut file = File::open(path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    fadvise(&file, 0, None, Advice::Sequential)?;
    let mut block = vec![0; BLOCK_BYTES];
    let start = Instant::now();
    while file.read(&mut block)? > 0 {}
    Ok(start.elapsed())
}

fn append(path: &Path, size: usize, duration: Duration) -> io::Result<(f64, Vec<u64>)> {
    let mut file = OpenOptions::new().append(true).create_new(true).open(path)?;
    let block = vec![7; size];
    let mut each = Vec::new();
    let start = Instant::now();
    let mut last = start;
    while last.duration_since(start) < duration || each.is_empty() {
        file.write_all(&block)?;
        file.sync_data()?;
        let now = Instant::now();
        each.push(u64::try_from(now.duration_since(last).as_micros()).unwrap_or(u64::MAX));
        last = now;
    }
    Ok((last.duration_since(start).as_secs_f64(), each))
}

const BLOCK_BYTES: usize = 1 << 20;
const SYNC_BYTES: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_measured_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = (3 << 20) + 5;
        let device = Device::measure(dir.path(), bytes, 100, Duration::from_millis(5)).unwrap();
        assert!(device.syncs > 0 && device.syncs_per_second > 0.0, "{device:?}");
        assert!(device.write_bytes_per_second > 0.0, "{device:?}");
        assert!(device.read_bytes_per_second > 0.0, "{device:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(Device::measure(Path::new("/no/such/dir"), 1, 1, Duration::ZERO).is_err());
    }

    #[test]
    fn a_file_is_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        written(&path, SYNC_BYTES + 7).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SYNC_BYTES + 7);
    }
}
