//! Consumers of one node each, one after the other in one seat.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ltq_client::{ClientBuilder, Cluster, ConsumeError, Consumer, ConsumerSeat, RefusalCode};
use ltq_core::Address;
use ltq_discovery::NodeId;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    CHANNEL, CREDIT, Failed, Journal,
    consuming::{QUIET, Taking},
    ways::Take,
};

/// Who takes the messages of a topic so.
pub(super) struct Seats {
    pub(super) cluster: Cluster,
    /// By which nodes are talked to, but for their addresses.
    pub(super) client: ClientBuilder,
    pub(super) scheme: &'static str,
    pub(super) topic: String,
}

impl Seats {
    /// Takes what comes of every node that is ever told of, for ever.
    pub(super) async fn consume(self, journal: Arc<Journal>) -> Result<(), Failed> {
        let this = Arc::new(self);
        let (mut known, mut consuming) = (BTreeSet::new(), JoinSet::new());
        loop {
            for node in this.cluster.nodes().iter() {
                if known.insert(node.id().clone()) {
                    let taking = Taking::new(&this.topic, Take::Seat, journal.clone());
                    consuming.spawn(this.clone().of_node(node.id().clone(), taking));
                }
            }
            tokio::select! {
                Some(ended) = consuming.join_next() => ended??,
                () = sleep(LOOK) => {}
            }
        }
    }

    async fn of_node(self: Arc<Self>, node: NodeId, mut taking: Taking) -> Result<(), Failed> {
        let seat = ConsumerSeat::new();
        let mut address = None;
        // Who sits there until the next one comes. It never says goodbye.
        let mut before: Option<Consumer> = None;
        loop {
            let nodes = self.cluster.nodes();
            let told = nodes.iter().find(|one| *one.id() == node);
            address = told.and_then(|one| one.address(self.scheme)).cloned().or(address);
            let opened = match &address {
                Some(address) => self.open(address, &seat).await,
                None => Err("it has no address".into()),
            };
            let mut consumer = match opened {
                Ok(consumer) => consumer,
                Err(error) => {
                    eprintln!("taking a seat at {node}, again: {error}");
                    sleep(LOOK).await;
                    continue;
                }
            };
            drop(before.take());
            let until = Instant::now() + SITS;
            while Instant::now() < until {
                match timeout(QUIET, consumer.next()).await {
                    Ok(None) => break,
                    Ok(Some(Ok(delivery))) => taking.take(node.as_str(), delivery).await?,
                    Ok(Some(Err(error))) if error.is_end() => {
                        if let ConsumeError::Ended(refusal) = &error
                            && refusal.code == RefusalCode::Fenced
                        {
                            return Err(format!("the last to come lost its seat: {error}").into());
                        }
                        break;
                    }
                    Ok(Some(Err(error))) => eprintln!("consuming from {node}: {error}"),
                    Err(_) => taking.answer().await?,
                }
            }
            before = Some(consumer);
        }
    }

    /// Over a connection of its own, with what the one before holds still open.
    async fn open(&self, address: &Address, seat: &ConsumerSeat) -> Result<Consumer, Failed> {
        let client = self.client.clone().server(&address.to_string()).connect().await?;
        let builder = client.consumer_builder(self.topic.as_str(), CHANNEL);
        Ok(builder.credit(CREDIT, 1 << 20).seat(seat).open().await?)
    }
}

/// How often it is looked for nodes, and tried again what failed.
const LOOK: Duration = Duration::from_millis(200);
/// How long each one sits.
const SITS: Duration = Duration::from_secs(2);
