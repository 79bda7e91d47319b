//! What `ltq` can be asked.

use std::time::{Duration, SystemTime};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use ltq_core::{
    ChannelName, Durability, Keep, ProducerName, Retention, RetentionChange, StartAt, Timestamp,
    TopicName,
};

use crate::{
    bench::BenchArgs,
    config::{ByteSize, Period, Token},
};

/// Publishes to, reads from, administers and measures an LTQ node.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "ltq",
    version,
    about = "Publishes to, reads from, administers and measures an LTQ node.",
    after_help = "Exit codes: 0 done, 2 bad usage, 1 anything else.",
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it in place of what is flattened here")]
    pub server: ServerArgs,
    /// Prints data as JSON instead of for people; with sub it is --format json. With pub, each line
    /// of standard input is a message as sub --json or ltq-node dump print it.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    #[allow(missing_docs, reason = "clap would print it before the list of commands")]
    pub command: Command,
}

/// Which node, and how to get in.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// The node to talk to. Of several, separated by commas, the first that takes the connection, and the next
    /// when it is lost: nodes share nothing, so that each of them has to serve the same purpose.
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        value_name = "URL",
        env = "LTQ_SERVER",
        default_value = crate::node::DEFAULT_SERVER
    )]
    pub server: String,
    /// The node's token, where it asks for one. A variable keeps it from the list of processes.
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        value_name = "TOKEN",
        env = "LTQ_TOKEN",
        hide_env_values = true,
        value_parser = token
    )]
    pub token: Option<Token>,
    /// As whom an etcd at etcd:// and etcds:// addresses is asked, where it asks who is there.
    #[cfg(feature = "etcd")]
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        value_name = "NAME",
        env = "LTQ_ETCD_USER",
        requires = "etcd_password"
    )]
    pub etcd_user: Option<String>,
    /// That user's password. A variable keeps it from the list of processes.
    #[cfg(feature = "etcd")]
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        value_name = "PASSWORD",
        env = "LTQ_ETCD_PASSWORD",
        hide_env_values = true,
        requires = "etcd_user",
        value_parser = token
    )]
    pub etcd_password: Option<Token>,
    #[cfg(any(feature = "tls", feature = "quic"))]
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it in place of what is flattened here")]
    pub tls: super::trust::TlsArgs,
    /// How long connecting, a request, or the confirm of a message may take.
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        value_name = "TIME",
        default_value = "10s",
        value_parser = timeout
    )]
    pub timeout: Duration,
    /// How often either side says something at least, from 100ms on: one that says nothing for three of these is
    /// given up, and connected to anew. The node's own where that is shorter. [default: the node's, 15s as it
    /// comes]
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        value_name = "TIME",
        env = "LTQ_HEARTBEAT",
        value_parser = heartbeat
    )]
    pub heartbeat: Option<Duration>,
}

impl ServerArgs {
    /// The nodes, in the order in which they are tried.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &str> {
        self.server.split(',').map(str::trim)
    }
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Publishes one message, or one for each line of standard input.
    #[command(
        long_about = "Publishes one message, or, without BODY, one for each line of standard \
        input: byte for byte, without the newline. An empty line is an empty message. It ends with \
        exit code 0 only when every message is confirmed, and says on standard error how many are, \
        and how durable they are. When it fails, it says how many were confirmed for sure.\n\n\
        With --json each line is a message as sub --json and ltq-node dump print it: its key, \
        headers and body are published, exactly; its offset and time are given anew. At the first \
        line that is no such message it ends, and publishes nothing after it."
    )]
    Pub(PubArgs),
    /// Prints the messages of a channel, and acks them.
    #[command(long_about = "Prints the messages of a channel to standard output, one a line, and \
        acks each after it was written. The topic and the channel are made if they are not there. \
        It runs until Ctrl-C, until the reader of its output is gone, or until --count messages are \
        acked; what it was sent beyond that is given back to the channel at once.")]
    Sub(SubArgs),
    /// Lists, creates, alters, shows, deletes, pauses and resumes topics.
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Lists, creates, shows, deletes, pauses and resumes the channels of a topic.
    #[command(subcommand)]
    Channel(ChannelCommand),
    /// Shows the figures of the node, its topics and their channels.
    Stats,
    /// Shows the nodes that registries know.
    #[command(
        long_about = "Shows the nodes that registries, an etcd or DNS names know: where they are, what they do, and how \
        many topics they have; with --json one object a node, with the topics and channels, all \
        of them in an array. The token is for the registries; it has to permit to administer *, or, \
        with --topic, anything on the topic."
    )]
    Nodes(NodesArgs),
    /// Measures a node, and verifies every message while it does.
    // Said here: what the arguments' own type says gives way to the line above.
    #[command(
        long_about = "Measures a node, and verifies every message while it does: each carries its \
        producer, its sequence and a checksum, and a run fails with exit code 1 when one is \
        missing, repeated, out of order or wrong. It works on topics of its own, which it deletes \
        afterwards. Results go to standard output, as a table or with --json as one object."
    )]
    Bench(Box<BenchArgs>),
}

/// What `ltq nodes` takes.
#[derive(Clone, Debug, Args)]
pub struct NodesArgs {
    /// The registry to ask. Of several, what they tell is merged. Or an etcd: etcd://HOST:PORT/PREFIX, by TLS
    /// etcds://HOST:PORT/PREFIX, where several are members of one. Or DNS names that stand for nodes:
    /// dns://NAME:PORT, or dns+tls:// and dns+quic://.
    #[arg(
        long,
        value_name = "URL",
        env = "LTQ_REGISTRY",
        value_delimiter = ',',
        default_value = crate::registry::DEFAULT_REGISTRY
    )]
    pub registry: Vec<String>,
    /// Shows only the nodes that have this topic, or may.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<TopicName>,
    /// Shows them again whenever something changes, until Ctrl-C.
    #[arg(long)]
    pub follow: bool,
}

/// What `ltq pub` takes.
#[derive(Clone, Debug, Args)]
pub struct PubArgs {
    /// The topic. It is made if it is not there.
    pub topic: TopicName,
    /// The message. Without it, each line of standard input is one.
    pub body: Option<String>,
    /// Publishes to the nodes that this registry tells of, in place of --server: each message to one that is
    /// ready, and to another one when that fails. Of several, separated by commas, what they tell is merged. Or the
    /// nodes of an etcd: etcd://HOST:PORT/PREFIX, by TLS etcds://HOST:PORT/PREFIX. Or those behind a DNS name:
    /// dns://NAME:PORT, or dns+tls:// and dns+quic://.
    #[arg(long, value_name = "URL", value_delimiter = ',', conflicts_with = "name")]
    pub registry: Vec<String>,
    /// With --registry, publishes messages of one key, or those without, to one node, in order for as long as
    /// the nodes stay the same.
    #[arg(long, requires = "registry")]
    pub ordered: bool,
    /// Gives every message this key.
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Gives every message this header. It may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// Asks for this durability before a message is confirmed: disk, os or memory. The default is
    /// the topic's own.
    #[arg(long, value_name = "DURABILITY")]
    pub durability: Option<Durability>,
    /// Publishes under this name, under which the node remembers how many messages came. Started
    /// again with the same name and the same input, it skips the lines that are stored already, so
    /// that each line is stored once.
    #[arg(long, value_name = "PRODUCER")]
    pub name: Option<ProducerName>,
}

/// What `ltq sub` takes.
#[derive(Clone, Debug, Args)]
pub struct SubArgs {
    /// The topic.
    pub topic: TopicName,
    /// The channel. Those who read the same channel share its messages; each channel of a topic
    /// gets all of them.
    pub channel: ChannelName,
    /// Reads from all nodes that this registry tells of, in place of --server, and from those that come
    /// later. Of several, separated by commas, what they tell is merged. Or from the nodes of an etcd:
    /// etcd://HOST:PORT/PREFIX, by TLS etcds://HOST:PORT/PREFIX. Or from those behind a DNS name:
    /// dns://NAME:PORT, or dns+tls:// and dns+quic://.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub registry: Vec<String>,
    /// Ends after exactly this many messages. The default is to go on.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub count: Option<u64>,
    /// Prints bodies as they are, or each message as a JSON object.
    #[arg(long, value_name = "FORMAT", default_value = "body")]
    pub format: Format,
    /// Where the channel starts if it is not there yet: earliest (the oldest message kept), latest
    /// (the next one published), an offset, or a time: 2027-01-31T12:00:00Z, or @MILLIS (since
    /// 1970). A channel that is there goes on where it was.
    #[arg(long, value_name = "WHERE", default_value = "earliest", value_parser = start_at)]
    pub from: StartAt,
    /// How many messages may be on their way here and not acked; the node may allow less.
    #[arg(long, value_name = "MESSAGES", default_value_t = 1000, value_parser = positive)]
    pub credit: u64,
}

/// How `ltq sub` prints messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The body and a newline.
    Body,
    /// A JSON object with offset, time, attempt, key, headers and body.
    Json,
}

/// What a topic is to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct RetentionArgs {
    /// What to keep while no limit says otherwise: unacked (until every channel has acked it) or
    /// all. A channel made later can read again what is kept. The default for a new topic is the
    /// node's, here and below.
    #[arg(long, value_name = "WHAT")]
    pub keep: Option<Keep>,
    /// Removes messages older than this, acked or not: 12h, 7d; or none, for no such limit.
    #[arg(long, value_name = "TIME", value_parser = age_limit)]
    pub age_max: Option<Limit<Duration>>,
    /// Removes the oldest messages beyond so many bytes, acked or not: 500MiB, 10GiB; or none, for
    /// no such limit.
    #[arg(long, value_name = "SIZE", value_parser = bytes_limit)]
    pub bytes_max: Option<Limit<u64>>,
}

/// A limit, or that there is to be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit<T>(pub Option<T>);

impl RetentionArgs {
    /// What of this is said.
    #[must_use]
    pub fn change(&self) -> RetentionChange {
        RetentionChange {
            keep: self.keep,
            age_max: self.age_max.map(|limit| limit.0),
            bytes_max: self.bytes_max.map(|limit| limit.0),
        }
    }
}

/// What can be done with topics.
#[derive(Clone, Debug, Subcommand)]
pub enum TopicCommand {
    /// Prints the names of all topics, one a line.
    List,
    /// Makes a topic. One that is there with the same settings is fine.
    Create {
        /// The topic.
        topic: TopicName,
        /// What a message has to survive before it is confirmed: disk, os or memory. The default
        /// is the node's.
        #[arg(long, value_name = "DURABILITY")]
        durability: Option<Durability>,
        #[command(flatten)]
        #[allow(missing_docs, reason = "clap would print it in place of what is flattened here")]
        retention: RetentionArgs,
    },
    /// Changes what a topic keeps. What is beyond a new limit is removed soon after.
    #[command(group = ArgGroup::new("change")
        .args(["keep", "age_max", "bytes_max"])
        .required(true)
        .multiple(true))]
    Alter {
        /// The topic.
        topic: TopicName,
        #[command(flatten)]
        #[allow(missing_docs, reason = "clap would print it in place of what is flattened here")]
        retention: RetentionArgs,
    },
    /// Shows the figures of a topic and its channels.
    Show {
        /// The topic.
        topic: TopicName,
    },
    /// Deletes a topic with its channels and all its messages.
    Delete {
        /// The topic.
        topic: TopicName,
    },
    /// Stops delivery in all channels of a topic. Publishing goes on.
    Pause {
        /// The topic.
        topic: TopicName,
    },
    /// Restarts delivery in all channels of a topic.
    Resume {
        /// The topic.
        topic: TopicName,
    },
}

/// What can be done with channels.
#[derive(Clone, Debug, Subcommand)]
pub enum ChannelCommand {
    /// Prints the names of a topic's channels, one a line.
    List {
        /// The topic.
        topic: TopicName,
    },
    /// Makes a channel. One that is there already is fine, and stays where it is.
    Create {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: ChannelName,
        /// Where it starts: earliest, latest, an offset, or a time: 2027-01-31T12:00:00Z, or @MILLIS
        /// (since 1970). From an offset or a time of which nothing is kept any more, it starts at the
        /// oldest message kept.
        #[arg(long, value_name = "WHERE", default_value = "earliest", value_parser = start_at)]
        from: StartAt,
    },
    /// Shows the figures of a channel.
    Show {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: ChannelName,
    },
    /// Deletes a channel: its place in the topic is forgotten.
    Delete {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: ChannelName,
    },
    /// Stops delivery in a channel.
    Pause {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: ChannelName,
    },
    /// Restarts delivery in a channel.
    Resume {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: ChannelName,
    },
}

fn token(text: &str) -> Result<Token, std::convert::Infallible> {
    Ok(text.into())
}

/// What a node may be asked for.
fn heartbeat(text: &str) -> Result<Duration, String> {
    let time = timeout(text)?;
    if (HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&time) {
        Ok(time)
    } else {
        Err(format!("it must be from {HEARTBEAT_MIN:?} to {HEARTBEAT_MAX:?}"))
    }
}

/// A time that something may take: 0 would mean that nothing can be done.
fn timeout(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time {
        Duration::ZERO => Err("it must be more than 0; write it as 500ms or 10s".to_owned()),
        time => Ok(time),
    }
}

/// A place to start, which may be a time as people write it.
fn start_at(text: &str) -> Result<StartAt, String> {
    let place = text.parse::<StartAt>();
    place.or_else(|_| match humantime::parse_rfc3339_weak(text) {
        Ok(time) => {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            Ok(StartAt::Time(Timestamp(millis)))
        }
        Err(_) => Err("use earliest, latest, an offset, a time such as 2027-01-31T12:00:00Z (in \
                       UTC), or milliseconds since 1970 as @MILLIS"
            .to_owned()),
    })
}

fn age_limit(text: &str) -> Result<Limit<Duration>, String> {
    let age_max = match text {
        NO_LIMIT => None,
        text => Some(text.parse::<Period>()?.0),
    };
    in_bounds(Retention { age_max, ..Retention::default() })?;
    Ok(Limit(age_max))
}

fn bytes_limit(text: &str) -> Result<Limit<u64>, String> {
    let bytes_max = match text {
        NO_LIMIT => None,
        text => Some(text.parse::<ByteSize>()?.0),
    };
    in_bounds(Retention { bytes_max, ..Retention::default() })?;
    Ok(Limit(bytes_max))
}

fn in_bounds(retention: Retention) -> Result<(), String> {
    retention.check().map_err(|error| error.rule.to_owned())
}

/// Says that there is to be no limit.
const NO_LIMIT: &str = "none";

fn positive(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("a whole number, at least 1".to_owned()),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

/// No node takes a shorter one, and no client goes by a longer one.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const HEARTBEAT_MAX: Duration = Duration::from_secs(30);
