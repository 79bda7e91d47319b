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
    reserve::{is_short, passes, short},
    rewrite::Rewriting,
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
    /// The segments that are looked at, or written anew.
    pub(super) rewriting: Rewriting,
}

impl Engine {
    /// Does all that is to be done now.
    ///
    /// # Errors
    /// [`StoreError::Failed`] after which nothing more can be done. That a device is full, or that no file
    /// can be opened for now, is told to the batches that wait for room, and to nobody else.
    pub(super) fn keep_step(&self) -> Result<(), StoreError> {
        let mut keeping = self.keeping.lock();
        self.reserve.refill();
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

    /// Makes what room there is to be made. What passes is noted and no reason to stop.
    fn make_room(
        &self,
        keeping: &mut Keeping,
        full: &mut Option<StoreError>,
    ) -> Result<(), StoreError> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let mut note = |result| match result {
            Err(error) if passes(&error) => {
                full.get_or_insert(error);
                Ok(())
            }
            result => result,
        };
        note(self.remove_garbage(keeping))?;
        note(self.relieve_memory(keeping))?;
        note(self.relieve_journal(keeping))?;
        note(self.relieve_disk())?;
        note(self.relieve_device(keeping))?;
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

    /// Brings what tails take in memory well below the budget, and so far that who waits for
    /// memory has room.
    fn relieve_memory(&self, keeping: &mut Keeping) -> Result<(), StoreError> {
        let wanted = match self.front.lock().parked().front().map(|parked| parked.no_room) {
            Some(NoRoom::Memory(records)) => Some(records),
            _ => None,
        };
        let room_for = |records| self.options.tail_bytes.saturating_sub(records);
        let target = self.options.spill_down_to().min(wanted.map_or(u64::MAX, room_for));
        let jobs = {
            let mut state = self.state.write();
            let pressed = wanted.is_some() || state.tail_cost() > self.options.spill_above();
            if !pressed || state.tail_cost() <= target {
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

    pub(super) fn spill(&self, keeping: &mut Keeping, jobs: Vec<Job>) -> Result<(), StoreError> {
        for job in jobs {
            let job = job.leaving(|key| keeping.rewriting.has(key));
            let mut spilled = job.run(&keeping.segments, self.options.segment_bytes);
            self.counters.bytes_written.fetch_add(spilled.bytes_written, Relaxed);
            let error = spilled.error.take();
            let mut state = self.state.write();
            spilled.register(&mut state, &mut keeping.dirty, self.options.grown_bytes());
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
        self.checkpoint_for(keeping, if closing { Purpose::Closing } else { Purpose::Journal })
    }

    /// Makes durable which segments there are, and leaves the journal as it is.
    pub(super) fn name_segments(&self, keeping: &mut Keeping) -> Result<(), StoreError> {
        self.checkpoint_for(keeping, Purpose::Segments)
    }

    fn checkpoint_for(&self, keeping: &mut Keeping, purpose: Purpose) -> Result<(), StoreError> {
        let closing = purpose == Purpose::Closing;
        if self.is_unsynced() {
            // Otherwise a full file might have to stay for the sake of what is not shown yet.
            self.flush(true)?;
        }
        let last = {
            let _showing = self.showing.lock();
            let front = self.front.lock();
            let seen = front.seen();
            let full = front.sealed().iter().rfind(|sealed| sealed.last_sequence <= seen);
            full.filter(|_| purpose != Purpose::Segments).copied()
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
            // None of them was synced without success: the last one was not opened.
            Err(error) if is_short(&error) => return Err(short("syncing segments", &error)),
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
            newest: front.current().number,
            sequence,
            applied: front.seen(),
            next_log_id: front.planned.next_log_id(),
            logs: state.logs.iter().map(|(name, log)| LogSnapshot::of(name, log)).collect(),
            values: state.values.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
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
            let gone = state.take_garbage(self.synced.load(Acquire), keeping.checkpoint);
            self.counters.segment_bytes.store(state.segment_bytes(), Relaxed);
            gone
        };
        for garbage in gone {
            let key = garbage.key;
            keeping.dirty.remove(&key);
            self.handles.forget(key);
            match keeping.segments.remove(key) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, log = key.log, "a segment could not be removed");
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

    /// The error for a write that failed: the device is full, or no file could be opened to begin with, or
    /// nobody knows what it did.
    pub(super) fn trouble(&self, doing: &str, error: &io::Error, wanted: u64) -> StoreError {
        match error {
            error if is_full(error) => self.device_full(wanted),
            error if is_short(error) => short(doing, error),
            error => self.fail(doing, error),
        }
    }
}

/// What a checkpoint is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// So that full journal files can go.
    Journal,
    /// So that segments that were written anew can go.
    Segments,
    /// So that nothing is missing when it is opened again.
    Closing,
}

/// So many full journal files are moved to segments however small they are: each opening after a
/// crash leaves one.
const SEALED_MAX: usize = 16;
