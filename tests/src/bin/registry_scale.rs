//! What a registry costs with many nodes, topics and watchers: one real `ltq-node registry`, and all others
//! in this process, each with a connection of its own.
//!
//! ```text
//! cargo run --release -p ltq-tests --bin ltq-registry-scale -- --nodes 1000 --topics 100000 --watchers 10000
//! cargo run --release -p ltq-tests --bin ltq-registry-scale -- --watchers 10000 --all-nodes
//! cargo run --release -p ltq-tests --bin ltq-registry-scale -- --watchers 1000 --all-nodes --changes 0 --loads 30
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    time::{Duration, Instant},
};

use clap::Parser;
use ltq_core::{ChannelName, TopicName};
use ltq_discovery::{
    Announced, Announcement, Discovery as _, Epoch, Interest, Load, NodeInfo, NodeState, Watch,
    registry::Registries,
};
use ltq_tests::RegistryProcess;
use ltq_transport::Tcp;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

/// What a registry costs with many nodes, topics and watchers.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 1_000)]
    nodes: usize,
    /// Of all nodes together, each at one of them.
    #[arg(long, default_value_t = 100_000)]
    topics: usize,
    /// Those who watch one topic that ten nodes have besides.
    #[arg(long, default_value_t = 10_000)]
    watchers: usize,
    /// Changes that are timed: a channel more of the one topic, or a node that begins or ends to drain.
    #[arg(long, default_value_t = 20)]
    changes: usize,
    /// Seconds between two of them: a node that changes more often is told of at a pace.
    #[arg(long, default_value_t = 3)]
    pause: u64,
    /// Seconds of rest in which the processor time is measured.
    #[arg(long, default_value_t = 20)]
    rest: u64,
    /// Watchers watch all nodes, as every client of a cluster does, and not the one topic.
    #[arg(long)]
    all_nodes: bool,
    /// Seconds in which the load of every node is another at each of its beats, and what the registry takes
    /// and tells meanwhile is measured. 0 leaves it out.
    #[arg(long, default_value_t = 0)]
    loads: u64,
}

type Failed = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let args = Args::parse();
    let registry = RegistryProcess::start(0, &["--log-level", "warn"]).await?;
    let pid = registry.pid().ok_or("the registry has ended")?;
    let at = registry.address().to_string();
    println!("| nodes | topics | watchers | memory | processor at rest |");
    println!("|---|---|---|---|---|");
    show(pid, 0, 0, 0, args.rest).await?;

    let hot: TopicName = "hot".parse()?;
    let per_node = args.topics / args.nodes.max(1);
    let mut nodes = Vec::with_capacity(args.nodes);
    let began = Instant::now();
    for number in 0..args.nodes {
        let node = node(number, per_node, &hot, 0)?;
        match registries(&at)?.announce(node).await? {
            Announced::Known(announced) => nodes.push(announced),
            Announced::NotTaken(why) => return Err(why.into()),
        }
    }
    let announcing = began.elapsed();
    show(pid, args.nodes, args.topics, 0, args.rest).await?;

    let (told, mut heard) = mpsc::unbounded_channel();
    let mut watching = JoinSet::new();
    let began = Instant::now();
    for _ in 0..args.watchers {
        let interest = match args.all_nodes {
            true => Interest::Nodes,
            false => Interest::Topic(hot.clone()),
        };
        let mut watch = registries(&at)?.watch(&interest).await?;
        watch.changed().await?;
        watching.spawn(follow(watch, told.clone()));
    }
    let begun = began.elapsed();
    show(pid, args.nodes, args.topics, args.watchers, args.rest).await?;
    println!("\nnodes were announced within {announcing:?}, watchers began within {begun:?}\n");

    if args.loads > 0 {
        let described = (0..args.nodes).map(|number| node(number, per_node, &hot, 0));
        let described = described.collect::<Result<Vec<_>, _>>()?;
        change_loads(&registry, pid, &mut nodes, &described, args.loads).await?;
        while heard.try_recv().is_ok() {}
    }

    let mut times = Vec::with_capacity(args.changes * args.watchers);
    for change in 1..=args.changes {
        let Some(announced) = nodes.first_mut() else { break };
        let changed = match args.all_nodes {
            true if change % 2 == 1 => node(0, per_node, &hot, 0)?.with_state(NodeState::Draining),
            true => node(0, per_node, &hot, 0)?,
            false => node(0, per_node, &hot, change)?,
        };
        sleep(Duration::from_secs(args.pause)).await;
        let began = Instant::now();
        announced.update(changed).await?;
        for _ in 0..args.watchers {
            let at = heard.recv().await.ok_or("nobody watches")?;
            times.push(at.duration_since(began));
        }
    }
    times.sort_unstable();
    let of = |part: f64| {
        let place = (times.len() as f64 * part) as usize;
        times.get(place.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    println!("a change reached {} watchers, {} times:", args.watchers, args.changes);
    println!("p50 {:?}, p99 {:?}, the last {:?}", of(0.5), of(0.99), of(1.0));
    Ok(())
}

fn registries(at: &str) -> Result<Registries, Failed> {
    Ok(Registries::builder(Tcp::default()).registry(at).build()?)
}

/// A node with its own topics; the first ten have the hot one too, with so many channels.
fn node(
    number: usize,
    topics: usize,
    hot: &TopicName,
    channels: usize,
) -> Result<NodeInfo, Failed> {
    let mut has = BTreeMap::new();
    let channel: ChannelName = "c".parse()?;
    for topic in 0..topics {
        let name: TopicName = format!("topic-{number}-{topic}").parse()?;
        has.insert(name, BTreeSet::from([channel.clone()]));
    }
    if number < 10 {
        let channels = (0..channels).map(|n| format!("c{n}").parse());
        has.insert(hot.clone(), channels.collect::<Result<_, _>>()?);
    }
    let address = format!("tcp://10.0.{}.{}:7440", number / 256, number % 256).parse()?;
    let node = NodeInfo::new(format!("node-{number}").parse()?, [address])?;
    Ok(node.with_epoch(Epoch { started: 1, instance: number as u64 }).with_topics(has.into()))
}

/// Has every node tell another load at each beat, and prints what that costs the registry.
async fn change_loads(
    registry: &RegistryProcess,
    pid: u32,
    nodes: &mut [Box<dyn Announcement>],
    described: &[NodeInfo],
    seconds: u64,
) -> Result<(), Failed> {
    let (told, spent, began) = (told(registry).await?, ticks(pid)?, Instant::now());
    for second in 1..=seconds {
        // The same topics: what is measured is the load alone.
        for (number, (announced, node)) in nodes.iter_mut().zip(described).enumerate() {
            let load = if (second + number as u64).is_multiple_of(2) { 1_000 } else { 8_000 };
            announced.update(node.clone().with_load(Load(load))).await?;
        }
        sleep(Duration::from_secs(second).saturating_sub(began.elapsed())).await;
    }
    let took = began.elapsed().as_secs_f64();
    let cpu = (ticks(pid)? - spent) as f64 / TICKS_A_SECOND / took * 100.0;
    let told = (self::told(registry).await? - told) as f64 / took;
    println!("every node's load another each second, for {took:.1} s:");
    println!("{told:.0} nodes told a second, {cpu:.1}% of one processor\n");
    Ok(())
}

/// How many nodes the registry has told watchers of, each time counted.
async fn told(registry: &RegistryProcess) -> Result<u64, Failed> {
    let (_, metrics) = registry.get("/metrics", None).await?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("ltq_registry_told_total "));
    Ok(line.ok_or("no figure of what was told")?.trim().parse()?)
}

/// Says when each change came.
async fn follow(mut watch: Box<dyn Watch>, told: mpsc::UnboundedSender<Instant>) {
    while watch.changed().await.is_ok() {
        if told.send(Instant::now()).is_err() {
            break;
        }
    }
}

/// Prints what the registry takes, after a rest.
async fn show(
    pid: u32,
    nodes: usize,
    topics: usize,
    watchers: usize,
    rest: u64,
) -> Result<(), Failed> {
    sleep(Duration::from_secs(3)).await;
    let before = ticks(pid)?;
    sleep(Duration::from_secs(rest)).await;
    let seconds = (ticks(pid)? - before) as f64 / TICKS_A_SECOND / rest as f64;
    let mib = resident(pid)? as f64 / 1024.0;
    println!("| {nodes} | {topics} | {watchers} | {mib:.1} MiB | {:.2}% of one |", seconds * 100.0);
    Ok(())
}

/// Processor time of a process, user and system, as `/proc` counts it.
fn ticks(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<u64> =
        behind_name.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    Ok(fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0))
}

/// Its memory in KiB.
fn resident(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0))
}

/// What Linux tells programs on every architecture.
const TICKS_A_SECOND: f64 = 100.0;
