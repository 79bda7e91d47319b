//! What the device can do by itself: appends to a file, each followed by a sync, one at a time.

use std::{
    fs::OpenOptions,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    report::{Latency, facts, grouped},
    run::histogram,
};
use crate::cli::CliError;

/// What the device did.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Fsyncs {
    mode: &'static str,
    size: usize,
    syncs: u64,
    seconds: f64,
    syncs_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<Latency>,
}

impl Fsyncs {
    /// Appends `size` bytes and syncs them, again and again for `duration`, to a file in `dir`
    /// that is removed afterwards.
    pub(super) fn measure(dir: &Path, size: usize, duration: Duration) -> Result<Self, CliError> {
        let path = dir.join(format!(".ltq-bench-{}", std::process::id()));
        let measured = append(&path, size, duration);
        let removed = std::fs::remove_file(&path);
        let (mut syncs, mut latency) = (0, histogram());
        let seconds = measured.and_then(|(seconds, each)| {
            removed.map(|()| {
                syncs = each.len() as u64;
                each.into_iter().for_each(|micros| latency.saturating_record(micros));
                seconds
            })
        });
        let seconds = seconds.map_err(|error| {
            CliError::Failed(format!("{} cannot be measured: {error}", dir.display()))
        })?;
        Ok(Self {
            mode: "fsync",
            size,
            syncs,
            seconds,
            syncs_per_second: syncs as f64 / seconds.max(f64::MIN_POSITIVE),
            latency_us: Latency::of(&latency),
        })
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let rate = grouped(self.syncs_per_second);
        let mut rows = vec![
            ("syncs", format!("{} of {} bytes in {:.3} s", self.syncs, self.size, self.seconds)),
            ("rate", format!("{rate} syncs/s, one at a time")),
        ];
        if let Some(latency) = &self.latency_us {
            rows.push(("each", latency.line()));
        }
        facts(&rows)
    }
}

fn append(path: &Path, size: usize, duration: Duration) -> std::io::Result<(f64, Vec<u64>)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_measured_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let fsyncs = Fsyncs::measure(dir.path(), 100, Duration::from_millis(5)).unwrap();
        assert!(fsyncs.syncs > 0 && fsyncs.syncs_per_second > 0.0, "{fsyncs:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(Fsyncs::measure(Path::new("/no/such/dir"), 1, Duration::ZERO).is_err());
    }
}
