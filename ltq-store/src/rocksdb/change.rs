//! A batch on its way: what it brings copied once, then judged by the logs as they are.

use bytes::Bytes;
use ltq_core::{LogName, LogOptions, Offset, WriteBatch, WriteOp};

use super::format::Piece;

/// One change of a batch, its log known by number.
#[derive(Debug)]
pub(super) enum Change {
    Create { id: u64, log: LogName, options: LogOptions, first: Offset },
    Delete { id: u64, log: LogName },
    Append { id: u64, log: LogName, pieces: Vec<Piece>, durable: bool },
    Truncate { id: u64, log: LogName, before: Offset, durable: bool },
    Discard { id: u64, log: LogName, from: Offset, until: Offset, durable: bool },
    Put { key: Bytes, value: Bytes },
    Remove { key: Bytes },
}

/// A change whose log is known by name only.
#[derive(Debug)]
pub(super) enum DraftOp {
    Append { log: LogName, at: Offset, count: u64, pieces: Vec<Piece> },
    Other(WriteOp),
}

/// A batch whose records and values are copies: what came in may be a slice of something large.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) ops: Vec<DraftOp>,
    pub(super) record_bytes: u64,
    pub(super) value_bytes: u64,
}

impl Draft {
    pub(super) fn new(batch: WriteBatch) -> Self {
        let (mut record_bytes, mut value_bytes) = (0, 0);
        let copy = |op| match op {
            WriteOp::Append { log, at, time, records } => {
                record_bytes += records.byte_len() as u64;
                let count = records.count() as u64;
                DraftOp::Append { log, at, count, pieces: Piece::cut(at, time, &records) }
            }
            WriteOp::Put { key, value } => {
                value_bytes += (key.len() + value.len()) as u64;
                let (key, value) = (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value));
                DraftOp::Other(WriteOp::Put { key, value })
            }
            WriteOp::Delete { key } => {
                DraftOp::Other(WriteOp::Delete { key: Bytes::copy_from_slice(&key) })
            }
            op => DraftOp::Other(op),
        };
        let ops = batch.into_ops().into_iter().map(copy).collect();
        Self { ops, record_bytes, value_bytes }
    }
}
