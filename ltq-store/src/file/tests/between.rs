//! What comes in between: a write while a sync is under way, a device that fills up between one
//! write and the next.

use std::{
    fmt,
    io::{self, IoSlice},
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use ltq_core::{
    Durability::{Disk, Os},
    LogName, LogOptions, Message, Offset, Records, Timestamp, WriteBatch,
};
use parking_lot::Mutex;

use super::{
    super::{
        engine::{Caller, Engine},
        filesystem::{FileSystem, OpenMode, StoreFile},
        rewrite::Rewrote,
        spill::Job,
    },
    model::{Model, commit, open, tiny},
};
use crate::simulation::{Chance, SimulatedDisk};

type Deed = Box<dyn FnOnce() + Send>;

/// What is to be done once a device has done a sync, before whoever asked for it hears of it.
#[derive(Clone, Default)]
struct AfterSync(Arc<Mutex<Option<Deed>>>);

impl fmt::Debug for AfterSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AfterSync")
    }
}

/// A disk on which something is done after a sync.
#[derive(Debug)]
struct Interrupted {
    disk: SimulatedDisk,
    after: AfterSync,
}

impl FileSystem for Interrupted {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoreFile>> {
        let file = FileSystem::open(&self.disk, path, mode)?;
        Ok(Arc::new(InterruptedFile { file, after: self.after.clone() }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        FileSystem::rename(&self.disk, from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_space(dir)
    }
}

#[derive(Debug)]
struct InterruptedFile {
    file: Arc<dyn StoreFile>,
    after: AfterSync,
}

impl StoreFile for InterruptedFile {
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(into, position)
    }
    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.file.write_all_at(parts, position)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()?;
        let deed = self.after.0.lock().take();
        if let Some(deed) = deed {
            deed();
        }
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
}

fn put(key: &'static str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(key, "v");
    batch
}

#[test]
fn promises_1_and_7_a_sync_says_nothing_of_what_was_written_while_it_was_under_way() {
    for caller in [Caller::Writes, Caller::Syncs] {
        let (disk, after) = (SimulatedDisk::default(), AfterSync::default());
        let interrupted = Interrupted { disk: disk.clone(), after: after.clone() };
        let engine = open(tiny(&disk).file_system(Arc::new(interrupted))).unwrap();
        let engine = Arc::new(engine);
        let late = Arc::new(Mutex::new(None));
        let deed: Deed = Box::new({
            let (engine, late) = (Arc::clone(&engine), Arc::clone(&late));
            move || {
                *late.lock() = Some(engine.submit(put("late"), Disk, Caller::Writes).unwrap());
                engine.flush(false).unwrap();
            }
        });
        *after.0.lock() = Some(deed);
        let mut early = engine.submit(put("early"), Disk, caller).unwrap();
        if caller == Caller::Writes {
            engine.commit_step(false).unwrap();
        }
        assert_eq!(early.try_recv().unwrap().unwrap().durability, Disk);
        let mut late = late.lock().take().unwrap();
        assert!(late.try_recv().is_err(), "confirmed by a sync that began before it was written");
        assert_eq!(engine.state.read().values(b"").len(), 1, "and nobody sees it");
        let cut = disk.after_power_cut(&mut Chance::new(1));
        engine.commit_step(false).unwrap();
        assert_eq!(late.try_recv().unwrap().unwrap().durability, Disk);
        drop(engine);
        // What was confirmed by then is there.
        let engine = open(tiny(&cut)).unwrap();
        assert!(!engine.state.read().values(b"early").is_empty());
    }
}

fn log() -> LogName {
    LogName::new("log")
}

fn send(engine: &Engine, model: &mut Model, batch: &WriteBatch) {
    commit(engine, batch.clone(), Os).unwrap();
    model.apply(batch);
}

/// A log in three segments, of each of which little is wanted.
fn sparse(disk: &SimulatedDisk) -> Model {
    let (mut model, engine) = (Model::default(), open(tiny(disk)).unwrap());
    let mut batch = WriteBatch::new();
    batch.create_log(log(), LogOptions::default());
    // It makes checkpoints large.
    batch.put("large", vec![7; 60 << 10]);
    send(&engine, &mut model, &batch);
    for at in 0..4 {
        let messages = [Message::new(vec![at as u8; 9_000]), Message::new(vec![1; 60_000])];
        let mut batch = WriteBatch::new();
        batch.append(log(), Offset(2 * at), Timestamp(at), Records::encode(&messages));
        send(&engine, &mut model, &batch);
    }
    let jobs: Vec<Job> = {
        let state = engine.state.read();
        Job::collect(&log(), &state.logs[&log()], |_| true).into_iter().collect()
    };
    engine.spill(&mut engine.keeping.lock(), jobs).unwrap();
    engine.checkpoint(&mut engine.keeping.lock(), false).unwrap();
    let mut batch = WriteBatch::new();
    (0..3).for_each(|at| {
        batch.discard(log(), Offset(2 * at + 1), Offset(2 * at + 2));
    });
    send(&engine, &mut model, &batch);
    engine.flush(true).unwrap();
    model
}

#[test]
fn promise_1_segments_stay_until_a_checkpoint_names_what_replaced_them() {
    let disk = SimulatedDisk::default();
    let model = sparse(&disk);
    let mut between = 0;
    // With so much room left, the new segment fits and the checkpoint that names it does not.
    for room in (40..200).map(|room| room << 10) {
        let one = disk.after_kill();
        let engine = open(tiny(&one)).unwrap();
        one.set_capacity(Some(one.used() + room));
        for _ in 0..20 {
            engine.keep_step().unwrap();
            if engine.rewrite_step().unwrap() != Rewrote::More {
                break;
            }
        }
        engine.keep_step().unwrap();
        let rewritten = engine.counters.rewritten_bytes.load(Relaxed);
        let waiting = engine.state.read().has_garbage();
        between += u64::from(rewritten > 0 && waiting);
        assert!(Model::of(&engine).unwrap() == model, "{room} bytes");
        drop(engine);
        let cut = one.after_power_cut(&mut Chance::new(room));
        let engine = open(tiny(&cut)).unwrap();
        assert!(Model::of(&engine).unwrap() == model, "{room} bytes, after a power cut");
    }
    assert!(between > 0, "it never came to that");
}
