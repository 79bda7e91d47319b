//! The rules of the registry.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use ltq_core::Monotonic;

use super::{
    change::{Difference, NodeChange},
    loads::{LOADS_TOLD_MAX, LOOKS_FOR_ONE, LoadNews},
    pace::{Paces, Whom},
    refused::{AnnounceError, NotAnnounced, TooManyWatchers, UpdateError},
    settings::{RegistrySettings, RegistrySettingsError},
    watchers::{Told, WatcherId, Watchers},
};
use crate::{
    Interest, Load, NodeId, NodeInfo,
    withdrawals::{WITHDRAWALS_MAX, Withdrawals},
};

/// By which connection something is said: whatever number tells it from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// How much a registry knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegistryCounts {
    /// Nodes.
    pub nodes: usize,
    /// Of those, which missed beats.
    pub suspected: usize,
    /// Topics, each counted at each of its nodes.
    pub topics: usize,
    /// Channels, counted the same.
    pub channels: usize,
    /// Those who are told of changes.
    pub watchers: usize,
}

#[derive(Debug)]
struct Entry {
    /// With the load that watchers know.
    node: NodeInfo,
    /// Its topics and channels.
    sizes: (usize, usize),
    /// The load that it told last.
    load: Load,
    /// `None` once the connection is gone.
    session: Option<SessionId>,
    heard: Monotonic,
    /// When it is suspected, or if it is, forgotten.
    deadline: Monotonic,
}

/// The registry's rules: who announced what, who is to be told, and what time makes of it.
///
/// Time is an argument and never goes back. Nothing blocks, and nothing fails but what the peer asked.
#[derive(Debug)]
pub struct Registry {
    settings: RegistrySettings,
    nodes: BTreeMap<NodeId, Entry>,
    /// Nodes that are not among them because they said so.
    withdrawn: Withdrawals,
    by_session: BTreeMap<SessionId, NodeId>,
    deadlines: BTreeSet<(Monotonic, NodeId)>,
    watchers: Watchers,
    loads: LoadNews,
    paces: Paces,
    topics: usize,
    channels: usize,
    /// What the last call took out: to free the topics of a node may take long.
    gone: Vec<NodeInfo>,
}

impl Registry {
    /// An empty one.
    ///
    /// # Errors
    /// A setting that is out of its bounds.
    pub fn new(settings: RegistrySettings) -> Result<Self, RegistrySettingsError> {
        settings.check()?;
        Ok(Self {
            settings,
            nodes: BTreeMap::new(),
            withdrawn: Withdrawals::new(WITHDRAWALS_MAX),
            by_session: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            watchers: Watchers::default(),
            loads: LoadNews::default(),
            paces: Paces::default(),
            topics: 0,
            channels: 0,
            gone: Vec::new(),
        })
    }

    /// What is set.
    #[must_use]
    pub const fn settings(&self) -> &RegistrySettings {
        &self.settings
    }

    /// The nodes, in the order of their ids.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().map(|entry| &entry.node)
    }

    /// How much it knows.
    #[must_use]
    pub fn counts(&self) -> RegistryCounts {
        RegistryCounts {
            nodes: self.nodes.len(),
            suspected: self.nodes().filter(|node| node.is_suspected()).count(),
            topics: self.topics,
            channels: self.channels,
            watchers: self.watchers.len(),
        }
    }

    /// How many watch.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.watchers.len()
    }

    /// A node is there, and is all that `node` says. Takes the place of what this connection said
    /// before, of an earlier run under the same id, and of any run that is not heard of any more.
    ///
    /// # Errors
    /// [`AnnounceError`]; nothing is changed then.
    pub fn announce(
        &mut self,
        now: Monotonic,
        from: SessionId,
        node: &NodeInfo,
    ) -> Result<(), AnnounceError> {
        self.put(now, from, node, sizes(node))
    }

    /// The same, where its topics and channels are counted already and the description is freed by the caller:
    /// what that takes grows with the topics, and this does only with those that somebody watches.
    pub(super) fn put(
        &mut self,
        now: Monotonic,
        from: SessionId,
        node: &NodeInfo,
        after: (usize, usize),
    ) -> Result<(), AnnounceError> {
        self.gone.clear();
        let known = self.nodes.get(node.id());
        if let Some(Entry { node: known, .. }) = known
            && known.epoch() > node.epoch()
            && !known.is_suspected()
        {
            return Err(AnnounceError::Superseded {
                node: node.id().clone(),
                epoch: node.epoch(),
                known: known.epoch(),
            });
        }
        let nodes = self.nodes.len() + usize::from(known.is_none());
        let before = known.map(|entry| entry.sizes).unwrap_or_default();
        let (topics, channels) =
            (self.topics - before.0 + after.0, self.channels - before.1 + after.1);
        let RegistrySettings { nodes_max, topics_max, channels_max, .. } = self.settings;
        let counts = [
            ("nodes", nodes, nodes_max),
            ("topics at nodes", topics, topics_max),
            ("channels at nodes", channels, channels_max),
        ];
        if let Some((what, count, max)) = counts.into_iter().find(|(_, count, max)| count > max) {
            return Err(AnnounceError::TooMany { node: node.id().clone(), what, count, max });
        }
        // What this connection announced under another id it has not any more.
        let other = self.by_session.get(&from).filter(|id| *id != node.id()).cloned();
        if let Some(other) = other {
            self.remove_withdrawn(now, &other);
        }
        let id = node.id().clone();
        let before = self.take_out(&id);
        let node = node.clone().with_suspicion(false);
        let whom = self.whom_of(before.as_ref());
        self.gone.extend(before);
        (self.topics, self.channels) = (self.topics + after.0, self.channels + after.1);
        let deadline = now.plus(self.settings.suspected_behind());
        self.by_session.insert(from, id.clone());
        self.deadlines.insert((deadline, id.clone()));
        let (session, load) = (Some(from), node.load());
        let entry = Entry { node, sizes: after, load, session, heard: now, deadline };
        self.nodes.insert(id.clone(), entry);
        self.withdrawn.remove(&id);
        self.tell(now, &id, whom);
        Ok(())
    }

    /// The node that this connection announced is there still. What it costs does not grow with its
    /// topics, but where it was suspected. A load that watchers have to know is told together with those of other
    /// nodes, every three seconds at most.
    ///
    /// # Errors
    /// [`NotAnnounced`].
    pub fn heartbeat(
        &mut self,
        now: Monotonic,
        from: SessionId,
        load: Load,
    ) -> Result<(), NotAnnounced> {
        let id = self.by_session.get(&from).ok_or(NotAnnounced)?.clone();
        let behind = self.settings.suspected_behind();
        let Some(entry) = self.nodes.get_mut(&id) else { return Err(NotAnnounced) };
        self.deadlines.remove(&(entry.deadline, id.clone()));
        (entry.heard, entry.deadline) = (now, now.plus(behind));
        self.deadlines.insert((entry.deadline, id.clone()));
        entry.load = load;
        if entry.node.is_suspected() {
            entry.node.set_suspicion(false);
            entry.node.set_load(load);
            self.loads.forget(&id);
            self.tell(now, &id, Whom::all());
        } else if entry.node.load().is_old_beside(load) {
            self.loads.wait(&id);
        }
        self.tell_loads(now);
        Ok(())
    }

    /// A connection says something else: the node that it announced, if any, is there still.
    pub(super) fn hear(&mut self, now: Monotonic, from: SessionId) {
        let entry = self.by_session.get(&from).and_then(|id| self.nodes.get(id));
        if let Some(load) = entry.map(|entry| entry.load) {
            // It is announced, as was just seen.
            let _ = self.heartbeat(now, from, load);
        }
    }

    /// The node that this connection announced is different in this.
    ///
    /// # Errors
    /// [`NotAnnounced`]; [`AnnounceError::TooMany`] where it has too much by now. Nothing is changed then.
    pub fn update(
        &mut self,
        now: Monotonic,
        from: SessionId,
        change: NodeChange,
    ) -> Result<(), UpdateError> {
        let id = self.by_session.get(&from).ok_or(NotAnnounced)?.clone();
        let Some(entry) = self.nodes.get_mut(&id) else { return Err(NotAnnounced.into()) };
        let state = change.state;
        let Difference { went, came } = change.against(&entry.node);
        let topics = self.topics - went.len() + came.len();
        let channels = self.channels - went.values().sum::<usize>()
            + came.values().map(BTreeSet::len).sum::<usize>();
        let RegistrySettings { topics_max, channels_max, .. } = self.settings;
        let counts = [
            ("topics at nodes", topics, topics_max),
            ("channels at nodes", channels, channels_max),
        ];
        if let Some((what, count, max)) = counts.into_iter().find(|(_, count, max)| count > max) {
            return Err(AnnounceError::TooMany { node: id, what, count, max }.into());
        }
        entry.sizes.0 = entry.sizes.0 + topics - self.topics;
        entry.sizes.1 = entry.sizes.1 + channels - self.channels;
        (self.topics, self.channels) = (topics, channels);
        let is_state_new = state.is_some_and(|state| state != entry.node.state());
        if let Some(state) = state {
            entry.node.set_state(state);
        }
        let was_unknown = entry.node.topics().is_none() && !came.is_empty();
        went.keys().for_each(|topic| entry.node.remove_topic(topic));
        let different = went.keys().chain(came.keys());
        let whom = Whom {
            all_nodes: is_state_new,
            everything: was_unknown || went.len() + came.len() > 0,
            // It might have had any topic, and has these.
            any_topic: was_unknown,
            its_topics: is_state_new && !was_unknown,
            topics: different.filter(|topic| self.watchers.is_watched(topic)).cloned().collect(),
        };
        if !came.is_empty() {
            entry.node.add_topics(came);
        }
        self.tell(now, &id, whom);
        Ok(())
    }

    /// The node that this connection announced is no more.
    ///
    /// # Errors
    /// [`NotAnnounced`]: there is nothing to be withdrawn.
    pub fn withdraw(&mut self, now: Monotonic, from: SessionId) -> Result<(), NotAnnounced> {
        self.gone.clear();
        let id = self.by_session.get(&from).ok_or(NotAnnounced)?.clone();
        self.remove_withdrawn(now, &id);
        Ok(())
    }

    /// The connection is gone without a word. The node may be there: it is suspected, until it comes
    /// back or is forgotten.
    pub fn session_ended(&mut self, now: Monotonic, from: SessionId) {
        let Some(id) = self.by_session.remove(&from) else { return };
        if let Some(entry) = self.nodes.get_mut(&id) {
            entry.session = None;
        }
        self.suspect(now, &id);
    }

    /// What is due by now happens. Returns who is forgotten by that, which its operator wants to know.
    pub fn tick(&mut self, now: Monotonic) -> Vec<NodeId> {
        self.gone.clear();
        let mut forgotten = Vec::new();
        while let Some((at, id)) = self.deadlines.first().cloned() {
            if at > now {
                break;
            }
            match self.nodes.get(&id).is_some_and(|entry| entry.node.is_suspected()) {
                true => {
                    self.remove(now, &id);
                    forgotten.push(id);
                }
                false => self.suspect(now, &id),
            }
        }
        while let Some((id, whom)) = self.paces.take_due(now) {
            self.tell_now(now, &id, &whom);
        }
        self.tell_loads(now);
        forgotten
    }

    /// Puts all deadlines off if one was passed by more than a heartbeat, and says by how much: nobody
    /// listened meanwhile (the process was stopped, say), so that no silence is any node's own. They have the
    /// time again that a node may take to beat. To be called before anything else when time has passed.
    pub fn catch_up(&mut self, now: Monotonic) -> Option<Duration> {
        let due = self.next_deadline()?;
        let late = Duration::from_micros(now.0.saturating_sub(due.0));
        if late <= self.settings.heartbeat {
            return None;
        }
        let more = late + self.settings.suspected_behind();
        self.deadlines.clear();
        for (id, entry) in &mut self.nodes {
            (entry.heard, entry.deadline) = (entry.heard.plus(more), entry.deadline.plus(more));
            self.deadlines.insert((entry.deadline, id.clone()));
        }
        Some(more)
    }

    /// When [`tick`](Self::tick) is to be called next, if nothing else happens.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Monotonic> {
        let all = [self.next_deadline(), self.loads.next_round(), self.paces.next_due()];
        all.into_iter().flatten().min()
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Somebody watches what is of this interest. Takes the place of what the same one watched before.
    ///
    /// # Errors
    /// [`TooManyWatchers`].
    pub fn watch(&mut self, who: WatcherId, interest: Interest) -> Result<(), TooManyWatchers> {
        let max = self.settings.watchers_max;
        if self.watchers.len() >= max && !self.watchers.has(who) {
            return Err(TooManyWatchers { max });
        }
        self.watchers.add(who, interest);
        Ok(())
    }

    /// How much there is to be looked at, and maybe told, when somebody begins to watch what is of this interest:
    /// nodes, those that were withdrawn, and topics and channels, where they are told.
    pub(super) fn to_be_looked_at(&self, interest: &Interest) -> usize {
        match interest {
            Interest::Topic(_) => self.nodes.len(),
            Interest::Nodes | Interest::Mesh(_) => self.nodes.len() + self.withdrawn.len(),
            Interest::Everything => {
                self.nodes.len() + self.withdrawn.len() + self.topics + self.channels
            }
        }
    }

    /// Somebody watches no more.
    pub fn unwatch(&mut self, who: WatcherId) {
        self.watchers.remove(who);
    }

    /// Those who have to be told something. Each is named once, and again when there is more after he
    /// was told all by [`tell_watcher`](Self::tell_watcher).
    #[must_use]
    pub fn take_ready(&mut self) -> BTreeSet<WatcherId> {
        self.watchers.take_ready()
    }

    /// What a watcher is to be told next, of `most` nodes or, when his watching begins, of twice as
    /// many. Nothing when he was told all.
    #[must_use]
    pub fn tell_watcher(&mut self, who: WatcherId, most: usize) -> Vec<Told> {
        let (nodes, withdrawn) = (&self.nodes, &self.withdrawn);
        let behind = |id: Option<&NodeId>| {
            let from = id.map_or(Bound::Unbounded, Bound::Excluded);
            nodes.range::<NodeId, _>((from, Bound::Unbounded)).map(|(_, entry)| &entry.node)
        };
        let node = |id: &NodeId| nodes.get(id).map(|entry| &entry.node);
        self.watchers.tell(who, most.max(1), node, behind, withdrawn)
    }

    /// The same, and whether he was told all by that.
    pub(super) fn tell_some(&mut self, who: WatcherId, most: usize) -> (Vec<Told>, bool) {
        let told = self.tell_watcher(who, most);
        (told, !self.watchers.is_owed(who))
    }

    /// What the last call took out, to be freed where nobody waits for it.
    pub(super) fn take_gone(&mut self) -> Vec<NodeInfo> {
        std::mem::take(&mut self.gone)
    }

    /// Tells loads, if it is time.
    fn tell_loads(&mut self, now: Monotonic) {
        if !self.loads.begin_round(now) {
            return;
        }
        let mut told = 0;
        while told < LOADS_TOLD_MAX
            && let Some(id) = self.loads.next()
        {
            let Some(entry) = self.nodes.get_mut(&id) else { continue };
            if !entry.node.load().is_old_beside(entry.load) {
                // It is as it was told last again.
                told += 1;
                continue;
            }
            entry.node.set_load(entry.load);
            told += 1 + self.owe(&id, &Whom::all());
        }
    }

    fn suspect(&mut self, now: Monotonic, id: &NodeId) {
        let more = self.settings.forgotten_behind();
        let Some(entry) = self.nodes.get_mut(id) else { return };
        self.deadlines.remove(&(entry.deadline, id.clone()));
        // One whose connection ended late in life has its time still.
        entry.deadline = entry.heard.plus(more).max(now.plus(Duration::from_micros(1)));
        self.deadlines.insert((entry.deadline, id.clone()));
        if !entry.node.is_suspected() {
            entry.node.set_suspicion(true);
            self.tell(now, id, Whom::all());
        }
    }

    /// A node is gone, and said so.
    fn remove_withdrawn(&mut self, now: Monotonic, id: &NodeId) {
        if let Some(entry) = self.nodes.get(id) {
            self.withdrawn.insert(id.clone(), entry.node.epoch(), 0);
        }
        self.remove(now, id);
    }

    fn remove(&mut self, now: Monotonic, id: &NodeId) {
        let before = self.take_out(id);
        let whom = self.whom_of(before.as_ref());
        self.gone.extend(before);
        self.tell(now, id, whom);
    }

    /// Takes a node out, and tells nobody.
    fn take_out(&mut self, id: &NodeId) -> Option<NodeInfo> {
        let Entry { node, sizes, session, deadline, .. } = self.nodes.remove(id)?;
        self.deadlines.remove(&(deadline, id.clone()));
        self.loads.forget(id);
        if let Some(session) = session {
            self.by_session.remove(&session);
        }
        (self.topics, self.channels) = (self.topics - sizes.0, self.channels - sizes.1);
        Some(node)
    }

    /// Who knows of a node that came, went, or is another: by what it was, and by what it is when they are told.
    fn whom_of(&self, before: Option<&NodeInfo>) -> Whom {
        let topics = before.map(NodeInfo::topics);
        Whom {
            any_topic: topics == Some(None),
            topics: topics.flatten().map(|it| self.watchers.watched_of(it)).unwrap_or_default(),
            ..Whom::all()
        }
    }

    /// There is something to be told of a node, at once or, where it is told of again and again, in a while.
    fn tell(&mut self, now: Monotonic, id: &NodeId, whom: Whom) {
        if let Some(whom) = self.paces.now_or_later(now, id, whom) {
            self.tell_now(now, id, &whom);
        }
    }

    fn tell_now(&mut self, now: Monotonic, id: &NodeId, whom: &Whom) {
        let count = self.owe(id, whom);
        self.paces.told(now, id, count);
    }

    /// They have to be told of a node. Returns how many those are, and with them what it takes to find them.
    fn owe(&mut self, id: &NodeId, whom: &Whom) -> usize {
        let mut count = 0;
        let topics =
            self.nodes.get(id).filter(|_| whom.its_topics).map(|entry| entry.node.topics());
        if let Some(topics) = topics.flatten() {
            count += self.watchers.looks(topics.len()) / LOOKS_FOR_ONE;
            let watched = self.watchers.watched_of(topics);
            count += watched.iter().map(|topic| self.watchers.changed_in(id, topic)).sum::<usize>();
        }
        if whom.any_topic || topics == Some(None) {
            count += self.watchers.changed_in_any(id);
        }
        count += whom.topics.iter().map(|it| self.watchers.changed_in(id, it)).sum::<usize>();
        count
            + match whom {
                Whom { all_nodes: true, .. } => self.watchers.changed(id),
                Whom { everything: true, .. } => self.watchers.changed_in_topics(id),
                _ => 0,
            }
    }
}

/// Topics and channels.
pub(super) fn sizes(node: &NodeInfo) -> (usize, usize) {
    let topics = node.topics().into_iter().flatten();
    topics.fold((0, 0), |(topics, channels), (_, of)| (topics + 1, channels + of.len()))
}

#[cfg(test)]
impl Registry {
    /// How soon nodes are told of.
    pub(super) fn paces(&mut self) -> &mut Paces {
        &mut self.paces
    }

    /// What is kept twice agrees.
    pub(super) fn assert_consistent(&self) {
        let all = self.nodes().map(sizes).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        assert_eq!((self.topics, self.channels), all);
        assert!(self.nodes.values().all(|entry| entry.sizes == sizes(&entry.node)));
        self.loads.assert_consistent();
        self.paces.assert_consistent();
        let deadlines = self.nodes.iter().map(|(id, entry)| (entry.deadline, id.clone()));
        assert_eq!(self.deadlines, deadlines.collect());
        let sessions =
            self.nodes.iter().filter_map(|(id, entry)| Some((entry.session?, id.clone())));
        assert_eq!(self.by_session, sessions.collect());
    }
}
