//! Opens a store: what its logs hold, which values there are, and what is left of logs that are
//! not durable.

use std::{collections::HashMap, ops::Range};

use ltq_core::{Bounds, LogName, Offset, StoreError, Timestamp};
use rocksdb::{DBRawIterator, ErrorKind, ReadOptions, WriteBatch};

use super::{
    database::{Database, Family, io_error, read_error},
    engine::Engine,
    format::{LogEntry, NEXT_LOG_ID, Piece, key, parse_key, parse_u64},
    identity::refuse,
    options::RocksDbStoreOptions,
    planned::Planned,
    state::{Log, State},
    times::Times,
};

/// Opens the store.
pub(super) fn open(options: RocksDbStoreOptions) -> Result<(Engine, Times), StoreError> {
    options.check()?;
    let database = Database::open(&options)?;
    let (engine, times) = restore(options, database)?;
    if let Some(database) = &*engine.database()? {
        // Where there are too few, the first commit hears of it.
        let _ = engine.check_spare(database);
    }
    Ok((engine, times))
}

/// Opens the store without writing anything.
pub(super) fn open_read_only(options: RocksDbStoreOptions) -> Result<Engine, StoreError> {
    options.check()?;
    let database = Database::open_read_only(&options)?;
    let (engine, _) = restore(options, database)?;
    engine.take_nothing("it was opened for reading only");
    Ok(engine)
}

fn restore(
    options: RocksDbStoreOptions,
    database: Database,
) -> Result<(Engine, Times), StoreError> {
    let mut state = State::new(options.newest_bytes());
    let next_log_id = next_log_id(&database)?;
    let mut logs = Vec::new();
    database.scan(Family::Logs, b"", |name, entry| {
        let name = str::from_utf8(name).ok().map(LogName::new);
        let entry = LogEntry::decode(entry).filter(|entry| entry.id < next_log_id);
        let (Some(name), Some(entry)) = (name, entry) else {
            return Err(refuse(&database.directory().database(), "the entry of a log is no entry"));
        };
        logs.push((name, entry));
        Ok(true)
    })?;
    remove_unknown(&database, next_log_id)?;
    let mut discards: HashMap<u64, Vec<Range<Offset>>> = HashMap::new();
    database.scan(Family::Discards, b"", |key, until| {
        if let (Some((id, from)), Some(until)) = (parse_key(key), parse_u64(until)) {
            discards.entry(id).or_default().push(Offset(from)..Offset(until));
        }
        Ok(true)
    })?;
    let mut times = Times::default();
    for (name, entry) in logs {
        let bounds = if entry.options.durable {
            Bounds { first: entry.first, end: entry.end }
        } else {
            loose_bounds(&database, &entry)?
        };
        let mut log = Log::new(entry.id, entry.options, bounds, entry.bytes);
        for stretch in discards.remove(&entry.id).unwrap_or_default() {
            let (from, until) = (stretch.start.max(bounds.first), stretch.end.min(bounds.end));
            if until < stretch.end {
                cut_discard(&database, entry.id, &stretch, until)?;
            }
            if from < until {
                log.restore_discarded(from..until);
            }
        }
        if let Some(last) = last_time(&database, entry.id, bounds.end)? {
            times.restore(entry.id, last);
        }
        state.restore(name, log);
    }
    database.scan(Family::Values, b"", |key, value| {
        state.put(copy(key), copy(value));
        Ok(true)
    })?;
    let planned = Planned::new(&state, next_log_id);
    Ok((Engine::new(options, database, planned, state), times))
}

fn copy(bytes: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(bytes)
}

fn next_log_id(database: &Database) -> Result<u64, StoreError> {
    let found = database.raw().get_cf(database.family(Family::Default)?, NEXT_LOG_ID);
    let found = found.map_err(|error| read_error("reading the next log's number", &error))?;
    Ok(found.as_deref().and_then(parse_u64).unwrap_or(0))
}

/// Removes what a log left that a power cut took back before it was durable: its number is given
/// to another one.
fn remove_unknown(database: &Database, next_log_id: u64) -> Result<(), StoreError> {
    let mut batch = WriteBatch::default();
    for family in [Family::Records, Family::Loose, Family::Times, Family::Discards] {
        let mut last =
            database.raw().raw_iterator_cf_opt(database.family(family)?, ReadOptions::default());
        last.seek(key(next_log_id, 0));
        if last.valid() {
            let family = database.family(family)?;
            batch.delete_range_cf(family, key(next_log_id, 0), key(u64::MAX, u64::MAX));
        }
        was_read(&last)?;
    }
    if batch.is_empty() || database.is_read_only() {
        return Ok(());
    }
    let written = database.write(batch, true, true);
    written.map_err(|error| io_error("removing what no log holds", &error))
}

/// What is left of a log that is not durable: its entry is from when it was made, or from the last
/// clean close.
fn loose_bounds(database: &Database, entry: &LogEntry) -> Result<Bounds, StoreError> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(key(entry.id, 0));
    options.set_iterate_upper_bound(key(entry.id, u64::MAX));
    let family = database.family(Family::Loose)?;
    let mut pieces = database.raw().raw_iterator_cf_opt(family, options);
    pieces.seek_to_last();
    let last = pieces.item().and_then(|(key, value)| {
        let (_, first) = parse_key(key)?;
        let (_, count) = Piece::time_of(Offset(first), value).ok()?;
        Some(Offset(first).plus(count))
    });
    was_read(&pieces)?;
    pieces.seek_to_first();
    let first = pieces.key().and_then(parse_key).map(|(_, first)| Offset(first));
    was_read(&pieces)?;
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(Bounds { first: entry.end, end: entry.end });
    };
    let first = first.max(entry.first);
    Ok(Bounds { first, end: last.max(first) })
}

/// Whether that nothing was found means that there is nothing. What is damaged is left out.
fn was_read(found: &DBRawIterator<'_>) -> Result<(), StoreError> {
    match found.status() {
        Err(error) if error.kind() != ErrorKind::Corruption => {
            Err(read_error("looking for what logs hold", &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Cuts off what was discarded of a log that came back shorter: its offsets are given to others.
fn cut_discard(
    database: &Database,
    id: u64,
    stretch: &Range<Offset>,
    until: Offset,
) -> Result<(), StoreError> {
    if database.is_read_only() {
        return Ok(());
    }
    let mut batch = WriteBatch::default();
    let (family, from) = (database.family(Family::Discards)?, key(id, stretch.start.0));
    if stretch.start < until {
        batch.put_cf(family, from, until.0.to_le_bytes());
    } else {
        batch.delete_cf(family, from);
    }
    let written = database.write(batch, true, true);
    written.map_err(|error| io_error("cutting off what was discarded", &error))
}

/// The time of the last entry of a log's index. Entries behind the log's end, which one that is
/// not durable may have, are removed.
fn last_time(database: &Database, id: u64, end: Offset) -> Result<Option<Timestamp>, StoreError> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(key(id, 0));
    options.set_iterate_upper_bound(key(id.saturating_add(1), 0));
    let family = database.family(Family::Times)?;
    let mut index = database.raw().raw_iterator_cf_opt(family, options);
    index.seek_to_last();
    let mut behind = WriteBatch::default();
    let mut last = None;
    while let Some((found, offset)) = index.item() {
        if parse_u64(offset).is_some_and(|offset| offset < end.0) {
            last = parse_key(found).map(|(_, time)| Timestamp(time));
            break;
        }
        behind.delete_cf(family, found);
        index.prev();
    }
    index.status().map_err(|error| read_error("reading the index by time", &error))?;
    if !behind.is_empty() && !database.is_read_only() {
        let written = database.write(behind, true, false);
        written.map_err(|error| io_error("removing what no log holds", &error))?;
    }
    Ok(last)
}
