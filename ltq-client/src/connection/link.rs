//! A connection to a broker that has said its welcome: its streams, and whose turn it is.

mod placing;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ltq_core::{
    Address, Connection, Refusal, TopicName,
    protocol::{Frame, InstanceId, PeerLimits, Welcome},
};
use tokio::time::Instant;

use super::{
    Hub,
    lane::{First, Lane, Lost},
    place::LaneNumber,
    waking::{LaneWaker, Woken},
};
pub(super) use placing::LANES_MAX;
use placing::TopicLane;

/// A connection and its lanes. One that carries a single stream has one lane for everything; on
/// any other each subscription and each topic that is published to has a lane of its own, so that
/// what is lost or late on one does not hold up the others, and the first lane has the requests of
/// operators.
///
/// The loss of any lane is the loss of the connection: nobody has to know of lanes but this task.
pub(super) struct Link {
    /// Dropping it and its streams cuts it.
    connection: Arc<dyn Connection>,
    pub(super) address: Address,
    pub(super) node: String,
    pub(super) instance: InstanceId,
    /// Node and address: nodes that share a name share nothing else. Where all addresses are one
    /// node's, its name alone.
    pub(super) server: String,
    pub(super) up_since: Instant,
    /// By number. One whose turn it is, is taken out meanwhile.
    lanes: Vec<Option<Box<Lane>>>,
    /// Lanes that there are, and numbers that there are not.
    count: usize,
    free: Vec<LaneNumber>,
    lanes_max: usize,
    /// The lane of each topic that is published to.
    topics: BTreeMap<TopicName, TopicLane>,
    /// Lanes that have something to do, each once.
    due: VecDeque<LaneNumber>,
    /// Those that something has woken; nothing where there is only one.
    woken: Option<Arc<Woken>>,
    /// Lent to `woken`.
    taken: Vec<LaneNumber>,
    /// The broker said that it will end the connection soon, and when it said so.
    goodbye: Option<(Refusal, Instant)>,
    /// Whoever watches the connection was told so.
    goodbye_told: bool,
    /// No lane's timeout is earlier.
    next_timeout: Instant,
}

/// What a link is made of once the broker has welcomed the client.
pub(super) struct Welcomed {
    pub(super) connection: Box<dyn Connection>,
    pub(super) first: First,
    pub(super) address: Address,
    pub(super) welcome: Welcome,
}

impl Link {
    /// With at most `lanes_max` lanes, the first included.
    pub(super) fn new(from: Welcomed, hub: &Arc<Hub>, lanes_max: usize, now: Instant) -> Self {
        let Welcomed { connection, first, address, welcome } = from;
        let woken = connection.multiplexed().then(|| Arc::new(Woken::new(hub.clone())));
        let waker = woken.clone().map(|woken| LaneWaker::new(LaneNumber::FIRST, woken));
        let first = Box::new(Lane::first(first, &welcome, waker, now));
        let mut link = Self {
            connection: Arc::from(connection),
            server: match hub.config.is_one_node {
                true => welcome.node.clone(),
                false => format!("{} at {}", welcome.node, address),
            },
            address,
            node: welcome.node,
            instance: welcome.instance,
            up_since: now,
            next_timeout: first.next_timeout(),
            lanes: vec![Some(first)],
            count: 1,
            free: Vec::new(),
            lanes_max,
            topics: BTreeMap::new(),
            due: VecDeque::new(),
            woken,
            taken: Vec::new(),
            goodbye: None,
            goodbye_told: false,
        };
        link.touch(LaneNumber::FIRST);
        link
    }

    pub(super) fn lane(&mut self, number: LaneNumber) -> Option<&mut Lane> {
        self.lanes.get_mut(number.0 as usize)?.as_deref_mut()
    }

    fn lanes(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.lanes.iter_mut().filter_map(|lane| lane.as_deref_mut())
    }

    /// What the broker allowed on the first stream.
    pub(super) fn limits(&mut self) -> Option<PeerLimits> {
        self.lane(LaneNumber::FIRST).map(|lane| *lane.limits())
    }

    /// Writes a frame on a lane, which has its turn then.
    pub(super) fn write(&mut self, number: LaneNumber, frame: &Frame) {
        if let Some(lane) = self.lane(number) {
            lane.write(frame);
            self.touch(number);
        }
    }

    /// Lets a lane have its turn.
    pub(super) fn touch(&mut self, number: LaneNumber) {
        if let Some(lane) = self.lane(number)
            && !std::mem::replace(&mut lane.is_due, true)
        {
            self.due.push_back(number);
        }
    }

    /// How many lanes are to have their turn now. Those that become due meanwhile follow.
    pub(super) fn poll_due(&mut self) -> usize {
        match &self.woken {
            // Whatever wakes the task may be for the one lane.
            None => self.touch(LaneNumber::FIRST),
            Some(woken) => {
                let mut taken = std::mem::take(&mut self.taken);
                woken.take(&mut taken);
                taken.drain(..).for_each(|number| self.touch(number));
                self.taken = taken;
            }
        }
        self.due.len()
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Takes the next lane out whose turn it is.
    pub(super) fn take_due(&mut self) -> Option<Box<Lane>> {
        let number = self.due.pop_front()?;
        let mut lane = self.lanes.get_mut(number.0 as usize)?.take()?;
        lane.begin_turn();
        Some(lane)
    }

    /// Puts a lane back whose turn is over.
    pub(super) fn put(&mut self, lane: Box<Lane>) {
        self.next_timeout = self.next_timeout.min(lane.next_timeout());
        if let Some(place) = self.lanes.get_mut(lane.number.0 as usize) {
            *place = Some(lane);
        }
    }

    /// A lane that was taken out is of no use any more.
    ///
    /// # Errors
    /// With it the connection is; not where it was to end, as long as others go on.
    pub(super) fn handle_over(&mut self, lane: Box<Lane>, lost: Lost) -> Result<(), Lost> {
        let (number, was_to_end) = (lane.number, lane.is_finishing() || self.is_ending());
        drop(lane);
        self.count = self.count.saturating_sub(1);
        match (lost, self.goodbye.take()) {
            (Lost::Closed | Lost::Io(_) | Lost::Stream(_), goodbye)
                if was_to_end && self.count > 0 =>
            {
                self.goodbye = goodbye;
                self.free.push(number);
                Ok(())
            }
            (Lost::Closed, Some((refusal, _))) => Err(Lost::Goodbye(refusal)),
            (lost, goodbye) => {
                self.goodbye = goodbye;
                Err(lost)
            }
        }
    }

    /// The broker will end the connection soon: nothing new is begun on it, and what was begun may
    /// still be answered.
    pub(super) fn handle_goodbye(&mut self, refusal: Refusal, now: Instant) {
        let (_, said) = self.goodbye.get_or_insert((refusal, now));
        self.next_timeout = self.next_timeout.min(*said + GOODBYE_WAIT);
    }

    pub(super) const fn is_ending(&self) -> bool {
        self.goodbye.is_some()
    }

    /// Whether it is since the last time that the broker is about to end it.
    pub(super) const fn begins_to_end(&mut self) -> bool {
        self.goodbye.is_some() && !std::mem::replace(&mut self.goodbye_told, true)
    }

    /// Nothing more is sent, on no lane. Returns whether the broker was told that on all.
    pub(super) fn finish(&mut self, now: Instant) -> bool {
        let mut begun = Vec::new();
        let mut is_finished = true;
        for lane in self.lanes() {
            is_finished &= lane.is_finished();
            if !lane.is_finishing() {
                lane.finish(now);
                begun.push(lane.number);
            }
        }
        begun.into_iter().for_each(|number| self.touch(number));
        is_finished
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), at the latest.
    pub(super) const fn next_timeout(&self) -> Instant {
        self.next_timeout
    }

    /// Lets each lane do what it does because time passes.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        connect_timeout: Duration,
    ) -> Result<(), Lost> {
        if now < self.next_timeout {
            return Ok(());
        }
        let mut next = None;
        if let Some((refusal, said)) = &self.goodbye {
            let by = *said + GOODBYE_WAIT;
            if now >= by {
                return Err(Lost::Goodbye(refusal.clone()));
            }
            next = Some(by);
        }
        for index in 0..self.lanes.len() {
            let Some(place) = self.lanes.get_mut(index) else { continue };
            let Some(mut lane) = place.take() else { continue };
            match lane.handle_timeout(now, connect_timeout) {
                Ok(touched) => {
                    let (number, at) = (lane.number, lane.next_timeout());
                    next = Some(next.map_or(at, |next| at.min(next)));
                    self.put(lane);
                    if touched {
                        self.touch(number);
                    }
                }
                Err(lost) => self.handle_over(lane, lost)?,
            }
        }
        self.next_timeout = next.unwrap_or(now);
        Ok(())
    }

    /// Whether the broker is well and takes no further stream, as it seems, and how many it took.
    pub(super) fn lanes_taken(&mut self, lost: &Lost, now: Instant) -> Option<usize> {
        let is_well = match lost {
            Lost::Unanswered(after) => {
                let then = now.checked_sub(*after).unwrap_or(now);
                self.lanes().any(|lane| lane.was_heard_since(then))
            }
            Lost::Stream(ltq_core::TransportError::Closed) => true,
            _ => false,
        };
        is_well.then(|| self.lanes().filter(|lane| !lane.awaits_welcome()).count().max(1))
    }
}

/// How long a broker that said goodbye may take to answer what it has taken.
const GOODBYE_WAIT: Duration = Duration::from_secs(5);
