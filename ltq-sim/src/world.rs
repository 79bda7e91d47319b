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
use ltq_core::{BrokerSettings, Durability};
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
    checks,
    clients::Clients,
    consumers::Consuming,
    history::{History, What},
    lasting::Lasting,
    leaving::{Going, PasserBy},
    node::{Life, NODE, Node},
    operators::{Operating, make, resume_all},
    plan::{Part, Plan},
    producers::Producing,
    simulation::{Played, Wrap},
    stores::Stores,
    topics::{LASTING, TOPICS, channel_name, comes_and_goes, topic_name},
    trouble::Trouble,
};

/// Why a play ends early.
pub(crate) enum End {
    /// A promise is broken.
    Broken(String),
    /// Nothing more can be asked of a damaged disk.
    GivenUp,
}

pub(crate) fn broken(why: impl Into<String>) -> End {
    End::Broken(why.into())
}

pub(crate) struct World<S: Stores> {
    pub(crate) clients: Clients,
    pub(crate) clock: Clock,
    pub(crate) history: History,
    pub(crate) node: Node<S>,
    /// Whether the disk was damaged: then a node may refuse to start, and messages may be missing.
    pub(crate) damaged: bool,
    /// What is wrong with the disk for a while.
    pub(crate) lasting: Vec<Lasting>,
    /// What never goes wrong.
    pub(crate) not: BTreeSet<Trouble>,
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
            life: Life::default(),
        };
        let (lasting, not) = (Vec::new(), BTreeSet::new());
        Self { clients, clock, history, node, damaged: false, lasting, not }
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
                                let name = channel_name(channel);
                                let mut found = stats.channels.iter();
                                let found = found.find(|it| it.channel.as_str() == name);
                                let Some(channel) = found else {
                                    if !comes_and_goes(topic) {
                                        left += &format!("t{topic}: there is no {name}; ");
                                    }
                                    continue;
                                };
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

/// Who goes gives back at once what it had: it takes this long at most until that is noticed, and
/// others, who forget some of it a few times, have dealt with it.
const AT_ONCE: Duration = Duration::from_secs(45);
/// How long it may take, when nothing goes wrong any more, until those who publish are done with what
/// they have at hand, and until everything due is delivered.
const DONE_WITHIN: Duration = Duration::from_secs(120);
