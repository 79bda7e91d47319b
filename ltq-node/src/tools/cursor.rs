//! A log of a store from its beginning to its end, gaps included.

use ltq_core::{Bounds, LogName, Offset, ReadLimits, RecordBatch, Store, StoreError};

/// What comes next in a log.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// Records.
    Batch(RecordBatch),
    /// Up to here there are none: they were discarded.
    Discarded(Offset),
    /// Up to here they cannot be read.
    Damaged(Offset, StoreError),
}

/// A place in a log.
pub(super) struct Cursor<'a> {
    store: &'a dyn Store,
    log: &'a LogName,
    next: Offset,
    end: Offset,
    ahead: std::vec::IntoIter<RecordBatch>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(store: &'a dyn Store, log: &'a LogName, bounds: Bounds) -> Self {
        let (next, end) = (bounds.first, bounds.end);
        Self { store, log, next, end, ahead: Vec::new().into_iter() }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, StoreError> {
        loop {
            if let Some(batch) = self.ahead.next() {
                self.next = batch.end();
                return Ok(Some(Piece::Batch(batch)));
            }
            if self.next >= self.end {
                return Ok(None);
            }
            match self.store.read(self.log, self.next, LIMITS).await {
                Ok(batches) if batches.is_empty() => return Ok(None),
                Ok(batches) => self.ahead = batches.into_iter(),
                Err(StoreError::Discarded { until, .. }) => {
                    self.next = until;
                    return Ok(Some(Piece::Discarded(until)));
                }
                Err(error @ StoreError::Damaged { .. }) => {
                    let StoreError::Damaged { until, .. } = &error else { return Err(error) };
                    self.next = *until;
                    return Ok(Some(Piece::Damaged(*until, error)));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

const LIMITS: ReadLimits = ReadLimits { records: 1 << 16, bytes: 4 << 20 };
