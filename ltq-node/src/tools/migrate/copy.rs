//! Copies a store into an empty one, and compares the two.

use indicatif::ProgressBar;
use ltq_core::{
    Durability, LogInfo, Message, Offset, RecordBatch, Records, Store, StoreError, Timestamp,
    WriteBatch, WriteOp,
};

use super::super::{
    ToolError,
    cursor::{Cursor, Piece},
};

/// How many offsets the logs have.
pub(super) fn records(logs: &[LogInfo]) -> u64 {
    logs.iter().map(|info| info.bounds.end.since(info.bounds.first)).sum()
}

/// What of a store cannot be read.
pub(super) async fn survey(store: &dyn Store) -> Result<Vec<StoreError>, ToolError> {
    let mut damaged = Vec::new();
    for info in store.logs()? {
        let mut cursor = Cursor::new(store, &info.log, info.bounds);
        while let Some(piece) = cursor.next().await? {
            if let Piece::Damaged(_, error) = piece {
                damaged.push(error);
            }
        }
    }
    Ok(damaged)
}

/// Copies everything.
pub(super) async fn copy(
    source: &dyn Store,
    target: &dyn Store,
    progress: &ProgressBar,
) -> Result<(), ToolError> {
    for info in source.logs()? {
        copy_log(source, target, &info, progress).await?;
    }
    let (mut batch, mut bytes) = (WriteBatch::new(), 0);
    for (key, value) in source.values(b"")? {
        bytes += key.len() + value.len();
        batch.put(key, value);
        if bytes >= COMMIT_BYTES {
            target.commit(std::mem::take(&mut batch), Durability::Os).await?;
            bytes = 0;
        }
    }
    target.commit(batch, Durability::Os).await?;
    target.commit(WriteBatch::new(), Durability::Disk).await?;
    Ok(())
}

async fn copy_log(
    source: &dyn Store,
    target: &dyn Store,
    info: &LogInfo,
    progress: &ProgressBar,
) -> Result<(), ToolError> {
    let log = &info.log;
    let mut batch = WriteBatch::new();
    let (options, first) = (info.options, info.bounds.first);
    batch.push(WriteOp::CreateLog { log: log.clone(), options, first });
    let (mut at, mut bytes) = (first, 0);
    let mut time = Timestamp::default();
    let mut cursor = Cursor::new(source, log, info.bounds);
    while let Some(piece) = cursor.next().await? {
        let before = at;
        match piece {
            Piece::Batch(records) => {
                time = records.time;
                at = records.end();
                bytes += records.records.byte_len();
                batch.append(log.clone(), before, records.time, records.records);
            }
            // What is not there keeps its place.
            Piece::Discarded(until) | Piece::Damaged(until, _) => {
                while at < until {
                    let count = until.since(at).min(GAP_RECORDS);
                    let gap = Records::encode(&vec![Message::new(""); count as usize]);
                    let end = at.plus(count);
                    bytes += gap.byte_len();
                    batch.append(log.clone(), at, time, gap).discard(log.clone(), at, end);
                    at = end;
                    if bytes >= COMMIT_BYTES {
                        target.commit(std::mem::take(&mut batch), Durability::Os).await?;
                        bytes = 0;
                    }
                }
            }
        }
        progress.inc(at.since(before));
        if bytes >= COMMIT_BYTES {
            target.commit(std::mem::take(&mut batch), Durability::Os).await?;
            bytes = 0;
        }
    }
    target.commit(batch, Durability::Os).await?;
    Ok(())
}

/// Reads both and fails at the first difference.
pub(super) async fn compare(
    source: &dyn Store,
    target: &dyn Store,
    progress: &ProgressBar,
) -> Result<(), ToolError> {
    let logs = source.logs()?;
    if logs != target.logs()? {
        return Err(differ("the lists of their logs"));
    }
    if target.values(b"")? != source.values(b"")? {
        return Err(differ("their values"));
    }
    for info in logs {
        compare_log(source, target, &info, progress).await?;
    }
    Ok(())
}

async fn compare_log(
    source: &dyn Store,
    target: &dyn Store,
    info: &LogInfo,
    progress: &ProgressBar,
) -> Result<(), ToolError> {
    let mut ours = Stretch::new(Cursor::new(source, &info.log, info.bounds), true);
    let mut theirs = Stretch::new(Cursor::new(target, &info.log, info.bounds), false);
    let mut at = info.bounds.first;
    while at < info.bounds.end {
        let (a, b) = (ours.at(at).await?, theirs.at(at).await?);
        let same = match (a, b) {
            (Held::Records(a), Held::Records(b)) => {
                let until = a.end().min(b.end());
                let (a, b) = (a.slice(at, until), b.slice(at, until));
                let encoded = |batch: &RecordBatch, index| batch.records.encoded(index);
                let all = 0..a.records.count();
                let same = a.time == b.time
                    && a.records.count() == b.records.count()
                    && all.into_iter().all(|index| encoded(&a, index) == encoded(&b, index));
                same.then_some(until)
            }
            (Held::Nothing(a), Held::Nothing(b)) => Some(a.min(b)),
            _ => None,
        };
        let Some(until) = same.filter(|&until| until > at) else {
            return Err(differ(&format!("log {} at offset {at}", info.log)));
        };
        progress.inc(until.since(at));
        at = until;
    }
    Ok(())
}

/// What a log holds at a place.
enum Held {
    Records(RecordBatch),
    /// Nothing up to here.
    Nothing(Offset),
}

/// A cursor that can be asked for the same place again.
struct Stretch<'a> {
    cursor: Cursor<'a>,
    piece: Option<Piece>,
    /// Whether what is damaged counts as not there; else it is an error.
    may_be_damaged: bool,
}

impl<'a> Stretch<'a> {
    const fn new(cursor: Cursor<'a>, may_be_damaged: bool) -> Self {
        Self { cursor, piece: None, may_be_damaged }
    }

    async fn at(&mut self, at: Offset) -> Result<Held, ToolError> {
        loop {
            match &self.piece {
                Some(Piece::Damaged(_, error)) if !self.may_be_damaged => {
                    return Err(error.clone().into());
                }
                Some(Piece::Batch(batch)) if batch.end() > at => {
                    return Ok(Held::Records(batch.slice(at, batch.end())));
                }
                Some(Piece::Discarded(until) | Piece::Damaged(until, _)) if *until > at => {
                    return Ok(Held::Nothing(*until));
                }
                _ => (),
            }
            self.piece = self.cursor.next().await?;
            if self.piece.is_none() {
                return Err(differ(&format!("a log, which ends at offset {at} in one of them")));
            }
        }
    }
}

fn differ(what: &str) -> ToolError {
    ToolError::Failed(format!("the copy is not the same: {what}; it is left unfinished"))
}

/// One commit.
const COMMIT_BYTES: usize = 4 << 20;
/// The most placeholders at a time.
const GAP_RECORDS: u64 = 1 << 16;
