//! One run: producers, consumers, the clock, and whether everything came as it was sent.

use std::{
    collections::BTreeMap,
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use ltq_client::{Availability, ChannelName, Durability, StartAt, TopicName};
use tokio::{
    sync::Notify,
    task::{JoinSet, yield_now},
};

use super::{
    args::Mode,
    body::Bodies,
    consuming::{Channel, Consumed, consume},
    ledger::Ledger,
    operators::{self, OnNode, Operators},
    pacer::{Pacer, Schedule, nanos},
    plan::Plan,
    process::Usage,
    producing::{Produced, Publishing},
    target::Target,
};
use crate::cli::{
    CliError,
    ends::{Ends, Publisher, Reader},
};

/// What a run measured.
pub(super) struct Outcome {
    pub(super) published: u64,
    pub(super) delivered: u64,
    /// Messages that the broker delivered again.
    pub(super) redelivered: u64,
    /// Copies of messages that are stored more than once, as they may be.
    pub(super) stored_again: u64,
    pub(super) seconds: f64,
    pub(super) durability: Option<Durability>,
    /// To the receipt.
    pub(super) receipts: Histogram<u64>,
    /// To the consumer.
    pub(super) deliveries: Histogram<u64>,
    /// The servers before and after.
    pub(super) usage: Option<(Usage, Usage)>,
    /// This process before and after, where the system tells.
    pub(super) own_usage: Option<(Usage, Usage)>,
    /// What was on each of several nodes.
    pub(super) nodes: Vec<OnNode>,
}

/// What the tasks of a run share.
pub(super) struct Run {
    pub(super) clock: Instant,
    pub(super) bodies: Bodies,
    pub(super) published: AtomicU64,
    pub(super) received: AtomicU64,
}

impl Run {
    fn new(target: &Target, plan: &Plan) -> Self {
        let bodies = Bodies::new(plan.size, plan.batch);
        let bodies = match target.is_cluster() {
            _ if plan.prefilled => bodies.of_any(),
            true => bodies.of_cluster(plan.keys.unwrap_or(0)),
            false => bodies,
        };
        Self {
            clock: Instant::now(),
            bodies,
            published: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    /// The run's clock in nanoseconds.
    pub(super) fn nanos(&self) -> u64 {
        nanos(self.clock.elapsed())
    }
}

/// Does what the plan says, and verifies it. The run's own topics are deleted afterwards, whatever
/// came of it.
pub(super) async fn run(
    target: &Target,
    plan: &Plan,
    servers: &[u32],
    bar: &ProgressBar,
) -> Result<Outcome, CliError> {
    let operators = Operators::connect(target).await?;
    let runner = Runner { target, plan, servers, bar, operators: &operators };
    let outcome = tokio::select! {
        outcome = runner.run() => outcome,
        () = crate::cli::interrupted() => Err(CliError::Failed("interrupted".to_owned())),
    };
    let cleaned = operators.clean_up(plan).await;
    let outcome = outcome?;
    cleaned?;
    operators.close().await?;
    Ok(outcome)
}

struct Runner<'a> {
    target: &'a Target,
    plan: &'a Plan,
    servers: &'a [u32],
    bar: &'a ProgressBar,
    operators: &'a Operators,
}

impl Runner<'_> {
    async fn run(&self) -> Result<Outcome, CliError> {
        let plan = self.plan;
        let mut backlog = Vec::new();
        if plan.prefilled {
            // Before a channel is made: that would make a topic that is not there.
            for topic in &plan.topics {
                let kept = self.operators.count(topic).await?.kept;
                if kept == 0 {
                    return Err(CliError::Failed(format!("topic {topic} holds nothing to drain")));
                }
                backlog.push(kept);
            }
        }
        self.operators.set_up(plan).await?;
        let before = self.operators.each(plan).await?;
        let mut produced = Vec::new();
        if plan.mode == Mode::Sub && !plan.prefilled {
            let filling = Arc::new(Run::new(self.target, plan));
            produced = self.publish(&filling, None).await?;
        }
        let consumer_clients = self.consumer_clients().await?;
        let publishing = match plan.mode {
            Mode::Sub => Vec::new(),
            _ => self.producers(&consumer_clients).await?,
        };
        let channels: Vec<_> = (0..plan.topics.len() * plan.channels.len())
            .map(|_| Arc::new(Channel::new(plan.prefilled)))
            .collect();
        // A backlog begins to come as soon as there is a consumer.
        let mut consumers = Vec::new();
        if plan.mode != Mode::Sub {
            consumers = self.consumers(&consumer_clients).await?;
        }

        let _stalled = self.stalled(&consumer_clients).await?;
        let usage_before = Usage::of_all(self.servers)?;
        let own_before = Usage::of(process::id()).ok();
        let run = Arc::new(Run::new(self.target, plan));
        if plan.mode == Mode::Sub {
            consumers = self.consumers(&consumer_clients).await?;
        }
        let mut consuming = JoinSet::new();
        for (place, consumer) in consumers {
            let (run, channel) = (run.clone(), channels.get(place).cloned());
            let channel = channel.unwrap_or_else(|| Arc::new(Channel::new(plan.prefilled)));
            consuming.spawn(async move { consume(&run, consumer, channel, place).await });
        }
        if plan.mode != Mode::Sub {
            produced = self.publish(&run, Some(publishing)).await?;
        }
        let published = self.published(&produced);
        let expected: Vec<u64> = (0..plan.topics.len())
            .map(|topic| match backlog.get(topic) {
                Some(backlog) => *backlog,
                None => published.get(&topic).map_or(0, sum),
            })
            .collect();
        for (place, channel) in channels.iter().enumerate() {
            channel.expect(expected.get(place / plan.channels.len()).copied().unwrap_or(0));
        }
        let all = async {
            for channel in &channels {
                channel.all_received().await;
            }
        };
        let came = self.watched(&run, all).await;
        let seconds = run.clock.elapsed().as_secs_f64();
        if came.is_err() {
            channels.iter().for_each(|channel| channel.give_up());
        }
        let consumed = joined(consuming).await?;
        let usage_after = Usage::of_all(self.servers)?;
        let own_after = Usage::of(process::id()).ok();

        let stored_again = self.verify(&published, &expected, &consumed, &channels).await?;
        came?;
        let mut outcome = Outcome {
            published: produced.iter().map(|produced| produced.published).sum(),
            delivered: consumed.iter().map(|consumed| consumed.received).sum(),
            redelivered: channels.iter().map(|channel| channel.ledger().redelivered()).sum(),
            stored_again,
            seconds,
            durability: produced.iter().filter_map(|produced| produced.durability).min(),
            receipts: histogram(),
            deliveries: histogram(),
            usage: usage_before.zip(usage_after),
            own_usage: own_before.zip(own_after),
            nodes: operators::since(&before, self.operators.each(plan).await?),
        };
        for produced in &produced {
            add(&mut outcome.receipts, &produced.latency);
        }
        for consumed in &consumed {
            add(&mut outcome.deliveries, &consumed.latency);
        }
        Ok(outcome)
    }

    /// Where a channel begins that is made while the run is on its way: at a node that was not there before.
    const fn start(&self) -> StartAt {
        if self.plan.own_topics { StartAt::Earliest } else { StartAt::Latest }
    }

    /// Consumers that have credit and take nothing for as long as they live.
    async fn stalled(&self, others: &[Ends]) -> Result<Vec<Reader>, CliError> {
        let plan = self.plan;
        let mut consumers = Vec::with_capacity(plan.stalled.len());
        for (topic, channel) in plan.stalled() {
            let client = match others.first() {
                Some(shared) if plan.one_connection => shared.clone(),
                _ => self.target.ends().await?,
            };
            consumers.push(self.reader(&client, topic, channel, CREDIT_MESSAGES).await?);
        }
        Ok(consumers)
    }

    /// Producers over connections of their own, or over the first of `others` if all is to go over
    /// one.
    async fn producers(&self, others: &[Ends]) -> Result<Vec<Publishing>, CliError> {
        let plan = self.plan;
        let clients = match others.first() {
            Some(shared) if plan.one_connection => vec![shared.clone()],
            _ if plan.one_connection => vec![self.target.ends().await?],
            _ => self.connect(plan.producers).await?,
        };
        let mut publishing = Vec::with_capacity(plan.publishers());
        for (place, client) in (0..plan.publishers()).zip(clients.iter().cycle()) {
            let topic = place % plan.topics.len();
            let Some(name) = plan.topics.get(topic) else { continue };
            let producer = self.publisher(client, name).await?;
            let wake = Arc::new(Notify::new());
            publishing.push(Publishing { producer, place, topic, wake });
        }
        Ok(publishing)
    }

    async fn publisher(&self, ends: &Ends, topic: &TopicName) -> Result<Publisher, CliError> {
        let (plan, timeout) = (self.plan, self.target.timeout());
        match ends {
            Ends::Node(client) => {
                let builder = client.producer_builder(topic).window_messages(plan.in_flight);
                let builder = builder.window_bytes(WINDOW_BYTES).timeout(timeout);
                Ok(Publisher::Node(builder.open().await?))
            }
            Ends::Cluster(cluster) => {
                let builder = cluster.producer_builder(topic).window_messages(plan.in_flight);
                let mut builder = builder.window_bytes(WINDOW_BYTES).timeout(timeout);
                if plan.keys.is_some() {
                    builder = builder.ordered(Availability::Fail).moves_silently(true);
                }
                Ok(Publisher::Cluster(builder.open().await?))
            }
        }
    }

    async fn consumer_clients(&self) -> Result<Vec<Ends>, CliError> {
        let plan = self.plan;
        let count = plan.topics.len() * plan.channels.len() * plan.consumers;
        if !plan.one_connection || count == 0 {
            return self.connect(count).await;
        }
        Ok(vec![self.target.ends().await?; count])
    }

    async fn connect(&self, count: usize) -> Result<Vec<Ends>, CliError> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(self.target.ends().await?);
        }
        Ok(clients)
    }

    async fn consumers(&self, clients: &[Ends]) -> Result<Vec<(usize, Reader)>, CliError> {
        let plan = self.plan;
        let names =
            plan.topics.iter().flat_map(|t| plan.channels.iter().map(move |channel| (t, channel)));
        let mut consumers = Vec::with_capacity(clients.len());
        let credit = (plan.in_flight as u64).min(CREDIT_MESSAGES);
        for ((place, (topic, channel)), clients) in
            names.enumerate().zip(clients.chunks(plan.consumers))
        {
            for client in clients {
                consumers.push((place, self.reader(client, topic, channel, credit).await?));
            }
        }
        Ok(consumers)
    }

    /// Reads a channel, on all nodes where there are several: what is there already, on those that have it.
    async fn reader(
        &self,
        ends: &Ends,
        topic: &TopicName,
        channel: &ChannelName,
        credit: u64,
    ) -> Result<Reader, CliError> {
        let (start, prefilled) = (self.start(), self.plan.prefilled);
        match ends {
            Ends::Node(client) => {
                let builder = client.consumer_builder(topic, channel).start(start);
                Ok(Reader::Node(builder.credit(credit, CREDIT_BYTES).open().await?))
            }
            Ends::Cluster(cluster) => {
                let builder = cluster.consumer_builder(topic, channel).start(start);
                let builder = builder.credit(credit, CREDIT_BYTES).every_node(!prefilled);
                Ok(Reader::Cluster(builder.open().await?))
            }
        }
    }

    async fn publish(
        &self,
        run: &Arc<Run>,
        ready: Option<Vec<Publishing>>,
    ) -> Result<Vec<Produced>, CliError> {
        let publishing = match ready {
            Some(publishing) => publishing,
            None => self.producers(&[]).await?,
        };
        let plan = Arc::new(self.plan.clone());
        let schedule = plan.rate.map(|rate| Schedule {
            start: run.nanos(),
            rate,
            producers: plan.publishers() as u64,
        });
        let wakes = publishing.iter().map(|publishing| publishing.wake.clone()).collect();
        let paced = schedule.filter(|_| !plan.spin);
        let pacer = paced.map(|schedule| Pacer::start(schedule, run.clock, wakes)).transpose();
        let _pacer =
            pacer.map_err(|source| CliError::Io { doing: "starting the pacer", source })?;
        let mut spinning = JoinSet::new();
        if plan.spin {
            // The worker looks for what has come between any two of its turns, and never sleeps.
            spinning.spawn(async {
                loop {
                    yield_now().await;
                }
            });
        }
        let mut producing = JoinSet::new();
        for publishing in publishing {
            let (run, plan) = (run.clone(), plan.clone());
            producing.spawn(async move { publishing.run(&run, &plan, schedule).await });
        }
        self.watched(run, joined(producing)).await?
    }

    /// What each producer of each topic published.
    fn published(&self, produced: &[Produced]) -> BTreeMap<usize, BTreeMap<u32, u64>> {
        let mut published: BTreeMap<usize, BTreeMap<u32, u64>> = BTreeMap::new();
        for produced in produced {
            published.entry(produced.topic).or_default().insert(produced.id, produced.published);
        }
        published
    }

    /// Whether nodes may store more than was confirmed: what was sent to one whose connection was lost goes to
    /// another, unless keys have an order.
    const fn may_repeat(&self) -> bool {
        self.target.is_cluster() && self.plan.keys.is_none()
    }

    /// Checks that what came is what was published, and that the broker counts the same. Returns how much is stored
    /// more than once, where that may be.
    async fn verify(
        &self,
        published: &BTreeMap<usize, BTreeMap<u32, u64>>,
        expected: &[u64],
        consumed: &[Consumed],
        channels: &[Arc<Channel>],
    ) -> Result<u64, CliError> {
        let plan = self.plan;
        let mut wrong = Vec::new();
        let mut stored_again = 0;
        for (at, topic) in plan.topics.iter().enumerate() {
            let none = BTreeMap::new();
            let published = published.get(&at).unwrap_or(&none);
            let expected = expected.get(at).copied().unwrap_or(0);
            let counted = self.operators.count(topic).await?;
            let taken = counted.taken;
            let is_right = taken == expected || (taken > expected && self.may_repeat());
            if plan.own_topics && !is_right {
                wrong.push(format!("topic {topic} took {taken} messages, not {expected}"));
            }
            // Some of it may not have come when all else had.
            let mut again = if plan.own_topics { taken.saturating_sub(expected) } else { 0 };
            for (index, channel) in plan.channels.iter().enumerate() {
                let place = at * plan.channels.len() + index;
                let of_channel = consumed.iter().filter(|consumed| consumed.place == place);
                let acked = counted.acked.get(channel).copied().unwrap_or(0);
                let Some(came) = channels.get(place).map(|channel| channel.ledger()) else {
                    continue;
                };
                again = again.max(came.stored_again());
                let copies = if plan.prefilled { 0 } else { came.stored_again() };
                let to_ack = expected + copies;
                // Copies may have come, and been acked, when all else had been counted.
                let may_be_more = plan.own_topics && !plan.prefilled && self.may_repeat();
                let is_right = acked == to_ack || may_be_more && (to_ack..=taken).contains(&acked);
                if !is_right {
                    let words = format!("the broker counts {acked} acks, not {to_ack}");
                    wrong.push(format!("{topic}/{channel}: {words}"));
                }
                let of_one = !self.target.is_cluster();
                let of = (plan.prefilled, of_one);
                if let Err(what) = check(of_channel, &came, published, expected, of) {
                    wrong.push(format!("{topic}/{channel}: {what}"));
                }
            }
            stored_again += again;
        }
        if wrong.is_empty() {
            return Ok(stored_again);
        }
        Err(CliError::Failed(format!("verification failed: {}", wrong.join("; "))))
    }

    /// Waits for something while the bar shows how far the run is, and gives up when nothing moves
    /// for as long as anything may take.
    async fn watched<F: Future>(&self, run: &Run, future: F) -> Result<F::Output, CliError> {
        let mut future = std::pin::pin!(future);
        let consumes = self.plan.mode.consumes();
        let mut last = (0, Instant::now());
        loop {
            tokio::select! {
                output = &mut future => return Ok(output),
                () = tokio::time::sleep(TICK) => {}
            }
            let published = run.published.load(Ordering::Relaxed);
            let received = run.received.load(Ordering::Relaxed);
            self.bar.set_position(if consumes { received } else { published });
            if published + received != last.0 {
                last = (published + received, Instant::now());
            } else if last.1.elapsed() > self.target.timeout() + TICK {
                let waited = self.target.timeout();
                let words = format!(
                    "nothing moved for {waited:?} after {published} messages were confirmed and \
                     {received} received"
                );
                return Err(CliError::Failed(words));
            }
        }
    }
}

/// Checks what the consumers of one channel got.
fn check<'a>(
    consumed: impl Iterator<Item = &'a Consumed>,
    came: &Ledger,
    published: &BTreeMap<u32, u64>,
    expected: u64,
    (prefilled, of_one): (bool, bool),
) -> Result<(), String> {
    let (mut consumers, mut received) = (0, 0);
    let mut is_part = false;
    for consumed in consumed {
        if let Some(first) = &consumed.first_wrong {
            return Err(format!("{} messages are wrong, the first: {first}", consumed.wrong));
        }
        consumers += 1;
        received += consumed.received;
        is_part |= prefilled && of_one && consumed.of_cluster;
    }
    if received != expected {
        return Err(format!("{received} messages came, not {expected}"));
    }
    if is_part {
        return came.check_part();
    }
    // Who filled the topic is not known here, only that nobody left a gap.
    let found = came.published();
    // Among nodes there is no order.
    came.check(if prefilled { &found } else { published }, consumers == 1 && of_one)
}

fn sum(published: &BTreeMap<u32, u64>) -> u64 {
    published.values().sum()
}

async fn joined<T: 'static>(mut tasks: JoinSet<Result<T, CliError>>) -> Result<Vec<T>, CliError> {
    let mut done = Vec::with_capacity(tasks.len());
    while let Some(result) = tasks.join_next().await {
        done.push(result.map_err(|error| {
            CliError::Failed(format!("a task of the load generator died: {error}"))
        })??);
    }
    Ok(done)
}

/// Of microseconds up to ten minutes, to three digits.
#[allow(clippy::expect_used, reason = "the bounds are constants that fit each other")]
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX.as_micros() as u64, 3).expect("good bounds")
}

fn add(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    // Both have the same bounds.
    let _ = to.add(from);
}

pub(super) const fn micros(nanos: u64) -> u64 {
    nanos / 1000
}

const LATENCY_MAX: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_millis(200);
/// What a producer may hold; more than its messages in flight take, unless they are large.
const WINDOW_BYTES: usize = 64 << 20;
/// What a node allows a consumer unless it is set otherwise.
const CREDIT_MESSAGES: u64 = 2500;
const CREDIT_BYTES: u64 = 16 << 20;
