//! The command line of `ltq-node bridge`.

use std::path::PathBuf;

use clap::{Args, builder::PossibleValuesParser};
use toml::Value;

use crate::config::{LogFormat, LogLevel};

/// The flags of `ltq-node bridge`.
#[derive(Clone, Debug, Default, Args)]
pub struct BridgeFlags {
    /// Reads settings from this TOML file. There is none by default. [variable: LTQ_BRIDGE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Names the bridge. Its channels are called by it, so that one of the same name goes on where this one
    /// stopped, and two at once share the work. [default: bridge] [variable: LTQ_BRIDGE_NAME]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Takes messages from the node at tcp://HOST:PORT, tls://HOST:PORT, quic://HOST:PORT or unix:///PATH.
    /// Give it several times for several nodes. [variable: LTQ_BRIDGE_FROM_SERVERS, separated by commas]
    #[arg(long, value_name = "URL")]
    pub from: Vec<String>,

    /// Takes messages from all nodes that the registry at this address knows. Give it several times for
    /// several registries. Or from those that an etcd knows: etcd://HOST:PORT/PREFIX, by TLS
    /// etcds://HOST:PORT/PREFIX. Or from those behind a DNS name: dns://NAME:PORT, or dns+tls:// and dns+quic://.
    /// [variable: LTQ_BRIDGE_FROM_REGISTRIES, separated by commas]
    #[arg(long, value_name = "URL")]
    pub from_registry: Vec<String>,

    /// Calls the site that messages come from so, in the header by which none goes round in a circle. Bridges
    /// in both directions must call it the same. [default: from its first address] [variable:
    /// LTQ_BRIDGE_FROM_SITE]
    #[arg(long, value_name = "SITE")]
    pub from_site: Option<String>,

    /// Trusts the source at tls:// and quic:// addresses if one of the authorities in this PEM file has
    /// signed its certificate. [variable: LTQ_BRIDGE_FROM_TLS_CA]
    #[arg(long, value_name = "FILE")]
    pub from_tls_ca: Option<String>,

    /// Trusts the source if its certificate has this SHA-256. [variable: LTQ_BRIDGE_FROM_TLS_FINGERPRINT]
    #[arg(long, value_name = "HEX")]
    pub from_tls_fingerprint: Option<String>,

    /// Brings messages to the node at this address. Give it several times for the nodes of a cluster.
    /// [variable: LTQ_BRIDGE_TO_SERVERS, separated by commas]
    #[arg(long, value_name = "URL")]
    pub to: Vec<String>,

    /// Brings messages to the nodes that the registry at this address knows. Give it several times for
    /// several registries. Or to those that an etcd knows: etcd://HOST:PORT/PREFIX, by TLS
    /// etcds://HOST:PORT/PREFIX. Or to those behind a DNS name: dns://NAME:PORT, or dns+tls:// and dns+quic://.
    /// [variable: LTQ_BRIDGE_TO_REGISTRIES, separated by commas]
    #[arg(long, value_name = "URL")]
    pub to_registry: Vec<String>,

    /// Calls the site that messages go to so. [default: from its first address] [variable:
    /// LTQ_BRIDGE_TO_SITE]
    #[arg(long, value_name = "SITE")]
    pub to_site: Option<String>,

    /// Trusts the destination if one of the authorities in this PEM file has signed its certificate.
    /// [variable: LTQ_BRIDGE_TO_TLS_CA]
    #[arg(long, value_name = "FILE")]
    pub to_tls_ca: Option<String>,

    /// Trusts the destination if its certificate has this SHA-256. [variable: LTQ_BRIDGE_TO_TLS_FINGERPRINT]
    #[arg(long, value_name = "HEX")]
    pub to_tls_fingerprint: Option<String>,

    /// Forwards this topic, or with a "*" at the end all whose names begin so. Give it several times for
    /// several. [variable: LTQ_BRIDGE_ROUTE_TOPICS, separated by commas]
    #[arg(long, value_name = "PATTERN")]
    pub topic: Vec<String>,

    /// Leaves out those of the topics that match this. [variable: LTQ_BRIDGE_ROUTE_EXCLUDE, separated by
    /// commas]
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,

    /// Forwards only messages that have this header, or with NAME=VALUE this value of it. Given several
    /// times, all of them. [variable: LTQ_BRIDGE_ROUTE_HEADERS, separated by commas]
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<String>,

    /// Puts this before the names of topics at the destination. [variable: LTQ_BRIDGE_ROUTE_PREFIX]
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,

    /// Serves HTTP here: health, metrics and what is forwarded. "off" serves none. [default: 127.0.0.1:7461]
    /// [variable: LTQ_BRIDGE_HTTP]
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,

    /// Writes logs to standard error as lines for people or as one JSON object a line. [default:
    /// human] [variable: LTQ_BRIDGE_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(LogFormat::WORDS.iter().copied()))]
    pub log_format: Option<String>,

    /// Logs what is at least this severe. [default: info] [variable: LTQ_BRIDGE_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL", value_parser = PossibleValuesParser::new(LogLevel::WORDS.iter().copied()))]
    pub log_level: Option<String>,

    /// Prints the configuration that would be used as TOML, and ends. Tokens are not printed.
    #[arg(long)]
    pub print_config: bool,
}

impl BridgeFlags {
    /// The settings that were given, by their keys.
    pub(super) fn values(&self) -> Vec<(&'static str, Value)> {
        let text = |key, value: &Option<String>| Some((key, Value::from(value.as_deref()?)));
        let list = |key, values: &Vec<String>| {
            (!values.is_empty()).then(|| (key, Value::from(values.clone())))
        };
        [
            text("name", &self.name),
            list("from.servers", &self.from),
            list("from.registries", &self.from_registry),
            text("from.site", &self.from_site),
            text("from.tls_ca", &self.from_tls_ca),
            text("from.tls_fingerprint", &self.from_tls_fingerprint),
            list("to.servers", &self.to),
            list("to.registries", &self.to_registry),
            text("to.site", &self.to_site),
            text("to.tls_ca", &self.to_tls_ca),
            text("to.tls_fingerprint", &self.to_tls_fingerprint),
            list("route.topics", &self.topic),
            list("route.exclude", &self.exclude),
            list("route.headers", &self.header),
            text("route.prefix", &self.prefix),
            text("http", &self.http),
            text("log_format", &self.log_format),
            text("log_level", &self.log_level),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
