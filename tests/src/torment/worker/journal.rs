use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{BROKEN, uptime_ms};
use crate::Stalls;

/// Where it is written down what became of messages. See [`worker`](super).
pub(in crate::torment) struct Journal {
    file: Mutex<File>,
    /// By topic.
    taken: Mutex<BTreeMap<String, BTreeSet<String>>>,
    news: Notify,
}

impl Journal {
    /// Goes on behind what somebody wrote who was killed.
    pub(in crate::torment) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(format!("{BROKEN}\n").as_bytes())?;
            }
        }
        Ok(Self { file: Mutex::new(file), taken: Mutex::default(), news: Notify::new() })
    }

    pub(in crate::torment) fn write(&self, line: &str) -> io::Result<()> {
        // In one call, so that whoever reads it meanwhile sees whole lines, but for the last.
        self.file.lock().write_all(format!("{}\n", line.replace('\n', " ")).as_bytes())
    }

    /// Writes down from now on when this program is kept from running.
    pub(in crate::torment) fn watch_stalls(self: &Arc<Self>) -> Stalls {
        let journal = self.clone();
        Stalls::watch_and(move |stall| {
            let Ok(to) = uptime_ms() else { return };
            let from = to.saturating_sub((stall.to - stall.from).as_millis() as u64);
            // Where nothing can be written, whoever waits for the machine finds out by itself.
            let _ = journal.write(&format!("S\t-\t-\t{from}\t{to}"));
        })
    }

    /// A message was taken.
    pub(super) fn note(&self, topic: &str, body: String) {
        if super::is_ordered(topic) {
            self.taken.lock().entry(topic.to_owned()).or_default().insert(body);
            self.news.notify_waiters();
        }
    }

    /// Waits until all of them were taken, and forgets them.
    pub(super) async fn taken(&self, topic: &str, bodies: &mut BTreeSet<String>) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(taken) = self.taken.lock().get(topic) {
                bodies.retain(|body| !taken.contains(body));
            }
            if bodies.is_empty() {
                return;
            }
            news.await;
        }
    }
}
