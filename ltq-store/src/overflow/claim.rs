//! Who is at work on what: a commit claims its logs, so that it finds them as readers see them.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use ltq_core::{LogInfo, LogName, LogOptions, Store, StoreError, WriteBatch, WriteOp};

use super::{
    Shared,
    state::{Masked, State},
};

/// The logs of a commit, which no other is at work on until this is dropped.
pub(super) struct Claim<F, B> {
    shared: Arc<Shared<F, B>>,
    pub(super) logs: BTreeSet<LogName>,
    keys: BTreeSet<Bytes>,
}

impl<F: Store, B: Store> Shared<F, B> {
    /// Waits until nobody else is at work on what a batch changes. Called with the order held: no
    /// other commit can come in between.
    pub(super) async fn claim(self: &Arc<Self>, batch: &WriteBatch) -> Claim<F, B> {
        let logs: BTreeSet<_> = batch.ops().iter().filter_map(log_of).cloned().collect();
        let all_keys: BTreeSet<_> = batch.ops().iter().filter_map(key_of).cloned().collect();
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            {
                let mut state = self.state.write();
                // Values need no claim but for what hides them from readers meanwhile.
                let keys = if state.is_mixed(batch) { all_keys.clone() } else { BTreeSet::new() };
                let empty = batch.is_empty();
                let waits = (empty && !state.busy.is_empty())
                    || logs.iter().any(|log| state.busy.contains(log))
                    || keys.iter().any(|key| state.masked_values.contains_key(key));
                if !waits {
                    state.busy.extend(logs.iter().cloned());
                    drop(state);
                    return Claim { shared: Arc::clone(self), logs, keys };
                }
            }
            freed.await;
        }
    }

    /// Waits until no commit is at work.
    pub(super) async fn idle(self: &Arc<Self>) {
        drop(self.claim(&WriteBatch::new()).await);
    }

    /// Hides what the back store is about to show of a batch, until it is published.
    pub(super) fn mask(&self, claim: &Claim<F, B>, batch: u64) -> Result<(), StoreError> {
        let mut state = self.state.write();
        let mut masked_logs = Vec::new();
        for log in claim.logs.iter().filter(|log| !state.volatile.contains_key(*log)) {
            let info = match self.back.bounds(log) {
                Err(StoreError::NoSuchLog(_)) => None,
                bounds => {
                    // All that are not durable are known by name.
                    let (bounds, options) = (bounds?, LogOptions { durable: true });
                    Some(LogInfo { log: log.clone(), options, bounds })
                }
            };
            masked_logs.push((log.clone(), info));
        }
        state.masked_logs.extend(masked_logs);
        for key in &claim.keys {
            let value = self.back.value(key)?;
            state.masked_values.insert(key.clone(), Masked { value, batch });
        }
        Ok(())
    }
}

impl State {
    /// Whether a batch changes logs that are not durable, so that its parts go to both stores.
    fn is_mixed(&self, batch: &WriteBatch) -> bool {
        batch.ops().iter().any(|op| match op {
            WriteOp::CreateLog { options, .. } if !options.durable => true,
            op => log_of(op).is_some_and(|log| self.volatile.contains_key(log)),
        })
    }

    /// Shows what a batch had hidden, and what later ones than those that hid it changed.
    pub(super) fn unmask<'a>(
        &mut self,
        logs: &BTreeSet<LogName>,
        keys: impl IntoIterator<Item = &'a Bytes>,
        batch: u64,
    ) {
        for log in logs {
            self.masked_logs.remove(log);
        }
        for key in keys {
            if self.masked_values.get(key).is_some_and(|masked| masked.batch <= batch) {
                self.masked_values.remove(key);
            }
        }
    }
}

impl<F, B> Drop for Claim<F, B> {
    fn drop(&mut self) {
        let mut state = self.shared.state.write();
        for log in &self.logs {
            state.busy.remove(log);
            state.masked_logs.remove(log);
        }
        for key in &self.keys {
            state.masked_values.remove(key);
        }
        drop(state);
        self.shared.freed.notify_waiters();
    }
}

/// The log that a change is about.
pub(super) fn log_of(op: &WriteOp) -> Option<&LogName> {
    match op {
        WriteOp::CreateLog { log, .. }
        | WriteOp::DeleteLog { log }
        | WriteOp::Append { log, .. }
        | WriteOp::Truncate { log, .. }
        | WriteOp::Discard { log, .. } => Some(log),
        WriteOp::Put { .. } | WriteOp::Delete { .. } => None,
    }
}

/// The key that a change is about.
pub(super) fn key_of(op: &WriteOp) -> Option<&Bytes> {
    match op {
        WriteOp::Put { key, .. } | WriteOp::Delete { key } => Some(key),
        _ => None,
    }
}
