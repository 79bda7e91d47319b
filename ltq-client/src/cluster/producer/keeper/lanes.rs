//! The producers on the nodes: opened where they are wanted, at rest where they are of no use, ended where
//! nothing is to be hoped for.

use std::{sync::Arc, time::Duration};

use ltq_discovery::{NodeId, NodeInfo};
use tokio::time::Instant;
use tracing::info;

use super::{
    super::{Failover, behalf::Behalf},
    Keeper, Next, contacts,
    view::View,
};
use crate::{
    Availability,
    cluster::{
        NodeNotUsed,
        choice::{Contact, Standing},
    },
    connection::deadline,
    producer::{Lending, Lent},
};

/// A producer on a node.
pub(super) struct Lane {
    pub(super) number: u64,
    pub(super) lent: Arc<Lent>,
    pub(super) since: Instant,
    pub(super) is_open: bool,
    pub(super) is_resting: bool,
    /// By which client it goes. One that the node has no more is another's.
    pub(super) client: u64,
}

impl Lane {
    /// Whether it may be given messages.
    pub(super) const fn is_working(&self) -> bool {
        self.is_open && !self.is_resting
    }

    /// Whether its node has answered nothing of what it has for too long.
    pub(super) fn is_silent(&self) -> bool {
        self.lent.is_silent()
    }
}

impl Keeper {
    /// Lets those rest that are of no use, wakes those that are, and ends those of which nothing is to
    /// be hoped for.
    pub(super) fn tend_lanes(&mut self, view: &View, now: Instant, next: &mut Next) {
        self.note_trouble(view, now);
        let opening = self.lanes.values().filter(|lane| !lane.is_open).map(|lane| lane.since);
        for since in self.trouble.values().copied().chain(opening) {
            let due = deadline(since, self.shared.failover_after);
            if due > now {
                next.at(due);
            }
        }
        for (id, lane) in &mut self.lanes {
            let is_usable = lane.is_open
                && view.standing(id).is_some_and(|standing| !standing.is_out())
                && self.contacts.of_client(id, lane.client) == Contact::Up
                && self.contacts.is_current(id, lane.client, &self.members);
            if is_usable && lane.is_resting {
                lane.lent.wake();
                lane.is_resting = false;
            } else if lane.is_open && !is_usable {
                lane.is_resting = true;
                // What comes back from here on is told.
                lane.lent.behalf().set_attended(true);
                // Again each time: more may have come back.
                lane.lent.rest();
            }
        }
        let usable = self.lanes.values().filter(|lane| lane.is_working()).count();
        let mut over = Vec::new();
        for (id, lane) in &self.lanes {
            let is_there = view.nodes.get(id).is_some();
            let is_replaced = is_there && !self.contacts.is_current(id, lane.client, &self.members);
            if lane.lent.is_over() || (is_replaced && !lane.is_open) {
                over.push(id.clone());
                continue;
            }
            if !lane.is_resting {
                continue;
            }
            let is_left = matches!(
                view.standing(id),
                Some(Standing::Out(
                    NodeNotUsed::Draining | NodeNotUsed::SameAs(_) | NodeNotUsed::LeftOut
                ))
            );
            if is_left && lane.lent.pending() == 0 {
                over.push(id.clone());
                continue;
            }
            let Some(since) = self.trouble.get(id) else { continue };
            let is_gone = !is_there || is_replaced;
            let is_down = self.contacts.of_client(id, lane.client) == Contact::Down;
            // A silent one may still answer what nobody waits for any more.
            let is_owed = lane.is_silent() && lane.lent.is_anything_sent();
            let is_idle = lane.lent.pending() == 0 && !is_owed;
            let is_given_up = is_idle
                || match (self.shared.ordered, self.shared.failover) {
                    // The same node later keeps a repeat from being one.
                    (None, Failover::AtLeastOnce) => usable > 0 || is_replaced,
                    // It comes back at another address, and not to this client.
                    (None, Failover::SameNode) => is_replaced && is_down,
                    (Some(Availability::Move), _) => true,
                    (Some(Availability::Fail), _) => is_gone,
                };
            let is_now = is_gone && (is_down || is_idle);
            let due = if is_now { now } else { deadline(*since, self.shared.failover_after) };
            if is_given_up && due <= now {
                over.push(id.clone());
            }
        }
        for id in over {
            if let Some(lane) = self.lanes.remove(&id) {
                if lane.is_silent() {
                    self.silent.insert(id.clone());
                }
                if lane.lent.pending() > 0 {
                    info!(node = %id, topic = %self.shared.settings.topic, "given up; going on elsewhere");
                    lane.lent.abandon();
                }
                if view.nodes.get(&id).is_some()
                    && !self.contacts.is_current(&id, lane.client, &self.members)
                {
                    // That was where it is no more.
                    self.trouble.remove(&id);
                }
                // One that has nothing is closed at its broker as it is dropped.
            }
        }
        let (contacts, lanes) = (&mut self.contacts, &self.lanes);
        contacts.leave(|id| view.is_left_out(id) && !lanes.contains_key(id));
    }

    fn note_trouble(&mut self, view: &View, now: Instant) {
        let mut seen: Vec<_> = view.standings.keys().cloned().collect();
        let held = self.lanes.keys().chain(&view.lost);
        seen.extend(held.filter(|id| view.nodes.get(id).is_none()).cloned());
        for id in seen {
            let is_current = self
                .lanes
                .get(&id)
                .is_none_or(|lane| self.contacts.is_current(&id, lane.client, &self.members));
            let is_well = match view.standing(&id) {
                None => false,
                Some(Standing::Good | Standing::Suspected) => is_current,
                // What it was given it answers all the same.
                Some(Standing::Out(
                    NodeNotUsed::Draining
                    | NodeNotUsed::PassedOver(_)
                    | NodeNotUsed::SameAs(_)
                    | NodeNotUsed::LeftOut,
                )) => is_current && self.contacts.of(&id) != Contact::Down,
                Some(Standing::Out(NodeNotUsed::NotConnected)) => {
                    is_current && self.contacts.of(&id) == Contact::Leaving
                }
                Some(Standing::Out(_)) => false,
            };
            let opens_late = self.lanes.get(&id).is_some_and(|lane| {
                !lane.is_open && deadline(lane.since, self.shared.failover_after) <= now
            });
            // Whatever else it is: what it has it does not answer.
            let is_silent = self.lanes.get(&id).is_some_and(Lane::is_silent);
            if !is_well || is_silent {
                self.trouble.entry(id).or_insert(now);
            } else if opens_late {
                let since = self.lanes.get(&id).map_or(now, |lane| lane.since);
                self.trouble.entry(id).or_insert(since);
            } else {
                self.trouble.remove(&id);
            }
        }
    }

    /// Opens producers on the nodes that were chosen; where no node can take what waits, on more and
    /// more of them, a few at a time.
    pub(super) fn open_lanes(&mut self, view: &View, now: Instant, next: &mut Next) {
        let wanted = self.shared.router.lock().wanted();
        let wanted = wanted.into_iter().filter(|id| {
            let standing = view.standing(id);
            standing.is_some_and(|standing| !standing.is_out())
        });
        // Whether they speak again shows when they open one.
        let wanted: Vec<_> = wanted.chain(self.silent.iter().cloned()).collect();
        self.open_all(wanted, now);
        if self.lanes.values().any(Lane::is_working) {
            return;
        }
        let is_waiting = self.shared.router.lock().is_anything_waiting();
        let is_stuck = self.lanes.values().any(|lane| lane.is_resting && lane.lent.pending() > 0);
        if !is_waiting && !is_stuck && self.first.is_none() {
            return;
        }
        let patience = |lane: &Lane| deadline(lane.since, STAGGER);
        let young = self.lanes.iter().filter(|(id, lane)| {
            // One that cannot be connected to has had its chance.
            let is_down = self.contacts.of_client(id, lane.client) == Contact::Down;
            !lane.is_open && !is_down && patience(lane) > now
        });
        let young: Vec<_> = young.map(|(_, lane)| patience(lane)).collect();
        // The more have been asked in vain the more are asked at once, so that all are in good time.
        let of_no_use = view.standings.values().filter(|standing| {
            matches!(
                standing,
                Standing::Out(
                    NodeNotUsed::NotConnected | NodeNotUsed::PassedOver(_) | NodeNotUsed::Silent
                )
            )
        });
        let young_max = (of_no_use.count() / 4).clamp(YOUNG_MIN, YOUNG_MAX);
        let mut places = young_max.saturating_sub(young.len());
        let unopened = self.candidates(view).map(NodeInfo::id).cloned();
        let unopened = unopened.filter(|id| !self.lanes.contains_key(id));
        // Those that others are connected to answer at once.
        let (mut up, mut others): (Vec<_>, Vec<_>) =
            unopened.partition(|id| contacts::is_up(id, &self.members));
        let mut chosen = Vec::new();
        while places > 0 {
            let from = if up.is_empty() { &mut others } else { &mut up };
            if from.is_empty() {
                break;
            }
            let random = self.shared.entropy.next() as usize % from.len();
            chosen.push(from.swap_remove(random));
            places -= 1;
        }
        self.open_all(chosen, now);
        if !up.is_empty() || !others.is_empty() {
            young.into_iter().min().into_iter().for_each(|at| next.at(at));
            next.at(deadline(now, STAGGER));
        }
    }

    /// Opens producers on those of the nodes that have none and are no other that is in use.
    fn open_all(&mut self, mut ids: Vec<NodeId>, now: Instant) {
        ids.retain(|id| !self.lanes.contains_key(id));
        if ids.is_empty() || self.shared.router.lock().ended.is_some() {
            return;
        }
        let nodes = self.members.nodes();
        let mut places = self.places(&nodes);
        let members = self.members.clone();
        for id in ids {
            let broker = || contacts::broker(&id, &members);
            let node = nodes.get(&id);
            if node.and_then(|node| places.same(node, broker)).is_none() {
                self.open(&id, now);
                node.into_iter().for_each(|node| places.add(node, broker()));
            }
        }
    }

    fn open(&mut self, id: &NodeId, now: Instant) {
        if self.lanes.contains_key(id) {
            return;
        }
        let Some((client, number)) = self.contacts.client(id, &self.members) else { return };
        let counts = self.shared.counts.lock().of(id);
        let behalf = Behalf::new(id.clone(), &self.shared, self.shared.elsewhere(), counts);
        let settings = self.shared.settings.clone();
        let lending = Lending { settings, rooms: self.shared.rooms.clone(), behalf };
        let (lent, opened) = Lent::open(&client, lending);
        self.made += 1;
        let made = self.made;
        let of = id.clone();
        self.openings.push(Box::pin(async move { (of, made, opened.await) }));
        let lane = Lane {
            number: made,
            lent: Arc::new(lent),
            since: now,
            is_open: false,
            is_resting: false,
            client: number,
        };
        self.lanes.insert(id.clone(), lane);
    }
}

/// How long a node may take to open a producer before the next one is asked as well.
const STAGGER: Duration = Duration::from_millis(250);
/// How many are asked at once, at first and at most.
const YOUNG_MIN: usize = 2;
const YOUNG_MAX: usize = 32;
