//! Records are given up from the front.

use ltq_core::{Offset, Timestamp, WriteBatch};

use super::reading::check_times;
use crate::conformance::{
    Failure,
    harness::Stage,
    world::{World, log},
};

/// Log `a` with appends of 10, 1, 5, 20 records.
async fn filled(stage: &Stage) -> Result<World<'_>, Failure> {
    let mut world = World::with_logs(stage, &["a", "b"]).await?;
    for (time, count) in [10, 1, 5, 20].into_iter().enumerate() {
        world.append(&log("a"), time as u64, count, 60).await?;
    }
    world.append(&log("b"), 1, 10, 60).await?;
    Ok(world)
}

async fn below_is_refused(world: &World<'_>) -> Result<(), Failure> {
    for from in 0..world.bounds(&log("a")).first.0 {
        let expected = world.out_of_range(&log("a"), Offset(from));
        world.refuse_read(&log("a"), Offset(from), expected).await?;
    }
    Ok(())
}

pub(in super::super) async fn what_is_truncated_is_gone_and_nothing_else(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    // In the middle of an append, between two, just before one ends, over several.
    for before in [4, 10, 15, 16, 30, 35] {
        world.truncate(&log("a"), before).await?;
        world.check().await?;
        below_is_refused(&world).await?;
        world.append(&log("a"), 9, 1, 60).await?;
        world.check().await?;
    }
    Ok(())
}

pub(in super::super) async fn truncating_back_changes_nothing(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    world.truncate(&log("a"), 0).await?;
    world.check().await?;
    world.truncate(&log("a"), 20).await?;
    for before in [20, 19, 1, 0] {
        world.truncate(&log("a"), before).await?;
        world.check().await?;
    }
    below_is_refused(&world).await
}

pub(in super::super) async fn truncating_beyond_the_end_is_refused(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    for before in [37, 38, 1_000, u64::MAX] {
        let mut batch = WriteBatch::new();
        batch.truncate(log("a"), Offset(before));
        world.refuse(batch).await?;
    }
    Ok(())
}

pub(in super::super) async fn truncating_to_the_end_empties_the_log(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    for _ in 0..3 {
        let end = world.end(&log("a"));
        world.truncate(&log("a"), end.0).await?;
        world.check().await?;
        check_times(&world).await?;
        below_is_refused(&world).await?;
        // Empty it once more, and append where it ended.
        world.truncate(&log("a"), end.0).await?;
        world.append(&log("a"), 1, 7, 60).await?;
        world.check().await?;
    }
    Ok(())
}

pub(in super::super) async fn truncating_every_single_record_works(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    for before in 0..=world.end(&log("a")).0 {
        world.truncate(&log("a"), before).await?;
        world.check_lists()?;
        world.check_log(&log("a")).await?;
    }
    world.check().await
}

pub(in super::super) async fn truncating_and_appending_in_one_batch_works(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    // Truncate, then append.
    let mut batch = WriteBatch::new();
    batch.truncate(log("a"), Offset(36));
    world.add(&mut batch, &log("a"), 5, 3, 60);
    world.commit(batch).await?;
    world.check().await?;
    // Append, then truncate into what was just appended.
    let mut batch = WriteBatch::new();
    world.add(&mut batch, &log("a"), 6, 9, 60);
    batch.truncate(log("a"), Offset(44));
    world.commit(batch).await?;
    world.check().await?;
    below_is_refused(&world).await?;
    // Append, then truncate all of it.
    let mut batch = WriteBatch::new();
    world.add(&mut batch, &log("a"), 6, 2, 60);
    batch.truncate(log("a"), Offset(50));
    batch.append(log("a"), Offset(50), Timestamp(7), world.chance.records(1, 60));
    world.commit(batch).await?;
    world.check().await?;
    below_is_refused(&world).await
}

pub(in super::super) async fn offsets_by_time_ignore_what_was_truncated(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for time in [50, 90, 20, 30, 30, 60, 10, 40] {
        world.append(&log("a"), time, 3, 30).await?;
    }
    for before in 0..=world.end(&log("a")).0 {
        world.truncate(&log("a"), before).await?;
        check_times(&world).await?;
    }
    world.append(&log("a"), 25, 3, 30).await?;
    check_times(&world).await
}
