//! Promises 1, 7 and 12 under power cuts and kills at any operation, by chance and at length.

use std::{
    panic::{catch_unwind, resume_unwind},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use ltq_core::{Committed, Durability, Durability::*, StoreError, WriteBatch};

use super::{
    super::{
        CheckReport, FileStore,
        engine::{Answer, Caller, Engine},
        recovery,
    },
    model::{Model, Workload, open, tiny},
    sim::{Chance, SimFs},
};

/// A batch that was committed, and what is known of it.
struct Sent {
    batch: WriteBatch,
    durability: Durability,
    answer: Option<Answer>,
    confirmed: bool,
}

impl Sent {
    fn answered(&mut self, answer: Result<Committed, StoreError>, seed: u64) {
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

struct Run {
    seed: u64,
    disk: SimFs,
    workload: Workload,
    /// What was there when it was opened.
    start: Model,
    sent: Vec<Sent>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let workload = Workload { chance: Chance::new(seed), model: Model::default() };
        let disk = SimFs::default();
        Self { seed, disk, workload, start: Model::default(), sent: Vec::new() }
    }

    fn chance(&mut self) -> &mut Chance {
        &mut self.workload.chance
    }

    /// Commits at random until the power goes or enough was done.
    fn work(&mut self, engine: &Engine) {
        for _ in 0..self.chance().below(120) {
            let batch = self.workload.batch();
            let durability = [Memory, Os, Disk, Disk][self.chance().below(4) as usize];
            let caller = [Caller::Writes, Caller::Syncs][self.chance().below(2) as usize];
            match engine.submit(batch.clone(), durability, caller) {
                Ok(mut answer) => {
                    let early = self.unpark(engine, &mut answer);
                    if let Some(Err(StoreError::Full { .. })) = early {
                        assert!(self.disk.is_limited());
                        continue;
                    }
                    self.workload.model.apply(&batch);
                    let mut sent =
                        Sent { batch, durability, answer: Some(answer), confirmed: false };
                    if let Some(early) = early {
                        sent.answered(early, self.seed);
                    }
                    self.sent.push(sent);
                }
                Err(StoreError::Failed(_)) => return,
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
            // Most wait for their answer, some go on together.
            if !self.chance().one_in(3) {
                self.settle(engine);
            }
            if self.chance().one_in(8) {
                let mut keeping = engine.keeping.lock();
                let _ = engine.checkpoint(&mut keeping, false);
            }
            if engine.failure().is_some() {
                return;
            }
        }
        self.settle(engine);
    }

    /// Lets a batch that waits for room find some, or be refused. Returns the answer if there is
    /// one already.
    fn unpark(
        &self,
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
        panic!("seed {}: it waits for room and for no end", self.seed);
    }

    fn settle(&mut self, engine: &Engine) {
        for round in 0..50 {
            let open = self.sent.iter_mut().rev().take(40);
            let mut waiting = 0;
            for sent in open {
                let Some(answer) = &mut sent.answer else { continue };
                match answer.try_recv() {
                    Ok(answer) => sent.answered(answer, self.seed),
                    Err(_) => waiting += 1,
                }
            }
            if waiting == 0 {
                break;
            }
            assert!(round < 49, "seed {}: no answer comes", self.seed);
            let _ = engine.commit_step(false);
            if engine.failure().is_some() || !self.workload.chance.one_in(3) || round > 5 {
                let _ = engine.keep_step();
            }
        }
        if self.chance().one_in(4) {
            let _ = engine.keep_step();
        }
        for _ in 0..self.chance().below(12) {
            let _ = engine.rewrite_step();
        }
        if self.chance().one_in(10) {
            let mut keeping = engine.keeping.lock();
            let _ = engine.checkpoint(&mut keeping, false);
        }
    }

    /// What readers see, while it works, is everything that was confirmed.
    fn check_alive(&self, engine: &Engine) {
        if engine.failure().is_none() {
            let found = Model::of(engine).unwrap();
            for (name, log) in &self.workload.model.logs {
                let seed = self.seed;
                assert!(found.logs.get(name) == Some(log), "seed {seed}, alive: {name} differs");
            }
            assert_eq!(found.values, self.workload.model.values, "seed {}, alive", self.seed);
            assert_eq!(found.logs.len(), self.workload.model.logs.len(), "seed {}", self.seed);
        }
    }

    /// What was found is what the first so many batches made, no fewer than `level` promises.
    fn check_recovered(&mut self, engine: &Engine, level: Durability) {
        let found = Model::of(engine).unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        let is_owed = |sent: &Sent| sent.confirmed && sent.durability >= level;
        let owed = self.sent.iter().rposition(is_owed).map_or(0, |at| at + 1);
        let mut expected = self.start.clone();
        for (at, sent) in self.sent.iter().enumerate() {
            if at >= owed && expected.durable() == found.durable() {
                break;
            }
            expected.apply(&sent.batch);
        }
        let (expected, durable) = (expected.durable(), found.durable());
        if expected != durable {
            for (name, log) in &expected.logs {
                let other = durable.logs.get(name);
                if other != Some(log) {
                    let of = |log: &super::model::ModelLog| (log.durable, log.first, log.end);
                    eprintln!("{name}: {:?}, found {:?}", of(log), other.map(of));
                }
            }
            panic!(
                "seed {}: with {level}, less or other than {owed} of {}",
                self.seed,
                self.sent.len()
            );
        }
        self.start = found.clone();
        self.workload.model = found;
        self.sent.clear();
    }
}

/// Nothing that a crash leaves behind is taken for damage, and looking at it changes nothing.
fn look(disk: &SimFs, seed: u64) {
    let before = (disk.operations(), disk.files());
    match FileStore::check(&tiny(disk), |_| ()) {
        Ok(report) => {
            let CheckReport { damage, refused, .. } = &report;
            assert!(report.is_clean(), "seed {seed}: {damage:?}, {refused:?}");
            let engine = recovery::open_read_only(tiny(disk)).unwrap();
            let found = Model::of(&engine).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let records = found.logs.values().map(|log| log.records.len() as u64);
            assert_eq!(report.records, records.sum::<u64>(), "seed {seed}");
        }
        // It was being made.
        Err(_) => assert!(!disk.files().iter().any(|(file, _)| file.ends_with("identity"))),
    }
    assert_eq!(before, (disk.operations(), disk.files()), "seed {seed}");
}

/// Returns what was done to the disk in each round: how much, and which files were left.
fn run(seed: u64) -> Vec<(u64, Vec<(PathBuf, usize)>)> {
    let mut run = Run::new(seed);
    let mut trace = Vec::new();
    let rounds = 1 + run.chance().below(5);
    for _ in 0..rounds {
        let engine = match open(tiny(&run.disk)) {
            Ok(engine) => engine,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        let so_far = run.disk.operations();
        let crash_in = 1 + run.chance().below(400);
        run.disk.crash_at(so_far + crash_in);
        // Now and then the device is nearly full, or fails to sync.
        match run.chance().below(6) {
            0 => {
                let more = run.chance().below(600 << 10);
                run.disk.set_capacity(Some(run.disk.used() + more));
            }
            1 => {
                let syncs = run.chance().below(60);
                run.disk.fail_sync_in(syncs);
            }
            _ => (),
        }
        run.work(&engine);
        run.check_alive(&engine);
        trace.push((run.disk.operations(), run.disk.files()));
        run.disk.set_capacity(None);
        let kill = run.chance().one_in(3);
        let closed = engine.failure().is_none() && run.chance().one_in(4) && {
            run.disk.crash_at(u64::MAX);
            engine.begin_closing();
            // A sync may fail even then.
            engine.finish_closing().is_ok()
        };
        drop(engine);
        let mut chance = run.chance().clone();
        run.disk = if kill { run.disk.after_kill() } else { run.disk.after_power_cut(&mut chance) };
        let mut level = if closed {
            Memory
        } else if kill {
            Os
        } else {
            Disk
        };
        // A crash while it is opened is a crash like others.
        for _ in 0..run.chance().below(3) {
            let crash_in = 1 + run.chance().below(30);
            run.disk.crash_at(crash_in);
            drop(open(tiny(&run.disk)));
            let mut chance = run.chance().clone();
            run.chance().next();
            run.disk = run.disk.after_power_cut(&mut chance);
            if !closed {
                level = Disk;
            }
        }
        look(&run.disk, seed);
        let engine = open(tiny(&run.disk)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        if closed {
            assert_eq!(Model::of(&engine).unwrap(), run.workload.model, "seed {seed}, closed");
        }
        run.check_recovered(&engine, level);
        drop(engine);
        run.disk = run.disk.after_kill();
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
