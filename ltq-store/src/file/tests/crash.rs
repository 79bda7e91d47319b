//! Promises 1, 7, 8, 11 and 12 under power cuts, kills and failing, full and slow disks, at any
//! operation, by chance and at length.

mod work;

use std::{
    panic::{catch_unwind, resume_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_core::{Durability, Durability::*, LogName, Offset, ReadLimits, StoreError};
use parking_lot::Mutex;

use self::work::{Work, commit_next, others, unpark_others};
use crate::simulation::{Chance, DiskFailure, Faults, SimulatedDisk, seed_hashing};

use super::{
    super::{CheckReport, FileStore, FileStoreOptions, engine::Engine, recovery},
    model::{Model, ModelLog, open, tiny},
};

struct Run {
    seed: u64,
    disk: SimulatedDisk,
    work: Arc<Mutex<Work>>,
    /// Whether the disk did something that a store does not survive.
    failed: Arc<AtomicBool>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let work = Arc::new(Mutex::new(Work::new(seed)));
        Self { seed, disk: SimulatedDisk::default(), work, failed: Arc::default() }
    }

    /// Notes from now on whether the disk does such a thing.
    fn watch(&self) {
        let failed = self.failed.clone();
        failed.store(false, Relaxed);
        self.disk.on_failure(Some(Arc::new(move |failure| {
            let passes = [DiskFailure::Open, DiskFailure::Read, DiskFailure::NoRoom];
            if !passes.contains(&failure) {
                failed.store(true, Relaxed);
            }
        })));
    }

    fn below(&self, limit: u64) -> u64 {
        self.work.lock().chance().below(limit)
    }

    fn one_in(&self, count: u64) -> bool {
        self.work.lock().chance().one_in(count)
    }

    /// A source of chance of its own, unlike all others of this run.
    fn fork(&self) -> Chance {
        Chance::new(self.work.lock().chance().next())
    }

    fn options(&self) -> FileStoreOptions {
        let sync_max = Duration::from_secs(self.below(4).min(1));
        tiny(&self.disk).caller_sync_max(sync_max)
    }

    /// What is to go wrong this time, if anything.
    fn trouble(&self) {
        match self.below(10) {
            0 => {
                let more = self.below(600 << 10);
                self.disk.set_capacity(Some(self.disk.used() + more));
            }
            1 => self.disk.fail_sync_in(self.below(60)),
            2 | 3 => {
                let one_in = |most| if self.one_in(2) { 1 + self.below(most) } else { 0 };
                let faults = Faults {
                    reads: one_in(40),
                    writes: one_in(200),
                    syncs: one_in(100),
                    names: one_in(100),
                };
                self.disk.set_faults(faults, &self.fork());
            }
            4 => self.disk.set_descriptors(Some(self.below(20)), self.one_in(2)),
            _ => (),
        }
    }

    fn no_trouble(&self) {
        self.disk.set_descriptors(None, false);
        self.disk.set_capacity(None);
        self.disk.set_faults(Faults::default(), &self.fork());
    }

    /// Commits at random until the power goes or enough was done.
    fn work(&self, engine: &Engine) {
        for _ in 0..self.below(120) {
            unpark_others(&self.work, engine, &self.disk);
            if engine.failure().is_some() || !commit_next(&self.work, engine, &self.disk) {
                return;
            }
            // Most wait for their answer, some go on together.
            if !self.one_in(3) {
                self.settle(engine);
            }
            if self.one_in(8) {
                let mut keeping = engine.keeping.lock();
                let _ = engine.checkpoint(&mut keeping, false);
            }
        }
        // Some are still under way when it is closed.
        if !self.one_in(4) {
            self.settle(engine);
        }
    }

    fn settle(&self, engine: &Engine) {
        for round in 0..60 {
            self.work.lock().quiet = round > 10;
            if self.work.lock().collect() == 0 {
                break;
            }
            assert!(round < 59, "seed {}: no answer comes", self.seed);
            let _ = engine.commit_step(false);
            if engine.failure().is_some() || !self.one_in(3) || round > 5 {
                let _ = engine.keep_step();
            }
        }
        self.work.lock().quiet = false;
        if self.one_in(4) {
            let _ = engine.keep_step();
        }
        for _ in 0..self.below(12) {
            let _ = engine.rewrite_step();
        }
        if self.one_in(10) {
            let mut keeping = engine.keeping.lock();
            let _ = engine.checkpoint(&mut keeping, false);
        }
    }

    /// What readers see, while it works or after it failed, is all that was confirmed and nothing
    /// else.
    fn check_alive(&self, engine: &Engine) {
        let mut work = self.work.lock();
        let open = work.collect();
        let expected = if engine.failure().is_some() {
            assert_eq!(open, 0, "seed {}: some wait for ever", self.seed);
            work.confirmed()
        } else if open == 0 {
            work.workload.model.clone()
        } else {
            return;
        };
        drop(work);
        self.compare(engine, &expected, "alive");
    }

    fn compare(&self, engine: &Engine, expected: &Model, when: &str) {
        let (found, seed) = (self.read(engine), self.seed);
        for (name, log) in &expected.logs {
            let found = found.logs.get(name);
            if found.is_some_and(|found| is_same(found, log, self.disk.has_forgotten())) {
                continue;
            }
            let of = |log: &ModelLog| (log.durable, log.first, log.end, log.records.len());
            let strange = found.iter().flat_map(|found| &found.records);
            let strange = strange.into_iter().find(|record| !log.records.contains(record));
            let place = strange.map(|record| record.0);
            let owed = log.records.iter().find(|record| Some(record.0) == place);
            let found = found.map(of);
            panic!(
                "seed {seed}, {when}: {name} is {found:?}, not {:?}: {strange:?}, not {owed:?}",
                of(log)
            );
        }
        assert_eq!(found.values, expected.values, "seed {seed}, {when}");
        assert_eq!(found.logs.len(), expected.logs.len(), "seed {seed}, {when}");
    }

    fn read(&self, engine: &Engine) -> Model {
        if self.disk.has_forgotten() {
            return readable(engine, self.seed).0;
        }
        Model::of(engine).unwrap_or_else(|error| panic!("seed {}: {error}", self.seed))
    }

    /// What was found is what the first so many batches made, no fewer than `level` promises.
    fn check_recovered(&self, engine: &Engine, level: Durability) {
        let found = Model::of(engine).unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        let mut work = self.work.lock();
        let owed = work.sent.iter().rposition(|sent| sent.confirmed && sent.durability >= level);
        let owed = owed.map_or(0, |at| at + 1);
        let mut expected = work.start.clone();
        for (at, sent) in work.sent.iter().enumerate() {
            if at >= owed && expected.is_durably(&found) {
                break;
            }
            expected.apply(&sent.batch);
        }
        if !expected.is_durably(&found) {
            for (name, log) in &expected.logs {
                let other = found.logs.get(name);
                if other != Some(log) {
                    let of = |log: &ModelLog| (log.durable, log.first, log.end);
                    eprintln!("{name}: {:?}, found {:?}", of(log), other.map(of));
                }
            }
            panic!(
                "seed {}: with {level}, less or other than {owed} of {}",
                self.seed,
                work.sent.len()
            );
        }
        work.start = found.clone();
        work.workload.model = found;
        work.sent.clear();
    }

    /// Closes it, and returns whether nothing is missing then.
    fn close(&self, engine: &Engine) -> bool {
        self.disk.crash_at(u64::MAX);
        engine.begin_closing();
        unpark_others(&self.work, engine, &self.disk);
        let closed = engine.finish_closing().is_ok();
        let mut work = self.work.lock();
        let open = work.collect();
        assert!(!closed || open == 0, "seed {}: closed without an answer", self.seed);
        closed
    }

    /// A crash while it is opened is a crash like others, and a disk that fails then too.
    fn crash_while_opening(&mut self) {
        self.disk.crash_at(1 + self.below(30));
        if self.one_in(2) {
            let faults = Faults { reads: 20, writes: 20, syncs: 10, names: 30 };
            self.disk.set_faults(faults, &self.fork());
        }
        drop(open(self.options()));
        self.disk = self.disk.after_power_cut(&mut self.fork());
    }

    /// Something happens to a sector of a store at rest: no wrong record is delivered, and what is
    /// missing is told.
    fn damage(&self) {
        let engine = open(self.options()).unwrap();
        engine.begin_closing();
        engine.finish_closing().unwrap();
        drop(engine);
        let disk = self.disk.after_kill();
        let (file, what) = disk.damage(&mut self.fork());
        let context = format!("seed {}, {what} of {}", self.seed, file.display());
        let engine = match open(tiny(&disk)) {
            Ok(engine) => engine,
            Err(StoreError::Open { .. }) => return,
            Err(error) => panic!("{context}: {error}"),
        };
        let (found, lost) = readable(&engine, self.seed);
        let work = self.work.lock();
        let expected = &work.workload.model;
        assert_eq!(found.values, expected.values, "{context}");
        let mut missing = 0;
        for (name, log) in &expected.logs {
            let found = found.logs.get(name).unwrap_or_else(|| panic!("{context}: {name} is gone"));
            assert_eq!((found.first, found.end), (log.first, log.end), "{context}: {name}");
            let is_known = |record| log.records.contains(record);
            assert!(found.records.iter().all(is_known), "{context}: {name} is wrong");
            missing += log.records.len() - found.records.len();
        }
        assert!(missing as u64 <= lost, "{context}: {missing} are missing, {lost} told");
    }
}

/// Whether a log is as expected; where the disk forgot something, as far as it can be read.
fn is_same(found: &ModelLog, expected: &ModelLog, forgotten: bool) -> bool {
    if !forgotten {
        return found == expected;
    }
    let bounds = |log: &ModelLog| (log.durable, log.first, log.end);
    bounds(found) == bounds(expected)
        && found.records.iter().all(|record| expected.records.contains(record))
}

/// What a store holds and can read, and how many records it says are damaged.
fn readable(engine: &Engine, seed: u64) -> (Model, u64) {
    let mut model = Model { values: engine.state.read().values.clone(), ..Model::default() };
    let mut lost = 0;
    let logs = engine.state.read().logs();
    for info in logs {
        let mut log = ModelLog {
            durable: info.options.durable,
            first: info.bounds.first.0,
            end: info.bounds.end.0,
            records: Vec::new(),
        };
        let mut next = info.bounds.first;
        while next < info.bounds.end {
            next = read_on(engine, &info.log, next, &mut log, &mut lost, seed);
        }
        model.logs.insert(info.log, log);
    }
    (model, lost)
}

fn read_on(
    engine: &Engine,
    name: &LogName,
    from: Offset,
    log: &mut ModelLog,
    lost: &mut u64,
    seed: u64,
) -> Offset {
    match engine.read(name, from, ReadLimits { records: 50, bytes: 10_000 }) {
        Ok(batches) => {
            assert!(!batches.is_empty(), "seed {seed}: {name} stops at {from}");
            for batch in &batches {
                for index in 0..batch.records.count() {
                    let bytes = batch.records.encoded(index).unwrap();
                    log.records.push((batch.first.0 + index as u64, batch.time, bytes));
                }
            }
            batches.last().map_or(from, ltq_core::RecordBatch::end)
        }
        Err(StoreError::Discarded { until, .. }) => until,
        Err(StoreError::Damaged { until, .. }) => {
            *lost += until.since(from);
            until
        }
        Err(StoreError::Failed(_)) => {
            *lost += 1;
            from.plus(1)
        }
        Err(error) => panic!("seed {seed}: {error}"),
    }
}

/// Nothing that a crash leaves behind is taken for damage, and looking at it changes nothing.
fn look(disk: &SimulatedDisk, seed: u64) {
    let before = (disk.operations(), disk.files());
    match FileStore::check(&tiny(disk), |_| ()) {
        Ok(report) => {
            let CheckReport { damage, refused, .. } = &report;
            assert!(report.is_clean(), "seed {seed}: {damage:?}, {refused:?}");
            let engine = recovery::open_read_only(&tiny(disk)).unwrap();
            let found = Model::of(&engine).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let records = found.logs.values().map(|log| log.records.len() as u64);
            // Where it forgot something, it may have told of that in between.
            assert!(disk.has_forgotten() || report.records == records.sum(), "seed {seed}");
        }
        // It was being made.
        Err(_) => assert!(!disk.files().iter().any(|(file, _)| file.ends_with("identity"))),
    }
    assert_eq!(before, (disk.operations(), disk.files()), "seed {seed}");
}

/// Returns what was done to the disk in each round: how much, and which files were left.
fn run(seed: u64) -> Vec<(u64, Vec<(PathBuf, usize)>)> {
    seed_hashing(seed);
    let mut run = Run::new(seed);
    let mut trace = Vec::new();
    let rounds = 1 + run.below(5);
    for _ in 0..rounds {
        let engine = match open(run.options()) {
            Ok(engine) => Arc::new(engine),
            Err(error) => panic!("seed {seed}: {error}"),
        };
        run.watch();
        run.disk.crash_at(run.disk.operations() + 1 + run.below(400));
        run.trouble();
        // Now and then the disk is so slow that others get on while it is busy.
        if run.one_in(2) {
            run.disk.meanwhile(Some(others(&run.work, &engine, &run.disk)));
        }
        run.work(&engine);
        unpark_others(&run.work, &engine, &run.disk);
        trace.push((run.disk.operations(), run.disk.files()));
        run.no_trouble();
        if let Some(failure) = engine.failure() {
            assert!(run.failed.load(Relaxed), "seed {seed}: for what passes, {failure}");
        }
        run.check_alive(&engine);
        let kill = run.one_in(3) && !run.disk.has_stopped();
        let closed = engine.failure().is_none()
            && !run.disk.has_stopped()
            && run.one_in(4)
            && run.close(&engine);
        run.disk.meanwhile(None);
        drop(engine);
        let mut level = match (closed, kill && !run.disk.has_forgotten()) {
            (true, _) => Memory,
            (_, true) => Os,
            _ => Disk,
        };
        run.disk =
            if kill { run.disk.after_kill() } else { run.disk.after_power_cut(&mut run.fork()) };
        for _ in 0..run.below(3) {
            run.crash_while_opening();
            if !closed {
                level = Disk;
            }
        }
        look(&run.disk, seed);
        let engine = open(run.options()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        if closed {
            let expected = run.work.lock().workload.model.clone();
            assert_eq!(Model::of(&engine).unwrap(), expected, "seed {seed}, closed");
        }
        run.check_recovered(&engine, level);
        drop(engine);
        run.disk = run.disk.after_kill();
    }
    if run.one_in(4) {
        run.damage();
    }
    trace
}

#[test]
fn the_same_seed_does_the_same_again() {
    for seed in 1..60 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

/// 2,000 seeds, or those that `LTQ_CRASH_SEEDS=FROM..BEHIND` names, on all processors.
#[test]
fn promise_1_what_was_confirmed_survives_a_crash_at_any_operation() {
    let (from, behind) = match std::env::var("LTQ_CRASH_SEEDS") {
        Ok(range) => {
            let (from, behind) = range.split_once("..").unwrap();
            (from.parse().unwrap(), behind.parse().unwrap())
        }
        Err(_) => (1, 2_001),
    };
    assert!(from < behind, "there is no seed in {from}..{behind}");
    let next = AtomicU64::new(from);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= behind {
                        return;
                    }
                    if let Err(failure) = catch_unwind(|| run(seed)) {
                        eprintln!(
                            "to see it again: LTQ_CRASH_SEEDS={seed}..{} cargo test -p ltq-store \
                             --lib promise_1_what_was_confirmed",
                            seed + 1
                        );
                        resume_unwind(failure);
                    }
                }
            });
        }
    });
}
