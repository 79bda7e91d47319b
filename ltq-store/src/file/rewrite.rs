//! Gives back the space of what was discarded: writes what is still wanted of sparse segments
//! anew, several neighbours into one, in the background.
//!
//! It is done in steps that move at most [`STEP_BYTES`] and sync them, so that a sync of the
//! journal never waits for more than that, with rests between them. Nothing knows of the new file
//! until it is whole; then readers find it in place of the others, and those go once a checkpoint
//! names it. A crash at any time leaves the others, or the new one.

use std::{collections::HashSet, ops::Range, sync::atomic::Ordering::Relaxed};

use ltq_core::{LogName, Offset, StoreError};

use super::{
    engine::Engine,
    filesystem::is_full,
    keeper::Keeping,
    log::Segment,
    reserve::{is_short, passes},
    segments::{SegmentKey, SegmentWriter},
    sparse::{Chosen, Look, Weight, Weights, within},
};

/// The segments that are looked at, or written anew.
#[derive(Debug, Default)]
pub(super) struct Rewriting {
    look: Option<Look>,
    work: Option<Work>,
    weights: Weights,
    /// Damaged ones, and others that could not be read or written: they stay as they are.
    unfit: HashSet<SegmentKey>,
    /// How much room was missing.
    wanted: u64,
}

impl Rewriting {
    /// Whether this segment is being written anew, so that nothing may be added to it.
    pub(super) fn has(&self, key: SegmentKey) -> bool {
        let is = |work: &Work| work.inputs.iter().any(|input| input.key(work.id) == key);
        self.work.as_ref().is_some_and(is)
    }
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rewrote {
    /// There is nothing to be done.
    Nothing,
    /// There is more to be done.
    More,
    /// There is no room to do it, or no file can be opened for it.
    NoRoom,
}

/// Segments on their way into one.
#[derive(Debug)]
struct Work {
    log: LogName,
    id: u64,
    inputs: Vec<Segment>,
    /// The one that is read, and the next block in it.
    input: usize,
    block: usize,
    /// What is wanted of it, and how much of that was found.
    wanted: Option<Vec<Range<Offset>>>,
    found: u64,
    writer: SegmentWriter,
}

/// Why segments stay as they are.
enum Trouble {
    /// This one cannot be read, or what was written may not be what was meant.
    Unfit(SegmentKey),
    /// The log is gone.
    Gone,
    /// The device is full.
    Full,
    /// No file can be opened for now.
    Short,
}

impl Engine {
    /// Does a little of what is to be done so that space comes back.
    ///
    /// # Errors
    /// [`StoreError::Failed`] after which nothing more can be done.
    pub(super) fn rewrite_step(&self) -> Result<Rewrote, StoreError> {
        let mut keeping = self.keeping.lock();
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        if keeping.rewriting.work.is_some() {
            return self.work_on(&mut keeping);
        }
        if keeping.rewriting.look.is_none() {
            keeping.rewriting.look = self.begin_look();
        }
        match keeping.rewriting.look.take() {
            Some(look) => self.look_on(&mut keeping, look),
            None => Ok(Rewrote::Nothing),
        }
    }

    /// Leaves what was begun.
    pub(super) fn stop_rewriting(&self, keeping: &mut Keeping) {
        if let Some(work) = keeping.rewriting.work.take() {
            work.writer.abandon();
            self.counters.rewriting_bytes.store(0, Relaxed);
        }
    }

    fn begin_look(&self) -> Option<Look> {
        if !self.state.read().is_sparse() {
            return None;
        }
        let mut state = self.state.write();
        while let Some(name) = state.take_sparse() {
            let Some(log) = state.logs.get(&name) else { continue };
            // The last one still grows.
            let (last, grown) =
                (log.segments.last().map(|last| last.first), self.options.grown_bytes());
            let grows = |it: &&Segment| Some(it.first) == last && it.bytes < grown;
            let segments = log.segments.iter().filter(|it| !grows(it)).cloned();
            let look = Look::new(name, log.id, segments);
            if !look.left.is_empty() {
                return Some(look);
            }
        }
        None
    }

    /// Weighs the next segment.
    fn look_on(&self, keeping: &mut Keeping, mut look: Look) -> Result<Rewrote, StoreError> {
        let rewriting = &mut keeping.rewriting;
        let room = self.rewrite_room();
        if room < rewriting.wanted {
            rewriting.look = Some(look);
            return Ok(Rewrote::NoRoom);
        }
        rewriting.wanted = 0;
        let Some(segment) = look.left.pop_front() else { return Ok(Rewrote::More) };
        let Some(wanted) = self.wanted_of(&look.log, look.id, &segment) else {
            return Ok(Rewrote::More);
        };
        let Ok(weight) = self.weigh(rewriting, &look, &segment, &wanted) else {
            look.left.push_front(segment);
            rewriting.look = Some(look);
            return Ok(Rewrote::NoRoom);
        };
        let limit = room.min(self.options.segment_bytes);
        match look.push(segment, weight, limit, self.options.segment_bytes) {
            Chosen::Job(inputs, bytes) if bytes > room => {
                // All of them are weighed again when there is room; that is known then.
                rewriting.wanted = bytes;
                inputs.into_iter().rev().for_each(|it| look.left.push_front(it));
                rewriting.look = Some(look);
                Ok(Rewrote::NoRoom)
            }
            Chosen::Job(inputs, _) if !self.state.read().has_all(&look.log, look.id, &inputs) => {
                // One has grown, or is gone.
                self.state.write().note_sparse(look.log.clone());
                Ok(Rewrote::More)
            }
            Chosen::Job(inputs, _) => {
                let rewrite = inputs.iter().map(|it| it.rewrite).max().unwrap_or(0);
                let rewrite = rewrite.saturating_add(1);
                rewriting.work = Some(Work {
                    log: look.log.clone(),
                    id: look.id,
                    inputs,
                    input: 0,
                    block: 0,
                    wanted: None,
                    found: 0,
                    writer: SegmentWriter::rewriting(&keeping.segments, look.id, rewrite),
                });
                rewriting.look = Some(look).filter(|look| !look.left.is_empty());
                Ok(Rewrote::More)
            }
            Chosen::More => {
                rewriting.look = Some(look);
                Ok(Rewrote::More)
            }
            Chosen::Nothing => {
                let state = self.state.read();
                let log = state.logs.get(&look.log).filter(|log| log.id == look.id);
                let segments = log.map_or(&[][..], |log| &log.segments);
                let keys: Vec<_> = segments.iter().map(|it| it.key(look.id)).collect();
                rewriting.weights.keep_only(look.id, &keys);
                // Another log may be waiting.
                Ok(Rewrote::More)
            }
        }
    }

    /// Weighs a segment; `None` when it is to stay as it is.
    ///
    /// # Errors
    /// That it cannot be opened for now.
    fn weigh(
        &self,
        rewriting: &mut Rewriting,
        look: &Look,
        segment: &Segment,
        wanted: &[Range<Offset>],
    ) -> Result<Option<Weight>, StoreError> {
        let key = segment.key(look.id);
        if rewriting.unfit.contains(&key) {
            return Ok(None);
        }
        let weighed = self
            .source(&look.log, look.id, segment.clone(), segment.first)
            .and_then(|source| rewriting.weights.weigh(key, &source, wanted, segment.end));
        if let Err(error @ StoreError::Short { .. }) = weighed {
            return Err(error);
        }
        if let Err(error) = &weighed
            && self.still_has(&look.log, key)
        {
            self.note_damage(look.id, error);
        }
        if !matches!(weighed, Ok(Some(_))) {
            rewriting.unfit.insert(key);
        }
        Ok(weighed.ok().flatten())
    }

    /// What of a segment was neither truncated nor discarded; `None` when the log is gone.
    fn wanted_of(&self, log: &LogName, id: u64, segment: &Segment) -> Option<Vec<Range<Offset>>> {
        let state = self.state.read();
        let found = state.logs.get(log).filter(|found| found.id == id)?;
        let first = segment.first.max(found.bounds.first);
        Some(found.discarded.outside(first..segment.end).collect())
    }

    /// Bytes that may be written before any are given back. Half of the reserve is for this: what
    /// is full is emptied by it.
    fn rewrite_room(&self) -> u64 {
        let kept = self.options.reserve_bytes / 2;
        let device = self.files.free_space(&self.options.dir).unwrap_or(u64::MAX);
        let used = self.disk_bytes(&self.front.lock());
        let limit = self.options.disk_bytes_max.unwrap_or(u64::MAX);
        device.saturating_sub(kept).min(limit.saturating_sub(used))
    }

    /// Moves a little into the new segment; when that is whole, lets it take the others' place.
    fn work_on(&self, keeping: &mut Keeping) -> Result<Rewrote, StoreError> {
        let Some(mut work) = keeping.rewriting.work.take() else { return Ok(Rewrote::More) };
        let before = work.writer.bytes_written;
        let moved = work.step(self);
        let written = work.writer.bytes_written - before;
        self.counters.bytes_written.fetch_add(written, Relaxed);
        self.counters.rewritten_bytes.fetch_add(written, Relaxed);
        self.counters.rewriting_bytes.fetch_add(written, Relaxed);
        let is_short = matches!(moved, Err(Trouble::Short));
        match moved {
            Ok(false) => {
                keeping.rewriting.work = Some(work);
                return Ok(Rewrote::More);
            }
            Ok(true) => {
                let replaced = self.take_place(keeping, work);
                self.counters.rewriting_bytes.store(0, Relaxed);
                return replaced.map(|()| Rewrote::More);
            }
            Err(Trouble::Unfit(key)) => {
                tracing::warn!(log = %work.log, first = %key.first,
                    "a segment of which little is wanted cannot be written anew");
                keeping.rewriting.unfit.insert(key);
                self.state.write().note_sparse(work.log.clone());
            }
            Err(Trouble::Full) => {
                let bytes = work.inputs.iter().map(|it| it.bytes).sum::<u64>();
                // It needs no more, or it would not have been worth it.
                keeping.rewriting.wanted = bytes / 4 * 3;
                self.state.write().note_sparse(work.log.clone());
            }
            Err(Trouble::Short) => self.state.write().note_sparse(work.log.clone()),
            Err(Trouble::Gone) => (),
        }
        work.writer.abandon();
        self.counters.rewriting_bytes.store(0, Relaxed);
        Ok(if is_short { Rewrote::NoRoom } else { Rewrote::More })
    }

    fn take_place(&self, keeping: &mut Keeping, work: Work) -> Result<(), StoreError> {
        let Work { log, id, inputs, writer, .. } = work;
        let next = keeping.checkpoint + 1;
        for output in writer.into_segments() {
            let key = output.key(id);
            let mut state = self.state.write();
            if state.replace(&log, id, &inputs, &output, next) {
                keeping.dirty.insert(key);
                self.count(&state);
            } else {
                drop(state);
                // Everything in it was given up meanwhile.
                if let Err(error) = keeping.segments.remove(key) {
                    tracing::warn!(%error, log = id, "a segment could not be removed");
                }
            }
        }
        for input in &inputs {
            keeping.rewriting.weights.forget(input.key(id));
        }
        match self.name_segments(keeping) {
            // They go with the next checkpoint.
            Err(error) if passes(&error) => Ok(()),
            named => named.and_then(|()| self.remove_garbage(keeping)),
        }
    }
}

impl Work {
    /// Moves a little. Tells whether that was all.
    fn step(&mut self, engine: &Engine) -> Result<bool, Trouble> {
        let mut moved = 0;
        while moved < STEP_BYTES {
            let Some(input) = self.inputs.get(self.input).cloned() else {
                let last = self.inputs.last().map(|last| last.key(self.id));
                self.writer.finish().map_err(|error| trouble(&error, last))?;
                return Ok(true);
            };
            let key = input.key(self.id);
            match self.move_block(engine, &input) {
                Ok(Some(bytes)) => moved += bytes,
                Ok(None) => (self.input, self.block, self.wanted) = (self.input + 1, 0, None),
                Err(Trouble::Unfit(_)) if !engine.still_has(&self.log, key) => {
                    // It was given up meanwhile.
                    (self.input, self.block, self.wanted) = (self.input + 1, 0, None);
                }
                Err(trouble) => return Err(trouble),
            }
        }
        let at = self.inputs.get(self.input).map(|input| input.key(self.id));
        self.writer.sync().map_err(|error| trouble(&error, at))?;
        Ok(false)
    }

    /// Moves what is wanted of the next block. Returns how many bytes were read; `None` when there
    /// is none.
    fn move_block(&mut self, engine: &Engine, input: &Segment) -> Result<Option<u64>, Trouble> {
        let key = input.key(self.id);
        let unfit = || Trouble::Unfit(key);
        if self.wanted.is_none() {
            let wanted = engine.wanted_of(&self.log, self.id, input).ok_or(Trouble::Gone)?;
            (self.wanted, self.found) = (Some(wanted), 0);
        }
        let wanted = self.wanted.as_deref().unwrap_or_default();
        let source = engine.source(&self.log, self.id, input.clone(), input.first);
        let source = source.map_err(|error| match error {
            StoreError::Short { .. } => Trouble::Short,
            _ => unfit(),
        })?;
        let blocks = source.index().blocks(input.end).skip(self.block);
        for (block, end) in blocks {
            self.block += 1;
            let here = within(wanted, block.first, end);
            if here.is_empty() {
                continue;
            }
            let content = source.load(block).ok().flatten().ok_or_else(unfit)?;
            for range in here {
                for batch in content.batches(range.clone()) {
                    batch.records.verify().map_err(|_| unfit())?;
                    self.found += batch.records.count() as u64;
                    self.writer.push(batch).map_err(|error| trouble(&error, Some(key)))?;
                }
            }
            return Ok(Some(block.bytes));
        }
        // What is not found is damaged; left where it is, it is still told.
        let expected: u64 = wanted.iter().map(|range| range.end.since(range.start)).sum();
        if self.found == expected { Ok(None) } else { Err(unfit()) }
    }
}

/// What an error of writing means: the new file goes, and nothing is lost with it.
fn trouble(error: &std::io::Error, at: Option<SegmentKey>) -> Trouble {
    match at {
        _ if is_full(error) => Trouble::Full,
        _ if is_short(error) => Trouble::Short,
        Some(key) => Trouble::Unfit(key),
        None => Trouble::Gone,
    }
}

/// What a step moves, about: some milliseconds of a slow disk. Larger ones would hold up a sync of
/// the journal, and who waits for the thread that keeps house, for longer.
pub(super) const STEP_BYTES: u64 = 1 << 20;
