//! Many tasks at once, and futures dropped half-way.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::Poll,
};

use bytes::Bytes;
use ltq_core::{
    Committed, Durability, LogName, LogOptions, Message, Offset, ReadLimits, Records, Store,
    StoreError, Timestamp, WriteBatch,
};
use tokio::task::{JoinSet, yield_now};

use crate::conformance::{
    Clause, Failure,
    chance::Chance,
    failure::ensure,
    harness::Stage,
    world::{UNLIMITED, World, log, poll_once, unexpected},
};

type Commit<'a> = Pin<Box<dyn Future<Output = Result<Committed, StoreError>> + Send + 'a>>;

/// The records that belong at these offsets of any log, so that a reader can tell wrong bytes.
fn tagged(first: u64, count: u64) -> Records {
    let messages: Vec<_> = (first..first + count)
        .map(|offset| {
            let mut chance = Chance::new(offset);
            let filler = chance.bytes((offset % 90) as usize);
            Message::new(filler).with_key(offset.to_le_bytes().to_vec())
        })
        .collect();
    Records::encode(&messages)
}

pub(super) async fn all_done(mut tasks: JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    while let Some(joined) = tasks.join_next().await {
        joined.map_err(|e| Failure::new(Clause::Concurrent, format!("a task: {e}")))??;
    }
    Ok(())
}

pub(in super::super) async fn commits_take_effect_in_the_order_of_their_first_poll(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for round in 0..20u64 {
        let store = world.store.clone();
        let mut commits: Vec<Commit<'_>> = Vec::new();
        for index in 0..30u64 {
            let asked = [Durability::Memory, Durability::Disk, Durability::Os];
            let asked = asked.get((index % 3) as usize).copied().unwrap_or_default();
            let mut batch = WriteBatch::new();
            batch.put("last", format!("{round}/{index}"));
            commits.push(store.commit(batch, asked));
        }
        let mut waiting = Vec::new();
        for mut commit in commits {
            match poll_once(&mut commit).await {
                Poll::Ready(result) => drop(result.map_err(unexpected("a put"))?),
                Poll::Pending => waiting.push(commit),
            }
        }
        // Waited for in another order than polled.
        for commit in waiting.into_iter().rev() {
            commit.await.map_err(unexpected("a put"))?;
        }
        let value = store.value(b"last").map_err(unexpected("asking for a value"))?;
        let expected = Bytes::from(format!("{round}/29"));
        ensure!(
            value.as_ref() == Some(&expected),
            Ordered,
            "of thirty puts of one key the last polled was {expected:?}, and the value is {value:?}"
        );
        world.model.values.insert("last".into(), expected);
    }
    world.check().await
}

pub(in super::super) async fn a_commit_shows_once_it_has_resolved(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for round in 0..60u64 {
        let asked = if round % 3 == 0 { Durability::Disk } else { Durability::Memory };
        let mut batch = WriteBatch::new();
        world.add(&mut batch, &log("a"), round, 2, 50);
        batch.put("round", round.to_string());
        if round % 7 == 6 {
            batch.truncate(log("a"), Offset(round));
        }
        world.commit_at(batch, asked).await?;
        // At once, without anything in between that would let a store catch up.
        let shows = world.check_lists();
        shows.map_err(|failure| {
            let detail = format!("a commit has resolved and does not show: {failure}");
            Failure::new(Clause::Visible, detail)
        })?;
    }
    world.check().await
}

pub(in super::super) async fn writers_of_different_logs_do_not_disturb_each_other(
    stage: &Stage,
) -> Result<(), Failure> {
    const WRITERS: u64 = 12;
    let names: Vec<LogName> = (0..WRITERS).map(|i| log(&format!("log-{i}"))).collect();
    let mut world = World::open(stage).await?;
    let mut tasks = JoinSet::new();
    for (seed, name) in names.iter().cloned().enumerate() {
        let store = world.store.clone();
        let write = async move { write_alone(&*store, &name, seed as u64).await };
        tasks.spawn(write);
    }
    all_done(tasks).await?;
    // The same batches again, on the model.
    for (seed, name) in names.iter().enumerate() {
        for batch in batches_of(name, seed as u64) {
            world.model.apply(&batch);
        }
    }
    world.check().await
}

async fn write_alone(store: &dyn Store, name: &LogName, seed: u64) -> Result<(), Failure> {
    for (index, batch) in batches_of(name, seed).into_iter().enumerate() {
        let asked = if index % 10 == 3 { Durability::Disk } else { Durability::Memory };
        let committed = store.commit(batch, asked).await;
        committed.map_err(unexpected("a commit beside others"))?;
    }
    Ok(())
}

fn batches_of(name: &LogName, seed: u64) -> Vec<WriteBatch> {
    let mut chance = Chance::new(seed);
    let mut create = WriteBatch::new();
    create.create_log(name.clone(), LogOptions::default());
    let mut batches = vec![create];
    let mut end = 0;
    for time in 0..50 {
        let count = chance.of(1..20);
        let len = chance.of(0..150) as usize;
        let mut batch = WriteBatch::new();
        let records = chance.records(count as usize, len);
        batch.append(name.clone(), Offset(end), Timestamp(time), records);
        end += count;
        batch.put(format!("end/{name}"), end.to_string());
        if chance.percent(20) {
            batch.truncate(name.clone(), Offset(chance.of(0..end + 1)));
        }
        batches.push(batch);
    }
    batches
}

pub(in super::super) async fn readers_see_whole_batches_of_right_bytes(
    stage: &Stage,
) -> Result<(), Failure> {
    const BATCH: u64 = 5;
    let world = World::with_logs(stage, &["a"]).await?;
    let resolved = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for seed in 0..4 {
        let (store, resolved, stop) = (world.store.clone(), resolved.clone(), stop.clone());
        readers.spawn(async move {
            let mut chance = Chance::new(seed);
            while !stop.load(SeqCst) {
                read_beside_a_writer(&*store, &resolved, &mut chance, BATCH).await?;
                yield_now().await;
            }
            Ok(())
        });
    }
    let written = write_beside_readers(&*world.store, &resolved, BATCH).await;
    stop.store(true, SeqCst);
    let read = all_done(readers).await;
    written.and(read)
}

async fn write_beside_readers(
    store: &dyn Store,
    resolved: &AtomicU64,
    count: u64,
) -> Result<(), Failure> {
    for round in 0..400 {
        let first = round * count;
        let mut batch = WriteBatch::new();
        batch.append(log("a"), Offset(first), Timestamp(first), tagged(first, count));
        if round % 10 == 9 {
            batch.truncate(log("a"), Offset(first - 7));
        }
        let asked = if round % 20 == 0 { Durability::Disk } else { Durability::Memory };
        store.commit(batch, asked).await.map_err(unexpected("a commit beside readers"))?;
        resolved.store(first + count, SeqCst);
        if round % 5 == 0 {
            yield_now().await;
        }
    }
    Ok(())
}

async fn read_beside_a_writer(
    store: &dyn Store,
    resolved: &AtomicU64,
    chance: &mut Chance,
    batch: u64,
) -> Result<(), Failure> {
    let at_least = resolved.load(SeqCst);
    let bounds = store.bounds(&log("a")).map_err(unexpected("asking for bounds"))?;
    ensure!(
        bounds.end.0 >= at_least,
        Visible,
        "a commit up to {at_least} had resolved, and a reader then saw the end at {}",
        bounds.end
    );
    ensure!(
        bounds.end.0 % batch == 0 && bounds.first <= bounds.end,
        Atomic,
        "appends of {batch} records each, and a reader saw {bounds:?}"
    );
    let from = Offset(chance.of(bounds.first.0..bounds.end.0 + 1));
    let limits = ReadLimits { records: chance.of(1..40) as usize, bytes: 2_000 };
    let answer = match store.try_read(&log("a"), from, limits) {
        Some(answer) if chance.percent(50) => answer,
        _ => store.read(&log("a"), from, limits).await,
    };
    let batches = match answer {
        // Truncated in the meantime.
        Err(StoreError::OutOfRange { bounds: later, .. }) if later.first > from => return Ok(()),
        answer => answer.map_err(unexpected("a read beside a writer"))?,
    };
    ensure!(
        !batches.is_empty() || from == bounds.end,
        Read,
        "a read from {from} returned nothing, and the log held {bounds:?} before"
    );
    let mut at = from.0;
    for found in &batches {
        let count = found.records.count() as u64;
        ensure!(
            found.first.0 == at && count > 0,
            Read,
            "a read returned {count} records at {}, and {at} comes next",
            found.first
        );
        let expected = tagged(at, count);
        let same = (0..expected.count()).all(|index| {
            found.records.encoded(index) == expected.encoded(index)
                && found.records.checksum(index) == expected.checksum(index)
        });
        ensure!(same, Bytes, "a reader beside a writer got wrong bytes at {at}");
        let own_time = at - at % batch <= found.time.0 && found.time.0 <= at;
        ensure!(own_time, Bytes, "a reader beside a writer got a wrong time at {at}");
        at += count;
    }
    Ok(())
}

pub(in super::super) async fn a_batch_over_several_logs_shows_at_once(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "b", "c"]).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for order in [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]] {
        let (store, stop) = (world.store.clone(), stop.clone());
        readers.spawn(async move {
            while !stop.load(SeqCst) {
                look_around(&*store, order)?;
                yield_now().await;
            }
            Ok(())
        });
    }
    let mut written = Ok(());
    for round in 0..300 {
        let mut batch = WriteBatch::new();
        for name in ["a", "b", "c"] {
            world.add(&mut batch, &log(name), round, 1, 20);
        }
        batch.put("count", (round + 1).to_be_bytes().to_vec());
        let committed = world.commit(batch).await;
        if let Err(failure) = committed {
            written = Err(failure);
            break;
        }
        if round % 3 == 0 {
            yield_now().await;
        }
    }
    stop.store(true, SeqCst);
    let read = all_done(readers).await;
    written.and(read)?;
    world.check().await
}

/// What is looked at later cannot be older: all four grow by one in each batch.
fn look_around(store: &dyn Store, order: [&str; 3]) -> Result<(), Failure> {
    let mut seen = Vec::new();
    for name in order {
        let bounds = store.bounds(&log(name)).map_err(unexpected("asking for bounds"))?;
        seen.push(bounds.end.0);
    }
    let value = store.value(b"count").map_err(unexpected("asking for a value"))?;
    seen.push(value.map_or(0, |bytes| bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b))));
    let bounds = store.bounds(&log("a")).map_err(unexpected("asking for bounds"))?;
    seen.push(bounds.end.0);
    ensure!(
        seen.is_sorted(),
        Atomic,
        "batches that change logs a, b, c and a value together; a reader that looked at {order:?}, \
         the value and log a in turn saw {seen:?}"
    );
    let logs = store.logs().map_err(unexpected("listing the logs"))?;
    let ends: Vec<_> = logs.iter().map(|info| info.bounds.end.0).collect();
    ensure!(
        ends.iter().min() == ends.iter().max(),
        Atomic,
        "batches that change logs a, b and c together; one listing showed {ends:?}"
    );
    Ok(())
}

pub(in super::super) async fn a_dropped_commit_is_whole_or_nothing(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a", "b"]).await?;
    for round in 0..80u64 {
        let asked = if round % 2 == 0 { Durability::Disk } else { Durability::Memory };
        let mut batch = WriteBatch::new();
        world.add(&mut batch, &log("a"), round, 3, 100);
        world.add(&mut batch, &log("b"), round, 2, 100);
        batch.put("round", round.to_string()).truncate(log("a"), world.end(&log("a")));
        let store = world.store.clone();
        let mut commit = store.commit(batch.clone(), asked);
        for _ in 0..round % 4 {
            if poll_once(&mut commit).await.is_ready() {
                break;
            }
            yield_now().await;
        }
        drop(commit);
        // What it comes to is settled once everything before this has taken effect.
        store.commit(WriteBatch::new(), asked).await.map_err(unexpected("a barrier"))?;
        let bounds = store.bounds(&log("a")).map_err(unexpected("asking for bounds"))?;
        if bounds.end > world.end(&log("a")) {
            world.model.apply(&batch);
        }
        world.check().await.map_err(|failure| {
            let detail = format!("the commit dropped in round {round}: {failure}");
            Failure::new(Clause::Cancellation, detail)
        })?;
    }
    Ok(())
}

pub(in super::super) async fn a_dropped_read_has_no_effect(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::with_logs(stage, &["a"]).await?;
    for round in 0..20 {
        world.append(&log("a"), round, 20, 500).await?;
    }
    for _ in 0..50 {
        let from = Offset(world.chance.of(0..world.end(&log("a")).0));
        let name = log("a");
        let mut read = world.store.read(&name, from, UNLIMITED);
        let _ = poll_once(&mut read).await;
    }
    world.check().await
}

pub(in super::super) async fn commits_during_a_close_resolve(stage: &Stage) -> Result<(), Failure> {
    let world = World::with_logs(stage, &["a", "b", "c", "d"]).await?;
    let mut writers = JoinSet::new();
    let under_way = Arc::new(AtomicU64::new(0));
    for name in ["a", "b", "c", "d"] {
        let (store, under_way) = (world.store.clone(), under_way.clone());
        writers.spawn(async move {
            for round in 0.. {
                let mut batch = WriteBatch::new();
                batch.append(log(name), Offset(round), Timestamp(round), tagged(round, 1));
                match store.commit(batch, Durability::Disk).await {
                    Ok(_) => drop(under_way.fetch_add(1, SeqCst)),
                    Err(StoreError::Closed) => return Ok(()),
                    Err(error) => return Err(unexpected("a commit during a close")(error)),
                }
                yield_now().await;
            }
            Ok(())
        });
    }
    while under_way.load(SeqCst) < 40 {
        yield_now().await;
    }
    world.store.close().await.map_err(unexpected("closing"))?;
    all_done(writers).await
}
