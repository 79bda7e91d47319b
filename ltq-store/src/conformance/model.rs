//! What a store should hold: the naive model that every case compares with.

use std::collections::BTreeMap;

use bytes::Bytes;
use ltq_core::{
    Bounds, LogInfo, LogName, LogOptions, Offset, ReadLimits, RecordBatch, Records, StoreError,
    Timestamp, WriteBatch, WriteOp,
};

use super::{Failure, failure::ensure};

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) logs: BTreeMap<LogName, ModelLog>,
    pub(super) values: BTreeMap<Bytes, Bytes>,
}

#[derive(Clone, Debug)]
pub(super) struct ModelLog {
    pub(super) options: LogOptions,
    /// What was truncated stays, so that a place in here is an offset less this.
    start: Offset,
    first: Offset,
    records: Vec<ModelRecord>,
}

#[derive(Clone, Debug)]
struct ModelRecord {
    time: Timestamp,
    encoded: Bytes,
    checksum: Option<u32>,
    discarded: bool,
}

impl Model {
    /// The errors with which a store may refuse this batch; none when it must take it.
    pub(super) fn refusals(&self, batch: &WriteBatch) -> Vec<StoreError> {
        let mut refusals: Vec<_> = batch.check().err().into_iter().collect();
        let mut ends: BTreeMap<&LogName, Option<Offset>> = BTreeMap::new();
        for op in batch.ops() {
            if let Err(error) = self.judge(&mut ends, op) {
                refusals.push(error);
                break;
            }
        }
        refusals
    }

    fn judge<'a>(
        &self,
        ends: &mut BTreeMap<&'a LogName, Option<Offset>>,
        op: &'a WriteOp,
    ) -> Result<(), StoreError> {
        let (WriteOp::CreateLog { log, .. }
        | WriteOp::DeleteLog { log }
        | WriteOp::Append { log, .. }
        | WriteOp::Truncate { log, .. }
        | WriteOp::Discard { log, .. }) = op
        else {
            return Ok(());
        };
        let end = ends.entry(log).or_insert_with(|| self.logs.get(log).map(ModelLog::end));
        if let WriteOp::CreateLog { first, .. } = op {
            return match end.replace(*first) {
                None => Ok(()),
                Some(_) => Err(StoreError::LogExists(log.clone())),
            };
        }
        let Some(at_end) = *end else { return Err(StoreError::NoSuchLog(log.clone())) };
        let wrong = |got| StoreError::WrongOffset { log: log.clone(), end: at_end, got };
        match op {
            WriteOp::Append { at, .. } if *at != at_end => Err(wrong(*at)),
            WriteOp::Append { records, .. } => {
                let new = at_end.0.checked_add(records.count() as u64);
                *end = Some(Offset(new.ok_or_else(|| StoreError::Invalid(String::new()))?));
                Ok(())
            }
            WriteOp::Truncate { before, .. } if *before > at_end => Err(wrong(*before)),
            WriteOp::Discard { until, .. } if *until > at_end => Err(wrong(*until)),
            WriteOp::DeleteLog { .. } => {
                *end = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Makes the changes of a batch that a store has to take.
    pub(super) fn apply(&mut self, batch: &WriteBatch) {
        for op in batch.ops() {
            match op {
                WriteOp::CreateLog { log, options, first } => {
                    self.logs.insert(log.clone(), ModelLog::new(*options, *first));
                }
                WriteOp::DeleteLog { log } => drop(self.logs.remove(log)),
                WriteOp::Append { log, time, records, .. } => {
                    if let Some(log) = self.logs.get_mut(log) {
                        log.append(*time, records);
                    }
                }
                WriteOp::Truncate { log, before } => {
                    if let Some(log) = self.logs.get_mut(log) {
                        log.first = log.first.max(*before);
                    }
                }
                WriteOp::Discard { log, from, until } => {
                    if let Some(log) = self.logs.get_mut(log) {
                        log.discard(*from, *until);
                    }
                }
                WriteOp::Put { key, value } => drop(self.values.insert(key.clone(), value.clone())),
                WriteOp::Delete { key } => drop(self.values.remove(key)),
            }
        }
    }

    pub(super) fn infos(&self) -> Vec<LogInfo> {
        let infos = self.logs.iter().map(|(name, log)| LogInfo {
            log: name.clone(),
            options: log.options,
            bounds: log.bounds(),
        });
        infos.collect()
    }
}

impl ModelLog {
    pub(super) const fn new(options: LogOptions, first: Offset) -> Self {
        Self { options, start: first, first, records: Vec::new() }
    }

    pub(super) fn append(&mut self, time: Timestamp, records: &Records) {
        for index in 0..records.count() {
            let encoded = records.encoded(index).unwrap_or_default();
            let checksum = records.checksum(index);
            self.records.push(ModelRecord { time, encoded, checksum, discarded: false });
        }
    }

    fn discard(&mut self, from: Offset, until: Offset) {
        let range = from.since(self.start) as usize..until.since(self.start) as usize;
        let records = self.records.get_mut(range).unwrap_or_default();
        records.iter_mut().for_each(|record| record.discarded = true);
    }

    /// The first offset at or behind one, which lies in the bounds, that was not discarded.
    pub(super) fn kept_from(&self, from: Offset) -> Offset {
        let skipped = from.since(self.start) as usize;
        let discarded = self.records.iter().skip(skipped).take_while(|record| record.discarded);
        from.plus(discarded.count() as u64)
    }

    /// Cuts the log to what came back of it. The bounds must lie within its own.
    pub(super) fn cut(&mut self, bounds: Bounds) {
        self.records.truncate(bounds.end.since(self.start) as usize);
        self.first = bounds.first;
    }

    /// The records that were given up in the middle, and that the log would hold.
    pub(super) fn discarded(&self) -> Vec<Offset> {
        let skipped = self.first.since(self.start) as usize;
        let records = self.records.iter().enumerate().skip(skipped);
        let discarded = records.filter(|(_, record)| record.discarded);
        discarded.map(|(index, _)| self.start.plus(index as u64)).collect()
    }

    /// Holds a record that was given up.
    pub(super) fn keep(&mut self, offset: Offset) {
        let index = offset.since(self.start) as usize;
        if let Some(record) = self.records.get_mut(index) {
            record.discarded = false;
        }
    }

    pub(super) fn end(&self) -> Offset {
        self.start.plus(self.records.len() as u64)
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds { first: self.first, end: self.end() }
    }

    pub(super) fn offset_at(&self, time: Timestamp) -> Offset {
        let skipped = self.first.since(self.start);
        let late = |r: &ModelRecord| r.time >= time && !r.discarded;
        let late = self.records.iter().skip(skipped as usize).position(late);
        late.map_or_else(|| self.end(), |index| self.first.plus(index as u64))
    }

    /// The times of the records, and a little before and after each.
    pub(super) fn times_around(&self) -> Vec<Timestamp> {
        let around = |t: u64| [t.saturating_sub(1), t, t.saturating_add(1)];
        let all = self.records.iter().flat_map(|record| around(record.time.0));
        let mut times: Vec<_> = all.chain([0, u64::MAX]).map(Timestamp).collect();
        times.sort_unstable();
        times.dedup();
        times
    }

    /// Checks what a read from `from`, which lies in the bounds and was not discarded, has
    /// returned. Returns the offset to read on from.
    pub(super) fn check_read(
        &self,
        from: Offset,
        limits: ReadLimits,
        batches: &[RecordBatch],
    ) -> Result<Offset, Failure> {
        let (mut at, mut bytes) = (from, 0);
        for batch in batches {
            ensure!(
                !batch.records.is_empty(),
                Read,
                "a read from {from} returned an empty batch at {}",
                batch.first
            );
            ensure!(
                batch.first == at,
                Read,
                "a read from {from} returned a batch at {}, and {at} comes next",
                batch.first
            );
            self.check_batch(batch)?;
            at = batch.end();
            bytes += batch.records.byte_len();
        }
        let count = at.since(from);
        ensure!(
            count <= limits.records as u64,
            Read,
            "a read of at most {} records returned {count}",
            limits.records
        );
        ensure!(
            bytes <= limits.bytes || count == 1,
            Read,
            "a read of at most {} bytes returned {bytes} in {count} records",
            limits.bytes
        );
        ensure!(
            count > 0 || from == self.end() || limits.records == 0,
            Read,
            "a read from {from} returned nothing, and the log ends at {}",
            self.end()
        );
        Ok(at)
    }

    fn check_batch(&self, batch: &RecordBatch) -> Result<(), Failure> {
        ensure!(
            batch.end() <= self.end(),
            Read,
            "a read returned records up to {}, and the log ends at {}",
            batch.end(),
            self.end()
        );
        if let Err(error) = batch.records.verify() {
            return Err(Failure::new(super::Clause::Bytes, format!("at {}: {error}", batch.first)));
        }
        let start = batch.first.since(self.start) as usize;
        for (index, expected) in self.records.iter().skip(start).enumerate() {
            let Some(found) = batch.records.encoded(index) else { break };
            let offset = batch.first.plus(index as u64);
            ensure!(
                !expected.discarded,
                Discard,
                "record {offset}, which was discarded, came back"
            );
            ensure!(
                found == expected.encoded,
                Bytes,
                "record {offset} came back with other bytes ({} of them, {} went in)",
                found.len(),
                expected.encoded.len()
            );
            ensure!(
                batch.records.checksum(index) == expected.checksum,
                Bytes,
                "record {offset} came back with another checksum"
            );
            ensure!(
                batch.time == expected.time,
                Bytes,
                "record {offset} came back with time {}, and {} went in",
                batch.time.0,
                expected.time.0
            );
        }
        Ok(())
    }
}
