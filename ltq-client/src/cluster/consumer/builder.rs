//! How a cluster's consumer is made.

use std::{sync::Arc, time::Duration};

use ltq_core::{ChannelName, Credit, StartAt, TopicName, process::inherit};
use ltq_discovery::{DiscoveryError, Interest};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tracing::warn;

use super::{
    ClusterConsumer,
    driver::Driver,
    shared::{Shared, Sight},
};
use crate::{
    Cluster, ClusterError, NodesNotUsed, RequestError,
    cluster::{
        Members,
        following::{Word, follow},
        loads::same_but_for_loads,
    },
    consumer::{Settings, check_timeout},
};

/// Sets a consumer up: [`Cluster::consumer_builder`].
#[derive(Debug)]
#[must_use = "nothing happens before `open`"]
pub struct ClusterConsumerBuilder {
    cluster: Cluster,
    topic: Result<TopicName, RequestError>,
    channel: Result<ChannelName, RequestError>,
    start: StartAt,
    timeout: Option<Duration>,
    credit: Credit,
    every_node: bool,
}

impl ClusterConsumerBuilder {
    pub(in crate::cluster) const fn new(
        cluster: Cluster,
        topic: Result<TopicName, RequestError>,
        channel: Result<ChannelName, RequestError>,
    ) -> Self {
        Self {
            cluster,
            topic,
            channel,
            start: StartAt::Earliest,
            timeout: None,
            credit: Credit { messages: 2_500, bytes: 16 << 20 },
            every_node: false,
        }
    }

    /// Where the channel starts on each node that does not have it yet. Default: with the oldest message
    /// that the topic keeps there. [`StartAt::Offset`] is seldom of use: each node counts for itself.
    pub const fn start(mut self, start: StartAt) -> Self {
        self.start = start;
        self
    }

    /// How long a delivery may stay unsettled before its node delivers it again, at least 1 ms; nodes
    /// have bounds of their own. Default: as each node is set.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How much may be delivered and not settled at once, on all nodes together; at least 1 of each. The
    /// message that uses up the last bytes may go beyond, on each node. It can be
    /// [changed](ClusterConsumer::set_credit) later. Default: 2,500 messages and 16 MiB.
    pub fn credit(mut self, messages: u64, bytes: u64) -> Self {
        self.credit = Credit { messages: messages.max(1), bytes: bytes.max(1) };
        self
    }

    /// Subscribes at every node, whether or not it has the topic, making topic and channel there where
    /// the node allows it: so the channel is there before a first message is. Default: no; where the
    /// discovery scheme tells which nodes have the topic, those are subscribed at.
    pub const fn every_node(mut self, every_node: bool) -> Self {
        self.every_node = every_node;
        self
    }

    /// Begins to subscribe, and waits for the first node that lets it. The others follow in the
    /// background. Where no node has the topic it waits for none: messages come when one has.
    ///
    /// # Cancellation
    /// Dropping it gives the consumer up; topics and channels may have been made.
    ///
    /// # Errors
    /// [`ClusterError::Name`], [`ClusterError::Option`]; [`ClusterError::NotConsumed`] when every node
    /// refuses it for a reason that stays; [`ClusterError::NoSubscription`] by the client's request
    /// timeout; [`ClusterError::Closed`].
    pub async fn open(self) -> Result<ClusterConsumer, ClusterError> {
        let members = self.cluster.members().clone();
        let template = members.template();
        check_timeout(self.timeout)?;
        let settings = Settings {
            topic: self.topic?,
            channel: self.channel?,
            start: self.start,
            timeout: self.timeout,
            credit: self.credit,
            make_topic: true,
        };
        let entropy = template.get_entropy().clone();
        let shared = Arc::new(Shared::new(settings.clone(), template.get_backoff(), entropy));
        self.cluster.register_consumer(&shared)?;
        let mut watching = JoinSet::new();
        let sight =
            (!self.every_node).then(|| watch_topic(&members, &settings.topic, &mut watching));
        let (first, opened) = oneshot::channel();
        let driver = Driver::new(shared.clone(), members.clone(), (sight, watching), first);
        tokio::spawn(inherit(driver.run()));
        // From here on dropping this future closes the consumer.
        let consumer = ClusterConsumer { shared };
        let after = template.get_request_timeout();
        match timeout(after, opened).await {
            Ok(Ok(Ok(()))) => Ok(consumer),
            Ok(Ok(Err(error))) => Err(ClusterError::NotConsumed(error)),
            Ok(Err(_)) => Err(ClusterError::Closed),
            Err(_) => {
                let Settings { topic, channel, .. } = settings;
                let nodes = consumer.shared.why_not(&members.nodes());
                let nodes = NodesNotUsed(nodes.into());
                Err(ClusterError::NoSubscription { topic, channel, after, nodes })
            }
        }
    }
}

/// Begins to watch which nodes have the topic, for as long as `watching` is there.
fn watch_topic(
    members: &Arc<Members>,
    topic: &TopicName,
    watching: &mut JoinSet<()>,
) -> watch::Receiver<Sight> {
    let (told, sight) = watch::channel(Sight::Unknown);
    let (name, tells_topics) = (topic.clone(), members.discovery().tells_topics());
    let hear = move |word| {
        let said = match word {
            Word::Nodes(nodes) => Sight::Nodes(nodes),
            // One that tells of topics is asked again and again.
            Word::Trouble(DiscoveryError::Unreachable { .. }) if tells_topics => Sight::Unasked,
            Word::Trouble(_) => Sight::AllNodes,
        };
        told.send_if_modified(|sight| {
            let is_news = match (&*sight, &said) {
                // How much waits at a node is nothing to its consumers.
                (Sight::Nodes(now), Sight::Nodes(nodes)) => !same_but_for_loads(now, nodes),
                (_, Sight::Nodes(_)) | (Sight::Unknown, _) => true,
                (Sight::Unasked, said) => matches!(said, Sight::AllNodes),
                _ => false,
            };
            if is_news {
                warn_of(&name, &said);
                *sight = said;
            }
            is_news
        });
    };
    let (discovery, interest) = (members.discovery().clone(), Interest::Topic(topic.clone()));
    let members = members.clone();
    let wait = move |failures| members.wait(failures);
    watching.spawn(inherit(follow(discovery, interest, wait, hear)));
    sight
}

fn warn_of(topic: &TopicName, sight: &Sight) {
    match sight {
        Sight::AllNodes => {
            warn!(%topic, "not known which nodes have it; subscribing at all of them, and making it there");
        }
        Sight::Unasked => {
            warn!(%topic, "nobody can be asked which nodes have it; subscribing at those that say so themselves");
        }
        Sight::Unknown | Sight::Nodes(_) => {}
    }
}
