//! Promise 9 for logs of which much was discarded: the space comes back, within a stated ratio,
//! and nothing that is wanted goes with it, whatever happens meanwhile.

use std::sync::atomic::Ordering::Relaxed;

use ltq_core::{
    Durability::{Disk, Memory},
    LogName, LogOptions, Message, Offset, ReadLimits, Records, StoreError, Timestamp, WriteBatch,
};

use super::{
    super::{block::BLOCK_BYTES, engine::Engine, rewrite::Rewrote},
    model::{Model, commit, open, tiny},
};
use crate::FileStoreOptions;
use crate::simulation::{Chance, SimulatedDisk};

const SEGMENT: u64 = 256 << 10;

fn options(disk: &SimulatedDisk) -> FileStoreOptions {
    tiny(disk).segment_bytes(SEGMENT).journal_bytes_max(4 << 20)
}

fn log() -> LogName {
    LogName::new("log")
}

fn send(engine: &Engine, model: &mut Model, batch: &WriteBatch) {
    commit(engine, batch.clone(), Disk).unwrap();
    model.apply(batch);
}

fn create(engine: &Engine, model: &mut Model, log: LogName) {
    let mut batch = WriteBatch::new();
    batch.create_log(log, LogOptions::default());
    send(engine, model, &batch);
}

fn append(engine: &Engine, model: &mut Model, log: &LogName, time: u64, sizes: &[usize]) {
    let messages: Vec<_> =
        sizes.iter().map(|&len| Message::new(vec![(time ^ len as u64) as u8; len])).collect();
    let at = Offset(model.logs[log].end);
    let mut batch = WriteBatch::new();
    batch.append(log.clone(), at, Timestamp(time), Records::encode(&messages));
    send(engine, model, &batch);
}

/// Does all that there is to do.
fn settle(engine: &Engine) -> Rewrote {
    for _ in 0..100_000 {
        engine.keep_step().unwrap();
        match engine.rewrite_step().unwrap() {
            Rewrote::More => (),
            done => return done,
        }
    }
    panic!("it finds no end");
}

fn segment_files(disk: &SimulatedDisk) -> (usize, u64) {
    let files = disk.files().into_iter();
    let sizes: Vec<_> = files
        .filter(|(path, _)| path.extension().is_some_and(|it| it == "segment"))
        .map(|(_, bytes)| bytes as u64)
        .collect();
    (sizes.len(), sizes.iter().sum())
}

/// Bytes of the records in segments that are wanted, tables included, and of the segments.
fn wanted_and_used(engine: &Engine, model: &Model, log: &LogName) -> (u64, u64) {
    let state = engine.state.read();
    let found = &state.logs[log];
    let spilled = found.segments.last().map_or(Offset::ZERO, |last| last.end);
    let wanted = model.logs[log].records.iter().filter(|record| record.0 < spilled.0);
    let wanted = wanted.map(|record| record.2.len() as u64 + 8).sum();
    (wanted, found.segment_bytes())
}

#[test]
fn promise_9_disk_used_is_at_most_twice_what_is_wanted_and_one_segment_per_log() {
    for seed in 1..12 {
        let (disk, mut model) = (SimulatedDisk::default(), Model::default());
        let mut chance = Chance::new(seed);
        let engine = open(options(&disk)).unwrap();
        let logs = [log(), LogName::new("other")];
        for name in &logs {
            create(&engine, &mut model, name.clone());
        }
        let mut peak = 0;
        for round in 0..60 {
            let name = &logs[chance.below(2) as usize];
            // Many small ones, and now and then one that outweighs them all.
            for _ in 0..1 + chance.below(6) {
                let large = if chance.one_in(3) { 40_000 } else { 400 };
                let sizes: Vec<_> = (0..60)
                    .map(|at| 24 + chance.below(if at == 7 { large } else { 400 }) as usize)
                    .collect();
                append(&engine, &mut model, name, 1_000 + round, &sizes);
            }
            let mut batch = WriteBatch::new();
            let end = model.logs[name].end;
            for _ in 0..chance.below(40) * u64::from(end > 0) {
                let from = chance.below(end);
                let most = if chance.one_in(20) { 400 } else { 12 };
                let until = (from + 1 + chance.below(most)).min(end);
                batch.discard(name.clone(), Offset(from), Offset(until));
            }
            send(&engine, &mut model, &batch);
            assert_eq!(settle(&engine), Rewrote::Nothing);
            for name in &logs {
                let (wanted, used) = wanted_and_used(&engine, &model, name);
                peak = peak.max(used);
                assert!(
                    used <= wanted * 16 / 9 + SEGMENT / 2 + BLOCK_BYTES as u64,
                    "seed {seed}, round {round}: {used} bytes for {wanted} that are wanted"
                );
            }
            let told = engine.counters.segment_bytes.load(Relaxed);
            assert_eq!(segment_files(&disk).1, told, "seed {seed}, round {round}");
        }
        assert!(Model::of(&engine).unwrap() == model, "seed {seed}");
        assert!(peak > 2 * SEGMENT, "seed {seed}: too little to tell");
        drop(engine);
        let engine = open(options(&disk.after_kill())).unwrap();
        assert!(Model::of(&engine).unwrap() == model, "seed {seed}, opened again");
    }
}

/// Writes all of the log to segments.
fn spill(engine: &Engine) {
    let jobs: Vec<_> = {
        let state = engine.state.read();
        let job =
            super::super::spill::Job::collect(&log(), &state.logs[&log()], |_| true).into_iter();
        job.collect()
    };
    engine.spill(&mut engine.keeping.lock(), jobs).unwrap();
    engine.checkpoint(&mut engine.keeping.lock(), false).unwrap();
}

/// A store whose log has a lone wanted record in each of so many segments.
fn lone_records(disk: &SimulatedDisk, options: FileStoreOptions, segments: u64) -> (Engine, Model) {
    let mut model = Model::default();
    let engine = open(options).unwrap();
    create(&engine, &mut model, log());
    let large = (SEGMENT + 1) as usize;
    for at in 0..segments {
        append(&engine, &mut model, &log(), at, &[20_000, large]);
    }
    append(&engine, &mut model, &log(), segments, &[100; 2]);
    spill(&engine);
    assert!(segment_files(disk).0 as u64 >= segments);
    let mut batch = WriteBatch::new();
    for at in 0..segments {
        batch.discard(log(), Offset(2 * at + 1), Offset(2 * at + 2));
    }
    send(&engine, &mut model, &batch);
    (engine, model)
}

#[test]
fn promise_9_a_lone_record_in_each_of_a_thousand_segments_holds_on_to_none_of_them() {
    let disk = SimulatedDisk::default();
    let roomy = options(&disk).segment_bytes(64 << 10).tail_bytes(1 << 20);
    let mut model = Model::default();
    let engine = open(roomy).unwrap();
    create(&engine, &mut model, log());
    for at in 0..1_000 {
        append(&engine, &mut model, &log(), at, &[100, 80_000]);
    }
    let mut batch = WriteBatch::new();
    for at in 0..1_000 {
        batch.discard(log(), Offset(2 * at + 1), Offset(2 * at + 2));
    }
    let (files, bytes) = segment_files(&disk);
    assert!(files > 900 && bytes > 900 * 80_000, "{files} files of {bytes} bytes");
    send(&engine, &mut model, &batch);
    assert_eq!(settle(&engine), Rewrote::Nothing);
    let (files, bytes) = segment_files(&disk);
    // One of them all, and the last one, which still grows.
    assert!(files <= 2 && bytes < 2 * 1_000 * 120 + 160_000, "{files} files of {bytes} bytes");
    assert_eq!(engine.counters.damaged_records.load(Relaxed), 0);
    assert!(Model::of(&engine).unwrap() == model);
    let from = engine.read(&log(), Offset(1), ReadLimits { records: 9, bytes: 900 });
    let told = StoreError::Discarded { log: log(), from: Offset(1), until: Offset(2) };
    assert_eq!(from, Err(told));
    assert_eq!(engine.offset_at(&log(), Timestamp(500)), Ok(Offset(1_000)));
}

#[test]
fn promise_9_the_last_segment_is_given_back_too_though_more_is_appended_meanwhile() {
    let (disk, mut model) = (SimulatedDisk::default(), Model::default());
    let engine = open(options(&disk)).unwrap();
    create(&engine, &mut model, log());
    append(&engine, &mut model, &log(), 1, &[1_000, SEGMENT as usize / 2]);
    spill(&engine);
    let (id, last) = {
        let state = engine.state.read();
        let found = &state.logs[&log()];
        (found.id, found.segments[0].clone())
    };
    assert!(last.bytes < SEGMENT, "it still grows");
    let mut batch = WriteBatch::new();
    batch.discard(log(), Offset(1), Offset(2));
    send(&engine, &mut model, &batch);
    let is_begun = || engine.keeping.lock().rewriting.has(last.key(id));
    while !is_begun() {
        assert_eq!(engine.rewrite_step(), Ok(Rewrote::More), "it is worth it");
    }
    append(&engine, &mut model, &log(), 2, &[100; 2]);
    spill(&engine);
    assert!(is_begun());
    assert_eq!(settle(&engine), Rewrote::Nothing);
    assert!(segment_files(&disk).1 < 3_000, "{:?}", segment_files(&disk));
    assert!(Model::of(&engine).unwrap() == model);
    drop(engine);
    let engine = open(options(&disk.after_kill())).unwrap();
    assert!(Model::of(&engine).unwrap() == model, "opened again");
}

#[test]
fn promise_9_a_segment_stays_as_it_is_while_more_than_nine_sixteenths_of_it_are_wanted() {
    for (wanted, gone, stays) in [(75_000, 66_000, false), (85_000, 56_000, true)] {
        let (disk, mut model) = (SimulatedDisk::default(), Model::default());
        let engine = open(options(&disk)).unwrap();
        create(&engine, &mut model, log());
        append(&engine, &mut model, &log(), 1, &[wanted, gone]);
        spill(&engine);
        let mut batch = WriteBatch::new();
        batch.discard(log(), Offset(1), Offset(2));
        send(&engine, &mut model, &batch);
        assert_eq!(settle(&engine), Rewrote::Nothing);
        let bytes = segment_files(&disk).1 as usize;
        assert_eq!(bytes > wanted + gone, stays, "{bytes} for {wanted} of {}", wanted + gone);
        assert!(Model::of(&engine).unwrap() == model);
    }
}

#[test]
fn promise_1_a_power_cut_at_any_operation_of_rewriting_takes_nothing_that_is_wanted() {
    let disk = SimulatedDisk::default();
    let (engine, model) = lone_records(&disk, options(&disk), 40);
    drop(engine);
    let (mut crashes, mut finished, mut rewritten) = (0, 0, 0);
    for crash_in in 1.. {
        let mut chance = Chance::new(crash_in);
        let one = disk.after_kill();
        let engine = open(options(&one)).unwrap();
        let crash_at = one.operations() + crash_in;
        one.crash_at(crash_at);
        let settled = (0..1_000).try_for_each(|_| {
            let kept = engine.keep_step().is_ok();
            match engine.rewrite_step() {
                Ok(Rewrote::More) if kept => Ok(()),
                Ok(Rewrote::Nothing) => Err(true),
                _ => Err(false),
            }
        });
        rewritten = engine.counters.rewritten_bytes.load(Relaxed);
        drop(engine);
        let is_done = settled == Err(true) && one.operations() < crash_at;
        finished += u64::from(is_done);
        crashes += u64::from(!is_done);
        let again = one.after_power_cut(&mut chance);
        let engine = open(options(&again)).unwrap();
        assert!(Model::of(&engine).unwrap() == model, "crash in {crash_in}");
        // And what was left is done then.
        assert_eq!(settle(&engine), Rewrote::Nothing);
        assert!(Model::of(&engine).unwrap() == model, "crash in {crash_in}, settled");
        let (wanted, used) = wanted_and_used(&engine, &model, &log());
        assert!(
            used <= wanted * 16 / 9 + SEGMENT / 2 + BLOCK_BYTES as u64,
            "crash in {crash_in}: {used}"
        );
        assert_eq!(segment_files(&again).1, engine.counters.segment_bytes.load(Relaxed));
        if finished > 2 {
            break;
        }
    }
    assert!(crashes > 20 && rewritten > 700_000, "{crashes} crashes, {rewritten} bytes");
}

#[test]
fn a_full_device_puts_rewriting_off_and_fails_nothing() {
    let disk = SimulatedDisk::default();
    let (engine, model) = lone_records(&disk, options(&disk).reserve_bytes(2 << 20), 9);
    let (before, _) = segment_files(&disk);
    disk.set_capacity(Some(disk.used() + (900 << 10)));
    assert_eq!(settle(&engine), Rewrote::NoRoom);
    assert_eq!(settle(&engine), Rewrote::NoRoom);
    assert_eq!((segment_files(&disk).0, engine.failure()), (before, None));
    // Half of the reserve is for it.
    disk.set_capacity(Some(disk.used() + (1_100 << 10)));
    assert_eq!(settle(&engine), Rewrote::Nothing);
    assert!(segment_files(&disk).0 < before);
    assert!(Model::of(&engine).unwrap() == model);
}

#[test]
fn promise_8_damage_in_a_sparse_segment_stays_where_it_is_and_is_told() {
    let disk = SimulatedDisk::default();
    let (engine, model) = lone_records(&disk, options(&disk), 9);
    engine.begin_closing();
    engine.finish_closing().unwrap();
    let third = disk
        .files()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.extension().is_some_and(|it| it == "segment"));
    let third = third.collect::<Vec<_>>()[3].clone();
    // In the payload of its first record.
    disk.edit(&third, |bytes| bytes[64 + 48 + 12 + 2 * 8 + 50] ^= 1);
    let engine = open(options(&disk)).unwrap();
    let before = segment_files(&disk).0;
    assert_eq!(settle(&engine), Rewrote::Nothing);
    assert!(segment_files(&disk).0 < before && disk.files().iter().any(|(path, _)| *path == third));
    let mut lost = Vec::new();
    for record in &model.logs[&log()].records {
        let one = ReadLimits { records: 1, bytes: 1 << 20 };
        match engine.read(&log(), Offset(record.0), one) {
            Ok(batches) => assert_eq!(batches[0].records.encoded(0).as_ref(), Some(&record.2)),
            Err(StoreError::Damaged { file, .. }) => lost.push(file),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(lost, [third.display().to_string()]);
}

#[test]
fn what_is_given_up_while_it_is_rewritten_does_not_come_back() {
    for at in 0..14 {
        let disk = SimulatedDisk::default();
        let (engine, mut model) = lone_records(&disk, options(&disk), 9);
        for _ in 0..at {
            engine.rewrite_step().unwrap();
        }
        let mut batch = WriteBatch::new();
        match at % 3 {
            0 => batch.truncate(log(), Offset(8)),
            1 => batch.discard(log(), Offset(0), Offset(14)),
            _ => batch.delete_log(log()).create_log(log(), LogOptions::default()),
        };
        commit(&engine, batch.clone(), Memory).unwrap();
        model.apply(&batch);
        assert_eq!(settle(&engine), Rewrote::Nothing, "at {at}");
        assert!(Model::of(&engine).unwrap() == model, "at {at}");
        assert_eq!(segment_files(&disk).1, engine.counters.segment_bytes.load(Relaxed), "at {at}");
        engine.begin_closing();
        engine.finish_closing().unwrap();
        let engine = open(options(&disk)).unwrap();
        assert!(Model::of(&engine).unwrap() == model, "at {at}, opened again");
    }
}

#[test]
fn promise_9_what_is_known_of_discarded_records_is_counted_and_small() {
    const STRETCHES: u64 = 20_000;
    let (disk, mut model) = (SimulatedDisk::default(), Model::default());
    let options = tiny(&disk).segment_bytes(4 << 20).journal_bytes_max(16 << 20);
    let engine = open(options.clone()).unwrap();
    create(&engine, &mut model, log());
    let memory = |engine: &Engine| engine.state.read().memory_bytes();
    for round in 0..2 * STRETCHES / 500 {
        append(&engine, &mut model, &log(), 1_000 + round, &[8; 500]);
        engine.keep_step().unwrap();
    }
    assert_eq!(memory(&engine), engine.state.read().tail_cost(), "nothing was discarded yet");
    // Every second one, as a consumer may settle them that means harm.
    for some in (0..STRETCHES).collect::<Vec<_>>().chunks(1_000) {
        let mut batch = WriteBatch::new();
        for at in some {
            batch.discard(log(), Offset(2 * at), Offset(2 * at + 1));
        }
        commit(&engine, batch, Memory).unwrap();
        engine.keep_step().unwrap();
    }
    engine.checkpoint(&mut engine.keeping.lock(), false).unwrap();
    let told = memory(&engine) - engine.state.read().tail_cost();
    assert!((16 * STRETCHES..64 * STRETCHES).contains(&told), "{told} for {STRETCHES}");
    let checkpoint = engine.counters.checkpoint_bytes.load(Relaxed);
    assert!(checkpoint < 2 * 8 * STRETCHES, "{checkpoint} for {STRETCHES}");
    drop(engine);
    let engine = open(options).unwrap();
    assert_eq!(memory(&engine) - engine.state.read().tail_cost(), told, "opened again");
    // With the rest of them it is one stretch.
    for some in (0..STRETCHES - 1).collect::<Vec<_>>().chunks(1_000) {
        let mut batch = WriteBatch::new();
        for at in some {
            batch.discard(log(), Offset(2 * at + 1), Offset(2 * at + 2));
        }
        commit(&engine, batch, Memory).unwrap();
        engine.keep_step().unwrap();
    }
    let left = memory(&engine) - engine.state.read().tail_cost();
    assert!(left < 100, "{left}");
}
