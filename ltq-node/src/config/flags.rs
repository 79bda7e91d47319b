//! The command line of `ltq-node`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use toml::Value;

use super::{
    choice::{DurabilityChoice, LogFormat, LogLevel, StoreKind},
    units::Token,
};
use crate::{bridge::BridgeFlags, drain::DrainArgs, registry::RegistryFlags, tools::ToolCommand};

/// The flags of `ltq-node`.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "ltq-node",
    version,
    about = "Runs an LTQ message broker.",
    long_about = "Runs an LTQ message broker. Without any flag it keeps its messages in ./ltq-data, \
                  confirms each of them once it survives a power cut, and listens on this machine \
                  only.",
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
pub struct Flags {
    /// Reads settings from this TOML file. There is none by default. [variable: LTQ_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Keeps messages in this directory, which is made if it is not there. Only one node can use
    /// it at a time. [default: ./ltq-data] [variable: LTQ_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,

    /// Keeps messages in files, or in memory only: then they are gone when the node stops. A node
    /// built with the feature rocksdb can keep them in a RocksDB database, too. [default: file] [variable: LTQ_STORE]
    #[arg(long, value_name = "STORE", value_parser = clap::builder::PossibleValuesParser::new(StoreKind::WORDS.iter().copied()))]
    pub store: Option<String>,

    /// Says what a message has to survive before it is confirmed, for topics that are made from
    /// now on: a power cut (disk), the node being killed (os), or nothing (memory). A topic or a
    /// single publish can ask otherwise. [default: disk; memory with the memory store]
    /// [variable: LTQ_DURABILITY]
    #[arg(long, value_name = "DURABILITY", value_parser = clap::builder::PossibleValuesParser::new(DurabilityChoice::WORDS.iter().copied()))]
    pub durability: Option<String>,

    /// Listens for clients on tcp://HOST:PORT, tls://HOST:PORT or quic://HOST:PORT, or on unix:///PATH
    /// for the user that the node runs as. Give it several times to listen in several places; port 0
    /// takes any free one. Beyond this machine it asks for tokens. [default: tcp://127.0.0.1:7440] [variable: LTQ_LISTEN, separated by commas]
    #[arg(long, value_name = "URL")]
    pub listen: Vec<String>,

    /// Names the node, for clients, logs and registries, which tell nodes apart by it. [default: ltq; to
    /// registries the first of its addresses] [variable: LTQ_NODE]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// Announces the node to the registry at this address, so that clients find it there: tcp://HOST:PORT,
    /// tls://HOST:PORT, quic://HOST:PORT or unix:///PATH. Give it several times for several registries. Or to an
    /// etcd: etcd://HOST:PORT/PREFIX, by TLS etcds://HOST:PORT/PREFIX, where several are members of one. [variable: LTQ_REGISTRY, separated by commas]
    #[arg(long, value_name = "URL")]
    pub registry: Vec<String>,

    /// Announces the node as being at this address, where clients reach it by another one than it listens
    /// on. Give it several times, the preferred one first. [default: where it listens] [variable:
    /// LTQ_ADVERTISE, separated by commas]
    #[arg(long, value_name = "URL")]
    pub advertise: Vec<String>,

    /// Proves with the certificate in this PEM file, at tls:// and quic:// addresses, who the node is;
    /// those that lead to its authority stand behind it. It is read again when it changes. [variable:
    /// LTQ_TLS_CERTIFICATE]
    #[arg(long, value_name = "FILE")]
    pub tls_certificate: Option<String>,

    /// The certificate's key is in this PEM file. [variable: LTQ_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,

    /// Lets only those clients connect to tls:// and quic:// addresses that bring a certificate of one
    /// of the authorities in this PEM file. Its name is an identity that the configuration file can
    /// give permissions to. [variable: LTQ_TLS_CLIENT_AUTHORITIES]
    #[arg(long, value_name = "FILE")]
    pub tls_client_authorities: Option<String>,

    /// Refuses clients whose certificate is in one of the lists in this PEM file, which the authorities
    /// of --tls-client-authorities have signed. [variable: LTQ_TLS_CLIENT_REVOCATIONS]
    #[arg(long, value_name = "FILE")]
    pub tls_client_revocations: Option<String>,

    /// Makes a certificate for development, keeps it in the data directory and says its fingerprint,
    /// by which clients trust it. [variable: LTQ_DEV_TLS]
    #[arg(long)]
    pub dev_tls: bool,

    /// Serves HTTP here: publishing, health and metrics. "off" serves none. [default:
    /// 127.0.0.1:7441] [variable: LTQ_HTTP]
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,

    /// Lets only those in who know this secret, which permits everything, or a token of the file,
    /// which permits what stands there. A variable or the file keeps it from the list of processes.
    /// There is none by default. [variable: LTQ_TOKEN]
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    pub token: Option<Token>,

    /// Writes logs to standard error as lines for people or as one JSON object a line. [default:
    /// human] [variable: LTQ_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT", value_parser = clap::builder::PossibleValuesParser::new(LogFormat::WORDS.iter().copied()))]
    pub log_format: Option<String>,

    /// Logs what is at least this severe. [default: info] [variable: LTQ_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL", value_parser = clap::builder::PossibleValuesParser::new(LogLevel::WORDS.iter().copied()))]
    pub log_level: Option<String>,

    /// Prints the configuration that would be used as TOML, and ends. The token is not printed.
    #[arg(long)]
    pub print_config: bool,

    /// What to do instead of running a node.
    #[command(subcommand)]
    pub instead: Option<Instead>,
}

/// What `ltq-node` does instead of running a node.
#[derive(Clone, Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Instead {
    /// Runs a registry, where nodes announce themselves and clients find them.
    #[command(
        long_about = "Runs a registry, where nodes announce themselves by heartbeat (ltq-node --registry \
        URL) and clients find them. It keeps nothing on disk: nodes that are there tell it again. Run \
        several for each other's sake; they know nothing of each other, nodes announce themselves to \
        all of them, and clients merge what they hear. While none can be reached, producers and \
        consumers go on with the nodes that they know.\n\nSettings come from their defaults, then from \
        the file, then from LTQ_REGISTRY_* variables, then from flags; --print-config shows all of \
        them.\n\nExit codes: 0 stopped, 2 bad usage or configuration, 1 anything else.",
        max_term_width = 100
    )]
    Registry(RegistryFlags),
    /// Has a running node take in nothing more, finish what it has, and stop.
    #[command(
        long_about = "Has a running node take in nothing more and stop once what it has is consumed, or \
        forwarded to other nodes with --to. Registries are told, so that producers go elsewhere; \
        consumers go on. The command watches what is left until the node stops; Ctrl-C ends the \
        watching and not the drain.\n\nExit codes: 0 drained (or, with --no-wait or --cancel, the node \
        has been told), 2 bad usage, 1 anything else, such as that time was over and something is left, \
        which the node keeps.",
        max_term_width = 100
    )]
    Drain(DrainArgs),
    /// Runs a bridge, which forwards topics from one node or cluster to another.
    #[command(
        long_about = "Runs a bridge, which forwards topics from one node or cluster to another: to a second site \
        for when the first one is lost, or wherever their messages are wanted, too. Each message is stored at the \
        destination at least once, and acked at the source after that, in a channel of the bridge's own; so the \
        next bridge of the same name goes on where this one stopped, however it stopped. Bridges in both \
        directions send nothing round in a circle: a header names the sites that a message has been at.\n\n\
        Tokens are given by LTQ_BRIDGE_FROM_TOKEN and LTQ_BRIDGE_TO_TOKEN, or in the file. Settings come from \
        their defaults, then from the file, then from LTQ_BRIDGE_* variables, then from flags; --print-config \
        shows all of them.\n\nExit codes: 0 stopped, 2 bad usage or configuration, 1 anything else.",
        max_term_width = 100
    )]
    Bridge(Box<BridgeFlags>),
    /// A tool.
    #[command(flatten)]
    Tool(ToolCommand),
}

impl Flags {
    /// The settings that were given, by their keys.
    pub(super) fn values(&self) -> Vec<(&'static str, Value)> {
        let text = |key, value: &Option<String>| Some((key, Value::from(value.as_deref()?)));
        let list = |key, values: &Vec<String>| {
            (!values.is_empty()).then(|| (key, Value::from(values.clone())))
        };
        [
            text("data_dir", &self.data_dir),
            text("store", &self.store),
            text("durability", &self.durability),
            text("node", &self.node),
            list("listen", &self.listen),
            list("registry", &self.registry),
            list("advertise", &self.advertise),
            text("tls.certificate", &self.tls_certificate),
            text("tls.key", &self.tls_key),
            text("tls.client_authorities", &self.tls_client_authorities),
            text("tls.client_revocations", &self.tls_client_revocations),
            self.dev_tls.then(|| ("dev_tls", Value::from(true))),
            text("http", &self.http),
            text("token", &self.token.as_ref().map(|token| token.0.clone())),
            text("log_format", &self.log_format),
            text("log_level", &self.log_level),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn token(text: &str) -> Result<Token, std::convert::Infallible> {
    Ok(text.into())
}

const AFTER_HELP: &str = "\
Settings come from their defaults, then from the file, then from LTQ_* variables, then from flags. \
Limits and timeouts are set in the file or by variables: run ltq-node --print-config to see all of \
them; the key message_bytes_max below [limits] is the variable LTQ_LIMITS_MESSAGE_BYTES_MAX. Sizes \
are written as 64MiB, times as 30s.

SIGTERM or Ctrl-C stops the node cleanly; a second one ends it at once. When the file changes, or \
at SIGHUP, tokens and identities are read from it again; other settings take a restart.

Exit codes: 0 stopped cleanly, 2 bad usage or configuration, 1 anything else.";
