use async_trait::async_trait;
use bytes::Bytes;
use ltq_core::{
    Bounds, Committed, Durability, LogInfo, LogName, Offset, ReadLimits, RecordBatch, Store,
    StoreError, StoreStats, Timestamp, WriteBatch,
};
use tokio::sync::watch;

/// A store whose commits wait until a gate is open.
pub struct Gated<S> {
    inner: S,
    open: watch::Receiver<bool>,
    closing: Closing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    Closes,
    /// It stays open, for the next broker.
    Lasts,
    Never,
}

impl<S: Store> Gated<S> {
    /// Wraps a store; the gate is what the sender says.
    pub fn new(inner: S, open: bool) -> (Self, watch::Sender<bool>) {
        let (gate, open) = watch::channel(open);
        (Self { inner, open, closing: Closing::Closes }, gate)
    }

    /// One with an open gate that closing leaves open, so that another broker can start on it.
    pub fn lasting(inner: S) -> (Self, watch::Sender<bool>) {
        let (gated, gate) = Self::new(inner, true);
        (Self { closing: Closing::Lasts, ..gated }, gate)
    }

    /// The same, closing which never ends.
    #[must_use]
    pub fn closing_never(self) -> Self {
        Self { closing: Closing::Never, ..self }
    }
}

#[async_trait]
impl<S: Store> Store for Gated<S> {
    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        let mut open = self.open.clone();
        open.wait_for(|open| *open).await.map_err(|_| StoreError::Closed)?;
        self.inner.commit(batch, durability).await
    }
    fn durability_max(&self) -> Durability {
        self.inner.durability_max()
    }
    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        self.inner.try_read(log, from, limits)
    }
    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        self.inner.read(log, from, limits).await
    }
    fn bounds(&self, log: &LogName) -> Result<Bounds, StoreError> {
        self.inner.bounds(log)
    }
    async fn offset_at(&self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError> {
        self.inner.offset_at(log, time).await
    }
    fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        self.inner.logs()
    }
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.value(key)
    }
    fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.inner.values(prefix)
    }
    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }
    fn health(&self) -> Result<(), StoreError> {
        self.inner.health()
    }
    async fn close(&self) -> Result<(), StoreError> {
        match self.closing {
            Closing::Closes => self.inner.close().await,
            Closing::Lasts => Ok(()),
            Closing::Never => std::future::pending().await,
        }
    }
}
