//! What the tests of the shell share: a store that keeps nothing and commits when it is told to.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::{settings::BrokerSettings, shared::Shared};
use crate::{
    Bounds, Committed, Durability, Environment, LogInfo, LogName, Offset, Origin, ReadLimits,
    RecordBatch, Store, StoreError, StoreStats, Timestamp, TopicName, TopicSettings, WriteBatch,
};

/// Keeps nothing, and commits while its gate is open.
struct Hollow {
    open: watch::Receiver<bool>,
}

#[async_trait]
impl Store for Hollow {
    fn durability_max(&self) -> Durability {
        Durability::Memory
    }
    async fn commit(&self, _: WriteBatch, _: Durability) -> Result<Committed, StoreError> {
        let mut open = self.open.clone();
        open.wait_for(|open| *open).await.map_err(|_| StoreError::Closed)?;
        Ok(Committed { durability: Durability::Memory })
    }
    fn try_read(
        &self,
        _: &LogName,
        _: Offset,
        _: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        Some(Ok(Vec::new()))
    }
    async fn read(
        &self,
        _: &LogName,
        _: Offset,
        _: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        Ok(Vec::new())
    }
    fn bounds(&self, log: &LogName) -> Result<Bounds, StoreError> {
        Err(StoreError::NoSuchLog(log.clone()))
    }
    async fn offset_at(&self, log: &LogName, _: Timestamp) -> Result<Offset, StoreError> {
        Err(StoreError::NoSuchLog(log.clone()))
    }
    fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        Ok(Vec::new())
    }
    fn value(&self, _: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }
    fn values(&self, _: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        Ok(Vec::new())
    }
    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
    fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What a broker's tasks share, over a store that commits while the gate says so.
pub(super) fn shared(open: bool) -> (Arc<Shared>, watch::Sender<bool>) {
    shared_with(open, BrokerSettings::default())
}

/// The same with these settings, but for the durability of topics.
pub(super) fn shared_with(
    open: bool,
    mut settings: BrokerSettings,
) -> (Arc<Shared>, watch::Sender<bool>) {
    let (gate, open) = watch::channel(open);
    settings.topic = TopicSettings { durability: Durability::Memory, ..settings.topic };
    let shared = Shared::new(Arc::new(Hollow { open }), Environment::system(), settings);
    (Arc::new(shared), gate)
}

pub(super) fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

/// Where a peer comes from that is not of this machine.
pub(super) fn far(n: u32) -> Option<Origin> {
    Origin::of_ip(IpAddr::V4((0xc000_0200 + n).into()))
}
