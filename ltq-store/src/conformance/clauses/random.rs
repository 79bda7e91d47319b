//! Random batches, reads and reopenings, beside the model.

use bytes::Bytes;
use ltq_core::{
    Bounds, Durability, LogName, LogOptions, Offset, ReadLimits, Records, Timestamp, WriteBatch,
    WriteOp,
};

use crate::conformance::{
    Failure,
    chance::Chance,
    failure::ensure,
    harness::Stage,
    world::{World, log, unexpected},
};

const SEEDS: u64 = 10;
const STEPS: u64 = 250;
const NAMES: [&str; 5] = ["a", "b", "aa", "c/1", "ü"];
const KEYS: [&str; 6] = ["k", "k1", "k12", "x", "xy", "\u{7f}"];

/// How a store is opened again now and then.
#[derive(Clone, Copy)]
enum Reopen {
    Never,
    AfterClose,
    AfterDrop,
}

pub(in super::super) async fn random_batches_match_the_model(stage: &Stage) -> Result<(), Failure> {
    all_seeds(stage, Reopen::Never).await
}

pub(in super::super) async fn random_batches_match_the_model_over_closes(
    stage: &Stage,
) -> Result<(), Failure> {
    all_seeds(stage, Reopen::AfterClose).await
}

pub(in super::super) async fn random_batches_match_the_model_over_drops(
    stage: &Stage,
) -> Result<(), Failure> {
    all_seeds(stage, Reopen::AfterDrop).await
}

async fn all_seeds(stage: &Stage, reopen: Reopen) -> Result<(), Failure> {
    for seed in 0..SEEDS {
        one_seed(stage, reopen, seed).await.map_err(|f| f.during(format!("seed {seed}")))?;
    }
    Ok(())
}

async fn one_seed(stage: &Stage, reopen: Reopen, seed: u64) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    // What the seed before left.
    clear(&mut world).await?;
    world.chance = Chance::new(seed);
    for step in 0..STEPS {
        world = one_step(world, reopen).await.map_err(|f| f.during(format!("step {step}")))?;
    }
    world.check().await?;
    world
        .store
        .commit(WriteBatch::new(), Durability::Disk)
        .await
        .map_err(unexpected("a barrier"))?;
    world.store.close().await.map_err(unexpected("closing"))
}

async fn clear(world: &mut World<'_>) -> Result<(), Failure> {
    let mut batch = WriteBatch::new();
    for info in world.store.logs().map_err(unexpected("listing the logs"))? {
        batch.delete_log(info.log);
    }
    for (key, _) in world.store.values(b"").map_err(unexpected("listing values"))? {
        batch.delete(key);
    }
    world.store.commit(batch, Durability::Memory).await.map_err(unexpected("clearing"))?;
    world.check_lists()
}

async fn one_step<'a>(mut world: World<'a>, reopen: Reopen) -> Result<World<'a>, Failure> {
    match world.chance.of(0..100) {
        0..55 => {
            let asked = [Durability::Memory, Durability::Os, Durability::Disk];
            let asked = asked.get(world.chance.of(0..12) as usize).copied().unwrap_or_default();
            let asked = if asked == Durability::Disk && world.chance.percent(80) {
                Durability::Memory
            } else {
                asked
            };
            let batch = random_batch(&mut world);
            if world.model.refusals(&batch).is_empty() {
                world.commit_at(batch, asked).await?;
                world.check_lists()?;
            } else {
                world.refuse(batch).await?;
            }
        }
        55..85 => random_read(&mut world).await?,
        85..93 => random_time(&mut world).await?,
        93..97 => world.check().await?,
        _ => world = random_reopening(world, reopen).await?,
    }
    Ok(world)
}

async fn random_reopening<'a>(mut world: World<'a>, reopen: Reopen) -> Result<World<'a>, Failure> {
    match reopen {
        Reopen::Never => return Ok(world),
        Reopen::AfterClose => world = world.close_and_open().await?,
        Reopen::AfterDrop => {
            let barrier = world.store.commit(WriteBatch::new(), Durability::Os).await;
            barrier.map_err(unexpected("a barrier"))?;
            world = world.drop_and_open().await?;
            let logs = world.model.logs.iter_mut().filter(|(_, log)| !log.options.durable);
            for (name, model) in logs {
                let found = world.store.bounds(name).map_err(unexpected("asking for bounds"))?;
                let Bounds { first, end } = model.bounds();
                ensure!(
                    found.first <= found.end && found.end <= end,
                    Bounds,
                    "log {name} held {first} to {end}, and came back with {found:?}"
                );
                model.cut(found);
                // What was given up of such a log may not be: that lasts no longer than its records.
                let one = ReadLimits { records: 1, bytes: 1 };
                for offset in model.discarded() {
                    if world.store.read(name, offset, one).await.is_ok() {
                        model.keep(offset);
                    }
                }
            }
        }
    }
    world.check().await.map_err(|failure| failure.during("after a reopening"))?;
    Ok(world)
}

fn random_batch(world: &mut World<'_>) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for _ in 0..world.chance.of(0..6) {
        // Ends as they will be after the changes so far, so that most batches are good.
        let mut ahead = world.model.clone();
        if !world.model.refusals(&batch).is_empty() {
            break;
        }
        ahead.apply(&batch);
        let op = random_op(&mut world.chance, |log| ahead.logs.get(log).map(|log| log.bounds()));
        batch.push(op);
    }
    batch
}

fn random_op(chance: &mut Chance, bounds: impl Fn(&LogName) -> Option<Bounds>) -> WriteOp {
    let log = log(pick(chance, &NAMES));
    let key = pick(chance, &KEYS).as_bytes();
    let there = bounds(&log);
    let Bounds { first, end } = there.unwrap_or_default();
    match chance.of(0..100) {
        _ if there.is_none() && chance.percent(80) => WriteOp::CreateLog {
            log,
            options: LogOptions { durable: chance.percent(80) },
            first: Offset(if chance.percent(70) { 0 } else { chance.of(0..1_000) }),
        },
        0..45 => {
            let at = if chance.percent(97) { end } else { Offset(chance.of(0..end.0 + 5)) };
            let records = random_records(chance);
            WriteOp::Append { log, at, time: Timestamp(chance.of(0..50)), records }
        }
        45..55 => {
            // Of any length, ends and what is gone included; now and then none, or too long.
            let from = chance.of(first.0.saturating_sub(3)..end.0 + 1);
            let len = if chance.percent(30) { 200 } else { 6 };
            let beyond = if chance.percent(4) { end.0 + 2 } else { end.0 };
            let until = (from + chance.of(0..len)).min(beyond);
            WriteOp::Discard { log, from: Offset(from), until: Offset(until) }
        }
        55..68 => {
            let range = first.0.saturating_sub(3)..end.0 + 1;
            let beyond = chance.percent(5);
            let before = if beyond { end.plus(1) } else { Offset(chance.of(range)) };
            WriteOp::Truncate { log, before }
        }
        68..73 => WriteOp::DeleteLog { log },
        73..75 => WriteOp::CreateLog { log, options: LogOptions::default(), first: Offset(3) },
        75..77 => WriteOp::Put { key: Bytes::new(), value: "x".into() },
        77..90 => {
            let len = chance.of(0..300) as usize;
            WriteOp::Put { key: Bytes::from_static(key), value: chance.bytes(len) }
        }
        _ => WriteOp::Delete { key: Bytes::from_static(key) },
    }
}

fn random_records(chance: &mut Chance) -> Records {
    if chance.percent(2) {
        return Records::default();
    }
    let (count, len) = match chance.of(0..20) {
        0 => (200, 150),
        1 => (2, 30_000),
        2..8 => (chance.of(1..20) as usize, chance.of(0..500) as usize),
        _ => (1, chance.of(0..200) as usize),
    };
    chance.records(count, len)
}

fn pick(chance: &mut Chance, from: &[&'static str]) -> &'static str {
    from.get(chance.of(0..from.len() as u64) as usize).copied().unwrap_or_default()
}

async fn random_read(world: &mut World<'_>) -> Result<(), Failure> {
    let name = log(pick(&mut world.chance, &NAMES));
    if !world.model.logs.contains_key(&name) {
        return Ok(());
    }
    let Bounds { first, end } = world.bounds(&name);
    let from = Offset(world.chance.of(first.0.saturating_sub(2)..end.0 + 3));
    if from < first || from > end {
        let expected = world.out_of_range(&name, from);
        return world.refuse_read(&name, from, expected).await;
    }
    let limits = ReadLimits {
        records: world.chance.of(0..300) as usize,
        bytes: world.chance.of(0..40_000) as usize,
    };
    world.read(&name, from, limits).await.map(drop)
}

async fn random_time(world: &mut World<'_>) -> Result<(), Failure> {
    let name = log(pick(&mut world.chance, &NAMES));
    let time = Timestamp(world.chance.of(0..55));
    let Some(model) = world.model.logs.get(&name) else { return Ok(()) };
    let found = world.store.offset_at(&name, time).await;
    let found = found.map_err(unexpected("asking for an offset by time"))?;
    let expected = model.offset_at(time);
    ensure!(
        found == expected,
        OffsetAt,
        "in log {name}, which holds {:?}, time {} is first reached at {found}; expected: {expected}",
        model.bounds(),
        time.0
    );
    Ok(())
}
