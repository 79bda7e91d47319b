//! Records are given up in the middle.

use ltq_core::{Durability, LogOptions, Offset, ReadLimits, Timestamp, WriteBatch};

use super::reading::check_times;
use crate::conformance::{
    Clause, Failure,
    harness::Stage,
    world::{NOT_DURABLE, World, log},
};

/// Log `a` with appends of 10, 1, 5, 20, 300 records; log `b`, which is left alone.
async fn filled(stage: &Stage) -> Result<World<'_>, Failure> {
    let mut world = World::with_logs(stage, &["a", "b"]).await?;
    for (time, count) in [10, 1, 5, 20, 300].into_iter().enumerate() {
        world.append(&log("a"), time as u64, count, 60).await?;
    }
    world.append(&log("b"), 1, 10, 60).await?;
    Ok(world)
}

async fn discard(world: &mut World<'_>, from: u64, until: u64) -> Result<(), Failure> {
    let mut batch = WriteBatch::new();
    batch.discard(log("a"), Offset(from), Offset(until));
    world.commit(batch).await.map(drop)
}

pub(in super::super) async fn what_is_discarded_is_gone_and_nothing_else(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    // In an append, all of one, over several, at the beginning, next to another, at the end.
    for (from, until) in [(4, 6), (10, 11), (14, 18), (40, 41), (0, 2), (6, 8), (330, 336)] {
        discard(&mut world, from, until).await?;
        world.check().await?;
        world.append(&log("a"), 9, 1, 60).await?;
        world.check().await?;
    }
    let end = world_end(&world);
    discard(&mut world, 0, end).await?;
    world.check().await?;
    world.append(&log("a"), 9, 3, 60).await?;
    world.check().await
}

fn world_end(world: &World<'_>) -> u64 {
    world.end(&log("a")).0
}

pub(in super::super) async fn discarding_again_changes_nothing(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    for (from, until) in [(5, 20), (5, 20), (7, 9), (5, 6), (19, 20), (2, 8), (18, 30), (0, 40)] {
        discard(&mut world, from, until).await?;
        world.check().await?;
    }
    // What was truncated is no business of a discard.
    world.truncate(&log("a"), 60).await?;
    for (from, until) in [(3, 9), (40, 60), (59, 60), (30, 70)] {
        discard(&mut world, from, until).await?;
        world.check().await?;
    }
    Ok(())
}

pub(in super::super) async fn a_discard_that_is_empty_or_beyond_the_end_is_refused(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    let end = world_end(&world);
    let bad = [(0, 0), (7, 7), (9, 3), (end, end), (0, end + 1), (end, end + 1), (3, u64::MAX)];
    for (from, until) in bad {
        let mut batch = WriteBatch::new();
        batch.put("k", "v").discard(log("a"), Offset(from), Offset(until));
        world.refuse(batch).await?;
    }
    for name in ["missing", ""] {
        let mut batch = WriteBatch::new();
        batch.discard(log(name), Offset(0), Offset(1));
        world.refuse(batch).await?;
    }
    Ok(())
}

pub(in super::super) async fn a_truncation_may_end_in_what_was_discarded(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    for (from, until) in [(5, 20), (30, 50), (330, 336)] {
        discard(&mut world, from, until).await?;
    }
    for before in [3, 5, 11, 20, 21, 49, 50, 300, 333, 336] {
        world.truncate(&log("a"), before).await?;
        world.check().await?;
        check_times(&world).await?;
    }
    world.append(&log("a"), 9, 3, 60).await?;
    world.check().await
}

pub(in super::super) async fn discarding_every_record_one_by_one_works(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    let end = world_end(&world);
    // Every third, then every other of those that are left, then the rest.
    let thirds = (0..end).step_by(3);
    let order: Vec<u64> =
        thirds.chain((0..end).rev().filter(|at| at % 3 == 1)).chain((2..end).step_by(3)).collect();
    for (step, &at) in order.iter().enumerate() {
        discard(&mut world, at, at + 1).await?;
        world.check_lists()?;
        if step % 20 == 0 {
            world.check_log(&log("a")).await?;
        }
    }
    world.check().await
}

pub(in super::super) async fn discards_happen_with_the_rest_of_their_batch(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    let end = world_end(&world);
    // Many at once, over each other, what is just appended too, in a log just made too.
    let mut batch = WriteBatch::new();
    for at in (20..320).step_by(7) {
        batch.discard(log("a"), Offset(at), Offset(at + 1 + at % 9));
    }
    world.add(&mut batch, &log("a"), 7, 9, 60);
    batch.discard(log("a"), Offset(end - 2), Offset(end + 3));
    batch.truncate(log("a"), Offset(25)).put("k", "v");
    batch.create_log(log("c"), LogOptions::default());
    batch.append(log("c"), Offset(0), Timestamp(1), world.chance.records(5, 60));
    batch.discard(log("c"), Offset(1), Offset(4));
    world.commit(batch).await?;
    world.check().await?;
    // A log of the same name has nothing discarded.
    let mut batch = WriteBatch::new();
    batch.discard(log("a"), Offset(30), Offset(end)).delete_log(log("a"));
    batch.create_log(log("a"), LogOptions::default());
    batch.append(log("a"), Offset(0), Timestamp(1), world.chance.records(50, 60));
    world.commit(batch).await?;
    world.check().await?;
    // And what is refused discards nothing.
    let mut batch = WriteBatch::new();
    batch.discard(log("a"), Offset(3), Offset(9)).discard(log("a"), Offset(40), Offset(51));
    world.refuse(batch).await
}

pub(in super::super) async fn a_read_ends_before_what_was_discarded(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    for (from, until) in [(3, 5), (12, 13), (60, 200)] {
        discard(&mut world, from, until).await?;
    }
    for from in (0..70).chain(195..=world_end(&world)) {
        for records in [0, 1, 2, 50, usize::MAX] {
            for bytes in [0, 200, usize::MAX] {
                world.read(&log("a"), Offset(from), ReadLimits { records, bytes }).await?;
            }
        }
    }
    Ok(())
}

pub(in super::super) async fn offsets_by_time_pass_over_what_was_discarded(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for time in [50, 90, 20, 30, 30, 60, 10, 40] {
        world.append(&log("a"), time, 3, 30).await?;
    }
    for (from, until) in [(4, 5), (3, 4), (0, 2), (15, 18), (5, 6), (2, 3), (20, 24), (6, 20)] {
        discard(&mut world, from, until).await?;
        check_times(&world).await?;
    }
    world.append(&log("a"), 25, 3, 30).await?;
    check_times(&world).await
}

pub(in super::super) async fn a_discard_of_a_log_that_is_not_durable_is_one_too(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    let mut batch = WriteBatch::new();
    batch.create_log(log("a"), NOT_DURABLE);
    world.commit(batch).await?;
    world.append(&log("a"), 1, 40, 60).await?;
    for (from, until) in [(3, 9), (20, 40), (0, 4)] {
        // Its receipt is checked against what such a log can be.
        let mut batch = WriteBatch::new();
        batch.discard(log("a"), Offset(from), Offset(until));
        world.commit_at(batch, Durability::Disk).await?;
        world.check().await?;
    }
    world.append(&log("a"), 2, 4, 60).await?;
    world.check().await
}

/// Discards, more appends, truncations and reopenings, in turns.
pub(in super::super) async fn discards_survive_a_close(stage: &Stage) -> Result<(), Failure> {
    let mut world = filled(stage).await?;
    for round in 0..6u64 {
        for at in 0..12 {
            let from = 20 + round * 40 + at * 3;
            discard(&mut world, from, from + 1 + at % 2).await?;
        }
        if round == 4 {
            world.truncate(&log("a"), 31).await?;
        }
        world = world.close_and_open().await?;
        world.check().await.map_err(|failure| came_back(&failure))?;
        world.append(&log("a"), round, 30, 2_000).await?;
        world.check().await?;
    }
    Ok(())
}

pub(in super::super) async fn a_discard_survives_a_drop(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for round in 0..8u64 {
        world.append(&log("a"), round, 10, 100).await?;
        let mut batch = WriteBatch::new();
        let from = round * 10 + 2;
        batch.discard(log("a"), Offset(from), Offset(from + 7));
        world.commit_at(batch, Durability::Os).await?;
        world = world.drop_and_open().await?;
        world.check().await.map_err(|failure| came_back(&failure))?;
    }
    Ok(())
}

fn came_back(failure: &Failure) -> Failure {
    let detail = format!("after a reopening: {failure}");
    Failure::new(Clause::Discard, detail)
}
