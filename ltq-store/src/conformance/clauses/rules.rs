//! What is refused, and that a refusal changes nothing.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use bytes::Bytes;
use ltq_core::{
    Durability, KEY_BYTES_MAX, LOG_NAME_BYTES_MAX, LogOptions, Offset, Records, Timestamp,
    VALUE_BYTES_MAX, WriteBatch, WriteOp,
};
use tokio::task::JoinSet;

use super::concurrency::all_done;
use crate::conformance::{
    Clause, Failure,
    failure::ensure,
    harness::Stage,
    world::{World, log, unexpected},
};

pub(in super::super) async fn names_out_of_bounds_are_invalid(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for name in [String::new(), "x".repeat(LOG_NAME_BYTES_MAX + 1), "é".repeat(128)] {
        let mut batch = WriteBatch::new();
        batch.create_log(log(&name), LogOptions::default());
        world.refuse(batch).await?;
    }
    let mut longest = WriteBatch::new();
    longest.create_log(log(&"x".repeat(LOG_NAME_BYTES_MAX)), LogOptions::default());
    longest.create_log(log("x"), LogOptions::default());
    world.commit(longest).await?;
    world.check().await
}

pub(in super::super) async fn keys_and_values_out_of_bounds_are_invalid(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    for key in [vec![], vec![7; KEY_BYTES_MAX + 1]] {
        let mut put = WriteBatch::new();
        put.put(key.clone(), "value");
        world.refuse(put).await?;
        let mut delete = WriteBatch::new();
        delete.delete(key.clone());
        world.refuse(delete).await?;
        let value = world.store.value(&key).map_err(unexpected("asking for a value"))?;
        ensure!(value.is_none(), Values, "a key of {} bytes has a value", key.len());
    }
    let mut put = WriteBatch::new();
    put.put("key", vec![1; VALUE_BYTES_MAX + 1]);
    world.refuse(put).await?;
    let mut put = WriteBatch::new();
    put.put(vec![7; KEY_BYTES_MAX], "").put("k", "value");
    world.commit(put).await?;
    world.check().await
}

pub(in super::super) async fn empty_appends_are_invalid(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    world.append(&log("a"), 1, 2, 10).await?;
    let empty_slice = world.chance.records(3, 10).slice(1..1);
    for records in [Records::default(), empty_slice] {
        let mut batch = WriteBatch::new();
        batch.append(log("a"), Offset(2), Timestamp(1), records);
        world.refuse(batch).await?;
    }
    Ok(())
}

pub(in super::super) async fn a_bad_change_at_any_place_undoes_the_batch(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "b", "c", "d"]).await?;
    for name in ["a", "b", "c", "d"] {
        world.append(&log(name), 10, 6, 40).await?;
    }
    let mut put = WriteBatch::new();
    put.put("old", "1").put("kept", "2");
    world.commit(put).await?;

    let mut good = WriteBatch::new();
    good.create_log(log("new"), LogOptions::default());
    good.put("fresh", "3").put("kept", "4").delete("old");
    world.add(&mut good, &log("a"), 11, 3, 40);
    good.append(log("new"), Offset::ZERO, Timestamp(11), world.chance.records(2, 40));
    good.truncate(log("b"), Offset(4)).delete_log(log("c"));
    good.create_log(log("c"), LogOptions { durable: false });

    let record = world.chance.records(1, 10);
    let append = |name: &str, at| WriteOp::Append {
        log: log(name),
        at: Offset(at),
        time: Timestamp(12),
        records: record.clone(),
    };
    let create = |name: &str| WriteOp::CreateLog {
        log: log(name),
        options: LogOptions::default(),
        first: Offset::ZERO,
    };
    let bad = [
        create("d"),
        create(""),
        WriteOp::DeleteLog { log: log("missing") },
        append("missing", 0),
        append("d", 5),
        append("d", 7),
        WriteOp::Append {
            log: log("d"),
            at: Offset(6),
            time: Timestamp(12),
            records: Records::default(),
        },
        WriteOp::Truncate { log: log("missing"), before: Offset(0) },
        WriteOp::Truncate { log: log("d"), before: Offset(7) },
        WriteOp::Put { key: Bytes::new(), value: Bytes::from_static(b"x") },
        WriteOp::Put { key: vec![1; KEY_BYTES_MAX + 1].into(), value: Bytes::new() },
        WriteOp::Delete { key: Bytes::new() },
    ];
    for bad in bad {
        for place in 0..=good.ops().len() {
            let mut ops = good.ops().to_vec();
            ops.insert(place, bad.clone());
            let mut batch = WriteBatch::new();
            for op in ops {
                batch.push(op);
            }
            world.refuse(batch).await?;
        }
    }
    world.commit(good).await?;
    world.check().await
}

pub(in super::super) async fn changes_see_the_ones_before_them_in_the_batch(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    world.append(&log("a"), 1, 5, 20).await?;
    let records = |world: &mut World<'_>, count| world.chance.records(count, 20);

    let mut batch = WriteBatch::new();
    batch.append(log("a"), Offset(5), Timestamp(2), records(&mut world, 3));
    batch.append(log("a"), Offset(8), Timestamp(3), records(&mut world, 1));
    batch.truncate(log("a"), Offset(6));
    batch.append(log("a"), Offset(9), Timestamp(3), records(&mut world, 2));
    batch.create_log(log("b"), LogOptions::default());
    batch.append(log("b"), Offset(0), Timestamp(3), records(&mut world, 4));
    batch.truncate(log("b"), Offset(4));
    batch.create_log(log("passing"), LogOptions::default());
    batch.delete_log(log("passing"));
    batch.put("k", "1").delete("k").put("k", "2").put("gone", "3").delete("gone");
    world.commit(batch).await?;
    world.check().await?;

    // An end that only a later change of the batch brings about is no end yet.
    let mut early = WriteBatch::new();
    early.truncate(log("a"), Offset(12));
    early.append(log("a"), Offset(11), Timestamp(3), records(&mut world, 1));
    world.refuse(early).await?;
    let mut gone = WriteBatch::new();
    gone.delete_log(log("b"));
    gone.append(log("b"), Offset(4), Timestamp(3), records(&mut world, 1));
    world.refuse(gone).await?;
    let mut anew = WriteBatch::new();
    anew.delete_log(log("b")).create_log(log("b"), LogOptions::default());
    anew.append(log("b"), Offset(4), Timestamp(3), records(&mut world, 1));
    world.refuse(anew).await
}

pub(in super::super) async fn refusals_leave_no_trace_under_a_concurrent_reader(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "b"]).await?;
    world.append(&log("a"), 1, 5, 20).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    readers.spawn({
        let (store, stop) = (world.store.clone(), stop.clone());
        async move {
            while !stop.load(SeqCst) {
                let bounds = store.bounds(&log("a")).map_err(unexpected("asking for bounds"))?;
                let value = store.value(b"k").map_err(unexpected("asking for a value"))?;
                ensure!(
                    bounds.end == Offset(5) && bounds.first == Offset(0) && value.is_none(),
                    Atomic,
                    "a reader saw part of a refused batch: {bounds:?}, value {value:?}"
                );
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    });
    let mut refused = WriteBatch::new();
    world.add(&mut refused, &log("a"), 2, 50, 20);
    refused.put("k", "v").truncate(log("a"), Offset(3)).truncate(log("b"), Offset(1));
    let mut result = Ok(());
    for _ in 0..300 {
        let answer = world.store.commit(refused.clone(), Durability::Memory).await;
        if answer.is_ok() {
            result = Err(Failure::new(Clause::Truncate, "truncating beyond the end was taken"));
            break;
        }
        tokio::task::yield_now().await;
    }
    stop.store(true, SeqCst);
    all_done(readers).await?;
    result?;
    world.check().await
}
