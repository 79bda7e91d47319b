//! A node that is to end: it takes no publishes any more, and what it has is consumed or handed over.
//!
//! What that takes, and when it is over, is for the program around the broker to say, which knows the
//! registries and the other nodes: the broker tells it of operators' wishes, and refuses publishes
//! once it is told to.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::shared::Shared;
use crate::{AdminResponse, DrainOptions, HeldUp, Refusal, RefusalCode};

/// Whether the broker drains, and what operators want.
#[derive(Debug)]
pub(super) struct Draining {
    is_on: AtomicBool,
    held_up: Mutex<Vec<HeldUp>>,
    wanted: watch::Sender<Option<DrainOptions>>,
}

impl Default for Draining {
    fn default() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            held_up: Mutex::default(),
            wanted: watch::Sender::new(None),
        }
    }
}

impl Draining {
    /// Why nothing is taken in, if that is so.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let refusal = || Refusal::new(RefusalCode::Draining, "the node is draining");
        self.is_on().then(refusal)
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        self.refusal().map_or(Ok(()), Err)
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, draining: bool) {
        self.is_on.store(draining, Ordering::Relaxed);
    }

    pub(super) fn held_up(&self) -> Vec<HeldUp> {
        self.held_up.lock().clone()
    }

    pub(super) fn set_held_up(&self, held_up: Vec<HeldUp>) {
        *self.held_up.lock() = held_up;
    }

    /// An operator wants it to drain, or no longer.
    pub(super) fn want(&self, wanted: Option<DrainOptions>) -> Result<AdminResponse, Refusal> {
        if let Some(options) = &wanted {
            options.check()?;
        }
        if self.wanted.receiver_count() == 0 {
            let detail = "the program around this broker does not drain it";
            return Err(Refusal::new(RefusalCode::OutOfRange, detail));
        }
        self.wanted.send_replace(wanted);
        Ok(AdminResponse::Done)
    }
}

/// Tells the program around a broker whether it is to be drained: [`Broker::drain_wishes`].
///
/// [`Broker::drain_wishes`]: crate::Broker::drain_wishes
#[derive(Debug)]
pub struct DrainWishes(watch::Receiver<Option<DrainOptions>>);

impl DrainWishes {
    pub(super) fn new(shared: &Shared) -> Self {
        Self(shared.draining.wanted.subscribe())
    }

    /// Waits until it is to be drained, and says how. Cancel safe. Never ready once the broker is gone.
    pub async fn begun(&mut self) -> DrainOptions {
        let told = self.0.wait_for(Option::is_some).await.ok().and_then(|wanted| wanted.clone());
        match told {
            Some(options) => options,
            None => std::future::pending().await,
        }
    }

    /// Whether and how it is to be drained now.
    #[must_use]
    pub fn wanted(&self) -> Option<DrainOptions> {
        self.0.borrow().clone()
    }

    /// Waits until an operator has said anything since the last call: [`wanted`](Self::wanted) says what.
    /// Cancel safe. Never ready once the broker is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::admin::perform, *};
    use crate::{
        AdminRequest, Message, PublisherOptions,
        broker::{direct::Publisher, testing},
    };

    #[tokio::test]
    async fn a_broker_that_nobody_drains_does_not_say_that_it_will() {
        let (shared, _gate) = testing::shared(true);
        let wish = AdminRequest::Drain { options: DrainOptions::default() };
        let refusal = perform(&shared, wish.clone()).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::OutOfRange);
        let mut wishes = DrainWishes::new(&shared);
        perform(&shared, wish).await.unwrap();
        assert_eq!(wishes.begun().await, DrainOptions::default());
        perform(&shared, AdminRequest::EndDrain).await.unwrap();
        wishes.changed().await;
        assert!(tokio::time::timeout(Duration::from_millis(1), wishes.begun()).await.is_err());
    }

    #[tokio::test]
    async fn what_drains_takes_nothing_in_until_it_no_longer_does() {
        let (shared, _gate) = testing::shared(true);
        let topic = testing::topic("t");
        let open = || Publisher::open(&shared, &topic, PublisherOptions::default(), None);
        let mut publisher = open().await.unwrap();
        publisher.publish(&Message::new("before")).await.unwrap();
        shared.draining.set(true);
        let code = |error| match error {
            crate::DirectError::Refused(refusal) => refusal.code,
            other => panic!("{other}"),
        };
        let refused = publisher.publish(&Message::new("now")).await.unwrap_err();
        assert_eq!(code(refused), RefusalCode::Draining);
        let refusal = shared.topic_by_use(&testing::topic("new"), None).err().unwrap();
        assert_eq!(refusal.code, RefusalCode::Draining);
        let channel = crate::ChannelName::new("c").unwrap();
        let subscribe = |channel: &crate::ChannelName| {
            let options = crate::SubscribeOptions::default();
            crate::Subscription::open(&shared, &topic, channel.clone(), options)
        };
        let refused = subscribe(&channel).await.err().unwrap();
        assert_eq!(code(refused), RefusalCode::NoSuchChannel);
        let make = || AdminRequest::CreateChannel {
            topic: topic.clone(),
            channel: channel.clone(),
            start: crate::StartAt::Earliest,
        };
        assert_eq!(perform(&shared, make()).await.unwrap_err().code, RefusalCode::Draining);
        shared.draining.set(false);
        perform(&shared, make()).await.unwrap();
        shared.draining.set(true);
        subscribe(&channel).await.unwrap();
        shared.draining.set(false);
        let receipt = publisher.publish(&Message::new("after")).await.unwrap();
        assert_eq!(receipt.sequence, 2, "nothing happened meanwhile");
    }
}
