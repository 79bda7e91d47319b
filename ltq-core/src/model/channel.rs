//! One reader group of a topic: where it stands, what it gave out and what it got back.

use std::{collections::VecDeque, time::Duration};

use super::{
    Claim, Command, ConsumerId, Delivery, Gate,
    consumers::Consumers,
    in_flight::{InFlight, Returned, Slot},
    redelivery::Redelivery,
    run_set::{Run, RunSet},
    settings::ModelSettings,
    stale_tags::StaleTags,
    window::{Want, Window},
};
use crate::{ChannelName, ChannelStats, Credit, Monotonic, Offset, Settlement, Verdict};

/// A channel. Every offset from `start` on is in one place: below `floor` or in `done` (acked, or
/// damaged, or dropped), in flight, waiting to be delivered again, or at `cursor` and beyond (never delivered).
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: ChannelName,
    pub(super) start: Offset,
    pub(super) floor: Offset,
    /// What is done above the floor.
    pub(super) done: RunSet,
    pub(super) cursor: Offset,
    pub(super) in_flight: InFlight,
    pub(super) redelivery: Redelivery,
    pub(super) consumers: Consumers,
    pub(super) paused: bool,
    /// Something new waits for it to be in fewer runs.
    is_full: bool,
    /// Messages among the done ones that were never acked, since they could not be read.
    pub(super) damaged: u64,
    /// Messages among the done ones that were never acked, since a limit of the topic removed them.
    pub(super) dropped: u64,
    pub(super) figures: Figures,
    /// When its state was stored, and when it is to be.
    pub(super) put: PutState,
    pub(super) marks: Marks,
}

/// What only users look at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    delivered: u64,
    redelivered: u64,
    requeued: u64,
    timed_out: u64,
    stale: u64,
}

/// How a channel's state gets into the store.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PutState {
    /// Something changed that the store does not know, and the topic has not noticed.
    pub(super) changed: bool,
    /// The topic has it on its list of states to store.
    pub(super) listed: bool,
    /// The earliest moment to ride along with another commit.
    pub(super) rides_from: Monotonic,
    /// When to store it in any case; means something while `listed`.
    pub(super) due: Monotonic,
    /// The floor in the store.
    pub(super) floor: Offset,
    /// The floor that the commit under way stores.
    pub(super) next_floor: Option<Offset>,
}

/// On which of its topic's lists it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    pub(super) touched: bool,
    pub(super) hungry: bool,
    pub(super) starved: bool,
    /// The deadline with which it stands in the topic's order of deadlines.
    pub(super) timer: Option<Monotonic>,
}

/// What a channel sees of its topic while it delivers.
pub(super) struct Planning<'a> {
    pub(super) window: &'a mut Window,
    pub(super) out: &'a mut VecDeque<Command>,
    pub(super) gate: &'a mut dyn Gate,
    /// The committed end of the log.
    pub(super) end: Offset,
    pub(super) now: Monotonic,
    pub(super) settings: &'a ModelSettings,
}

/// What a round of deliveries left undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Planned {
    /// Records without which a willing consumer gets nothing more.
    pub(super) want: Option<Want>,
    /// Records that will be wanted soon.
    pub(super) soon: Option<Want>,
    /// Consumers wait for messages that are not published yet.
    pub(super) hungry: bool,
}

impl Channel {
    pub(super) fn new(name: ChannelName, start: Offset) -> Self {
        Self {
            name,
            start,
            floor: start,
            done: RunSet::default(),
            cursor: start,
            in_flight: InFlight::default(),
            redelivery: Redelivery::default(),
            consumers: Consumers::default(),
            paused: false,
            damaged: 0,
            dropped: 0,
            is_full: false,
            figures: Figures::default(),
            put: PutState { floor: start, ..PutState::default() },
            marks: Marks::default(),
        }
    }

    /// When something here waits for time.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        match (self.in_flight.next_deadline(), self.redelivery.next_ripe()) {
            (Some(timeout), Some(ripe)) => Some(timeout.min(ripe)),
            (one, other) => one.or(other),
        }
    }

    /// Takes back what has run out of time and makes due whose delay has ended.
    pub(super) fn expire(&mut self, now: Monotonic) {
        while let Some(returned) = self.in_flight.pop_expired(now) {
            self.figures.timed_out += returned.run.len();
            self.redelivery.give_back(returned);
            self.put.changed = true;
        }
        self.put.changed |= self.redelivery.ripen(now);
    }

    /// Lets a consumer go and takes back what it had.
    pub(super) fn leave(&mut self, slot: Slot) -> Option<ConsumerId> {
        while let Some(returned) = self.in_flight.pop_of(slot) {
            self.redelivery.give_back(returned);
            self.put.changed = true;
        }
        self.consumers.remove(slot).map(|consumer| consumer.id)
    }

    /// Applies what a consumer said of its deliveries; `scratch` is empty before and after.
    pub(super) fn settle(
        &mut self,
        slot: Slot,
        settlements: &[Settlement],
        now: Monotonic,
        settings: &ModelSettings,
        scratch: &mut Vec<Returned>,
    ) -> StaleTags {
        let mut stale = StaleTags::default();
        let mut visits = TOUCHED_RUNS_MAX;
        let Some(consumer) = self.consumers.get(slot) else { return stale };
        let (timeout, last_tag) = (consumer.timeout, consumer.last_tag);
        for settlement in settlements {
            match settlement.verdict {
                Verdict::Ack => {
                    self.in_flight.take(slot, settlement.tags, scratch, &mut stale);
                    for acked in scratch.drain(..) {
                        self.finish(acked.run);
                    }
                }
                Verdict::Requeue { delay_ms } => {
                    let delay = Duration::from_millis(delay_ms).min(settings.requeue_delay_max);
                    self.in_flight.take(slot, settlement.tags, scratch, &mut stale);
                    for returned in scratch.drain(..) {
                        self.figures.requeued += returned.run.len();
                        self.put.changed = true;
                        if delay.is_zero() {
                            self.redelivery.give_back(returned);
                        } else {
                            self.redelivery.delay(returned, now.plus(delay));
                        }
                    }
                }
                Verdict::Touch => {
                    let times = (timeout, settings.delivery_timeout_max);
                    let tags = settlement.tags;
                    self.in_flight.touch(slot, tags, now, times, &mut visits, &mut stale);
                }
            }
        }
        self.figures.stale = self.figures.stale.saturating_add(stale.delivered_up_to(last_tag));
        stale
    }

    /// Gives willing consumers what there is for them, in turn.
    pub(super) fn plan(&mut self, p: &mut Planning<'_>) -> Planned {
        let mut planned = Planned::default();
        let ready = self.ready(p.end);
        if self.paused || self.consumers.willing() == 0 || self.is_waited_for() {
            return planned;
        }
        // Shares are made once, of all that is ready, so that a burst is split evenly.
        let share = (ready / self.consumers.willing() as u64)
            .clamp(1, p.settings.run_messages_max.max(1) as u64);
        let mut drained = false;
        self.is_full &= self.runs() >= p.settings.channel_runs_max;
        while self.consumers.willing() > 0 {
            let Some((stretch, attempts)) = self.next_stretch(p) else {
                planned.hungry = self.cursor == p.end;
                if !planned.hungry && !std::mem::replace(&mut self.is_full, true) {
                    p.gate.runs_reached();
                }
                break;
            };
            if let Some(until) = p.window.unreadable_until(stretch.first) {
                self.give_up(Run::new(stretch.first, until.min(stretch.end)));
                continue;
            }
            if let Some(until) = p.window.discarded_until(stretch.first) {
                self.pass_over(Run::new(stretch.first, until.min(stretch.end)));
                continue;
            }
            let part = p.window.not_discarded(stretch);
            match self.deliver(p, part, attempts, share) {
                Some(fresh) => drained |= !fresh,
                None => {
                    if self.is_next_refused(p.gate) {
                        continue;
                    }
                    let records = match attempts {
                        0 => self.demand().min(stretch.len()),
                        _ => stretch.len(),
                    };
                    planned.want = Some(Want { from: stretch.first, records });
                    break;
                }
            }
        }
        if drained
            && planned.want.is_none()
            && let Some(from) = p.window.runs_dry(self.cursor)
            && from < p.end
        {
            let records = p.end.since(from).min(u64::from(u32::MAX));
            planned.soon = Some(Want { from, records });
        }
        planned
    }

    /// Whether who is to be alone waits for what others have.
    fn is_waited_for(&self) -> bool {
        let is_theirs = |slot| self.in_flight.messages() > self.in_flight.messages_of(slot);
        self.consumers.alone().is_some_and(is_theirs)
    }

    /// Everything that could be delivered now.
    fn ready(&self, end: Offset) -> u64 {
        self.redelivery.due_messages() + end.since(self.cursor)
    }

    /// What comes next, and how often it was delivered: what is due again before what is new.
    fn next_stretch(&self, p: &Planning<'_>) -> Option<(Run, u32)> {
        if let Some(due) = self.redelivery.first() {
            return Some((due.run, due.attempt));
        }
        let full = self.runs() >= p.settings.channel_runs_max;
        (self.cursor < p.end && !full).then(|| (Run::new(self.cursor, p.end), 0))
    }

    /// Sends the start of a stretch to the consumer whose turn it is, if the records are in memory,
    /// or holds that consumer if there is no room for it. Says whether nothing came out of the store.
    fn deliver(
        &mut self,
        p: &mut Planning<'_>,
        stretch: Run,
        attempts: u32,
        share: u64,
    ) -> Option<bool> {
        let (batch, fresh) = p.window.find(stretch.first, p.now)?;
        let (slot, consumer) = self.consumers.next()?;
        let open = consumer.open();
        let most = share.min(stretch.len()).min(open.messages) as usize;
        let start = stretch.first.since(batch.first) as usize;
        let bytes = p.settings.run_bytes_max.min(usize::try_from(open.bytes).unwrap_or(usize::MAX));
        let count = batch.records.fitting(start, most, bytes) as u64;
        let run = Run::new(stretch.first, stretch.first.plus(count));
        if count == 0 {
            return None;
        }
        let batch = batch.slice(run.first, run.end);
        let (consumer, timeout) = (consumer.id, consumer.timeout);
        if !p.gate.admit(consumer, batch.records.byte_len()) {
            self.consumers.hold(slot);
            return Some(true);
        }
        let first_tag = self.consumers.delivered(count, batch.records.payload().len() as u64);
        let attempt = attempts.saturating_add(1);
        self.in_flight.deliver(slot, first_tag, Returned { run, attempt }, p.now, timeout);
        self.advance(run);
        self.figures.delivered += count;
        if attempts > 0 {
            self.figures.redelivered += count;
        }
        let delivery = Delivery { first_tag, attempt, batch };
        p.out.push_back(Command::Deliver { consumer, delivery });
        Some(fresh)
    }

    /// Holds the consumer whose turn it is if there is no room for anything.
    fn is_next_refused(&mut self, gate: &mut dyn Gate) -> bool {
        let Some((slot, consumer)) = self.consumers.next() else { return false };
        let refused = !gate.admit(consumer.id, 0);
        if refused {
            self.consumers.hold(slot);
        }
        refused
    }

    /// Takes the start of the next stretch off where it waited.
    fn advance(&mut self, run: Run) {
        if run.first == self.cursor {
            self.cursor = run.end;
        } else {
            self.redelivery.take_first(run.len());
        }
        self.put.changed = true;
    }

    /// Counts the start of the next stretch as damaged: it can never be delivered.
    fn give_up(&mut self, run: Run) {
        self.damaged += run.len();
        self.pass_over(run);
    }

    /// Takes the start of the next stretch as done: there is nothing to be delivered.
    fn pass_over(&mut self, run: Run) {
        self.advance(run);
        self.finish(run);
    }

    /// Notes that these messages need nothing more.
    fn finish(&mut self, run: Run) {
        if run.first == self.floor {
            self.floor = run.end;
            if let Some(next) = self.done.pop_at_or_below(self.floor) {
                self.floor = next.end;
            }
        } else {
            self.done.insert(run);
        }
        self.put.changed = true;
    }

    /// Gives up every message before `offset`, whatever its state, and says how many there were that
    /// were not done. Deliveries of them become stale.
    pub(super) fn drop_before(&mut self, offset: Offset) -> u64 {
        if offset <= self.floor {
            return 0;
        }
        self.in_flight.drop_before(offset);
        self.redelivery.drop_before(offset);
        let mut lost = offset.since(self.floor);
        self.floor = offset;
        self.cursor = self.cursor.max(offset);
        while let Some(run) = self.done.pop_at_or_below(offset) {
            lost -= run.end.min(offset).since(run.first);
            self.floor = self.floor.max(run.end);
        }
        self.dropped += lost;
        self.put.changed = true;
        lost
    }

    /// About how many new messages the willing consumers would take now. A little more is read
    /// than they asked for, since they will ask again.
    fn demand(&self) -> u64 {
        let open = self.consumers.next().map_or(0, |(_, consumer)| consumer.open().messages);
        let all = open.saturating_mul(self.consumers.willing() as u64);
        all.saturating_mul(2).max(DEMAND_MIN)
    }

    /// How many runs of unlike fate there are.
    fn runs(&self) -> usize {
        self.done.runs() + self.in_flight.runs() + self.redelivery.runs()
    }

    /// Gives back memory that was needed in busier times, unless it is needed soon again.
    pub(super) fn relax(&mut self) {
        if self.consumers.count() == 0 {
            self.in_flight.relax();
            self.redelivery.relax();
            self.done.relax();
        }
    }

    /// Lets a consumer in.
    pub(super) fn join(
        &mut self,
        id: ConsumerId,
        terms: (Duration, Option<Box<Claim>>),
        credit: Credit,
        settings: &ModelSettings,
    ) -> Slot {
        self.consumers.add(id, terms, credit, settings.credit_max)
    }

    /// Below this the log is not needed for it, once the commit under way has succeeded.
    pub(super) fn floor_kept(&self) -> Offset {
        match self.name.is_ephemeral() {
            true => self.floor,
            false => self.put.next_floor.unwrap_or(self.put.floor),
        }
    }

    /// Its figures, the topic ending at `end`.
    pub(super) fn stats(&self, end: Offset) -> ChannelStats {
        let done = self.floor.since(self.start) + self.done.count();
        ChannelStats {
            channel: self.name.clone(),
            paused: self.paused,
            start: self.start,
            floor: self.floor,
            waiting: self.ready(end),
            delayed: self.redelivery.delayed_messages(),
            in_flight: self.in_flight.messages(),
            acked: done - self.damaged - self.dropped,
            damaged: self.damaged,
            dropped: self.dropped,
            delivered: self.figures.delivered,
            redelivered: self.figures.redelivered,
            requeued: self.figures.requeued,
            timed_out: self.figures.timed_out,
            stale: self.figures.stale,
            consumers: self.consumers.count() as u64,
        }
    }

    /// Panics unless every offset is in exactly one place and the counters agree.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn check(&self, end: Offset) {
        let mut places = RunSet::default();
        let mut put = |run: Run, what: &str| {
            assert_eq!(places.insert(run), run.len(), "{what} {run:?} is somewhere else too");
            run.len()
        };
        put(Run::new(self.start, self.floor), "below the floor");
        let done: u64 = self.done.iter().map(|run| put(run, "done")).sum();
        let in_flight: u64 = self.in_flight.iter().map(|r| put(r.run, "in flight")).sum();
        let due: u64 = self.redelivery.due().map(|r| put(r.run, "due")).sum();
        let delayed: u64 = self.redelivery.delayed().map(|(r, _)| put(r.run, "delayed")).sum();
        assert_eq!(places.count(), self.cursor.since(self.start), "nothing is missing");
        assert!(self.done.iter().all(|run| run.first > self.floor));
        assert!(self.cursor <= end && self.floor <= self.cursor);
        assert_eq!(done, self.done.count());
        assert_eq!(in_flight, self.in_flight.messages());
        assert_eq!(due, self.redelivery.due_messages());
        assert_eq!(delayed, self.redelivery.delayed_messages());
        let s = self.stats(end);
        let sum = s.waiting + s.delayed + s.in_flight + s.acked + s.damaged + s.dropped;
        assert_eq!(end.since(self.start), sum, "promise 13: {s:?}");
    }
}

/// The most runs that the touches of one request may visit: forty times what a consumer with the
/// default credit can have, and few enough that nonsense is over within milliseconds.
const TOUCHED_RUNS_MAX: usize = 100_000;
/// The fewest new messages worth asking the store for.
const DEMAND_MIN: u64 = 64;
