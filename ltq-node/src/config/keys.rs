//! The settings of a node as a table of keys.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use ltq_core::Retention;
use toml::{Table, Value};

use super::{
    ConfigError, Flags,
    choice::DurabilityChoice,
    discovery::DiscoverySettings,
    drain::DrainSettings,
    grants::{IdentitySettings, TokenHash, TokenSettings},
    layers::Settings,
    limits::Limits,
    listening::{QuicSettings, TlsSettings},
    settings::{Config, FileStoreSettings, RetentionSettings, RocksDbStoreSettings},
    units::Period,
};

impl Settings for Config {
    type Flags = Flags;
    const PREFIX: &'static str = "LTQ_";
    /// Those of the `ltq` command.
    const NOT_OURS: &'static [&'static str] = &[
        "LTQ_HEARTBEAT",
        "LTQ_SERVER",
        "LTQ_TLS_CA",
        "LTQ_TLS_FINGERPRINT",
        "LTQ_TLS_CLIENT_CERT",
        "LTQ_TLS_CLIENT_KEY",
        "LTQ_ETCD_USER",
        "LTQ_ETCD_PASSWORD",
    ];
    /// Those of a registry and of a bridge, and what a container platform sets by itself for a service that is called
    /// `ltq`.
    const NOT_OURS_PREFIXES: &'static [&'static str] =
        &["LTQ_REGISTRY_", "LTQ_BRIDGE_", "LTQ_SERVICE_", "LTQ_PORT"];

    fn every_key() -> &'static Table {
        &EVERY_KEY
    }

    fn given(flags: &Flags) -> Vec<(&'static str, Value)> {
        flags.values()
    }

    fn file(flags: &Flags) -> Option<&Path> {
        flags.config.as_deref()
    }

    fn check(&self) -> Result<(), ConfigError> {
        Self::check(self)
    }

    fn as_node(&self) -> Cow<'_, Config> {
        Cow::Borrowed(self)
    }
}

/// A configuration that has a value for each key.
static EVERY_KEY: LazyLock<Table> = LazyLock::new(|| {
    let default = FileStoreSettings::default();
    let some_limit = Some(default.journal_bytes_max);
    let config = Config {
        file_store: FileStoreSettings { disk_bytes_max: some_limit, ..default },
        retention: RetentionSettings {
            age_max: Some(Period(Retention::AGE_MAX)),
            bytes_max: some_limit,
            ..RetentionSettings::default()
        },
        rocksdb_store: RocksDbStoreSettings {
            disk_bytes_max: some_limit,
            ..RocksDbStoreSettings::default()
        },
        tls: TlsSettings {
            certificate: Some(PathBuf::new()),
            key: Some(PathBuf::new()),
            client_authorities: Some(PathBuf::new()),
            client_revocations: Some(PathBuf::new()),
            handshakes_per_address_max: Some(1),
            ..TlsSettings::default()
        },
        quic: QuicSettings {
            keep_alive: Some(Period(std::time::Duration::from_secs(1))),
            windows_bytes_per_address_max: some_limit,
            ..QuicSettings::default()
        },
        limits: Limits {
            http_connections_per_address_max: Some(1),
            greeting_connections_max: Some(1),
            greeting_connections_per_address_max: Some(1),
            handles_per_address_max: Some(1),
            answer_bytes_per_connection_max: some_limit,
            answer_bytes_per_address_max: some_limit,
            delivery_bytes_per_address_max: some_limit,
            publish_bytes_per_connection_max: some_limit,
            publish_bytes_per_address_max: some_limit,
            http_body_bytes_per_address_max: some_limit,
            ..Limits::default()
        },
        tokens: vec![TokenSettings {
            name: String::new(),
            sha256: TokenHash([0; 32]),
            publish: Vec::new(),
            consume: Vec::new(),
            administer: Vec::new(),
        }],
        identities: vec![IdentitySettings {
            identity: String::new(),
            publish: Vec::new(),
            consume: Vec::new(),
            administer: Vec::new(),
        }],
        token: Some("".into()),
        discovery: DiscoverySettings {
            token: Some("".into()),
            tls_ca: Some(PathBuf::new()),
            tls_fingerprint: Some(String::new()),
            tls_certificate: Some(PathBuf::new()),
            tls_key: Some(PathBuf::new()),
            etcd_user: Some(String::new()),
            etcd_password: Some("".into()),
        },
        drain: DrainSettings {
            token: Some("".into()),
            tls_ca: Some(PathBuf::new()),
            tls_fingerprint: Some(String::new()),
            ..DrainSettings::default()
        },
        durability: Some(DurabilityChoice::Disk),
        ..Config::default()
    };
    Table::try_from(&config).unwrap_or_default()
});
