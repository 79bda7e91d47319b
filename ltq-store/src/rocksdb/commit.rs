//! From admitted to visible: what waits is one write to RocksDB, with one sync if anybody asked
//! for it, and then shown in order.

use std::{collections::HashMap, sync::atomic::Ordering::Relaxed, time::Instant};

use ltq_core::{Committed, Durability, LogName, StoreError};
use parking_lot::MutexGuard;

use super::{
    change::Change,
    database::{Database, is_full},
    engine::{Engine, Front, Waiting, answer_all},
    planned::{Planned, PlannedLog},
    state::State,
    times::Times,
    write::Write,
};

/// What the thread that commits knows.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) times: Times,
    /// Since when something was written and not synced.
    unsynced_since: Option<Instant>,
}

impl Committer {
    pub(super) fn new(times: Times) -> Self {
        Self { times, unsynced_since: None }
    }
}

impl Engine {
    /// Commits whatever comes in, until told to stop and nothing waits any more.
    pub(super) fn commit_loop(&self, committer: &mut Committer) {
        loop {
            let group = {
                let mut front = self.front.lock();
                while front.queue.is_empty() && !front.stopping {
                    let sync = committer.unsynced_since;
                    let sync = sync.map(|since| since + self.options.os_sync_interval);
                    let Some(next) = sync.into_iter().chain(self.spare.looks_again()).min() else {
                        self.arrived.wait(&mut front);
                        continue;
                    };
                    if self.arrived.wait_until(&mut front, next).timed_out() {
                        break;
                    }
                }
                if front.queue.is_empty() && front.stopping {
                    return;
                }
                take_group(&mut front)
            };
            let Ok(database) = self.database() else { return };
            let Some(database) = database.as_ref() else { return };
            // A failure was told to whoever waits.
            let _ = self.commit(database, group, committer);
        }
    }

    fn commit(
        &self,
        database: &Database,
        group: Vec<Waiting>,
        committer: &mut Committer,
    ) -> Result<(), StoreError> {
        if let Some(failure) = self.failure() {
            answer_all(group, &failure);
            return Err(failure);
        }
        let changes = group.iter().any(|waiting| !waiting.changes.is_empty());
        if (changes || self.spare.looks_again().is_some())
            && let Err(short) = self.check_spare(database)
            && changes
        {
            self.put_off(group, &short);
            return Err(short);
        }
        let mut sync = group.is_empty();
        for waiting in &group {
            let durable =
                waiting.changes.is_empty() || waiting.changes.iter().any(Change::is_durable);
            sync |= waiting.durability == Durability::Disk && durable;
        }
        let deletes = |waiting: &Waiting| {
            waiting.changes.iter().any(|change| matches!(change, Change::Delete { .. }))
        };
        let sweeping = group.iter().any(deletes).then(|| self.sweeping.lock());
        let written = self
            .write_of(database, &group, &mut committer.times)
            .map(|write| write.carry_out(database, sync));
        match written {
            Ok(Ok(())) => committer.times.written(),
            Ok(Err(error)) => {
                committer.times.undo();
                drop(sweeping);
                return Err(self.refused(group, &error));
            }
            Err(error) => {
                answer_all(group, &error);
                return Err(error);
            }
        }
        if sync {
            committer.unsynced_since = None;
        } else if changes {
            committer.unsynced_since.get_or_insert_with(Instant::now);
        }
        self.show(group, sweeping);
        Ok(())
    }

    /// Everything that a group changes, as RocksDB is told.
    fn write_of<'a>(
        &self,
        database: &'a Database,
        group: &[Waiting],
        times: &mut Times,
    ) -> Result<Write<'a>, StoreError> {
        let mut write = Write::new(database)?;
        let state = self.state.read();
        for change in group.iter().flat_map(|waiting| &waiting.changes) {
            write.add(change, &state, times);
        }
        Ok(write)
    }

    /// Tells a group why it was not committed.
    fn refused(&self, group: Vec<Waiting>, error: &rocksdb::Error) -> StoreError {
        if !is_full(error) {
            let why = self.fail("writing", error);
            answer_all(group, &why);
            return why;
        }
        // RocksDB applied nothing of it, and takes nothing more until it has seen to it that
        // nothing of it can come back.
        let why = StoreError::Full {
            what: format!("the device: {error}"),
            limit: 0,
            used: 0,
            wanted: group.iter().map(|waiting| waiting.bytes).sum(),
        };
        self.counters.free_bytes.store(0, Relaxed);
        self.put_off(group, &why);
        why
    }

    /// Tells a group of which nothing was written, and all that waits, why it was not.
    fn put_off(&self, group: Vec<Waiting>, why: &StoreError) {
        let mut front = self.front.lock();
        let state = self.state.read();
        // What waits was judged by what the group would have left.
        front.planned.logs = planned_logs(&state);
        drop(state);
        front.unseen_bytes = 0;
        let waiting: Vec<_> = front.queue.drain(..).collect();
        drop(front);
        answer_all(group.into_iter().chain(waiting), why);
    }

    /// Lets readers see a group, and tells who waits for it.
    fn show(&self, group: Vec<Waiting>, sweeping: Option<MutexGuard<'_, ()>>) {
        let mut answers = Vec::with_capacity(group.len());
        let mut bytes = 0;
        let given_up = {
            let mut state = self.state.write();
            for waiting in group {
                let Waiting { changes, durability, reach, bytes: brought, done } = waiting;
                changes.into_iter().for_each(|change| state.apply(change));
                bytes += brought;
                answers.push((done, durability.min(reach)));
            }
            self.counters.stored_bytes.store(state.stored_bytes(), Relaxed);
            state.given_up
        };
        drop(sweeping);
        {
            let mut front = self.front.lock();
            front.unseen_bytes = front.unseen_bytes.saturating_sub(bytes);
        }
        self.counters.commits.fetch_add(answers.len() as u64, Relaxed);
        for (done, durability) in answers {
            // Nobody may be waiting any more.
            let _ = done.send(Ok(Committed { durability }));
        }
        if given_up >= SWEEP_BYTES {
            let mut keep = self.keep.lock();
            if !std::mem::replace(&mut keep.due, true) {
                self.keep_due.notify_one();
            }
        }
    }
}

/// The logs as readers see them, to judge batches by.
pub(super) fn planned_logs(state: &State) -> HashMap<LogName, PlannedLog> {
    let logs = state.logs.iter();
    let planned = logs.map(|(name, log)| {
        let planned = PlannedLog { id: log.id, options: log.options, end: log.bounds.end };
        (name.clone(), planned)
    });
    planned.collect()
}

impl Planned {
    pub(super) fn new(state: &State, next_log_id: u64) -> Self {
        Self { logs: planned_logs(state), next_log_id }
    }
}

/// As much of what waits as one write should bring.
fn take_group(front: &mut Front) -> Vec<Waiting> {
    let (mut count, mut bytes) = (0, 0);
    for waiting in front.queue.iter().take(GROUP_BATCHES_MAX) {
        bytes += waiting.bytes;
        if count > 0 && bytes > GROUP_BYTES_MAX {
            break;
        }
        count += 1;
    }
    front.queue.drain(..count).collect()
}

/// More batches than this, or bytes, are left to the next write: those that wait are told sooner.
const GROUP_BATCHES_MAX: usize = 4_096;
const GROUP_BYTES_MAX: u64 = 8 << 20;
/// So much given up is worth a look by the thread that keeps house.
pub(super) const SWEEP_BYTES: u64 = 1 << 20;
