//! A discovery scheme that keeps nobody waiting for its first word: [`AtOnce`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ltq_discovery::{Announced, Discovery, DiscoveryError, Interest, NodeInfo, NodeSet, Watch};
use tokio::time::sleep;
use tracing::warn;

/// Another discovery scheme, of which the first watch says at once that there are no nodes, and goes on with
/// what that one says: for who is to start before it can be reached.
pub(super) struct AtOnce {
    inner: Arc<dyn Discovery>,
    has_begun: AtomicBool,
}

impl AtOnce {
    pub(super) fn new(inner: Arc<dyn Discovery>) -> Self {
        Self { inner, has_begun: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Discovery for AtOnce {
    async fn announce(&self, node: NodeInfo) -> Result<Announced, DiscoveryError> {
        self.inner.announce(node).await
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        if self.has_begun.swap(true, Ordering::SeqCst) {
            return self.inner.watch(interest).await;
        }
        let (of, interest) = (self.inner.clone(), interest.clone());
        Ok(Box::new(Begun { of, interest, is_told: false, watch: None }))
    }

    fn tells_topics(&self) -> bool {
        self.inner.tells_topics()
    }
}

struct Begun {
    of: Arc<dyn Discovery>,
    interest: Interest,
    is_told: bool,
    watch: Option<Box<dyn Watch>>,
}

#[async_trait]
impl Watch for Begun {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        if !self.is_told {
            self.is_told = true;
            return Ok(NodeSet::default());
        }
        let mut is_logged = false;
        loop {
            if let Some(watch) = &mut self.watch {
                return watch.changed().await;
            }
            match self.of.watch(&self.interest).await {
                Ok(watch) => self.watch = Some(watch),
                Err(error) => {
                    if !is_logged {
                        warn!(%error, "the nodes of the destination are not known; trying again");
                        is_logged = true;
                    }
                    sleep(AGAIN_PAUSE).await;
                }
            }
        }
    }
}

const AGAIN_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use ltq_discovery::StaticList;

    use super::*;

    #[tokio::test]
    async fn the_first_word_is_that_there_is_nobody_and_the_next_is_the_other_ones() {
        let list: StaticList = "tcp://a:1".parse().unwrap();
        let at_once = AtOnce::new(Arc::new(list));
        let mut watch = at_once.watch(&Interest::Nodes).await.unwrap();
        assert!(watch.changed().await.unwrap().is_empty());
        assert_eq!(watch.changed().await.unwrap().len(), 1);
        // A later watch takes no node away.
        let mut watch = at_once.watch(&Interest::Nodes).await.unwrap();
        assert_eq!(watch.changed().await.unwrap().len(), 1);
    }
}
