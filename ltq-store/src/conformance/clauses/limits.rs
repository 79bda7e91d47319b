//! A store with a limit, filled up.

use std::time::Duration;

use ltq_core::{Bounds, Durability, LogOptions, Offset, Store, StoreError, WriteBatch, WriteOp};
use tokio::time::{Instant, sleep};

use crate::conformance::{
    Clause, Failure,
    failure::ensure,
    harness::Stage,
    world::{World, log, unexpected},
};

/// What one append of [`fill`] brings.
const RECORD_BYTES: usize = 200 << 10;
/// How long space that was given up may take to come back.
const SPACE_DURATION_MAX: Duration = Duration::from_secs(30);

/// Appends until there is no room for a large record, and checks the refusal.
async fn fill(world: &mut World<'_>, stage: &Stage, name: &str) -> Result<(), Failure> {
    fill_with(world, stage, name, RECORD_BYTES).await
}

async fn fill_with(
    world: &mut World<'_>,
    stage: &Stage,
    name: &str,
    len: usize,
) -> Result<(), Failure> {
    let limit = stage.capabilities.limit_bytes.unwrap_or_default();
    let mut taken = 0;
    loop {
        let mut batch = WriteBatch::new();
        world.add(&mut batch, &log(name), taken, 1, len);
        match world.store.commit(batch.clone(), Durability::Memory).await {
            Ok(_) => world.model.apply(&batch),
            Err(error) => {
                check_refusal(&error, limit)?;
                return Ok(());
            }
        }
        taken += len as u64;
        ensure!(taken <= limit, Full, "{taken} bytes were taken under a limit of {limit}");
        let memory = world.store.stats().memory_bytes;
        ensure!(memory <= limit, Full, "it says that it takes {memory} bytes, and may {limit}");
    }
}

fn check_refusal(error: &StoreError, expected: u64) -> Result<(), Failure> {
    let StoreError::Full { what, limit, used, wanted } = error else {
        return Err(Failure::new(Clause::Full, format!("a full store refused with: {error:?}")));
    };
    ensure!(
        !what.is_empty() && *limit == expected && *used <= *limit && used + wanted > *limit,
        Full,
        "the refusal does not add up, the limit being {expected}: {error:?}"
    );
    Ok(())
}

/// Commits a batch for which there should be room soon.
async fn room_comes_back(world: &mut World<'_>, batch: WriteBatch) -> Result<(), Failure> {
    let deadline = Instant::now() + SPACE_DURATION_MAX;
    loop {
        match world.store.commit(batch.clone(), Durability::Memory).await {
            Ok(_) => {
                world.model.apply(&batch);
                return world.check().await;
            }
            Err(StoreError::Full { .. }) if Instant::now() < deadline => {
                sleep(Duration::from_millis(5)).await;
            }
            Err(error) => {
                let detail = format!("space was given up, and a commit is still refused: {error}");
                return Err(Failure::new(Clause::Full, detail));
            }
        }
    }
}

async fn append_again(world: &mut World<'_>, name: &str) -> Result<(), Failure> {
    let mut batch = WriteBatch::new();
    world.add(&mut batch, &log(name), 1, 1, RECORD_BYTES);
    room_comes_back(world, batch).await
}

pub(in super::super) async fn a_full_store_says_so_and_changes_nothing(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "b"]).await?;
    fill(&mut world, stage, "a").await?;
    world.check().await?;
    for _ in 0..3 {
        // With small changes before and after the one that is too large.
        let mut batch = WriteBatch::new();
        batch.put("k", "v").create_log(log("c"), LogOptions::default());
        world.add(&mut batch, &log("b"), 1, 1, 4 * RECORD_BYTES);
        batch.delete("k2").truncate(log("a"), Offset(0));
        match world.store.commit(batch, Durability::Memory).await {
            Err(error) => check_refusal(&error, stage.capabilities.limit_bytes.unwrap_or(0))?,
            Ok(_) => return Err(Failure::new(Clause::Full, "a full store took a larger batch")),
        }
        world.check().await.map_err(|failure| {
            Failure::new(Clause::Atomic, format!("refused for want of room: {failure}"))
        })?;
    }
    Ok(())
}

pub(in super::super) async fn a_full_store_can_be_read(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "b"]).await?;
    world.append(&log("b"), 1, 100, 100).await?;
    fill(&mut world, stage, "a").await?;
    world.check().await?;
    let health = world.store.health();
    ensure!(health.is_ok(), Full, "a full store says that it is not healthy: {health:?}");
    if stage.capabilities.survives_close {
        world = world.close_and_open().await?;
        world.check().await?;
    }
    Ok(())
}

pub(in super::super) async fn truncating_makes_room(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for _ in 0..3 {
        fill(&mut world, stage, "a").await?;
        let bounds = world.bounds(&log("a"));
        let half = bounds.first.0 + bounds.end.since(bounds.first) / 2;
        world.truncate(&log("a"), half).await?;
        append_again(&mut world, "a").await?;
    }
    fill(&mut world, stage, "a").await?;
    let end = world.end(&log("a"));
    world.truncate(&log("a"), end.0).await?;
    append_again(&mut world, "a").await
}

pub(in super::super) async fn discarding_makes_room(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for round in 0..3 {
        fill(&mut world, stage, "a").await?;
        // What room was made for in the round before took nothing with it that is wanted.
        world.check().await?;
        let Bounds { first, end } = world.bounds(&log("a"));
        let mut batch = WriteBatch::new();
        match round {
            // A stretch in the middle; all but a few lone ones; all.
            0 => drop(batch.discard(log("a"), first.plus(3), Offset(end.0 - 3))),
            1 => (first.0..end.0 - 20).step_by(20).for_each(|at| {
                batch.discard(log("a"), Offset(at + 1), Offset(at + 20));
            }),
            _ => drop(batch.discard(log("a"), first, end)),
        }
        // It is taken, full or not, and together with what needs no more room than it gives back.
        world.add(&mut batch, &log("a"), 1, 1, 20);
        match world.store.commit(batch.clone(), Durability::Memory).await {
            Ok(_) => world.model.apply(&batch),
            Err(StoreError::Full { .. }) => {
                // Where space takes its time to come back.
                let ops = batch.into_ops();
                let mut alone = WriteBatch::new();
                ops.into_iter().filter(|op| matches!(op, WriteOp::Discard { .. })).for_each(|op| {
                    alone.push(op);
                });
                world.commit(alone).await?;
            }
            Err(error) => return Err(unexpected("discarding")(error)),
        }
        append_again(&mut world, "a").await?;
    }
    Ok(())
}

pub(in super::super) async fn deleting_a_log_makes_room(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "b"]).await?;
    for _ in 0..2 {
        fill(&mut world, stage, "a").await?;
        let mut batch = WriteBatch::new();
        batch.delete_log(log("a"));
        world.commit(batch).await?;
        append_again(&mut world, "b").await?;
        let mut batch = WriteBatch::new();
        batch.create_log(log("a"), LogOptions::default());
        room_comes_back(&mut world, batch).await?;
    }
    Ok(())
}

pub(in super::super) async fn values_count_and_deleting_them_makes_room(
    stage: &Stage,
) -> Result<(), Failure> {
    let limit = stage.capabilities.limit_bytes.unwrap_or_default();
    let mut world = World::with_logs(stage, &["a"]).await?;
    let mut count = 0;
    loop {
        let mut batch = WriteBatch::new();
        batch.put(format!("key-{count:06}"), vec![count as u8; RECORD_BYTES]);
        match world.store.commit(batch.clone(), Durability::Memory).await {
            Ok(_) => world.model.apply(&batch),
            Err(error) => {
                check_refusal(&error, limit)?;
                break;
            }
        }
        count += 1;
        let taken = (count * RECORD_BYTES) as u64;
        ensure!(taken <= limit, Full, "{taken} bytes of values, the limit is {limit}");
    }
    world.check().await?;
    let mut batch = WriteBatch::new();
    batch.delete("key-000000").delete("key-000001").delete("key-000002");
    world.commit(batch).await?;
    append_again(&mut world, "a").await
}

/// What a broker has to do to empty a full store: set a cursor, and truncate behind it.
pub(in super::super) async fn what_needs_no_more_room_is_taken_when_full(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    let mut batch = WriteBatch::new();
    batch.put("cursor", vec![1; 2_000]);
    world.commit(batch).await?;
    // To the brim: less is left than the cursor takes.
    for len in [RECORD_BYTES, 10_000, 500] {
        fill_with(&mut world, stage, "a", len).await?;
    }
    for round in 0..10 {
        let mut batch = WriteBatch::new();
        batch.put("cursor", vec![round; 2_000]);
        world.commit(batch).await?;
    }
    for before in 1..4 {
        let mut batch = WriteBatch::new();
        batch.put(format!("new-{before}"), vec![2; 2_000]).truncate(log("a"), Offset(before));
        world.commit(batch).await?;
    }
    world.commit(WriteBatch::new()).await?;
    world.check().await
}
