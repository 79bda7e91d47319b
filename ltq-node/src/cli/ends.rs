//! Where messages go to and come from: one node, or those that registries, an etcd or DNS names tell of.

use std::borrow::Borrow;

use ltq_client::{
    Availability, Batch, Client, Cluster, ClusterBatch, ClusterConsumer, ClusterPendingBatch,
    ClusterProducer, Consumer, Delivery, Durability, Message, PendingBatch, Producer, Received,
    SettleError, StaleError,
};
use serde_json::{Value, json};

use super::{
    CliError,
    args::{PubArgs, ServerArgs, SubArgs},
    connect::{connect, template},
    lookup,
};

/// A client of one node, or of many.
#[derive(Clone)]
pub(crate) enum Ends {
    Node(Client),
    Cluster(Cluster),
}

impl Ends {
    /// Of the node that `server` names, or those that registries tell of where there are any.
    pub(crate) async fn connect(
        server: &ServerArgs,
        registries: &[String],
    ) -> Result<Self, CliError> {
        if registries.is_empty() {
            return Ok(Self::Node(connect(server).await?));
        }
        // The time that the whole command has, for a registry that starts together with it.
        let client = template(server).connect_timeout(server.timeout);
        #[cfg(any(feature = "tls", feature = "quic"))]
        let client = client.transports(server.tls.every_transport()?);
        let discovery = lookup::discovery(server, registries)?;
        let cluster = Cluster::builder().client(client).discovery_arc(discovery);
        Ok(Self::Cluster(cluster.connect().await?))
    }

    pub(crate) async fn publisher(
        &self,
        server: &ServerArgs,
        args: &PubArgs,
    ) -> Result<Publisher, CliError> {
        match self {
            Self::Node(client) => {
                let mut builder = client.producer_builder(&args.topic).timeout(server.timeout);
                if let Some(name) = &args.name {
                    builder = builder.name(name.as_str());
                }
                if let Some(durability) = args.durability {
                    builder = builder.durability(durability);
                }
                Ok(Publisher::Node(builder.open().await?))
            }
            Self::Cluster(cluster) => {
                let mut builder = cluster.producer_builder(&args.topic).timeout(server.timeout);
                if let Some(durability) = args.durability {
                    builder = builder.durability(durability);
                }
                if args.ordered {
                    // The lines were read already: there is nobody to wait for a backlog.
                    builder = builder.ordered(Availability::Fail).moves_silently(true);
                }
                Ok(Publisher::Cluster(builder.open().await?))
            }
        }
    }

    pub(crate) async fn reader(
        &self,
        args: &SubArgs,
        messages: u64,
        bytes: u64,
    ) -> Result<Reader, CliError> {
        match self {
            Self::Node(client) => {
                let builder = client.consumer_builder(&args.topic, &args.channel);
                let builder = builder.start(args.from).credit(messages, bytes);
                Ok(Reader::Node(builder.open().await?))
            }
            Self::Cluster(cluster) => {
                let builder = cluster.consumer_builder(&args.topic, &args.channel);
                let builder = builder.start(args.from).credit(messages, bytes);
                Ok(Reader::Cluster(builder.open().await?))
            }
        }
    }

    pub(crate) async fn close(self) -> Result<(), CliError> {
        match self {
            Self::Node(client) => Ok(client.close().await?),
            Self::Cluster(cluster) => Ok(cluster.close().await?),
        }
    }
}

/// Publishes to one topic.
pub(crate) enum Publisher {
    Node(Producer),
    Cluster(ClusterProducer),
}

/// The receipt of one message.
pub(crate) struct Receipt {
    pub(crate) durability: Durability,
    /// For programs.
    pub(crate) shown: Value,
}

impl Publisher {
    pub(crate) async fn send(&self, message: Message) -> Result<Receipt, CliError> {
        let (receipt, node) = match self {
            Self::Node(producer) => (producer.send(message).await?, None),
            Self::Cluster(producer) => {
                let sent = producer.send(message).await?;
                (sent.receipt, Some(sent.node))
            }
        };
        let mut shown = json!({
            "topic": receipt.topic,
            "offset": receipt.offset,
            "sequence": receipt.sequence,
            "durability": receipt.durability,
        });
        if let (Some(node), Some(shown)) = (node, shown.as_object_mut()) {
            shown.insert("node".to_owned(), node.as_str().into());
        }
        Ok(Receipt { durability: receipt.durability, shown })
    }

    /// How many messages are stored under its name already, if that was given.
    pub(crate) fn stored(&self) -> u64 {
        match self {
            Self::Node(producer) => producer.last_sequence(),
            // Nodes share nothing, and each knows of its own.
            Self::Cluster(_) => 0,
        }
    }

    /// Publishes one, and says how durable it is.
    pub(crate) async fn confirmed(&self, message: Message) -> Result<Durability, CliError> {
        Ok(match self {
            Self::Node(producer) => producer.send(message).await?.durability,
            Self::Cluster(producer) => producer.send(message).await?.receipt.durability,
        })
    }

    pub(crate) async fn enqueue_batch<I>(&self, messages: I) -> Result<Pending, CliError>
    where
        I: IntoIterator,
        I::Item: Borrow<Message>,
    {
        match self {
            Self::Node(producer) => Ok(Pending::Node(producer.enqueue_batch(messages).await?)),
            Self::Cluster(producer) => {
                Ok(Pending::Cluster(producer.enqueue_batch(messages).await?))
            }
        }
    }

    /// The batches that messages are to be published in, for what each may hold.
    pub(crate) fn batches(&self, messages: Vec<Message>, ordered: bool) -> Vec<Vec<Message>> {
        match self {
            // Neighbours may have keys of different nodes.
            Self::Cluster(_) if ordered => messages.into_iter().map(|one| vec![one]).collect(),
            _ => vec![messages],
        }
    }
}

/// Messages that are on their way.
pub(crate) enum Pending {
    Node(PendingBatch),
    Cluster(ClusterPendingBatch),
}

/// What became of them.
pub(crate) struct Became {
    pub(crate) confirmed: usize,
    /// The least, of those that are confirmed.
    pub(crate) durability: Option<Durability>,
    pub(crate) failure: Option<CliError>,
}

impl Pending {
    pub(crate) async fn became(self) -> Became {
        match self {
            Self::Node(pending) => {
                let (receipt, failure) = match pending.await {
                    Ok(receipt) => (receipt, None),
                    Err(failed) => (failed.stored, Some(failed.error.into())),
                };
                let durability = (!receipt.is_empty()).then(|| receipt.durability());
                Became { confirmed: receipt.len(), durability, failure }
            }
            Self::Cluster(pending) => {
                let (receipt, failure) = match pending.await {
                    Ok(receipt) => (receipt, None),
                    Err(failed) => (failed.stored, Some(failed.error.into())),
                };
                Became { confirmed: receipt.len(), durability: receipt.durability(), failure }
            }
        }
    }
}

/// Reads one channel.
pub(crate) enum Reader {
    Node(Consumer),
    Cluster(ClusterConsumer),
}

impl Reader {
    /// The next ones of one node; an error of which nothing has to come of.
    pub(crate) async fn next_batch(&mut self, max: usize) -> Option<Result<Taken, NotTaken>> {
        match self {
            Self::Node(consumer) => Some(match consumer.next_batch(max).await? {
                Ok(batch) => Ok(Taken::Node(batch)),
                Err(error) => Err(NotTaken { is_end: error.is_end(), why: error.to_string() }),
            }),
            Self::Cluster(consumer) => Some(match consumer.next_batch(max).await? {
                Ok(batch) => Ok(Taken::Cluster(batch)),
                Err(error) => Err(NotTaken { is_end: error.is_end(), why: error.to_string() }),
            }),
        }
    }

    pub(crate) async fn close(self) -> Result<(), CliError> {
        match self {
            Self::Node(consumer) => Ok(consumer.close().await?),
            Self::Cluster(consumer) => {
                consumer.close().await.map_err(|error| CliError::Failed(error.to_string()))
            }
        }
    }
}

/// What came in place of messages.
pub(crate) struct NotTaken {
    pub(crate) is_end: bool,
    pub(crate) why: String,
}

/// Messages that came together.
pub(crate) enum Taken {
    Node(Batch),
    Cluster(ClusterBatch),
}

impl Taken {
    fn batch(&self) -> &Batch {
        match self {
            Self::Node(batch) => batch,
            Self::Cluster(batch) => batch,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.batch().len()
    }

    pub(crate) fn iter(
        &self,
    ) -> impl Iterator<Item = Result<Received, ltq_client::ConsumeError>> + '_ {
        self.batch().iter()
    }

    pub(crate) fn ack_all(self) -> Result<(), StaleError> {
        match self {
            Self::Node(batch) => batch.ack_all(),
            Self::Cluster(batch) => batch.ack_all(),
        }
    }

    pub(crate) async fn ack_all_confirmed(self) -> Result<(), SettleError> {
        match self {
            Self::Node(batch) => batch.ack_all_confirmed().await,
            Self::Cluster(batch) => batch.ack_all_confirmed().await,
        }
    }

    /// Those that can be read.
    pub(crate) fn into_deliveries(self) -> Vec<Delivery> {
        match self {
            Self::Node(batch) => batch.into_deliveries().flatten().collect(),
            Self::Cluster(batch) => {
                let readable = batch.into_deliveries().flatten();
                readable.map(ltq_client::ClusterDelivery::into_delivery).collect()
            }
        }
    }
}
