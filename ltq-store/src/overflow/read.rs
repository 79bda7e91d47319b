//! Finds what readers ask for, in one store or the other.

use bytes::Bytes;
use ltq_core::{
    Bounds, LogInfo, LogName, Offset, ReadLimits, RecordBatch, Store, StoreError, Timestamp,
};

use super::{Shared, commit::records_between, state::State};

/// Where records are, and up to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Front(Bounds),
    Back(Bounds),
}

impl<F: Store, B: Store> Shared<F, B> {
    pub(super) fn bounds(&self, state: &State, log: &LogName) -> Result<Bounds, StoreError> {
        if state.closed {
            return Err(StoreError::Closed);
        }
        if let Some(volatile) = state.volatile.get(log) {
            return Ok(volatile.bounds);
        }
        match state.masked_logs.get(log) {
            Some(Some(info)) => Ok(info.bounds),
            Some(None) => Err(StoreError::NoSuchLog(log.clone())),
            None => self.back.bounds(log),
        }
    }

    fn place(&self, log: &LogName, from: Offset) -> Result<Place, StoreError> {
        let state = self.state.read();
        let bounds = self.bounds(&state, log)?;
        if from < bounds.first || from > bounds.end {
            return Err(StoreError::OutOfRange { log: log.clone(), bounds, from });
        }
        if from == bounds.end {
            return Ok(Place::Nowhere);
        }
        if let Some(volatile) = state.volatile.get(log) {
            let Bounds { first, end } = bounds;
            return Ok(if from >= volatile.split {
                Place::Front(bounds)
            } else {
                Place::Back(Bounds { first, end: end.min(volatile.split) })
            });
        }
        let cached = state.cached.get(log);
        let copied = cached.is_some_and(|it| it.from <= from && from < it.end);
        Ok(if copied { Place::Front(bounds) } else { Place::Back(bounds) })
    }

    pub(super) fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        let read = match self.place(log, from) {
            Ok(Place::Nowhere) => return Some(Ok(Vec::new())),
            Ok(Place::Front(bounds)) => self.front.try_read(log, from, cut(limits, from, bounds)),
            Ok(Place::Back(bounds)) => self.back.try_read(log, from, cut(limits, from, bounds)),
            Err(error) => return Some(Err(error)),
        };
        match read? {
            Err(StoreError::Discarded { log, from, until }) => {
                let until = match self.front_behind(&log, until) {
                    Some(behind) => match self.front.try_read(&log, behind, NOTHING)? {
                        Err(StoreError::Discarded { until, .. }) => until,
                        read if is_elsewhere(&read) => return None,
                        _ => until,
                    },
                    None => until,
                };
                Some(Err(StoreError::Discarded { log, from, until }))
            }
            // They may have moved meanwhile.
            read => Some(read).filter(|read| !is_elsewhere(read)),
        }
    }

    /// Where the front begins, if that is where a discarded stretch of the back store ends: it may
    /// go on there.
    fn front_behind(&self, log: &LogName, until: Offset) -> Option<Offset> {
        let state = self.state.read();
        let volatile = state.volatile.get(log)?;
        (until == volatile.split && until < volatile.bounds.end).then_some(until)
    }

    pub(super) async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let mut place = self.place(log, from)?;
        loop {
            let read = match place {
                Place::Nowhere => return Ok(Vec::new()),
                Place::Front(bounds) => self.front.read(log, from, cut(limits, from, bounds)).await,
                Place::Back(bounds) => self.back.read(log, from, cut(limits, from, bounds)).await,
            };
            if let Err(StoreError::Discarded { log, from, mut until }) = read {
                if let Some(behind) = self.front_behind(&log, until) {
                    match self.front.read(&log, behind, NOTHING).await {
                        Err(StoreError::Discarded { until: further, .. }) => until = further,
                        read if is_elsewhere(&read) => continue,
                        _ => (),
                    }
                }
                return Err(StoreError::Discarded { log, from, until });
            }
            if !is_elsewhere(&read) {
                return read;
            }
            let now = self.place(log, from)?;
            if now == place {
                return read;
            }
            place = now;
        }
    }

    pub(super) async fn offset_at(
        &self,
        log: &LogName,
        time: Timestamp,
    ) -> Result<Offset, StoreError> {
        loop {
            let (bounds, volatile) = {
                let state = self.state.read();
                (self.bounds(&state, log)?, state.volatile.get(log).copied())
            };
            let within = |found: Offset| found.clamp(bounds.first, bounds.end);
            let Some(volatile) = volatile else {
                return self.back.offset_at(log, time).await.map(within);
            };
            let split = volatile.split;
            if bounds.first < split {
                let found = self.back.offset_at(log, time).await;
                if let Some(found) = found.ok().filter(|found| *found < split) {
                    return Ok(within(found));
                }
            }
            let found = if split < bounds.end {
                self.front.offset_at(log, time).await
            } else {
                Ok(bounds.end)
            };
            let moved = {
                let state = self.state.read();
                self.bounds(&state, log)?;
                state.volatile.get(log).is_none_or(|now| now.split != split)
            };
            if !moved {
                return found.map(within);
            }
        }
    }

    pub(super) fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        let state = self.state.read();
        if state.closed {
            return Err(StoreError::Closed);
        }
        let durable = self.back.logs()?.into_iter().filter(|info| {
            info.options.durable
                && !state.volatile.contains_key(&info.log)
                && !state.masked_logs.contains_key(&info.log)
        });
        let masked = state.masked_logs.values().flatten().cloned();
        let volatile = state.volatile.iter().map(|(name, log)| log.info(name));
        let mut logs: Vec<_> = durable.chain(masked).chain(volatile).collect();
        logs.sort_unstable_by(|a, b| a.log.cmp(&b.log));
        Ok(logs)
    }

    pub(super) fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        // The lock is held while the back store is asked, so that nothing is hidden in between.
        let state = self.state.read();
        if state.closed {
            return Err(StoreError::Closed);
        }
        match state.masked_values.get(key) {
            Some(masked) => Ok(masked.value.clone()),
            None => self.back.value(key),
        }
    }

    pub(super) fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let state = self.state.read();
        if state.closed {
            return Err(StoreError::Closed);
        }
        let mut values = self.back.values(prefix)?;
        if state.masked_values.is_empty() {
            return Ok(values);
        }
        values.retain(|(key, _)| !state.masked_values.contains_key(key));
        let masked = state.masked_values.iter().filter(|(key, _)| key.starts_with(prefix));
        values
            .extend(masked.filter_map(|(key, masked)| Some((key.clone(), masked.value.clone()?))));
        values.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(values)
    }
}

/// Asks only whether there is something.
const NOTHING: ReadLimits = ReadLimits { records: 0, bytes: 0 };

fn cut(limits: ReadLimits, from: Offset, bounds: Bounds) -> ReadLimits {
    let records = limits.records.min(records_between(from, bounds));
    ReadLimits { records, bytes: limits.bytes }
}

/// Whether a store does not have what it was thought to have.
fn is_elsewhere<T>(read: &Result<T, StoreError>) -> bool {
    matches!(read, Err(StoreError::OutOfRange { .. } | StoreError::NoSuchLog(_)))
}
