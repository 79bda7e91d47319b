//! Reads return consecutive records from exactly where they were asked to.

use ltq_core::{Offset, ReadLimits, Timestamp, WriteBatch};

use crate::conformance::{
    Failure,
    failure::ensure,
    harness::Stage,
    world::{UNLIMITED, World, log, unexpected},
};

/// Appends of 1, 7, 1, 30, 2, ... records of different sizes and times.
async fn uneven(stage: &Stage) -> Result<World<'_>, Failure> {
    let mut world = World::with_logs(stage, &["a", "b"]).await?;
    for (time, count) in [1, 7, 1, 30, 2, 1, 1, 12, 3].into_iter().enumerate() {
        for name in ["a", "b"] {
            let len = world.chance.of(0..200) as usize;
            world.append(&log(name), time as u64 / 2, count, len).await?;
        }
    }
    Ok(world)
}

pub(in super::super) async fn a_read_starts_exactly_where_asked(
    stage: &Stage,
) -> Result<(), Failure> {
    let world = uneven(stage).await?;
    for from in 0..world.end(&log("a")).0 {
        let next = world.read(&log("a"), Offset(from), UNLIMITED).await?;
        ensure!(next > Offset(from), Read, "a read from {from} returned nothing");
    }
    Ok(())
}

pub(in super::super) async fn a_read_keeps_to_the_records_asked_for(
    stage: &Stage,
) -> Result<(), Failure> {
    let world = uneven(stage).await?;
    for records in [0, 1, 2, 3, 7, 8, 9, 1_000] {
        for from in 0..=world.end(&log("a")).0 {
            let limits = ReadLimits { records, bytes: usize::MAX };
            let next = world.read(&log("a"), Offset(from), limits).await?;
            ensure!(
                records > 0 || next == Offset(from),
                Read,
                "a read of no records returned some"
            );
        }
    }
    Ok(())
}

pub(in super::super) async fn a_read_keeps_to_the_bytes_asked_for_but_for_one_record(
    stage: &Stage,
) -> Result<(), Failure> {
    let world = uneven(stage).await?;
    for bytes in [0, 1, 9, 50, 100, 209, 500, 5_000] {
        for from in 0..=world.end(&log("a")).0 {
            let limits = ReadLimits { records: usize::MAX, bytes };
            world.read(&log("a"), Offset(from), limits).await?;
        }
    }
    Ok(())
}

pub(in super::super) async fn a_read_crosses_appends(stage: &Stage) -> Result<(), Failure> {
    let world = uneven(stage).await?;
    // Whatever a store finds cheap to return at a time, it leads through the whole log, without a
    // gap and without a record twice: each read begins where the one before ended.
    for limits in [
        UNLIMITED,
        ReadLimits { records: 5, bytes: usize::MAX },
        ReadLimits { records: usize::MAX, bytes: 300 },
    ] {
        let (mut at, mut reads) = (Offset::ZERO, 0);
        while at < world.end(&log("a")) {
            at = world.read(&log("a"), at, limits).await?;
            reads += 1;
        }
        let records = world.end(&log("a")).0;
        ensure!(reads <= records, Read, "{reads} reads for {records} records");
    }
    Ok(())
}

pub(in super::super) async fn a_read_at_the_end_is_empty(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for _ in 0..3 {
        let end = world.end(&log("a"));
        for limits in [UNLIMITED, ReadLimits { records: 1, bytes: 0 }] {
            let next = world.read(&log("a"), end, limits).await?;
            ensure!(next == end, Read, "a read at the end, {end}, returned records");
        }
        world.append(&log("a"), 1, 3, 10).await?;
    }
    Ok(())
}

pub(in super::super) async fn a_read_outside_is_out_of_range(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    let beyond = |world: &World<'_>| {
        let end = world.end(&log("a")).0;
        [end + 1, end + 2, end + 1_000, u64::MAX]
    };
    for from in beyond(&world) {
        let expected = world.out_of_range(&log("a"), Offset(from));
        world.refuse_read(&log("a"), Offset(from), expected).await?;
    }
    world.append(&log("a"), 1, 10, 30).await?;
    world.truncate(&log("a"), 4).await?;
    for from in beyond(&world).into_iter().chain(0..4) {
        let expected = world.out_of_range(&log("a"), Offset(from));
        world.refuse_read(&log("a"), Offset(from), expected).await?;
    }
    Ok(())
}

pub(in super::super) async fn a_read_returns_only_what_was_asked_of_this_log(
    stage: &Stage,
) -> Result<(), Failure> {
    // Names that are prefixes of each other, where a store keeps everything in one order.
    let names = ["a", "aa", "a\0", "a/", "b"];
    let mut world = World::with_logs(stage, &names).await?;
    for round in 0..5 {
        for name in names {
            world.append(&log(name), round, 3, 25).await?;
        }
    }
    world.check().await?;
    world.truncate(&log("a"), 15).await?;
    let mut batch = WriteBatch::new();
    batch.delete_log(log("aa"));
    world.commit(batch).await?;
    world.check().await
}

pub(in super::super) async fn any_read_under_any_limits_is_a_run_of_the_log(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = uneven(stage).await?;
    world.truncate(&log("a"), 5).await?;
    for _ in 0..2_000 {
        let end = world.end(&log("a")).0;
        let from = Offset(world.chance.of(5..end + 1));
        let records = world.chance.of(0..70) as usize;
        let bytes = world.chance.of(0..8_000) as usize;
        world.read(&log("a"), from, ReadLimits { records, bytes }).await?;
    }
    Ok(())
}

pub(in super::super) async fn offsets_are_found_by_time(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    check_times(&world).await?;
    for time in [10, 10, 11, 20, 20, 20, 35, 100, 1_000] {
        world.append(&log("a"), time, 1 + time as usize % 3, 10).await?;
        check_times(&world).await?;
    }
    if stage.capabilities.survives_close {
        world = world.close_and_open().await?;
        check_times(&world).await?;
    }
    Ok(())
}

pub(in super::super) async fn offsets_are_found_where_time_went_back(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for time in [50, 20, 20, 30, 60, 10, 55, 60, 70, 5] {
        world.append(&log("a"), time, 2, 10).await?;
        check_times(&world).await?;
    }
    // Enough to fill whatever unit a store indexes by.
    for round in 0..60 {
        let time = 100 + (round * 37) % 40;
        world.append(&log("a"), time, 40, 200).await?;
    }
    check_times(&world).await?;
    if stage.capabilities.survives_close {
        world = world.close_and_open().await?;
        check_times(&world).await?;
    }
    Ok(())
}

/// Compares the offsets at, just before and just after every time in log `a`.
pub(super) async fn check_times(world: &World<'_>) -> Result<(), Failure> {
    let Some(model) = world.model.logs.get(&log("a")) else { return Ok(()) };
    for time in model.times_around() {
        check_time(world, time).await?;
    }
    Ok(())
}

async fn check_time(world: &World<'_>, time: Timestamp) -> Result<(), Failure> {
    let Some(model) = world.model.logs.get(&log("a")) else { return Ok(()) };
    let found = world.store.offset_at(&log("a"), time).await;
    let found = found.map_err(unexpected("asking for an offset by time"))?;
    let expected = model.offset_at(time);
    ensure!(
        found == expected,
        OffsetAt,
        "time {} is first reached at {found}; expected: {expected} of {:?}",
        time.0,
        model.bounds()
    );
    Ok(())
}
