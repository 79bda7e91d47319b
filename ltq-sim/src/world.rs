//! One play: everybody is set going, things go wrong, and then nothing does any more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use ltq_client::{Backoff, Client, Message};
use ltq_core::{BrokerSettings, Durability};
use ltq_store::simulation::{Faults, SimulatedDisk};
use ltq_transport::{SimulatedNetwork, Transports, Weather};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    body::Body,
    chance::{Clock, Seeded},
    checks,
    consumers::Consuming,
    history::{History, What},
    leaving::{Going, PasserBy},
    node::{NODE, Node},
    operators::{Operating, make, resume_all},
    plan::{Part, Plan},
    producers::Producing,
    simulation::{Played, Wrap},
    stores::Stores,
    topics::{LASTING, TOPICS, comes_and_goes, topic_name},
    trouble::Trouble,
};

/// Makes clients.
#[derive(Clone)]
pub(crate) struct Clients {
    network: SimulatedNetwork,
    wrap: Wrap,
    seed: u64,
    made: Arc<AtomicU64>,
}

impl Clients {
    /// Cuts a host's connections.
    pub(crate) fn cut(&self, host: &str) {
        self.network.cut(host, false);
    }

    /// One more client of a host. It connects in the background.
    #[expect(clippy::expect_used, reason = "the address and all options are the simulation's own")]
    pub(crate) fn client(&self, host: &str) -> Client {
        let number = self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let transport = (self.wrap)(self.network.host(host));
        Client::builder()
            .server(&format!("{}://{NODE}", transport.scheme()))
            .transports(Transports::new().with_arc(transport))
            .entropy(Arc::new(Seeded::of(self.seed, &format!("client {number} of {host}"))))
            .backoff(Backoff::new(Duration::from_millis(20), Duration::from_millis(500)))
            .connect_timeout(Duration::from_secs(2))
            .request_timeout(Duration::from_secs(10))
            .connect_in_background()
            .expect("an address")
    }
}

/// Why a play ends early.
enum End {
    /// A promise is broken.
    Broken(String),
    /// Nothing more can be asked of a damaged disk.
    GivenUp,
}

fn broken(why: impl Into<String>) -> End {
    End::Broken(why.into())
}

pub(crate) struct World<S: Stores> {
    clients: Clients,
    clock: Clock,
    history: History,
    node: Node<S>,
    /// Whether the disk was damaged: then a node may refuse to start, and messages may be missing.
    damaged: bool,
}

impl<S: Stores> World<S> {
    pub(crate) fn new(seed: u64, stores: Arc<S>, settings: BrokerSettings, wrap: Wrap) -> Self {
        let (clock, history) = (Clock::new(), History::new());
        let network = SimulatedNetwork::new(Arc::new(Seeded::of(seed, "network")));
        let made = Arc::default();
        let clients = Clients { network: network.clone(), wrap: wrap.clone(), seed, made };
        let node = Node {
            stores,
            disk: SimulatedDisk::default(),
            network,
            wrap,
            settings,
            clock: clock.clone(),
            chance: Seeded::of(seed, NODE),
            history: history.clone(),
            running: None,
        };
        Self { clients, clock, history, node, damaged: false }
    }

    pub(crate) async fn play(mut self, plan: Plan) -> Played {
        let mut trouble = Vec::new();
        if let Err(End::Broken(why)) = self.act(plan).await {
            trouble.push(why);
        }
        let events = self.history.events();
        trouble.extend(checks::all(&events));
        Played { events, broken: trouble, simulated: self.history.elapsed() }
    }

    async fn act(&mut self, plan: Plan) -> Result<(), End> {
        self.start().await?;
        let operator = self.clients.client("world");
        let admin = operator.admin();
        for topic in 0..TOPICS.len() {
            if !make(&admin, &self.history, "world", topic).await {
                return Err(broken("progress: a node on an empty disk makes no topics"));
            }
            self.history.add("world", What::Made { topic });
        }
        let (stop_producers, producers_run) = watch::channel(true);
        let (stop_operators, operators_run) = watch::channel(true);
        let (stop_consumers, consumers_run) = watch::channel(true);
        let (be_diligent, diligent) = watch::channel(plan.fair);
        if plan.fair {
            self.history.add("world", What::Fair);
        }
        let (mut producing, mut operating, mut consuming) =
            (JoinSet::new(), JoinSet::new(), JoinSet::new());
        for part in plan.producers {
            let producer = Producing {
                topic: part.chance.below(TOPICS.len() as u64) as usize,
                messages: 1 + part.chance.below(300),
                clients: self.clients.clone(),
                history: self.history.clone(),
                published: AtomicU64::new(0),
                late: Default::default(),
                crashes: !plan.fair,
                part,
            };
            producing.spawn(producer.run(producers_run.clone()));
        }
        for part in plan.operators {
            let client = self.clients.client(&part.name);
            let operator = Operating { part, client, history: self.history.clone() };
            operating.spawn(operator.run(operators_run.clone()));
        }
        let subscriptions = Arc::new(AtomicU64::new(0));
        // A channel that nobody consumes any more has nothing to be drained of.
        let mut consumed: Vec<_> = plan.consumers.iter().map(|it| (it.1, it.2)).collect();
        consumed.dedup();
        for (part, topic, channel) in plan.consumers {
            let consumer = Consuming {
                part,
                topic,
                channel,
                clients: self.clients.clone(),
                history: self.history.clone(),
                subscriptions: subscriptions.clone(),
                diligent: diligent.clone(),
                forgets: !plan.fair,
            };
            consuming.spawn(consumer.run(consumers_run.clone()));
        }

        if plan.fair {
            sleep(Duration::from_secs(10)).await;
        }
        for (part, trouble) in plan.troubles {
            self.goes_wrong(&part, trouble).await?;
        }
        stop_operators.send_replace(false);
        self.heal().await?;
        all_of(&mut operating, "operators").await?;
        self.remake(&operator).await?;
        stop_producers.send_replace(false);
        all_of(&mut producing, "producers").await?;
        be_diligent.send_replace(true);
        self.history.note("world", "only what is left is delivered from now on");
        self.drained(&operator, &consumed, DONE_WITHIN).await?;
        if consumed.contains(&(LASTING, 0)) {
            self.pause(&operator, &consumed).await?;
            if let Some(going) = plan.going {
                self.pass_by(&operator, going).await?;
                self.drained(&operator, &consumed, AT_ONCE).await?;
            }
        }
        stop_consumers.send_replace(false);
        all_of(&mut consuming, "consumers").await?;
        self.at_rest().await;
        Ok(())
    }

    async fn goes_wrong(&mut self, part: &Part, trouble: Trouble) -> Result<(), End> {
        let chance = &part.chance;
        sleep(chance.millis(3_000)).await;
        self.history.note(&part.name, trouble);
        match trouble {
            Trouble::BadWeather => {
                let weather = weather(chance);
                self.history.note(&part.name, format!("{weather:?}"));
                self.node.network.set_weather(weather);
            }
            Trouble::Kill => self.node.kill(false),
            Trouble::PowerCut => self.node.kill(true),
            Trouble::DiskStops => {
                let after = self.node.disk.operations() + 1 + chance.below(200);
                self.node.disk.crash_at(after);
                self.history.add(&part.name, What::DiskFails("it stops soon".to_owned()));
                sleep(chance.millis(2_000)).await;
                self.node.kill(true);
            }
            Trouble::Stop => self.node.stop(chance.millis(10_000)).await,
            Trouble::ClockJumps => {
                let millis = i64::try_from(chance.below(20_000)).unwrap_or(0) - 10_000;
                self.history.add(&part.name, What::ClockJumps { millis });
                self.clock.jump(millis);
            }
            Trouble::DiskFull => {
                let room = chance.below(300 << 10);
                self.history.add(&part.name, What::Room(room));
                self.node.disk.set_capacity(Some(self.node.disk.used() + room));
                sleep(chance.millis(3_000)).await;
                self.node.disk.set_capacity(None);
                self.history.add(&part.name, What::DiskFine);
            }
            Trouble::SyncFails => {
                let syncs = chance.below(20);
                self.history.add(&part.name, What::DiskFails(format!("sync {syncs} from now")));
                self.node.disk.fail_sync_in(syncs);
            }
            Trouble::ReadsFail => {
                self.history.add(&part.name, What::ReadsFail);
                let faults = Faults { reads: 1 + chance.below(20), ..Faults::default() };
                self.node.disk.set_faults(faults, &chance.chance());
                sleep(chance.millis(3_000)).await;
                self.node.disk.set_faults(Faults::default(), &chance.chance());
            }
            Trouble::WritesFail => {
                let one_in = |most| if chance.one_in(2) { 1 + chance.below(most) } else { 0 };
                let faults = Faults {
                    writes: one_in(100),
                    syncs: one_in(50),
                    names: one_in(20),
                    ..Faults::default()
                };
                self.history.add(&part.name, What::DiskFails(format!("{faults:?}")));
                self.node.disk.set_faults(faults, &chance.chance());
                sleep(chance.millis(3_000)).await;
                self.node.disk.set_faults(Faults::default(), &chance.chance());
            }
            Trouble::Damage => {
                self.node.stop(Duration::from_secs(5)).await;
                let (file, what) = self.node.disk.damage(&mut chance.chance());
                self.damaged = true;
                let what = format!("{what} of {}", file.display());
                self.history.add(&part.name, What::Damaged(what));
            }
        }
        sleep(chance.millis(1_000)).await;
        self.look().await;
        self.mend().await
    }

    /// What the node has in memory just now.
    async fn look(&self) {
        if let Some(broker) = &self.node.running {
            let memory_bytes = broker.stats().await.store.memory_bytes;
            let most = self.node.stores.memory_bytes_max();
            self.history.add(NODE, What::AtWork { memory_bytes, most });
        }
    }

    /// Does what an operator does, or whoever watches the node for him.
    async fn mend(&mut self) -> Result<(), End> {
        // A device that has stopped taking changes is noticed by whoever watches it, if not by a node
        // that had none to make.
        if self.node.store_failed() || self.node.disk.has_stopped() {
            self.node.stop(Duration::from_secs(1)).await;
            // What lies on a device that failed is what it has, not what memory had of it.
            if self.node.disk.has_stopped() {
                let mut chance = self.node.chance.chance();
                self.node.disk = self.node.disk.after_power_cut(&mut chance);
            }
        }
        if self.node.running.is_none() {
            self.start().await?;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<(), End> {
        match self.node.start().await {
            Ok(()) => Ok(()),
            Err(why) if self.damaged => {
                // An operator would repair it. Nothing more can be asked of it here.
                self.history.note(NODE, format!("does not start any more: {why}"));
                Err(End::GivenUp)
            }
            Err(why) => Err(broken(format!("start: the node does not start: {why}"))),
        }
    }

    /// Nothing goes wrong any more.
    async fn heal(&mut self) -> Result<(), End> {
        self.node.network.set_weather(Weather::default());
        self.node.disk.set_capacity(None);
        self.node.disk.fail_sync_in(u64::MAX);
        self.node.disk.set_faults(Faults::default(), &self.node.chance.chance());
        self.mend().await?;
        self.history.add("world", What::DiskFine);
        self.history.note("world", "nothing goes wrong from now on");
        Ok(())
    }

    /// Resumes what operators paused, and makes what they deleted.
    async fn remake(&self, operator: &Client) -> Result<(), End> {
        let admin = operator.admin();
        let remade = async {
            loop {
                let mut made = resume_all(&admin).await;
                for topic in (0..TOPICS.len()).filter(|&topic| comes_and_goes(topic)) {
                    if !make(&admin, &self.history, "world", topic).await {
                        let why = || Err(format!("{} is not made", topic_name(topic)));
                        made = made.and_then(|()| why());
                    }
                }
                match made {
                    Ok(()) => break,
                    Err(why) => self.history.note("world", why),
                }
                sleep(Duration::from_millis(500)).await;
            }
        };
        match timeout(DONE_WITHIN, remade).await {
            Ok(()) => Ok(()),
            Err(_) => Err(broken(format!("progress: nothing can be made within {DONE_WITHIN:?}"))),
        }
    }

    /// Waits until every channel that somebody consumes has delivered what it has.
    async fn drained(
        &self,
        operator: &Client,
        consumed: &[(usize, usize)],
        within: Duration,
    ) -> Result<(), End> {
        let mut last = String::new();
        let drained = async {
            loop {
                let mut left = String::new();
                for topic in 0..TOPICS.len() {
                    match operator.admin().show_topic(topic_name(topic).as_str()).await {
                        Ok(stats) => {
                            for &(_, channel) in consumed.iter().filter(|it| it.0 == topic) {
                                let Some(channel) = stats.channels.get(channel) else { continue };
                                let open = channel.waiting + channel.delayed + channel.in_flight;
                                if open > 0 {
                                    left += &format!("t{topic}: {channel:?}; ");
                                }
                            }
                            self.history.add("world", What::Counted { topic, stats });
                        }
                        Err(error) => {
                            self.history.note("world", &error);
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
        match timeout(within, drained).await {
            Ok(()) => Ok(()),
            Err(_) => Err(broken(format!("progress: after {within:?} there is left: {last}"))),
        }
    }

    /// A channel that has delivered all it had is paused, and gets nothing of what is published then,
    /// until it is resumed.
    async fn pause(&self, operator: &Client, consumed: &[(usize, usize)]) -> Result<(), End> {
        let failed = |error: &dyn std::fmt::Display| broken(format!("progress: at rest, {error}"));
        let (topic, channel, admin) = (LASTING, 0, operator.admin());
        admin.pause_channel("t0", "c0").await.map_err(|error| failed(&error))?;
        self.history.add("world", What::Paused { topic, channel });
        let producer = operator.producer("t0").await.map_err(|error| failed(&error))?;
        for number in 1..=3 {
            let body = Body { producer: usize::MAX, number };
            let durability = Durability::Disk;
            self.history.add("world", What::Published { topic, body, durability });
            let told = producer.send(Message::new(body.bytes())).await;
            let receipt = told.map_err(|error| failed(&error))?;
            let (offset, durability) = (receipt.offset, receipt.durability);
            self.history.add("world", What::Confirmed { topic, body, offset, durability });
        }
        sleep(Duration::from_secs(5)).await;
        self.history.add("world", What::Resumed { topic, channel });
        admin.resume_channel("t0", "c0").await.map_err(|error| failed(&error))?;
        self.drained(operator, consumed, DONE_WITHIN).await
    }

    /// One more consumer takes something, and goes, or its node does.
    async fn pass_by(&mut self, operator: &Client, going: Going) -> Result<(), End> {
        let failed = |why: String| broken(format!("progress: at rest, {why}"));
        // Until nothing that went wrong before matters any more.
        sleep(Duration::from_secs(20)).await;
        let came = PasserBy::come(&self.clients, operator, &self.history).await;
        let mut passer_by = came.map_err(failed)?;
        match going {
            Going::Leaves => passer_by.leave().await.map_err(failed),
            Going::IsCut => {
                passer_by.lose_connection(&self.clients);
                Ok(())
            }
            Going::Outlives => {
                passer_by.put_off().await;
                // Until what the node has to remember is on its disk.
                sleep(Duration::from_secs(4)).await;
                let power = self.node.chance.one_in(2);
                self.node.kill(power);
                self.start_for_all(passer_by).await
            }
            Going::SeesAStop => {
                passer_by.put_off().await;
                passer_by.ack().await;
                self.node.stop(Duration::from_secs(10)).await;
                self.start_for_all(passer_by).await
            }
        }
    }

    /// Starts the node when everybody knows that the last one is gone.
    async fn start_for_all(&mut self, passer_by: PasserBy) -> Result<(), End> {
        sleep(Duration::from_secs(5)).await;
        drop(passer_by);
        self.start().await?;
        self.history.add("world", What::AllAnew);
        Ok(())
    }

    /// What is left when everybody but the world's own client is gone.
    async fn at_rest(&self) {
        let Some(broker) = &self.node.running else { return };
        // Those that crashed are noticed by their silence.
        sleep(Duration::from_secs(30)).await;
        let stats = broker.stats().await;
        self.history.add(
            NODE,
            What::AtRest {
                connections: stats.connections,
                memory_bytes: stats.store.memory_bytes,
                memory_bytes_max: self.node.stores.memory_bytes_max(),
                disk_bytes: stats.store.disk_bytes,
                disk_bytes_max: self.node.stores.files_at_rest_bytes_max(),
            },
        );
    }
}

async fn all_of(set: &mut JoinSet<()>, who: &str) -> Result<(), End> {
    let panicked = AtomicBool::new(false);
    let done = async {
        while let Some(done) = set.join_next().await {
            panicked.fetch_or(done.is_err(), std::sync::atomic::Ordering::Relaxed);
        }
    };
    if timeout(DONE_WITHIN, done).await.is_err() {
        return Err(broken(format!("progress: {who} are not done after {DONE_WITHIN:?}")));
    }
    if panicked.into_inner() {
        return Err(broken(format!("panic: one of the {who} panicked")));
    }
    Ok(())
}

fn weather(chance: &Seeded) -> Weather {
    let one_in = |most: u64| if chance.one_in(2) { 0 } else { 20 + chance.below(most) };
    Weather {
        delay_max: chance.millis(if chance.one_in(3) { 100 } else { 5 }),
        stall_one_in: one_in(200),
        stall_max: chance.millis(4_000),
        cut_one_in: one_in(400),
        silence_one_in: one_in(600),
        refuse_one_in: if chance.one_in(2) { 0 } else { 2 + chance.below(10) },
        pieces: chance.one_in(2),
        window: 1 << (6 + chance.below(12)),
        ..Weather::default()
    }
}

/// Who goes gives back at once what it had: it takes this long at most until that is noticed, and
/// others, who forget some of it a few times, have dealt with it.
const AT_ONCE: Duration = Duration::from_secs(45);
/// How long it may take, when nothing goes wrong any more, until those who publish are done with what
/// they have at hand, and until everything due is delivered.
const DONE_WITHIN: Duration = Duration::from_secs(120);
