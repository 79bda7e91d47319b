//! Whole brokers, their clients, a network and disks in one process, on one seed and simulated time.
//!
//! [`run`] plays one seed: a node with the real broker and the real file store, on a simulated disk
//! ([`SimulatedDisk`](ltq_store::simulation::SimulatedDisk)) and network
//! ([`SimulatedNetwork`]), and real clients that publish and consume. For a while things go wrong:
//! connections are cut, the node is killed or loses its power, its disk is full, clocks jump. Then
//! nothing does any more, and everything due has to be delivered within a bound. What everybody did
//! and was told is the [`History`]; the checks, one file for each promise, look at nothing else.
//!
//! The same seed gives the same history, to the byte of its trace.

pub mod chance;
mod checks;
mod consumers;
pub mod history;
pub mod node;
mod producers;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use ltq_client::{Client, TopicOptions};
use ltq_core::{BrokerSettings, Durability};
use ltq_store::simulation::seed_hashing;
use ltq_transport::{SimulatedNetwork, Transports, Weather};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{
    chance::{Clock, Seeded},
    consumers::Consuming,
    history::{Event, History, What, trace},
    node::Node,
    producers::{Producing, backoff},
};

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Played {
    /// Everything that happened.
    pub events: Vec<Event>,
    /// What of it breaks a promise, in the promises' numbers.
    pub broken: Vec<String>,
    /// How long it took, in simulated time.
    pub simulated: Duration,
}

impl Played {
    /// All of it in words.
    #[must_use]
    pub fn trace(&self) -> String {
        trace(&self.events)
    }
}

/// How durable the messages of each topic are.
pub(crate) const TOPICS: [Durability; 3] = [Durability::Disk, Durability::Os, Durability::Memory];
/// Channels of each topic.
pub(crate) const CHANNELS: usize = 2;

/// Plays a seed.
///
/// # Panics
/// When the simulation itself is at fault.
#[must_use]
pub fn run(seed: u64) -> Played {
    seed_hashing(seed);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    let played = runtime.block_on(async { World::new(seed).play().await });
    // What is left of it must not go on beside the next one.
    drop(runtime);
    played
}

struct World {
    chance: Seeded,
    clock: Clock,
    network: SimulatedNetwork,
    node: Node,
    history: History,
    settings: BrokerSettings,
}

impl World {
    fn new(seed: u64) -> Self {
        let chance = Seeded::new(seed);
        let (clock, history) = (Clock::new(), History::new());
        let network = SimulatedNetwork::new(Arc::new(chance.fork()));
        let settings = BrokerSettings {
            heartbeat: Duration::from_secs(1),
            hello_timeout: Duration::from_secs(2),
            stall_timeout: Duration::from_secs(5),
            ..BrokerSettings::default()
        };
        let node = Node::new(
            NODE,
            network.clone(),
            settings.clone(),
            clock.clone(),
            chance.fork(),
            history.clone(),
        );
        Self { chance, clock, network, node, history, settings }
    }

    fn client(&self, host: &str) -> Client {
        Client::builder()
            .server(&format!("sim://{NODE}"))
            .transports(Transports::new().with(self.network.host(host)))
            .entropy(Arc::new(self.chance.fork()))
            .backoff(backoff())
            .connect_timeout(Duration::from_secs(2))
            .request_timeout(Duration::from_secs(10))
            .connect_in_background()
            .expect("an address")
    }

    async fn play(mut self) -> Played {
        debug_assert!(self.settings.check().is_ok());
        self.node.start().await.expect("an empty disk");
        let operator = self.client("operator");
        let admin = operator.admin();
        for (topic, durability) in TOPICS.into_iter().enumerate() {
            let options = TopicOptions { durability: Some(durability), ..Default::default() };
            let topic = format!("t{topic}");
            admin.create_topic(topic.as_str(), options).await.expect("a topic");
            for channel in 0..CHANNELS {
                let (topic, channel) = (topic.as_str(), format!("c{channel}"));
                let made = admin.create_channel(topic, channel.as_str(), Default::default());
                made.await.expect("a channel");
            }
        }

        let (stop_producers, producers_run) = watch::channel(true);
        let (stop_consumers, consumers_run) = watch::channel(true);
        let (be_diligent, diligent) = watch::channel(false);
        let mut producing = JoinSet::new();
        for number in 0..1 + self.chance.below(5) as usize {
            let topic = self.chance.below(TOPICS.len() as u64) as usize;
            let producer = Producing {
                number,
                topic,
                client: self.client(&format!("p{number}")),
                chance: self.chance.fork(),
                history: self.history.clone(),
                durability: None,
                messages: 1 + self.chance.below(300),
            };
            producing.spawn(producer.run(producers_run.clone()));
        }
        let mut consuming = JoinSet::new();
        let subscriptions = Arc::new(AtomicU64::new(0));
        for topic in 0..TOPICS.len() {
            for channel in 0..CHANNELS {
                for _ in 0..1 + self.chance.below(2) {
                    let number = consuming.len();
                    let consumer = Consuming {
                        number,
                        topic,
                        channel,
                        client: self.client(&format!("c{number}")),
                        chance: self.chance.fork(),
                        history: self.history.clone(),
                        subscriptions: subscriptions.clone(),
                        diligent: diligent.clone(),
                    };
                    consuming.spawn(consumer.run(consumers_run.clone()));
                }
            }
        }

        self.torment().await;
        self.heal().await;
        stop_producers.send_replace(false);
        let done = async { while producing.join_next().await.is_some() {} };
        let mut broken = Vec::new();
        if timeout(PUBLISHING_MAX, done).await.is_err() {
            broken.push(format!("progress: producers were not done after {PUBLISHING_MAX:?}"));
        }
        be_diligent.send_replace(true);
        self.history.note("world", "only what is left is delivered from now on");
        if let Err(left) = self.drained(&operator).await {
            broken.push(format!("progress: after {DRAINING_MAX:?} there is left: {left}"));
        }
        stop_consumers.send_replace(false);
        let _ = timeout(Duration::from_secs(60), async {
            while consuming.join_next().await.is_some() {}
        })
        .await;
        let events = self.history.events();
        broken.extend(checks::all(&events));
        Played { events, broken, simulated: self.history.elapsed() }
    }

    /// Things go wrong.
    async fn torment(&mut self) {
        let calm = self.chance.one_in(3);
        for _ in 0..1 + self.chance.below(10) {
            self.change_the_weather();
            sleep(self.chance.millis(5_000)).await;
            if calm {
                continue;
            }
            match self.chance.below(8) {
                0 | 1 => self.node.kill(false),
                2 | 3 => self.node.kill(true),
                4 => {
                    let deadline = self.chance.millis(10_000);
                    self.node.stop(deadline).await;
                }
                5 => {
                    let millis = self.chance.below(20_000) as i64 - 10_000;
                    self.history.note("world", format!("clocks jump by {millis} ms"));
                    self.clock.jump(millis);
                }
                6 => {
                    let room = self.chance.below(300 << 10);
                    self.history.add("world", What::Room(room));
                    self.node.disk.set_capacity(Some(self.node.disk.used() + room));
                    sleep(self.chance.millis(3_000)).await;
                    self.node.disk.set_capacity(None);
                    self.history.add("world", What::DiskFine);
                }
                _ => {
                    let syncs = self.chance.below(20);
                    self.history.add("world", What::SyncFails(syncs));
                    self.node.disk.fail_sync_in(syncs);
                }
            }
            sleep(self.chance.millis(1_000)).await;
            if !self.node.is_running() {
                self.start().await;
            } else if self.store_failed() {
                // As an operator does, or whoever watches the node for him.
                self.node.stop(Duration::from_secs(1)).await;
                self.start().await;
            }
        }
    }

    fn store_failed(&self) -> bool {
        use ltq_core::Store;
        self.node.broker().is_some_and(|broker| broker.store().health().is_err())
    }

    async fn start(&mut self) {
        if let Err(error) = self.node.start().await {
            panic!("the node does not start: {error}\n{}", trace(&self.history.events()));
        }
    }

    fn change_the_weather(&self) {
        let chance = &self.chance;
        let one_in = |most: u64| if chance.one_in(2) { 0 } else { 20 + chance.below(most) };
        let weather = Weather {
            delay_max: chance.millis(if chance.one_in(3) { 100 } else { 5 }),
            stall_one_in: one_in(200),
            stall_max: chance.millis(4_000),
            cut_one_in: one_in(400),
            silence_one_in: one_in(600),
            refuse_one_in: if chance.one_in(2) { 0 } else { 2 + chance.below(10) },
            pieces: chance.one_in(2),
            window: 1 << (6 + chance.below(12)),
            ..Weather::default()
        };
        self.history.note("world", format!("{weather:?}"));
        self.network.set_weather(weather);
    }

    /// Nothing goes wrong any more.
    async fn heal(&mut self) {
        self.network.set_weather(Weather::default());
        self.node.disk.set_capacity(None);
        self.node.disk.fail_sync_in(u64::MAX);
        if self.store_failed() {
            self.node.stop(Duration::from_secs(1)).await;
        }
        if !self.node.is_running() {
            self.start().await;
        }
        self.history.add("world", What::DiskFine);
        self.history.note("world", "nothing goes wrong from now on");
    }

    /// Waits until every channel has delivered what it has.
    async fn drained(&self, operator: &Client) -> Result<(), String> {
        let mut last = String::new();
        let drained = async {
            loop {
                let mut left = String::new();
                for topic in 0..TOPICS.len() {
                    match operator.admin().show_topic(format!("t{topic}").as_str()).await {
                        Ok(stats) => {
                            for channel in &stats.channels {
                                let open = channel.waiting + channel.delayed + channel.in_flight;
                                if open > 0 {
                                    left += &format!("t{topic}: {channel:?}; ");
                                }
                            }
                        }
                        Err(error) => {
                            self.history.note("operator", &error);
                            left += &format!("t{topic}: {error}; ");
                        }
                    }
                }
                if left.is_empty() {
                    return;
                }
                last = left;
                sleep(Duration::from_millis(500)).await;
            }
        };
        match timeout(DRAINING_MAX, drained).await {
            Ok(()) => Ok(()),
            Err(_) => Err(last),
        }
    }
}

const NODE: &str = "node";
/// How long producers may take with what they have at hand.
const PUBLISHING_MAX: Duration = Duration::from_secs(120);
/// How long it may take until everything due is delivered.
const DRAINING_MAX: Duration = Duration::from_secs(120);
