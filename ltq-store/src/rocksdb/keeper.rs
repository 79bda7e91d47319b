//! Gives back what was given up: pieces are deleted by range, those of which little is wanted
//! rewritten, files that hold nothing else removed, and what is left is compacted away before it
//! grows beyond a share of what is wanted.
//!
//! Nothing here changes what a reader sees: what is deleted lies before a log's first offset or in
//! a stretch that was discarded.

use std::{
    cmp::Reverse,
    collections::HashMap,
    ops::Range,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use ltq_core::{LogName, Offset, StoreError};
use rocksdb::{Error, WriteBatch};

use crate::stretches::Stretches;

use super::{
    commit::SWEEP_BYTES,
    database::{Database, Family, io_error},
    engine::Engine,
    format::{Piece, key},
    reader::pieces_at,
};

/// What the thread that keeps house knows.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// Where all pieces were deleted since files were last looked at, by family and log. Exactly
    /// that: a file within it goes with all that it holds.
    dead: HashMap<(FamilyKey, u64), Stretches>,
    /// What was given up by then.
    given_up: u64,
}

/// Whether a log's pieces are those of a durable one.
type FamilyKey = bool;

/// What of a log is to be deleted.
struct Sweep {
    log: LogName,
    id: u64,
    family: Family,
    /// All before the first record, from where it was not done yet.
    swept: Offset,
    first: Offset,
    before: bool,
    stretches: Vec<Range<Offset>>,
    discarded: Stretches,
}

impl Engine {
    /// Keeps house whenever something was given up, until told to stop.
    pub(super) fn keep_loop(&self) {
        let mut keeper = Keeper::default();
        let mut last = Instant::now();
        loop {
            let urgent = {
                let mut keep = self.keep.lock();
                while !keep.stopping && !keep.due && !keep.urgent {
                    if self.keep_due.wait_for(&mut keep, TICK).timed_out() {
                        break;
                    }
                }
                // Each look goes through all logs: not too often.
                let next = last + LOOK_INTERVAL;
                while !keep.stopping && !keep.urgent && Instant::now() < next {
                    self.keep_due.wait_until(&mut keep, next);
                }
                if keep.stopping {
                    return;
                }
                keep.due = false;
                std::mem::take(&mut keep.urgent)
            };
            last = Instant::now();
            if let Err(error) = self.keep_step(&mut keeper, urgent) {
                tracing::warn!(%error, "space that was given up was not given back");
            }
        }
    }

    /// Gives back what is due; all that can be if `urgent`.
    pub(super) fn keep_step(&self, keeper: &mut Keeper, urgent: bool) -> Result<(), StoreError> {
        if self.failure().is_some() {
            return Ok(());
        }
        let guard = self.database()?;
        let Some(database) = guard.as_ref() else { return Ok(()) };
        if self.check_spare(database).is_err() {
            // What is due stays so, until the next look.
            return Ok(());
        }
        for sweep in self.sweeps() {
            self.sweep(database, keeper, &sweep)?;
        }
        let (given_up, stored) = {
            let mut state = self.state.write();
            (std::mem::take(&mut state.given_up), state.stored_bytes())
        };
        keeper.given_up += given_up;
        let much = keeper.given_up >= COMPACT_BYTES.max(stored / 2);
        if much || (urgent && keeper.given_up > 0) {
            keeper.reclaim(database).map_err(|error| io_error("compacting", &error))?;
        }
        Ok(())
    }

    /// What is to be deleted, taken from the logs.
    fn sweeps(&self) -> Vec<Sweep> {
        let mut state = self.state.write();
        let mut sweeps = Vec::new();
        for (name, log) in &mut state.logs {
            let before = log.bounds.first > log.swept_for;
            if !before && log.unswept.is_empty() {
                continue;
            }
            log.swept_for = log.bounds.first;
            sweeps.push(Sweep {
                log: name.clone(),
                id: log.id,
                family: Family::of(log.options),
                swept: log.swept,
                first: log.bounds.first,
                before,
                stretches: std::mem::take(&mut log.unswept),
                discarded: log.discarded.clone(),
            });
        }
        sweeps
    }

    fn sweep(
        &self,
        database: &Database,
        keeper: &mut Keeper,
        sweep: &Sweep,
    ) -> Result<(), StoreError> {
        // The log stays while its pieces are rewritten: it would leave them behind otherwise.
        let _sweeping = self.sweeping.lock();
        if self.state.read().logs.get(&sweep.log).is_none_or(|log| log.id != sweep.id) {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        let family = database.family(sweep.family)?;
        let mut dead = Vec::new();
        let (mut swept, mut rewritten) = (sweep.swept, 0);
        if sweep.before {
            // The piece that holds the first record stays.
            let holder = pieces_at(database, sweep.family, sweep.id, sweep.first)?;
            let to = holder.map_or(sweep.first, |(range, _)| range.start).max(sweep.swept);
            batch.delete_range_cf(family, key(sweep.id, sweep.swept.0), key(sweep.id, to.0));
            let discards = database.family(Family::Discards)?;
            let kept = sweep.discarded.iter().next().map_or(sweep.first, |it| it.start);
            let kept = kept.min(sweep.first);
            if sweep.swept < kept {
                batch.delete_range_cf(discards, key(sweep.id, 0), key(sweep.id, kept.0));
            }
            dead.push(sweep.swept..to);
            swept = swept.max(to);
        }
        for stretch in &sweep.stretches {
            let mut edges = Vec::new();
            for at in [stretch.start, Offset(stretch.end.0.saturating_sub(1))] {
                edges.extend(pieces_at(database, sweep.family, sweep.id, at)?);
            }
            edges.dedup_by_key(|(range, _)| range.start);
            let last = edges.last().filter(|(range, _)| range.end > stretch.end);
            let to = last.map_or(stretch.end, |(range, _)| range.start.max(stretch.start));
            batch.delete_range_cf(family, key(sweep.id, stretch.start.0), key(sweep.id, to.0));
            dead.push(stretch.start..to);
            for (range, value) in edges {
                let covers = range.start < stretch.start || range.end > stretch.end;
                if covers {
                    rewritten += rewrite(&mut batch, database, sweep, &range, &value)?;
                }
            }
        }
        // In the write-ahead log, after what gave it up: what is there after a crash fits.
        database
            .write(batch, sweep.family == Family::Records, false)
            .map_err(|error| io_error("deleting what was given up", &error))?;
        self.counters.bytes_rewritten.fetch_add(rewritten, Relaxed);
        if sweep.before
            && let Some(log) = self.state.write().logs.get_mut(&sweep.log)
        {
            log.swept = swept;
        }
        let known = keeper.dead.entry((sweep.family == Family::Records, sweep.id)).or_default();
        dead.into_iter().for_each(|range| known.insert(range));
        Ok(())
    }
}

/// Replaces a piece by what is wanted of it, once that is less than half of it. Returns how many
/// bytes of records it writes anew.
fn rewrite(
    batch: &mut WriteBatch,
    database: &Database,
    sweep: &Sweep,
    range: &Range<Offset>,
    value: &bytes::Bytes,
) -> Result<u64, StoreError> {
    // What is damaged stays as it is: its readers are told.
    let Ok(piece) = Piece::decode(range.start, value) else { return Ok(0) };
    if piece.records.verify().is_err() {
        return Ok(0);
    }
    let kept = sweep.discarded.outside(range.start.max(sweep.first)..range.end);
    let kept: Vec<_> = kept.map(|kept| piece.slice(kept.start, kept.end)).collect();
    let bytes: usize = kept.iter().map(|kept| kept.records.byte_len()).sum();
    if 2 * bytes >= value.len() {
        return Ok(0);
    }
    let family = database.family(sweep.family)?;
    batch.delete_cf(family, key(sweep.id, range.start.0));
    for kept in kept {
        for piece in Piece::cut(kept.first, kept.time, &kept.records) {
            batch.put_cf(family, key(sweep.id, piece.batch.first.0), &piece.value);
        }
    }
    Ok(bytes as u64)
}

impl Keeper {
    /// Removes the files that hold nothing else, and merges the rest.
    fn reclaim(&mut self, database: &Database) -> Result<(), Error> {
        // A file that is removed is gone at once: first, what gave it up has to be durable.
        database.sync()?;
        let families = [Family::Records, Family::Loose].map(|family| database.family(family).ok());
        for (&(durable, id), dead) in &self.dead {
            let family = if durable { families[0] } else { families[1] };
            let Some(family) = family else { continue };
            let mut again = WriteBatch::default();
            let mut widest: Vec<_> = dead.iter().collect();
            widest.sort_unstable_by_key(|range| Reverse(range.end.since(range.start)));
            for range in widest.into_iter().take(DEAD_RANGES_MAX) {
                // RocksDB takes the second key in: what begins there may be wanted.
                let last = range.end.0.saturating_sub(1);
                let (from, to) = (key(id, range.start.0), key(id, last));
                database.raw().delete_file_in_range_cf(family, from, to)?;
                again.delete_range_cf(family, from, key(id, range.end.0));
            }
            // A file that went may have held what deletes the pieces of a deeper one that stays.
            database.write(again, durable, false)?;
        }
        let raw = database.raw();
        for family in [Family::Records, Family::Loose, Family::Values] {
            if let Ok(family) = database.family(family) {
                raw.flush_cf(family)?;
                raw.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
            }
        }
        self.dead.clear();
        self.given_up = 0;
        Ok(())
    }
}

/// Without anything to do, the thread looks so often: what is below [`SWEEP_BYTES`] goes then.
const TICK: Duration = Duration::from_secs(60);
/// It looks at most so often.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// So much may be given up, or half as much as is wanted if that is more, before files are merged
/// for it.
const COMPACT_BYTES: u64 = 64 * SWEEP_BYTES;
/// Of each log, files are looked for in so many of the ranges that hold nothing, the widest: each
/// look goes through all files, and what is left of the others is merged away.
const DEAD_RANGES_MAX: usize = 64;
