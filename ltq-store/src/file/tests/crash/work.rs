//! What is committed to a store, by whom, and what is known of it.

use std::sync::{Arc, Weak};

use ltq_core::{Committed, Durability, Durability::*, ReadLimits, StoreError, WriteBatch};
use parking_lot::Mutex;

use super::super::{
    super::engine::{Answer, Caller, Engine},
    model::{Model, Workload},
};
use crate::simulation::{Chance, SimulatedDisk};

/// A batch that was committed, and what is known of it.
pub(super) struct Sent {
    pub(super) batch: WriteBatch,
    pub(super) durability: Durability,
    pub(super) answer: Option<Answer>,
    pub(super) confirmed: bool,
}

impl Sent {
    pub(super) fn answered(&mut self, answer: Result<Committed, StoreError>, seed: u64) {
        self.answer = None;
        match answer {
            Ok(committed) => {
                assert!(committed.durability <= self.durability);
                self.confirmed = true;
                self.durability = committed.durability;
            }
            Err(StoreError::Failed(_)) => (),
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
}

/// All that is committed, in order.
pub(super) struct Work {
    pub(super) seed: u64,
    pub(super) workload: Workload,
    /// What was there when it was opened.
    pub(super) start: Model,
    /// What has its place.
    pub(super) sent: Vec<Sent>,
    /// What is being committed and may have its place already.
    coming: Option<(WriteBatch, Durability)>,
    /// Whether that waits for room.
    waits: bool,
    /// What others brought, and waits for room.
    parked: Option<(WriteBatch, Durability, Answer)>,
    /// Whether others only look.
    pub(super) quiet: bool,
}

impl Work {
    pub(super) fn new(seed: u64) -> Self {
        let workload = Workload { chance: Chance::new(seed), model: Model::default() };
        let (start, sent, coming, parked) = (Model::default(), Vec::new(), None, None);
        Self { seed, workload, start, sent, coming, waits: false, parked, quiet: false }
    }

    pub(super) fn chance(&mut self) -> &mut Chance {
        &mut self.workload.chance
    }

    fn next(&mut self) -> (WriteBatch, Durability, Caller) {
        let batch = self.workload.batch();
        let durability = [Memory, Os, Disk, Disk][self.chance().below(4) as usize];
        let caller = [Caller::Writes, Caller::Syncs][self.chance().below(2) as usize];
        (batch, durability, caller)
    }

    /// A batch has its place.
    fn admit(&mut self, batch: WriteBatch, durability: Durability) -> &mut Sent {
        self.workload.model.apply(&batch);
        self.sent.push(Sent { batch, durability, answer: None, confirmed: false });
        self.sent.last_mut().unwrap()
    }

    /// Takes in the answers that there are. Returns how many are open.
    pub(super) fn collect(&mut self) -> usize {
        let seed = self.seed;
        let mut open = 0;
        for sent in &mut self.sent {
            let Some(answer) = &mut sent.answer else { continue };
            match answer.try_recv() {
                Ok(answer) => sent.answered(answer, seed),
                Err(_) => open += 1,
            }
        }
        open
    }

    /// What readers see, and are to see: everything that was confirmed.
    pub(super) fn confirmed(&self) -> Model {
        let mut model = self.start.clone();
        self.sent.iter().filter(|sent| sent.confirmed).for_each(|sent| model.apply(&sent.batch));
        model
    }
}

/// Commits the next batch. `false` when the store takes no more.
pub(super) fn commit_next(work: &Mutex<Work>, engine: &Engine, disk: &SimulatedDisk) -> bool {
    let (batch, durability, caller, before) = {
        let mut work = work.lock();
        let (batch, durability, caller) = work.next();
        work.coming = Some((batch.clone(), durability));
        (batch, durability, caller, work.sent.len())
    };
    let submitted = engine.submit(batch, durability, caller);
    let Ok(mut answer) = submitted else {
        let mut work = work.lock();
        work.coming = None;
        let error = submitted.map(|_| ()).unwrap_err();
        let over = matches!(error, StoreError::Failed(_) | StoreError::Closed);
        assert!(over, "seed {}: {error}", work.seed);
        return false;
    };
    work.lock().waits = true;
    let early = unpark(work, engine, &mut answer);
    let mut work = work.lock();
    work.waits = false;
    let coming = work.coming.take();
    if coming.is_some()
        && let Some(Err(error)) = &early
        && !matches!(error, StoreError::Failed(_))
    {
        assert!(*error == StoreError::Closed || is_excused(error, disk), "{error}");
        return true;
    }
    let seed = work.seed;
    // Others may have seen that it had its place, and gone on from there.
    let sent = match coming {
        Some((batch, durability)) => work.admit(batch, durability),
        None => &mut work.sent[before],
    };
    match early {
        Some(early) => sent.answered(early, seed),
        None => sent.answer = Some(answer),
    }
    true
}

/// Whether the disk is as the store says when it refuses something for now.
fn is_excused(error: &StoreError, disk: &SimulatedDisk) -> bool {
    match error {
        StoreError::Full { .. } => disk.may_be_full(),
        StoreError::Short { .. } => disk.may_be_short(),
        _ => false,
    }
}

/// Lets a batch that waits for room find some, or be refused. Returns the answer if there is one
/// already.
fn unpark(
    work: &Mutex<Work>,
    engine: &Engine,
    answer: &mut Answer,
) -> Option<Result<Committed, StoreError>> {
    for _ in 0..50 {
        if let Ok(answer) = answer.try_recv() {
            return Some(answer);
        }
        if engine.front.lock().parked().is_empty() {
            return None;
        }
        let _ = engine.keep_step();
        let _ = engine.commit_step(false);
    }
    panic!("seed {}: it waits for room and for no end", work.lock().seed);
}

/// The same for what others brought.
pub(super) fn unpark_others(work: &Mutex<Work>, engine: &Engine, disk: &SimulatedDisk) {
    // It stays there meanwhile for a sign that nothing more is to be brought.
    work.lock().waits = true;
    let parked = work.lock().parked.take();
    if let Some((batch, durability, mut answer)) = parked {
        let early = unpark(work, engine, &mut answer);
        let mut work = work.lock();
        let seed = work.seed;
        match early {
            Some(Err(error)) if is_excused(&error, disk) => (),
            Some(Err(StoreError::Closed)) => (),
            Some(early) => work.admit(batch, durability).answered(early, seed),
            None => work.admit(batch, durability).answer = Some(answer),
        }
    }
    work.lock().waits = false;
}

/// What others do while the disk is busy: they bring batches, write and sync those that wait where
/// nobody else is at it, and read.
pub(super) fn others(
    work: &Arc<Mutex<Work>>,
    engine: &Arc<Engine>,
    disk: &SimulatedDisk,
) -> Arc<dyn Fn() + Send + Sync> {
    let (work, engine, disk) = (Arc::downgrade(work), Arc::downgrade(engine), disk.clone());
    Arc::new(move || meanwhile(&work, &engine, &disk))
}

fn meanwhile(work: &Weak<Mutex<Work>>, engine: &Weak<Engine>, disk: &SimulatedDisk) {
    let (Some(work), Some(engine)) = (work.upgrade(), engine.upgrade()) else { return };
    // It is held while somebody else is at it already.
    let Some(mut work) = work.try_lock() else { return };
    if !work.chance().one_in(5) {
        return;
    }
    match work.chance().below(4) {
        0 | 1 if !work.quiet => bring(&mut work, &engine, disk),
        2 => {
            let free = engine.writing.try_lock().is_some() && engine.syncing.try_lock().is_some();
            if free {
                let due = work.chance().one_in(2);
                let _ = engine.commit_step(due);
            }
        }
        _ => look(&mut work, &engine, disk),
    }
}

fn bring(work: &mut Work, engine: &Engine, disk: &SimulatedDisk) {
    if work.waits || work.parked.is_some() || !engine.front.lock().parked().is_empty() {
        return;
    }
    // Whoever brought that one writes already: it has its place.
    if let Some((batch, durability)) = work.coming.take() {
        work.admit(batch, durability);
    }
    let (batch, durability, caller) = work.next();
    let seed = work.seed;
    match engine.submit(batch.clone(), durability, caller) {
        Ok(mut answer) => match answer.try_recv() {
            Ok(Err(error)) if is_excused(&error, disk) => (),
            Ok(early) => work.admit(batch, durability).answered(early, seed),
            Err(_) if engine.front.lock().parked().is_empty() => {
                work.admit(batch, durability).answer = Some(answer);
            }
            Err(_) => work.parked = Some((batch, durability, answer)),
        },
        Err(StoreError::Failed(_) | StoreError::Closed) => (),
        Err(error) => panic!("seed {seed}: {error}"),
    }
}

/// Reads a log as it is just then.
fn look(work: &mut Work, engine: &Engine, disk: &SimulatedDisk) {
    let mut logs = engine.state.read().logs();
    logs.sort_unstable_by(|a, b| a.log.cmp(&b.log));
    let Some(info) = logs.get(work.chance().below(logs.len() as u64) as usize) else { return };
    let limits = ReadLimits { records: 50, bytes: 10_000 };
    let mut next = info.bounds.first;
    while next < info.bounds.end {
        next = match engine.read(&info.log, next, limits) {
            Ok(batches) => {
                assert!(batches.iter().all(|batch| batch.records.verify().is_ok()));
                let last = batches.last().unwrap_or_else(|| panic!("seed {}", work.seed));
                last.end()
            }
            Err(StoreError::Discarded { until, .. }) => until,
            Err(StoreError::Damaged { until, .. }) if disk.has_forgotten() => until,
            Err(StoreError::Failed(_)) if disk.has_forgotten() => return,
            Err(StoreError::Io { .. }) if disk.may_fail_to_read() => return,
            Err(StoreError::Short { .. }) if disk.may_be_short() => return,
            Err(error) => panic!("seed {}: {error}", work.seed),
        };
    }
}
