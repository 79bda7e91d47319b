//! What a case is run on.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::Discovery;

/// What keeps the nodes, where the suite may take it away and give it back.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Lets nobody reach it from now on, and cuts whoever does; returns when that is done. It may
    /// forget what it knew.
    async fn sever(&self);

    /// Lets everybody reach it again.
    async fn restore(&self);
}

/// A scheme under test, with a backend that nobody else uses, and what the suite may expect of it.
#[derive(Clone)]
pub struct Harness {
    pub(super) discovery: Arc<dyn Discovery>,
    pub(super) backend: Option<Arc<dyn Backend>>,
    pub(super) tells_topics: bool,
    pub(super) patience: Duration,
}

impl Harness {
    /// A scheme that tells of topics and of what becomes of nodes within ten seconds.
    #[must_use]
    pub fn new(discovery: impl Discovery) -> Self {
        Self {
            discovery: Arc::new(discovery),
            backend: None,
            tells_topics: true,
            patience: Duration::from_secs(10),
        }
    }

    /// With a backend that can be taken away.
    #[must_use]
    pub fn backend(mut self, backend: impl Backend) -> Self {
        self.backend = Some(Arc::new(backend));
        self
    }

    /// One that knows nothing of topics: every watch is of all nodes.
    #[must_use]
    pub const fn without_topics(mut self) -> Self {
        self.tells_topics = false;
        self
    }

    /// How long anything may take that is waited for.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("patience", &self.patience).finish_non_exhaustive()
    }
}
