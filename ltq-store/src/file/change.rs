//! A batch on its way: copied once, into the bytes that go to the journal and stay in memory.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use ltq_core::{
    LogName, LogOptions, Offset, Records, TABLE_ENTRY_BYTES, Timestamp, WriteBatch, WriteOp,
};

use super::{
    buffers::Buffers,
    entry::{ENTRY_HEADER_BYTES, EntryHeader, Head, padded},
};

/// One change of a batch, its log known by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Create { id: u64, log: LogName, options: LogOptions, first: Offset },
    Delete { id: u64, log: LogName },
    Append { id: u64, log: LogName, at: Offset, time: Timestamp, records: Records, durable: bool },
    Truncate { id: u64, log: LogName, before: Offset, durable: bool },
    Discard { id: u64, log: LogName, from: Offset, until: Offset, durable: bool },
    Put { key: Bytes, value: Bytes },
    Remove { key: Bytes },
}

/// A batch, copied and checked as far as that goes without knowing the logs' state.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) ops: Vec<WriteOp>,
    /// Whether the logs of the ops, in order, were taken to be durable. True for ops without one.
    pub(super) durable: Vec<bool>,
    /// `raw` and `payload` of the entry, filled up.
    pub(super) body: Bytes,
    raw_len: u32,
    payload_len: u32,
    raw_crc: u32,
    payload_crc: u32,
}

impl Draft {
    /// Copies what the batch brings. `is_durable` tells which logs are kept in memory only: what is
    /// appended to those does not go to the journal.
    pub(super) fn new(
        batch: WriteBatch,
        buffers: &Arc<Buffers>,
        is_durable: impl Fn(&LogName) -> bool,
    ) -> Self {
        let mut ops = batch.into_ops();
        let mut created: Vec<(LogName, bool)> = Vec::new();
        let mut durable = Vec::with_capacity(ops.len());
        let (mut raw_len, mut payload_len) = (0, 0);
        for op in &ops {
            let this = match op {
                WriteOp::Append { log, .. }
                | WriteOp::Truncate { log, .. }
                | WriteOp::Discard { log, .. } => {
                    let own = created.iter().rev().find(|(name, _)| name == log);
                    own.map_or_else(|| is_durable(log), |&(_, durable)| durable)
                }
                WriteOp::CreateLog { log, options, .. } => {
                    created.push((log.clone(), options.durable));
                    true
                }
                _ => true,
            };
            durable.push(this);
            match op {
                WriteOp::Append { records, .. } if this => {
                    raw_len += records.table().len();
                    payload_len += records.payload().len();
                }
                WriteOp::Put { key, value } => raw_len += key.len() + value.len(),
                WriteOp::Delete { key } => raw_len += key.len(),
                _ => (),
            }
        }
        let all = padded((raw_len + payload_len) as u64) as usize;
        let mut buffer = buffers.take(all);
        let mut body = buffer.bytes_mut();
        for (op, durable) in ops.iter().zip(&durable) {
            match op {
                WriteOp::Append { records, .. } if *durable => body.put_slice(records.table()),
                WriteOp::Put { key, value } => {
                    body.put_slice(key);
                    body.put_slice(value);
                }
                WriteOp::Delete { key } => body.put_slice(key),
                _ => (),
            }
        }
        for (op, durable) in ops.iter().zip(&durable) {
            if let (WriteOp::Append { records, .. }, true) = (op, durable) {
                body.put_slice(records.payload());
            }
        }
        let rest = body.len();
        body.put_bytes(0, rest);
        let body = buffers.share(buffer);
        let payload_crc = crc32c::crc32c(body.get(raw_len..all - rest).unwrap_or_default());
        let raw_crc = crc32c::crc32c(body.get(..raw_len).unwrap_or_default());
        let (mut raw_at, mut payload_at) = (0, raw_len);
        for (op, durable) in ops.iter_mut().zip(&durable) {
            own(op, *durable, &body, &mut raw_at, &mut payload_at);
        }
        let (raw_len, payload_len) = (raw_len as u32, payload_len as u32);
        Self { ops, durable, body, raw_len, payload_len, raw_crc, payload_crc }
    }

    /// The header and heads of the entry, the room for the header before them.
    pub(super) fn head(&self, changes: &[Change]) -> (EntryHeader, Vec<u8>) {
        let mut heads = Vec::with_capacity(2 * (ENTRY_HEADER_BYTES + 64 * changes.len()));
        heads.resize(ENTRY_HEADER_BYTES, 0);
        for change in changes {
            if let Some(it) = change.head() {
                it.encode(&mut heads);
            }
        }
        let header = EntryHeader {
            raw_len: self.raw_len,
            payload_len: self.payload_len,
            raw_crc: self.raw_crc,
            payload_crc: self.payload_crc,
            ..EntryHeader::of(heads.get(ENTRY_HEADER_BYTES..).unwrap_or_default())
        };
        (header, heads)
    }

    /// Bytes of the records that it appends, to logs of any kind.
    pub(super) fn record_bytes(&self) -> u64 {
        let bytes = |op: &WriteOp| match op {
            WriteOp::Append { records, .. } => records.byte_len() as u64,
            _ => 0,
        };
        self.ops.iter().map(bytes).sum()
    }

    /// Bytes of the values that it sets.
    pub(super) fn value_bytes(&self) -> u64 {
        let bytes = |op: &WriteOp| match op {
            WriteOp::Put { key, value } => (key.len() + value.len()) as u64,
            _ => 0,
        };
        self.ops.iter().map(bytes).sum()
    }

    /// The batch again.
    pub(super) fn into_batch(self) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for op in self.ops {
            batch.push(op);
        }
        batch
    }

    /// The most bytes that its entry can take.
    pub(super) fn entry_bytes_max(&self) -> u64 {
        let heads: usize = self
            .ops
            .iter()
            .map(|op| match op {
                WriteOp::CreateLog { log, .. }
                | WriteOp::DeleteLog { log }
                | WriteOp::Append { log, .. }
                | WriteOp::Truncate { log, .. }
                | WriteOp::Discard { log, .. } => HEAD_BYTES_MAX + log.as_str().len(),
                WriteOp::Put { .. } | WriteOp::Delete { .. } => HEAD_BYTES_MAX,
            })
            .sum();
        2 * padded((ENTRY_HEADER_BYTES + heads) as u64) + self.body.len() as u64
    }
}

/// Replaces what an op brings by its copy in the body.
fn own(op: &mut WriteOp, durable: bool, body: &Bytes, raw_at: &mut usize, payload_at: &mut usize) {
    let mut next = |len: usize| {
        *raw_at += len;
        body.slice(*raw_at - len..*raw_at)
    };
    match op {
        WriteOp::Append { records, .. } if durable => {
            let table = next(records.table().len());
            let len = records.payload().len();
            let payload = body.slice(*payload_at..*payload_at + len);
            *payload_at += len;
            // The copy has the table of the original, which fitted its payload.
            if let Ok(copy) = Records::from_parts(records.base(), table, payload) {
                // What is small beside the rest of the batch must not keep the rest in memory.
                let small = copy.byte_len() * 2 < body.len();
                *records = if small { copied(&copy) } else { copy };
            }
        }
        WriteOp::Append { records, .. } => *records = copied(records),
        WriteOp::Put { key, value } => {
            *key = next(key.len());
            *value = next(value.len());
        }
        WriteOp::Delete { key } => *key = next(key.len()),
        _ => (),
    }
}

/// The same records in allocations of their own. Their table stays as it is in the journal.
pub(super) fn copied(records: &Records) -> Records {
    let table = Bytes::copy_from_slice(records.table());
    let payload = Bytes::copy_from_slice(records.payload());
    Records::from_parts(records.base(), table, payload).unwrap_or_else(|_| records.clone())
}

impl Change {
    /// What the journal says of it; `None` when it does not go there.
    fn head(&self) -> Option<Head<'_>> {
        if !self.is_journaled() {
            return None;
        }
        Some(match self {
            Self::Create { id, log, options, first } => {
                Head::Create { id: *id, name: log.as_str(), options: *options, first: *first }
            }
            Self::Delete { id, log } => Head::Delete { id: *id, name: log.as_str() },
            Self::Append { id, log, at, time, records, .. } => Head::Append {
                id: *id,
                name: log.as_str(),
                at: *at,
                time: *time,
                base: records.base(),
                count: (records.table().len() / TABLE_ENTRY_BYTES) as u32,
                len: records.payload().len() as u32,
            },
            Self::Truncate { id, log, before, .. } => {
                Head::Truncate { id: *id, name: log.as_str(), before: *before }
            }
            Self::Discard { id, log, from, until, .. } => {
                Head::Discard { id: *id, name: log.as_str(), from: *from, until: *until }
            }
            Self::Put { key, value } => {
                Head::Put { key_len: key.len() as u32, value_len: value.len() as u32 }
            }
            Self::Remove { key } => Head::Remove { key_len: key.len() as u32 },
        })
    }

    /// Whether it goes to the journal.
    pub(super) fn is_journaled(&self) -> bool {
        !matches!(
            self,
            Self::Append { durable: false, .. }
                | Self::Truncate { durable: false, .. }
                | Self::Discard { durable: false, .. }
        )
    }
}

/// The most bytes of a [`Head`] without its name: eight varints.
const HEAD_BYTES_MAX: usize = 64;
