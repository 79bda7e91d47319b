//! Which nodes and topics there are at the source, and a forwarder for each topic that a route takes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::Arc,
    time::Duration,
};

use ltq_client::{Admin, Client, ClientBuilder, Cluster, ConnectionState};
use ltq_core::{Address, ChannelName, TopicName, TopicStats};
use ltq_discovery::{Discovery, DiscoveryError, Interest, NodeId, NodeInfo, NodeSet};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{debug, error, info, warn};

use super::{
    Board, Brokers, Budget, Destination, Ended, Forwarder, Memories, Names, Order, Route,
    RouteFigures, Rules, Sites, Source, Status, TopicFigures,
    figures::Shown,
    forwarder::told,
    sight::{LeftOut, Sight, keep_connected},
};

/// What is to be done, and what of it is done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) routes: Vec<(Route, Arc<RouteFigures>)>,
    pub(super) sites: Sites,
    pub(super) destination: Cluster,
    /// How order is kept there, on routes that want it.
    pub(super) order: Order,
    /// After what time a node that is lost is left for others, on routes that want none.
    pub(super) failover_after: Duration,
    /// How nodes of the source are talked to, without their addresses.
    pub(super) client: ClientBuilder,
    pub(super) refresh: Duration,
    pub(super) stop_timeout: Duration,
    pub(super) budget: Budget,
    /// Places for topics.
    pub(super) places: Arc<Semaphore>,
    pub(super) board: Board,
    pub(super) sight: Sight,
    /// What nodes of the source call themselves.
    pub(super) names: Names,
    /// By way of which node each of their brokers is forwarded.
    pub(super) brokers: Brokers,
    /// What was forwarded of topics that are not forwarded at present.
    pub(super) memories: Memories,
}

/// A node that is followed.
struct Followed {
    stop: watch::Sender<bool>,
    info: watch::Sender<NodeInfo>,
    over: Over,
}

/// Closed when everything that was begun for a node has ended.
type Over = watch::Receiver<()>;

/// Forwards what there is until `stop` becomes true, then ends everything in order.
///
/// Of each node, by its id, there is one at a time that takes from it: one that moves, or is gone and comes
/// back, is taken up again when what was begun before has ended.
pub(super) async fn follow(
    plan: Arc<Plan>,
    discovery: Arc<dyn Discovery>,
    mut stop: watch::Receiver<bool>,
) {
    let mut followed: BTreeMap<NodeId, Followed> = BTreeMap::new();
    let mut leaving: BTreeMap<NodeId, Over> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let watching = watch_nodes(&*discovery, |nodes| {
        plan.sight.set(&nodes);
        leaving.retain(|_, over| over.has_changed().is_ok());
        followed.retain(|id, of| {
            match nodes.get(id) {
                Some(node) if has_same_addresses(node, &of.info.borrow()) => return true,
                Some(_) => info!(node = %id, "a node of the source is elsewhere now"),
                None => info!(node = %id, "no longer a node of the source"),
            }
            of.stop.send_replace(true);
            leaving.insert(id.clone(), of.over.clone());
            false
        });
        for node in nodes.iter() {
            let id = node.id().clone();
            if let Some(of) = followed.get(node.id()) {
                of.info.send_replace(node.clone());
                continue;
            }
            info!(node = %node.id(), "a node of the source");
            let (stop, stopped) = watch::channel(false);
            let (info, told) = watch::channel(node.clone());
            let (ending, over) = watch::channel(());
            let before = leaving.get(&id).cloned();
            let running = SourceNode { plan: plan.clone(), id: id.clone() };
            tasks.spawn(async move {
                // Who is told to stop meanwhile waits all the same: the next one waits for this one alone.
                if let Some(mut before) = before {
                    let _closed = before.changed().await;
                }
                let (plan, id) = (running.plan.clone(), running.id.clone());
                running.run(told, stopped).await;
                plan.names.forget(&id);
                plan.brokers.release(&id);
                drop(ending);
            });
            followed.insert(id, Followed { stop, info, over });
        }
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                error!(%error, "what follows a node has failed");
            }
        }
    });
    tokio::select! {
        () = told(&mut stop) => {}
        () = watching => {}
        () = keep_connected(&plan.destination, plan.refresh) => {}
    }
    for of in followed.values() {
        of.stop.send_replace(true);
    }
    while tasks.join_next().await.is_some() {}
}

/// Of the addresses of a node, those for which there is a transport; all of them where there is none for any, so that
/// it is said which one is missing.
fn usable<'a>(
    client: &'a ClientBuilder,
    addresses: &'a [Address],
) -> impl Iterator<Item = &'a Address> {
    let any = addresses.iter().any(|address| client.knows(address));
    addresses.iter().filter(move |address| !any || client.knows(address))
}

/// Whether two words of a node name the same place, in whatever order.
fn has_same_addresses(one: &NodeInfo, other: &NodeInfo) -> bool {
    let (one, other) = (one.addresses(), other.addresses());
    one.len() == other.len() && one.iter().all(|address| other.contains(address))
}

/// Tells of the nodes whenever they change, for ever. With their topics where whoever knows may say so.
async fn watch_nodes(discovery: &dyn Discovery, mut tell: impl FnMut(NodeSet)) {
    let mut interest = Interest::Everything;
    loop {
        match discovery.watch(&interest).await {
            Ok(mut watch) => {
                let mut losses = 0;
                while losses < LOSSES_MAX {
                    match watch.changed().await {
                        Ok(nodes) => {
                            losses = 0;
                            tell(nodes);
                        }
                        Err(error) => {
                            losses += 1;
                            if losses == 1 {
                                warn!(%error, "lost sight of the source; the nodes known last stay in use");
                            }
                        }
                    }
                }
            }
            Err(DiscoveryError::Refused { .. }) if interest == Interest::Everything => {
                debug!("registries do not tell of all topics; nodes are asked for them");
                interest = Interest::Nodes;
                continue;
            }
            Err(error) => warn!(%error, "the nodes of the source are not known; trying again"),
        }
        sleep(WATCH_PAUSE).await;
    }
}

/// One node of the source.
struct SourceNode {
    plan: Arc<Plan>,
    id: NodeId,
}

/// What runs for a node.
#[derive(Default)]
struct Running {
    topics: HashMap<TopicName, watch::Sender<bool>>,
    /// Those that there are, as was told last.
    there: BTreeSet<TopicName>,
    /// Topics that cannot be forwarded.
    stuck: HashMap<TopicName, Shown>,
    tasks: JoinSet<(TopicName, Ended)>,
    /// Whether it was connected to a broker that is forwarded by way of this node.
    is_its_own: bool,
    /// Whether that is done by way of another node.
    is_left: bool,
}

impl Running {
    /// Ends everything in order.
    fn stop_all(&mut self) {
        self.there.clear();
        self.stuck.clear();
        for stop in self.topics.values() {
            stop.send_replace(true);
        }
    }
}

impl SourceNode {
    async fn run(self, mut info: watch::Receiver<NodeInfo>, mut stop: watch::Receiver<bool>) {
        let addresses = info.borrow().addresses().to_vec();
        let client = match self.connect(&addresses) {
            Ok(client) => client,
            Err(error) => {
                warn!(node = %self.id, error, "the node cannot be talked to");
                self.plan.sight.note(&self.id, Some(error));
                return told(&mut stop).await;
            }
        };
        let admin = client.admin();
        let mut connection = client.state();
        let mut running = Running::default();
        let mut refreshes = interval(self.plan.refresh);
        refreshes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut is_time = tokio::select! {
                biased;
                () = told(&mut stop) => break,
                Some(ended) = running.tasks.join_next(), if !running.tasks.is_empty() => {
                    // Those that have ended listen no more. What is still there is taken up with the next
                    // look, and what was to end and is there again at once.
                    running.topics.retain(|_, stop| stop.receiver_count() > 0);
                    match ended {
                        Ok((topic, ended)) => {
                            info!(node = %self.id, %topic, %ended, "no longer forwarded");
                            if ended == Ended::Stopped {
                                self.match_topics(&client, &mut running);
                            }
                        }
                        Err(error) => error!(node = %self.id, %error, "a forwarder has failed"),
                    }
                    continue;
                }
                changed = info.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    false
                }
                // Whether it is this node by way of which its broker is forwarded.
                Ok(()) = connection.changed() => false,
                _ = refreshes.tick() => true,
            };
            if is_time {
                self.look_at_connection(&client);
            }
            let was_its_own = running.is_its_own;
            if !self.is_its_own(&client, &mut running, is_time) {
                continue;
            }
            is_time |= !was_its_own;
            let told_of =
                info.borrow_and_update().topics().map(|all| all.keys().cloned().collect());
            let topics: Option<BTreeSet<TopicName>> = match told_of {
                Some(topics) => Some(topics),
                None if !is_time => None,
                None => tokio::select! {
                    biased;
                    () = told(&mut stop) => break,
                    listed = self.list(&admin) => listed,
                },
            };
            if let Some(topics) = topics {
                running.there = topics;
                self.match_topics(&client, &mut running);
            }
            if is_time && !running.topics.is_empty() && client.state().borrow().is_connected() {
                tokio::select! {
                    biased;
                    () = told(&mut stop) => break,
                    () = self.look_at_backlog(&admin) => {}
                }
            }
        }
        self.plan.sight.leave_out(&self.id, LeftOut::default());
        running.stop_all();
        let ending = async { while running.tasks.join_next().await.is_some() {} };
        if timeout(self.plan.stop_timeout, ending).await.is_err() {
            let left = running.tasks.len();
            warn!(node = %self.id, topics = left, "what is not confirmed is given back, and may be forwarded twice");
            running.tasks.shutdown().await;
        }
        if timeout(CLOSE_MAX, client.close()).await.is_err() {
            debug!(node = %self.id, "closed without the last word of the node");
        }
    }

    fn connect(&self, addresses: &[Address]) -> Result<Client, String> {
        let with = |builder: ClientBuilder, address: &Address| builder.server(&address.to_string());
        let builder = usable(&self.plan.client, addresses).fold(self.plan.client.clone(), with);
        builder.connect_in_background().map_err(|error| error.to_string())
    }

    async fn list(&self, admin: &Admin) -> Option<BTreeSet<TopicName>> {
        match admin.list_topics().await {
            Ok(topics) => {
                self.plan.sight.note(&self.id, None);
                Some(topics.into_iter().collect())
            }
            Err(error) => {
                self.plan.sight.note(&self.id, Some(error.to_string()));
                None
            }
        }
    }

    /// Whether the node's broker is forwarded by way of this node, and not of another one that leads to it. One
    /// that is not connected for a while may be left for the other.
    fn is_its_own(&self, client: &Client, running: &mut Running, is_time: bool) -> bool {
        let Some(broker) = client.instance() else {
            if is_time {
                self.plan.brokers.release(&self.id);
            }
            return running.is_its_own;
        };
        let claimed = self.plan.brokers.claim(&self.id, broker);
        if let Err(other) = &claimed {
            if !running.is_left {
                info!(node = %self.id, same_as = %other, "one broker under two ids");
            }
            self.plan.sight.note(&self.id, Some(format!("the same broker as {other}")));
            running.stop_all();
            self.plan.sight.leave_out(&self.id, LeftOut::default());
        }
        running.is_its_own = claimed.is_ok();
        running.is_left = claimed.is_err();
        running.is_its_own
    }

    /// Says whether the node can be reached.
    fn look_at_connection(&self, client: &Client) {
        match &*client.state().borrow() {
            ConnectionState::Disconnected { error, .. } => {
                self.plan.sight.note(&self.id, Some(error.to_string()));
            }
            state if state.is_connected() => self.plan.sight.note(&self.id, None),
            _ => {}
        }
    }

    /// Begins with topics that are new, and ends with those that are gone.
    fn match_topics(&self, client: &Client, running: &mut Running) {
        let there = mem::take(&mut running.there);
        for (topic, stop) in &running.topics {
            if !there.contains(topic) {
                stop.send_replace(true);
            }
        }
        running.stuck.retain(|topic, _| there.contains(topic));
        let mut left_out = LeftOut::default();
        for topic in &there {
            if running.topics.contains_key(topic) || running.stuck.contains_key(topic) {
                continue;
            }
            let takes = |(_, (route, _)): &(usize, &(Route, _))| route.takes(topic);
            let Some((number, (route, figures))) = self.plan.routes.iter().enumerate().find(takes)
            else {
                continue;
            };
            if !self.begin(client, running, topic, (number, route, figures)) {
                left_out.add(topic);
            }
        }
        running.there = there;
        self.plan.sight.leave_out(&self.id, left_out);
    }

    /// Begins with a topic. Returns whether there was a place for it.
    fn begin(
        &self,
        client: &Client,
        running: &mut Running,
        topic: &TopicName,
        (number, route, figures): (usize, &Route, &Arc<RouteFigures>),
    ) -> bool {
        let plan = &self.plan;
        let place = (self.id.clone(), topic.clone());
        let to = match route.target(topic) {
            Ok(to) => to,
            Err(error) => {
                warn!(node = %self.id, %topic, %error, "not forwarded");
                let figures = Arc::new(TopicFigures::new(figures.clone(), topic.clone()));
                figures.set_status(Status::Held(error.to_string()));
                running.stuck.insert(topic.clone(), plan.board.show(place, number, figures));
                return true;
            }
        };
        let Ok(permit) = plan.places.clone().try_acquire_owned() else { return false };
        let figures = Arc::new(TopicFigures::new(figures.clone(), to.clone()));
        let memory = plan.memories.take(place.clone());
        let shown = plan.board.show(place, number, figures.clone());
        let source = Source {
            client: client.clone(),
            node: self.id.clone(),
            names: plan.names.clone(),
            topic: topic.clone(),
            channel: route.channel.clone(),
            start: route.start,
        };
        let destination = Destination::Cluster {
            cluster: plan.destination.clone(),
            topic: to,
            durability: route.durability,
            order: if route.ordered { plan.order } else { Order::Free(plan.failover_after) },
        };
        let rules = Rules {
            sites: Some(plan.sites.clone()),
            headers: route.headers.clone(),
            refused: route.refused.clone(),
        };
        let share = plan.budget.share_at(permit);
        let forwarder = Forwarder::new(source, destination, rules, share, figures);
        let forwarder = forwarder.memory(memory);
        let (stop, stopped) = watch::channel(false);
        info!(node = %self.id, %topic, route = route.name, "forwarding");
        let name = topic.clone();
        running.tasks.spawn(async move {
            let ended = forwarder.run(stopped).await;
            drop(shown);
            (name, ended)
        });
        running.topics.insert(topic.clone(), stop);
        true
    }

    /// Looks how much waits, where the node tells.
    async fn look_at_backlog(&self, admin: &Admin) {
        if let Ok(stats) = admin.stats().await {
            let channel = |route: usize| self.plan.routes.get(route).map(|(it, _)| &it.channel);
            set_backlogs(&self.plan.board.of(&self.id), &stats.topics, channel);
        }
    }
}

/// Notes how much waits for the topics of a node, as its statistics say, each in the channel of its route. There may
/// be as many of either as a node has topics.
fn set_backlogs<'a>(
    forwarded: &[(TopicName, usize, Arc<TopicFigures>)],
    stats: &[TopicStats],
    channel: impl Fn(usize) -> Option<&'a ChannelName>,
) {
    let by_name: HashMap<&TopicName, &TopicStats> =
        stats.iter().map(|stats| (&stats.topic, stats)).collect();
    for (topic, route, figures) in forwarded {
        let channels = by_name.get(topic).map(|stats| &*stats.channels).unwrap_or_default();
        let channel = channel(*route);
        let channel = channels.iter().find(|stats| Some(&stats.channel) == channel);
        figures.set_backlog(
            channel.map(|it| it.waiting.saturating_add(it.delayed).saturating_add(it.in_flight)),
        );
    }
}

/// How long to wait before the nodes are watched again.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// A watch tells of each loss of sight once. One that says so again and again is replaced by a new one.
const LOSSES_MAX: u32 = 16;
/// What the last word of a node may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
