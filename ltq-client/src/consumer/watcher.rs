//! How whoever lends consumers their credit hears of them without asking.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Which of many consumers changed since somebody looked.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Each at most once.
    numbers: Mutex<Vec<u64>>,
    notify: Notify,
    /// It is of interest too when one may need less than it did.
    is_attentive: AtomicBool,
}

impl Changes {
    /// Whether it is of interest too when a consumer may need less than it did. Returns whether it is since
    /// now: those that do by now were not noted.
    pub(crate) fn set_attentive(&self, is_attentive: bool) -> bool {
        is_attentive != self.is_attentive.load(Ordering::Relaxed)
            && !self.is_attentive.swap(is_attentive, Ordering::SeqCst)
    }

    /// There is another reason to look.
    pub(crate) fn look_here(&self) {
        self.notify.notify_one();
    }

    /// Waits until there is something to look at; returns at once if there was since the last time.
    /// Cancel safe.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }

    /// Takes the numbers of those that changed. `into` is empty, and lends its memory.
    pub(crate) fn take(&self, into: &mut Vec<u64>) {
        mem::swap(&mut *self.numbers.lock(), into);
    }
}

/// Notes when its consumer comes, goes, has used up its credit, has given credit back, has settled what makes
/// room for others, or, where somebody waits for that, may need less than it did.
#[derive(Debug)]
pub(crate) struct Watcher {
    number: u64,
    is_noted: AtomicBool,
    changes: Arc<Changes>,
}

impl Watcher {
    pub(crate) const fn new(number: u64, changes: Arc<Changes>) -> Self {
        Self { number, is_noted: AtomicBool::new(false), changes }
    }

    /// Something changed. Locks nothing that waits for anybody.
    pub(crate) fn note(&self) {
        if !self.is_noted.swap(true, Ordering::AcqRel) {
            self.changes.numbers.lock().push(self.number);
            self.changes.notify.notify_one();
        }
    }

    /// It may need less than it did: it is idle, or was granted more.
    pub(crate) fn note_slack(&self) {
        if self.changes.is_attentive.load(Ordering::SeqCst) {
            self.note();
        }
    }

    /// Somebody is about to look: what changes from here on is news.
    pub(crate) fn rest(&self) {
        self.is_noted.swap(false, Ordering::AcqRel);
    }
}
