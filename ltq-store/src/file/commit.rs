//! From admitted to visible: written together, synced once, shown in order.

use std::{
    io::{self, IoSlice},
    sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use ltq_core::{Durability, StoreError};
use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::{
    engine::{Caller, Engine, INLINE_BYTES_MAX},
    front::{Front, Queued},
    journal::JournalFile,
};

/// What whoever writes entries needs.
#[derive(Debug, Default)]
pub(super) struct Writing {
    /// Files with entries that were not synced yet.
    dirty: Vec<JournalFile>,
    /// The entries at hand, kept for its memory.
    entries: Vec<Queued>,
}

impl Engine {
    /// Sees to it that a batch which just came in gets on: with a short write or sync here and now
    /// when that is all it needs and nobody else is at it, else by the thread.
    pub(super) fn begin(
        &self,
        mut front: MutexGuard<'_, Front>,
        durability: Durability,
        caller: Caller,
    ) {
        let short = front.queue_bytes() <= INLINE_BYTES_MAX;
        if short && durability == Durability::Disk && self.may_sync(caller) {
            // Nobody who syncs waits for `writing` while it is held here: both are only tried.
            if let Some(syncing) = self.syncing.try_lock()
                && let Some(mut writing) = self.writing.try_lock()
            {
                let last = front.take_queue(&mut writing.entries);
                drop(front);
                // A failure reaches the caller as its commit's answer.
                let _ = self.write(writing, last).and_then(|()| self.sync_held(&syncing, last));
                drop(syncing);
                self.show();
                return;
            }
        }
        let short = short && durability == Durability::Os;
        if let Some(mut writing) = short.then(|| self.writing.try_lock()).flatten() {
            let last = front.take_queue(&mut writing.entries);
            drop(front);
            // A failure reaches the caller as its commit's answer.
            let _ = self.write(writing, last);
            self.show();
            let (_, sync) = self.front.lock().waits();
            if sync || !self.timed.load(SeqCst) {
                self.commit_signal.raise();
            }
            return;
        }
        drop(front);
        self.commit_signal.raise();
    }

    /// Writes all entries that wait to be written, syncs them if `sync`, and shows the batches
    /// that this was enough for.
    pub(super) fn flush(&self, sync: bool) -> Result<(), StoreError> {
        let mut writing = self.writing.lock();
        let last = self.front.lock().take_queue(&mut writing.entries);
        self.write(writing, last)?;
        if !sync {
            self.show();
            return Ok(());
        }
        if self.front.lock().waits().0 {
            self.show();
        }
        self.sync(last)?;
        self.show();
        Ok(())
    }

    /// What is to be done now, as far as it can be told.
    pub(super) fn commit_step(&self, sync_due: bool) -> Result<(), StoreError> {
        let (_, sync) = self.front.lock().waits();
        self.flush(sync || sync_due)
    }

    fn write(&self, mut writing: MutexGuard<'_, Writing>, last: u64) -> Result<(), StoreError> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let Writing { dirty, entries } = &mut *writing;
        for run in entries.chunk_by(|a, b| a.file.number == b.file.number) {
            let Some(Queued { file, position, .. }) = run.first() else { continue };
            let written = write_run(run, file, *position);
            if let Err(error) = &written {
                entries.clear();
                drop(writing);
                return Err(self.fail("writing to the journal", error));
            }
            self.counters.bytes_written.fetch_add(written.unwrap_or(0), Relaxed);
            if dirty.last().is_none_or(|last| last.number != file.number) {
                dirty.push(file.clone());
            }
        }
        entries.clear();
        self.written.fetch_max(last, Release);
        Ok(())
    }

    fn may_sync(&self, caller: Caller) -> bool {
        caller == Caller::Syncs && self.sync_pace.worst() < self.options.caller_sync_max
    }

    /// Makes everything up to an entry, which was written, durable.
    fn sync(&self, last: u64) -> Result<(), StoreError> {
        let syncing = self.syncing.lock();
        self.sync_held(&syncing, last)
    }

    fn sync_held(&self, _syncing: &MutexGuard<'_, ()>, last: u64) -> Result<(), StoreError> {
        if self.synced.load(Acquire) >= last {
            return Ok(());
        }
        let (dirty, written) = {
            let mut writing = self.writing.lock();
            (std::mem::take(&mut writing.dirty), self.written.load(Acquire))
        };
        for file in &dirty {
            self.counters.syncs.fetch_add(1, Relaxed);
            let began = Instant::now();
            if let Err(error) = file.file.sync() {
                return Err(self.fail("syncing the journal", &error));
            }
            self.sync_pace.note(began.elapsed());
        }
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        self.synced.fetch_max(written, Release);
        Ok(())
    }

    /// Shows what may be shown to readers, and tells who waits for it.
    pub(super) fn show(&self) {
        let showing = self.showing.lock();
        let mut settled = {
            let mut front = self.front.lock();
            let (written, synced) = (self.written.load(Acquire), self.synced.load(Acquire));
            front.take_settled(written, synced)
        };
        if settled.is_empty() {
            return;
        }
        {
            let mut state = self.state.write();
            for waiting in &mut settled {
                for change in waiting.changes.drain(..) {
                    state.apply(change, waiting.file, waiting.sequence);
                }
            }
            self.note(&state);
        }
        let parked = {
            let mut front = self.front.lock();
            front.finish(&settled);
            !front.parked().is_empty()
        };
        drop(showing);
        if parked {
            self.keep_signal.raise();
        }
        for waiting in settled {
            self.answer(waiting);
        }
    }

    /// Whether something was written, or is to be, that was not synced.
    pub(super) fn is_unsynced(&self) -> bool {
        self.synced.load(Acquire) < self.front.lock().last_sequence()
    }
}

/// Writes entries that follow each other in one file.
fn write_run(run: &[Queued], file: &JournalFile, position: u64) -> io::Result<u64> {
    let parts = run.iter().flat_map(Queued::parts);
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).map(IoSlice::new).collect();
    file.file.write_all_at(&parts, position)?;
    Ok(parts.iter().map(|part| part.len() as u64).sum())
}
