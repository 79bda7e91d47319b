//! Closing, health and figures.

use std::time::Duration;

use ltq_core::{Durability, LogOptions, Offset, Store, StoreError, Timestamp, WriteBatch};
use tokio::time::{Instant, sleep};

use crate::conformance::{
    Clause, Failure,
    failure::ensure,
    harness::Stage,
    world::{UNLIMITED, World, log, unexpected},
};

pub(in super::super) async fn every_call_after_a_close_says_so(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    world.append(&log("a"), 1, 3, 20).await?;
    let max = world.store.durability_max();
    world.store.close().await.map_err(unexpected("closing"))?;
    let mut append = WriteBatch::new();
    world.add(&mut append, &log("a"), 1, 1, 20);
    let store = &world.store;
    let mut create = WriteBatch::new();
    create.create_log(log("b"), LogOptions::default());
    let mut put = WriteBatch::new();
    put.put("k", "v");
    for batch in [append, create, put, WriteBatch::new()] {
        let answer = store.commit(batch, Durability::Memory).await;
        says_so("commit", &answer)?;
    }
    let at = Offset(1);
    says_so("read", &store.read(&log("a"), at, UNLIMITED).await)?;
    if let Some(answer) = store.try_read(&log("a"), at, UNLIMITED) {
        says_so("try_read", &answer)?;
    }
    says_so("bounds", &store.bounds(&log("a")))?;
    says_so("bounds of a log that was not there", &store.bounds(&log("b")))?;
    says_so("offset_at", &store.offset_at(&log("a"), Timestamp(1)).await)?;
    says_so("logs", &store.logs())?;
    says_so("value", &store.value(b"k"))?;
    says_so("values", &store.values(b""))?;
    says_so("health", &store.health())?;
    // These cannot fail, and must not panic.
    let _ = store.stats();
    ensure!(store.durability_max() == max, Honest, "durability_max changed by closing");
    Ok(())
}

fn says_so<T: std::fmt::Debug>(call: &str, answer: &Result<T, StoreError>) -> Result<(), Failure> {
    ensure!(
        matches!(answer, Err(StoreError::Closed)),
        Close,
        "{call} after a close gave {answer:?}"
    );
    Ok(())
}

pub(in super::super) async fn closing_twice_is_harmless(stage: &Stage) -> Result<(), Failure> {
    let world = World::with_logs(stage, &["a"]).await?;
    for time in 0..3 {
        let closed = world.store.close().await;
        ensure!(closed.is_ok(), Close, "close number {} failed: {closed:?}", time + 1);
    }
    let (one, other) = (world.store.close(), world.store.close());
    ensure!(one.await.is_ok() && other.await.is_ok(), Close, "two closes at once failed");
    Ok(())
}

pub(in super::super) async fn an_open_store_is_healthy(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    let health = world.store.health();
    ensure!(health.is_ok(), Stats, "a store just opened is not healthy: {health:?}");
    let mut refused = WriteBatch::new();
    refused.truncate(log("a"), Offset(9));
    world.refuse(refused).await?;
    let health = world.store.health();
    ensure!(health.is_ok(), Stats, "after a refused batch it is not healthy: {health:?}");
    Ok(())
}

pub(in super::super) async fn the_figures_are_plausible(stage: &Stage) -> Result<(), Failure> {
    const COMMITS: u64 = 20;
    let mut world = World::with_logs(stage, &["a"]).await?;
    let before = world.store.stats();
    for time in 0..COMMITS {
        world.append(&log("a"), time, 2, 1_000).await?;
    }
    world.commit_at(WriteBatch::new(), Durability::Disk).await?;
    let after = world.store.stats();
    ensure!(
        after.commits == 0 || after.commits >= before.commits + COMMITS,
        Stats,
        "{COMMITS} commits, and the figures went from {before:?} to {after:?}"
    );
    for (name, was, is) in [
        ("commits", before.commits, after.commits),
        ("syncs", before.syncs, after.syncs),
        ("bytes_written", before.bytes_written, after.bytes_written),
    ] {
        ensure!(is >= was, Stats, "{name} fell from {was} to {is}");
    }
    ensure!(
        after.damaged_records == 0,
        Stats,
        "{} records are said to be damaged, and none is",
        after.damaged_records
    );
    Ok(())
}

pub(in super::super) async fn memory_is_given_back(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    let empty = world.store.stats().memory_bytes;
    for time in 0..64 {
        world.append(&log("a"), time, 16, 8_000).await?;
    }
    let mut batch = WriteBatch::new();
    batch.put("large", vec![3; 1 << 20]);
    world.commit(batch).await?;
    let full = world.store.stats().memory_bytes;
    let end = world.end(&log("a"));
    let mut batch = WriteBatch::new();
    batch.truncate(log("a"), end).delete("large");
    world.commit(batch).await?;
    // At least three quarters of what came in, whatever a store keeps in memory of it.
    let enough = empty + full.saturating_sub(empty) / 4;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = world.store.stats().memory_bytes;
        if now <= enough {
            return Ok(());
        }
        if Instant::now() > deadline {
            let detail =
                format!("{empty} bytes in memory when empty, {full} filled, {now} emptied");
            return Err(Failure::new(Clause::Stats, detail));
        }
        sleep(Duration::from_millis(5)).await;
    }
}
