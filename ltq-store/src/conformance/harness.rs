//! What the suite needs to know of a store.

use std::sync::Arc;

use async_trait::async_trait;
use ltq_core::{Store, StoreError};

use super::{Clause, Failure};

/// Opens a store for the suite. Each case gets a harness of its own, with no data yet.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// The store.
    type Store: Store;

    /// Opens the store: the same data each time, as far as
    /// [`capabilities`](Self::capabilities) says that they survive. Called again only after the
    /// store opened before was closed, dropped, or both.
    async fn open(&self) -> Result<Self::Store, StoreError>;

    /// What the suite may ask of this store. What it may not is skipped, and reported so.
    fn capabilities(&self) -> Capabilities;
}

/// What a store, as its harness opens it, can be tested for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What was committed is there when the store is opened after [`Store::close`].
    pub survives_close: bool,
    /// What was committed at [`Durability::Os`](ltq_core::Durability::Os) or
    /// [`Disk`](ltq_core::Durability::Disk) is there when the store is opened after it was
    /// dropped without a close, as after the process was killed.
    pub survives_drop: bool,
    /// The harness opens the store with this limit on what it keeps: between 64 MiB, which the
    /// suite needs, and what the suite may fill up in a minute.
    pub limit_bytes: Option<u64>,
}

/// A harness without its type.
#[async_trait]
trait AnyHarness: Send + Sync {
    async fn open_any(&self) -> Result<Arc<dyn Store>, StoreError>;
    fn any_capabilities(&self) -> Capabilities;
}

#[async_trait]
impl<H: Harness> AnyHarness for H {
    async fn open_any(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(self.open().await?))
    }

    fn any_capabilities(&self) -> Capabilities {
        self.capabilities()
    }
}

/// Where a case plays.
pub(super) struct Stage {
    harness: Box<dyn AnyHarness>,
    pub(super) capabilities: Capabilities,
}

impl Stage {
    pub(super) fn new(harness: impl Harness) -> Self {
        let harness: Box<dyn AnyHarness> = Box::new(harness);
        let capabilities = harness.any_capabilities();
        Self { harness, capabilities }
    }

    pub(super) async fn open(&self) -> Result<Arc<dyn Store>, Failure> {
        let opened = self.harness.open_any().await;
        opened.map_err(|error| Failure::new(Clause::Runs, format!("it does not open: {error}")))
    }
}
