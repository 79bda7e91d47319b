//! Promise 8, where an opening refuses a store: a repair makes one of what is left that opens, holds
//! every record that the damage did not touch, and says what it cannot know.

use std::collections::BTreeSet;

use ltq_core::{Durability::Disk, LogName, StoreError, WriteBatch};

use super::{
    super::{FileKind, FileSystem, Loss, OpenMode, engine::Engine},
    check::{append, look, name, read, repair, small},
    model::{Model, commit, open, path, tiny},
};
use crate::simulation::SimulatedDisk;

/// That nothing which a store delivers is anything but what was written there; and how many of the
/// model's records it delivers.
fn delivered(engine: &Engine, model: &Model, context: &str) -> usize {
    let mut count = 0;
    for (log, expected) in &model.logs {
        if !engine.state.read().logs.contains_key(log) {
            continue;
        }
        let (good, _) = read(engine, log);
        for record in &expected.records {
            let found = good.iter().find(|it| it.0 == record.0);
            assert!(found.is_none_or(|found| found == record), "{context}: {log} {}", record.0);
            count += usize::from(found.is_some());
        }
    }
    count
}

fn total(model: &Model) -> usize {
    model.logs.values().map(|log| log.records.len()).sum()
}

/// Repairs, and that all is in order then, twice.
fn mend(disk: &SimulatedDisk, context: &str) -> (Vec<(String, Loss)>, Engine) {
    let done = repair(disk, "aside").unwrap_or_else(|error| panic!("{context}: {error}"));
    for file in &done.set_aside {
        disk.open(&path("aside").join(file), OpenMode::Read).unwrap();
    }
    let again = look(disk);
    assert!(again.is_clean(), "{context}: {again:#?}");
    drop(open(tiny(disk)).unwrap());
    let engine = open(tiny(disk)).unwrap();
    let damage = done.report.damage.into_iter().map(|it| (it.file, it.loss));
    (damage.collect(), engine)
}

#[test]
fn promise_8_without_a_checkpoint_the_logs_are_found_again() {
    for how in ["missing", "damaged", "cut", "foreign"] {
        let (disk, model) = small();
        for file in ["checkpoint-0", "checkpoint-1"].map(path) {
            match how {
                "missing" => disk.remove(&file).unwrap(),
                "damaged" => disk.edit(&file, |bytes| bytes[100] ^= 1),
                "cut" => disk.edit(&file, |bytes| bytes.truncate(70)),
                _ => disk.put_file(&file, &disk.content(&path("identity"))),
            }
        }
        let refused = look(&disk).refused.unwrap().to_string();
        assert!(refused.contains("checkpoint"), "{how}: {refused}");
        let (damage, engine) = mend(&disk, how);
        let told = damage
            .iter()
            .any(|(file, loss)| file.starts_with("checkpoint") && *loss == Loss::Unknown);
        assert!(told, "{how}: {damage:?}");
        assert_eq!(delivered(&engine, &model, how), total(&model), "{how}");
        // What the journal told of values is there too, and the store goes on.
        assert_eq!(&engine.state.read().values[&b"other"[..]], &b"value"[..], "{how}");
        append(&engine, 0, 2);
        let mut batch = WriteBatch::new();
        batch.create_log(LogName::new("new"), ltq_core::LogOptions::default());
        commit(&engine, batch, Disk).unwrap();
    }
}

#[test]
fn promise_8_a_log_whose_name_is_lost_has_its_records_still() {
    let (disk, model) = small();
    for file in look(&disk).files {
        if matches!(file.kind, FileKind::Checkpoint | FileKind::Journal | FileKind::Superfluous) {
            disk.remove(&path(&file.path)).unwrap();
        }
    }
    let (_, engine) = mend(&disk, "segments alone");
    let recovered: BTreeSet<_> = engine.state.read().logs.keys().cloned().collect();
    assert_eq!(recovered, ["recovered-1", "recovered-2"].map(LogName::new).into());
    for (at, log) in recovered.iter().enumerate() {
        let (good, lost) = read(&engine, log);
        assert!(lost.is_empty() && !good.is_empty());
        let expected = &model.logs[&name(at as u64)].records;
        let same = good.iter().filter(|record| expected.contains(record)).count();
        assert!(same >= 4, "{log}: {same} of {}", good.len());
    }
}

#[test]
fn promise_8_a_journal_file_that_is_missing_cut_or_foreign_costs_what_it_held() {
    let (disk, model) = small();
    let whole = look(&disk);
    let in_segments = {
        let copy = disk.after_kill();
        let engine = open(tiny(&copy)).unwrap();
        let logs = &engine.state.read().logs;
        logs.values().map(|log| log.spilled_end.since(log.bounds.first)).sum::<u64>() as usize
    };
    let mut refused = 0;
    for file in whole.files.iter().filter(|file| file.kind == FileKind::Journal) {
        for how in ["missing", "cut", "foreign"] {
            let context = format!("{} {how}", file.path);
            let (copy, place) = (disk.after_kill(), path(&file.path));
            match how {
                "missing" => copy.remove(&place).unwrap(),
                "cut" => copy.edit(&place, |bytes| bytes.truncate(bytes.len() / 2)),
                _ => copy.put_file(&place, &copy.content(&path("identity"))),
            }
            if look(&copy).refused.is_none() {
                continue;
            }
            refused += 1;
            let (damage, engine) = mend(&copy, &context);
            let unknown = damage.iter().find(|(_, loss)| *loss == Loss::Unknown).unwrap();
            assert_eq!(unknown.0, file.path, "{context}");
            let left = delivered(&engine, &model, &context);
            assert!(
                left + 2 >= in_segments.min(total(&model)),
                "{context}: {left} of {in_segments}"
            );
        }
    }
    assert!(refused >= 3, "{refused}");
}

#[test]
fn promise_8_without_its_journal_a_store_has_its_segments_still() {
    let (disk, model) = small();
    let in_segments = {
        let copy = disk.after_kill();
        let engine = open(tiny(&copy)).unwrap();
        Model::of(&engine).unwrap();
        let (good, _) = read(&engine, &name(0));
        let spilled = engine.state.read().logs[&name(0)].spilled_end;
        good.iter().filter(|record| record.0 < spilled.0).count()
    };
    for file in look(&disk).files {
        if file.path.starts_with("journal") {
            disk.remove(&path(&file.path)).unwrap();
        }
    }
    let (_, engine) = mend(&disk, "no journal");
    let left = delivered(&engine, &model, "no journal");
    assert!(left >= in_segments && left < total(&model), "{left} of {in_segments}");
}

#[test]
fn a_stray_file_with_the_last_of_all_numbers_is_refused_and_put_away() {
    let (disk, model) = small();
    disk.put_file(&path("journal/ffffffffffffffff.journal"), &[0; 4096]);
    let refused = open(tiny(&disk)).unwrap_err().to_string();
    assert!(refused.contains("ffffffffffffffff.journal"), "{refused}");
    let (_, engine) = mend(&disk, "stray");
    assert_eq!(delivered(&engine, &model, "stray"), total(&model));
}

#[test]
fn promise_9_no_more_of_a_file_is_read_than_it_says_that_it_has() {
    let (disk, model) = small();
    for file in look(&disk).files {
        let grown = disk.after_kill();
        grown.edit(&path(&file.path), |bytes| bytes.resize(bytes.len() + (64 << 20), 0xff));
        let context = format!("{} with more behind it", file.path);
        let engine = open(tiny(&grown)).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(delivered(&engine, &model, &context), total(&model), "{context}");
        let read = grown.furthest_read(&path(&file.path));
        assert!(read < 32 << 20, "{context}: read up to {read}");
    }
}

#[test]
fn what_is_of_another_format_is_left_as_it_is() {
    let (disk, _) = small();
    for file in ["checkpoint-0", "checkpoint-1"].map(path) {
        disk.edit(&file, |bytes| {
            bytes[8] += 1;
            let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
            bytes[60..64].copy_from_slice(&crc);
        });
    }
    let before = disk.content(&path("checkpoint-0"));
    let Err(StoreError::Open { why, .. }) = repair(&disk, "aside") else { panic!("repaired") };
    assert!(why.contains("format"), "{why}");
    assert_eq!(disk.content(&path("checkpoint-0")), before);
}
