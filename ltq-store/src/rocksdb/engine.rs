//! The store without its threads: where batches come in, and what everybody shares.
//!
//! Locks are taken in this order: `database`, `sweeping`, `front`, `state`. Only the first two are
//! held during input or output, and neither readers in memory nor new commits wait for those.

use std::{
    collections::VecDeque,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use ltq_core::{Committed, Durability, LogName, StoreError, WriteBatch, WriteOp};
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use tokio::sync::oneshot;

use super::{
    change::{Change, Draft, DraftOp},
    database::Database,
    options::RocksDbStoreOptions,
    planned::{Plan, Planned},
    spare::Spare,
    state::{State, value_cost},
};

/// A store without its threads.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) options: RocksDbStoreOptions,
    /// `None` once it was closed. Whoever works on it holds it for reading.
    pub(super) database: RwLock<Option<Database>>,
    /// Held while a log's pieces are deleted or rewritten, so that it is there all the while.
    pub(super) sweeping: Mutex<()>,
    pub(super) front: Mutex<Front>,
    /// For the thread that commits.
    pub(super) arrived: Condvar,
    /// What readers see.
    pub(super) state: RwLock<State>,
    pub(super) keep: Mutex<Keep>,
    /// For the thread that keeps house.
    pub(super) keep_due: Condvar,
    /// Why it takes no commits any more.
    failed: OnceLock<String>,
    pub(super) closed: AtomicBool,
    pub(super) spare: Spare,
    pub(super) counters: Counters,
}

/// What is told of a store, and what is looked at without a lock.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) damaged_records: AtomicU64,
    pub(super) bytes_rewritten: AtomicU64,
    /// About what all records and values take that readers see.
    pub(super) stored_bytes: AtomicU64,
    /// What the device had free when last asked, less what came in since.
    pub(super) free_bytes: AtomicU64,
}

/// The batches that wait for the thread that commits.
#[derive(Debug, Default)]
pub(super) struct Front {
    pub(super) planned: Planned,
    /// Why no batch comes in any more.
    pub(super) stopped: Option<StoreError>,
    /// Whether the thread is to end once nothing waits.
    pub(super) stopping: bool,
    pub(super) queue: VecDeque<Waiting>,
    /// Bytes of records and values that readers cannot see yet.
    pub(super) unseen_bytes: u64,
}

/// A batch that readers cannot see yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) changes: Vec<Change>,
    /// What it asked for.
    pub(super) durability: Durability,
    /// What can be said of it at most.
    pub(super) reach: Durability,
    pub(super) bytes: u64,
    pub(super) done: oneshot::Sender<Result<Committed, StoreError>>,
}

/// What the thread that keeps house is told.
#[derive(Debug, Default)]
pub(super) struct Keep {
    pub(super) stopping: bool,
    /// Something was given up.
    pub(super) due: bool,
    /// A batch was refused for want of room.
    pub(super) urgent: bool,
}

pub(super) type Answer = oneshot::Receiver<Result<Committed, StoreError>>;

impl Engine {
    pub(super) fn new(
        options: RocksDbStoreOptions,
        database: Database,
        planned: Planned,
        state: State,
    ) -> Self {
        let counters = Counters::default();
        counters.stored_bytes.store(state.stored_bytes(), Relaxed);
        let spare = Spare::new(database.directory().identity(), size(options.spare_files()));
        Self {
            options,
            database: RwLock::new(Some(database)),
            sweeping: Mutex::default(),
            front: Mutex::new(Front { planned, ..Front::default() }),
            arrived: Condvar::new(),
            state: RwLock::new(state),
            keep: Mutex::default(),
            keep_due: Condvar::new(),
            failed: OnceLock::new(),
            closed: AtomicBool::new(false),
            spare,
            counters,
        }
    }

    /// Takes a batch in. Does not wait.
    pub(super) fn submit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Answer, StoreError> {
        batch.check()?;
        let draft = Draft::new(batch);
        let bytes = draft.record_bytes + draft.value_bytes;
        let (done, answer) = oneshot::channel();
        let mut front = self.front.lock();
        if let Some(stopped) = &front.stopped {
            return Err(stopped.clone());
        }
        if bytes > 0 {
            let room = self.room_on_device(&front, &draft).and_then(|()| self.room(&front, &draft));
            if let Err(full) = room {
                drop(front);
                self.keep.lock().urgent = true;
                self.keep_due.notify_one();
                return Err(full);
            }
        }
        let Plan { changes, reach } = front.planned.admit(draft)?;
        front.unseen_bytes += bytes;
        front.queue.push_back(Waiting { changes, durability, reach, bytes, done });
        let first = front.queue.len() == 1;
        drop(front);
        if first {
            self.arrived.notify_one();
        }
        Ok(answer)
    }

    /// Whether there is room for a batch within what is configured for all files.
    fn room(&self, front: &Front, draft: &Draft) -> Result<(), StoreError> {
        let Some(limit) = self.options.disk_bytes_max else { return Ok(()) };
        let aside = ASIDE_BUDGETS * self.options.tail_bytes;
        let stored = self.counters.stored_bytes.load(Relaxed) + front.unseen_bytes;
        let used = aside.saturating_add(in_files(stored));
        let brings = in_files(draft.record_bytes + draft.value_bytes + 64 * draft.ops.len() as u64);
        let wanted = self.kept_free(draft) + brings;
        if used.saturating_add(wanted) <= limit || self.leaves_no_more(draft) {
            return Ok(());
        }
        let what = "disk_bytes_max, buffers, the write-ahead log and the reserve set aside";
        Err(StoreError::Full { what: what.to_owned(), limit, used: used.min(limit), wanted })
    }

    /// Whether the device has room for a batch.
    fn room_on_device(&self, front: &Front, draft: &Draft) -> Result<(), StoreError> {
        let wanted = self.kept_free(draft) + 2 * (draft.record_bytes + draft.value_bytes);
        let needed = wanted + 2 * front.unseen_bytes;
        let free = &self.counters.free_bytes;
        if free.load(Relaxed) < needed {
            let Ok(space) = rustix::fs::statvfs(&self.options.dir) else { return Ok(()) };
            let bytes = space.f_bavail.saturating_mul(space.f_frsize);
            free.store(bytes, Relaxed);
            if bytes < needed && !self.leaves_no_more(draft) {
                let what = "the device, reserve_bytes left".to_owned();
                return Err(StoreError::Full { what, limit: 0, used: 0, wanted });
            }
        }
        let brings = 2 * (draft.record_bytes + draft.value_bytes);
        let _ = free.fetch_update(Relaxed, Relaxed, |free| Some(free.saturating_sub(brings)));
        Ok(())
    }

    /// What is left free for others.
    const fn kept_free(&self, draft: &Draft) -> u64 {
        let reserve = self.options.reserve_bytes;
        if draft.record_bytes > 0 { reserve } else { reserve / 2 }
    }

    /// Whether a batch frees at least what it brings, so that a full store has to take it.
    fn leaves_no_more(&self, draft: &Draft) -> bool {
        if draft.record_bytes > 0 {
            return false;
        }
        let state = self.state.read();
        let old = |key: &[u8]| state.value(key).map_or(0, |old| value_cost(key, old));
        let log = |log: &LogName| state.logs.get(log);
        let (mut brings, mut frees) = (0, 0);
        for op in &draft.ops {
            let DraftOp::Other(op) = op else { continue };
            match op {
                WriteOp::Put { key, value } => {
                    brings += value_cost(key, value);
                    frees += old(key);
                }
                WriteOp::Delete { key } => frees += old(key),
                WriteOp::DeleteLog { log: name } => frees += log(name).map_or(0, |log| log.bytes),
                WriteOp::Truncate { log: name, before } => {
                    frees += log(name).map_or(0, |it| it.about_between(it.bounds.first, *before));
                }
                WriteOp::Discard { log: name, from, until } => {
                    frees += log(name).map_or(0, |it| it.about_between(*from, *until));
                }
                WriteOp::CreateLog { .. } | WriteOp::Append { .. } => (),
            }
        }
        brings <= frees
    }

    /// Refuses while there may be no descriptor for a file that RocksDB needs.
    pub(super) fn check_spare(&self, database: &Database) -> Result<(), StoreError> {
        self.spare.check(|| database.is_writing())
    }

    /// The database, until it is closed.
    pub(super) fn database(&self) -> Result<RwLockReadGuard<'_, Option<Database>>, StoreError> {
        let database = self.database.read();
        if database.is_some() { Ok(database) } else { Err(StoreError::Closed) }
    }

    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Relaxed) { Err(StoreError::Closed) } else { Ok(()) }
    }

    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failed.get().map(|cause| StoreError::Failed(cause.clone()))
    }

    /// Takes no commits at all.
    pub(super) fn take_nothing(&self, why: &str) {
        let why = self.failed.get_or_init(|| why.to_owned());
        self.front.lock().stopped = Some(StoreError::Failed(why.clone()));
    }

    /// Takes no commits any more, after a write or sync of which nobody knows what it did.
    pub(super) fn fail(&self, doing: &str, error: &rocksdb::Error) -> StoreError {
        let cause = format!("{doing} failed: {error}");
        if self.failed.set(cause).is_ok() {
            tracing::error!(%error, "{doing} failed; the store takes no commits any more");
        }
        let why = self.failure().unwrap_or(StoreError::Closed);
        let mut front = self.front.lock();
        front.stopped.get_or_insert_with(|| why.clone());
        front.unseen_bytes = 0;
        let waiting: Vec<_> = front.queue.drain(..).collect();
        drop(front);
        answer_all(waiting, &why);
        why
    }
}

/// Tells everybody who waits the same.
pub(super) fn answer_all(waiting: impl IntoIterator<Item = Waiting>, error: &StoreError) {
    for waiting in waiting {
        // Nobody may be waiting any more.
        let _ = waiting.done.send(Err(error.clone()));
    }
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// What so many bytes take in files: half as much again for what was given up and is not compacted
/// away yet.
const fn in_files(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 2)
}

/// Of what is configured for all files, what is set aside in budgets of memory: two for the
/// write-ahead log, one for buffers that are being written to files while they are in it.
const ASIDE_BUDGETS: u64 = 3;
