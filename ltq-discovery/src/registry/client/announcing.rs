//! A node that tells registries that it is there.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use ltq_core::Address;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{error, info, warn};

use super::{
    Config,
    talk::{Talk, TalkError},
};
use crate::{
    Announcement, DiscoveryError, NodeInfo,
    registry::{
        change::NodeChange,
        protocol::{Ask, Parts, PlainNode, Say, State as PlainState},
    },
};

/// What there is to be told, shared by the tasks of all registries.
struct Shared {
    config: Arc<Config>,
    current: Mutex<Current>,
    /// The number of the newest change; `u64::MAX` once the node is withdrawn.
    newest: watch::Sender<u64>,
}

struct Current {
    node: NodeInfo,
    number: u64,
    /// The newest changes, by number; one who missed more tells all anew.
    changes: VecDeque<(u64, NodeChange)>,
}

/// A node that is announced.
pub(super) struct Announcing {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// What a registry made of it.
enum Outcome {
    Taken,
    /// It cannot be reached, or not now.
    Unreachable(Address, String),
    Refused(Address, String),
}

impl Announcing {
    /// Begins, and waits until one registry has taken the node in, all refused it, or there was no
    /// answer for as long as patience lasts.
    pub(super) async fn start(config: Arc<Config>, node: NodeInfo) -> Result<Self, DiscoveryError> {
        let current = Mutex::new(Current { node, number: 0, changes: VecDeque::new() });
        let newest = watch::Sender::new(0);
        let shared = Arc::new(Shared { config: Arc::clone(&config), current, newest });
        let (told, mut outcomes) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for (registry, address) in config.addresses.iter().enumerate() {
            let (shared, told) = (Arc::clone(&shared), told.clone());
            let teller = Teller { shared, registry, address: address.clone(), told: Some(told) };
            tasks.spawn(teller.run());
        }
        drop(told);
        let mut refused = None;
        let first = async {
            let mut refusals = 0;
            while let Some(outcome) = outcomes.recv().await {
                match outcome {
                    Outcome::Taken => return,
                    Outcome::Refused(address, why) => {
                        refusals += 1;
                        let backend = address.to_string();
                        if refusals == config.addresses.len() {
                            refused = Some(DiscoveryError::Refused { backend, why });
                            return;
                        }
                    }
                    Outcome::Unreachable(address, why) => {
                        warn!(registry = %address, why, "not announced there yet");
                    }
                }
            }
        };
        // Whoever answers later is told all the same.
        let _ = timeout(config.patience, first).await;
        match refused {
            Some(error) => Err(error),
            None => Ok(Self { shared, tasks }),
        }
    }
}

#[async_trait]
impl Announcement for Announcing {
    async fn update(&mut self, node: NodeInfo) -> Result<(), DiscoveryError> {
        let mut current = self.shared.current.lock();
        if node.id() != current.node.id() {
            let why = format!("node {} was announced, and not {}", current.node.id(), node.id());
            return Err(DiscoveryError::Refused { backend: "this announcement".to_owned(), why });
        }
        let change = NodeChange::between(&current.node, &node);
        current.node = node;
        match change {
            // The next beat tells of its load.
            Some(change) if change == NodeChange::default() => return Ok(()),
            Some(change) => {
                current.number += 1;
                let number = current.number;
                if current.changes.len() >= CHANGES_KEPT {
                    current.changes.pop_front();
                }
                current.changes.push_back((number, change));
            }
            None => {
                current.number += 1;
                current.changes.clear();
            }
        }
        let number = current.number;
        drop(current);
        self.shared.newest.send_replace(number);
        Ok(())
    }

    async fn withdraw(mut self: Box<Self>) -> Result<(), DiscoveryError> {
        self.shared.newest.send_replace(WITHDRAWN);
        let gone = async { while self.tasks.join_next().await.is_some() {} };
        match timeout(self.shared.config.patience, gone).await {
            Ok(()) => Ok(()),
            Err(_) => Err(DiscoveryError::Unreachable {
                backend: "a registry".to_owned(),
                source: "it did not answer the withdrawal in time".into(),
            }),
        }
    }
}

impl Drop for Announcing {
    fn drop(&mut self) {
        self.shared.config.announced.iter().for_each(|it| it.store(false, Ordering::Relaxed));
    }
}

/// Tells one registry.
struct Teller {
    shared: Arc<Shared>,
    /// Which one.
    registry: usize,
    address: Address,
    /// Whom to tell what the first attempts came to.
    told: Option<mpsc::UnboundedSender<Outcome>>,
}

/// Why it is not told any more.
enum End {
    Withdrawn,
    Lost(TalkError),
    /// It does not take the node in now.
    NotTaken(String),
}

impl<E: Into<TalkError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Lost(error.into())
    }
}

impl Teller {
    async fn run(mut self) {
        let mut failures = 0;
        let mut newest = self.shared.newest.subscribe();
        loop {
            let began = Instant::now();
            let (why, is_refusal) = match self.talk(&mut newest).await {
                End::Withdrawn => return,
                End::Lost(error) => (error.to_string(), error.is_final()),
                End::NotTaken(why) => (why, true),
            };
            if began.elapsed() > STABLE {
                failures = 0;
            }
            let wait = match is_refusal {
                true => self.shared.config.retry.1,
                false => self.shared.config.wait(failures),
            };
            failures = failures.saturating_add(1);
            match is_refusal {
                true => error!(registry = %self.address, why, "the node is not announced"),
                false => warn!(registry = %self.address, why, "the node is not announced for now"),
            }
            if let Some(told) = &self.told {
                let outcome = if is_refusal { Outcome::Refused } else { Outcome::Unreachable };
                // Nobody waits any more, mostly.
                let _ = told.send(outcome(self.address.clone(), why));
            }
            tokio::select! {
                () = sleep(wait) => {}
                _ = newest.wait_for(|number| *number == WITHDRAWN) => return,
            }
        }
    }

    async fn talk(&mut self, newest: &mut watch::Receiver<u64>) -> End {
        let (Ok(end) | Err(end)) = self.try_talk(newest).await;
        self.set_announced(false);
        end
    }

    fn set_announced(&self, is_announced: bool) {
        if let Some(announced) = self.shared.config.announced.get(self.registry) {
            announced.store(is_announced, Ordering::Relaxed);
        }
    }

    /// When all of the node is told again, some of which was refused: it stays there as it was meanwhile.
    fn later(&self, again: Option<Instant>, why: &str) -> Option<Instant> {
        again.or_else(|| {
            warn!(registry = %self.address, why, "the node is announced as it was before it changed");
            Some(Instant::now() + self.shared.config.retry.1)
        })
    }

    async fn try_talk(&mut self, newest: &mut watch::Receiver<u64>) -> Result<End, End> {
        let shared = Arc::clone(&self.shared);
        let mut talk = tokio::select! {
            talk = Talk::begin(&shared.config, &self.address) => talk?,
            _ = newest.wait_for(|number| *number == WITHDRAWN) => return Ok(End::Withdrawn),
        };
        let (beat, patience) = (talk.heartbeat, talk.patience());
        let (mouth, ear) = (&mut talk.link.mouth, &mut talk.link.ear);
        let mut told = announce(&shared, mouth)?;
        // Announcements that are not answered yet, and whether one was taken in over this connection.
        let (mut asked, mut is_there): (u32, bool) = (1, false);
        // When what was refused is told again.
        let mut again = None;
        let (mut heard, mut beaten) = (Instant::now(), Instant::now());
        let mut is_withdrawing = false;
        loop {
            tokio::select! {
                biased;
                said = ear.hear() => {
                    heard = Instant::now();
                    match said? {
                        Say::Beat | Say::Told { .. } | Say::NotWatched { .. } => {}
                        Say::Welcome { .. } => return Err(TalkError::Protocol("a second welcome").into()),
                        Say::Goodbye { code, detail } => {
                            return Err(TalkError::Goodbye { code, detail }.into());
                        }
                        // What was said before the withdrawal is answered before it.
                        Say::Taken | Say::NotAnnounced if is_withdrawing && asked == 0 => {
                            return Ok(End::Withdrawn);
                        }
                        Say::Taken => {
                            asked = answered(asked)?;
                            is_there = true;
                            self.set_announced(true);
                            if let Some(first) = self.told.take() {
                                info!(registry = %self.address, "announced");
                                let _ = first.send(Outcome::Taken);
                            }
                        }
                        Say::NotTaken { superseded, detail } => {
                            asked = answered(asked)?;
                            if superseded || !is_there {
                                return Err(End::NotTaken(detail));
                            }
                            again = self.later(again, &detail);
                        }
                        Say::NotChanged { detail } => {
                            // For the state there is room always.
                            let state = Some(PlainState::of(shared.current.lock().node.state()));
                            mouth.say(&Ask::Change { state, has: Vec::new(), lacks: Vec::new() })?;
                            again = self.later(again, &detail);
                        }
                        // It forgot the node, which is told anew; what was said meanwhile is in that.
                        Say::NotAnnounced => {
                            is_there = false;
                            if asked == 0 {
                                told = announce(&shared, mouth)?;
                                asked += 1;
                            }
                        }
                    }
                }
                () = sleep_until(heard + patience) => return Err(TalkError::Silent(patience).into()),
                sent = mouth.send_some() => sent?,
                () = sleep_until(beaten + beat) => {
                    beaten = Instant::now();
                    let load = shared.current.lock().node.load().0;
                    mouth.say(&Ask::Heartbeat { load })?;
                }
                () = sleep_until(again.unwrap_or(heard)), if again.is_some() && !is_withdrawing => {
                    again = None;
                    told = announce(&shared, mouth)?;
                    asked += 1;
                }
                changed = newest.changed(), if !is_withdrawing => {
                    if changed.is_err() || *newest.borrow_and_update() == WITHDRAWN {
                        mouth.say(&Ask::Withdraw)?;
                        is_withdrawing = true;
                        continue;
                    }
                    told = tell_changes(&shared, told, mouth, &mut asked)?;
                }
            }
        }
    }
}

/// One announcement fewer waits for its answer.
fn answered(asked: u32) -> Result<u32, End> {
    asked.checked_sub(1).ok_or_else(|| TalkError::Protocol("an answer to nothing").into())
}

/// Says all of the node. Returns the number of the newest change in it.
fn announce(shared: &Shared, mouth: &mut crate::registry::link::Mouth) -> Result<u64, End> {
    let current = shared.current.lock();
    let (node, topics) = (PlainNode::of(&current.node), current.node.topics());
    mouth.say(&Ask::Announce { node, topics_known: topics.is_some() })?;
    if let Some(topics) = topics {
        let mut parts = Parts::of(topics);
        while !parts.is_over() {
            mouth.say(&Ask::Topics(parts.next_part()))?;
        }
    }
    mouth.say(&Ask::Announced)?;
    Ok(current.number)
}

/// Says what is different since a change, or all where that is not known any more.
fn tell_changes(
    shared: &Shared,
    told: u64,
    mouth: &mut crate::registry::link::Mouth,
    asked: &mut u32,
) -> Result<u64, End> {
    let changes = {
        let current = shared.current.lock();
        let missed = current.number - told;
        let known = current.changes.iter().filter(|(number, _)| *number > told);
        let known: Vec<_> = known.map(|(_, change)| change.clone()).collect();
        (known.len() as u64 == missed).then_some((known, current.number))
    };
    let Some((changes, number)) = changes else {
        *asked += 1;
        return announce(shared, mouth);
    };
    for NodeChange { state, has, lacks } in changes {
        let has: BTreeMap<_, _> = has.into_iter().collect();
        let mut parts = Parts::of(&has);
        let (mut state, mut lacks) = (state.map(PlainState::of), lacks.into_iter().peekable());
        while state.is_some() || !parts.is_over() || lacks.peek().is_some() {
            let has = parts.next_part();
            if has.iter().any(|topic| topic.adds) {
                // One topic with more channels than a frame takes.
                *asked += 1;
                return announce(shared, mouth);
            }
            // A frame has room for one or the other.
            let lacks = match has.is_empty() {
                true => lacks.by_ref().take(LACKS_AT_ONCE).collect(),
                false => Vec::new(),
            };
            mouth.say(&Ask::Change { state: state.take(), has, lacks })?;
        }
    }
    Ok(number)
}

const WITHDRAWN: u64 = u64::MAX;
/// Changes that a registry may miss and be told one by one.
const CHANGES_KEPT: usize = 1_024;
/// Names of at most 255 bytes in a frame.
const LACKS_AT_ONCE: usize = 200;
/// A connection that lasted so long is a success.
const STABLE: Duration = Duration::from_secs(5);
