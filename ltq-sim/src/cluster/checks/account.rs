//! What became of every message, on which node, and what everybody saw.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ltq_core::{Durability, Offset};

use crate::{
    body::Body,
    cluster::{
        Mode,
        history::{Place, Scene, Sight},
    },
    history::{Event, What},
};

/// All of it.
#[derive(Default)]
pub(super) struct Account<'a> {
    pub(super) messages: BTreeMap<Body, Message<'a>>,
    /// The producers that were opened, by their numbers: when, and in which mode.
    pub(super) lives: BTreeMap<u64, (Duration, Mode)>,
    /// The channels that somebody consumes.
    pub(super) consumed: BTreeSet<(usize, usize)>,
    /// What came, and what nobody published, in order.
    pub(super) taken: Vec<(Duration, &'a Place, Body)>,
    pub(super) acks: BTreeSet<&'a Place>,
    pub(super) unreadable: Vec<&'a str>,
    /// When each node lost its power.
    power_cuts: BTreeMap<&'a str, Vec<Duration>>,
    pub(super) watches: BTreeMap<u64, Watch<'a>>,
    /// Since when nothing is wrong, until when, and which nodes there are.
    pub(super) calms: Vec<Calm<'a>>,
    /// From when until when there was no registry.
    pub(super) alone: Vec<(Duration, Duration)>,
    /// Which node was gone from when until when.
    pub(super) struck: Vec<(&'a str, Duration, Duration)>,
    pub(super) has: Vec<Has<'a>>,
    /// From when until when each host's process stood still.
    standstills: BTreeMap<&'a str, Vec<(Duration, Duration)>>,
    /// Who posed as which node: by a host's name, and whether registries had to believe it.
    pub(super) strangers: BTreeMap<&'a str, (&'a str, bool)>,
    /// Whose disk lost what was not synced, since it was started.
    lost: BTreeSet<&'a str>,
    /// When each program crashed.
    crashes: BTreeMap<&'a str, Vec<Duration>>,
    /// When the last thing happened.
    pub(super) end: Duration,
    /// Whether everything was delivered.
    pub(super) is_over: bool,
}

/// A message.
pub(super) struct Message<'a> {
    pub(super) who: &'a str,
    pub(super) life: u64,
    pub(super) mode: Mode,
    pub(super) topic: usize,
    pub(super) key: u64,
    pub(super) durability: Durability,
    pub(super) handed: Duration,
    pub(super) within: Duration,
    /// What its publisher was told, and when.
    pub(super) told: Option<(Duration, Told<'a>)>,
    /// Where it is, as consumers found it or its receipt says.
    pub(super) places: BTreeSet<(&'a str, Offset)>,
    /// By which channels of which nodes it came, and when for the first time.
    pub(super) taken: BTreeMap<(&'a str, usize), Duration>,
}

/// What a publisher was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told<'a> {
    Stored { node: &'a str, offset: Option<Offset>, durability: Durability },
    NotStored { is_move: bool },
    Maybe,
}

/// Who watches.
#[derive(Default)]
pub(super) struct Watch<'a> {
    pub(super) who: &'a str,
    pub(super) told: Vec<(Duration, &'a [Sight])>,
    pub(super) ended: Option<Duration>,
}

impl<'a> Watch<'a> {
    /// What was told last at that moment, if it was there then.
    pub(super) fn at(&self, at: Duration) -> Option<&'a [Sight]> {
        if self.ended.is_some_and(|ended| ended <= at) {
            return None;
        }
        self.told.iter().rev().find(|told| told.0 <= at).map(|told| told.1)
    }

    /// What was told in between, and what held at its beginning.
    pub(super) fn between(
        &self,
        from: Duration,
        until: Duration,
    ) -> impl Iterator<Item = (Duration, &'a [Sight])> {
        let later = self.told.iter().filter(move |told| from < told.0 && told.0 < until);
        self.at(from).map(|sights| (from, sights)).into_iter().chain(later.copied())
    }
}

/// A time in which nothing is wrong.
pub(super) struct Calm<'a> {
    pub(super) from: Duration,
    pub(super) until: Duration,
    pub(super) nodes: &'a [String],
}

/// What a node has of a topic in the end.
pub(super) struct Has<'a> {
    pub(super) node: &'a str,
    pub(super) topic: usize,
    pub(super) end: Offset,
    pub(super) acked: &'a [(usize, u64)],
}

impl<'a> Account<'a> {
    pub(super) fn of(events: &'a [Event]) -> Self {
        let mut account = Self::default();
        for event in events {
            account.end = event.at;
            match &event.what {
                What::Cluster(scene) => account.takes(event, scene),
                What::Killed { power: true } => {
                    account.power_cuts.entry(&event.who).or_default().push(event.at);
                }
                // What it was to have synced may be gone, at once or for whoever starts there next.
                What::DiskFailed { lost: true, .. } => {
                    account.power_cuts.entry(&event.who).or_default().push(event.at);
                    account.lost.insert(&event.who);
                }
                What::Started => drop(account.lost.remove(event.who.as_str())),
                What::Killed { .. } | What::Stopped(_) if account.lost.contains(&*event.who) => {
                    account.power_cuts.entry(&event.who).or_default().push(event.at);
                }
                What::Crashed => account.crashes.entry(&event.who).or_default().push(event.at),
                _ => {}
            }
        }
        account
    }

    fn takes(&mut self, event: &'a Event, scene: &'a Scene) {
        let at = event.at;
        match scene {
            Scene::Opened { life, mode, .. } => {
                self.lives.insert(*life, (at, *mode));
            }
            Scene::Handed { life, topic, body, key, durability, within } => {
                let mode = self.lives.get(life).map_or(Mode::Available, |life| life.1);
                let message = Message {
                    who: &event.who,
                    life: *life,
                    mode,
                    topic: *topic,
                    key: *key,
                    durability: *durability,
                    handed: at,
                    within: *within,
                    told: None,
                    places: BTreeSet::new(),
                    taken: BTreeMap::new(),
                };
                self.messages.insert(*body, message);
            }
            Scene::Stored { body, node, offset, durability } => {
                let told = Told::Stored { node, offset: *offset, durability: *durability };
                self.told(at, *body, told);
                if let (Some(message), Some(offset)) = (self.messages.get_mut(body), offset) {
                    message.places.insert((node, *offset));
                }
            }
            Scene::NotStored { body, is_move, .. } => {
                self.told(at, *body, Told::NotStored { is_move: *is_move });
            }
            Scene::MaybeStored { body, .. } => self.told(at, *body, Told::Maybe),
            Scene::Consumes { topic, channel } => {
                self.consumed.insert((*topic, *channel));
            }
            Scene::Taken(place, body) => {
                self.taken.push((at, place, *body));
                if let Some(message) = self.messages.get_mut(body) {
                    message.places.insert((&place.node, place.offset));
                    message.taken.entry((&place.node, place.channel)).or_insert(at);
                }
            }
            Scene::Acks(place) => {
                self.acks.insert(place);
            }
            Scene::Unreadable(what) => self.unreadable.push(what),
            Scene::Sees { watch, nodes } => {
                let watch = self.watches.entry(*watch).or_default();
                watch.who = &event.who;
                watch.told.push((at, nodes));
            }
            Scene::Blind { watch } => {
                self.watches.entry(*watch).or_default().ended = Some(at);
            }
            Scene::Calm { nodes } => {
                self.calms.push(Calm { from: at, until: Duration::MAX, nodes });
            }
            Scene::RegistriesGone => {
                self.is_disturbed(at);
                self.alone.push((at, Duration::MAX));
            }
            Scene::RegistriesBack => {
                self.alone.last_mut().into_iter().for_each(|alone| alone.1 = at);
            }
            Scene::Struck { node } => {
                self.is_disturbed(at);
                self.struck.push((node, at, Duration::MAX));
            }
            Scene::Recovers => {
                self.struck.last_mut().into_iter().for_each(|struck| struck.2 = at);
            }
            Scene::StandsStill => {
                self.standstills.entry(&event.who).or_default().push((at, Duration::MAX));
            }
            Scene::GoesOn => {
                let of = self.standstills.get_mut(event.who.as_str());
                of.and_then(|of| of.last_mut()).into_iter().for_each(|last| last.1 = at);
            }
            Scene::Poses { node, is_let_in } => {
                self.strangers.insert(&event.who, (node, *is_let_in));
            }
            Scene::Left { .. } => {}
            Scene::Has { node, topic, end, acked } => {
                self.is_disturbed(at);
                self.is_over = true;
                self.has.push(Has { node, topic: *topic, end: *end, acked });
            }
        }
    }

    fn told(&mut self, at: Duration, body: Body, told: Told<'a>) {
        if let Some(message) = self.messages.get_mut(&body) {
            message.told.get_or_insert((at, told));
        }
    }

    /// The calm is over, if there is one.
    fn is_disturbed(&mut self, at: Duration) {
        if let Some(calm) = self.calms.last_mut() {
            calm.until = calm.until.min(at);
        }
    }

    /// Whether a node that has a message, this durable, may have lost it.
    pub(super) fn may_lose(&self, node: &str, since: Duration, durability: Durability) -> bool {
        let cuts = self.power_cuts.get(node).into_iter().flatten();
        durability < Durability::Disk && cuts.into_iter().any(|at| *at >= since)
    }

    /// Whether a node ever lost what was not durable.
    pub(super) fn had_power_cut(&self, node: &str) -> bool {
        self.power_cuts.contains_key(node)
    }

    /// Whether a program crashed after that.
    pub(super) fn crashed_after(&self, who: &str, at: Duration) -> bool {
        self.crashes.get(who).is_some_and(|crashes| crashes.iter().any(|crash| *crash >= at))
    }

    /// When a program could do by itself what was due then: later if it stood still.
    pub(super) fn could_by(&self, who: &str, due: Duration) -> Duration {
        let all = self.standstills.get(who).into_iter().flatten();
        all.fold(due, |due, &(from, until)| if from <= due { due.max(until) } else { due })
    }

    /// The channels of a topic that somebody consumes.
    pub(super) fn channels(&self, topic: usize) -> impl Iterator<Item = usize> {
        self.consumed.iter().filter(move |of| of.0 == topic).map(|of| of.1)
    }
}
