//! The settings of a registry: defaults, then a TOML file, then `LTQ_REGISTRY_*` variables, then flags.

use std::{
    borrow::Cow,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use ltq_core::EntranceSettings;
use ltq_discovery::registry::{RegistryServerSettings, RegistrySettings};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::flags::RegistryFlags;
use crate::{
    access::NodeAccess,
    config::{
        ByteSize, Config, ConfigError, ExemptAddresses, FileMode, HTTP_OFF, IdentitySettings,
        Limits, LogFormat, LogLevel, Period, QuicSettings, Settings, TlsSettings, Token, TokenHash,
        TokenSettings, check_shared,
    },
};

/// The settings of a registry. In a file, each field is a key of the same name; the last ones are
/// tables. As a variable a key is `LTQ_REGISTRY_` and its name in capitals, a table's name before it:
/// `LTQ_REGISTRY_LISTEN`, `LTQ_REGISTRY_LIMITS_NODES_MAX`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Where nodes and clients reach it. Default: `tcp://127.0.0.1:7450`.
    pub listen: Vec<String>,
    /// How soon a listener that has failed is opened again. Default: 1 s.
    pub listen_retry: Period,
    /// Who may connect to Unix sockets that it listens on. Default: 600, the user that it runs as.
    pub unix_mode: FileMode,
    /// Where it serves HTTP, or `off`. Default: `127.0.0.1:7451`.
    pub http: String,
    /// A secret that permits everything to whoever knows it. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Whether to listen beyond this machine without any token or identity. Default: false.
    pub allow_unauthenticated: bool,
    /// Whether `GET /metrics` and `GET /nodes` are for everybody, as health is. Default: false.
    pub metrics_public: bool,
    /// How often a node is to be heard of. Default: 1 s.
    pub heartbeat: Period,
    /// How many beats a node misses until it is suspected. Default: 2.
    pub suspected_after: u32,
    /// How many it misses until it is forgotten. Default: 30.
    pub forgotten_after: u32,
    /// How logs are written. Default: `human`.
    pub log_format: LogFormat,
    /// From which severity on. Default: `info`.
    pub log_level: LogLevel,
    /// Certificates, for `tls://` and `quic://` addresses.
    pub tls: TlsSettings,
    /// Connections over QUIC.
    pub quic: QuicSettings,
    /// What it takes in.
    pub limits: RegistryLimits,
    /// Tokens, each with what it permits. Only in the file. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenSettings>,
    /// Identities that peers prove by their transport, each with what it permits. Only in the file.
    /// Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<IdentitySettings>,
}

/// What a registry takes in: the table `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryLimits {
    /// The most nodes. Default: 10,000.
    pub nodes_max: usize,
    /// The most topics, each counted at each of its nodes. Default: 10,000,000.
    pub topics_max: usize,
    /// The most channels, counted the same. Default: 10,000,000.
    pub channels_max: usize,
    /// The most watchers. Default: 100,000.
    pub watchers_max: usize,
    /// The most watches of a connection. Default: 1,024.
    pub watches_max: usize,
    /// The most frames that a connection may send within a second. Default: 2,000.
    pub frames_max: u32,
    /// The most connections at a time. Default: 20,000.
    pub connections_max: usize,
    /// The most connections at a time from one address, or over a Unix socket of one user; others of this
    /// machine are not counted. Default: 5,000.
    pub connections_per_address_max: usize,
    /// The most connections at a time without an accepted hello; then the oldest gives way after a second. Default: a
    /// quarter of `connections_max`, and 16 at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greeting_connections_max: Option<usize>,
    /// The most of them from one address, by the same rule. Default: a quarter, and 4 at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greeting_connections_per_address_max: Option<usize>,
    /// The most connections that begin in a second from one address, and TLS and QUIC handshakes; ten times as many may
    /// at once. Default: 200.
    pub connections_per_second_max: u32,
    /// Addresses and networks that no limit by address counts. Default: none.
    pub exempt_addresses: ExemptAddresses,
    /// Of how many addresses it is remembered how many connections came from there. Default: 4,096.
    pub addresses_known_max: usize,
    /// How long a peer may take to say hello. Default: 5 s.
    pub hello_timeout: Period,
    /// The most HTTP connections at a time. Default: 512.
    pub http_connections_max: usize,
    /// How long an HTTP request may take, from its first byte to its answer. Default: 30 s.
    pub http_request_timeout: Period,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        let (node, rules) = (Config::default(), RegistrySettings::default());
        Self {
            listen: vec![super::DEFAULT_REGISTRY.to_owned()],
            listen_retry: node.listen_retry,
            unix_mode: node.unix_mode,
            http: "127.0.0.1:7451".to_owned(),
            token: None,
            allow_unauthenticated: false,
            metrics_public: false,
            heartbeat: Period(rules.heartbeat),
            suspected_after: rules.suspected_after,
            forgotten_after: rules.forgotten_after,
            log_format: node.log_format,
            log_level: node.log_level,
            tls: node.tls,
            quic: node.quic,
            limits: RegistryLimits::default(),
            tokens: Vec::new(),
            identities: Vec::new(),
        }
    }
}

impl Default for RegistryLimits {
    fn default() -> Self {
        let (server, node) = (RegistryServerSettings::default(), Limits::default());
        Self {
            nodes_max: server.registry.nodes_max,
            topics_max: server.registry.topics_max,
            channels_max: server.registry.channels_max,
            watchers_max: server.registry.watchers_max,
            watches_max: server.watches_max,
            frames_max: server.frames_max,
            connections_max: server.connections_max,
            connections_per_address_max: server.connections_per_address_max,
            greeting_connections_max: None,
            greeting_connections_per_address_max: None,
            connections_per_second_max: server.entrance.connections_per_second_max,
            exempt_addresses: ExemptAddresses::default(),
            addresses_known_max: server.addresses_known_max,
            hello_timeout: Period(server.hello_timeout),
            http_connections_max: node.http_connections_max,
            http_request_timeout: node.http_request_timeout,
        }
    }
}

impl RegistryConfig {
    /// What of this is the registry server's, which lets in whom `access` does.
    #[must_use]
    pub fn server_settings(&self, access: Arc<NodeAccess>) -> RegistryServerSettings {
        let limits = &self.limits;
        RegistryServerSettings {
            registry: RegistrySettings {
                heartbeat: self.heartbeat.0,
                suspected_after: self.suspected_after,
                forgotten_after: self.forgotten_after,
                nodes_max: limits.nodes_max,
                topics_max: limits.topics_max,
                channels_max: limits.channels_max,
                watchers_max: limits.watchers_max,
            },
            access,
            hello_timeout: limits.hello_timeout.0,
            connections_max: limits.connections_max,
            connections_per_address_max: limits.connections_per_address_max,
            entrance: EntranceSettings {
                greeting_connections_max: limits.greeting_connections_max,
                greeting_connections_per_address_max: limits.greeting_connections_per_address_max,
                connections_per_second_max: limits.connections_per_second_max,
                exempt_addresses: limits.exempt_addresses.networks(),
            },
            addresses_known_max: limits.addresses_known_max,
            watches_max: limits.watches_max,
            frames_max: limits.frames_max,
        }
    }

    /// Where HTTP is served; `None` when it is off.
    #[must_use]
    pub fn http_address(&self) -> Option<&str> {
        (self.http != HTTP_OFF).then_some(&*self.http)
    }

    /// The configuration as a TOML file that says the same, but for the plain `token`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::from("# The effective configuration of ltq-node registry.\n");
        if self.token.is_some() {
            text.push_str("# A token is set; it is not shown here.\n");
        }
        match toml::to_string(&Self { token: None, ..self.clone() }) {
            Ok(body) => text.push_str(&body),
            Err(error) => {
                let _ = writeln!(text, "# It cannot be written as TOML: {error}");
            }
        }
        text
    }
}

impl Settings for RegistryConfig {
    type Flags = RegistryFlags;
    const PREFIX: &'static str = "LTQ_REGISTRY_";
    const NOT_OURS: &'static [&'static str] = &[];
    /// What a container platform sets by itself for a service that is called `ltq-registry`.
    const NOT_OURS_PREFIXES: &'static [&'static str] =
        &["LTQ_REGISTRY_SERVICE_", "LTQ_REGISTRY_PORT"];

    fn every_key() -> &'static Table {
        &EVERY_KEY
    }

    fn given(flags: &RegistryFlags) -> Vec<(&'static str, Value)> {
        flags.values()
    }

    fn file(flags: &RegistryFlags) -> Option<&Path> {
        flags.config.as_deref()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let least = Duration::from_millis(100);
        let hour = Period(Duration::from_secs(3_600));
        for (key, period) in [
            ("listen_retry", self.listen_retry),
            ("heartbeat", self.heartbeat),
            ("limits.hello_timeout", limits.hello_timeout),
            ("limits.http_request_timeout", limits.http_request_timeout),
        ] {
            let least = if key == "listen_retry" { least / 10 } else { least };
            within(key, period, Period(least), hour)?;
        }
        within("suspected_after", self.suspected_after, 2, BEATS_MAX - 1)?;
        within("forgotten_after", self.forgotten_after, self.suspected_after + 1, BEATS_MAX)?;
        for (key, count) in [
            ("limits.nodes_max", limits.nodes_max),
            ("limits.topics_max", limits.topics_max),
            ("limits.channels_max", limits.channels_max),
            ("limits.watchers_max", limits.watchers_max),
            ("limits.watches_max", limits.watches_max),
            ("limits.connections_max", limits.connections_max),
            ("limits.connections_per_address_max", limits.connections_per_address_max),
            ("limits.connections_per_second_max", limits.connections_per_second_max as usize),
            ("limits.addresses_known_max", limits.addresses_known_max),
            ("limits.http_connections_max", limits.http_connections_max),
        ] {
            within(key, count, 1, COUNT_MAX)?;
        }
        for (key, count) in [
            ("limits.greeting_connections_max", limits.greeting_connections_max),
            (
                "limits.greeting_connections_per_address_max",
                limits.greeting_connections_per_address_max,
            ),
        ] {
            if let Some(count) = count {
                within(key, count, 1, COUNT_MAX)?;
            }
        }
        within("limits.frames_max", limits.frames_max, 1, u32::MAX)?;
        check_shared(&self.as_node())
    }

    fn as_node(&self) -> Cow<'_, Config> {
        let limits = Limits {
            streams_max: 1,
            connections_per_second_max: self.limits.connections_per_second_max,
            addresses_known_max: self.limits.addresses_known_max,
            exempt_addresses: self.limits.exempt_addresses.clone(),
            ..Limits::default()
        };
        Cow::Owned(Config {
            listen: self.listen.clone(),
            listen_retry: self.listen_retry,
            unix_mode: self.unix_mode,
            http: self.http.clone(),
            token: self.token.clone(),
            allow_unauthenticated: self.allow_unauthenticated,
            metrics_public: self.metrics_public,
            tls: self.tls.clone(),
            quic: self.quic.clone(),
            limits,
            tokens: self.tokens.clone(),
            identities: self.identities.clone(),
            ..Config::default()
        })
    }
}

fn within<T: PartialOrd + std::fmt::Display + Copy>(
    key: &str,
    value: T,
    min: T,
    max: T,
) -> Result<(), ConfigError> {
    crate::config::within(key, value, min, max)
}

/// A configuration that has a value for each key.
static EVERY_KEY: LazyLock<Table> = LazyLock::new(|| {
    let none = Vec::new;
    let config = RegistryConfig {
        token: Some("".into()),
        limits: RegistryLimits {
            greeting_connections_max: Some(1),
            greeting_connections_per_address_max: Some(1),
            ..RegistryLimits::default()
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
            keep_alive: Some(Period(Duration::from_secs(1))),
            windows_bytes_per_address_max: Some(ByteSize(1 << 20)),
            ..QuicSettings::default()
        },
        tokens: vec![TokenSettings {
            name: String::new(),
            sha256: TokenHash([0; 32]),
            publish: none(),
            consume: none(),
            administer: none(),
        }],
        identities: vec![IdentitySettings {
            identity: String::new(),
            publish: none(),
            consume: none(),
            administer: none(),
        }],
        ..RegistryConfig::default()
    };
    Table::try_from(&config).unwrap_or_default()
});

/// A day of beats of a second.
const BEATS_MAX: u32 = 86_400;
/// More than any machine serves.
const COUNT_MAX: usize = 100_000_000;
