//! How a store is closed: nothing lost, nothing left open.

use std::sync::atomic::Ordering::{Release, SeqCst};

use ltq_core::StoreError;

use super::{engine::Engine, entry::Head, reserve::passes};

impl Engine {
    /// Lets no batch in any more. The ones that have their place go on.
    pub(super) fn begin_closing(&self) {
        let unanswered = self.front.lock().close();
        for done in unanswered {
            let _ = done.send(Err(StoreError::Closed));
        }
    }

    /// Makes everything durable, and notes that nothing is missing. No threads are needed.
    pub(super) fn finish_closing(&self) -> Result<(), StoreError> {
        if self.read_only {
            self.give_up();
            return Ok(());
        }
        let result = self.failure().map_or_else(|| self.settle_all(), Err);
        self.give_up();
        result
    }

    fn settle_all(&self) -> Result<(), StoreError> {
        self.flush(true)?;
        let mut keeping = self.keeping.lock();
        self.stop_rewriting(&mut keeping);
        // When there is no room for the logs that are not durable, the others are safe still.
        let kept = self.checkpoint(&mut keeping, true);
        if matches!(kept, Err(StoreError::Failed(_))) {
            return kept;
        }
        self.remove_garbage(&mut keeping)?;
        let synced = self.synced.load(SeqCst);
        let mut marked = self.front.lock().push_mark(Some(Head::Stopped), synced);
        if !marked && self.make_ready(&mut keeping).is_ok() {
            marked = self.front.lock().push_mark(Some(Head::Stopped), synced);
        }
        if marked {
            self.flush(true)?;
        }
        // Nobody waits for `front` while a file is removed.
        let unused = self.front.lock().take_ready();
        if let Some(unused) = unused
            && let Err(error) = self.journal.remove(unused.number)
        {
            tracing::warn!(%error, "a journal file could not be removed");
        }
        kept.map_err(|error| match error {
            error if passes(&error) => StoreError::Io {
                doing: "moving logs that are not durable to segments".to_owned(),
                cause: error.to_string(),
            },
            error => error,
        })
    }

    /// Gives up memory, files and the lock.
    pub(super) fn give_up(&self) {
        self.closed.store(true, Release);
        self.front.lock().stopped = Some(StoreError::Closed);
        drop(std::mem::take(&mut *self.state.write()));
        self.reserve.clear();
        drop(self.lock.lock().take());
    }
}
