//! What the operating system says of the server's process.

use std::fs;

use serde::Serialize;

use crate::cli::CliError;

/// Processor time and memory of a process, all its threads together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_bytes: u64,
}

/// Memory before and after a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct RssBytes {
    pub(super) before: u64,
    pub(super) after: u64,
}

impl Usage {
    /// Those of all these processes together; `None` where none is named.
    pub(super) fn of_all(pids: &[u32]) -> Result<Option<Self>, CliError> {
        let all = pids.iter().map(|pid| Self::of(*pid)).collect::<Result<Vec<_>, _>>()?;
        Ok(all.into_iter().reduce(|one, other| Self {
            cpu_seconds: one.cpu_seconds + other.cpu_seconds,
            rss_bytes: one.rss_bytes + other.rss_bytes,
        }))
    }

    /// Reads them now.
    pub(crate) fn of(pid: u32) -> Result<Self, CliError> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path)
                .map_err(|error| CliError::Failed(format!("{path} cannot be read: {error}")))
        };
        let odd = || CliError::Failed(format!("/proc/{pid} does not look as it should"));
        let ticks = cpu_ticks(&read("stat")?).ok_or_else(odd)?;
        let pages = rss_pages(&read("statm")?).ok_or_else(odd)?;
        Ok(Self {
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            rss_bytes: pages * rustix::param::page_size() as u64,
        })
    }
}

/// User and system time of `/proc/PID/stat`. The name in it may hold anything, so fields are
/// counted from behind it.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn rss_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_fields_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 8 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(rss_pages("500 123 40 1 0 2 0"), Some(123));
        assert_eq!(cpu_ticks("nonsense"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 1 << 20, "{usage:?}");
        assert!(Usage::of(u32::MAX).is_err());
        let own = std::process::id();
        let twice = Usage::of_all(&[own, own]).unwrap().unwrap();
        assert!(twice.rss_bytes > usage.rss_bytes * 3 / 2, "{twice:?} of {usage:?}");
        assert!(Usage::of_all(&[]).unwrap().is_none());
        assert!(Usage::of_all(&[own, u32::MAX]).is_err());
    }
}
