//! What one connection says and is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
};

use ltq_core::{Action, ChannelName, Connection, Grant, Peer, Permissions, Stream, TopicName};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::{
    Open, Shared, count,
    frames::{Frames, Taken, Work, is_good_part, names},
    places::{Half, NoPlace},
    telling::{not_taken, say_told},
    wake::News,
};
use crate::{
    Interest, Load, NodeId, NodeInfo,
    registry::{
        change::NodeChange,
        link::{Link, LinkError, Mouth},
        protocol::{self, Ask, GoodbyeCode, MAGIC, REGISTRY_PROTOCOL, SILENT_BEATS, Say},
        refused::UpdateError,
        state::{SessionId, sizes},
        watchers::WatcherId,
    },
};

/// Why a session ends.
enum End {
    Link(LinkError),
    /// With these last words.
    Goodbye(GoodbyeCode, String),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Wire(error) => Self::Goodbye(GoodbyeCode::Protocol, error.to_string()),
            error => Self::Link(error),
        }
    }
}

pub(super) async fn run(open: &Open, peer: &Peer, connection: &dyn Connection, stream: Stream) {
    let shared = &open.shared;
    let mut link = Link::new(stream);
    let greeting = greet(shared, peer, &mut link);
    let mut is_crowded_out = false;
    let greeted = tokio::select! {
        biased;
        greeted = timeout(shared.settings.hello_timeout, greeting) => match greeted {
            Ok(greeted) => greeted,
            Err(_) => Err(goodbye(GoodbyeCode::Silent, "no hello came in time")),
        },
        () = open.entry.gives_way() => {
            is_crowded_out = true;
            Err(goodbye(GoodbyeCode::Full, open.entry.crowded_out().detail))
        }
    };
    let ended = match greeted {
        Ok(grant) => match open.entry.welcomed() {
            Ok(()) => {
                connection.welcomed();
                let mut session = Session::new(open, grant);
                session.serve(&mut link).await
            }
            Err(crowded_out) => {
                is_crowded_out = true;
                Err(goodbye(GoodbyeCode::Full, crowded_out.detail))
            }
        },
        Err(end) => Err(end),
    };
    match ended {
        Ok(()) => {}
        Err(End::Link(error)) => debug!(peer = %peer.address, %error, "session ended"),
        Err(End::Goodbye(code, detail)) => {
            debug!(peer = %peer.address, ?code, detail, "session ended");
            if link.mouth.say(&Say::Goodbye { code, detail }).is_err() {
                return;
            }
            let mut parted = pin!(link.part());
            if is_crowded_out {
                // Its place is another's already: what it says it says at once.
                let _ = poll_fn(|context| Poll::Ready(parted.as_mut().poll(context))).await;
            } else {
                parted.await;
            }
        }
    }
}

fn goodbye(code: GoodbyeCode, detail: impl Into<String>) -> End {
    End::Goodbye(code, detail.into())
}

async fn greet(shared: &Shared, peer: &Peer, link: &mut Link) -> Result<Grant, End> {
    // Whoever has not said who it is makes nobody keep much.
    let hello = link.ear.hear_at_most(HELLO_BYTES_MAX).await?;
    let Ask::Hello { magic, version, token } = hello else {
        return Err(goodbye(GoodbyeCode::Protocol, "the first frame must be a hello"));
    };
    if magic != MAGIC {
        return Err(goodbye(GoodbyeCode::Protocol, "this is a registry of LTQ"));
    }
    if version != REGISTRY_PROTOCOL {
        let detail =
            format!("this registry speaks version {REGISTRY_PROTOCOL}, the client {version}");
        return Err(goodbye(GoodbyeCode::Version, detail));
    }
    let Ok(grant) = shared.settings.access.admit(peer, token.as_deref()) else {
        shared.denied(peer);
        return Err(goodbye(GoodbyeCode::Unauthorized, "a valid token is needed"));
    };
    let heartbeat = shared.settings.registry.heartbeat;
    let heartbeat_ms = u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX);
    link.mouth.say(&Say::Welcome {
        version: REGISTRY_PROTOCOL,
        registry: shared.id,
        heartbeat_ms,
    })?;
    Ok(grant)
}

/// A node that is being announced, in parts.
struct Announcing<'o> {
    node: NodeInfo,
    topics: Option<Topics>,
    /// Of its topics and channels, so far.
    count: usize,
    half: Half<'o>,
    /// Beats since a good part of it came.
    beats: u32,
}

type Topics = BTreeMap<TopicName, BTreeSet<ChannelName>>;

struct Session<'o> {
    open: &'o Open,
    shared: Arc<Shared>,
    id: SessionId,
    grant: Grant,
    news: Arc<News>,
    announcing: Option<Announcing<'o>>,
    /// Which node it announced last.
    announced: Option<NodeId>,
    /// By the numbers that the client gave them.
    watches: BTreeMap<u32, WatcherId>,
    /// Numbers from here on it had for no watch yet.
    unused: u64,
    /// Those who may be owed something, and from which of them on it is looked whose turn it is.
    owed: BTreeSet<u32>,
    turn: u32,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let watchers: Vec<_> = self.watches.values().copied().collect();
        self.shared.wake.remove(&watchers);
        self.shared.change(|registry, now| {
            watchers.iter().for_each(|id| registry.unwatch(*id));
            registry.session_ended(now, self.id);
        });
    }
}

/// What a session comes to next.
enum Next {
    Asked(Ask),
    Sent,
    News,
    Beat,
    /// Nothing came for too long.
    Silent,
    /// Nothing was taken of what is sent for too long.
    Unread,
}

impl<'o> Session<'o> {
    fn new(open: &'o Open, grant: Grant) -> Self {
        let shared = Arc::clone(&open.shared);
        let id = SessionId(shared.name());
        Self {
            open,
            shared,
            id,
            grant,
            news: Arc::new(News::default()),
            announcing: None,
            announced: None,
            watches: BTreeMap::new(),
            unused: 0,
            owed: BTreeSet::new(),
            turn: 0,
        }
    }

    async fn serve(&mut self, Link { mouth, ear }: &mut Link) -> Result<(), End> {
        let beat = self.shared.settings.registry.heartbeat;
        let patience = beat * SILENT_BEATS;
        let mut stopping = self.shared.stopping.subscribe();
        let start = Instant::now();
        let (mut heard, mut progress, mut beaten) = (start, start, start);
        let mut frames = Frames::new(self.shared.settings.frames_max, start);
        let mut held: Option<(Ask, Instant)> = None;
        // Whether it is looked at what is asked before more is told and sent: however much one watch is owed, others
        // begin and end beside it.
        let mut is_ears_turn = false;
        loop {
            if !is_ears_turn {
                self.tell(mouth)?;
            }
            let is_sending = mouth.unsent() > 0;
            // Nothing more is asked of one that does not read the answers.
            let is_reading = mouth.unsent() < UNSENT_BYTES_MAX && held.is_none();
            let held_until = held.as_ref().map(|(_, until)| *until);
            let next = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => {
                    return Err(goodbye(GoodbyeCode::Stopping, "the registry is stopping"));
                }
                () = sleep_until(beaten + beat) => Next::Beat,
                sent = mouth.send_some(), if !is_ears_turn => sent.map(|()| Next::Sent)?,
                () = sleep_until(progress + patience), if is_sending => Next::Unread,
                () = sleep_until(held_until.unwrap_or(start)), if held_until.is_some() => {
                    match held.take() {
                        Some((asked, _)) => Next::Asked(asked),
                        None => continue,
                    }
                }
                asked = ear.hear(), if is_reading => Next::Asked(asked?),
                // What came before was heard in time, however late this is looked at.
                () = sleep_until(heard + patience), if is_reading => Next::Silent,
                () = self.news.come() => Next::News,
                () = std::future::ready(()), if is_ears_turn => {
                    is_ears_turn = false;
                    continue;
                }
            };
            is_ears_turn = matches!(next, Next::Sent);
            let now = Instant::now();
            match next {
                Next::Sent => progress = now,
                Next::News => self.news.take(&mut self.owed),
                // It was not the peer that was silent, if nobody was there to look.
                Next::Silent if now > heard + patience + beat => heard = now - patience + beat,
                Next::Silent => {
                    let detail = format!("nothing came for {patience:?}");
                    return Err(goodbye(GoodbyeCode::Silent, detail));
                }
                Next::Unread if now > progress + patience + beat => {
                    progress = now - patience + beat;
                }
                Next::Unread => return Err(goodbye(GoodbyeCode::Silent, "nothing was read")),
                Next::Asked(asked) => {
                    heard = now;
                    match frames.take(&asked, self.work(&asked), now) {
                        Taken::Now => self.asked(asked, mouth)?,
                        Taken::Later(until) => held = Some((asked, until)),
                        Taken::Never => return Err(self.floods()),
                    }
                }
                Next::Beat => {
                    beaten = now;
                    if self.grant.is_revoked() {
                        let detail = "what the token permitted was taken back";
                        return Err(goodbye(GoodbyeCode::Unauthorized, detail));
                    }
                    if is_reading {
                        self.wait_for_the_rest()?;
                    }
                    if !is_sending {
                        mouth.say(&Say::Beat)?;
                    }
                }
            }
            if !is_sending {
                progress = now;
            }
            if !is_reading {
                // Whatever it says waits: it is not silent.
                heard = now;
            }
        }
    }

    /// Tells watchers what they are owed, for as long as there is room.
    fn tell(&mut self, mouth: &mut Mouth) -> Result<(), End> {
        while mouth.unsent() < UNSENT_BYTES_MAX {
            // Each in its turn, so that none that is owed much, or again and again, holds up the others.
            let next = self.owed.range(self.turn..).next().or_else(|| self.owed.first());
            let Some(&watch) = next else { break };
            self.turn = watch.wrapping_add(1);
            let Some(&id) = self.watches.get(&watch) else {
                self.owed.remove(&watch);
                continue;
            };
            // What is told is written down without the lock, which others wait for.
            let (told, is_all) = self.shared.registry.lock().tell_some(id, TOLD_AT_ONCE);
            if is_all {
                self.owed.remove(&watch);
            }
            for told in told {
                match say_told(mouth, watch, told) {
                    Ok(()) => drop(count(&self.shared.counts.told)),
                    // The others are told all the same.
                    Err(LinkError::Wire(error)) => {
                        let count = count(&self.shared.counts.untold);
                        if count.is_power_of_two() {
                            warn!(%error, count, "a node cannot be told of");
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// What is asked, counted in what there is to be looked at for it.
    fn work(&self, asked: &Ask) -> Work {
        match asked {
            Ask::Watch { watch, interest } => Work::Watch {
                looks: self.shared.registry.lock().to_be_looked_at(interest),
                may_wait: u64::from(*watch) >= self.unused,
            },
            Ask::Announce { node, .. } => match &self.announced {
                Some(before) if before.as_str() != node.id() => Work::AnotherNode,
                _ => Work::Frame,
            },
            _ => Work::Frame,
        }
    }

    /// A beat has passed: an announcement that was begun does not wait for ever.
    fn wait_for_the_rest(&mut self) -> Result<(), End> {
        let Some(Announcing { node, beats, .. }) = &mut self.announcing else { return Ok(()) };
        *beats += 1;
        if *beats <= SILENT_BEATS {
            return Ok(());
        }
        let detail = format!(
            "of node {}, whose announcement was begun, nothing more to speak of came for {SILENT_BEATS} beats",
            node.id()
        );
        Err(goodbye(GoodbyeCode::Silent, detail))
    }

    /// It sends more than it may.
    fn floods(&self) -> End {
        let count = count(&self.shared.counts.flooding);
        let max = self.shared.settings.frames_max;
        if count.is_power_of_two() {
            warn!(who = self.grant.who(), max, count, "a connection floods the registry");
        }
        let detail =
            format!("more than {max} frames, or what takes as much work, came within a second");
        goodbye(GoodbyeCode::Flooding, detail)
    }

    fn asked(&mut self, asked: Ask, mouth: &mut Mouth) -> Result<(), End> {
        let shared = Arc::clone(&self.shared);
        let may_announce = || self.grant.permits(Action::Administer, None);
        match asked {
            Ask::Hello { .. } => {
                return Err(goodbye(GoodbyeCode::Protocol, "hello was said before"));
            }
            Ask::Beat => {}
            Ask::Announce { node, topics_known } => {
                if !may_announce() {
                    let detail = "the permission is missing: administer on *";
                    return Err(goodbye(GoodbyeCode::Forbidden, detail));
                }
                let node =
                    node.node().map_err(|bad| goodbye(GoodbyeCode::Protocol, bad.to_string()))?;
                let topics = topics_known.then(Topics::new);
                self.announced = Some(node.id().clone());
                let half = self.open.half();
                self.announcing = Some(Announcing { node, topics, count: 0, half, beats: 0 });
            }
            Ask::Topics(part) => {
                let max =
                    shared.settings.registry.topics_max + shared.settings.registry.channels_max;
                let Some(Announcing { topics: Some(topics), count, half, beats, .. }) =
                    &mut self.announcing
                else {
                    return Err(goodbye(GoodbyeCode::Protocol, "topics of no announced node"));
                };
                let more = names(&part);
                *count += more;
                if *count > max {
                    let detail = format!("a node has {max} topics and channels at most");
                    return Err(goodbye(GoodbyeCode::Full, detail));
                }
                half.grow(more).map_err(|full| goodbye(GoodbyeCode::Full, full.to_string()))?;
                if is_good_part(&part) {
                    *beats = 0;
                }
                protocol::join(topics, part);
                // One that is known tells itself anew: no beats come between, however long that takes.
                shared.change(|registry, now| registry.hear(now, self.id));
            }
            Ask::Announced => {
                let Some(Announcing { node, topics, half, .. }) = self.announcing.take() else {
                    return Err(goodbye(GoodbyeCode::Protocol, "the end of no announcement"));
                };
                let node = match topics {
                    Some(topics) => node.with_topics(topics.into()),
                    None => node,
                };
                let (id, epoch) = (node.id().clone(), node.epoch());
                let sizes = sizes(&node);
                let taken = shared.change(|registry, now| registry.put(now, self.id, &node, sizes));
                drop(half);
                match taken {
                    Ok(()) => {
                        count(&shared.counts.announced);
                        info!(node = %id, %epoch, "announced");
                        mouth.say(&Say::Taken)?;
                    }
                    Err(error) => {
                        count(&shared.counts.not_taken);
                        warn!(node = %id, %epoch, %error, "not announced");
                        mouth.say(&not_taken(&error))?;
                    }
                }
            }
            Ask::Change { state, has, lacks } => {
                let mut topics = Topics::new();
                if has.iter().any(|topic| topic.adds) {
                    return Err(goodbye(GoodbyeCode::Protocol, "a changed topic in parts"));
                }
                protocol::join(&mut topics, has);
                let state = state.map(protocol::State::state);
                let change = NodeChange { state, has: topics.into_iter().collect(), lacks };
                match shared.change(|registry, now| registry.update(now, self.id, change)) {
                    Ok(()) => drop(count(&shared.counts.changes)),
                    Err(UpdateError::NotAnnounced(_)) => mouth.say(&Say::NotAnnounced)?,
                    Err(UpdateError::Announce(error)) => {
                        count(&shared.counts.not_taken);
                        mouth.say(&Say::NotChanged { detail: error.to_string() })?;
                    }
                }
            }
            Ask::Heartbeat { load } => {
                let heard =
                    shared.change(|registry, now| registry.heartbeat(now, self.id, Load(load)));
                match heard {
                    Ok(()) => drop(count(&shared.counts.heartbeats)),
                    Err(_) => mouth.say(&Say::NotAnnounced)?,
                }
            }
            Ask::Withdraw => {
                let withdrawn = shared.change(|registry, now| registry.withdraw(now, self.id));
                mouth.say(&if withdrawn.is_ok() { Say::Taken } else { Say::NotAnnounced })?;
            }
            Ask::Watch { watch, interest } => self.watch(watch, interest, mouth)?,
            Ask::Unwatch { watch } => {
                self.unwatch(watch);
            }
        }
        Ok(())
    }

    fn watch(&mut self, watch: u32, interest: Interest, mouth: &mut Mouth) -> Result<(), End> {
        self.unused = self.unused.max(u64::from(watch) + 1);
        let permitted = match &interest {
            // Where to bring messages is to be known by whoever may do anything with any.
            Interest::Nodes | Interest::Mesh(_) => {
                let Permissions { publish, consume, administer } = self.grant.permissions();
                let some = [publish, consume, administer].iter().any(|those| !those.is_empty());
                some && !self.grant.is_revoked()
            }
            Interest::Topic(topic) => {
                !self.grant.is_revoked() && self.grant.permissions().see(topic)
            }
            Interest::Everything => self.grant.permits(Action::Administer, None),
        };
        let max = self.shared.settings.watches_max;
        let refused = if !permitted {
            let detail = format!("the permission is missing to know of {interest}");
            Some((GoodbyeCode::Forbidden, detail))
        } else if self.watches.len() >= max && !self.watches.contains_key(&watch) {
            Some((GoodbyeCode::Full, format!("a connection may have {max} watches")))
        } else if let Err(full) = self.place(watch) {
            Some((GoodbyeCode::Full, full.to_string()))
        } else {
            let name = self.shared.name();
            let id = *self.watches.entry(watch).or_insert(WatcherId(name));
            self.shared.wake.add(id, watch, &self.news);
            let watched = self.shared.registry.lock().watch(id, interest);
            watched.err().map(|error| {
                self.unwatch(watch);
                (GoodbyeCode::Full, error.to_string())
            })
        };
        match refused {
            None => drop(self.owed.insert(watch)),
            Some((code, detail)) => mouth.say(&Say::NotWatched { watch, code, detail })?,
        }
        Ok(())
    }
}

impl Session<'_> {
    /// A place for a watch, which one that is there has.
    fn place(&self, watch: u32) -> Result<(), NoPlace> {
        if self.watches.contains_key(&watch) { Ok(()) } else { self.open.watch() }
    }

    fn unwatch(&mut self, watch: u32) {
        if let Some(id) = self.watches.remove(&watch) {
            self.shared.wake.remove([&id]);
            self.shared.registry.lock().unwatch(id);
            self.open.unwatch();
        }
    }
}

/// What may wait to be sent; a node with many topics goes beyond it.
const UNSENT_BYTES_MAX: usize = 256 << 10;
/// Nodes that a watcher is told of before the lock is given back.
const TOLD_AT_ONCE: usize = 16;
/// A hello has a token of 1,024 bytes at most.
const HELLO_BYTES_MAX: usize = 4 << 10;
