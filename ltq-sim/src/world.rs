//! One play: everybody is set going, things go wrong, and then nothing does any more.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use ltq_client::{Client, Message};
use ltq_core::{BrokerSettings, Durability, TopicStats, process::Process};
use ltq_store::simulation::SimulatedDisk;
use ltq_transport::SimulatedNetwork;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    body::Body,
    chance::{Clock, Seeded},
    clients::Clients,
    consumers::{self, Consuming},
    history::{History, What},
    lasting::Lasting,
    leaving::{Going, PasserBy},
    node::{Life, NODE, Node},
    operators::{Operating, make, resume_all},
    plan::{Part, Plan},
    producers::{self, Producing},
    simulation::Wrap,
    stores::Stores,
    topics::{LASTING, TOPICS, channel_name, comes_and_goes, topic_name},
    trouble::Trouble,
    violation::{Rule, Violation},
};

/// Why a play ends early.
pub(crate) enum End {
    /// A promise is broken.
    Broken(Violation),
    /// Nothing more can be asked of a damaged disk.
    GivenUp,
}

pub(crate) fn broken(rule: Rule, why: impl Into<String>) -> End {
    End::Broken(Violation::of(rule, why))
}

pub(crate) struct World<S: Stores> {
    pub(crate) clients: Clients,
    pub(crate) clock: Clock,
    pub(crate) history: History,
    pub(crate) node: Node<S>,
    /// Whether the disk was damaged: then a node may refuse to start, and messages may be missing.
    pub(crate) damaged: bool,
    /// How long the disk takes at most when nothing is wrong with it.
    pub(crate) usual_latency: Duration,
    /// What is wrong with the disk for a while.
    pub(crate) lasting: Vec<Lasting>,
    /// What never goes wrong.
    pub(crate) not: BTreeSet<Trouble>,
}

impl<S: Stores> World<S> {
    pub(crate) fn new(
        seed: u64,
        stores: Arc<S>,
        settings: BrokerSettings,
        wrap: Wrap,
        history: History,
    ) -> Self {
        let clock = Clock::new();
        let network = SimulatedNetwork::new(Arc::new(Seeded::of(seed, "network")));
        // Connections carry one stream, or many, or now this and now that.
        network.set_many_streams(Seeded::of(seed, "streams").below(3));
        let made = Arc::default();
        let clients = Clients { network: network.clone(), wrap: wrap.clone(), seed, made };
        let (disk, chance) = (SimulatedDisk::default(), Seeded::of(seed, NODE));
        let usual_latency = chance.millis(20);
        disk.set_latency_max(usual_latency);
        // Often deliveries find no room, or little.
        let room = Seeded::of(seed, "room").pick(&[usize::MAX, usize::MAX, 0, 300, 3_000]);
        let node = Node {
            name: NODE.to_owned(),
            stores,
            disk,
            network,
            wrap,
            settings: BrokerSettings {
                delivery_bytes_total_max: room.min(settings.delivery_bytes_total_max),
                ..settings
            },
            clock: clock.clone(),
            chance,
            history: history.clone(),
            running: None,
            process: Process::new(),
            life: Life::default(),
        };
        let (lasting, not) = (Vec::new(), BTreeSet::new());
        Self { clients, clock, history, node, usual_latency, damaged: false, lasting, not }
    }

    /// Plays it all.
    ///
    /// # Errors
    /// Why it ends early.
    pub(crate) async fn play(mut self, plan: Plan) -> Result<(), End> {
        self.not = plan.not;
        let mut troubles = plan.troubles.into_iter().peekable();
        let is_first = |it: &(Part, Trouble)| it.0.number == 0 && it.1 == Trouble::DiesStarting;
        if let Some((part, _)) = troubles.next_if(is_first) {
            // Before it ever was there.
            self.dies_starting(&part).await?;
        }
        self.start().await?;
        let operator = self.clients.client("world");
        let admin = operator.admin();
        for topic in 0..TOPICS.len() {
            if !make(&admin, &self.history, "world", topic).await {
                return Err(broken(Rule::Progress, "a node on an empty disk makes no topics"));
            }
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
                pause_max: part.chance.pick(&[10, 10, 100, 1_000]),
                clients: self.clients.clone(),
                history: self.history.clone(),
                published: AtomicU64::new(0),
                late: Default::default(),
                crashes: !plan.fair,
                habits: producers::Habits::of(&part.chance),
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
                habits: consumers::Habits::of(&part.chance),
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
        for (part, trouble) in troubles {
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
            self.pause(&operator, &consumed, plan.meanwhile).await?;
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
            Err(_) => {
                Err(broken(Rule::Progress, format!("nothing can be made within {DONE_WITHIN:?}")))
            }
        }
    }

    /// Waits until every channel that somebody consumes has delivered what it has.
    async fn drained(
        &self,
        operator: &Client,
        consumed: &[(usize, usize)],
        within: Duration,
    ) -> Result<(), End> {
        let mut left = String::new();
        let drained = async {
            loop {
                left = self.left(operator, consumed).await;
                if left.is_empty() {
                    return;
                }
                sleep(Duration::from_millis(500)).await;
            }
        };
        match timeout(within, drained).await {
            Ok(()) => Ok(()),
            Err(_) => {
                Err(broken(Rule::Progress, format!("after {within:?} there is left: {left}")))
            }
        }
    }

    /// What channels that somebody consumes have not delivered yet, or why nobody knows, in words; empty
    /// if nothing is left.
    async fn left(&self, operator: &Client, consumed: &[(usize, usize)]) -> String {
        let mut left = String::new();
        for topic in 0..TOPICS.len() {
            let asked = self.history.elapsed();
            match operator.admin().show_topic(topic_name(topic).as_str()).await {
                Ok(stats) => {
                    let channels = consumed.iter().filter(|it| it.0 == topic);
                    left.extend(channels.filter_map(|it| left_in(topic, it.1, &stats)));
                    self.history.add("world", What::Counted { topic, asked, stats });
                }
                Err(error) => {
                    self.history.note("world", &error);
                    left += &format!("t{topic}: {error}; ");
                }
            }
        }
        left
    }

    /// A channel, or a topic with all of them, that has delivered all it had is paused, and gets nothing
    /// of what is published then until it is resumed, whatever becomes of its node.
    async fn pause(
        &mut self,
        operator: &Client,
        consumed: &[(usize, usize)],
        meanwhile: Option<Trouble>,
    ) -> Result<(), End> {
        let failed =
            |error: &dyn std::fmt::Display| broken(Rule::Progress, format!("at rest, {error}"));
        let (topic, admin) = (LASTING, operator.admin());
        let (name, all) = (topic_name(topic), self.node.chance.one_in(3));
        let channels = if all { 0..TOPICS.get(topic).map_or(0, |it| it.channels) } else { 0..1 };
        let paused = match all {
            true => admin.pause_topic(name.as_str()).await,
            false => admin.pause_channel(name.as_str(), channel_name(0).as_str()).await,
        };
        paused.map_err(|error| failed(&error))?;
        for channel in channels.clone() {
            self.history.add("world", What::Paused { topic, channel });
        }
        match meanwhile {
            Some(Trouble::Stop) => self.node.stop(Duration::from_secs(5)).await,
            Some(Trouble::Kill) => self.node.kill(false),
            Some(Trouble::PowerCut) => self.node.kill(true),
            _ => (),
        }
        if self.node.running.is_none() {
            self.start().await?;
        }
        let producer = operator.producer(name.as_str()).await.map_err(|error| failed(&error))?;
        for number in 1..=3 {
            let body = Body { producer: usize::MAX, number };
            let (durability, within) = (Durability::Disk, producer.timeout());
            self.history.add("world", What::Published { topic, body, durability, within });
            let told = producer.send(Message::new(body.bytes())).await;
            let receipt = told.map_err(|error| failed(&error))?;
            let (offset, durability) = (receipt.offset, receipt.durability);
            self.history.add("world", What::Confirmed { topic, body, offset, durability });
        }
        sleep(Duration::from_secs(5)).await;
        for channel in channels {
            self.history.add("world", What::Resumed { topic, channel });
        }
        let resumed = match all {
            true => admin.resume_topic(name.as_str()).await,
            false => admin.resume_channel(name.as_str(), channel_name(0).as_str()).await,
        };
        resumed.map_err(|error| failed(&error))?;
        self.drained(operator, consumed, DONE_WITHIN).await
    }

    /// One more consumer takes something, and goes, or its node does.
    async fn pass_by(&mut self, operator: &Client, going: Going) -> Result<(), End> {
        let failed = |why: String| broken(Rule::Progress, format!("at rest, {why}"));
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
                memory_bytes_max: self.node.stores.memory_at_rest_bytes_max(),
                disk_bytes: stats.store.disk_bytes,
                disk_bytes_max: self.node.stores.files_at_rest_bytes_max(),
            },
        );
    }
}

/// What a channel has not delivered yet, if anything.
fn left_in(topic: usize, channel: usize, stats: &TopicStats) -> Option<String> {
    let name = channel_name(channel);
    let Some(found) = stats.channels.iter().find(|it| it.channel.as_str() == name) else {
        return (!comes_and_goes(topic)).then(|| format!("t{topic}: there is no {name}; "));
    };
    let open = found.waiting + found.delayed + found.in_flight;
    (open > 0).then(|| format!("t{topic}: {found:?}; "))
}

async fn all_of(set: &mut JoinSet<()>, who: &str) -> Result<(), End> {
    let panicked = AtomicBool::new(false);
    let done = async {
        while let Some(done) = set.join_next().await {
            panicked.fetch_or(done.is_err(), std::sync::atomic::Ordering::Relaxed);
        }
    };
    if timeout(DONE_WITHIN, done).await.is_err() {
        return Err(broken(Rule::Progress, format!("{who} are not done after {DONE_WITHIN:?}")));
    }
    if panicked.into_inner() {
        return Err(broken(Rule::Panic, format!("one of the {who} panicked")));
    }
    Ok(())
}

/// Who goes gives back at once what it had: it takes this long at most until that is noticed, and
/// others, who forget some of it a few times, have dealt with it.
const AT_ONCE: Duration = Duration::from_secs(45);
/// How long it may take, when nothing goes wrong any more, until those who publish are done with what
/// they have at hand, and until everything due is delivered.
const DONE_WITHIN: Duration = Duration::from_secs(120);
