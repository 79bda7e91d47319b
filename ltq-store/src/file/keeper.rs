//! Keeps house, off the path of commits: memory and journal within their limits, a journal file
//! made ahead, files removed that nothing needs, and room for batches that wait for it.

use std::{
    collections::BTreeSet,
    io,
    sync::atomic::Ordering::{Acquire, Relaxed},
};

use ltq_core::StoreError;

use super::{
    checkpoint::{self, LogSnapshot, Snapshot},
    engine::{Engine, Entered},
    filesystem::is_full,
    front::{NoRoom, Parked, Sealed},
    journal::ENTRIES_AT,
    segments::{SegmentDir, SegmentKey},
    spill::{self, Job},
    tail::{Chunk, NOT_IN_JOURNAL},
};

/// What whoever keeps house needs.
#[derive(Debug)]
pub(super) struct Keeping {
    pub(super) segments: SegmentDir,
    /// Segments that were written to and not synced.
    pub(super) dirty: BTreeSet<SegmentKey>,
    /// Journal files that nothing needs, to be used again.
    pub(super) spare: Vec<Sealed>,
    pub(super) next_file: u64,
    /// Of the last checkpoint: its number, and from where on it needs the journal.
    pub(super) checkpoint: u64,
    pub(super) replay: (u64, u64),
}

impl Engine {
    /// Does all that is to be done now.
    ///
    /// # Errors
    /// [`StoreError::Failed`] after which nothing more can be done. That a device is full is told
    /// to the batches that wait for room, and to nobody else.
    pub(super) fn keep_step(&self) -> Result<(), StoreError> {
        let mut keeping = self.keeping.lock();
        loop {
            let mut full = None;
            let made = self.make_room(&mut keeping, &mut full);
            let spare = keeping.spare.iter().map(|spare| spare.bytes).sum();
            self.counters.spare_bytes.store(spare, Relaxed);
            made?;
            if !self.unpark(full) {
                return Ok(());
            }
        }
    }

    /// Makes what room there is to be made. That something is full is noted and no reason to stop.
    fn make_room(
        &self,
        keeping: &mut Keeping,
        full: &mut Option<StoreError>,
    ) -> Result<(), StoreError> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let mut note = |result| match result {
            Err(error @ StoreError::Full { .. }) => {
                full.get_or_insert(error);
                Ok(())
            }
            result => result,
        };
        note(self.remove_garbage(keeping))?;
        note(self.relieve_memory(keeping))?;
        note(self.relieve_journal(keeping))?;
        note(self.relieve_disk())?;
        note(self.make_ready(keeping))
    }

    fn relieve_journal(&self, keeping: &mut Keeping) -> Result<(), StoreError> {
        let pressed = {
            let front = self.front.lock();
            let sealed: u64 = front.sealed().iter().map(|sealed| sealed.bytes).sum();
            sealed >= self.options.journal_bytes_max / 2 || front.sealed().len() >= SEALED_MAX
        };
        if pressed { self.checkpoint(keeping, false) } else { Ok(()) }
    }

    /// Refuses the batch that waits for some of the configured space when there is none.
    fn relieve_disk(&self) -> Result<(), StoreError> {
        let front = self.front.lock();
        let parked = front.parked().front();
        let shortage = parked.and_then(|parked| self.disk_shortage(&front, &parked.draft));
        shortage.map_or(Ok(()), Err)
    }

    /// Brings what tails take in memory below the budget.
    fn relieve_memory(&self, keeping: &mut Keeping) -> Result<(), StoreError> {
        let target = self.options.tail_bytes / 4 * 3;
        let jobs = {
            let mut state = self.state.write();
            if state.tail_cost() <= self.options.tail_bytes {
                return Ok(());
            }
            state.shrink_tails(target);
            self.count(&state);
            spill::jobs_for_memory(&state, target)
        };
        let spilled = self.spill(keeping, jobs);
        let mut state = self.state.write();
        state.shrink_tails(target);
        self.count(&state);
        spilled
    }

    fn spill(&self, keeping: &mut Keeping, jobs: Vec<Job>) -> Result<(), StoreError> {
        for job in jobs {
            let mut spilled = job.run(&keeping.segments, self.options.segment_bytes);
            self.counters.bytes_written.fetch_add(spilled.bytes_written, Relaxed);
            let error = spilled.error.take();
            let mut state = self.state.write();
            spilled.register(&mut state, &mut keeping.dirty);
            self.count(&state);
            drop(state);
            if let Some(error) = error {
                return Err(self.trouble("writing a segment", &error, 0));
            }
        }
        Ok(())
    }

    /// Makes what is in old journal files durable elsewhere, and gives those files up.
    pub(super) fn checkpoint(
        &self,
        keeping: &mut Keeping,
        closing: bool,
    ) -> Result<(), StoreError> {
        let last = {
            let _showing = self.showing.lock();
            let front = self.front.lock();
            let seen = front.seen();
            front.sealed().iter().rfind(|sealed| sealed.last_sequence <= seen).copied()
        };
        let up_to = last.map_or(0, |last| last.number);
        let jobs = {
            let state = self.state.read();
            let wanted =
                |chunk: &Chunk| chunk.file <= up_to || (closing && chunk.file == NOT_IN_JOURNAL);
            let jobs = state.logs.iter().filter_map(|(name, log)| Job::collect(name, log, wanted));
            jobs.collect()
        };
        self.spill(keeping, jobs)?;
        match keeping.segments.sync(&keeping.dirty) {
            Ok(syncs) => self.counters.syncs.fetch_add(syncs, Relaxed),
            Err(error) => return Err(self.fail("syncing segments", &error)),
        };
        keeping.dirty.clear();
        let replay = last.map_or(keeping.replay, |last| (last.number + 1, last.last_sequence + 1));
        let snapshot = self.snapshot(keeping.checkpoint + 1, replay);
        // A crash must not bring back less of the journal than there is in the checkpoint.
        self.flush(true)?;
        match checkpoint::write(&*self.files, &self.options.dir, self.store, &snapshot) {
            Ok(bytes) => {
                self.counters.checkpoint_bytes.store(bytes, Relaxed);
                self.counters.bytes_written.fetch_add(bytes, Relaxed);
                self.counters.syncs.fetch_add(2, Relaxed);
            }
            Err(error) => return Err(self.trouble("writing a checkpoint", &error, 0)),
        }
        keeping.checkpoint = snapshot.number;
        keeping.replay = replay;
        let freed = self.front.lock().take_sealed(up_to);
        for file in freed {
            self.spare(keeping, file);
        }
        Ok(())
    }

    fn snapshot(&self, number: u64, (file, sequence): (u64, u64)) -> Snapshot {
        let _showing = self.showing.lock();
        let front = self.front.lock();
        let state = self.state.read();
        Snapshot {
            number,
            file,
            sequence,
            applied: front.seen(),
            next_log_id: front.planned.next_log_id(),
            logs: state.logs.iter().map(|(name, log)| LogSnapshot::of(name, log)).collect(),
            values: state.values.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }

    /// Keeps a journal file to be used again, or removes it.
    fn spare(&self, keeping: &mut Keeping, file: Sealed) {
        let large = file.bytes >= self.options.journal_file_bytes / 2;
        if large && keeping.spare.len() < SPARE_MAX {
            keeping.spare.push(file);
        } else {
            self.remove_journal_file(file);
        }
    }

    fn remove_journal_file(&self, file: Sealed) {
        if let Err(error) = self.journal.remove(file.number) {
            tracing::warn!(%error, file = file.number, "a journal file could not be removed");
        }
    }

    /// Sees to it that there is a journal file to go on with, large enough for who waits for one.
    pub(super) fn make_ready(&self, keeping: &mut Keeping) -> Result<(), StoreError> {
        let (wanted, current, used, records) = {
            let front = self.front.lock();
            let parked = front.parked().front();
            let wanted = match parked.map(|parked| parked.no_room) {
                Some(NoRoom::Journal(bytes)) => (bytes + ENTRIES_AT).next_multiple_of(4096),
                _ => 0,
            };
            if front.ready().is_some_and(|ready| ready.bytes >= wanted) {
                return Ok(());
            }
            let records = parked.is_none_or(|parked| parked.draft.record_bytes() > 0);
            (wanted, front.current().bytes, front.journal_bytes(), records)
        };
        let bytes = current.saturating_mul(2).min(self.options.journal_file_bytes).max(wanted);
        let spares = |keeping: &Keeping| keeping.spare.iter().map(|it| it.bytes).sum::<u64>();
        let at = keeping.spare.iter().position(|spare| spare.bytes >= wanted.max(bytes / 2));
        let made = if let Some(at) = at {
            let spare = keeping.spare.swap_remove(at);
            let made = self.journal.recycle(spare.number, keeping.next_file, spare.bytes);
            made.map_err(|error| self.fail("preparing a journal file", &error))?
        } else {
            let max = self.options.journal_bytes_max;
            if used + spares(keeping) + bytes > max {
                keeping.spare.drain(..).for_each(|spare| self.remove_journal_file(spare));
            }
            let mut used = used;
            if used + bytes > max {
                self.checkpoint(keeping, false)?;
                keeping.spare.drain(..).for_each(|spare| self.remove_journal_file(spare));
                used = self.front.lock().journal_bytes();
            }
            if used + bytes > max {
                let what = "journal_bytes_max".to_owned();
                return Err(StoreError::Full { what, limit: max, used, wanted: bytes });
            }
            let bytes = self.affordable(bytes, wanted, records)?;
            let made = self.journal.create(keeping.next_file, 0, bytes);
            self.counters.syncs.fetch_add(1, Relaxed);
            self.counters.bytes_written.fetch_add(bytes, Relaxed);
            made.map_err(|error| self.trouble("making a journal file", &error, bytes))?
        };
        keeping.next_file += 1;
        if let Some(old) = self.front.lock().set_ready(made) {
            let (number, bytes) = (old.number, old.bytes);
            self.spare(keeping, Sealed { number, bytes, last_sequence: 0 });
        }
        Ok(())
    }

    /// How large a new file may be: as wanted, or where only the reserve is left and nobody wants
    /// to put records into it, small.
    fn affordable(&self, bytes: u64, wanted: u64, records: bool) -> Result<u64, StoreError> {
        let free = self.files.free_space(&self.options.dir).unwrap_or(u64::MAX);
        if free >= bytes.saturating_add(self.options.reserve_bytes) {
            return Ok(bytes);
        }
        let small = wanted.max(FIRST_FILE_BYTES).min(bytes);
        if !records && free >= small {
            return Ok(small);
        }
        Err(self.device_full(bytes))
    }

    pub(super) fn remove_garbage(&self, keeping: &mut Keeping) -> Result<(), StoreError> {
        if !self.state.read().has_garbage() {
            return Ok(());
        }
        if self.is_unsynced() {
            self.flush(true)?;
        }
        let gone = {
            let mut state = self.state.write();
            let gone = state.take_garbage(self.synced.load(Acquire));
            self.counters.segment_bytes.store(state.segment_bytes(), Relaxed);
            gone
        };
        for garbage in gone {
            let key = (garbage.log, garbage.first);
            keeping.dirty.remove(&key);
            self.handles.forget(key);
            match keeping.segments.remove(key) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, log = key.0, "a segment could not be removed");
                }
                _ => (),
            }
        }
        Ok(())
    }

    /// Lets batches in that waited for room. The first of those for which there is still none is
    /// refused if something is full. Tells whether to try again.
    fn unpark(&self, full: Option<StoreError>) -> bool {
        let mut front = self.front.lock();
        let mut again = false;
        while let Some(parked) = front.parked_mut().pop_front() {
            let Parked { draft, durability, done, no_room } = parked;
            match self.admit(&mut front, draft, durability, done, None) {
                Entered::NoRoom(parked) => {
                    // Room was made for the first one as it was then.
                    let expected = !again && parked.no_room == no_room;
                    again = true;
                    match full {
                        Some(full) if expected => {
                            let _ = parked.done.send(Err(full));
                        }
                        _ => {
                            // With nothing full, it waits for batches that are being written.
                            again = !expected;
                            front.parked_mut().push_front(parked);
                        }
                    }
                    break;
                }
                Entered::Answered | Entered::Waiting => again = true,
            }
        }
        drop(front);
        self.commit_signal.raise();
        again
    }

    /// The error for a write that failed: the device is full, or nobody knows what it did.
    fn trouble(&self, doing: &str, error: &io::Error, wanted: u64) -> StoreError {
        if is_full(error) { self.device_full(wanted) } else { self.fail(doing, error) }
    }
}

/// So many full journal files are moved to segments however small they are: each opening after a
/// crash leaves one.
const SEALED_MAX: usize = 16;
/// So many journal files are kept to be used again: as many as fill up while a checkpoint is made.
const SPARE_MAX: usize = 2;
/// The first journal file, as most stores stay small. Each one after it is twice as large.
pub(super) const FIRST_FILE_BYTES: u64 = 1 << 20;
