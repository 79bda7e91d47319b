//! The file store's engine on a simulated disk, driven by hand, with what may go wrong.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ltq_core::{
    Committed, Durability, Entropy, LogName, Offset, ReadLimits, RecordBatch, StoreError,
    Timestamp, WriteBatch,
    model::histories::{Ending, Failure, Found, RealStore},
};
use ltq_store::{
    FileStoreOptions,
    simulation::{Chance, Faults, SimulatedDisk, SteppedStore, StoreStep, Submitted, seed_hashing},
};

/// A store and its disk.
pub(crate) struct StoreInHand {
    seed: u64,
    chance: Chance,
    disk: SimulatedDisk,
    /// Open, but while it is being opened.
    store: Option<SteppedStore>,
    commit: Option<Result<Submitted, StoreError>>,
    /// From this operation on the disk has no power.
    dies_at: u64,
    /// Nothing is to go wrong any more.
    calm: bool,
}

struct Ids(Mutex<Chance>);

impl Entropy for Ids {
    fn next(&self) -> u64 {
        self.0.lock().expect("no panic").next()
    }
}

/// Another chance, which takes nothing from this one later on.
const fn fork(chance: &mut Chance) -> Chance {
    Chance::new(chance.next())
}

impl StoreInHand {
    pub(crate) fn new(seed: u64) -> Self {
        seed_hashing(seed);
        let (chance, disk) = (Chance::new(seed), SimulatedDisk::default());
        let (store, commit) = (None, None);
        let mut new = Self { seed, chance, disk, store, commit, dies_at: u64::MAX, calm: false };
        new.open();
        new
    }

    /// So small that all that happens to large files happens within a history.
    fn options(&mut self) -> FileStoreOptions {
        let sync_max = Duration::from_secs(self.chance.below(2));
        let ids = Ids(Mutex::new(fork(&mut self.chance)));
        FileStoreOptions::new("/store")
            .tail_bytes(64 << 10)
            .journal_file_bytes(64 << 10)
            .journal_bytes_max(512 << 10)
            .segment_bytes(64 << 10)
            .reserve_bytes(64 << 10)
            // However long the real time between two lines of a test is: a second, or none.
            .caller_sync_max(sync_max)
            .file_system(Arc::new(self.disk.clone()))
            .simulated(Arc::new(ids), || Duration::ZERO)
    }

    fn open(&mut self) {
        let store = SteppedStore::open(self.options());
        let seed = self.seed;
        self.store = Some(store.unwrap_or_else(|error| panic!("seed {seed}: opening: {error}")));
        self.dies_at = u64::MAX;
        if !self.calm && self.chance.one_in(2) {
            self.dies_at = self.disk.operations() + 1 + self.chance.below(150);
        }
        self.disk.crash_at(self.dies_at);
        if !self.calm && self.chance.one_in(8) {
            let (writes, syncs) = (self.chance.below(200), self.chance.below(100));
            let reads = self.chance.below(3) * 20;
            self.disk
                .set_faults(Faults { reads, writes, syncs, names: 0 }, &fork(&mut self.chance));
        }
    }

    /// It may lose its power while it is opened, or fail.
    fn die_while_opening(&mut self) {
        self.disk.crash_at(1 + self.chance.below(30));
        if self.chance.one_in(2) {
            let faults = Faults { reads: 20, writes: 20, syncs: 10, names: 30 };
            self.disk.set_faults(faults, &fork(&mut self.chance));
        }
        drop(SteppedStore::open(self.options()));
        self.disk = self.disk.after_power_cut(&mut fork(&mut self.chance));
    }

    fn store(&self) -> &SteppedStore {
        self.store.as_ref().expect("it is open")
    }

    fn found(&self, level: Durability) -> Found {
        let store = self.store();
        let logs = store.logs();
        assert!(logs.len() <= 1, "seed {}: {logs:?}", self.seed);
        let Some(info) = logs.first() else {
            return Found { level, log: None, batches: Vec::new(), values: store.values() };
        };
        let (log, mut batches) = (&info.log, Vec::new());
        let mut next = info.bounds.first;
        while next < info.bounds.end {
            match store.read(log, next, ReadLimits { records: 50, bytes: 10_000 }) {
                Ok(read) => {
                    next = read.last().expect("there is something").end();
                    batches.extend(read);
                }
                Err(StoreError::Discarded { until, .. }) => next = until,
                Err(StoreError::Io { .. }) if self.disk.may_fail_to_read() => {}
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
        }
        let log = Some((info.options, info.bounds));
        Found { level, log, batches, values: store.values() }
    }
}

impl RealStore for StoreInHand {
    fn begin(&mut self, batch: WriteBatch, durability: Durability) {
        let syncs = self.chance.one_in(2);
        self.commit = Some(self.store().submit(batch, durability, syncs));
    }

    fn finish(&mut self) -> Result<Committed, StoreError> {
        let mut commit = self.commit.take().expect("a commit")?;
        for _ in 0..60 {
            if let Some(answer) = commit.answer() {
                return answer;
            }
            self.store().step(StoreStep::Commit { sync_due: false });
            if self.store().health().is_err() || self.chance.one_in(3) {
                self.store().step(StoreStep::Keep);
            }
        }
        panic!("seed {}: no answer comes", self.seed);
    }

    fn read(
        &mut self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        self.store().read(log, from, limits)
    }

    fn offset_at(&mut self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError> {
        self.store().offset_at(log, time)
    }

    fn work(&mut self) {
        let step = match self.chance.below(60) {
            0 => StoreStep::Checkpoint,
            1..=3 => StoreStep::Keep,
            4..=6 => StoreStep::Rewrite,
            7 => StoreStep::Commit { sync_due: true },
            8 => StoreStep::Commit { sync_due: false },
            _ => return,
        };
        self.store().step(step);
    }

    fn trouble(&mut self, failure: Failure) {
        match failure {
            Failure::Full if self.disk.may_be_full() => self.disk.set_capacity(None),
            Failure::Full => self.disk.set_capacity(Some(self.disk.used())),
            Failure::Device => self.disk.fail_sync_in(self.chance.below(3)),
            Failure::Other => {
                let faults = Faults { reads: 3, writes: 30, syncs: 0, names: 0 };
                self.disk.set_faults(faults, &fork(&mut self.chance));
            }
        }
    }

    fn mend(&mut self) {
        self.calm = true;
        self.dies_at = u64::MAX;
        self.disk.crash_at(u64::MAX);
        // So many that it never comes to that.
        self.disk.fail_sync_in(u64::MAX);
        self.disk.set_capacity(None);
        self.disk.set_faults(Faults::default(), &Chance::new(1));
    }

    fn has_lost_power(&self) -> bool {
        self.disk.operations() >= self.dies_at
    }

    fn is_unwell(&self) -> bool {
        self.disk.has_stopped() || self.disk.has_forgotten() || self.store().health().is_err()
    }

    fn restart(&mut self, ending: Ending) -> Found {
        self.commit = None;
        let store = self.store.take().expect("it is open");
        let spoiled = self.has_lost_power() || self.disk.has_stopped() || self.disk.has_forgotten();
        let (closed, mut killed) = match ending {
            Ending::Closed => (store.close().is_ok(), true),
            Ending::Killed | Ending::PowerLost => {
                drop(store);
                (false, ending == Ending::Killed)
            }
        };
        // What it was given and never took shows only when it loses its power; and closing may have
        // cost it that.
        killed &= !spoiled && !self.has_lost_power() && !self.disk.has_forgotten();
        let mut level = match (closed, killed) {
            (true, _) => Durability::Memory,
            (false, true) => Durability::Os,
            (false, false) => Durability::Disk,
        };
        self.disk = match killed {
            true => self.disk.after_kill(),
            false => self.disk.after_power_cut(&mut fork(&mut self.chance)),
        };
        while !self.calm && self.chance.one_in(5) {
            self.die_while_opening();
            if !closed {
                level = Durability::Disk;
            }
        }
        self.open();
        self.found(level)
    }
}
