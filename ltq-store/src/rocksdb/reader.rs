//! Reads what is not in memory, and tells damage from what is gone by right.

use std::{iter::successors, ops::Range, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;
use ltq_core::{LogName, Offset, ReadLimits, RecordBatch, RecordsError, StoreError, Timestamp};
use rocksdb::{DBRawIterator, Error, ErrorKind, ReadOptions};

use super::{
    database::{Database, Family, read_error},
    engine::Engine,
    format::{PIECE_RECORDS_MAX, Piece, key, parse_key, parse_u64},
    tail::Collected,
};

/// What of a log is to be read.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: u64,
    family: Family,
    end: Offset,
}

/// Why records cannot be read.
struct Broken {
    until: Offset,
    file: String,
    position: u64,
    what: String,
}

impl Engine {
    /// Records from an offset on.
    pub(super) fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        // The database knows batches that readers may not see yet, so the end comes from memory.
        let (place, until) = {
            let state = self.state.read();
            self.check_open()?;
            let found = state.logs.get(log).ok_or_else(|| StoreError::NoSuchLog(log.clone()))?;
            let until = found.until(log, from)?;
            if let Some(batches) = found.read(from, until, limits) {
                return Ok(batches);
            }
            let family = Family::of(found.options);
            (Place { id: found.id, family, end: found.bounds.end }, until)
        };
        let database = self.database()?;
        let Some(database) = database.as_ref() else { return Err(StoreError::Closed) };
        let mut collected = Collected::new(from, until, limits);
        let broken = match collect(database, place, until, &mut collected)? {
            Some(broken) if collected.batches.is_empty() => broken,
            _ => return Ok(collected.batches),
        };
        // It may have been given up while this looked.
        let state = self.state.read();
        let found = state.logs.get(log).ok_or_else(|| StoreError::NoSuchLog(log.clone()))?;
        found.until(log, from)?;
        if found.id != place.id {
            let bounds = found.bounds;
            return Err(StoreError::OutOfRange { log: log.clone(), bounds, from });
        }
        // What was discarded is not damaged.
        let until = broken.until.min(until).max(from.plus(1));
        drop(state);
        let records = until.since(from);
        self.counters.damaged_records.fetch_add(records, Relaxed);
        let Broken { file, position, what, .. } = broken;
        tracing::error!(%log, %from, %until, file, position, "records are damaged: {what}");
        Err(StoreError::Damaged { log: log.clone(), from, until, file, position, what })
    }

    /// The lowest offset of a record that the log still holds whose time is `time` or later.
    pub(super) fn offset_at(&self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError> {
        let (place, bounds, discarded) = {
            let state = self.state.read();
            self.check_open()?;
            let found = state.logs.get(log).ok_or_else(|| StoreError::NoSuchLog(log.clone()))?;
            let place =
                Place { id: found.id, family: Family::of(found.options), end: found.bounds.end };
            (place, found.bounds, found.discarded.clone())
        };
        let database = self.database()?;
        let Some(database) = database.as_ref() else { return Err(StoreError::Closed) };
        let indexed = indexed_before(database, place.id, time)?;
        let start = indexed.unwrap_or_default().max(bounds.first);
        let mut pieces = Pieces::new(database, place, bounds.end)?;
        let mut at = start;
        pieces.find(at)?;
        while at < bounds.end {
            let found = pieces
                .current()
                .map(|it| it.map(|(first, value)| (first, Piece::time_of(first, value))));
            let (first, found_time, count) = match found {
                Ok(Some((first, Ok((time, count))))) => (first, time, count),
                Ok(None) => break,
                // Damage costs what it touches: look behind it.
                Ok(Some((first, Err(_)))) => {
                    at = first.plus(1).max(at.plus(1));
                    pieces.next();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Corruption => {
                    at = pieces.readable_from(at, bounds.end);
                    pieces = Pieces::new(database, place, bounds.end)?;
                    pieces.seek(at);
                    continue;
                }
                Err(error) => return Err(read_error("looking for a time", &error)),
            };
            let end = first.plus(count).min(bounds.end);
            if found_time >= time {
                let mut kept = discarded.outside(first.max(start)..end);
                if let Some(kept) = kept.next() {
                    return Ok(kept.start);
                }
            }
            at = at.max(end);
            pieces.next();
        }
        Ok(bounds.end)
    }
}

/// The offset of the last entry of the index that is not later than a time.
fn indexed_before(
    database: &Database,
    id: u64,
    time: Timestamp,
) -> Result<Option<Offset>, StoreError> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(key(id, 0));
    let mut index = database.raw().raw_iterator_cf_opt(database.family(Family::Times)?, options);
    index.seek_for_prev(key(id, time.0));
    index.status().map_err(|error| read_error("reading the index by time", &error))?;
    Ok(index.value().and_then(parse_u64).map(Offset))
}

/// Takes what a reader wants, as far as it is whole. What ends it early is returned.
fn collect(
    database: &Database,
    place: Place,
    until: Offset,
    collected: &mut Collected,
) -> Result<Option<Broken>, StoreError> {
    let mut pieces = Pieces::new(database, place, until)?;
    pieces.find(collected.next())?;
    loop {
        let at = collected.next();
        let (first, value) = match pieces.current() {
            Ok(Some((first, value))) => (first, Bytes::copy_from_slice(value)),
            Ok(None) => return Ok(Some(pieces.gap(at, None))),
            Err(error) if error.kind() == ErrorKind::Corruption => {
                let until = pieces.readable_from(at, place.end);
                let (file, position) = place_of(error.as_ref());
                return Ok(Some(Broken { until, file, position, what: error.into_string() }));
            }
            Err(error) => {
                return if collected.batches.is_empty() {
                    Err(read_error("reading records", &error))
                } else {
                    Ok(None)
                };
            }
        };
        if first > at {
            return Ok(Some(pieces.gap(at, Some(first))));
        }
        let batch = match Piece::decode(first, &value) {
            Ok(batch) => batch,
            Err(what) => {
                pieces.next();
                let next = pieces.current().ok().flatten().map(|(first, _)| first);
                return Ok(Some(Broken { what, ..pieces.gap(at, next) }));
            }
        };
        if batch.end() <= at {
            // The piece before: the one that is wanted is not there.
            pieces.next();
            let next = pieces.current().ok().flatten().map(|(first, _)| first);
            return Ok(Some(pieces.gap(at, next)));
        }
        let taken = collected.batches.len();
        let more = collected.push(&batch);
        if let Some(last) = collected.batches.get(taken)
            && let Err(RecordsError::Checksum { index, .. }) = last.records.verify()
        {
            let (bad, what) = (last.first.plus(index as u64), last.records.verify());
            collected.cut(bad);
            let what = what.err().map(|error| error.to_string()).unwrap_or_default();
            return Ok(Some(Broken { what, ..pieces.gap(bad, Some(bad.plus(1))) }));
        }
        if !more {
            return Ok(None);
        }
        pieces.next();
    }
}

/// What was found of an offset.
enum Look {
    /// The piece that begins here holds it.
    Holds(Offset),
    /// Only what comes behind it.
    Behind,
    /// Damage.
    Blocked,
}

/// The pieces of a log, in order.
struct Pieces<'a> {
    database: &'a Database,
    place: Place,
    until: Offset,
    iterator: DBRawIterator<'a>,
}

impl<'a> Pieces<'a> {
    /// Those that begin before `until`.
    fn new(database: &'a Database, place: Place, until: Offset) -> Result<Self, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(key(place.id, 0));
        options.set_iterate_upper_bound(key(place.id, until.0));
        options.set_auto_readahead_size(true);
        let family = database.family(place.family)?;
        let iterator = database.raw().raw_iterator_cf_opt(family, options);
        Ok(Self { database, place, until, iterator })
    }

    /// At the piece that holds `offset`, or else the one before it, or else the one behind.
    fn find(&mut self, offset: Offset) -> Result<(), StoreError> {
        self.seek(offset);
        if matches!(self.current(), Ok(Some((first, _))) if first == offset) {
            return Ok(());
        }
        self.iterator.seek_for_prev(key(self.place.id, offset.0));
        match self.iterator.status() {
            // Nothing before it: then what comes after it, to tell how far the gap goes.
            Ok(()) if !self.iterator.valid() => self.seek(offset),
            // Going back RocksDB looks at the pieces beside it too, and it may be one of theirs
            // whose block is damaged.
            Err(error) if error.kind() == ErrorKind::Corruption => {
                if let Some(first) = self.found_forwards(offset) {
                    *self = Self::new(self.database, self.place, self.until)?;
                    self.seek(first);
                }
            }
            Ok(()) | Err(_) => {}
        }
        Ok(())
    }

    /// Where the piece begins that holds an offset, found by looking forwards from places before
    /// it. `None` where that piece itself is damaged, or both of its neighbours are.
    fn found_forwards(&self, offset: Offset) -> Option<Offset> {
        let lowest = offset.0.saturating_sub(PIECE_RECORDS_MAX);
        let (mut behind, mut blocked) = (offset, None);
        // Damage behind the piece is in the way from within the piece, as RocksDB knows no more of a
        // block than how its last key begins: from far enough before, it is not.
        for step in successors(Some(1_u64), |step| step.checked_mul(2)) {
            let from = Offset(offset.0.saturating_sub(step).max(lowest));
            match self.look(from, offset) {
                Look::Holds(first) => return Some(first),
                Look::Behind => behind = from,
                Look::Blocked => blocked = blocked.or(Some(from)),
            }
            if from.0 == lowest {
                break;
            }
        }
        // Damage before it is in the way from too far before.
        let mut blocked = blocked?;
        while behind.since(blocked) > 1 {
            let middle = blocked.plus(behind.since(blocked) / 2);
            match self.look(middle, offset) {
                Look::Holds(first) => return Some(first),
                Look::Behind => behind = middle,
                Look::Blocked => blocked = middle,
            }
        }
        None
    }

    /// What comes into sight of an offset from one before it.
    fn look(&self, from: Offset, offset: Offset) -> Look {
        // With an iterator of its own: one that failed does not fail again.
        let Ok(mut pieces) = Pieces::new(self.database, self.place, self.until) else {
            return Look::Blocked;
        };
        pieces.seek(from);
        loop {
            let (first, value) = match pieces.current() {
                Ok(Some(found)) => found,
                Ok(None) => return Look::Behind,
                Err(_) => return Look::Blocked,
            };
            if first > offset {
                return Look::Behind;
            }
            match Piece::time_of(first, value) {
                Ok((_, count)) if first.plus(count) > offset => return Look::Holds(first),
                Ok(_) | Err(_) => pieces.next(),
            }
        }
    }

    fn seek(&mut self, offset: Offset) {
        self.iterator.seek(key(self.place.id, offset.0));
    }

    fn next(&mut self) {
        if self.iterator.valid() {
            self.iterator.next();
        }
    }

    fn current(&self) -> Result<Option<(Offset, &[u8])>, Error> {
        let Some((key, value)) = self.iterator.item() else {
            return self.iterator.status().map(|()| None);
        };
        Ok(parse_key(key).map(|(_, first)| (Offset(first), value)))
    }

    /// What is not there, up to where something is.
    fn gap(&self, from: Offset, next: Option<Offset>) -> Broken {
        Broken {
            until: next.unwrap_or(self.place.end).max(from.plus(1)),
            file: format!("the column family {:?} of RocksDB", self.place.family),
            position: 0,
            what: "no piece holds them".to_owned(),
        }
    }

    /// Where the first piece behind `bad` begins that can be read: RocksDB does not say which
    /// records are in a block that it cannot read, so this looks for where it can.
    fn readable_from(&self, bad: Offset, end: Offset) -> Offset {
        // Each look with an iterator of its own: one that failed does not fail again.
        let first_at = |offset: Offset| {
            let mut pieces = Pieces::new(self.database, self.place, self.until).ok()?;
            pieces.seek(offset);
            pieces.current().ok().map(|found| found.map_or(end, |(first, _)| first))
        };
        let (mut unreadable, mut step) = (bad, 1);
        let mut readable = loop {
            let probe = bad.plus(step);
            if probe >= end {
                break end;
            }
            match first_at(probe) {
                Some(_) => break probe,
                None => (unreadable, step) = (probe, step.saturating_mul(2)),
            }
        };
        while readable.since(unreadable) > 1 {
            let middle = unreadable.plus(readable.since(unreadable) / 2);
            match first_at(middle) {
                Some(_) => readable = middle,
                None => unreadable = middle,
            }
        }
        let found = if readable < end { first_at(readable) } else { None };
        found.unwrap_or(end).min(end).max(bad.plus(1))
    }
}

/// The file and position that RocksDB names in what it says of damage.
fn place_of(message: &str) -> (String, u64) {
    let mut words = message.split_whitespace().skip_while(|word| *word != "in");
    let file = words.nth(1).map(str::to_owned);
    let position = words.skip_while(|word| *word != "offset").nth(1);
    let position = position.and_then(|position| position.parse().ok()).unwrap_or(0);
    (file.unwrap_or_else(|| "RocksDB's files".to_owned()), position)
}

/// The pieces that hold something of a range of offsets, with how large each is, and what they are.
pub(super) fn pieces_at(
    database: &Database,
    family: Family,
    id: u64,
    offset: Offset,
) -> Result<Option<(Range<Offset>, Bytes)>, StoreError> {
    let place = Place { id, family, end: Offset(u64::MAX) };
    let mut pieces = Pieces::new(database, place, Offset(u64::MAX))?;
    pieces.find(offset)?;
    let found = pieces.current().map_err(|error| read_error("looking for a piece", &error))?;
    let Some((first, value)) = found else { return Ok(None) };
    let Ok((_, count)) = Piece::time_of(first, value) else { return Ok(None) };
    let range = first..first.plus(count);
    Ok(range.contains(&offset).then(|| (range, Bytes::copy_from_slice(value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_damage_is_taken_from_what_rocksdb_says() {
        let message = "Corruption: block checksum mismatch: stored = 1, computed = 2, type = 4  in \
                       /data/db/000012.sst offset 4096 size 100";
        assert_eq!(place_of(message), ("/data/db/000012.sst".to_owned(), 4096));
        assert_eq!(place_of("Corruption: bad"), ("RocksDB's files".to_owned(), 0));
    }
}
