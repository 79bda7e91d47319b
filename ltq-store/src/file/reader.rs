//! Reads records back from segments, checking each.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed},
    },
};

use bytes::Bytes;
use ltq_core::{LogName, Offset, ReadLimits, RecordBatch, StoreError, Timestamp};
use parking_lot::Mutex;

use super::{
    block::{Block, BlockMeta},
    engine::Engine,
    filesystem::{StoreFile, read_up_to},
    format::Salt,
    index::{BlockAt, SegmentIndex},
    log::{Found, Segment},
    reserve::{Reserve, is_short, short},
    segments::{SegmentDir, SegmentKey},
    tail::Collected,
};

/// Open segment files, and what was found damaged in them.
#[derive(Debug)]
pub(super) struct Handles {
    dir: SegmentDir,
    /// Where those are that are open.
    reserve: Arc<Reserve>,
    /// Damaged records that were counted.
    known: Mutex<HashSet<(u64, Offset)>>,
    /// Blocks of which it was said that something around their records is damaged.
    restored: Mutex<HashSet<(u64, Offset)>>,
}

impl Handles {
    pub(super) fn new(dir: SegmentDir, reserve: Arc<Reserve>) -> Self {
        Self { dir, reserve, known: Mutex::default(), restored: Mutex::default() }
    }

    fn get(&self, key: SegmentKey) -> io::Result<Arc<dyn StoreFile>> {
        if let Some((file, uses)) = self.reserve.read.lock().get_mut(&key) {
            *uses += 1;
            return Ok(Arc::clone(file));
        }
        let file = self.dir.open(key)?;
        let mut open = self.reserve.read.lock();
        if open.len() >= HANDLES_MAX {
            // Those used least go, and the others start again.
            let mut uses: Vec<u64> = open.values().map(|&(_, uses)| uses).collect();
            let middle = uses.len() / 2;
            let (_, &mut median, _) = uses.select_nth_unstable(middle);
            let mut left = HANDLES_MAX / 2;
            open.retain(|_, (_, uses)| {
                let keep = *uses >= median && left > 0;
                left -= usize::from(keep);
                *uses = 0;
                keep
            });
        }
        open.insert(key, (Arc::clone(&file), 1));
        Ok(file)
    }

    pub(super) fn forget(&self, key: SegmentKey) {
        self.reserve.read.lock().remove(&key);
    }

    #[cfg(test)]
    pub(super) fn open_files(&self) -> usize {
        self.reserve.read.lock().len()
    }
}

/// A segment that is being read.
pub(super) struct Source<'a> {
    engine: &'a Engine,
    name: &'a LogName,
    log: u64,
    segment: Segment,
    file: Arc<dyn StoreFile>,
    index: Arc<SegmentIndex>,
}

impl Engine {
    /// [`Store::read`](ltq_core::Store::read), wherever the records are. Blocks.
    pub(super) fn read(
        &self,
        name: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        loop {
            let (log, segment, limits) = {
                let state = self.state.read();
                self.check_open()?;
                let log = state.logs.get(name);
                let log = log.ok_or_else(|| StoreError::NoSuchLog(name.clone()))?;
                log.check_from(name, from)?;
                match log.find(from, limits) {
                    Found::Memory(batches) => return Ok(batches),
                    Found::Hole(hole) => return Err(hole.error(name, from)),
                    Found::Segment(segment) => (log.id, segment, log.kept(from, limits)),
                }
            };
            let key = segment.key(log);
            let result = self.source(name, log, segment, from).and_then(|it| it.read(from, limits));
            // It may have been given up or written anew meanwhile: then the log knows better.
            if result.is_ok() || self.still_has(name, key) {
                return result.inspect_err(|error| self.note_damage(log, error));
            }
        }
    }

    /// [`Store::offset_at`](ltq_core::Store::offset_at). Blocks.
    pub(super) fn offset_at(&self, name: &LogName, time: Timestamp) -> Result<Offset, StoreError> {
        let mut from = Offset::ZERO;
        loop {
            let (log, segment) = {
                let state = self.state.read();
                self.check_open()?;
                let log = state.logs.get(name);
                let log = log.ok_or_else(|| StoreError::NoSuchLog(name.clone()))?;
                from = from.max(log.bounds.first);
                from = log.discarded.end_at(from).unwrap_or(from);
                let mut late = log.segments.iter().filter(|it| it.end > from);
                match late.find(|it| it.time_max >= time) {
                    Some(segment) => (log.id, segment.clone()),
                    None => return Ok(log.offset_in_tail(from, time)),
                }
            };
            let (key, first, end) = (segment.key(log), segment.first, segment.end);
            let found = self.source(name, log, segment, from.max(first));
            let found = found.and_then(|it| it.offset_at(from, time));
            match found {
                Ok(Some(found)) if self.is_kept(name, log, found) => return Ok(found),
                Ok(Some(found)) => from = found,
                Ok(None) => from = end,
                Err(error) if self.still_has(name, key) => {
                    self.note_damage(log, &error);
                    return Err(error);
                }
                Err(_) => (),
            }
        }
    }

    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Whether a record was not discarded, or the log is another by now.
    fn is_kept(&self, name: &LogName, log: u64, offset: Offset) -> bool {
        let state = self.state.read();
        let found = state.logs.get(name).filter(|found| found.id == log);
        found.is_none_or(|found| found.discarded.end_at(offset).is_none())
    }

    pub(super) fn still_has(&self, name: &LogName, key: SegmentKey) -> bool {
        let state = self.state.read();
        let found = state.logs.get(name).filter(|found| found.id == key.log);
        found.is_some_and(|found| found.segments.iter().any(|it| it.key(key.log) == key))
    }

    /// A segment of a log of that name and id, to be read.
    pub(super) fn source<'a>(
        &'a self,
        name: &'a LogName,
        log: u64,
        segment: Segment,
        from: Offset,
    ) -> Result<Source<'a>, StoreError> {
        let key = segment.key(log);
        let file = match self.handles.get(key) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let what = "the file is missing".to_owned();
                return Err(self.damaged(name, log, from..segment.end, &segment, 0, what));
            }
            file => file.map_err(|error| self.io_error(key, &error))?,
        };
        let index = match &segment.index {
            Some(index) => Arc::clone(index),
            None => self.load_index(name, key, &segment, &*file)?,
        };
        Ok(Source { engine: self, name, log, segment, file, index })
    }

    fn load_index(
        &self,
        name: &LogName,
        key: SegmentKey,
        segment: &Segment,
        file: &dyn StoreFile,
    ) -> Result<Arc<SegmentIndex>, StoreError> {
        let index = SegmentIndex::scan(file, self.handles.dir.salt(key), segment.bytes);
        let index = Arc::new(index.map_err(|error| self.io_error(key, &error))?);
        let mut state = self.state.write();
        if let Some(log) = state.logs.get_mut(name).filter(|log| log.id == key.log) {
            let same = |it: &&mut Segment| it.key(key.log) == key && it.bytes == segment.bytes;
            if let Some(segment) = log.segments.iter_mut().find(same) {
                segment.index = Some(Arc::clone(&index));
            }
        }
        Ok(index)
    }

    fn io_error(&self, key: SegmentKey, error: &io::Error) -> StoreError {
        let doing = format!("reading {}", self.handles.dir.path(key).display());
        if is_short(error) {
            return short(&doing, error);
        }
        StoreError::Io { doing, cause: error.to_string() }
    }

    /// The error for a reader at the start of the range, all of which is lost, unless the log gave up the
    /// segment meanwhile.
    fn damaged(
        &self,
        name: &LogName,
        log: u64,
        range: std::ops::Range<Offset>,
        segment: &Segment,
        position: u64,
        what: String,
    ) -> StoreError {
        if let Some(failed) = self.failure().filter(|_| !self.read_only) {
            // After a sync that failed memory and device differ: a restart knows what is damaged.
            return failed;
        }
        let file = self.handles.dir.path(segment.key(log)).display().to_string();
        let (from, until) = (range.start, range.end);
        StoreError::Damaged { log: name.clone(), from, until, file, position, what }
    }

    /// Counts records of a log of that id that are damaged, and says so once. A file that is missing
    /// because it was removed is no damage: whoever calls this looked whether the log has it still.
    pub(super) fn note_damage(&self, id: u64, error: &StoreError) {
        let StoreError::Damaged { log, from, until, file, position, what } = error else { return };
        let mut known = self.handles.known.lock();
        if known.len() < KNOWN_MAX && known.insert((id, *until)) {
            self.counters.damaged_records.fetch_add(until.since(*from), Relaxed);
            tracing::error!(%log, %from, %until, file, position, what, "records are damaged");
        }
    }
}

impl Source<'_> {
    fn read(&self, from: Offset, limits: ReadLimits) -> Result<Vec<RecordBatch>, StoreError> {
        let mut collected = Collected::new(from, limits);
        while collected.next() < self.segment.end {
            match self.read_block(&mut collected) {
                Ok(true) => (),
                Ok(false) => break,
                Err(error) if collected.is_empty() => return Err(error),
                // The next read starts there and is told.
                Err(_) => break,
            }
        }
        Ok(collected.finish())
    }

    /// Adds what the block of the next record holds. Tells whether to go on with the one after.
    fn read_block(&self, collected: &mut Collected) -> Result<bool, StoreError> {
        let from = collected.next();
        let (block, position) = self.block_of(from)?;
        let records = block.records();
        let count = records.count();
        let start = block.place_of(from).unwrap_or(count);
        let wanted = collected.fitting(records, start);
        let good = match records.slice(start..start + wanted).verify() {
            Ok(()) => wanted,
            Err(ltq_core::RecordsError::Checksum { index, .. }) => index,
            Err(_) => 0,
        };
        for batch in block.batches(from..block.offset_of(start + good)) {
            if !collected.push(batch) {
                return Ok(false);
            }
        }
        if good < wanted {
            let first_bad = start + good;
            let is_good = |at: &usize| records.slice(*at..at + 1).verify().is_ok();
            let next_good = (first_bad..count).find(is_good).unwrap_or(count);
            let before: usize = records.slice(0..first_bad).payload().len();
            let position = position + block.header().payload_at() + before as u64;
            let what = "the checksum of a record is wrong".to_owned();
            let range = block.offset_of(first_bad)..block.offset_of(next_good);
            return Err(self.damaged(range, position, what));
        }
        Ok(start + wanted == count)
    }

    /// The block that holds a record, and where it stands.
    fn block_of(&self, offset: Offset) -> Result<(Block, u64), StoreError> {
        let (at, next) = self.index.find(offset);
        let until = next.map_or(self.segment.end, |next| next.first.min(self.segment.end));
        let lost = |position, what: &str| self.damaged(offset..until, position, what.to_owned());
        let Some(at) = at else {
            return Err(lost(0, "both headers of a block are damaged"));
        };
        let block = self.load(at)?.ok_or_else(|| {
            lost(at.position, "what stands around the records of a block is damaged beyond repair")
        })?;
        if block.place_of(offset).is_none() {
            return Err(lost(at.position + at.bytes, "both headers of a block are damaged"));
        }
        Ok((block, at.position))
    }

    /// Where its blocks are.
    pub(super) fn index(&self) -> &SegmentIndex {
        &self.index
    }

    /// Reads what a block says of its records. `None` when it is damaged beyond repair.
    pub(super) fn load_meta(&self, at: BlockAt) -> Result<Option<BlockMeta>, StoreError> {
        let front = self.load_bytes(at, at.meta_bytes)?;
        match BlockMeta::decode_front(self.salt(), at.position, &front) {
            Some(meta) => Ok(Some(meta)),
            None => Ok(self.load(at)?.map(Block::into_meta)),
        }
    }

    /// Reads a block. `None` when what stands around its records is damaged beyond repair.
    pub(super) fn load(&self, at: BlockAt) -> Result<Option<Block>, StoreError> {
        if at.position + at.bytes > self.segment.bytes {
            return Ok(None);
        }
        let bytes = self.load_bytes(at, at.bytes)?;
        let block = Block::decode(self.salt(), at.position, &bytes);
        let block = block.filter(|block| block.header().first == at.first);
        if block.as_ref().is_some_and(Block::is_restored) {
            self.note_restored(at);
        }
        Ok(block)
    }

    /// The beginning of a block. What a file that was cut lacks is zeros, which are no records.
    fn load_bytes(&self, at: BlockAt, len: u64) -> Result<Bytes, StoreError> {
        let mut bytes = vec![0; len as usize];
        let read = read_up_to(&*self.file, &mut bytes, at.position);
        let key = self.segment.key(self.log);
        read.map_err(|error| self.engine.io_error(key, &error))?;
        Ok(Bytes::from(bytes))
    }

    fn salt(&self) -> Salt {
        self.engine.handles.dir.salt(self.segment.key(self.log))
    }

    /// Says once that something is damaged that costs nothing so far.
    fn note_restored(&self, at: BlockAt) {
        let mut known = self.engine.handles.restored.lock();
        if known.len() < KNOWN_MAX && known.insert((self.log, at.first)) {
            let file = self.engine.handles.dir.path(self.segment.key(self.log));
            tracing::warn!(log = %self.name, file = %file.display(), position = at.position,
                "what stands around the records of a block is damaged, and was restored from what \
                 stands there twice; a repair writes it anew");
        }
    }

    fn offset_at(&self, from: Offset, time: Timestamp) -> Result<Option<Offset>, StoreError> {
        for at in self.index.late(from, time) {
            // A damaged block is passed over: its records are reported to who reads them.
            let Some(block) = self.load(at)? else { continue };
            let mut batches = block.batches(from..self.segment.end);
            if let Some(found) = batches.find(|batch| batch.time >= time) {
                return Ok(Some(found.first));
            }
        }
        Ok(None)
    }

    fn damaged(&self, range: std::ops::Range<Offset>, position: u64, what: String) -> StoreError {
        self.engine.damaged(self.name, self.log, range, &self.segment, position, what)
    }
}

/// So many segment files are kept open.
const HANDLES_MAX: usize = 128;
/// So many places of damage are remembered, so as not to count them twice.
const KNOWN_MAX: usize = 1 << 16;
