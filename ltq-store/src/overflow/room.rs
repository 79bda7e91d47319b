//! Makes room in the front.

use std::collections::BTreeSet;

use ltq_core::{Durability, LogName, ReadLimits, Store, StoreError, WriteBatch, WriteOp};

use super::{
    Shared,
    commit::{append_gap, records_between},
    plan::realign,
};

/// What could go.
enum Candidate<'a, F, B> {
    /// Copies: half of those of this log.
    Copies(Shrinking<'a, F, B>),
    /// The oldest records of this log move.
    Records(LogName),
    /// Only other commits, which are under way, have something there.
    Others,
    Nothing,
}

/// A log whose copies shrink. Nobody else is at work on it until this is dropped: of two who gave up its copies at
/// once, the one could change in the front what the other had just deleted there.
struct Shrinking<'a, F, B> {
    shared: &'a Shared<F, B>,
    log: LogName,
    /// The caller is at work on it anyway.
    is_own: bool,
}

impl<F, B> Drop for Shrinking<'_, F, B> {
    fn drop(&mut self) {
        if !self.is_own {
            self.shared.state.write().busy.remove(&self.log);
            self.shared.freed.notify_waiters();
        }
    }
}

impl<F: Store, B: Store> Shared<F, B> {
    /// Makes some room in the front, at the expense of logs that nobody but the caller is at work
    /// on. `false` when there is nothing left that could go. Called with the order held.
    ///
    /// # Errors
    /// What the back store refuses to take it with.
    pub(super) async fn make_room(&self, own: &BTreeSet<LogName>) -> Result<bool, StoreError> {
        let freed = self.freed.notified();
        tokio::pin!(freed);
        freed.as_mut().enable();
        match self.candidate(own) {
            Candidate::Copies(shrinking) => {
                self.shrink_copy(&shrinking.log).await;
                Ok(true)
            }
            Candidate::Records(log) => self.move_some(&log).await,
            Candidate::Others => {
                freed.await;
                Ok(true)
            }
            Candidate::Nothing => Ok(false),
        }
    }

    /// The same for the sake of a copy: other copies go, and nothing else.
    pub(super) async fn shrink_copies(&self, own: &BTreeSet<LogName>) -> bool {
        match self.candidate(own) {
            Candidate::Copies(shrinking) => {
                self.shrink_copy(&shrinking.log).await;
                true
            }
            _ => false,
        }
    }

    /// Copies first: they cost nothing. Then the log that takes most.
    fn candidate(&self, own: &BTreeSet<LogName>) -> Candidate<'_, F, B> {
        let mut state = self.state.write();
        let free = |log: &LogName| !state.busy.contains(log) || own.contains(log);
        let copies = state.cached.iter().filter(|(log, _)| free(log));
        if let Some((log, _)) = copies.max_by_key(|(_, copy)| copy.bytes) {
            let (log, is_own) = (log.clone(), own.contains(log));
            if !is_own {
                state.busy.insert(log.clone());
            }
            return Candidate::Copies(Shrinking { shared: self, log, is_own });
        }
        let filled = || state.volatile.iter().filter(|(_, log)| log.split < log.bounds.end);
        let movable = filled().filter(|(name, _)| free(name));
        match movable.max_by_key(|(_, log)| log.front_bytes) {
            Some((name, _)) => Candidate::Records(name.clone()),
            None if filled().next().is_some() || !state.cached.is_empty() => Candidate::Others,
            None => Candidate::Nothing,
        }
    }

    async fn shrink_copy(&self, name: &LogName) {
        let gone = {
            let mut state = self.state.write();
            let Some(copy) = state.cached.get_mut(name) else { return };
            let half = copy.end.since(copy.from).div_ceil(2);
            copy.left_front(copy.from.plus(half));
            if copy.from < copy.end {
                WriteOp::Truncate { log: name.clone(), before: copy.from }
            } else {
                state.cached.remove(name);
                WriteOp::DeleteLog { log: name.clone() }
            }
        };
        self.change_front("giving up copies", vec![gone]).await;
    }

    /// Moves the oldest records of a log from the front to the back. `false` when there are none.
    pub(super) async fn move_some(&self, name: &LogName) -> Result<bool, StoreError> {
        let log = self.state.read().volatile.get(name).copied();
        let Some(mut log) = log.filter(|log| log.split < log.bounds.end) else {
            return Ok(false);
        };
        let records = records_between(log.split, log.bounds);
        let limits = ReadLimits { records, bytes: self.options.move_bytes };
        let moved = self.front.read(name, log.split, limits).await;
        let mut back = WriteBatch::new();
        realign(&mut back, name, &mut log);
        let mut end = log.split;
        match moved {
            Ok(batches) => {
                for batch in batches {
                    end = batch.end();
                    back.append(name.clone(), batch.first, batch.time, batch.records);
                }
            }
            Err(StoreError::Discarded { until, .. }) => {
                end = append_gap(&mut back, name, end, until.min(log.bounds.end));
            }
            Err(error) => return Err(error),
        }
        self.back.commit(back, Durability::Memory).await?;
        {
            let mut state = self.state.write();
            if let Some(log) = state.volatile.get_mut(name) {
                log.left_front(end);
                log.back_end = end;
            }
        }
        let gone = WriteOp::Truncate { log: name.clone(), before: end };
        self.change_front("moving records", vec![gone]).await;
        Ok(true)
    }
}
