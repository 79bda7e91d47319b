//! Logs are made, listed and deleted.

use ltq_core::{
    Durability, LOG_NAME_BYTES_MAX, LogName, LogOptions, Offset, StoreError, Timestamp, WriteBatch,
    WriteOp,
};

use crate::conformance::{
    Failure,
    failure::ensure,
    harness::Stage,
    world::{NOT_DURABLE, World, log},
};

pub(in super::super) async fn logs_are_listed_by_name_with_options_and_bounds(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    world.check().await?;
    // Neither in order of making, nor of text without case, nor of length.
    for (name, options) in [
        ("b", LogOptions::default()),
        ("a/2", NOT_DURABLE),
        ("B", LogOptions::default()),
        ("a/10", LogOptions::default()),
        ("ä", NOT_DURABLE),
        ("a", NOT_DURABLE),
    ] {
        let mut batch = WriteBatch::new();
        batch.create_log(log(name), options);
        world.commit(batch).await?;
        world.check().await?;
    }
    for (time, name) in ["b", "a/2", "a", "b"].iter().enumerate() {
        world.append(&log(name), time as u64, time + 1, 40).await?;
        world.check_lists()?;
    }
    let mut batch = WriteBatch::new();
    batch.delete_log(log("a/2")).truncate(log("b"), Offset(2));
    world.commit(batch).await?;
    world.check().await
}

pub(in super::super) async fn a_log_starts_at_the_offset_it_is_made_with(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    for (name, first) in [("zero", 0), ("some", 1_000), ("many", 1 << 60)] {
        let mut batch = WriteBatch::new();
        batch.push(WriteOp::CreateLog {
            log: log(name),
            options: LogOptions::default(),
            first: Offset(first),
        });
        world.commit(batch).await?;
        world.check().await?;
        if first > 0 {
            let below = Offset(first - 1);
            let expected = world.out_of_range(&log(name), below);
            world.refuse_read(&log(name), below, expected).await?;
            let mut early = WriteBatch::new();
            early.append(log(name), Offset(0), Timestamp(1), world.chance.records(1, 8));
            world.refuse(early).await?;
        }
        world.append(&log(name), 5, 3, 20).await?;
        world.check().await?;
    }
    Ok(())
}

pub(in super::super) async fn a_log_is_made_once(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    world.append(&log("a"), 1, 5, 30).await?;
    for options in [LogOptions::default(), NOT_DURABLE] {
        let mut again = WriteBatch::new();
        again.create_log(log("a"), options);
        world.refuse(again).await?;
    }
    let mut twice = WriteBatch::new();
    twice.create_log(log("b"), LogOptions::default());
    twice.create_log(log("b"), LogOptions::default());
    world.refuse(twice).await
}

pub(in super::super) async fn what_is_not_there_is_named(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["there"]).await?;
    for name in ["gone", "ther", "there2", "THERE", &"x".repeat(LOG_NAME_BYTES_MAX + 1)] {
        let missing = StoreError::NoSuchLog(log(name));
        world.refuse_read(&log(name), Offset::ZERO, missing.clone()).await?;
        let bounds = world.store.bounds(&log(name));
        ensure!(
            bounds.as_ref() == Err(&missing),
            Logs,
            "the bounds of a log that is not there are {bounds:?}; expected: {missing:?}"
        );
        let offset = world.store.offset_at(&log(name), Timestamp(1)).await;
        ensure!(
            offset.as_ref() == Err(&missing),
            Logs,
            "the offset by time in a log that is not there is {offset:?}; expected: {missing:?}"
        );
        let mut append = WriteBatch::new();
        append.append(log(name), Offset::ZERO, Timestamp(1), world.chance.records(1, 9));
        world.refuse(append).await?;
        let mut truncate = WriteBatch::new();
        truncate.truncate(log(name), Offset::ZERO);
        world.refuse(truncate).await?;
        let mut delete = WriteBatch::new();
        delete.delete_log(log(name));
        world.refuse(delete).await?;
    }
    Ok(())
}

pub(in super::super) async fn a_deleted_log_leaves_nothing_to_its_successor(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "other"]).await?;
    world.append(&log("other"), 1, 4, 50).await?;
    for round in 0..4u64 {
        world.append(&log("a"), 100 - round, 20 + round as usize, 100).await?;
        world.truncate(&log("a"), round).await?;
        let mut delete = WriteBatch::new();
        delete.delete_log(log("a"));
        let mut create = WriteBatch::new();
        create.create_log(log("a"), LogOptions { durable: round % 2 == 0 });
        if round < 2 {
            world.commit(delete).await?;
            world.check().await?;
            let missing = StoreError::NoSuchLog(log("a"));
            world.refuse_read(&log("a"), Offset(5), missing).await?;
            world.commit(create).await?;
        } else {
            // In one batch, and with records at once.
            for op in create.into_ops() {
                delete.push(op);
            }
            let records = world.chance.records(2, 70);
            delete.append(log("a"), Offset::ZERO, Timestamp(9), records);
            world.commit(delete).await?;
        }
        world.check().await?;
        let end = world.end(&log("a"));
        let beyond = end.plus(1);
        let expected = world.out_of_range(&log("a"), beyond);
        world.refuse_read(&log("a"), beyond, expected).await?;
        let at = world.store.offset_at(&log("a"), Timestamp(50)).await;
        ensure!(
            at.as_ref() == Ok(&end),
            Logs,
            "in a log made anew, offset_at knows the time of a deleted record: {at:?}"
        );
    }
    Ok(())
}

pub(in super::super) async fn any_text_names_a_log(stage: &Stage) -> Result<(), Failure> {
    let longest = "é".repeat(LOG_NAME_BYTES_MAX / 2) + "x";
    let names = [
        ".",
        "..",
        "/",
        "//",
        "../up",
        "a/b",
        "a\\b",
        "con",
        "CON",
        "orders",
        "Orders",
        "ORDERS",
        "a:b",
        "%2e",
        "%2E",
        "~",
        "*",
        " ",
        "a ",
        "a\nb",
        "a\0b",
        "-rf",
        "日本語",
        "🦀",
        "a.log",
        &longest,
    ];
    let mut world = World::with_logs(stage, &names).await?;
    for (index, name) in names.iter().enumerate() {
        world.append(&log(name), index as u64, 1 + index % 3, 30).await?;
    }
    world.check().await?;
    if stage.capabilities.survives_close {
        world = world.close_and_open().await?;
        world.check().await?;
    }
    for name in names.iter().step_by(2) {
        let mut batch = WriteBatch::new();
        batch.delete_log(log(name));
        world.commit(batch).await?;
    }
    world.check().await
}

pub(in super::super) async fn a_thousand_logs_do_not_mix(stage: &Stage) -> Result<(), Failure> {
    let names: Vec<LogName> = (0..1_000).map(|i| log(&format!("topic-{i}"))).collect();
    let mut world = World::open(stage).await?;
    let mut batch = WriteBatch::new();
    for name in &names {
        batch.create_log(name.clone(), LogOptions::default());
    }
    world.commit(batch).await?;
    for round in 0..4u64 {
        // One batch over very many logs, then commits to single ones.
        let mut batch = WriteBatch::new();
        for name in &names {
            world.add(&mut batch, name, round, 1, 60);
        }
        world.commit(batch).await?;
        for name in names.iter().skip(round as usize).step_by(5) {
            world.append(name, round, 2, 30).await?;
        }
    }
    world.commit_at(WriteBatch::new(), Durability::Memory).await?;
    world.check().await
}
