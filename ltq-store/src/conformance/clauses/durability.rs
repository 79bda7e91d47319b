//! What a receipt says is true, and survives.

use std::{future::Future, pin::Pin, task::Poll};

use ltq_core::{
    Bounds, Committed, Durability, LogOptions, Offset, StoreError, Timestamp, WriteBatch, WriteOp,
};

use super::reading::check_times;
use crate::conformance::{
    Clause, Failure,
    chance::Chance,
    failure::ensure,
    harness::Stage,
    world::{NOT_DURABLE, World, log, poll_once, unexpected},
};

const ALL: [Durability; 3] = [Durability::Memory, Durability::Os, Durability::Disk];

type Commit<'a> = Pin<Box<dyn Future<Output = Result<Committed, StoreError>> + Send + 'a>>;

pub(in super::super) async fn a_receipt_is_at_least_what_was_asked_and_at_most_what_the_store_can(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for asked in ALL.into_iter().chain(ALL.into_iter().rev()) {
        let mut batch = WriteBatch::new();
        world.add(&mut batch, &log("a"), 1, 3, 50);
        world.commit_at(batch, asked).await?;
        let mut batch = WriteBatch::new();
        batch.put("k", "v").truncate(log("a"), Offset(2));
        world.commit_at(batch, asked).await?;
        let mut batch = WriteBatch::new();
        batch.create_log(log("b"), LogOptions::default());
        world.commit_at(batch, asked).await?;
        let mut batch = WriteBatch::new();
        batch.delete_log(log("b")).delete("k");
        world.commit_at(batch, asked).await?;
    }
    world.check().await
}

pub(in super::super) async fn a_log_that_is_not_durable_is_never_said_to_be(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["durable"]).await?;
    for asked in ALL {
        let mut batch = WriteBatch::new();
        batch.create_log(log("loose"), NOT_DURABLE);
        world.commit_at(batch, asked).await?;
        let mut alone = WriteBatch::new();
        world.add(&mut alone, &log("loose"), 1, 3, 50);
        world.commit_at(alone, asked).await?;
        let mut beside = WriteBatch::new();
        world.add(&mut beside, &log("loose"), 1, 3, 50);
        world.add(&mut beside, &log("durable"), 1, 3, 50);
        beside.put("k", "v");
        world.commit_at(beside, asked).await?;
        let mut truncate = WriteBatch::new();
        truncate.truncate(log("loose"), Offset(2));
        world.commit_at(truncate, asked).await?;
        let mut delete = WriteBatch::new();
        delete.delete_log(log("loose"));
        world.commit_at(delete, asked).await?;
    }
    world.check().await
}

pub(in super::super) async fn an_empty_batch_is_a_barrier(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for asked in ALL {
        world.commit_at(WriteBatch::new(), asked).await?;
        world.append(&log("a"), 1, 3, 50).await?;
        world.commit_at(WriteBatch::new(), asked).await?;
        world.commit_at(WriteBatch::new(), asked).await?;
        world.check().await?;
    }
    Ok(())
}

/// Everything that a store can hold.
async fn furnish(world: &mut World<'_>, asked: Durability) -> Result<(), Failure> {
    let mut batch = WriteBatch::new();
    batch.create_log(log("a"), LogOptions::default());
    batch.create_log(log("empty"), LogOptions::default());
    batch.create_log(log("emptied"), LogOptions::default());
    batch.create_log(log("deleted"), LogOptions::default());
    batch.create_log(log("anew"), LogOptions::default());
    batch.push(WriteOp::CreateLog {
        log: log("late"),
        options: LogOptions::default(),
        first: Offset(1_000_000),
    });
    world.commit_at(batch, asked).await?;
    for (time, count) in [10, 1, 1, 1, 300, 7].into_iter().enumerate() {
        for name in ["a", "late", "emptied", "deleted", "anew"] {
            let mut batch = WriteBatch::new();
            world.add(&mut batch, &log(name), 100 - (time as u64 * 7) % 20, count, 90);
            batch.put(format!("count/{name}"), count.to_string());
            world.commit_at(batch, asked).await?;
        }
    }
    let end = world.end(&log("emptied"));
    let mut batch = WriteBatch::new();
    batch.truncate(log("a"), Offset(5)).truncate(log("emptied"), end);
    batch.delete_log(log("deleted")).delete_log(log("anew"));
    batch.create_log(log("anew"), LogOptions::default());
    batch.delete("count/deleted").put("binary\0\u{7f}", vec![0, 255, 0]);
    batch.append(log("anew"), Offset::ZERO, Timestamp(3), world.chance.records(2, 30));
    world.commit_at(batch, asked).await.map(drop)
}

pub(in super::super) async fn everything_survives_a_close(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    furnish(&mut world, Durability::Memory).await?;
    let mut batch = WriteBatch::new();
    batch.create_log(log("loose"), NOT_DURABLE);
    world.commit(batch).await?;
    world.append(&log("loose"), 1, 50, 100).await?;
    world.truncate(&log("loose"), 7).await?;
    world = world.close_and_open().await?;
    world.check().await.map_err(|failure| lost(&failure, "over a close"))?;
    check_times(&world).await?;
    // And goes on from there.
    for name in ["a", "empty", "emptied", "late", "anew", "loose"] {
        world.append(&log(name), 200, 3, 20).await?;
    }
    world.check().await?;
    world = world.close_and_open().await?;
    world.check().await.map_err(|failure| lost(&failure, "over a second close"))
}

pub(in super::super) async fn closing_again_and_again_keeps_everything(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "b"]).await?;
    for round in 0..12u64 {
        world.append(&log("a"), round, 5, 300).await?;
        if round % 3 == 0 {
            world.append(&log("b"), round, 1, 10).await?;
            let before = world.end(&log("a")).0 / 2;
            world.truncate(&log("a"), before).await?;
        }
        world = world.close_and_open().await?;
        world.check().await.map_err(|failure| lost(&failure, "over a close"))?;
    }
    Ok(())
}

pub(in super::super) async fn a_deleted_log_stays_deleted_over_a_close(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "b"]).await?;
    world.append(&log("a"), 1, 100, 200).await?;
    world.append(&log("b"), 1, 100, 200).await?;
    world = world.close_and_open().await?;
    let mut batch = WriteBatch::new();
    batch.delete_log(log("a")).delete_log(log("b"));
    world.commit(batch).await?;
    world = world.close_and_open().await?;
    world.check().await.map_err(|failure| lost(&failure, "over a close"))?;
    let mut batch = WriteBatch::new();
    batch.create_log(log("a"), LogOptions::default());
    world.commit(batch).await?;
    world = world.close_and_open().await?;
    world.append(&log("a"), 1, 1, 20).await?;
    world.check().await.map_err(|failure| lost(&failure, "over a close"))
}

pub(in super::super) async fn os_commits_survive_a_drop(stage: &Stage) -> Result<(), Failure> {
    survives_a_drop(stage, Durability::Os).await
}

pub(in super::super) async fn disk_commits_survive_a_drop(stage: &Stage) -> Result<(), Failure> {
    survives_a_drop(stage, Durability::Disk).await
}

async fn survives_a_drop(stage: &Stage, asked: Durability) -> Result<(), Failure> {
    let during = format!("over a drop, committed at {asked}");
    let mut world = World::open(stage).await?;
    furnish(&mut world, asked).await?;
    world = world.drop_and_open().await?;
    world.check().await.map_err(|failure| lost(&failure, &during))?;
    check_times(&world).await?;
    for round in 0..10 {
        let mut batch = WriteBatch::new();
        world.add(&mut batch, &log("a"), round, 1 + round as usize, 70);
        batch.put("round", round.to_string());
        world.commit_at(batch, asked).await?;
        world = world.drop_and_open().await?;
        world.check().await.map_err(|failure| lost(&failure, &during))?;
    }
    Ok(())
}

pub(in super::super) async fn a_barrier_makes_earlier_commits_survive(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    furnish(&mut world, Durability::Memory).await?;
    world.commit_at(WriteBatch::new(), Durability::Os).await?;
    world = world.drop_and_open().await?;
    world.check().await.map_err(|failure| lost(&failure, "over a drop after a barrier"))
}

pub(in super::super) async fn a_truncation_survives_a_drop(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for round in 1..8u64 {
        world.append(&log("a"), round, 10, 100).await?;
        let mut batch = WriteBatch::new();
        batch.truncate(log("a"), Offset(round * 9));
        world.commit_at(batch, Durability::Os).await?;
        world = world.drop_and_open().await?;
        world.check().await.map_err(|failure| lost(&failure, "over a drop"))?;
        let below = Offset(round * 9 - 1);
        let expected = world.out_of_range(&log("a"), below);
        world.refuse_read(&log("a"), below, expected).await?;
    }
    Ok(())
}

/// Batches of a slice of records, whose table counts from where the whole of them began, beside a
/// larger append and a smaller one, before it and behind it.
async fn slice(world: &mut World<'_>, asked: Durability) -> Result<(), Failure> {
    for (round, larger) in [4_000, 60, 700, 20_000].into_iter().enumerate() {
        let whole = world.chance.records(9, 20 + 40 * round);
        for part in [4..9, 1..2, 8..9] {
            for first in [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]] {
                let mut batch = WriteBatch::new();
                for name in first {
                    let records = match name {
                        "a" => whole.slice(part.clone()),
                        "b" => world.chance.records(3, larger),
                        _ => world.chance.records(1, 1),
                    };
                    let at = world.end(&log(name));
                    batch.append(log(name), at, Timestamp(round as u64), records);
                }
                world.commit_at(batch, asked).await?;
            }
        }
    }
    world.check().await
}

pub(in super::super) async fn slices_of_records_survive_a_close(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "b", "c"]).await?;
    slice(&mut world, Durability::Memory).await?;
    world = world.close_and_open().await?;
    world.check().await.map_err(|failure| lost(&failure, "over a close"))
}

pub(in super::super) async fn slices_of_records_survive_a_drop(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "b", "c"]).await?;
    slice(&mut world, Durability::Os).await?;
    world = world.drop_and_open().await?;
    world.check().await.map_err(|failure| lost(&failure, "over a drop"))
}

/// Commits that overlap, each durable in its own way, and the store dropped amid them.
pub(in super::super) async fn what_survives_has_everything_before_it(
    stage: &Stage,
) -> Result<(), Failure> {
    const COMMITS: usize = 40;
    let mut world = World::with_logs(stage, &["start"]).await?;
    world.commit_at(WriteBatch::new(), Durability::Os).await?;
    for round in 0..12u64 {
        let mut chance = Chance::new(round);
        let asked: Vec<Durability> = (0..COMMITS)
            .map(|_| if chance.percent(50) { Durability::Memory } else { Durability::Os })
            .collect();
        let key = |index: usize| format!("{round:02}/{index:02}");
        let store = world.store.clone();
        let mut commits: Vec<Option<Commit<'_>>> = Vec::new();
        for (index, asked) in asked.iter().enumerate() {
            let mut batch = WriteBatch::new();
            batch.put(key(index), vec![1; index * 20]);
            commits.push(Some(store.commit(batch, *asked)));
        }
        let mut done = [false; COMMITS];
        for (slot, done) in commits.iter_mut().zip(&mut done) {
            let Some(commit) = slot else { continue };
            if let Poll::Ready(result) = poll_once(commit).await {
                *done = result.is_ok();
                *slot = None;
            }
        }
        // In some rounds some are waited for.
        let waited = round as usize * 3;
        for (slot, done) in commits.iter_mut().zip(&mut done).take(waited) {
            if let Some(commit) = slot.take() {
                *done = commit.await.is_ok();
            }
        }
        // The last first: a commit that is dropped may be left out, but not for a later one that
        // was dropped before it.
        while commits.pop().is_some() {}
        drop(commits);
        drop(store);
        world = world.drop_and_open().await?;
        let mut there = Vec::new();
        for index in 0..COMMITS {
            let value = world.store.value(key(index).as_bytes());
            there.push(value.map_err(unexpected("asking for a value"))?.is_some());
        }
        let each: Vec<_> = asked.iter().zip(&there).zip(&done).enumerate().collect();
        for (later, ((later_asked, later_there), later_done)) in &each {
            ensure!(
                !**later_done || **later_asked < Durability::Os || **later_there,
                Durable,
                "commit {later} had resolved at {later_asked}, and is gone after a drop"
            );
            for (earlier, ((earlier_asked, earlier_there), _)) in each.iter().take(*later) {
                ensure!(
                    !**later_there || earlier_asked < later_asked || **earlier_there,
                    Ordered,
                    "after a drop commit {later} ({later_asked}) is there, and commit {earlier} \
                     ({earlier_asked}), which came before it, is gone"
                );
            }
        }
    }
    Ok(())
}

pub(in super::super) async fn what_shows_early_is_durable_already(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    world.commit_at(WriteBatch::new(), Durability::Os).await?;
    for round in 0..20 {
        let mut batch = WriteBatch::new();
        world.add(&mut batch, &log("a"), round, 3, 200);
        let before = world.end(&log("a"));
        let store = world.store.clone();
        let mut commit = store.commit(batch.clone(), Durability::Os);
        let _ = poll_once(&mut commit).await;
        let shown = store.bounds(&log("a")).map_err(unexpected("asking for bounds"))?;
        drop(commit);
        drop(store);
        world = world.drop_and_open().await?;
        let found = world.store.bounds(&log("a")).map_err(unexpected("asking for bounds"))?;
        ensure!(
            found.end >= shown.end,
            Visible,
            "a log showed its end at {}, and ends at {} after a drop",
            shown.end,
            found.end
        );
        if found.end > before {
            world.model.apply(&batch);
        }
        world.check().await?;
    }
    Ok(())
}

pub(in super::super) async fn a_log_that_is_not_durable_comes_back_if_shorter(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["durable"]).await?;
    let mut batch = WriteBatch::new();
    batch.create_log(log("loose"), NOT_DURABLE);
    world.commit_at(batch, Durability::Os).await?;
    for round in 0..6 {
        for _ in 0..5 {
            world.append(&log("loose"), round, 4, 300).await?;
        }
        let mut batch = WriteBatch::new();
        world.add(&mut batch, &log("durable"), round, 2, 100);
        world.commit_at(batch, Durability::Os).await?;
        world = world.drop_and_open().await?;
        let found = world.store.bounds(&log("loose")).map_err(unexpected("asking for bounds"))?;
        cut(&mut world, found)?;
        world.check().await.map_err(|failure| lost(&failure, "over a drop"))?;
    }
    Ok(())
}

/// Takes what came back of log `loose` for what it holds.
fn cut(world: &mut World<'_>, found: Bounds) -> Result<(), Failure> {
    let before = world.bounds(&log("loose"));
    ensure!(
        found.first <= found.end && found.end <= before.end,
        Bounds,
        "a log that held {before:?} came back with {found:?}"
    );
    if let Some(model) = world.model.logs.get_mut(&log("loose")) {
        model.cut(found);
    }
    Ok(())
}

fn lost(failure: &Failure, when: &str) -> Failure {
    Failure::new(Clause::Durable, format!("{when} something was lost or changed: {failure}"))
}
