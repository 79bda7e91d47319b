//! The settings of a bridge: defaults, then a TOML file, then `LTQ_BRIDGE_*` variables, then flags.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use ltq_core::{ChannelName, Credit, StartAt, TopicName, TopicPattern};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{
    Budget, HOPS_LIMIT, HeaderFilter, Refused, Route, SideSettings, Site, Sites, Target,
    check_prefix, flags::BridgeFlags,
};
use crate::config::{
    ByteSize, Config, ConfigError, DurabilityChoice, HTTP_OFF, Limits, LogFormat, LogLevel, Period,
    Settings, StartChoice, Token, check_shared, within,
};

/// The settings of a bridge. In a file, each field is a key of the same name; the last ones are tables. As a
/// variable a key is `LTQ_BRIDGE_` and its name in capitals, a table's name before it: `LTQ_BRIDGE_NAME`,
/// `LTQ_BRIDGE_FROM_SERVERS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeConfig {
    /// What the bridge is called: 1 to 57 of `[A-Za-z0-9._-]`. Default: `bridge`.
    pub name: String,
    /// Where it serves HTTP, or `off`. Default: `127.0.0.1:7461`.
    pub http: String,
    /// A secret without which nobody sees metrics and routes. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Whether to serve HTTP beyond this machine without a token. Default: false.
    pub allow_unauthenticated: bool,
    /// Whether `GET /metrics` and `GET /routes` are for everybody, as health is. Default: false.
    pub metrics_public: bool,
    /// How many sites a message may have left by bridges, this one included. Default: 8.
    pub hops_max: usize,
    /// How often nodes are asked which topics they have, where no registry tells, and how much waits there.
    /// Default: 5 s.
    pub refresh: Period,
    /// How long a stop may take for what is under way to be confirmed. Default: 10 s.
    pub stop_timeout: Period,
    /// How long a node of the destination may be away until others get what belongs to it. Default: 10 s.
    pub failover_after: Period,
    /// How logs are written. Default: `human`.
    pub log_format: LogFormat,
    /// From which severity on. Default: `info`.
    pub log_level: LogLevel,
    /// Where messages come from.
    pub from: SideSettings,
    /// Where they go to.
    pub to: SideSettings,
    /// What is forwarded.
    pub route: RouteSettings,
    /// What the bridge takes in.
    pub limits: BridgeLimits,
    /// More of what is forwarded. A topic goes by the first route that takes it. Only in the file. Default:
    /// none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSettings>,
}

/// What is forwarded, and as what: the table `[route]`, and each table `[[routes]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteSettings {
    /// Its name, in figures. Default: `default`.
    pub name: String,
    /// The topics. Default: none.
    pub topics: Vec<TopicPattern>,
    /// Those among them that stay. Default: none.
    pub exclude: Vec<TopicPattern>,
    /// What a message's headers must have. Default: nothing.
    pub headers: Vec<HeaderFilter>,
    /// What stands before a topic's name at the destination. Default: nothing.
    pub prefix: String,
    /// One topic at the destination for all of them. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_topic: Option<TopicName>,
    /// The channel at the source. Default: `bridge.` and the bridge's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelName>,
    /// Where that channel begins if it does not exist yet. Default: `earliest`.
    pub start: StartChoice,
    /// How durable a message is to be at the destination. Default: as the topic is set there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<DurabilityChoice>,
    /// Whether order is kept at the destination. Default: true.
    pub ordered: bool,
    /// The topic at the source to which messages are moved that the destination refuses for good. Default:
    /// none, and they are held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_topic: Option<TopicName>,
    /// Whether messages that the destination refuses for good are acked and not forwarded. Default: false.
    pub refused_skip: bool,
}

/// What a bridge takes in: the table `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeLimits {
    /// What is held of messages of all topics at a time. Default: 256 MiB.
    pub bytes_total_max: ByteSize,
    /// The most messages of a topic on a node that are taken and not acked. Default: 2,500.
    pub credit_messages: u64,
    /// The most bytes of them. Default: 16 MiB.
    pub credit_bytes: ByteSize,
    /// The most topics, each counted at each of its nodes. Default: 1,000.
    pub topics_max: usize,
    /// The most HTTP connections at a time. Default: 512.
    pub http_connections_max: usize,
    /// How long an HTTP request may take, from its first byte to its answer. Default: 30 s.
    pub http_request_timeout: Period,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        let node = Config::default();
        Self {
            name: "bridge".to_owned(),
            http: "127.0.0.1:7461".to_owned(),
            token: None,
            allow_unauthenticated: false,
            metrics_public: false,
            hops_max: 8,
            refresh: Period(Duration::from_secs(5)),
            stop_timeout: Period(Duration::from_secs(10)),
            failover_after: Period(Duration::from_secs(10)),
            log_format: node.log_format,
            log_level: node.log_level,
            from: SideSettings::default(),
            to: SideSettings::default(),
            route: RouteSettings::default(),
            limits: BridgeLimits::default(),
            routes: Vec::new(),
        }
    }
}

impl Default for RouteSettings {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            topics: Vec::new(),
            exclude: Vec::new(),
            headers: Vec::new(),
            prefix: String::new(),
            to_topic: None,
            channel: None,
            start: StartChoice::Earliest,
            durability: None,
            ordered: true,
            refused_topic: None,
            refused_skip: false,
        }
    }
}

impl Default for BridgeLimits {
    fn default() -> Self {
        let node = Limits::default();
        Self {
            bytes_total_max: ByteSize(256 << 20),
            credit_messages: 2_500,
            credit_bytes: ByteSize(16 << 20),
            topics_max: 1_000,
            http_connections_max: node.http_connections_max,
            http_request_timeout: node.http_request_timeout,
        }
    }
}

impl RouteSettings {
    /// As the engine takes it, of a bridge of this name.
    fn route(&self, bridge: &str) -> Result<Route, ConfigError> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => ChannelName::new(&format!("bridge.{bridge}")).map_err(|error| {
                let (key, value) = ("name".to_owned(), bridge.to_owned());
                ConfigError::Value { key, value, rule: error.to_string() }
            })?,
        };
        let prefixed = || Target::Prefixed(self.prefix.clone());
        Ok(Route {
            name: self.name.clone(),
            topics: self.topics.clone(),
            exclude: self.exclude.clone(),
            headers: self.headers.clone(),
            target: self.to_topic.clone().map_or_else(prefixed, Target::One),
            channel,
            start: self.start.into(),
            durability: self.durability.map(Into::into),
            ordered: self.ordered,
            refused: match &self.refused_topic {
                Some(topic) => Refused::Park(topic.clone()),
                None if self.refused_skip => Refused::Skip,
                None => Refused::Hold,
            },
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let bad = |key: &str, value: &str, rule: &str| {
            let key = format!("{key} of the route {:?}", self.name);
            Err(ConfigError::Value { key, value: value.to_owned(), rule: rule.to_owned() })
        };
        if let Err(error) = Site::new(&self.name) {
            let rule = error.to_string().replace("a site", "a route");
            return bad("name", &self.name, &rule);
        }
        for (key, count) in [
            ("topics", self.topics.len()),
            ("exclude", self.exclude.len()),
            ("headers", self.headers.len()),
        ] {
            if count > LIST_MAX {
                return bad(key, &format!("a list of {count}"), "write at most 1000 of them");
            }
        }
        if let Err(error) = check_prefix(&self.prefix) {
            return bad("prefix", &self.prefix, &error.to_string());
        }
        if self.refused_skip && self.refused_topic.is_some() {
            return bad("refused_skip", "true", "refused_topic is there too; choose one");
        }
        match &self.to_topic {
            Some(_) if !self.prefix.is_empty() => {
                bad("prefix", &self.prefix, "to_topic is there too; choose one")
            }
            _ => Ok(()),
        }
    }
}

impl BridgeConfig {
    /// Everything that is forwarded, the first one that takes a topic first.
    ///
    /// # Errors
    /// [`ConfigError::Value`] when no channel can be called by the bridge's name.
    pub fn all_routes(&self) -> Result<Vec<Route>, ConfigError> {
        self.used_routes().map(|route| route.route(&self.name)).collect()
    }

    fn used_routes(&self) -> impl Iterator<Item = &RouteSettings> {
        let first = (!self.route.topics.is_empty()).then_some(&self.route);
        first.into_iter().chain(&self.routes)
    }

    /// Between which sites it forwards.
    #[must_use]
    pub fn sites(&self) -> Sites {
        let (from, to) = (self.from.site_name(), self.to.site_name());
        Sites { from, to, hops_max: self.hops_max }
    }

    /// What it may hold.
    #[must_use]
    pub fn budget(&self) -> Budget {
        let limits = &self.limits;
        let each = Credit { messages: limits.credit_messages, bytes: limits.credit_bytes.0 };
        Budget::new(limits.bytes_total_max.0, each)
    }

    /// Where HTTP is served; `None` when it is off.
    #[must_use]
    pub fn http_address(&self) -> Option<&str> {
        (self.http != HTTP_OFF).then_some(&*self.http)
    }

    /// The configuration as a TOML file that says the same, but for the tokens.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::from("# The effective configuration of ltq-node bridge.\n");
        let mut shown = self.clone();
        for (key, token) in [
            ("token", &mut shown.token),
            ("from.token", &mut shown.from.token),
            ("to.token", &mut shown.to.token),
            ("from.etcd_password", &mut shown.from.etcd_password),
            ("to.etcd_password", &mut shown.to.etcd_password),
        ] {
            if token.take().is_some() {
                let _ = writeln!(text, "# {key} is set; it is not shown here.");
            }
        }
        match toml::to_string(&shown) {
            Ok(body) => text.push_str(&body),
            Err(error) => {
                let _ = writeln!(text, "# It cannot be written as TOML: {error}");
            }
        }
        text
    }
}

impl Settings for BridgeConfig {
    type Flags = BridgeFlags;
    const PREFIX: &'static str = "LTQ_BRIDGE_";
    const NOT_OURS: &'static [&'static str] = &[];
    /// What a container platform sets by itself for a service that is called `ltq-bridge`.
    const NOT_OURS_PREFIXES: &'static [&'static str] = &["LTQ_BRIDGE_SERVICE_", "LTQ_BRIDGE_PORT"];

    fn every_key() -> &'static Table {
        &EVERY_KEY
    }

    fn given(flags: &BridgeFlags) -> Vec<(&'static str, Value)> {
        flags.values()
    }

    fn file(flags: &BridgeFlags) -> Option<&Path> {
        flags.config.as_deref()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let bad = |key: &str, value: &str, rule: &str| {
            let (key, value, rule) = (key.to_owned(), value.to_owned(), rule.to_owned());
            Err(ConfigError::Value { key, value, rule })
        };
        let period = |millis| Period(Duration::from_millis(millis));
        let hour = period(3_600_000);
        within("refresh", self.refresh, period(100), hour)?;
        within("stop_timeout", self.stop_timeout, period(100), hour)?;
        within("failover_after", self.failover_after, period(100), hour)?;
        within("hops_max", self.hops_max, 1, HOPS_LIMIT)?;
        let limits = &self.limits;
        within("limits.credit_messages", limits.credit_messages, 1, 100_000)?;
        let (least, most) = (ByteSize(64 << 10), ByteSize(1 << 30));
        within("limits.credit_bytes", limits.credit_bytes, least, most)?;
        within("limits.topics_max", limits.topics_max, 1, COUNT_MAX)?;
        let least = ByteSize(Budget::least_for(limits.topics_max as u64));
        within("limits.bytes_total_max", limits.bytes_total_max, least, ByteSize(1 << 40))?;
        within("limits.http_connections_max", limits.http_connections_max, 1, COUNT_MAX)?;
        within("limits.http_request_timeout", limits.http_request_timeout, period(100), hour)?;
        self.from.check("from")?;
        self.to.check("to")?;
        let Sites { from, to, .. } = self.sites();
        if from == to {
            let rule = "it is the site that messages come from, too; name both sites with --from-site \
                        and --to-site";
            return bad("to.site", to.as_str(), rule);
        }
        let mut names = BTreeSet::new();
        for route in self.used_routes() {
            route.check()?;
            if route.topics.is_empty() {
                return bad("routes", &route.name, "this one has no topics");
            }
            if !names.insert(&route.name) {
                return bad("routes", &route.name, "two routes have this name");
            }
        }
        if names.is_empty() {
            let rule = "name what is forwarded with --topic NAME, or --topic '*' for everything";
            return bad("route.topics", "[]", rule);
        }
        if names.len() > ROUTES_MAX {
            return bad("routes", &format!("a list of {}", names.len()), "write at most 1000");
        }
        self.all_routes()?;
        check_shared(&self.as_node())
    }

    fn as_node(&self) -> Cow<'_, Config> {
        Cow::Owned(Config {
            http: self.http.clone(),
            token: self.token.clone(),
            allow_unauthenticated: self.allow_unauthenticated,
            metrics_public: self.metrics_public,
            ..Config::default()
        })
    }
}

impl From<StartChoice> for StartAt {
    fn from(choice: StartChoice) -> Self {
        match choice {
            StartChoice::Earliest => Self::Earliest,
            StartChoice::Latest => Self::Latest,
        }
    }
}

/// A configuration that has a value for each key.
static EVERY_KEY: LazyLock<Table> = LazyLock::new(|| {
    let side = SideSettings {
        site: Some(Site::of_address("")),
        token: Some("".into()),
        etcd_user: Some(String::new()),
        etcd_password: Some("".into()),
        tls_ca: Some(PathBuf::new()),
        tls_fingerprint: Some(String::new()),
        tls_certificate: Some(PathBuf::new()),
        tls_key: Some(PathBuf::new()),
        ..SideSettings::default()
    };
    let route = RouteSettings {
        to_topic: TopicName::new("t").ok(),
        channel: ChannelName::new("c").ok(),
        durability: Some(DurabilityChoice::Disk),
        refused_topic: TopicName::new("t").ok(),
        ..RouteSettings::default()
    };
    let config = BridgeConfig {
        token: Some("".into()),
        from: side.clone(),
        to: side,
        routes: vec![route.clone()],
        route,
        ..BridgeConfig::default()
    };
    Table::try_from(&config).unwrap_or_default()
});

/// More than any machine serves.
const COUNT_MAX: usize = 1_000_000;
/// More than anybody reads.
const LIST_MAX: usize = 1_000;
const ROUTES_MAX: usize = 1_000;
