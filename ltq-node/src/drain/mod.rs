//! A node that is to end gives away what it has: its drain.
//!
//! It tells registries, so that producers go elsewhere, takes in nothing more, and waits until its consumers have finished the backlog, or forwards it to other nodes; then it stops.

mod command;
#[cfg(test)]
mod drain_tests;
mod going;
mod hand_over;
#[cfg(test)]
mod hand_over_tests;
mod held;
mod merged;
mod peer;
mod pieces;
mod runs;
mod ways;

use std::{
    fmt,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use ltq_core::{DrainOptions, DrainWishes, NodeStats};
use ltq_discovery::NodeState;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

pub use command::{DrainArgs, run as command};

use crate::{
    NodeBroker,
    announcer::State,
    config::{Config, can_be_reached},
};
use hand_over::{HandOver, Known};

/// Drains a node when it is told to.
#[derive(Debug)]
pub(crate) struct Drain {
    broker: NodeBroker,
    wishes: DrainWishes,
    config: Arc<Config>,
    state: Option<State>,
    known: Known,
}

/// What a drain left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Messages that some channel has still to settle, once for each.
    backlog: u64,
    /// The channels that have most of them.
    channels: Vec<String>,
    /// Topics with messages that no channel reads.
    unread: usize,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} messages", self.backlog)?;
        if !self.channels.is_empty() {
            write!(f, ", most in {}", self.channels.join(", "))?;
        }
        Ok(())
    }
}

impl Drain {
    /// `state` is by what registries are told, where there are any.
    pub(crate) fn new(broker: &NodeBroker, config: Arc<Config>, state: Option<State>) -> Self {
        let (broker, wishes) = (broker.clone(), broker.drain_wishes());
        let known = Known::new(&broker);
        Self { broker, wishes, config, state, known }
    }

    /// Waits until the node is to be drained, and was. Dropping it leaves the node as it is then.
    pub(crate) async fn over(mut self) {
        loop {
            let mut options = self.wishes.begun().await;
            loop {
                let Some(wanted) = self.other_wish(&options).await else { return };
                // Nothing of what went on so far is to go on beside what comes next.
                self.known.stop().await;
                self.known.held.clear();
                match wanted {
                    Some(otherwise) => options = otherwise,
                    None => break,
                }
            }
            // From then on topics may be deleted and made again, with other messages at these offsets.
            self.known.done.clear();
            self.broker.set_draining(false);
            info!("the drain is taken back; the node takes in again");
            if let Some(state) = &self.state {
                state.say(NodeState::Ready);
            }
        }
    }

    /// Drains until something else is wanted, which may be not to drain; `None` when it is drained.
    async fn other_wish(&mut self, options: &DrainOptions) -> Option<Option<DrainOptions>> {
        let mut draining = pin!(self.draining(options).run());
        loop {
            tokio::select! {
                biased;
                () = self.wishes.changed() => {}
                () = &mut draining => return None,
            }
            // Said once more it goes on.
            let wanted = self.wishes.wanted();
            if wanted.as_ref() != Some(options) {
                return Some(wanted);
            }
        }
    }

    fn draining(&self, options: &DrainOptions) -> Draining {
        let settings = &self.config.drain;
        let peers = match options.hand_over_to.is_empty() {
            true => settings.hand_over_to.clone(),
            false => options.hand_over_to.clone(),
        };
        Draining {
            broker: self.broker.clone(),
            config: self.config.clone(),
            state: self.state.clone(),
            known: self.known.clone(),
            peers,
            after: options.timeout_ms.map_or(settings.timeout.0, Duration::from_millis),
        }
    }
}

/// One drain.
struct Draining {
    broker: NodeBroker,
    config: Arc<Config>,
    state: Option<State>,
    known: Known,
    peers: Vec<String>,
    after: Duration,
}

impl Draining {
    async fn run(self) {
        let to = if self.peers.is_empty() { "nobody".to_owned() } else { self.peers.join(", ") };
        info!(timeout = ?self.after, hand_over_to = to, "draining: nothing is taken in any more");
        if let Some(state) = &self.state {
            state.say(NodeState::Draining);
        }
        self.broker.set_draining(true);
        let ended = timeout(self.after, async {
            tokio::select! {
                () = self.finished() => {}
                () = self.handing_over() => {}
            }
        });
        let ended = ended.await;
        self.known.stop().await;
        let left = match ended {
            // Who watches the node sees that it is done.
            Ok(()) => {
                sleep(SEEN_PAUSE).await;
                Left::default()
            }
            Err(_) => left(&self.broker.stats().await),
        };
        match left.backlog {
            0 => info!("drained: nothing is left to be consumed"),
            _ => warn!(%left, "the time to drain is over; what is left is kept"),
        }
    }

    /// Waits until nothing is left.
    async fn finished(&self) {
        let mut was_empty = false;
        let mut said = Instant::now();
        loop {
            let unconfirmed = self.broker.in_use().publish_bytes;
            let began = Instant::now();
            let stats = self.broker.stats().await;
            self.known.held.look(&stats, !self.peers.is_empty());
            let left = left(&stats);
            // Twice, for what was just on its way in.
            let is_empty = unconfirmed == 0 && left.backlog == 0;
            if is_empty && was_empty {
                if left.unread > 0 {
                    let topics = left.unread;
                    warn!(topics, "some topics have messages that no channel reads: they are kept");
                }
                return;
            }
            was_empty = is_empty;
            if said.elapsed() >= SAY_PAUSE {
                said = Instant::now();
                info!(%left, "draining");
            }
            // With many topics a look takes a while; most of the time is not for looking.
            sleep(LOOK_PAUSE.max(began.elapsed() * 4)).await;
        }
    }

    /// Forwards what is left, for as long as it is awaited.
    async fn handing_over(&self) {
        if self.peers.is_empty() {
            return std::future::pending().await;
        }
        for text in &self.peers {
            if let Err(why) = can_be_reached(text, &self.config.drain) {
                error!(address = text, why, "the backlog is not handed over");
                return std::future::pending().await;
            }
        }
        match HandOver::new(&self.broker, &self.config, &self.peers, &self.known) {
            Ok(hand_over) => hand_over.run().await,
            Err(error) => {
                error!(%error, "the backlog is not handed over");
                std::future::pending().await
            }
        }
    }
}

/// What is left of what the figures show.
fn left(stats: &NodeStats) -> Left {
    let mut channels: Vec<_> = Vec::new();
    let mut unread = 0;
    for topic in &stats.topics {
        unread += usize::from(topic.channels.is_empty() && topic.end > topic.first);
        for channel in topic.channels.iter().filter(|channel| channel.backlog() > 0) {
            channels.push((channel.backlog(), &topic.topic, &channel.channel));
        }
    }
    channels.sort_unstable_by(|a, b| b.cmp(a));
    let named = |(count, topic, channel): &(u64, _, _)| format!("{topic}/{channel} ({count})");
    Left {
        backlog: stats.backlog(),
        channels: channels.iter().take(NAMED_MAX).map(named).collect(),
        unread,
    }
}

/// How often it is looked at what is left, at most.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// How often it is said.
const SAY_PAUSE: Duration = Duration::from_secs(10);
/// Channels that are named where many have something left.
const NAMED_MAX: usize = 10;
/// How long a drained node can still be looked at.
const SEEN_PAUSE: Duration = Duration::from_millis(700);
