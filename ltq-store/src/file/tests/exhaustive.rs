//! Promise 8, exhaustively over a small store: every byte flipped, every sector zeroed or written
//! to the wrong place, every file cut at every length, missing, or swapped with another.

use std::{
    collections::BTreeMap,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use ltq_core::{
    Durability::Disk, LogName, LogOptions, Message, Offset, ReadLimits, Records, StoreError,
    Timestamp, WriteBatch,
};
use parking_lot::Mutex;

use super::{
    super::{engine::Engine, filesystem::FileSystem, spill::Job},
    model::{Model, commit, open, tiny},
};
use crate::simulation::SimulatedDisk;

const SECTOR: usize = 512;
const ROUNDS: u64 = 8;
const LIMITS: ReadLimits = ReadLimits { records: 50, bytes: 10_000 };

/// A store at rest, and what it holds.
struct Store {
    disk: SimulatedDisk,
    model: Model,
    /// From which offset on a log was written so late that nothing behind it tells that it was
    /// synced: damage there cannot be told from an end that was torn off.
    unproven: u64,
    /// Where each record's bytes are: file, position, length, log and offset.
    places: Vec<(PathBuf, Range<usize>, LogName, u64)>,
}

/// What is done to a store at rest: which bytes of which files are not what they were.
struct Damage {
    name: String,
    touched: Vec<(PathBuf, Range<usize>)>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Opened, and all is there.
    Whole,
    /// Opened, and so many records are told to be lost.
    Lost(u64),
    /// Not opened, and the message names the file.
    Refused,
}

fn log(at: u64) -> LogName {
    LogName::new(format!("log-{at}"))
}

impl Store {
    /// Two logs, one of them partly in segments, and values. Every record is unlike all others.
    fn new(closed: bool) -> Self {
        let (disk, mut model) = (SimulatedDisk::default(), Model::default());
        let engine = open(tiny(&disk)).unwrap();
        let mut number = 0_u64;
        for round in 0..ROUNDS {
            let mut batch = WriteBatch::new();
            for name in [log(0), log(1)] {
                if round == 0 {
                    batch.create_log(name.clone(), LogOptions::default());
                }
                let at = Offset(model.logs.get(&name).map_or(0, |log| log.end));
                let messages: Vec<_> = (0..3)
                    .map(|_| {
                        number += 1;
                        let unlike = (0..10).flat_map(|at| (number << 8 | at).to_le_bytes());
                        Message::new(unlike.collect::<Vec<u8>>())
                    })
                    .collect();
                batch.append(name, at, Timestamp(1_000 + round), Records::encode(&messages));
            }
            batch.put(format!("key-{}", round % 3), vec![round as u8; 40]);
            if round == 5 {
                batch.truncate(log(0), Offset(2));
            }
            commit(&engine, batch.clone(), Disk).unwrap();
            model.apply(&batch);
            if round == 3 {
                let jobs: Vec<_> = {
                    let state = engine.state.read();
                    let logs = state.logs.iter();
                    logs.filter_map(|(name, log)| Job::collect(name, log, |_| true)).collect()
                };
                let mut keeping = engine.keeping.lock();
                engine.spill(&mut keeping, jobs).unwrap();
                engine.checkpoint(&mut keeping, false).unwrap();
            }
        }
        if closed {
            engine.begin_closing();
            engine.finish_closing().unwrap();
        }
        drop(engine);
        let disk = disk.after_kill();
        let places = places(&disk, &model);
        let unproven = if closed { u64::MAX } else { 3 * (ROUNDS - 2) };
        Self { disk, model, unproven, places }
    }

    /// Opens it with the damage done, and sees what comes of it.
    fn examine(&self, disk: &SimulatedDisk, damage: &Damage) -> Outcome {
        let context = &damage.name;
        let opened = catch_unwind(AssertUnwindSafe(|| open(tiny(disk))));
        let opened = opened.unwrap_or_else(|_| panic!("{context}: opening panics"));
        let engine = match opened {
            Ok(engine) => engine,
            Err(error) => {
                let said = error.to_string();
                let named = damage
                    .touched
                    .iter()
                    .any(|(path, _)| said.contains(path.file_name().unwrap().to_str().unwrap()));
                assert!(named, "{context}: refused without naming the file: {said}");
                return Outcome::Refused;
            }
        };
        let (mut lost_records, mut to_be_told) = (0, false);
        for (name, expected) in &self.model.logs {
            let bounds = engine.state.read().logs.get(name).map(|log| log.bounds);
            let bounds = bounds.unwrap_or_else(|| panic!("{context}: {name} is gone"));
            assert!(bounds.first.0 <= expected.first, "{context}: {name} begins too late");
            let (good, lost) = self.read(&engine, name, context);
            let in_lost = |offset: u64| lost.iter().any(|lost| lost.contains(&offset));
            for record in &expected.records {
                match good.get(&record.0) {
                    Some(found) => assert_eq!(
                        found,
                        &(record.1, record.2.clone()),
                        "{context}: {name} delivers a wrong record {}",
                        record.0
                    ),
                    None => {
                        assert!(
                            in_lost(record.0) || record.0 >= bounds.end.0,
                            "{context}: {name} says nothing of record {}",
                            record.0
                        );
                        assert!(
                            self.is_touched(damage, name, record.0),
                            "{context}: {name} lost record {}, which was not touched",
                            record.0
                        );
                        lost_records += 1;
                        to_be_told |= record.0 < self.unproven;
                    }
                }
            }
            let known = |offset: &u64| (expected.first..expected.end).contains(offset);
            let new = good.keys().find(|offset| **offset >= expected.first && !known(offset));
            assert_eq!(new, None, "{context}: {name} delivers what never was");
        }
        if to_be_told {
            let told = engine.counters.damaged_records.load(Relaxed);
            assert!(told > 0, "{context}: {lost_records} records are lost and nothing is told");
        }
        if lost_records == 0 { Outcome::Whole } else { Outcome::Lost(lost_records) }
    }

    /// What can be read of a log, and what is told to be lost.
    #[expect(clippy::type_complexity, reason = "two parts of one answer")]
    fn read(
        &self,
        engine: &Engine,
        name: &LogName,
        context: &str,
    ) -> (BTreeMap<u64, (Timestamp, bytes::Bytes)>, Vec<Range<u64>>) {
        let bounds = engine.state.read().logs[name].bounds;
        let (mut good, mut lost) = (BTreeMap::new(), Vec::new());
        let mut next = bounds.first;
        while next < bounds.end {
            match engine.read(name, next, LIMITS) {
                Ok(batches) => {
                    assert!(!batches.is_empty(), "{context}: {name} stops at {next}");
                    for batch in batches {
                        for index in 0..batch.records.count() {
                            let bytes = batch.records.encoded(index).unwrap();
                            good.insert(next.0, (batch.time, bytes));
                            next = next.plus(1);
                        }
                    }
                }
                Err(StoreError::Damaged { from, until, file, .. }) => {
                    assert!(
                        from == next && until > next && until <= bounds.end,
                        "{context}: {name} at {next} of {bounds:?}: {from} to {until}"
                    );
                    assert!(!file.is_empty());
                    lost.push(from.0..until.0);
                    next = until;
                }
                Err(error) => panic!("{context}: {name} at {next}: {error}"),
            }
        }
        (good, lost)
    }

    /// Whether a record is touched, in the journal together with what was written in one batch.
    fn is_touched(&self, damage: &Damage, name: &LogName, offset: u64) -> bool {
        self.places.iter().any(|(path, place, log, at)| {
            log == name
                && *at == offset
                && damage.touched.iter().any(|(touched, bytes)| {
                    let is_segment = path.extension() == Some("segment".as_ref());
                    let around = if is_segment { 0 } else { TOGETHER };
                    touched == path
                        && bytes.end + around > place.start
                        && bytes.start < place.end + around
                })
        })
    }
}

/// A batch of this store with its heads and tables takes less.
const TOGETHER: usize = 1_024;

fn places(disk: &SimulatedDisk, model: &Model) -> Vec<(PathBuf, Range<usize>, LogName, u64)> {
    let mut places = Vec::new();
    for (path, _) in disk.files() {
        let bytes = disk.content(&path);
        for (name, log) in &model.logs {
            for record in &log.records {
                let found = bytes.windows(record.2.len()).enumerate();
                let found = found.filter(|(_, window)| *window == &record.2[..]);
                for (at, _) in found {
                    places.push((path.clone(), at..at + record.2.len(), name.clone(), record.0));
                }
            }
        }
    }
    places
}

/// Does each of so many things to copies of a store, on all processors. Returns how often each
/// outcome came.
fn each(
    store: &Store,
    count: usize,
    make: impl Fn(usize, &SimulatedDisk) -> Option<Damage> + Sync,
) -> BTreeMap<Outcome, u64> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Relaxed);
                    if at >= count {
                        return;
                    }
                    let disk = store.disk.after_kill();
                    if let Some(damage) = make(at, &disk) {
                        let outcome = store.examine(&disk, &damage);
                        *outcomes.lock().entry(outcome).or_default() += 1;
                    }
                }
            });
        }
    });
    outcomes.into_inner()
}

/// The bytes of all files, one after another.
fn all_bytes(disk: &SimulatedDisk) -> Vec<(PathBuf, usize)> {
    disk.files().into_iter().filter(|(_, len)| *len > 0).collect()
}

fn at(files: &[(PathBuf, usize)], mut index: usize) -> (&Path, usize) {
    for (path, len) in files {
        if index < *len {
            return (path, index);
        }
        index -= len;
    }
    panic!("beyond the last file");
}

/// Whether a place lies deep inside what was preallocated and never written: a little of that is
/// enough.
fn is_blank(bytes: &[u8], range: Range<usize>) -> bool {
    let (start, end) = (range.start.saturating_sub(600), (range.end + 600).min(bytes.len()));
    bytes[start..end].iter().all(|&byte| byte == 0)
}

/// So many of each kind, so that a test that damages nothing fails.
fn assert_seen(outcomes: &BTreeMap<Outcome, u64>, whole: u64, lost: u64, refused: u64) {
    let count = |wanted: fn(&Outcome) -> bool| {
        outcomes.iter().filter(|(outcome, _)| wanted(outcome)).map(|(_, count)| count).sum::<u64>()
    };
    let is_lost = |outcome: &Outcome| matches!(outcome, Outcome::Lost(_));
    assert!(count(|outcome| *outcome == Outcome::Whole) >= whole, "{outcomes:?}");
    assert!(count(is_lost) >= lost, "{outcomes:?}");
    let found = count(|outcome| *outcome == Outcome::Refused);
    assert!(if refused == 0 { found == 0 } else { found >= refused }, "{outcomes:?}");
}

fn stores() -> [Store; 2] {
    [Store::new(true), Store::new(false)]
}

#[test]
fn promise_8_every_byte_flipped() {
    for store in stores() {
        let files = all_bytes(&store.disk);
        let count = files.iter().map(|(_, len)| len).sum();
        let outcomes = each(&store, count, |index, disk| {
            let (path, at) = at(&files, index);
            let mut blank = false;
            disk.edit(path, |bytes| {
                blank = is_blank(bytes, at..at + 1) && at % 61 != 0;
                bytes[at] ^= 1 << (index % 8);
            });
            (!blank).then(|| Damage {
                name: format!("byte {at} of {} flipped", path.display()),
                touched: vec![(path.to_owned(), at..at + 1)],
            })
        });
        assert_seen(&outcomes, 5_000, 3_000, 0);
    }
}

#[test]
fn promise_8_every_sector_zeroed() {
    for store in stores() {
        let files = all_bytes(&store.disk);
        let count = files.iter().map(|(_, len)| len).sum::<usize>();
        let outcomes = each(&store, count, |index, disk| {
            let (path, at) = at(&files, index);
            if at % SECTOR != 0 {
                return None;
            }
            let mut range = at..at + SECTOR;
            disk.edit(path, |bytes| {
                range.end = range.end.min(bytes.len());
                bytes[range.clone()].fill(0);
            });
            let name = format!("the sector at {at} of {} zeroed", path.display());
            Some(Damage { name, touched: vec![(path.to_owned(), range)] })
        });
        assert_seen(&outcomes, 100, 10, 0);
    }
}

#[test]
fn promise_8_every_sector_written_where_another_belongs() {
    for store in stores() {
        let files = all_bytes(&store.disk);
        let used: Vec<(PathBuf, usize)> = files
            .iter()
            .flat_map(|(path, len)| (0..*len).step_by(SECTOR).map(|at| (path.clone(), at)))
            .filter(|(path, at)| {
                let bytes = store.disk.content(path);
                bytes[*at..(*at + SECTOR).min(bytes.len())].iter().any(|&byte| byte != 0)
            })
            .collect();
        let outcomes = each(&store, used.len() * used.len(), |index, disk| {
            let ((from, from_at), (to, to_at)) =
                (&used[index / used.len()], &used[index % used.len()]);
            let source = disk.content(from);
            let source = &source[*from_at..(*from_at + SECTOR).min(source.len())];
            let mut range = *to_at..*to_at + source.len();
            disk.edit(to, |bytes| {
                range.end = range.end.min(bytes.len());
                let len = range.len();
                bytes[range.clone()].copy_from_slice(&source[..len]);
            });
            let name = format!(
                "the sector at {from_at} of {} written to {to_at} of {}",
                from.display(),
                to.display()
            );
            (index / used.len() != index % used.len())
                .then(|| Damage { name, touched: vec![(to.clone(), range)] })
        });
        assert_seen(&outcomes, 100, 100, 1);
    }
}

#[test]
fn promise_8_every_file_cut_at_every_length() {
    for store in stores() {
        let files = all_bytes(&store.disk);
        let count = files.iter().map(|(_, len)| len).sum();
        let outcomes = each(&store, count, |index, disk| {
            let (path, at) = at(&files, index);
            let mut range = at..at;
            let mut blank = false;
            disk.edit(path, |bytes| {
                range.end = bytes.len();
                blank = is_blank(bytes, at..at + 1) && at % 61 != 0;
                bytes.truncate(at);
            });
            let name = format!("{} cut at {at}", path.display());
            (!blank).then(|| Damage { name, touched: vec![(path.to_owned(), range)] })
        });
        assert_seen(&outcomes, 500, 500, 1_000);
    }
}

#[test]
fn promise_8_every_file_missing_and_every_two_swapped() {
    for store in stores() {
        let files: Vec<_> = store.disk.files().into_iter().collect();
        let outcomes = each(&store, files.len() * files.len(), |index, disk| {
            let (a, b) = (&files[index / files.len()], &files[index % files.len()]);
            if a == b {
                disk.remove(&a.0).unwrap();
                let name = format!("{} missing", a.0.display());
                return Some(Damage { name, touched: vec![(a.0.clone(), 0..a.1)] });
            }
            disk.swap(&a.0, &b.0);
            let name = format!("{} and {} swapped", a.0.display(), b.0.display());
            let touched = vec![(a.0.clone(), 0..a.1), (b.0.clone(), 0..b.1)];
            (index / files.len() < index % files.len()).then_some(Damage { name, touched })
        });
        assert_seen(&outcomes, 5, 3, 10);
    }
}
