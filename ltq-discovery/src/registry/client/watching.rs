//! A client that is told by registries which nodes there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use ltq_core::{Address, ChannelName, TopicName, process::inherit};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{
    Config, ToldLimits,
    merged::Merged,
    nodes::Nodes,
    talk::{Talk, TalkError},
};
use crate::{
    DiscoveryError, Interest, NodeId, NodeInfo, NodeSet, Watch,
    registry::protocol::{self, Ask, Part, Say},
};

/// The nodes that are of interest.
pub(super) struct Watching {
    shared: Arc<Shared>,
    news: watch::Receiver<Standing>,
    given: Option<NodeSet>,
    /// Whether the caller knows that no registry is heard.
    is_loss_told: bool,
    _tasks: JoinSet<()>,
}

struct Shared {
    config: Arc<Config>,
    interest: Interest,
    merged: Mutex<Merged>,
    standing: watch::Sender<Standing>,
}

/// How it stands with the registries.
#[derive(Clone, Debug, Default)]
struct Standing {
    /// Counts what was told.
    news: u64,
    /// Registries that are heard.
    heard: usize,
    /// Why the last one that was asked could not be.
    why: Option<(Address, String)>,
    /// How many will not answer, however often they are asked.
    refused: usize,
}

impl Watching {
    /// Begins, and waits until one registry has told what it knows.
    pub(super) async fn start(
        config: Arc<Config>,
        interest: Interest,
    ) -> Result<Self, DiscoveryError> {
        let merged = Mutex::new(Merged::new(config.addresses.len()));
        let (standing, mut news) = watch::channel(Standing::default());
        let shared = Arc::new(Shared { config: Arc::clone(&config), interest, merged, standing });
        let mut tasks = JoinSet::new();
        for (registry, address) in config.addresses.iter().enumerate() {
            let listener =
                Listening { shared: Arc::clone(&shared), registry, address: address.clone() };
            tasks.spawn(inherit(listener.run()));
        }
        let all = config.addresses.len();
        let known = |standing: &Standing| standing.news > 0 || standing.refused == all;
        let _ = timeout(config.patience, news.wait_for(known)).await;
        if !shared.merged.lock().is_known() {
            return Err(shared.lost());
        }
        Ok(Self { shared, news, given: None, is_loss_told: false, _tasks: tasks })
    }
}

impl Shared {
    /// Why nothing is known, or no more is heard.
    fn lost(&self) -> DiscoveryError {
        let Standing { why, refused, .. } = self.standing.borrow().clone();
        let nobody = || ("registries".to_owned(), "no answer yet".to_owned());
        let (backend, why) =
            why.map_or_else(nobody, |(address, why)| (format!("registry {address}"), why));
        match refused == self.config.addresses.len() {
            true => DiscoveryError::Refused { backend, why },
            false => DiscoveryError::Unreachable { backend, source: why.into() },
        }
    }

    fn tell(&self, registry: usize, tell: impl FnOnce(&mut Merged)) {
        tell(&mut self.merged.lock());
        self.standing.send_modify(|standing| standing.news += 1);
        debug!(registry, "told of nodes");
    }
}

#[async_trait]
impl Watch for Watching {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        loop {
            let heard = self.news.borrow_and_update().heard;
            // Before anything is given: it may be lost again before the next call.
            self.is_loss_told &= heard == 0;
            let (now, mut next) = (Instant::now(), None);
            {
                let merged = self.shared.merged.lock();
                if merged.is_known() {
                    next = merged.next_timeout(now);
                    let nodes = merged.nodes(now);
                    if self.given.as_ref() != Some(&nodes) {
                        self.given = Some(nodes.clone());
                        return Ok(nodes);
                    }
                }
            }
            if heard == 0 && !mem::replace(&mut self.is_loss_told, true) {
                return Err(self.shared.lost());
            }
            let later = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.news.changed() => {}
                () = later => {}
            }
        }
    }
}

/// Listens to one registry.
struct Listening {
    shared: Arc<Shared>,
    registry: usize,
    address: Address,
}

/// What was told of a node whose topics come in parts.
struct Begun {
    node: NodeInfo,
    topics: BTreeMap<TopicName, BTreeSet<ChannelName>>,
    /// Of its topics and channels, as they came.
    count: usize,
}

impl Listening {
    async fn run(self) {
        let (mut failures, mut is_refused) = (0, false);
        loop {
            let began = Instant::now();
            let mut is_heard = None;
            let error = self.listen(&mut is_heard).await;
            let refuses = error.is_final();
            if let Some(memory) = is_heard {
                let now = Instant::now();
                self.shared.merged.lock().lost(self.registry, now, now + memory);
            }
            let why = (self.address.clone(), error.to_string());
            self.shared.standing.send_modify(|standing| {
                standing.why = Some(why);
                standing.heard -= usize::from(is_heard.is_some());
                standing.refused += usize::from(refuses && !is_refused);
                standing.refused -= usize::from(!refuses && is_refused);
            });
            is_refused = refuses;
            warn!(registry = %self.address, %error, "a registry is not heard");
            if began.elapsed() > STABLE {
                failures = 0;
            }
            let config = &self.shared.config;
            sleep(if refuses { config.retry.1 } else { config.wait(failures) }).await;
            failures = failures.saturating_add(1);
        }
    }

    /// Until that ends, and why it does. `is_heard` is how long what it told counts then.
    async fn listen(&self, is_heard: &mut Option<Duration>) -> TalkError {
        match self.try_listen(is_heard).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_listen(
        &self,
        is_heard: &mut Option<Duration>,
    ) -> Result<std::convert::Infallible, TalkError> {
        let mut talk = Talk::begin(&self.shared.config, &self.address).await?;
        let (beat, patience, run) = (talk.heartbeat, talk.patience(), talk.run);
        let limits = self.shared.config.told_limits;
        let (mouth, ear) = (&mut talk.link.mouth, &mut talk.link.ear);
        mouth.say(&Ask::Watch { watch: WATCH, interest: self.shared.interest.clone() })?;
        let start = Instant::now();
        let (mut heard, mut beaten, mut progress) = (start, start, start);
        let mut first: Option<Nodes> = None;
        let mut begun: Option<Begun> = None;
        loop {
            let is_sending = mouth.unsent() > 0;
            // What it says comes behind what is to be done here, so that no flood of it holds that up.
            let said = tokio::select! {
                biased;
                sent = mouth.send_some() => {
                    sent?;
                    progress = Instant::now();
                    continue;
                }
                () = sleep_until(progress + patience), if is_sending => {
                    return Err(TalkError::Unread(patience));
                }
                () = sleep_until(beaten + beat) => {
                    beaten = Instant::now();
                    // A beat that was not read says as much as two of them.
                    if !is_sending {
                        mouth.say(&Ask::Beat)?;
                        progress = beaten;
                    }
                    continue;
                }
                said = ear.hear() => said?,
                () = sleep_until(heard + patience) => return Err(TalkError::Silent(patience)),
            };
            heard = Instant::now();
            let part = match said {
                Say::Told { watch: WATCH, part } => part,
                Say::Goodbye { code, detail } => return Err(TalkError::Goodbye { code, detail }),
                Say::NotWatched { code, detail, .. } => {
                    return Err(TalkError::Goodbye { code, detail });
                }
                _ => continue,
            };
            match part {
                Part::Anew => {
                    (first, begun) = (Some(Nodes::new(limits)), None);
                    continue;
                }
                Part::Complete => {
                    let Some(nodes) = first.take() else {
                        return Err(TalkError::Protocol("the end of nothing that was begun"));
                    };
                    if is_heard.replace(beat * MEMORY_BEATS).is_none() {
                        self.shared.standing.send_modify(|standing| standing.heard += 1);
                    }
                    let tell = |merged: &mut Merged| merged.told(self.registry, run, nodes, heard);
                    self.shared.tell(self.registry, tell);
                    continue;
                }
                Part::Gone(id) => {
                    let id =
                        NodeId::new(&id).map_err(|_| TalkError::Protocol("a node without id"))?;
                    match &mut first {
                        Some(first) => first.remove(&id),
                        None => {
                            let tell = |merged: &mut Merged| merged.gone(self.registry, &id);
                            self.shared.tell(self.registry, tell);
                        }
                    }
                    continue;
                }
                Part::Node { node, topics, is_suspected, more } => {
                    let node =
                        node.node().map_err(|_| TalkError::Protocol("a node that is none"))?;
                    let node = node.with_suspicion(is_suspected);
                    let Some(part) = topics else {
                        self.add(&mut first, node)?;
                        continue;
                    };
                    let mut begun_node = Begun { node, topics: BTreeMap::new(), count: 0 };
                    begun_node.join(part, &limits)?;
                    match more {
                        true => begun = Some(begun_node),
                        false => self.add(&mut first, begun_node.whole())?,
                    }
                }
                Part::Topics { topics, more } => {
                    let Some(begun_node) = &mut begun else {
                        return Err(TalkError::Protocol("topics of no node"));
                    };
                    begun_node.join(topics, &limits)?;
                    if !more && let Some(begun_node) = begun.take() {
                        self.add(&mut first, begun_node.whole())?;
                    }
                }
            }
        }
    }

    /// A node as it is now: part of what a watch begins with, or a change of it.
    fn add(&self, first: &mut Option<Nodes>, node: NodeInfo) -> Result<(), TalkError> {
        let mut is_taken = true;
        match first {
            // When it was told is said of all at once.
            Some(first) => is_taken = first.insert(node, 0),
            None => {
                let tell = |merged: &mut Merged| is_taken = merged.changed(self.registry, node);
                self.shared.tell(self.registry, tell);
            }
        }
        match is_taken {
            true => Ok(()),
            false => Err(TalkError::TooMuch(self.shared.config.told_limits)),
        }
    }
}

impl Begun {
    fn join(&mut self, part: Vec<protocol::Topic>, limits: &ToldLimits) -> Result<(), TalkError> {
        self.count += part.iter().map(|topic| 1 + topic.channels.len()).sum::<usize>();
        if self.count > limits.topics_max.saturating_add(limits.channels_max) {
            return Err(TalkError::TooMuch(*limits));
        }
        protocol::join(&mut self.topics, part);
        Ok(())
    }

    fn whole(self) -> NodeInfo {
        self.node.with_topics(self.topics.into())
    }
}

/// There is one on each connection.
const WATCH: u32 = 0;
/// For so many heartbeats what a registry told counts beside others when it is not heard any more.
const MEMORY_BEATS: u32 = 30;
/// A connection that lasted so long is a success.
const STABLE: Duration = Duration::from_secs(5);
