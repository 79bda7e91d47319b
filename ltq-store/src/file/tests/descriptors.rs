//! A process without descriptors for a while: the store goes on with those it keeps for that, refuses
//! what it cannot do without more, and is as before when there are some again.

use std::io;

use ltq_core::{
    Durability::{Disk, Os},
    LogName, LogOptions, Message, Offset, Records, StoreError, Timestamp, WriteBatch,
};

use super::{
    super::{
        engine::Engine,
        filesystem::{FileSystem, OpenMode},
        rewrite::Rewrote,
        rounds::Keeping,
    },
    model::{Model, commit, open, path, read_all, tiny},
};
use crate::simulation::SimulatedDisk;

fn log() -> LogName {
    LogName::new("log")
}

fn create(engine: &Engine) {
    let mut batch = WriteBatch::new();
    batch.create_log(log(), LogOptions::default());
    commit(engine, batch, Disk).unwrap();
}

fn end(engine: &Engine) -> u64 {
    engine.state.read().logs[&log()].bounds.end.0
}

/// Appends ten records, 10 KB.
fn append(engine: &Engine) -> Result<(), StoreError> {
    let messages = vec![Message::new(vec![1; 1_000]); 10];
    let mut batch = WriteBatch::new();
    batch.append(log(), Offset(end(engine)), Timestamp(1), Records::encode(&messages));
    commit(engine, batch, Os).map(|_| ())
}

fn is_short(error: &StoreError) -> bool {
    matches!(error, StoreError::Short { cause, .. } if cause.contains("Too many open files"))
}

/// Appends until that is refused.
fn until_short(engine: &Engine) -> u64 {
    for count in 0..500 {
        if let Err(error) = append(engine) {
            assert!(is_short(&error), "{error}");
            return count;
        }
    }
    panic!("it needs no files");
}

#[test]
fn promise_10_a_store_without_descriptors_refuses_what_needs_a_file_and_is_well_when_there_are_some()
 {
    let disk = SimulatedDisk::default();
    let engine = open(tiny(&disk)).unwrap();
    create(&engine);
    for round in 0..5 {
        disk.set_descriptors(Some(0), true);
        let before = end(&engine);
        let taken = until_short(&engine);
        assert!(taken > 0, "there was room in the file at hand");
        assert_eq!(end(&engine), before + 10 * taken);
        // Each further one is refused, and nothing of it is there.
        for _ in 0..20 {
            assert!(is_short(&append(&engine).unwrap_err()));
        }
        assert_eq!(end(&engine), before + 10 * taken);
        assert!(engine.failure().is_none(), "{:?}", engine.failure());
        let figures = engine.reserve.figures();
        assert!(figures.is_short && figures.spare == 0 && figures.shortages > 20, "{figures:?}");

        disk.set_descriptors(None, false);
        for _ in 0..50 {
            append(&engine).unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        let figures = engine.reserve.figures();
        assert!(!figures.is_short && figures.spare == 8, "{figures:?}");
    }
    let expected = Model::of(&engine).unwrap();
    drop(engine);
    let engine = open(tiny(&disk.after_kill())).unwrap();
    assert_eq!(Model::of(&engine).unwrap(), expected);
}

#[test]
fn promise_10_what_the_store_keeps_suffices_while_nobody_takes_what_it_closes() {
    let disk = SimulatedDisk::default();
    let engine = open(tiny(&disk)).unwrap();
    create(&engine);
    append(&engine).unwrap();
    assert_eq!(engine.reserve.figures().spare, 8);
    disk.set_descriptors(Some(0), false);
    // Ten times what the journal may have, through segments and checkpoints.
    for _ in 0..500 {
        append(&engine).unwrap();
    }
    let expected = Model::of(&engine).unwrap();
    assert_eq!(expected.logs[&log()].records.len(), 5_010);
    engine.begin_closing();
    engine.finish_closing().unwrap();
    assert_eq!(Model::of(&open(tiny(&disk.after_kill())).unwrap()).unwrap(), expected);
}

#[test]
fn it_looks_again_by_itself_while_no_file_can_be_opened() {
    let disk = SimulatedDisk::default();
    let engine = open(tiny(&disk)).unwrap();
    create(&engine);
    let mut keeping = Keeping::default();
    assert_eq!(keeping.step(&engine), None);
    disk.set_descriptors(Some(0), true);
    until_short(&engine);
    assert!(keeping.step(&engine).is_some());
    disk.set_descriptors(None, false);
    assert_eq!(keeping.step(&engine), None);
    assert!(!engine.reserve.is_short());
    append(&engine).unwrap();
}

#[test]
fn records_in_segments_that_cannot_be_opened_are_neither_lost_nor_damaged() {
    let disk = SimulatedDisk::default();
    let engine = open(tiny(&disk)).unwrap();
    create(&engine);
    for _ in 0..60 {
        append(&engine).unwrap();
    }
    engine.reserve.clear();
    disk.set_descriptors(Some(0), true);
    let error = read_all(&engine, &log(), 0, 600).unwrap_err();
    assert!(is_short(&error), "{error}");
    disk.set_descriptors(None, false);
    assert_eq!(read_all(&engine, &log(), 0, 600).unwrap().len(), 600);
    // What is open to be read goes before what is kept for the journal.
    engine.keep_step().unwrap();
    assert!(engine.handles.open_files() > 0);
    disk.set_descriptors(Some(0), false);
    let files = engine.handles.open_files();
    let file = engine.files.open(&path("identity"), OpenMode::Read).unwrap();
    assert_eq!((engine.handles.open_files(), engine.reserve.figures().spare), (files - 1, 8));
    drop(file);
}

#[test]
fn segments_that_could_not_be_opened_are_written_anew_later() {
    let disk = SimulatedDisk::default();
    let engine = open(tiny(&disk)).unwrap();
    create(&engine);
    for _ in 0..60 {
        append(&engine).unwrap();
    }
    let mut batch = WriteBatch::new();
    for at in (0..400).step_by(10) {
        batch.discard(log(), Offset(at), Offset(at + 9));
    }
    commit(&engine, batch, Disk).unwrap();
    let before = engine.state.read().segment_bytes();
    for _ in 0..3 {
        // At each of the first places where it opens something.
        for more in 0..4 {
            engine.reserve.clear();
            disk.set_descriptors(Some(more), true);
            let steps = (0..200).map(|_| engine.rewrite_step().unwrap());
            let last = steps.take_while(|step| *step == Rewrote::More).count();
            assert!(last < 200, "it tries for ever, with {more}");
        }
    }
    disk.set_descriptors(None, false);
    for _ in 0..200 {
        engine.rewrite_step().unwrap();
        engine.keep_step().unwrap();
    }
    let after = engine.state.read().segment_bytes();
    assert!(after < before / 2, "{after} of {before}");
    assert_eq!(read_all(&engine, &log(), 400, 600).unwrap().len(), 200);
}

/// Only what was not opened passes: a sync or a write of such a number may have done anything.
#[test]
fn promise_1_no_number_of_an_error_makes_a_failed_sync_pass() {
    #[derive(Debug)]
    struct Strange;
    impl FileSystem for Strange {
        fn create_dir_all(&self, _: &std::path::Path) -> io::Result<()> {
            Ok(())
        }
        fn list(&self, _: &std::path::Path) -> io::Result<Vec<String>> {
            Ok(Vec::new())
        }
        fn open(
            &self,
            _: &std::path::Path,
            _: OpenMode,
        ) -> io::Result<std::sync::Arc<dyn super::super::StoreFile>> {
            Err(out_of_descriptors())
        }
        fn rename(&self, _: &std::path::Path, _: &std::path::Path) -> io::Result<()> {
            Err(out_of_descriptors())
        }
        fn remove(&self, _: &std::path::Path) -> io::Result<()> {
            Err(out_of_descriptors())
        }
        fn sync_dir(&self, _: &std::path::Path) -> io::Result<()> {
            Err(out_of_descriptors())
        }
        fn free_space(&self, _: &std::path::Path) -> io::Result<u64> {
            Ok(0)
        }
    }
    let reserve = super::super::reserve::Reserve::new(std::sync::Arc::new(Strange), &path(""));
    let passes = super::super::reserve::is_short;
    assert!(passes(&reserve.open(&path("x"), OpenMode::Create).unwrap_err()));
    assert!(!passes(&reserve.sync_dir(&path("")).unwrap_err()));
    assert!(!passes(&reserve.rename(&path("x"), &path("y")).unwrap_err()));
    assert!(!passes(&out_of_descriptors()));
}

fn out_of_descriptors() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error())
}
