use async_trait::async_trait;
use ltq_core::{Committed, Durability, Store, StoreError, WriteBatch};
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
impl<S: Store> ltq_core::StoreLayer for Gated<S> {
    type Inner = S;

    fn inner(&self) -> &S {
        &self.inner
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        let mut open = self.open.clone();
        open.wait_for(|open| *open).await.map_err(|_| StoreError::Closed)?;
        self.inner.commit(batch, durability).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        match self.closing {
            Closing::Closes => self.inner.close().await,
            Closing::Lasts => Ok(()),
            Closing::Never => std::future::pending().await,
        }
    }
}
