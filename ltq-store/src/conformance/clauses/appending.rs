//! Records go in at the end and come back as they were.

use ltq_core::{LogOptions, Message, Offset, ReadLimits, Records, Timestamp, WriteBatch, WriteOp};

use crate::conformance::{
    Clause, Failure,
    chance::Chance,
    failure::ensure,
    harness::Stage,
    world::{UNLIMITED, World, log, unexpected},
};

pub(in super::super) async fn records_come_back_byte_for_byte(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for len in [0, 1, 7, 8, 100, 127, 128, 1_000, 4_096, 65_537] {
        world.append(&log("a"), len as u64, 1, len).await?;
        world.append(&log("a"), len as u64, 3, len).await?;
    }
    world.check().await?;
    // Once more by what a consumer would see.
    let messages = [
        Message::new(""),
        Message::new("body"),
        Message::new("").with_key("").with_header("", ""),
        Message::new(vec![0; 300]).with_key(vec![0xff; 70]).with_header("a", "b"),
    ];
    let mut batch = WriteBatch::new();
    let at = world.end(&log("a"));
    batch.append(log("a"), at, Timestamp(1), Records::encode(&messages));
    world.commit(batch).await?;
    let mut back = Vec::new();
    let mut from = at;
    while from < world.end(&log("a")) {
        let read = world.store.read(&log("a"), from, UNLIMITED).await;
        let read = read.map_err(unexpected("a read"))?;
        from = world.read(&log("a"), from, UNLIMITED).await?;
        back.extend(read.into_iter().filter(|batch| batch.first < from));
    }
    let back: Result<Vec<_>, _> = back.iter().flat_map(|batch| batch.records.messages()).collect();
    ensure!(
        back.as_deref() == Ok(&messages[..]),
        Bytes,
        "messages came back as {back:?}; expected: {messages:?}"
    );
    Ok(())
}

pub(in super::super) async fn every_record_keeps_its_time(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for time in [5, 5, 6, 6, 6, 4, 4, 100, 0, u64::MAX, 1] {
        world.append(&log("a"), time, 1, 20).await?;
        world.append(&log("a"), time, 3, 20).await?;
    }
    // Two times in one batch.
    let mut batch = WriteBatch::new();
    let end = world.end(&log("a"));
    batch.append(log("a"), end, Timestamp(7), world.chance.records(2, 10));
    batch.append(log("a"), end.plus(2), Timestamp(8), world.chance.records(2, 10));
    world.commit(batch).await?;
    world.check().await
}

pub(in super::super) async fn an_append_elsewhere_than_at_the_end_is_refused(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    let wrong = |at: u64, chance: &mut Chance| {
        let mut batch = WriteBatch::new();
        batch.append(log("a"), Offset(at), Timestamp(1), chance.records(2, 12));
        batch
    };
    for at in [1, 2, u64::MAX] {
        let batch = wrong(at, &mut world.chance);
        world.refuse(batch).await?;
    }
    world.append(&log("a"), 1, 10, 12).await?;
    for at in [0, 5, 9, 11, 12, u64::MAX] {
        let batch = wrong(at, &mut world.chance);
        world.refuse(batch).await?;
    }
    world.truncate(&log("a"), 10).await?;
    for at in [0, 9, 11] {
        let batch = wrong(at, &mut world.chance);
        world.refuse(batch).await?;
    }
    world.append(&log("a"), 1, 1, 12).await?;
    world.check().await
}

pub(in super::super) async fn small_appends_add_up(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for index in 0..1_500 {
        let len = world.chance.of(0..120) as usize;
        world.append(&log("a"), index / 7, 1, len).await?;
        if index % 100 == 99 {
            world.check().await?;
        }
    }
    let limits = ReadLimits { records: 10, bytes: 600 };
    let mut at = Offset::ZERO;
    while at < world.end(&log("a")) {
        at = world.read(&log("a"), at, limits).await?;
    }
    Ok(())
}

pub(in super::super) async fn large_messages_and_large_batches_come_back(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["large", "many"]).await?;
    world.append(&log("large"), 1, 1, 1 << 20).await?;
    world.append(&log("large"), 2, 1, 10).await?;
    world.append(&log("large"), 2, 8, (1 << 20) - 100).await?;
    world.append(&log("many"), 3, 40_000, 100).await?;
    world.check().await?;
    let limits = ReadLimits { records: 1, bytes: 1 };
    for at in 0..10 {
        let next = world.read(&log("large"), Offset(at), limits).await?;
        ensure!(next == Offset(at + 1), Read, "a record larger than the limit is not returned");
    }
    world.truncate(&log("many"), 39_999).await?;
    world.check().await
}

pub(in super::super) async fn the_largest_offset_is_not_passed(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    let mut batch = WriteBatch::new();
    batch.push(WriteOp::CreateLog {
        log: log("last"),
        options: LogOptions::default(),
        first: Offset(u64::MAX - 3),
    });
    world.commit(batch).await?;
    let mut beyond = WriteBatch::new();
    world.add(&mut beyond, &log("last"), 1, 4, 10);
    world.refuse(beyond).await?;
    world.append(&log("last"), 1, 3, 10).await?;
    world.check().await?;
    let mut beyond = WriteBatch::new();
    world.add(&mut beyond, &log("last"), 1, 1, 10);
    world.refuse(beyond).await
}

/// What a broker gets is a slice of what came over the wire, whose table does not count from 0.
pub(in super::super) async fn an_append_in_pieces_of_another_is_whole(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    let all = world.chance.records(30, 50);
    let mut at = 0;
    for (start, end) in [(10, 30), (0, 1), (29, 30), (3, 4), (3, 9)] {
        let piece = all.slice(start..end);
        if let Err(error) = piece.verify() {
            return Err(Failure::new(Clause::Runs, format!("the suite made bad records: {error}")));
        }
        let mut batch = WriteBatch::new();
        batch.append(log("a"), Offset(at), Timestamp(at), piece);
        world.commit(batch).await?;
        at += (end - start) as u64;
    }
    world.check().await
}
