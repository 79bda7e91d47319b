//! Small named values.

use ltq_core::{VALUE_BYTES_MAX, WriteBatch};

use crate::conformance::{
    Failure,
    failure::ensure,
    harness::Stage,
    world::{World, unexpected},
};

pub(in super::super) async fn the_value_put_last_counts(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    for value in ["one", "", "two", "two", "a longer one than before", "x"] {
        let mut batch = WriteBatch::new();
        batch.put("key", value);
        world.commit(batch).await?;
        world.check().await?;
    }
    let mut batch = WriteBatch::new();
    batch.put("key", "first").put("key", "last");
    world.commit(batch).await?;
    world.check().await
}

pub(in super::super) async fn deleting_a_value_leaves_the_others(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    let mut batch = WriteBatch::new();
    batch.put("a", "1").put("ab", "2").put("abc", "3").put("b", "4");
    world.commit(batch).await?;
    for key in ["ab", "missing", "ab", "abc", "b", "a"] {
        let mut batch = WriteBatch::new();
        batch.delete(key);
        world.commit(batch).await?;
        world.check().await?;
        let value = world.store.value(key.as_bytes()).map_err(unexpected("asking for a value"))?;
        ensure!(value.is_none(), Values, "key {key:?} was removed, and has value {value:?}");
    }
    Ok(())
}

pub(in super::super) async fn values_are_listed_by_prefix_in_order(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    let keys: [&[u8]; 14] = [
        b"b",
        b"a",
        b"a/2",
        b"a/10",
        b"a/",
        b"a\0",
        b"a\xff",
        b"a\xff\xff",
        b"a\xff\xff\x01",
        b"\xff",
        b"\xff\xff",
        b"\0",
        b"B",
        b"ab",
    ];
    for key in keys {
        let mut batch = WriteBatch::new();
        batch.put(key.to_vec(), key.to_vec());
        world.commit(batch).await?;
    }
    for prefix in keys.into_iter().chain([&b""[..], b"c", b"a/1", b"a\xff\xff\xff", b"missing"]) {
        world.check_values(prefix)?;
    }
    let longer_than_any_key = [b'a'; 2_000];
    world.check_values(&longer_than_any_key)
}

pub(in super::super) async fn keys_and_values_may_be_any_bytes(
    stage: &Stage,
) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    let mut batch = WriteBatch::new();
    for byte in 0..=255u8 {
        batch.put(vec![byte], vec![byte; usize::from(byte)]);
    }
    for _ in 0..100 {
        let len = world.chance.of(2..1_025) as usize;
        let (key, value) = (world.chance.bytes(len), world.chance.bytes(len));
        batch.put(key, value);
    }
    world.commit(batch).await?;
    world.check().await
}

pub(in super::super) async fn large_values_come_back(stage: &Stage) -> Result<(), Failure> {
    let mut world = World::open(stage).await?;
    for len in [1 << 16, 1 << 20, VALUE_BYTES_MAX] {
        let mut batch = WriteBatch::new();
        let value = world.chance.bytes(len);
        batch.put("large", value).put(format!("beside {len}"), "small");
        world.commit(batch).await?;
        world.check().await?;
    }
    if stage.capabilities.survives_close {
        world = world.close_and_open().await?;
        world.check().await?;
    }
    let mut batch = WriteBatch::new();
    batch.delete("large");
    world.commit(batch).await?;
    world.check().await
}
