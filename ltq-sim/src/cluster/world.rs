//! One play of a cluster: everybody is set going, things go wrong, and then nothing does any more.

use std::{
    collections::BTreeMap,
    future::pending,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ltq_core::{AdminRequest, AdminResponse, Broker, BrokerSettings, TopicStats, process::Process};
use ltq_store::simulation::SimulatedDisk;
use ltq_transport::{SimulatedNetwork, Weather};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    clients::Programs,
    consumers::Consuming,
    history::Scene,
    node::Member,
    partitions::Partitions,
    plan::Plan,
    producers::{Habits, Producing},
    registry::Registry,
    simulation::Mistake,
    strangers::{Stranger, TOKEN},
    topics::Mode,
    watchers::Watching,
};
use crate::{
    chance::{Clock, Seeded},
    history::{History, What},
    node::{Life, Node},
    plan::Part,
    simulation::Wrap,
    stores::Stores,
    topics::topic_name,
    violation::Rule,
    world::{End, broken},
};

pub(super) struct World<S: Stores> {
    pub(super) network: SimulatedNetwork,
    pub(super) history: History,
    pub(super) members: Vec<Member<S>>,
    pub(super) registries: Vec<Registry>,
    pub(super) partitions: Partitions,
    /// What is mended later, and when.
    pub(super) mends: Vec<(Instant, Mend)>,
    /// The hosts of programs.
    pub(super) programs: BTreeMap<String, Process>,
    pub(super) strangers: Vec<Stranger>,
    /// The addresses of all registries.
    pub(super) addresses: Vec<String>,
    /// What registries want to hear, if anything.
    pub(super) token: Option<String>,
    pub(super) wrap: Wrap,
    made: Programs,
    be_steady: watch::Sender<bool>,
    /// The channels that somebody consumes.
    consumed: Vec<(usize, usize)>,
    /// When the last node left for good, if one did.
    left_at: Option<Instant>,
}

/// How something is mended.
#[derive(Clone, Debug)]
pub(super) enum Mend {
    /// The node of this number is started.
    Start(usize),
    /// So is the registry.
    StartRegistry(usize),
    /// The node takes in again.
    EndDrain(usize),
    /// The network is as ever.
    Weather,
    /// The process on this host goes on.
    GoOn(String),
    /// The node's disk is well.
    Disk(usize),
    /// The registry wants to hear what it ever did.
    Token(usize),
    /// Who poses as a node on this host goes, silently or not.
    StrangerGoes(String, bool),
}

/// What all of a world is made with.
pub(super) struct Made<S: Stores> {
    pub(super) seed: u64,
    pub(super) stores: Arc<S>,
    pub(super) settings: BrokerSettings,
    pub(super) wrap: Wrap,
    pub(super) history: History,
    pub(super) mistake: Option<Mistake>,
}

impl<S: Stores> World<S> {
    pub(super) fn new(made: Made<S>, plan: &Plan) -> Self {
        let Made { seed, stores, settings, wrap, history, mistake } = made;
        let network = SimulatedNetwork::new(Arc::new(Seeded::of(seed, "network")));
        network.set_many_streams(Seeded::of(seed, "streams").below(3));
        network.set_weather(FINE);
        let scheme = wrap(network.host("world")).scheme().to_owned();
        let address = |part: &Part| format!("{scheme}://{}", part.name);
        let addresses: Vec<_> = plan.registries.iter().map(address).collect();
        let token = plan.is_guarded.then(|| TOKEN.to_owned());
        let (be_steady, steady) = watch::channel(false);
        let registries = plan.registries.iter().map(|part| Registry {
            name: part.name.clone(),
            network: network.clone(),
            wrap: wrap.clone(),
            chance: part.chance.clone(),
            history: history.clone(),
            token: token.clone(),
            process: Process::new(),
            running: Vec::new(),
        });
        let members = plan.nodes.iter().map(|part| {
            let disk = SimulatedDisk::default();
            let usual_latency = part.chance.millis(20);
            disk.set_latency_max(usual_latency);
            let node = Node {
                name: part.name.clone(),
                stores: stores.clone(),
                disk,
                network: network.clone(),
                wrap: wrap.clone(),
                settings: BrokerSettings { node: part.name.clone(), ..settings.clone() },
                clock: Clock::new(),
                chance: part.chance.clone(),
                history: history.clone(),
                running: None,
                process: Process::new(),
                life: Life::default(),
            };
            let registries = addresses.clone();
            Member {
                node,
                registries,
                announcing: None,
                wishes: None,
                has_left: false,
                is_disk_ill: false,
                usual_latency,
                token: token.clone(),
            }
        });
        let (registries, members) = (registries.collect(), members.collect());
        let made = Programs {
            network: network.clone(),
            wrap: wrap.clone(),
            seed,
            history: history.clone(),
            registries: addresses.clone(),
            token: token.clone(),
            made: Arc::default(),
            watches: Arc::default(),
            lives: Arc::default(),
            steady,
            mistake,
        };
        let parts = plan.producers.iter().map(|it| &it.0);
        let parts = parts.chain(plan.consumers.iter().map(|it| &it.0)).chain(&plan.watchers);
        let mut consumed: Vec<_> = plan.consumers.iter().map(|it| (it.1, it.2)).collect();
        consumed.dedup();
        Self {
            programs: parts.map(|part| (part.name.clone(), Process::new())).collect(),
            strangers: Vec::new(),
            addresses,
            token,
            wrap,
            partitions: Partitions::default(),
            mends: Vec::new(),
            left_at: None,
            network,
            history,
            members,
            registries,
            made,
            be_steady,
            consumed,
        }
    }

    /// Plays it all.
    ///
    /// # Errors
    /// Why it ends early.
    pub(super) async fn play(mut self, plan: Plan) -> Result<(), End> {
        for number in 0..self.registries.len() {
            self.mend(Mend::StartRegistry(number)).await?;
        }
        let first = self.members.len() - plan.late.min(self.members.len() - 1);
        for number in 0..self.members.len() {
            match number < first {
                true => self.mend(Mend::Start(number)).await?,
                false => {
                    let late = plan.nodes.get(number).map(|part| part.chance.millis(20_000));
                    let at = Instant::now() + late.unwrap_or_default();
                    self.mends.push((at, Mend::Start(number)));
                }
            }
        }
        let (stop_producers, producers_run) = watch::channel(true);
        let (stop_consumers, consumers_run) = watch::channel(true);
        let (mut producing, mut consuming, mut watching) =
            (JoinSet::new(), JoinSet::new(), JoinSet::new());
        for part in plan.watchers {
            let (programs, process) = (self.made.clone(), self.process_of(&part));
            watching.spawn(process.run(Watching { part, programs }.run()));
        }
        for (part, topic, channel) in plan.consumers {
            let process = self.process_of(&part);
            let consumer = Consuming { part, programs: self.made.clone(), topic, channel };
            consuming.spawn(process.run(consumer.run(consumers_run.clone())));
        }
        for (part, topic) in plan.producers {
            let process = self.process_of(&part);
            let producer = Producing {
                habits: Habits::of(&part.chance),
                published: AtomicU64::new(0),
                programs: self.made.clone(),
                part,
                topic,
            };
            producing.spawn(process.run(producer.run(producers_run.clone())));
        }
        self.pass(Duration::from_secs(5)).await?;
        for (part, trouble) in &plan.troubles {
            self.goes_wrong(part, *trouble).await?;
        }
        self.heal().await?;
        self.calm().await?;
        for (part, act) in &plan.acts {
            self.act(part, *act).await?;
        }
        self.history.note("world", "only what is left is delivered from now on");
        stop_producers.send_replace(false);
        all_of(&mut producing, "producers").await?;
        self.drained().await?;
        stop_consumers.send_replace(false);
        all_of(&mut consuming, "consumers").await?;
        watching.shutdown().await;
        self.has().await
    }

    fn process_of(&self, part: &Part) -> Process {
        self.programs.get(&part.name).cloned().unwrap_or_default()
    }

    /// The names of all hosts.
    pub(super) fn hosts(&self) -> Vec<String> {
        let nodes = self.members.iter().map(|it| it.name().to_owned());
        let registries = self.registries.iter().map(|it| it.name.clone());
        nodes.chain(registries).chain(self.programs.keys().cloned()).collect()
    }

    /// Those whose name begins so.
    pub(super) fn hosts_of(&self, is: impl Fn(char) -> bool) -> Vec<String> {
        let mut hosts = self.hosts();
        hosts.retain(|name| name.chars().next().is_some_and(&is));
        hosts
    }

    /// Lets time pass, and mends what is to be mended meanwhile.
    ///
    /// # Errors
    /// A node does not start.
    pub(super) async fn pass(&mut self, time: Duration) -> Result<(), End> {
        self.pass_until(time, pending()).await
    }

    /// Lets time pass, until something happens.
    ///
    /// # Errors
    /// A node does not start.
    pub(super) async fn pass_until(
        &mut self,
        time: Duration,
        event: impl Future<Output = ()>,
    ) -> Result<(), End> {
        let until = Instant::now() + time;
        let mut event = pin!(event);
        loop {
            let mends = self.mends.iter().map(|it| it.0);
            let next = mends.chain(self.partitions.next()).min();
            let next = next.map_or(until, |at| at.min(until));
            let happened = timeout_at(next, event.as_mut()).await.is_ok();
            let now = Instant::now();
            self.partitions.end(&self.network, now);
            let due: Vec<_> = self.mends.extract_if(.., |it| it.0 <= now).collect();
            for (_, mend) in due {
                self.mend(mend).await?;
            }
            if happened || next == until {
                return Ok(());
            }
        }
    }

    /// A registry that asks for another token than before is started anew, as that is what it was told at its
    /// start.
    pub(super) async fn registry_wants(
        &mut self,
        number: usize,
        token: Option<String>,
    ) -> Result<(), End> {
        let Some(registry) = self.registries.get_mut(number) else { return Ok(()) };
        if registry.token == token {
            return Ok(());
        }
        let is_up = registry.is_up();
        registry.kill(false);
        registry.token = token;
        if is_up { self.start_registry(number).await } else { Ok(()) }
    }

    async fn start_registry(&mut self, number: usize) -> Result<(), End> {
        let Some(registry) = self.registries.get_mut(number) else { return Ok(()) };
        let started = registry.start().await;
        started.map_err(|why| broken(Rule::Start, format!("{}: {why}", registry.name)))
    }

    async fn mend(&mut self, mend: Mend) -> Result<(), End> {
        match mend {
            Mend::Start(number) => self.start_node(number).await,
            Mend::StartRegistry(number) => self.start_registry(number).await,
            Mend::EndDrain(number) => {
                if let Some(member) = self.members.get(number) {
                    member.drain(false).await;
                }
                Ok(())
            }
            Mend::GoOn(host) => {
                self.go_on(&host);
                Ok(())
            }
            Mend::Disk(number) => self.mend_disk(number).await,
            Mend::Token(number) => {
                let token = self.token.clone();
                self.registry_wants(number, token).await
            }
            Mend::StrangerGoes(host, silent) => {
                self.stranger_goes(&host, silent).await;
                Ok(())
            }
            Mend::Weather => {
                self.network.set_weather(FINE);
                self.history.add("world", What::Weather(FINE));
                Ok(())
            }
        }
    }

    /// Nothing goes wrong any more, and everybody does his work.
    async fn heal(&mut self) -> Result<(), End> {
        self.mend(Mend::Weather).await?;
        self.partitions.clear(&self.network);
        self.mends.clear();
        self.all_go_on();
        let strangers: Vec<_> = self.strangers.iter().map(|it| it.host.clone()).collect();
        for host in strangers {
            self.mend(Mend::StrangerGoes(host, true)).await?;
        }
        for number in 0..self.registries.len() {
            self.mend(Mend::Token(number)).await?;
            self.mend(Mend::StartRegistry(number)).await?;
        }
        for number in 0..self.members.len() {
            self.mend(Mend::Disk(number)).await?;
            self.mend(Mend::Start(number)).await?;
            self.mend(Mend::EndDrain(number)).await?;
        }
        self.be_steady.send_replace(true);
        self.history.add("world", What::Healed);
        Ok(())
    }

    /// Nothing is wrong. Waits until everybody has to know it.
    pub(super) async fn calm(&mut self) -> Result<(), End> {
        let there = self.members.iter().filter(|it| it.is_up());
        let nodes = there.map(|it| it.name().to_owned()).collect();
        self.history.add("world", What::Cluster(Scene::Calm { nodes }));
        self.pass(KNOWN_WITHIN + Duration::from_secs(5)).await?;
        if self.members.iter().any(|it| it.has_left) && self.left_at.is_none() {
            self.left_at = Some(Instant::now());
            self.pass(FORGOTTEN_WITHIN).await?;
        }
        Ok(())
    }

    /// A topic's figures on a node.
    async fn stats(broker: &Broker<S::Store>, topic: usize) -> Result<TopicStats, String> {
        let topic = topic_name(topic).parse().map_err(|_| "no topic's name")?;
        let asked = broker.admin(AdminRequest::ShowTopic { topic });
        match timeout(Duration::from_secs(5), asked).await {
            Ok(Ok(AdminResponse::Topic(stats))) => Ok(*stats),
            Ok(Ok(_)) => Err("another answer".to_owned()),
            Ok(Err(refusal)) => Err(refusal.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    /// What channels that somebody consumes have not delivered on a node, or why that is not known;
    /// empty if nothing is left.
    async fn left(&self, number: usize) -> String {
        let Some(member) = self.members.get(number).filter(|it| !it.has_left) else {
            return String::new();
        };
        let name = member.name();
        let Some(broker) = &member.node.running else { return format!("{name} is not there; ") };
        let mut left = String::new();
        for topic in 0..Mode::ALL.len() {
            let stats = match Self::stats(broker, topic).await {
                Ok(stats) => stats,
                Err(why) => return format!("{name}, t{topic}: {why}; "),
            };
            for (of, channel) in &self.consumed {
                let channel = crate::topics::channel_name(*channel);
                let found = stats.channels.iter().find(|it| it.channel.as_str() == channel);
                match found.filter(|_| *of == topic) {
                    Some(it) if it.waiting + it.delayed + it.in_flight > 0 => {
                        left += &format!("{name}, t{topic}: {it:?}; ");
                    }
                    None if *of == topic => left += &format!("{name}: no t{topic}/{channel}; "),
                    _ => {}
                }
            }
        }
        left
    }

    /// Whether a node that is there has nothing left to deliver.
    pub(super) async fn is_empty(&self, number: usize) -> bool {
        let is_up = self.members.get(number).is_some_and(Member::is_up);
        is_up && self.left(number).await.is_empty()
    }

    /// Waits until every channel on every node has delivered what it has.
    async fn drained(&self) -> Result<(), End> {
        let mut left = String::new();
        let drained = async {
            loop {
                left.clear();
                for number in 0..self.members.len() {
                    left += &self.left(number).await;
                }
                if left.is_empty() {
                    return;
                }
                sleep(Duration::from_millis(500)).await;
            }
        };
        match timeout(DONE_WITHIN, drained).await {
            Ok(()) => Ok(()),
            Err(_) => {
                Err(broken(Rule::Progress, format!("after {DONE_WITHIN:?} there is left: {left}")))
            }
        }
    }

    /// Writes down what each node has in the end.
    async fn has(&self) -> Result<(), End> {
        for member in self.members.iter().filter(|it| !it.has_left) {
            let Some(broker) = &member.node.running else { continue };
            for topic in 0..Mode::ALL.len() {
                let stats = Self::stats(broker, topic).await;
                let stats = stats.map_err(|why| {
                    broken(Rule::Progress, format!("{}, t{topic}: {why}", member.name()))
                })?;
                let acked = |channel: usize| {
                    let name = crate::topics::channel_name(channel);
                    let of = stats.channels.iter().find(|it| it.channel.as_str() == name);
                    (channel, of.map_or(0, |it| it.acked))
                };
                let of = self.consumed.iter().filter(|it| it.0 == topic);
                let acked = of.map(|it| acked(it.1)).collect();
                let (node, end) = (member.name().to_owned(), stats.end);
                let has = Scene::Has { node, topic, end, acked };
                self.history.add("world", What::Cluster(has));
            }
        }
        Ok(())
    }
}

async fn all_of(set: &mut JoinSet<()>, who: &str) -> Result<(), End> {
    let panicked = AtomicBool::new(false);
    let done = async {
        while let Some(done) = set.join_next().await {
            panicked.fetch_or(done.is_err(), Relaxed);
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

/// The network where nothing is wrong: some milliseconds long.
const FINE: Weather = Weather {
    delay_min: Duration::ZERO,
    delay_max: Duration::from_millis(2),
    stall_one_in: 0,
    stall_max: Duration::ZERO,
    cut_one_in: 0,
    silence_one_in: 0,
    reset_one_in: 0,
    half_close_one_in: 0,
    refuse_one_in: 0,
    hang_one_in: 0,
    pieces: false,
    window: 256 << 10,
};
/// When nothing is wrong, so long it takes at most until everybody who watches sees every node that is
/// there as ready: a connection that is dead is noticed after three beats, a registry is tried again after
/// 5 s, an attempt takes 3 s, for the node, and the same again for who watches.
pub(super) const KNOWN_WITHIN: Duration = Duration::from_secs(25);
/// And until nobody is told any more of one that is gone: thirty beats at the registry, and as many
/// for what it told and nobody hears any more.
pub(super) const FORGOTTEN_WITHIN: Duration = Duration::from_secs(70);
/// How long it may take, when nothing goes wrong any more, until those who publish are done with what
/// they have at hand, and until everything due is delivered.
const DONE_WITHIN: Duration = Duration::from_secs(120);
