//! What `ltq bench` can be asked.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, value_parser};
use ltq_core::{Durability, TopicName};

use super::body::HEAD_BYTES;
use crate::config::ByteSize;

/// What `ltq bench` takes.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "Examples:\n  \
        ltq bench pub --size 100 --durability disk\n  \
        ltq bench e2e --topics 4 --producers 4 --count 2000000 --server-pid $(pidof ltq-node) --json\n  \
        ltq bench fanout --channels 16 --in-process\n  \
        ltq bench latency --rate 5000 --duration 30s\n  \
        ltq bench latency --topics 10 --one-connection\n  \
        ltq bench pub --producers 64 --wait-each\n  \
        ltq bench e2e --registry tcp://r1:7450,tcp://r2:7450 --rate-per-node 2000 --duration 30s\n  \
        ltq bench --idle-connections 10000 --server-pid $(pidof ltq-node)\n  \
        ltq bench device --dir ./ltq-data")]
pub struct BenchArgs {
    /// What to measure.
    #[arg(required_unless_present = "idle_connections")]
    pub mode: Option<Mode>,

    /// The size of each message's body, in bytes or as 4KiB.
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = size)]
    pub size: usize,
    /// How many messages are published in one call.
    #[arg(long, value_name = "MESSAGES", default_value_t = 200, value_parser = count)]
    pub batch: usize,
    /// How many connections publish. They share the topics: each topic is published to, by one
    /// producer of one of them or, where there are fewer topics, by several.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub producers: usize,
    /// How many consumers each channel has, each over a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub consumers: usize,
    /// Has all producers and consumers share one connection. Over quic:// each topic that is
    /// published to and each consumer has a stream of it.
    #[arg(long)]
    pub one_connection: bool,
    /// Has this many further consumers, each of a channel of its own, that take nothing of what
    /// comes to them: to see whether they hold up the others.
    #[arg(long, value_name = "N", value_parser = count)]
    pub stalled: Option<usize>,
    /// How many channels each topic has. [default: 1; 4 with fanout]
    #[arg(long, value_name = "N", value_parser = count)]
    pub channels: Option<usize>,
    /// How many topics there are.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub topics: usize,
    /// How many messages of a producer may be unconfirmed, and of a consumer unacked; of the
    /// latter at most 2500.
    #[arg(long, value_name = "MESSAGES", default_value_t = 10_000, value_parser = count)]
    pub in_flight: usize,
    /// Publishes at this rate over all producers, in messages per second, whether or not the node
    /// keeps up: latency is counted from when each message was due. [default: as fast as it goes;
    /// 1000 with latency]
    #[arg(long, value_name = "PER_SECOND", value_parser = value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// With --registry: publishes at this rate for each node that there is when the run begins, all producers
    /// together, as --rate does.
    #[arg(long, value_name = "PER_SECOND", requires = "registry",
          conflicts_with_all = ["rate", "wait_each"], value_parser = value_parser!(u32).range(1..))]
    pub rate_per_node: Option<u32>,
    /// Publishes this many messages in all. [default: for as long as --duration says; 1000000 with
    /// sub]
    #[arg(long, value_name = "MESSAGES", value_parser = value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Publishes for this long; with a rate, all that is due within it.
    #[arg(long, value_name = "TIME", default_value = "10s", conflicts_with = "count",
          value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Does the same beforehand for this long, and does not count it.
    #[arg(long, value_name = "TIME", default_value = "1s",
          value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// Makes the topics with this durability: disk, os or memory. [default: the node's]
    #[arg(long, value_name = "DURABILITY")]
    pub durability: Option<Durability>,
    /// Lets each producer wait for the confirm of a message before it publishes the next.
    #[arg(long, conflicts_with = "rate")]
    pub wait_each: bool,
    /// Keeps one processor of this machine busy instead of sleeping until something is due or
    /// comes, so that what this program takes to wake up is not measured with the node.
    #[arg(long)]
    pub spin: bool,

    /// Uses this topic instead of one of its own, and keeps it; several are numbered from 0.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<TopicName>,
    /// With sub: drains what an earlier "ltq bench pub --topic TOPIC" left in the topic, whatever keys it gave
    /// and whether it was by --server or by --registry.
    #[arg(long, requires = "topic")]
    pub prefilled: bool,

    /// Measures the nodes that this registry tells of, in place of --server: publishes and consumes as a program
    /// does that uses all of them. Of several, separated by commas, what they tell is merged. Or the nodes of an
    /// etcd: etcd://HOST:PORT/PREFIX, by TLS etcds://HOST:PORT/PREFIX. Or those behind a DNS name:
    /// dns://NAME:PORT, or dns+tls:// and dns+quic://. Topics and channels are made on each node that there is at the
    /// beginning, and deleted on each that there was meanwhile, so that it takes a token which permits that; that
    /// messages come in order is not asked for, as there is no order among nodes. A message that is stored twice, as one
    /// may be that had to go to a second node, is counted and no fault but with --ordered.
    #[arg(long, value_name = "URL", value_delimiter = ',',
          conflicts_with_all = ["in_process", "idle_connections"])]
    pub registry: Vec<String>,
    /// With --registry: publishes the messages of one call under one key, to that key's node.
    #[arg(long, requires = "registry")]
    pub ordered: bool,
    /// With --ordered: how many keys each producer's calls have in turn.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "ordered", value_parser = count)]
    pub keys: usize,

    /// Measures a broker inside this process instead of a server, over a transport inside this
    /// process, in memory or in --data-dir.
    #[arg(long, conflicts_with = "server_pid")]
    pub in_process: bool,
    /// With --in-process: keeps messages in files in this directory.
    #[arg(long, value_name = "DIR", requires = "in_process")]
    pub data_dir: Option<PathBuf>,
    /// The server's process, on this machine: tells its processor time and memory too. Of several, separated by
    /// commas, those of all together.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub server_pid: Vec<u32>,

    /// Opens this many connections that do nothing, and tells what memory each costs the server.
    /// That is exact for a server that has just started: one that has worked gives memory back
    /// meanwhile.
    #[arg(long, value_name = "N", requires = "server_pid", conflicts_with = "mode",
          value_parser = count)]
    pub idle_connections: Option<usize>,
    /// With device: the directory on the device to measure.
    #[arg(long, value_name = "DIR", required_if_eq("mode", "device"))]
    pub dir: Option<PathBuf>,
    /// With device: how much is written in one file and read again.
    #[arg(long, value_name = "BYTES", default_value = "2GiB")]
    pub file_bytes: ByteSize,
}

/// What `ltq bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Publishing alone.
    Pub,
    /// Consuming alone: a backlog that was published before.
    Sub,
    /// Publishing and consuming at once.
    E2e,
    /// One topic whose every message goes to several channels.
    Fanout,
    /// How long messages take at a fixed rate, to their confirm and to their consumer.
    Latency,
    /// The device itself, in --dir: a file written and read from its beginning to its end, and
    /// appends of --size bytes, each followed by a sync, one at a time.
    Device,
}

impl Mode {
    /// Whether it consumes.
    pub(super) const fn consumes(self) -> bool {
        !matches!(self, Self::Pub | Self::Device)
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Pub => "pub",
            Self::Sub => "sub",
            Self::E2e => "e2e",
            Self::Fanout => "fanout",
            Self::Latency => "latency",
            Self::Device => "device",
        }
    }
}

fn size(text: &str) -> Result<usize, String> {
    let size: ByteSize = text.parse()?;
    match usize::try_from(size.0) {
        Ok(bytes) if (HEAD_BYTES..=SIZE_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "a body has from {HEAD_BYTES} bytes, which are what it is verified by, to {SIZE_MAX}"
        )),
    }
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=COUNT_MAX) => Ok(count),
        _ => Err(format!("a whole number from 1 to {COUNT_MAX}")),
    }
}

const SIZE_MAX: usize = 256 << 20;
const COUNT_MAX: usize = 1_000_000;
