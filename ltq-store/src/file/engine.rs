//! The store itself, synchronous: threads drive it in production, a loop does in tests.
//!
//! Locks are taken in this order: `writing`, `showing`, `front`, `state`. Only `writing` and
//! `syncing` are ever held during input or output, and neither readers nor new commits wait for
//! those.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, SeqCst},
        },
    },
};

use ltq_core::{Committed, Durability, LogName, StoreError, WriteBatch, WriteOp};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use super::{
    buffers::Buffers,
    change::Draft,
    commit::Writing,
    filesystem::{FileSystem, StoreFile},
    format::StoreId,
    front::{Admitted, Done, Front, NoRoom, NotAdmitted, Parked, Waiting},
    journal::JournalDir,
    keeper::Keeping,
    options::FileStoreOptions,
    pace::Pace,
    planned::Refused,
    reader::Handles,
    reserve::Reserve,
    signal::Signal,
    state::State,
};

/// A file store without its threads.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) options: FileStoreOptions,
    pub(super) files: Arc<dyn FileSystem>,
    /// The same, and what is kept for when no file can be opened.
    pub(super) reserve: Arc<Reserve>,
    pub(super) store: StoreId,
    pub(super) journal: JournalDir,
    /// What batches are copied into.
    pub(super) buffers: Arc<Buffers>,
    /// Batches on their way.
    pub(super) front: Mutex<Front>,
    /// What readers see.
    pub(super) state: RwLock<State>,
    /// Held while batches become visible, so that they do in order.
    pub(super) showing: Mutex<()>,
    /// Held while entries are written.
    pub(super) writing: Mutex<Writing>,
    /// Held while the journal is synced.
    pub(super) syncing: Mutex<()>,
    /// The last entry that was written; that was synced.
    pub(super) written: AtomicU64,
    pub(super) synced: AtomicU64,
    /// How long syncs take, in nanoseconds.
    pub(super) sync_pace: Pace,
    /// What moves old records to segments and makes room; one at a time.
    pub(super) keeping: Mutex<Keeping>,
    pub(super) handles: Handles,
    /// Why it takes no commits any more.
    pub(super) failed: OnceLock<String>,
    pub(super) closed: AtomicBool,
    /// Whether it writes nothing at all, and has no threads.
    pub(super) read_only: bool,
    /// The file that keeps others out.
    pub(super) lock: Mutex<Option<Arc<dyn StoreFile>>>,
    /// Whether the thread that writes and syncs will look by itself, in time, at what was asked
    /// neither to be written nor to be synced.
    pub(super) timed: AtomicBool,
    /// Whether the device has room for small changes only.
    pub(super) device_short: AtomicBool,
    /// For the thread that writes and syncs; for the one that keeps house.
    pub(super) commit_signal: Signal,
    pub(super) keep_signal: Signal,
    pub(super) counters: Counters,
}

/// What is told of a store, and what is looked at without a lock.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) damaged_records: AtomicU64,
    pub(super) tail_cost: AtomicU64,
    pub(super) values_cost: AtomicU64,
    pub(super) segment_bytes: AtomicU64,
    pub(super) checkpoint_bytes: AtomicU64,
    pub(super) spare_bytes: AtomicU64,
    /// Of the segment that is being written anew, so far; of all of them since it was opened.
    pub(super) rewriting_bytes: AtomicU64,
    pub(super) rewritten_bytes: AtomicU64,
    /// Whether there was ever a log that is not durable.
    pub(super) volatile: AtomicBool,
}

/// The answer to a commit, or where it will come.
pub(super) type Answer = oneshot::Receiver<Result<Committed, StoreError>>;

impl Engine {
    /// Takes a batch in. Does not wait, except for a short write, and a sync if the caller lends
    /// itself to that, when that is all there is to do.
    pub(super) fn submit(
        &self,
        batch: WriteBatch,
        durability: Durability,
        caller: Caller,
    ) -> Result<Answer, StoreError> {
        batch.check()?;
        let (done, answer) = oneshot::channel();
        let draft = self.draft(batch);
        let bytes = draft.entry_bytes_max();
        if bytes > self.options.entry_bytes_max() {
            return Err(StoreError::Full {
                what: "a quarter of journal_bytes_max, for one batch".to_owned(),
                limit: self.options.entry_bytes_max(),
                used: 0,
                wanted: bytes,
            });
        }
        let mut front = self.front.lock();
        if let Some(stopped) = &front.stopped {
            return Err(stopped.clone());
        }
        let behind = (!front.parked().is_empty()).then_some(NoRoom::Behind);
        match self.admit(&mut front, draft, durability, done, behind) {
            Entered::Answered => (),
            Entered::Waiting => self.begin(front, durability, caller),
            Entered::NoRoom(parked) => {
                front.park(parked);
                drop(front);
                self.keep_signal.raise();
            }
        }
        Ok(answer)
    }

    /// Copies a batch, knowing which of its logs do not go to the journal.
    fn draft(&self, batch: WriteBatch) -> Draft {
        if !self.counters.volatile.load(Acquire) {
            return Draft::new(batch, &self.buffers, |_| true);
        }
        let volatile: HashSet<LogName> = {
            let front = self.front.lock();
            let logs = batch.ops().iter().filter_map(|op| match op {
                WriteOp::Append { log, .. }
                | WriteOp::Truncate { log, .. }
                | WriteOp::Discard { log, .. } => Some(log),
                _ => None,
            });
            logs.filter(|log| !front.planned.is_durable(log)).cloned().collect()
        };
        Draft::new(batch, &self.buffers, |log| !volatile.contains(log))
    }

    /// Judges a batch, and shows it if it need not wait.
    pub(super) fn admit(
        &self,
        front: &mut Front,
        mut draft: Draft,
        durability: Durability,
        mut done: Done,
        no_room: Option<NoRoom>,
    ) -> Entered {
        if let Some(no_room) = no_room.or_else(|| self.no_room_for(front, &draft)) {
            return Entered::NoRoom(Parked { draft, durability, done, no_room });
        }
        loop {
            match front.admit(draft, durability, done, self.synced.load(Acquire)) {
                Ok(admitted) => {
                    if front.planned.has_volatile() {
                        self.counters.volatile.store(true, Relaxed);
                    }
                    if front.ready().is_none() {
                        self.keep_signal.raise();
                    }
                    let Admitted::Now(waiting) = admitted else { return Entered::Waiting };
                    self.show_now(front, waiting);
                    return Entered::Answered;
                }
                Err(NotAdmitted::NoRoom(no_room, draft, done)) => {
                    return Entered::NoRoom(Parked { draft, durability, done, no_room });
                }
                Err(NotAdmitted::Refused(refused, refused_draft, refused_done)) => {
                    if let Refused::Error(error) = *refused {
                        let _ = refused_done.send(Err(error));
                        return Entered::Answered;
                    }
                    // A log of that name, but another kind, has come in the meantime.
                    let batch = refused_draft.into_batch();
                    draft = Draft::new(batch, &self.buffers, |log| front.planned.is_durable(log));
                    done = refused_done;
                }
            }
        }
    }

    fn show_now(&self, front: &mut Front, mut waiting: Waiting) {
        {
            let mut state = self.state.write();
            for change in waiting.changes.drain(..) {
                state.apply(change, waiting.file, waiting.sequence);
            }
            self.note(&state);
        }
        front.planned.forget(&waiting.touched);
        self.answer(waiting);
        let much = front.queue_bytes() >= INLINE_BYTES_MAX;
        if much || (front.queue_bytes() > 0 && !self.timed.load(SeqCst)) {
            self.commit_signal.raise();
        }
    }

    /// Bytes that all files take.
    pub(super) fn disk_bytes(&self, front: &Front) -> u64 {
        front.journal_bytes()
            + self.counters.segment_bytes.load(Relaxed)
            + self.counters.checkpoint_bytes.load(Relaxed)
            + self.counters.spare_bytes.load(Relaxed)
            + self.counters.rewriting_bytes.load(Relaxed)
    }

    /// Keeps the figures that are looked at without a lock.
    pub(super) fn count(&self, state: &State) {
        self.counters.tail_cost.store(state.tail_cost(), Relaxed);
        self.counters.values_cost.store(state.values_cost(), Relaxed);
        self.counters.segment_bytes.store(state.segment_bytes(), Relaxed);
    }

    /// The same after a commit, which may have left something to be done.
    pub(super) fn note(&self, state: &State) {
        self.count(state);
        if state.tail_cost() > self.options.spill_above()
            || state.has_garbage()
            || state.is_sparse()
        {
            self.keep_signal.raise();
        }
    }

    pub(super) fn answer(&self, waiting: Waiting) {
        self.counters.commits.fetch_add(1, Relaxed);
        // Nobody may be waiting any more.
        let _ = waiting.done.send(Ok(Committed { durability: waiting.reach }));
    }

    /// Takes no commits any more, after a write or sync of which nobody knows what it did.
    pub(super) fn fail(&self, doing: &str, error: &io::Error) -> StoreError {
        let cause = format!("{doing} failed: {error}");
        if self.failed.set(cause).is_ok() {
            tracing::error!(%error, "{doing} failed; the store takes no commits any more");
        }
        let why = self.failure().unwrap_or(StoreError::Closed);
        let unanswered = self.front.lock().stop(why.clone());
        for done in unanswered {
            let _ = done.send(Err(why.clone()));
        }
        why
    }

    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failed.get().map(|cause| StoreError::Failed(cause.clone()))
    }
}

/// What a thread that brings a batch lends itself to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A short write.
    Writes,
    /// A sync too, while they are short.
    Syncs,
}

/// How a batch came in.
#[derive(Debug)]
pub(super) enum Entered {
    /// Its caller was told: it is done, or refused.
    Answered,
    Waiting,
    NoRoom(Parked),
}

/// Up to so many bytes a caller writes itself when it asked for no sync. Above, the time that it
/// would take is better spent elsewhere than on a caller's thread.
pub(super) const INLINE_BYTES_MAX: u64 = 256 << 10;
