//! What a group of batches changes, as RocksDB is told.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use ltq_core::StoreError;
use ltq_core::{LogName, Offset, Timestamp};
use rocksdb::{ColumnFamily, Error, WriteBatch};

use crate::stretches::Stretches;

use super::{
    change::Change,
    database::{Database, Family},
    format::{LogEntry, NEXT_LOG_ID, Piece, key},
    state::{Log, PIECE_COST_BYTES, State},
    times::Times,
};

/// One batch through the write-ahead log, and one beside it for logs that are not durable.
pub(super) struct Write<'a> {
    families: Families<'a>,
    logged: WriteBatch,
    loose: Vec<(u64, Piece)>,
    loose_times: Vec<(u64, Timestamp, Offset)>,
    /// What the entries of the logs are to say.
    entries: BTreeMap<LogName, LogEntry>,
    /// What is discarded of the logs that it discards from.
    discarded: HashMap<u64, Stretches>,
    deleted: Vec<u64>,
    next_log_id: Option<u64>,
}

struct Families<'a> {
    default: &'a ColumnFamily,
    logs: &'a ColumnFamily,
    records: &'a ColumnFamily,
    loose: &'a ColumnFamily,
    times: &'a ColumnFamily,
    discards: &'a ColumnFamily,
    values: &'a ColumnFamily,
}

impl<'a> Write<'a> {
    pub(super) fn new(database: &'a Database) -> Result<Self, StoreError> {
        let families = Families {
            default: database.family(Family::Default)?,
            logs: database.family(Family::Logs)?,
            records: database.family(Family::Records)?,
            loose: database.family(Family::Loose)?,
            times: database.family(Family::Times)?,
            discards: database.family(Family::Discards)?,
            values: database.family(Family::Values)?,
        };
        Ok(Self {
            families,
            logged: WriteBatch::default(),
            loose: Vec::new(),
            loose_times: Vec::new(),
            entries: BTreeMap::new(),
            discarded: HashMap::new(),
            deleted: Vec::new(),
            next_log_id: None,
        })
    }

    /// Adds a change; `state` is as the group finds it.
    pub(super) fn add(&mut self, change: &Change, state: &State, times: &mut Times) {
        match change {
            Change::Create { id, log, options, first } => {
                let (id, first, options) = (*id, *first, *options);
                let entry = LogEntry { id, first, end: first, bytes: 0, options };
                self.entries.insert(log.clone(), entry);
                self.next_log_id = Some(id.saturating_add(1));
            }
            Change::Delete { id, log } => {
                self.entries.remove(log);
                self.deleted.push(*id);
                self.logged.delete_cf(self.families.logs, log.as_str());
                let (from, to) = (key(*id, 0), key(id.saturating_add(1), 0));
                let Families { records, loose, times: index, discards, .. } = self.families;
                for family in [records, loose, index, discards] {
                    self.logged.delete_range_cf(family, from, to);
                }
                times.forget(*id);
            }
            Change::Append { id, log, pieces, durable } => {
                self.append(*id, pieces, *durable, times);
                if let (true, Some(entry)) = (durable, self.entry(*id, log, state)) {
                    entry.end = pieces.last().map_or(entry.end, |last| last.batch.end());
                    let bytes = pieces.iter().map(|it| it.value.len() as u64 + PIECE_COST_BYTES);
                    entry.bytes += bytes.sum::<u64>();
                }
            }
            // What is left of a log that is not durable is found out when it is opened.
            Change::Truncate { durable: false, .. } => (),
            Change::Truncate { id, log, before, .. } => {
                let found = log_of(state, *id, log);
                let gone = found.map_or(0, |it| it.about_between(it.bounds.first, *before));
                if let Some(entry) = self.entry(*id, log, state) {
                    entry.first = entry.first.max(*before);
                    entry.bytes = entry.bytes.saturating_sub(gone);
                }
                // One that ends behind it begins there now: what lies before it is deleted.
                let known = self.discarded_of(*id, log, state);
                if let Some(stretch) = known.stretch_at(*before) {
                    let (from, until) = (key(*id, before.0), stretch.end.0.to_le_bytes());
                    self.logged.put_cf(self.families.discards, from, until);
                }
                self.discarded_of(*id, log, state).drop_before(*before);
            }
            Change::Discard { id, log, from, until, durable } => {
                let found = log_of(state, *id, log);
                let gone = found.map_or(0, |found| found.about_between(*from, *until));
                let mut first = found.map_or(Offset::ZERO, |found| found.bounds.first);
                if let (true, Some(entry)) = (durable, self.entry(*id, log, state)) {
                    entry.bytes = entry.bytes.saturating_sub(gone);
                    first = entry.first;
                }
                self.discard(*id, log, first.max(*from)..*until, state);
            }
            Change::Put { key, value } => self.logged.put_cf(self.families.values, key, value),
            Change::Remove { key } => self.logged.delete_cf(self.families.values, key),
        }
    }

    fn append(&mut self, id: u64, pieces: &[Piece], durable: bool, times: &mut Times) {
        let Some(Piece { batch: first, .. }) = pieces.first() else { return };
        let bytes = pieces.iter().map(|piece| piece.value.len() as u64).sum();
        let indexed = times.note(id, first.time, bytes);
        if !durable {
            self.loose.extend(pieces.iter().map(|piece| (id, piece.clone())));
            if indexed {
                self.loose_times.push((id, first.time, first.first));
            }
            return;
        }
        for piece in pieces {
            let key = key(id, piece.batch.first.0);
            self.logged.put_cf(self.families.records, key, &piece.value);
        }
        if indexed {
            let offset = first.first.0.to_le_bytes();
            self.logged.put_cf(self.families.times, key(id, first.time.0), offset);
        }
    }

    fn discard(&mut self, id: u64, log: &LogName, stretch: Range<Offset>, state: &State) {
        if stretch.is_empty() {
            return;
        }
        let known = self.discarded_of(id, log, state);
        let joined = touching(known, stretch.start, stretch.end);
        known.insert(stretch.clone());
        let whole = known.stretch_at(stretch.start).unwrap_or(stretch);
        for from in joined {
            self.logged.delete_cf(self.families.discards, key(id, from.0));
        }
        let (from, until) = (key(id, whole.start.0), whole.end.0.to_le_bytes());
        self.logged.put_cf(self.families.discards, from, until);
    }

    fn discarded_of(&mut self, id: u64, log: &LogName, state: &State) -> &mut Stretches {
        self.discarded.entry(id).or_insert_with(|| {
            log_of(state, id, log).map(|found| found.discarded.clone()).unwrap_or_default()
        })
    }

    fn entry(&mut self, id: u64, log: &LogName, state: &State) -> Option<&mut LogEntry> {
        if !self.entries.contains_key(log) {
            let found = log_of(state, id, log)?;
            self.entries.insert(log.clone(), found.entry());
        }
        self.entries.get_mut(log)
    }

    /// Writes it, and syncs it and all before it if `sync`.
    pub(super) fn carry_out(mut self, database: &Database, sync: bool) -> Result<(), Error> {
        let Families { default, logs, loose, times, .. } = self.families;
        for (log, entry) in &self.entries {
            self.logged.put_cf(logs, log.as_str(), entry.encode());
        }
        if let Some(next) = self.next_log_id {
            self.logged.put_cf(default, NEXT_LOG_ID, next.to_le_bytes());
        }
        if !self.logged.is_empty() {
            database.write(self.logged, true, sync)?;
        } else if sync {
            database.sync()?;
        }
        let mut beside = WriteBatch::default();
        for (id, piece) in self.loose.iter().filter(|(id, _)| !self.deleted.contains(id)) {
            beside.put_cf(loose, key(*id, piece.batch.first.0), &piece.value);
        }
        let kept = self.loose_times.iter().filter(|(id, ..)| !self.deleted.contains(id));
        for (id, time, offset) in kept {
            beside.put_cf(times, key(*id, time.0), offset.0.to_le_bytes());
        }
        if beside.is_empty() { Ok(()) } else { database.write(beside, false, false) }
    }
}

fn log_of<'a>(state: &'a State, id: u64, log: &LogName) -> Option<&'a Log> {
    state.logs.get(log).filter(|found| found.id == id)
}

/// Where the stretches begin that one of these ends would become one with.
fn touching(known: &Stretches, from: Offset, until: Offset) -> Vec<Offset> {
    let before = known.stretch_at(Offset(from.0.saturating_sub(1)));
    let mut at = before.as_ref().map_or(from, |before| before.end);
    let mut found: Vec<_> = before.map(|before| before.start).into_iter().collect();
    while let Some(next) = known.next_behind(at).filter(|next| *next <= until) {
        found.push(next);
        at = known.end_at(next).unwrap_or_else(|| until.plus(1));
    }
    found
}
