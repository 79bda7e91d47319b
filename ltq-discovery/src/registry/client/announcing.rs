//! A node that tells registries that it is there.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use ltq_core::{Address, process::inherit};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tracing::{error, info, warn};

use super::{
    Config,
    news::News,
    talk::{Talk, TalkError},
};
use crate::{
    Announcement, DiscoveryError, NodeInfo,
    registry::{
        change::NodeChange,
        link::Mouth,
        protocol::{Ask, Parts, PlainNode, Say, State as PlainState},
    },
};

/// What there is to be told, shared by the tasks of all registries.
struct Shared {
    config: Arc<Config>,
    news: Mutex<News>,
    /// The number of the newest change; `u64::MAX` once the node is withdrawn.
    newest: watch::Sender<u64>,
}

/// A node that is announced.
pub(super) struct Announcing {
    shared: Arc<Shared>,
    tasks: JoinSet<(usize, Left)>,
}

/// What a registry made of it.
enum Outcome {
    Taken,
    /// It cannot be reached, or not now.
    Unreachable(Address, String),
    Refused(Address, String),
}

/// What became of a registry once the node is withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It has answered the withdrawal.
    Told,
    /// It may have the node, and was not told.
    Untold,
    /// It does not have the node.
    Without,
}

impl Announcing {
    /// Begins, and waits until one registry has taken the node in, all refused it, or there was no
    /// answer for as long as patience lasts.
    pub(super) async fn start(config: Arc<Config>, node: NodeInfo) -> Result<Self, DiscoveryError> {
        let (news, newest) = (Mutex::new(News::new(node)), watch::Sender::new(0));
        let shared = Arc::new(Shared { config: Arc::clone(&config), news, newest });
        let (told, mut outcomes) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for (registry, address) in config.addresses.iter().enumerate() {
            let (shared, told) = (Arc::clone(&shared), Some(told.clone()));
            let address = address.clone();
            let teller = Teller { shared, registry, address, told, may_have: false };
            tasks.spawn(inherit(teller.run()));
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
        let mut news = self.shared.news.lock();
        if node.id() != news.node().id() {
            let why = format!("node {} was announced, and not {}", news.node().id(), node.id());
            return Err(DiscoveryError::Refused { backend: "this announcement".to_owned(), why });
        }
        let (is_new, number) = (news.take(node), news.number());
        drop(news);
        if is_new {
            self.shared.newest.send_replace(number);
        }
        Ok(())
    }

    async fn withdraw(mut self: Box<Self>) -> Result<(), DiscoveryError> {
        self.shared.newest.send_replace(WITHDRAWN);
        let config = Arc::clone(&self.shared.config);
        let Config { addresses, withdraw_timeout, .. } = &*config;
        // One that has not ended by then may have the node, for all that is known.
        let mut left = vec![Left::Untold; addresses.len()];
        let until = Instant::now() + *withdraw_timeout;
        while let Ok(Some(ended)) = timeout_at(until, self.tasks.join_next()).await {
            if let Ok((registry, became)) = ended
                && let Some(of) = left.get_mut(registry)
            {
                *of = became;
            }
        }
        let those = |wanted: Left| {
            let all = addresses.iter().zip(&left).filter(move |(_, left)| **left == wanted);
            all.map(|(address, _)| address.to_string()).collect::<Vec<_>>()
        };
        match those(Left::Untold) {
            unheard if unheard.is_empty() => Ok(()),
            unheard => Err(DiscoveryError::NotWithdrawn { heard: those(Left::Told), unheard }),
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
    /// Whether the registry may have the node, as far as is known.
    may_have: bool,
}

/// Why it is not told any more.
enum End {
    /// It has answered the withdrawal.
    Withdrawn,
    /// The node was withdrawn before there was anything to be taken back.
    GivenUp,
    Lost(TalkError),
    /// It does not take the node in now.
    NotTaken(String),
}

impl<E: Into<TalkError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Lost(error.into())
    }
}

/// How it stands with what a registry is told. What it has not read yet is one answer to all that changed, and
/// never a list of changes: one that reads nothing costs no more than what there is to be told.
struct Telling {
    /// The number of the newest change that was said.
    told: u64,
    /// Announcements that are not answered yet, and whether one was taken in over this connection.
    asked: u32,
    is_there: bool,
    /// Whether the registry may have known the node before this connection.
    was_there: bool,
    /// What is to be said next: all of the node, its state, that it is there.
    is_all_due: bool,
    is_state_due: bool,
    is_beat_due: bool,
    withdrawal: Withdrawal,
    /// When what was refused is told again.
    again: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Withdrawal {
    No,
    Due,
    Said,
}

impl Teller {
    async fn run(mut self) -> (usize, Left) {
        let mut failures = 0;
        let mut newest = self.shared.newest.subscribe();
        loop {
            let began = Instant::now();
            let (why, is_refusal) = match self.talk(&mut newest).await {
                End::Withdrawn => return (self.registry, Left::Told),
                End::GivenUp => return (self.registry, self.left()),
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
                biased;
                () = sleep(wait) => {}
                _ = newest.wait_for(|number| *number == WITHDRAWN) => {
                    return (self.registry, self.left());
                }
            }
        }
    }

    const fn left(&self) -> Left {
        if self.may_have { Left::Untold } else { Left::Without }
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

    async fn try_talk(&mut self, newest: &mut watch::Receiver<u64>) -> Result<End, End> {
        let shared = Arc::clone(&self.shared);
        let mut talk = tokio::select! {
            biased;
            talk = Talk::begin(&shared.config, &self.address) => talk?,
            _ = newest.wait_for(|number| *number == WITHDRAWN) => return Ok(End::GivenUp),
        };
        let (beat, patience) = (talk.heartbeat, talk.patience());
        let (mouth, ear) = (&mut talk.link.mouth, &mut talk.link.ear);
        let mut telling = Telling::begin(self.may_have);
        let start = Instant::now();
        let (mut heard, mut beaten, mut progress) = (start, start, start);
        loop {
            if mouth.unsent() == 0 {
                progress = Instant::now();
                telling.say(&shared, mouth)?;
                self.may_have |= telling.asked > 0;
            }
            let is_sending = mouth.unsent() > 0;
            let is_withdrawing = telling.withdrawal != Withdrawal::No;
            // What it says comes behind what is to be done here, so that no flood of it holds that up.
            tokio::select! {
                biased;
                changed = newest.changed(), if !is_withdrawing => {
                    if changed.is_err() || *newest.borrow_and_update() == WITHDRAWN {
                        telling.withdrawal = Withdrawal::Due;
                    }
                }
                sent = mouth.send_some() => {
                    sent?;
                    progress = Instant::now();
                }
                () = sleep_until(progress + patience), if is_sending => {
                    return Err(TalkError::Unread(patience).into());
                }
                () = sleep_until(beaten + beat) => {
                    beaten = Instant::now();
                    telling.is_beat_due = true;
                }
                () = sleep_until(telling.again.unwrap_or(heard)), if telling.again.is_some() && !is_withdrawing => {
                    telling.again = None;
                    telling.is_all_due = true;
                }
                said = ear.hear() => {
                    heard = Instant::now();
                    if let Some(end) = self.heard(said?, &mut telling)? {
                        return Ok(end);
                    }
                }
                // What came before was heard in time, however late this is looked at.
                () = sleep_until(heard + patience) => return Err(TalkError::Silent(patience).into()),
            }
        }
    }

    /// What the registry says. Returns how it ends, if it does in order.
    fn heard(&mut self, said: Say, telling: &mut Telling) -> Result<Option<End>, End> {
        match said {
            Say::Beat | Say::Told { .. } | Say::NotWatched { .. } => {}
            Say::Welcome { .. } => return Err(TalkError::Protocol("a second welcome").into()),
            Say::Goodbye { code, detail } => {
                return Err(TalkError::Goodbye { code, detail }.into());
            }
            // What was said before the withdrawal is answered before it.
            Say::Taken | Say::NotAnnounced
                if telling.withdrawal == Withdrawal::Said && telling.asked == 0 =>
            {
                return Ok(Some(End::Withdrawn));
            }
            Say::Taken => {
                telling.answered()?;
                telling.is_there = true;
                self.set_announced(true);
                if let Some(first) = self.told.take() {
                    info!(registry = %self.address, "announced");
                    let _ = first.send(Outcome::Taken);
                }
            }
            Say::NotTaken { superseded, detail } => {
                telling.answered()?;
                if superseded || !telling.is_there {
                    // Where there is no room for it as it is now, it may be known there as it was before.
                    self.may_have = !superseded && telling.was_there;
                    return Err(End::NotTaken(detail));
                }
                telling.again = self.later(telling.again, &detail);
            }
            Say::NotChanged { detail } => {
                // For the state there is room always.
                telling.is_state_due = true;
                telling.again = self.later(telling.again, &detail);
            }
            // It forgot the node, which is told anew; what was said meanwhile is in that.
            Say::NotAnnounced => {
                telling.is_there = false;
                telling.is_all_due |= telling.asked == 0;
            }
        }
        Ok(None)
    }

    /// When all of the node is told again, some of which was refused: it stays there as it was meanwhile.
    fn later(&self, again: Option<Instant>, why: &str) -> Option<Instant> {
        again.or_else(|| {
            warn!(registry = %self.address, why, "the node is announced as it was before it changed");
            Some(Instant::now() + self.shared.config.retry.1)
        })
    }
}

impl Telling {
    const fn begin(was_there: bool) -> Self {
        Self {
            told: 0,
            asked: 0,
            is_there: false,
            was_there,
            is_all_due: true,
            is_state_due: false,
            is_beat_due: false,
            withdrawal: Withdrawal::No,
            again: None,
        }
    }

    /// One announcement fewer waits for its answer.
    fn answered(&mut self) -> Result<(), End> {
        let fewer = self.asked.checked_sub(1);
        self.asked = fewer.ok_or(TalkError::Protocol("an answer to nothing"))?;
        Ok(())
    }

    /// Says all that is due, as it is now. To be called once what was said before has been sent.
    fn say(&mut self, shared: &Shared, mouth: &mut Mouth) -> Result<(), End> {
        match self.withdrawal {
            Withdrawal::No => self.say_news(shared, mouth)?,
            Withdrawal::Due => {
                mouth.say(&Ask::Withdraw)?;
                self.withdrawal = Withdrawal::Said;
            }
            Withdrawal::Said => {}
        }
        if mem::take(&mut self.is_beat_due) {
            let load = shared.news.lock().node().load().0;
            mouth.say(&Ask::Heartbeat { load })?;
        }
        Ok(())
    }

    fn say_news(&mut self, shared: &Shared, mouth: &mut Mouth) -> Result<(), End> {
        let (node, number, change) = {
            let news = shared.news.lock();
            let change = if self.is_all_due { None } else { news.since(self.told) };
            // Cheap, and written down without the lock.
            (news.node().clone(), news.number(), change)
        };
        // Each topic of a change has to fit a frame.
        let said = match change {
            Some(change) => say_change(&node, mem::take(&mut self.is_state_due), change, mouth)?,
            None => false,
        };
        if said {
            (self.told, self.is_all_due) = (number, false);
        } else if self.asked == 0 {
            announce(&node, mouth)?;
            (self.told, self.is_all_due, self.is_state_due) = (number, false, false);
            self.asked += 1;
        } else {
            // Once the announcement before is answered: more than one would not make it known sooner.
            self.is_all_due = true;
        }
        Ok(())
    }
}

/// Says all of the node.
fn announce(node: &NodeInfo, mouth: &mut Mouth) -> Result<(), End> {
    let topics = node.topics();
    let plain = PlainNode::of(node);
    mouth.say(&Ask::Announce { node: plain, topics_known: topics.is_some() })?;
    if let Some(topics) = topics {
        let mut parts = Parts::of(topics);
        while !parts.is_over() {
            mouth.say(&Ask::Topics(parts.next_part()))?;
        }
    }
    Ok(mouth.say(&Ask::Announced)?)
}

/// Says what is different. False, and nothing is said, where a change cannot say it.
fn say_change(
    node: &NodeInfo,
    with_state: bool,
    change: NodeChange,
    mouth: &mut Mouth,
) -> Result<bool, End> {
    let NodeChange { state, has, lacks } = change;
    let has: BTreeMap<_, _> = has.into_iter().collect();
    let (mut parts, mut said) = (Parts::of(&has), Vec::new());
    while !parts.is_over() {
        let part = parts.next_part();
        if part.iter().any(|topic| topic.adds) {
            // One topic with more channels than a frame takes.
            return Ok(false);
        }
        said.push(part);
    }
    let mut state = state.or_else(|| with_state.then(|| node.state())).map(PlainState::of);
    for has in said {
        mouth.say(&Ask::Change { state: state.take(), has, lacks: Vec::new() })?;
    }
    if state.is_some() {
        mouth.say(&Ask::Change { state, has: Vec::new(), lacks: Vec::new() })?;
    }
    for lacks in lacks.chunks(LACKS_AT_ONCE) {
        let lacks = lacks.to_vec();
        mouth.say(&Ask::Change { state: None, has: Vec::new(), lacks })?;
    }
    Ok(true)
}

const WITHDRAWN: u64 = u64::MAX;
/// Names of at most 255 bytes in a frame.
const LACKS_AT_ONCE: usize = 200;
/// A connection that lasted so long is a success.
const STABLE: Duration = Duration::from_secs(5);
