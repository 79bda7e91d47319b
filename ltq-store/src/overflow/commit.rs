//! Carries out a batch on two stores as though they were one.

use std::{
    collections::BTreeSet,
    fmt,
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
};

use ltq_core::{
    Bounds, Committed, Durability, LogName, LogOptions, Message, Offset, ReadLimits, Records,
    Store, StoreError, Timestamp, WriteBatch, WriteOp,
};
use tokio::sync::OwnedMutexGuard;

use super::{
    Shared,
    claim::{Claim, key_of, log_of},
    plan::{Plan, realign},
    state::{Cached, State},
};

impl<F: Store, B: Store> Shared<F, B> {
    pub(super) async fn commit(
        self: Arc<Self>,
        order: OwnedMutexGuard<()>,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        let claim = self.claim(&batch).await;
        self.check(&self.state.read())?;
        let plan = self.enter_front(&claim, &batch).await?;
        let number = self.batches.fetch_add(1, Relaxed);
        let mixed = plan.is_mixed();
        let masked = if mixed { self.mask(&claim, number) } else { Ok(()) };
        let committed = match masked {
            Ok(()) => {
                self.forget_remade(&plan);
                let mut committing = if plan.back.is_empty() && !batch.is_empty() {
                    None
                } else {
                    Some(self.back.commit(plan.back.clone(), durability))
                };
                // Its first poll gives it its place in the back store.
                let first = match &mut committing {
                    Some(committing) => {
                        poll_fn(|context| Poll::Ready(committing.as_mut().poll(context))).await
                    }
                    None => Poll::Ready(Ok(Committed { durability: Durability::Memory })),
                };
                drop(order);
                match (first, committing) {
                    (Poll::Ready(committed), _) => committed,
                    (Poll::Pending, Some(committing)) => committing.await,
                    (Poll::Pending, None) => Ok(Committed { durability: Durability::Memory }),
                }
            }
            Err(error) => Err(error),
        };
        let mut committed = match committed {
            Ok(committed) => committed,
            Err(error) => {
                self.take_back(&plan.front).await?;
                return Err(error);
            }
        };
        self.copy_to_front(&plan, &claim.logs).await;
        self.discard_copies(&plan).await;
        let gone = {
            let mut state = self.state.write();
            let keys = batch.ops().iter().filter_map(key_of);
            if mixed || !state.masked_values.is_empty() {
                state.unmask(&claim.logs, keys, number);
            }
            plan.publish(&mut state)
        };
        self.change_front("giving up what moved", gone).await;
        self.commits.fetch_add(1, Relaxed);
        if plan.changes_volatile {
            committed.durability = committed.durability.min(Durability::Memory);
        }
        Ok(committed)
    }

    /// Puts what belongs there into the front, where nobody sees it yet, making room as needed.
    async fn enter_front(
        &self,
        claim: &Claim<F, B>,
        batch: &WriteBatch,
    ) -> Result<Plan, StoreError> {
        let mut direct = BTreeSet::new();
        loop {
            let plan = Plan::new(&self.state.read(), batch, &direct)?;
            if plan.front.is_empty() {
                return Ok(plan);
            }
            let front = plan.front.iter().cloned().collect();
            match self.front.commit(front, Durability::Memory).await {
                Ok(_) => return Ok(plan),
                Err(StoreError::Full { .. }) => (),
                Err(error) => return Err(error),
            }
            if !self.make_room(&claim.logs).await? {
                // It would not even fit into an empty front.
                let logs: BTreeSet<_> = plan.front.iter().filter_map(log_of).cloned().collect();
                for log in &logs {
                    while self.move_some(log).await? {}
                }
                direct.extend(logs);
            }
        }
    }

    /// Takes what a batch brought out of the front again.
    async fn take_back(&self, ops: &[WriteOp]) -> Result<(), StoreError> {
        let logs: BTreeSet<_> = ops.iter().filter_map(log_of).collect();
        let mut front = WriteBatch::new();
        for name in logs {
            front.delete_log(name.clone());
            let log = self.state.read().volatile.get(name).copied();
            let Some(log) = log.filter(|log| log.in_front) else { continue };
            let (options, first) = (log.options, log.split);
            front.push(WriteOp::CreateLog { log: name.clone(), options, first });
            let mut from = log.split;
            while from < log.bounds.end {
                let records = usize::try_from(log.bounds.end.since(from)).unwrap_or(usize::MAX);
                let limits = ReadLimits { records, bytes: usize::MAX };
                match self.front.read(name, from, limits).await {
                    Ok(batches) => {
                        for batch in batches {
                            from = batch.end();
                            front.append(name.clone(), batch.first, batch.time, batch.records);
                        }
                    }
                    Err(StoreError::Discarded { until, .. }) => {
                        from = append_gap(&mut front, name, from, until.min(log.bounds.end));
                    }
                    Err(error) => return Err(self.fail("taking a batch back", &error)),
                }
            }
        }
        self.change_front("taking a batch back", front.into_ops()).await;
        Ok(())
    }

    /// Lets go of copies that would be wrong once the back store has carried out a batch.
    fn forget_remade(&self, plan: &Plan) {
        if plan.copies_gone.values().any(Option::is_none) {
            let mut state = self.state.write();
            for (log, before) in &plan.copies_gone {
                if before.is_none()
                    && let Some(cached) = state.cached.get_mut(log)
                {
                    // The front's log goes later. Nobody looks there any more.
                    cached.from = cached.end;
                }
            }
        }
    }

    /// Copies what was appended to durable logs, as far as there is room.
    async fn copy_to_front(&self, plan: &Plan, own: &BTreeSet<LogName>) {
        let mut gone = Vec::new();
        for (log, before) in &plan.copies_gone {
            let mut state = self.state.write();
            let Some(cached) = state.cached.get_mut(log) else { continue };
            match *before {
                Some(before) if before < cached.end => {
                    cached.left_front(before);
                    let before = cached.from;
                    gone.push(WriteOp::Truncate { log: log.clone(), before });
                }
                _ => {
                    state.cached.remove(log);
                    gone.push(WriteOp::DeleteLog { log: log.clone() });
                }
            }
        }
        self.change_front("giving up copies", gone).await;
        if !self.options.cache_durable {
            return;
        }
        for copy in &plan.copies {
            let WriteOp::Append { log, at, records, .. } = copy else { continue };
            let end = at.plus(records.count() as u64);
            let first_gone = plan.copies_gone.get(log).copied().flatten();
            if first_gone.is_some_and(|first| first >= end) {
                continue;
            }
            loop {
                let cached = self.state.read().cached.get(log).copied();
                let mut front = WriteBatch::new();
                if cached.is_some_and(|cached| cached.end != *at) {
                    front.delete_log(log.clone());
                }
                if cached.is_none_or(|cached| cached.end != *at) {
                    let options = LogOptions { durable: false };
                    front.push(WriteOp::CreateLog { log: log.clone(), options, first: *at });
                }
                front.push(copy.clone());
                match self.front.commit(front, Durability::Memory).await {
                    Ok(_) => {
                        let fresh = Cached { from: *at, end: *at, bytes: 0 };
                        let kept = cached.filter(|cached| cached.end == *at);
                        let Cached { from, bytes, .. } = kept.unwrap_or(fresh);
                        let bytes = bytes + records.byte_len() as u64;
                        let now = Cached { from, end, bytes };
                        self.state.write().cached.insert(log.clone(), now);
                        break;
                    }
                    Err(StoreError::Full { .. }) if self.shrink_copies(own).await => (),
                    // Then there is no copy. Readers find the records in the back store.
                    Err(_) => break,
                }
            }
        }
    }

    /// Discards of the copies what was discarded of the logs.
    async fn discard_copies(&self, plan: &Plan) {
        let mut gone = Vec::new();
        for op in &plan.copies_discarded {
            let WriteOp::Discard { log, from, until } = op else { continue };
            let Some(copy) = self.state.read().cached.get(log).copied() else { continue };
            let (from, until) = ((*from).max(copy.from), (*until).min(copy.end));
            if from < until {
                gone.push(WriteOp::Discard { log: log.clone(), from, until });
            }
        }
        self.change_front("discarding copies", gone).await;
    }

    /// Changes the front in a way that cannot be refused.
    pub(super) async fn change_front(&self, doing: &str, ops: Vec<WriteOp>) {
        if ops.is_empty() {
            return;
        }
        let front = ops.into_iter().collect();
        if let Err(error) = self.front.commit(front, Durability::Memory).await {
            self.fail(doing, &error);
        }
    }

    /// Brings everything to the back store, and closes both.
    pub(super) async fn close(self: &Arc<Self>) -> Result<(), StoreError> {
        let _order = Arc::clone(&self.order).lock_owned().await;
        self.idle().await;
        let closed = {
            let mut state = self.state.write();
            std::mem::replace(&mut state.closed, true)
        };
        let moved = if closed { Ok(()) } else { self.move_all().await };
        let back = self.back.close().await;
        let front = self.front.close().await;
        moved.and(back).and(front)
    }

    async fn move_all(&self) -> Result<(), StoreError> {
        let names: Vec<_> = self.state.read().volatile.keys().cloned().collect();
        for name in names {
            while self.move_some(&name).await? {}
            let log = self.state.read().volatile.get(&name).copied();
            if let Some(mut log) = log.filter(|log| log.back_end < log.split) {
                let mut batch = WriteBatch::new();
                realign(&mut batch, &name, &mut log);
                self.back.commit(batch, Durability::Memory).await?;
            }
        }
        Ok(())
    }

    /// Whether it goes on.
    ///
    /// # Errors
    /// `Closed` or `Failed`.
    pub(super) fn check(&self, state: &State) -> Result<(), StoreError> {
        if state.closed {
            return Err(StoreError::Closed);
        }
        state.failure.clone().map_or(Ok(()), |why| Err(StoreError::Failed(why)))
    }

    /// Takes nothing any more: the two stores do not fit together.
    pub(super) fn fail(&self, doing: &str, error: &dyn fmt::Display) -> StoreError {
        let why = format!("{doing}, the front and the back store came apart: {error}");
        tracing::error!("{why}");
        let mut state = self.state.write();
        let why = state.failure.get_or_insert(why).clone();
        StoreError::Failed(why)
    }
}

/// Stands in for records that were discarded, so that what comes behind them can be appended in
/// its place. Returns up to where: of a long gap it makes a part.
pub(super) fn append_gap(
    batch: &mut WriteBatch,
    log: &LogName,
    from: Offset,
    until: Offset,
) -> Offset {
    let until = until.min(from.plus(GAP_RECORDS_MAX as u64));
    let empty = Message::default();
    let records = Records::encode((from.0..until.0).map(|_| &empty));
    batch.append(log.clone(), from, Timestamp(0), records);
    batch.discard(log.clone(), from, until);
    until
}

/// Of some ten bytes each.
const GAP_RECORDS_MAX: usize = 1 << 16;

/// So many records, of all that there are between two offsets.
pub(super) fn records_between(from: Offset, bounds: Bounds) -> usize {
    usize::try_from(bounds.end.since(from)).unwrap_or(usize::MAX)
}
