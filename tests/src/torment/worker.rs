//! What runs on a client's host: producers of every mode, and consumers of all that they publish.
//!
//! Each writes down what it was told, a line each, parted by tabs: `C` topic, body, node, offset: confirmed;
//! `U` topic, body: nobody knows; `F` topic, body, error: nothing happened; `G` topic, body, node, offset: taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use futures::future::join_all;
use ltq_client::{
    Availability, Client, Cluster, ClusterConsumer, ClusterDelivery, ClusterProducer,
    ClusterPublishError, Failover, Message, Outcome,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

/// Its flags.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// What it is called.
    #[arg(long)]
    name: String,
    /// Where registries are.
    #[arg(long)]
    registry: Vec<String>,
    /// Publishes a second of each mode.
    #[arg(long)]
    rate: u32,
    /// Where it writes down what became of messages.
    #[arg(long)]
    journal: PathBuf,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Works until it reads `end`; at `quiet` its producers come to an end.
///
/// # Errors
/// Whatever keeps it from its work.
pub async fn run(args: WorkerArgs) -> Result<(), Failed> {
    let journal = Arc::new(Journal::new(&args.journal)?);
    let client = Client::builder()
        .name(&args.name)
        .connect_timeout(Duration::from_secs(5))
        .request_timeout(Duration::from_secs(5));
    let mut cluster = Cluster::builder().client(client);
    for registry in &args.registry {
        cluster = cluster.registry(registry);
    }
    let cluster = cluster.connect().await?;
    let ordered = format!("ordered-{}", args.name);
    let mut consumers = JoinSet::new();
    for topic in ["plain", "same", &ordered] {
        let consumer = cluster.consumer_builder(topic, "work").credit(200, 1 << 20).open().await?;
        consumers.spawn(consume(consumer, journal.clone()));
    }
    let (quiet, told) = watch::channel(false);
    let mut producers = JoinSet::new();
    let builder = |topic: &str| cluster.producer_builder(topic).timeout(TIMEOUT);
    let plain = builder("plain").open().await?;
    let same = builder("same").failover(Failover::SameNode).open().await?;
    for producer in [plain, same] {
        let (name, journal) = (args.name.clone(), journal.clone());
        producers.spawn(publish(producer, name, args.rate, journal, told.clone()));
    }
    let ordered = builder(&ordered).ordered(Availability::Move).open().await?;
    for key in 0..KEYS {
        let (journal, pause) =
            (journal.clone(), Duration::from_secs(u64::from(KEYS)) / args.rate.max(1));
        producers.spawn(publish_ordered(ordered.clone(), key, pause, journal, told.clone()));
    }
    say("ready")?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            Some(ended) = consumers.join_next() => {
                ended??;
                return Err("a consumer has ended".into());
            }
        };
        match line.as_deref() {
            Some("quiet") => {
                quiet.send_replace(true);
                while let Some(ended) = producers.join_next().await {
                    ended??;
                }
                say("quiet")?;
            }
            Some("end") | None => break,
            Some(_) => {}
        }
    }
    consumers.shutdown().await;
    timeout(Duration::from_secs(20), cluster.close()).await??;
    Ok(())
}

fn say(word: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{word}")?;
    output.flush()
}

/// Several on their way at a time, at a fixed rate.
async fn publish(
    producer: ClusterProducer,
    name: String,
    rate: u32,
    journal: Arc<Journal>,
    quiet: watch::Receiver<bool>,
) -> Result<(), Failed> {
    let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut under_way = JoinSet::new();
    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0_u64.. {
        ticks.tick().await;
        if *quiet.borrow() {
            break;
        }
        let place = places.clone().acquire_owned().await?;
        let (producer, journal) = (producer.clone(), journal.clone());
        let body = format!("{name}/{number}");
        under_way.spawn(async move {
            send(&producer, Message::new(body.clone()), &body, &journal).await.map(drop)?;
            drop(place);
            io::Result::Ok(())
        });
        while let Some(ended) = under_way.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = under_way.join_next().await {
        ended??;
    }
    Ok(())
}

/// One after the other. When the order moves, what was published before is consumed first.
async fn publish_ordered(
    producer: ClusterProducer,
    key: u32,
    pause: Duration,
    journal: Arc<Journal>,
    mut quiet: watch::Receiver<bool>,
) -> Result<(), Failed> {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut confirmed = BTreeSet::new();
    for number in 0_u64.. {
        ticks.tick().await;
        if *quiet.borrow() {
            break;
        }
        let body = format!("{key}/{number}");
        let message = || Message::new(body.clone()).with_key(key.to_string());
        loop {
            match send(&producer, message(), &body, &journal).await? {
                Sent::Confirmed => {
                    confirmed.insert(body.clone());
                }
                Sent::Moved => {
                    let topic = producer.topic().as_str();
                    tokio::select! {
                        () = journal.taken(topic, &mut confirmed) => continue,
                        _ = quiet.wait_for(|quiet| *quiet) => {}
                    }
                }
                Sent::Failed => {}
            }
            break;
        }
    }
    Ok(())
}

enum Sent {
    Confirmed,
    Failed,
    /// Nothing happened; the next goes to another node.
    Moved,
}

/// Publishes one message, and writes down what became of it.
async fn send(
    producer: &ClusterProducer,
    message: Message,
    body: &str,
    journal: &Journal,
) -> io::Result<Sent> {
    let (topic, began) = (producer.topic().as_str(), Instant::now());
    let result = producer.send(message).await;
    let took = began.elapsed().as_millis();
    match result {
        Ok(receipt) => {
            let offset = receipt.receipt.offset.map_or("-".to_owned(), |it| it.0.to_string());
            let line = format!("C\t{topic}\t{body}\t{}\t{offset}\t{took}", receipt.node);
            journal.write(&line)?;
            Ok(Sent::Confirmed)
        }
        // It is published again under the same name, so that this is no word on it.
        Err(ClusterPublishError::OrderMoved { .. }) => Ok(Sent::Moved),
        Err(error) if error.outcome() == Outcome::Nothing => {
            journal.write(&format!("F\t{topic}\t{body}\t{took}\t{error}"))?;
            Ok(Sent::Failed)
        }
        Err(error) => {
            journal.write(&format!("U\t{topic}\t{body}\t{took}\t{error}"))?;
            Ok(Sent::Failed)
        }
    }
}

async fn consume(mut consumer: ClusterConsumer, journal: Arc<Journal>) -> Result<(), Failed> {
    let topic = consumer.topic().to_string();
    let mut held = Vec::new();
    let mut count = 0_u64;
    loop {
        // What is held is answered in the end.
        let Ok(next) = timeout(QUIET, consumer.next()).await else {
            join_all(held.drain(..).map(ClusterDelivery::ack_confirmed)).await;
            continue;
        };
        let Some(delivery) = next else { break };
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(error) => {
                eprintln!("consuming {topic}: {error}");
                continue;
            }
        };
        let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
        let (node, offset) = (delivery.node(), delivery.offset().0);
        journal.write(&format!("G\t{topic}\t{body}\t{node}\t{offset}"))?;
        journal.note(&topic, body);
        count += 1;
        // Some are given back, and some answered late, so that there is always something in flight.
        match count % 50 {
            0 => drop(delivery.requeue(Duration::from_millis(100))),
            1..=5 => held.push(delivery),
            _ => drop(delivery.ack()),
        }
        if held.len() > 20 {
            join_all(held.drain(..).map(ClusterDelivery::ack_confirmed)).await;
        }
    }
    Err(format!("the consumer of {topic} is over").into())
}

/// Where it is written down.
struct Journal {
    file: Mutex<File>,
    /// By topic.
    taken: Mutex<BTreeMap<String, BTreeSet<String>>>,
    news: Notify,
}

impl Journal {
    fn new(path: &std::path::Path) -> io::Result<Self> {
        let file = Mutex::new(File::create(path)?);
        Ok(Self { file, taken: Mutex::default(), news: Notify::new() })
    }

    fn write(&self, line: &str) -> io::Result<()> {
        // In one call, so that whoever reads it meanwhile sees whole lines, but for the last.
        self.file.lock().write_all(format!("{}\n", line.replace('\n', " ")).as_bytes())
    }

    fn note(&self, topic: &str, body: String) {
        if topic.starts_with("ordered-") {
            self.taken.lock().entry(topic.to_owned()).or_default().insert(body);
            self.news.notify_waiters();
        }
    }

    /// Waits until all of them were taken, and forgets them.
    async fn taken(&self, topic: &str, bodies: &mut BTreeSet<String>) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(taken) = self.taken.lock().get(topic) {
                bodies.retain(|body| !taken.contains(body));
            }
            if bodies.is_empty() {
                return;
            }
            news.await;
        }
    }
}

/// After what time without a message those that are held are answered.
const QUIET: Duration = Duration::from_millis(500);
/// How long a publish may take in all.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);
/// Publishes of one mode that are not answered.
const UNDER_WAY_MAX: usize = 64;
/// Keys of an ordered topic.
const KEYS: u32 = 8;
