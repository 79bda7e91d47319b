//! LTQ's heart: topics, channels and messages in flight, the contracts that stores and transports
//! keep, the wire protocol, and the [`Broker`] that runs them.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod model;
pub mod process;
pub mod protocol;

mod access;
mod admin;
mod broker;
mod channel_options;
mod environment;
mod headers;
mod message;
mod name;
mod networks;
mod origin;
mod permissions;
mod records;
mod refusal;
mod retention;
mod seat;
mod store;
mod store_layer;
mod transport;
mod units;
mod varint;
mod write_batch;

pub use access::{Access, Denied, Everybody, Grant, SharedToken, TOKEN_BYTES_MAX, TokenError};
pub use admin::{
    AdminRequest, AdminResponse, ChannelStats, DrainOptions, HeldUp, NodeStats, TopicOptions,
    TopicSettings, TopicStats,
};
pub use broker::{
    Arrivals, Broker, BrokerCounters, BrokerError, BrokerSettings, BrokerUse, CatalogueChanges,
    CatalogueWatch, ConnectionLimits, DirectError, DrainWishes, Entrance, EntranceFigures,
    EntranceSettings, Entry, Farewells, Full, Publisher, PublisherOptions, Receipt, Received,
    SettingsError, SubscribeOptions, Subscription, part,
};
pub use channel_options::{Credit, Settlement, StartAt, StartAtError, Tag, TagRange, Verdict};
pub use environment::{Entropy, Environment, SystemClock, SystemEntropy, WallClock};
pub use headers::{HeaderIter, Headers};
pub use message::{Message, MessageError};
pub use name::{ChannelName, EPHEMERAL, NAME_BYTES_MAX, NameError, ProducerName, TopicName};
pub use networks::{Network, NetworkError, Networks};
pub use origin::Origin;
pub use permissions::{Action, PatternError, Permissions, TopicPattern};
pub use records::{RecordBatch, Records, RecordsBuilder, RecordsError, TABLE_ENTRY_BYTES};
pub use refusal::{Effect, Limit, Refusal, RefusalCode};
pub use retention::{Keep, Retention, RetentionChange, RetentionError, UnknownKeep};
pub use seat::Seat;
pub use store::{
    Bounds, Committed, KEY_BYTES_MAX, LOG_NAME_BYTES_MAX, LogInfo, LogName, LogOptions, ReadLimits,
    Store, StoreError, StoreStats, VALUE_BYTES_MAX,
};
pub use store_layer::StoreLayer;
pub use transport::{
    Address, AddressError, Connection, Listener, Peer, RecvStream, SendStream, Stream, Transport,
    TransportError,
};
pub use units::{Durability, Monotonic, Now, Offset, Timestamp, UnknownDurability};
pub use write_batch::{WriteBatch, WriteOp};
