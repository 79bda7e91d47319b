//! A store that works on the tasks of a runtime: the same seed, the same history.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_core::{Durability, Entropy, LogOptions, Message, Records, Store};
use tokio::{task::JoinSet, time::Instant};

use crate::simulation::{Chance, SimulatedDisk, seed_hashing};

use super::{super::*, model::tiny};

struct Seeded(parking_lot::Mutex<Chance>);

impl Entropy for Seeded {
    fn next(&self) -> u64 {
        self.0.lock().next()
    }
}

/// What became of a seed.
#[derive(PartialEq)]
struct History {
    /// What is on the disk.
    files: Vec<(PathBuf, Vec<u8>)>,
    /// What each commit was told, and when.
    told: Vec<(u64, String)>,
    /// How often the disk was changed.
    changes: u64,
}

/// Writers of several logs, one store after another on the same disk.
fn history(seed: u64) -> History {
    seed_hashing(seed);
    let disk = SimulatedDisk::default();
    let chance = Arc::new(Seeded(parking_lot::Mutex::new(Chance::new(seed))));
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let published = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        let began = Instant::now();
        for life in 0..3 {
            let options = tiny(&disk).simulated(chance.clone(), || Duration::from_millis(20));
            let store = Arc::new(FileStore::open(options).await.unwrap());
            let mut writers = JoinSet::new();
            for writer in 0..4_u64 {
                let (store, chance) = (Arc::clone(&store), Arc::clone(&chance));
                let (told, published) = (Arc::clone(&told), Arc::clone(&published));
                writers.spawn(async move {
                    let log = LogName::new(format!("log-{life}-{writer}"));
                    let mut batch = WriteBatch::new();
                    batch.create_log(log.clone(), LogOptions { durable: writer > 0 });
                    store.commit(batch, Durability::Disk).await.unwrap();
                    for at in 0..30 {
                        let body = vec![writer as u8; chance.next() as usize % 3_000];
                        let records = Records::encode(&[Message::new(body)]);
                        let mut batch = WriteBatch::new();
                        batch.append(log.clone(), Offset(at), Timestamp(at), records);
                        batch.put(format!("{log}"), at.to_le_bytes().to_vec());
                        let levels = [Durability::Memory, Durability::Os, Durability::Disk];
                        let asked = levels[chance.next() as usize % 3];
                        let committed = store.commit(batch, asked).await.unwrap();
                        let after = began.elapsed().as_micros() as u64;
                        told.lock().push((after, format!("{log} {at} {}", committed.durability)));
                        published.fetch_add(1, Relaxed);
                    }
                });
            }
            while let Some(ended) = writers.join_next().await {
                ended.unwrap();
            }
            for info in store.logs().unwrap() {
                let limits = ReadLimits { records: 1_000, bytes: 1 << 30 };
                let mut at = info.bounds.first;
                while at < info.bounds.end {
                    let read = store.read(&info.log, at, limits).await.unwrap();
                    at = at.plus(read.iter().map(|batch| batch.records.count() as u64).sum());
                }
            }
            store.close().await.unwrap();
        }
    });
    assert_eq!(published.load(Relaxed), 3 * 4 * 30);
    let files = disk.files().into_iter().map(|(path, _)| (disk.content(&path), path));
    let files = files.map(|(content, path)| (path, content)).collect();
    let told = told.lock().clone();
    History { files, told, changes: disk.operations() }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 1..20 {
        let (first, again) = (history(seed), history(seed));
        assert_eq!(first.told, again.told, "seed {seed}: other answers, or at other times");
        assert_eq!(first.changes, again.changes, "seed {seed}: another number of changes");
        assert!(first == again, "seed {seed}: other files");
    }
    assert_ne!(history(1).told, history(2).told, "seeds make no difference");
}
