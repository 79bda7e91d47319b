//! What runs on a client's host: producers of every mode, and consumers of all that they publish.
//!
//! Each writes down what it does and was told, a line each, parted by tabs, the times being those for which the
//! machine had run:
//!
//! - `P` topic, body, time: about to be published;
//! - `C` topic, body, node, offset, milliseconds, durability, way: confirmed;
//! - `U` topic, body, milliseconds, error: nobody knows;
//! - `F` topic, body, milliseconds, error: nothing happened;
//! - `M` topic, body, from, to: its order moves, and nothing happened;
//! - `G` topic, body, node, offset, id, attempt, time, way: taken;
//! - `A` topic, body, node, offset, attempt, time: acked, and its node has confirmed that;
//! - `E` topic, body, node, time, time: given back, and taken before its delay was over;
//! - `D` topic, body, offset, origin: found at the bridge's destination;
//! - `S` nothing, nothing, time, time: this program was kept from running.
//!
//! A way is how it was published or taken: see `ways`.
//!
//! Whoever is killed and started again lives once more, and numbers its messages from another million on.

mod consuming;
mod journal;
mod mode;
mod publishing;
mod seats;
pub(super) mod ways;
mod words;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use futures::future::{try_join, try_join_all};
use ltq_client::{Client, ClientBuilder, Cluster};
use ltq_discovery::registry::Registries;
use ltq_transport::{ClientTrust, Fingerprint, Quic, Tcp, Tls, Transports};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use self::{
    consuming::consume,
    mode::MODES,
    publishing::Publishing,
    ways::{Call, Take},
};
pub(super) use self::{
    journal::Journal,
    mode::{is_ordered, is_unsynced, may_repeat, moves_silently, topics},
    words::{say, say_time, uptime_ms},
};

/// Its flags.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// What it is called.
    #[arg(long)]
    name: String,
    /// How often there was one of this name before.
    #[arg(long, default_value_t = 0)]
    life: u64,
    /// How often another one was started before it, of whatever name, and what the seed adds to that: by this it
    /// chooses the ways in which it publishes and consumes.
    #[arg(long, default_value_t = 0)]
    turn: usize,
    /// Where registries are.
    #[arg(long)]
    registry: Vec<String>,
    /// By what nodes are known at `tls://` and `quic://` addresses.
    #[arg(long)]
    fingerprint: Fingerprint,
    /// Over what it publishes.
    #[arg(long)]
    publish_over: Over,
    /// Over what it consumes.
    #[arg(long)]
    consume_over: Over,
    /// Publishes a second of each mode.
    #[arg(long)]
    rate: u32,
    /// Where it writes down what became of messages.
    #[arg(long)]
    journal: PathBuf,
}

/// What carries messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Over {
    /// TCP.
    Tcp,
    /// TLS.
    Tls,
    /// QUIC.
    Quic,
}

impl Over {
    /// As addresses begin.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
        }
    }

    /// All, one after the other and around.
    pub(super) const fn nth(number: usize) -> &'static str {
        match number % 3 {
            0 => "quic",
            1 => "tls",
            _ => "tcp",
        }
    }
}

pub(super) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Works until it reads `end`; at `quiet` its producers come to an end.
///
/// # Errors
/// Whatever keeps it from its work.
pub async fn run(args: WorkerArgs) -> Result<(), Failed> {
    let (quiet, told) = watch::channel(false);
    let mut work = Work::default();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let journal = Arc::new(Journal::open(&args.journal)?);
    let _stalls = journal.watch_stalls();
    let mut starting = Box::pin(start(args, journal, told));
    let mut is_ready = false;
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            started = &mut starting, if !is_ready => {
                (is_ready, work) = (true, started?);
                say("ready")?;
                continue;
            }
            Some(ended) = work.consumers.join_next() => {
                ended??;
                return Err("a consumer has ended".into());
            }
        };
        match line.as_deref() {
            Some("time") => say_time()?,
            Some("quiet") => {
                quiet.send_replace(true);
                while let Some(ended) = work.producers.join_next().await {
                    ended??;
                }
                say("quiet")?;
            }
            Some("end") | None => break,
            Some(_) => {}
        }
    }
    work.consumers.shutdown().await;
    for cluster in work.clusters {
        timeout(Duration::from_secs(20), cluster.close()).await??;
    }
    Ok(())
}

#[derive(Default)]
struct Work {
    clusters: Vec<Cluster>,
    producers: JoinSet<Result<(), Failed>>,
    consumers: JoinSet<Result<(), Failed>>,
}

/// Opens everything, whatever fails meanwhile.
async fn start(
    args: WorkerArgs,
    journal: Arc<Journal>,
    quiet: watch::Receiver<bool>,
) -> Result<Work, Failed> {
    let connect = |over| insist("connecting", move |args: WorkerArgs| connect(args, over), &args);
    let (publishing, consuming) =
        try_join(connect(args.publish_over), connect(args.consume_over)).await?;
    let mut work = Work::default();
    let consumers = MODES.iter().enumerate().map(|(index, mode)| {
        let (cluster, topic) = (consuming.clone(), mode.topic(&args.name));
        let way = Take::nth(args.turn + index);
        let open = move |topic: String| {
            let builder = cluster.consumer_builder(topic, CHANNEL).credit(CREDIT, 1 << 20);
            builder.every_node(way == Take::EveryNode).open()
        };
        async move {
            let consumer = match way {
                // They open their own, one at each node.
                Take::Seat => None,
                _ => Some(insist("consuming", open, &topic).await?),
            };
            Ok::<_, Failed>((way, topic, consumer))
        }
    });
    for (way, topic, consumer) in try_join_all(consumers).await? {
        let journal = journal.clone();
        match consumer {
            Some(consumer) => work.consumers.spawn(consume(consumer, way, journal)),
            None => {
                let (client, scheme) =
                    (client(&args, args.consume_over)?, args.consume_over.scheme());
                let seats = seats::Seats { cluster: consuming.clone(), client, scheme, topic };
                work.consumers.spawn(seats.consume(journal))
            }
        };
    }
    let producers = MODES.map(|mode| {
        let (cluster, name) = (publishing.clone(), args.name.clone());
        let open = move |name: String| mode.producer(&cluster, &name).open();
        async move { insist("publishing", open, &name).await.map(|producer| (mode, producer)) }
    });
    for (index, (mode, producer)) in try_join_all(producers).await?.into_iter().enumerate() {
        let publishing = Publishing {
            producer,
            client: args.name.clone(),
            first: args.life * LIFE,
            order: mode.ordered,
            call: Call::nth(args.turn + index),
            journal: journal.clone(),
            quiet: quiet.clone(),
        };
        match mode.ordered {
            // Who waits for each receipt can wait for what was published before, too, when the order moves.
            Some(order) if publishing.call == Call::Send => {
                let keys = if order.has_keys { mode::KEYS } else { 1 };
                let pause = Duration::from_secs(u64::from(keys)) / args.rate.max(1);
                for key in 0..keys {
                    work.producers.spawn(publishing.clone().of_key(key, pause));
                }
            }
            _ => drop(work.producers.spawn(publishing.at_rate(args.rate))),
        }
    }
    work.clusters = vec![publishing, consuming];
    Ok(work)
}

fn client(args: &WorkerArgs, over: Over) -> Result<ClientBuilder, Failed> {
    let trust = ClientTrust::fingerprint(args.fingerprint)?;
    let transports = match over {
        Over::Tcp => Transports::new().with(Tcp::default()),
        Over::Tls => Transports::new().with(Tls::default().trusting(trust)),
        Over::Quic => Transports::new().with(Quic::default().trusting(trust)),
    };
    let client = Client::builder().name(&args.name).token(TOKEN).transports(transports);
    Ok(client.connect_timeout(CONNECT).request_timeout(CONNECT))
}

async fn connect(args: WorkerArgs, over: Over) -> Result<Cluster, Failed> {
    let client = client(&args, over)?;
    let mut registries = Registries::builder(Transports::new().with(Tcp::default()))
        .connect_timeout(CONNECT)
        .patience(CONNECT);
    for registry in &args.registry {
        registries = registries.registry(registry);
    }
    Ok(Cluster::builder().discovery(registries.build()?).client(client).connect().await?)
}

/// Does it again until it works: whoever is started may be cut off from everybody.
async fn insist<A: Clone, T, E: Into<Failed>, F: Future<Output = Result<T, E>>>(
    doing: &str,
    mut act: impl FnMut(A) -> F,
    with: &A,
) -> Result<T, Failed> {
    let until = Instant::now() + INSIST_MAX;
    loop {
        match act(with.clone()).await.map_err(Into::into) {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() >= until => return Err(error),
            Err(error) => eprintln!("{doing}, again: {error}"),
        }
        sleep(AGAIN).await;
    }
}

/// How many messages of one life there may be.
pub(super) const LIFE: u64 = 1_000_000;
/// What ends a line that was not written to its end.
pub(super) const BROKEN: char = '#';
/// What topics of a mesh begin with: what one program sends to another.
pub(super) const MESH: &str = "mesh-";
/// The topic whose messages need not outlast their node.
pub(super) const FLEETING: &str = "memory";
/// How long a publish may take in all.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);
/// What every node asks for.
pub(super) const TOKEN: &str = "of all the torment";
/// What is consumed. The bridge has a channel of its own.
pub(super) const CHANNEL: &str = "work";
/// How many messages a consumer may hold.
const CREDIT: u64 = 200;
const CONNECT: Duration = Duration::from_secs(5);
const INSIST_MAX: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(200);
