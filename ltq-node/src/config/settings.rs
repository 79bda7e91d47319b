//! Every setting of a node, its default, and the values that it may have.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ltq_core::{
    BrokerSettings, Credit, Durability, EntranceSettings, Retention, StoreError, TopicSettings,
    model::ModelSettings,
};
use ltq_store::FileStoreOptions;
use serde::{Deserialize, Serialize};

use crate::access::NodeAccess;

use super::{
    ConfigError, check_shared,
    choice::{DurabilityChoice, KeepChoice, LogFormat, LogLevel, StoreKind},
    discovery::{self, DiscoverySettings},
    drain::{self, DrainSettings},
    grants::{IdentitySettings, TokenSettings},
    layers,
    limits::Limits,
    listening::{QuicSettings, TlsSettings},
    ranges,
    units::{ByteSize, FileMode, Period, Token},
};

/// The settings of a node. In a file, each field is a key of the same name; the last ones are
/// tables. As a variable a key is `LTQ_` and its name in capitals, a table's name before it:
/// `LTQ_DATA_DIR`, `LTQ_LIMITS_MESSAGE_BYTES_MAX`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The node's name, told to clients, and to registries its id. Default: `ltq`, and to registries the
    /// first address that it is announced with.
    pub node: String,
    /// Where the file store, or RocksDB, keeps its files. Default: `./ltq-data`.
    pub data_dir: PathBuf,
    /// What keeps the messages. Default: `file`.
    pub store: StoreKind,
    /// How durable a message is before it is confirmed, for topics made from now on. Default:
    /// the most that the store can give, `disk` or `memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<DurabilityChoice>,
    /// Where the node listens. Default: `tcp://127.0.0.1:7440`.
    pub listen: Vec<String>,
    /// The registries where the node announces itself. Default: none.
    pub registry: Vec<String>,
    /// The addresses that it is announced with, the preferred ones first. Default: where it listens.
    pub advertise: Vec<String>,
    /// How soon a listener that has failed is opened again. Default: 1 s.
    pub listen_retry: Period,
    /// Who may connect to Unix sockets that it listens on: the permissions of their files. Default:
    /// 600, the user that the node runs as.
    pub unix_mode: FileMode,
    /// Whether the node makes a certificate of its own, for development. Default: false.
    pub dev_tls: bool,
    /// Where it serves HTTP, or `off`. Default: `127.0.0.1:7441`.
    pub http: String,
    /// A secret that permits everything to whoever knows it. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Whether to listen beyond this machine without any token or identity. Default: false.
    pub allow_unauthenticated: bool,
    /// Whether `GET /metrics` is for everybody, as health is. Default: false.
    pub metrics_public: bool,
    /// Whether publishing or subscribing makes a topic that is not there. Default: true.
    pub auto_create_topics: bool,
    /// Whether subscribing makes a channel that is not there. Default: true.
    pub auto_create_channels: bool,
    /// How long a clean stop may take. Default: 30 s.
    pub stop_timeout: Period,
    /// How logs are written. Default: `human`.
    pub log_format: LogFormat,
    /// From which severity on. Default: `info`.
    pub log_level: LogLevel,
    /// How registries are talked to.
    pub discovery: DiscoverySettings,
    /// What becomes of the backlog of a node that is to end.
    pub drain: DrainSettings,
    /// Certificates, for `tls://` and `quic://` addresses.
    pub tls: TlsSettings,
    /// Connections over QUIC.
    pub quic: QuicSettings,
    /// What peers may ask for.
    pub limits: Limits,
    /// How messages are delivered.
    pub delivery: Delivery,
    /// What topics made from now on keep.
    pub retention: RetentionSettings,
    /// The file store.
    pub file_store: FileStoreSettings,
    /// The memory store.
    pub memory_store: MemoryStoreSettings,
    /// The store on RocksDB.
    pub rocksdb_store: RocksDbStoreSettings,
    /// Tokens, each with what it permits. Only in the file. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenSettings>,
    /// Identities that peers prove by their transport, each with what it permits. Only in the file.
    /// Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<IdentitySettings>,
}

/// How messages are delivered: the table `[delivery]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delivery {
    /// How long a delivery may stay unsettled unless its consumer asks otherwise. Default: 60 s.
    pub timeout: Period,
    /// The most that a consumer may ask for. Default: 15 min.
    pub timeout_max: Period,
    /// The longest delay of a requeue. Default: 7 days.
    pub requeue_delay_max: Period,
    /// The most messages of credit that a consumer may have open. Default: 2,500.
    pub credit_messages_max: u64,
    /// The most bytes of credit that a consumer may have open. Default: 16 MiB.
    pub credit_bytes_max: ByteSize,
    /// Runs of unlike fate that a channel may hold before it delivers nothing new. Default:
    /// 100,000.
    pub channel_runs_max: usize,
    /// How long an ack may be known to the node's memory alone. Default: 20 ms.
    pub ack_commit_interval: Period,
}

/// What topics made from now on keep, unless they are made otherwise: the table `[retention]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSettings {
    /// What is kept while no limit says otherwise. Default: `unacked`.
    pub keep: KeepChoice,
    /// Messages older than this are removed, acked or not. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_max: Option<Period>,
    /// The oldest messages beyond so many bytes are removed, acked or not. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<ByteSize>,
}

/// The file store: the table `[file_store]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileStoreSettings {
    /// Memory for the newest messages of all topics together. Default: 64 MiB.
    pub tail_bytes: ByteSize,
    /// What all journal files may take; about as much is read again when the node starts.
    /// Default: 256 MiB.
    pub journal_bytes_max: ByteSize,
    /// How large one segment file grows: space comes back by whole segments. Default: 64 MiB.
    pub segment_bytes: ByteSize,
    /// What all files may take; beyond it publishes are refused. Default: no limit but the
    /// device's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes_max: Option<ByteSize>,
    /// What publishes leave free on the device, so that a full store can still be emptied.
    /// Default: 16 MiB.
    pub reserve_bytes: ByteSize,
    /// After how long what was confirmed as `os` is synced to the device anyway. Default: 1 s.
    pub os_sync_interval: Period,
    /// While syncs take less than this, a small publish that finds nobody else writing is synced by
    /// the thread that received it, which answers sooner; 0 leaves all of them to a thread of the
    /// store's own. Default: 1 ms.
    pub caller_sync_max: Period,
}

/// The memory store: the table `[memory_store]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryStoreSettings {
    /// The most bytes that it keeps; beyond it publishes are refused. Default: 1 GiB.
    pub bytes_max: ByteSize,
}

/// The store on RocksDB: the table `[rocksdb_store]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RocksDbStoreSettings {
    /// Memory for messages: the newest ones, and RocksDB's write buffers and cached blocks.
    /// Default: 64 MiB.
    pub tail_bytes: ByteSize,
    /// What all files may take; beyond it publishes are refused. Default: no limit but the
    /// device's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes_max: Option<ByteSize>,
    /// What publishes leave free on the device, so that a full store can still be emptied.
    /// Default: 16 MiB.
    pub reserve_bytes: ByteSize,
    /// After how long what was confirmed as `os` is synced to the device anyway. Default: 1 s.
    pub os_sync_interval: Period,
}

impl Default for Config {
    fn default() -> Self {
        let broker = BrokerSettings::default();
        Self {
            node: broker.node,
            data_dir: PathBuf::from("./ltq-data"),
            store: StoreKind::File,
            durability: None,
            listen: vec!["tcp://127.0.0.1:7440".to_owned()],
            registry: Vec::new(),
            advertise: Vec::new(),
            listen_retry: Period(Duration::from_secs(1)),
            unix_mode: FileMode(0o600),
            dev_tls: false,
            http: "127.0.0.1:7441".to_owned(),
            token: None,
            allow_unauthenticated: false,
            metrics_public: false,
            auto_create_topics: broker.auto_create_topics,
            auto_create_channels: broker.auto_create_channels,
            stop_timeout: Period(Duration::from_secs(30)),
            log_format: LogFormat::Human,
            log_level: LogLevel::Info,
            discovery: DiscoverySettings::default(),
            drain: DrainSettings::default(),
            tls: TlsSettings::default(),
            quic: QuicSettings::default(),
            limits: Limits::default(),
            delivery: Delivery::default(),
            retention: RetentionSettings::default(),
            file_store: FileStoreSettings::default(),
            memory_store: MemoryStoreSettings::default(),
            rocksdb_store: RocksDbStoreSettings::default(),
            tokens: Vec::new(),
            identities: Vec::new(),
        }
    }
}

impl Default for Delivery {
    fn default() -> Self {
        let model = ModelSettings::default();
        Self {
            timeout: Period(model.delivery_timeout),
            timeout_max: Period(model.delivery_timeout_max),
            requeue_delay_max: Period(model.requeue_delay_max),
            credit_messages_max: model.credit_max.messages,
            credit_bytes_max: ByteSize(model.credit_max.bytes),
            channel_runs_max: model.channel_runs_max,
            ack_commit_interval: Period(model.ack_commit_interval),
        }
    }
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self { keep: KeepChoice::Unacked, age_max: None, bytes_max: None }
    }
}

impl Default for FileStoreSettings {
    fn default() -> Self {
        Self {
            tail_bytes: ByteSize(64 << 20),
            journal_bytes_max: ByteSize(256 << 20),
            segment_bytes: ByteSize(64 << 20),
            disk_bytes_max: None,
            reserve_bytes: ByteSize(16 << 20),
            os_sync_interval: Period(Duration::from_secs(1)),
            caller_sync_max: Period(Duration::from_millis(1)),
        }
    }
}

impl Default for MemoryStoreSettings {
    fn default() -> Self {
        Self { bytes_max: ByteSize(1 << 30) }
    }
}

impl Default for RocksDbStoreSettings {
    fn default() -> Self {
        Self {
            tail_bytes: ByteSize(64 << 20),
            disk_bytes_max: None,
            reserve_bytes: ByteSize(16 << 20),
            os_sync_interval: Period(Duration::from_secs(1)),
        }
    }
}

impl Config {
    /// How durable a message of a new topic is before it is confirmed.
    #[must_use]
    pub fn durability(&self) -> Durability {
        match (self.durability, self.store) {
            (Some(choice), _) => choice.into(),
            (None, StoreKind::File | StoreKind::RocksDb) => Durability::Disk,
            (None, StoreKind::Memory) => Durability::Memory,
        }
    }

    /// Where HTTP is served; `None` when it is off.
    #[must_use]
    pub fn http_address(&self) -> Option<&str> {
        (self.http != HTTP_OFF).then_some(&*self.http)
    }

    /// Whether peers have to say who they are.
    #[must_use]
    pub fn authenticates(&self) -> bool {
        self.token.is_some() || !self.tokens.is_empty() || !self.identities.is_empty()
    }

    /// What of this is the broker's.
    #[must_use]
    pub fn broker_settings(&self) -> BrokerSettings {
        let (limits, delivery) = (&self.limits, &self.delivery);
        // What does not fit is beyond any limit, and refused by `check` as too large.
        let small = |size: ByteSize| u32::try_from(size.0).unwrap_or(u32::MAX);
        let word = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        BrokerSettings {
            node: self.node.clone(),
            access: Arc::new(NodeAccess::new(self)),
            topic: TopicSettings {
                durability: self.durability(),
                retention: Retention {
                    keep: self.retention.keep.into(),
                    age_max: self.retention.age_max.map(|age| age.0),
                    bytes_max: self.retention.bytes_max.map(|bytes| bytes.0),
                },
            },
            auto_create_topics: self.auto_create_topics,
            auto_create_channels: self.auto_create_channels,
            topics_max: limits.topics_max,
            connections_max: limits.connections_max,
            connections_per_address_max: limits.connections_per_address_max,
            entrance: EntranceSettings {
                greeting_connections_max: limits.greeting_connections_max,
                greeting_connections_per_address_max: limits.greeting_connections_per_address_max,
                connections_per_second_max: limits.connections_per_second_max,
                exempt_addresses: limits.exempt_addresses.networks(),
            },
            streams_max: limits.streams_max,
            unknown_streams_max: limits.unknown_streams_max,
            opening_streams_max: limits.opening_streams_max,
            message_bytes_max: small(limits.message_bytes_max),
            frame_bytes_max: small(limits.frame_bytes_max),
            subscriptions_max: limits.subscriptions_max,
            producers_max: limits.producers_max,
            handles_total_max: limits.handles_total_max,
            handles_per_address_max: limits.handles_per_address_max,
            futile_frames_max: limits.futile_frames_max,
            topics_per_minute_max: limits.topics_per_minute_max,
            channels_per_minute_max: limits.channels_per_minute_max,
            wrong_tokens_max: limits.wrong_tokens_max,
            lockout_max: limits.lockout_max.0,
            addresses_known_max: limits.addresses_known_max,
            requests_max: limits.requests_max,
            surveys_max: limits.surveys_max,
            topic_lists_max: limits.topic_lists_max,
            inbox_entries_max: limits.inbox_entries_max,
            answer_bytes_max: word(limits.answer_bytes_max),
            answer_bytes_per_connection_max: limits.answer_bytes_per_connection_max.map(word),
            answer_bytes_per_address_max: limits.answer_bytes_per_address_max.map(word),
            answer_bytes_total_max: word(limits.answer_bytes_total_max),
            publish_bytes_max: limits.publish_bytes_max.0,
            publish_bytes_per_connection_max: limits
                .publish_bytes_per_connection_max
                .map(|it| it.0),
            publish_bytes_per_address_max: limits.publish_bytes_per_address_max.map(|it| it.0),
            publish_bytes_total_max: word(limits.publish_bytes_total_max),
            partial_bytes_total_max: word(limits.partial_bytes_total_max),
            partial_bytes_free: word(limits.partial_bytes_free),
            delivery_bytes_max: word(limits.delivery_bytes_max),
            delivery_bytes_per_address_max: limits.delivery_bytes_per_address_max.map(word),
            delivery_bytes_total_max: word(limits.delivery_bytes_total_max),
            hello_timeout: limits.hello_timeout.0,
            heartbeat: limits.heartbeat.0,
            stall_timeout: limits.stall_timeout.0,
            slow_read_stalls: limits.slow_read_stalls,
            model: ModelSettings {
                delivery_timeout: delivery.timeout.0,
                delivery_timeout_max: delivery.timeout_max.0,
                requeue_delay_max: delivery.requeue_delay_max.0,
                credit_max: Credit {
                    messages: delivery.credit_messages_max,
                    bytes: delivery.credit_bytes_max.0,
                },
                channels_max: limits.channels_max,
                consumers_max: limits.consumers_max,
                producers_known_max: limits.producers_known_max,
                channel_runs_max: delivery.channel_runs_max,
                ack_commit_interval: delivery.ack_commit_interval.0,
                commit_bytes_max: self.commit_bytes_max(),
                discard_bytes: self.discard_bytes(),
                ..ModelSettings::default()
            },
        }
    }

    /// The most that publishes that come together are one commit of: what the file store takes at
    /// once, with room for what else goes along, as far as its journal is small.
    fn commit_bytes_max(&self) -> usize {
        let usual = ModelSettings::default().commit_bytes_max;
        match self.store {
            StoreKind::File => {
                let most = self.file_store.journal_bytes_max.0 / JOURNAL_BY_FRAME;
                usual.min(usize::try_from(most).unwrap_or(usual))
            }
            StoreKind::Memory | StoreKind::RocksDb => usual,
        }
    }

    /// What a topic may keep of acked messages among others: a quarter of a segment, so that files
    /// take at most twice what is wanted, and a segment for each topic.
    fn discard_bytes(&self) -> u64 {
        let usual = ModelSettings::default().discard_bytes;
        match self.store {
            StoreKind::File => usual.min(self.file_store.segment_bytes.0 / 4),
            StoreKind::Memory | StoreKind::RocksDb => usual,
        }
    }

    /// What of this is the file store's.
    #[must_use]
    pub fn file_store_options(&self) -> FileStoreOptions {
        let files = &self.file_store;
        let journal = files.journal_bytes_max.0;
        FileStoreOptions::new(&self.data_dir)
            .tail_bytes(files.tail_bytes.0)
            // A quarter of the journal is the most that one of its files may take.
            .journal_file_bytes((journal / 4).min(JOURNAL_FILE_BYTES))
            .journal_bytes_max(journal)
            .segment_bytes(files.segment_bytes.0)
            .disk_bytes_max(files.disk_bytes_max.map(|bytes| bytes.0))
            .reserve_bytes(files.reserve_bytes.0)
            .os_sync_interval(files.os_sync_interval.0)
            .caller_sync_max(files.caller_sync_max.0)
    }

    /// What of this is the store's on RocksDB.
    #[cfg(feature = "rocksdb")]
    #[must_use]
    pub fn rocksdb_store_options(&self) -> ltq_store::RocksDbStoreOptions {
        let rocksdb = &self.rocksdb_store;
        ltq_store::RocksDbStoreOptions::new(&self.data_dir)
            .tail_bytes(rocksdb.tail_bytes.0)
            .disk_bytes_max(rocksdb.disk_bytes_max.map(|bytes| bytes.0))
            .reserve_bytes(rocksdb.reserve_bytes.0)
            .os_sync_interval(rocksdb.os_sync_interval.0)
    }

    /// Checks that the settings can be, each and together.
    ///
    /// # Errors
    /// The first [`ConfigError::Value`] found.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |key: &str, value: &dyn ToString, rule: String| {
            Err(ConfigError::Value { key: key.to_owned(), value: value.to_string(), rule })
        };
        if self.store == StoreKind::Memory && self.durability() > Durability::Memory {
            let rule = "the memory store reaches \"memory\"; use that, or store = \"file\"";
            return bad("durability", &self.durability(), rule.to_owned());
        }
        #[cfg(not(feature = "rocksdb"))]
        if self.store == StoreKind::RocksDb {
            let rule = "this ltq-node was built without it; build one that has it with cargo build \
                        --release -p ltq-node --features rocksdb, or use \"file\"";
            return bad("store", &self.store, rule.to_owned());
        }
        if self.data_dir.as_os_str().is_empty() {
            return bad("data_dir", &"", "name a directory, such as \"./ltq-data\"".to_owned());
        }
        check_shared(self)?;
        discovery::check(self)?;
        drain::check(self)?;
        ranges::check(self)?;
        let broker = self.broker_settings();
        broker.check().or_else(|error| {
            let key = ranges::key_of(error.setting);
            let value = layers::shown(self, &key).unwrap_or(error.value);
            bad(&key, &value, error.rule)
        })?;
        ranges::check_together(self)?;
        #[cfg(feature = "rocksdb")]
        self.rocksdb_store_options()
            .check()
            .map_err(|error| ConfigError::RocksDbStore(rule_of(error)))?;
        self.file_store_options().check().map_err(|error| ConfigError::FileStore(rule_of(error)))
    }
}

/// What a store says of its options.
fn rule_of(error: StoreError) -> String {
    match error {
        StoreError::Invalid(rule) => rule,
        error => error.to_string(),
    }
}

/// The journal is so many times as large as a frame at least: a publish may be as large as a frame,
/// the file store takes a quarter of its journal at once, and states of channels go along.
pub(super) const JOURNAL_BY_FRAME: u64 = 8;
/// As much as a spinning disk writes in about half a second.
const JOURNAL_FILE_BYTES: u64 = 64 << 20;

/// The value of `http` that serves none.
pub const HTTP_OFF: &str = "off";
