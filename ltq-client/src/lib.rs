//! The client of the LTQ message broker: producers whose every message ends in a receipt or in an
//! error that says whether it may have happened, consumers that settle what they were given, and
//! one connection under all of them that comes back by itself and loses and repeats nothing. A
//! [`Cluster`] publishes to many nodes, and consumes from them, which it finds by a discovery scheme.
//!
//! ```no_run
//! use ltq_client::{Client, Message};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("tcp://127.0.0.1:7440").await?;
//!
//! let producer = client.producer("orders").await?;
//! let receipt = producer.send(Message::new("hello")).await?;
//! println!("stored at {:?}, {}", receipt.offset, receipt.durability);
//!
//! let mut consumer = client.consumer("orders", "billing").await?;
//! while let Some(delivery) = consumer.next().await {
//!     let delivery = delivery?;
//!     println!("{:?}", delivery.message.body);
//!     delivery.ack()?;
//! }
//! client.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! | feature | brings |
//! |---|---|
//! | `tls` | `tls://` addresses |
//! | `quic` | `quic://` addresses |
//!
//! Neither is on by default. Both take `ClientBuilder::trust`, which says whom to trust.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod admin;
mod backoff;
mod builder;
mod client;
mod cluster;
mod connection;
mod consumer;
mod error;
mod producer;
mod state;

pub use admin::Admin;
pub use backoff::Backoff;
pub use builder::ClientBuilder;
pub use client::Client;
pub use cluster::{
    Availability, Choice, Cluster, ClusterBatch, ClusterBatchError, ClusterBatchReceipt,
    ClusterBuilder, ClusterConsumeError, ClusterConsumer, ClusterConsumerBuilder,
    ClusterConsumerFigures, ClusterDelivery, ClusterError, ClusterFigures, ClusterLeaveError,
    ClusterPendingBatch, ClusterPendingReceipt, ClusterProducer, ClusterProducerBuilder,
    ClusterPublishError, ClusterReceipt, ClusterReceived, ConsumedNode, Failover, ID_HEADER,
    NodeFigures, NodeNotUsed, NodeStatus, NodesNotUsed, SubscriptionState, ordered_home,
};
pub use consumer::{
    Batch, Consumer, ConsumerBuilder, ConsumerSeat, CreditUse, Delivery, ForEach, ForEachSummary,
    Received, StopHandle,
};
pub use error::{
    BatchError, CloseError, ConnectError, ConsumeError, Outcome, PublishError, RequestError,
    SettleError, StaleError, UnknownCause,
};
pub use producer::{
    BatchReceipt, PendingBatch, PendingReceipt, Producer, ProducerBuilder, Receipt, Receipts,
};
pub use state::ConnectionState;

#[cfg(any(feature = "tls", feature = "quic"))]
pub use ltq_transport::{ClientTrust, Fingerprint, Pem, TrustError};

pub use ltq_discovery::{Discovery, NodeId, NodeIdError, NodeInfo, NodeSet};

pub use ltq_core::{
    ChannelName, ChannelStats, Credit, DrainOptions, Durability, Headers, HeldUp, Keep, Message,
    NodeStats, Offset, ProducerName, Refusal, RefusalCode, Retention, RetentionChange, StartAt,
    Timestamp, TopicName, TopicOptions, TopicSettings, TopicStats, protocol::InstanceId,
};
