//! A session's producers and subscriptions, and the topics that they belong to.
mod slots;

use std::{mem, sync::Arc, task::Context, time::Duration};

use foldhash::{HashMap, HashMapExt};
use tokio::task::JoinSet;

use super::{
    answers::{self, Asked},
    gathering::Gathering,
    holds::Hold,
    inbox::{Entry, Inbox},
    outbox::{Outbox, Outgoing},
    places::Kind,
    producers::{Nobody, Place, Producers},
    refuse::{bad_records, credit_refusal, gone, in_use, refuse, unexpected},
    room::Room,
    shared::Shared,
    standing::Standing,
    surveys::Asking,
    unread::Unread,
};
use slots::Missing;

use crate::{
    Action, ChannelName, Credit, Durability, ProducerName, Records, RecordsBuilder, Refusal,
    RefusalCode, Seat, StartAt, TopicName,
    model::{ConsumerId, Event, ProducerId, Reply, SessionId, Topic},
    process::inherit,
    protocol::Frame,
};

/// What a session has open. Events are gathered while a read's frames are looked at, and handed
/// over in one piece for each topic.
pub(super) struct Handles {
    shared: Arc<Shared>,
    session: SessionId,
    outbox: Arc<Outbox>,
    topics: Vec<Option<TopicSlot>>,
    /// Those of them that are empty.
    free: Vec<usize>,
    slots: HashMap<TopicName, usize>,
    /// Slots with events that were not handed over yet.
    touched: Vec<usize>,
    /// Bytes of publishes among them that keep what they were read with.
    gathered_bytes: usize,
    /// The last publishes of the read, which more may be joined to.
    gathering: Option<Gathering>,
    producers: Producers,
    subscriptions: HashMap<u32, Subscription>,
    /// The tasks that see to operators' requests.
    requesting: Option<Box<JoinSet<()>>>,
    room: Room,
    /// Replies of the session's own were added to the outbox.
    spoke: bool,
    standing: Standing,
}

struct TopicSlot {
    inbox: Arc<Inbox>,
    events: Vec<Event>,
    /// Producers and subscriptions that use it.
    users: usize,
}

struct Subscription {
    slot: usize,
    delivered: u64,
    /// The credit that it was given last.
    credit: Credit,
    leaving: bool,
}

impl Handles {
    pub(super) fn new(
        standing: Standing,
        shared: Arc<Shared>,
        session: SessionId,
        outbox: Arc<Outbox>,
    ) -> Self {
        Self {
            room: Room::new(shared.clone(), outbox.together()),
            standing,
            shared,
            session,
            outbox,
            topics: Vec::new(),
            free: Vec::new(),
            slots: HashMap::new(),
            touched: Vec::new(),
            gathered_bytes: 0,
            gathering: None,
            producers: Producers::default(),
            subscriptions: HashMap::new(),
            requesting: None,
            spoke: false,
        }
    }

    /// What the peer may do.
    pub(super) const fn standing(&mut self) -> &mut Standing {
        &mut self.standing
    }

    /// Takes a frame that belongs behind the hello.
    pub(super) fn handle(&mut self, frame: Frame) -> Result<(), Refusal> {
        match frame {
            Frame::OpenProducer { handle, topic, name, epoch, seat } => {
                self.open_producer(handle, &topic, name, epoch, seat);
            }
            Frame::Publish { handle, sequence, durability, records } => {
                self.publish(handle, sequence, durability, records)?;
            }
            Frame::CloseProducer { handle, forget } => self.close_producer(handle, forget),
            Frame::Subscribe {
                handle,
                topic,
                channel,
                start,
                timeout_ms,
                credit,
                make_topic,
                seat,
            } => {
                let topic = (&topic, if make_topic { Missing::Made } else { Missing::Refused });
                self.subscribe(handle, topic, channel, start, timeout_ms, (credit, seat));
            }
            Frame::Credit { handle, total } => self.credit(handle, total)?,
            Frame::Settle { handle, request, settlements } => {
                if let Some(&Subscription { slot, .. }) = self.subscriptions.get(&handle) {
                    if settlements.is_empty() && request == 0 {
                        self.standing.futile("settlements of nothing");
                        return Ok(());
                    }
                    let consumer = self.consumer(handle);
                    self.tell(slot, Event::Settle { consumer, request, settlements });
                } else {
                    self.standing.futile("settlements for no subscription");
                    let stale = settlements.iter().map(|settlement| settlement.tags).collect();
                    self.reply(Reply::Settled { handle, request, stale });
                }
            }
            Frame::Unsubscribe { handle } => self.unsubscribe(handle),
            Frame::Admin { request, action } => self.admin(request, action),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    fn open_producer(
        &mut self,
        handle: u32,
        topic: &TopicName,
        name: Option<ProducerName>,
        epoch: Option<u64>,
        seat: Option<Seat>,
    ) {
        let opened = if self.producers.contains(handle) {
            Err(in_use("producer", handle))
        } else {
            // Also while the node drains: it tells what is stored already.
            self.place(Kind::Producer, Action::Publish, topic, Missing::Made)
        };
        match opened {
            Ok(slot) => {
                let Place { id, .. } = self.producers.open(handle, slot);
                let producer = self.producer(id);
                self.tell(slot, Event::OpenProducer { producer, name, epoch, seat });
            }
            Err(refusal) => {
                self.standing.futile("a producer that was refused");
                self.reply(Reply::ProducerRefused { handle, refusal });
            }
        }
    }

    fn publish(
        &mut self,
        handle: u32,
        sequence: u64,
        durability: Option<Durability>,
        records: Records,
    ) -> Result<(), Refusal> {
        let count = records.count() as u64;
        if count == 0 {
            return Err(Refusal::new(RefusalCode::Malformed, "a publish holds no message"));
        }
        if sequence == 0 || sequence.checked_add(count).is_none() {
            let detail = format!("a publish begins at sequence {sequence}");
            return Err(Refusal::new(RefusalCode::Malformed, detail));
        }
        let Some(place @ Place { slot, id }) = self.producers.place(handle) else {
            self.standing.futile("a publish of no open producer");
            let detail = format!("producer {handle} is not open");
            let refusal = Refusal::new(RefusalCode::NoSuchHandle, detail);
            self.reply(Reply::PublishRefused { handle, sequence, count, refusal });
            return Ok(());
        };
        let bad = bad_records(&records, self.shared.settings.message_bytes_max);
        if bad.is_some() {
            self.standing.futile("a publish of what cannot be stored");
        }
        let refusal = self.shared.draining.refusal().or(bad);
        let bytes = if refusal.is_none() { records.byte_len() } else { 0 };
        self.producers.published(id, sequence, count, bytes + Topic::WISH_BYTES);
        match refusal {
            None => self.gather(place, sequence, durability, records),
            // Told to the topic, so that it waits behind the answers to earlier ones.
            Some(refusal) => {
                let producer = self.producer(id);
                self.tell(slot, Event::RefusePublish { producer, sequence, count, refusal });
            }
        }
        Ok(())
    }

    fn gather(
        &mut self,
        place: Place,
        sequence: u64,
        durability: Option<Durability>,
        records: Records,
    ) {
        let records = match (&mut self.gathering, self.producers.stored(place.id)) {
            (Some(gathering), Some(stored)) => {
                match gathering.join(place, sequence, durability, stored, records) {
                    Ok(()) => return,
                    Err(records) => records,
                }
            }
            _ => records,
        };
        self.tell_gathered();
        self.gathering = Some(Gathering::new(place, sequence, durability, records));
    }

    /// Nothing more is joined to the last publishes.
    fn tell_gathered(&mut self) {
        let Some(gathering) = self.gathering.take() else { return };
        let joined = gathering.is_joined();
        let Gathering { place: Place { slot, id }, sequence, durability, .. } = gathering;
        let records = gathering.into_records();
        if !joined {
            self.gathered_bytes += records.byte_len();
        }
        let producer = self.producer(id);
        self.push_event(slot, Event::Publish { producer, sequence, durability, records });
    }

    fn close_producer(&mut self, handle: u32, forget: bool) {
        let Some(Place { slot, id }) = self.producers.place(handle) else {
            return self.standing.futile("the end of no open producer");
        };
        self.producers.close(id);
        let producer = self.producer(id);
        self.tell(slot, Event::CloseProducer { producer, forget });
        if let Some(left) = self.producers.forget_if_done(id) {
            self.leave_producer(left);
        }
    }

    fn subscribe(
        &mut self,
        handle: u32,
        (topic, missing): (&TopicName, Missing),
        channel: ChannelName,
        start: StartAt,
        timeout_ms: Option<u64>,
        (credit, seat): (Credit, Option<Seat>),
    ) {
        let settings = &self.shared.settings;
        // What is handed over goes to the channels that there are: one made now would miss some of it.
        let create = settings.auto_create_channels && !self.shared.draining.is_on();
        let credit_max = settings.model.credit_max;
        let timeout_max = settings.model.delivery_timeout_max;
        let timeout = timeout_ms.map(Duration::from_millis);
        let subscribed = if self.subscriptions.contains_key(&handle) {
            Err(in_use("subscription", handle))
        } else if !credit.is_within(credit_max) {
            Err(credit_refusal(credit, credit_max))
        } else if timeout.is_some_and(|timeout| timeout > timeout_max || timeout.is_zero()) {
            let detail = format!(
                "a delivery timeout of {} ms; allowed are 1 to {} ms",
                timeout_ms.unwrap_or_default(),
                timeout_max.as_millis()
            );
            Err(Refusal::new(RefusalCode::OutOfRange, detail))
        } else {
            self.place(Kind::Subscription, Action::Consume, topic, missing)
        };
        match subscribed {
            Ok(slot) => {
                let subscription = Subscription { slot, delivered: 0, credit, leaving: false };
                self.subscriptions.insert(handle, subscription);
                let consumer = self.consumer(handle);
                let claim = seat.and_then(|seat| self.standing.claim(seat));
                self.tell(
                    slot,
                    Event::Subscribe { consumer, channel, start, create, timeout, credit, claim },
                );
            }
            Err(refusal) => {
                self.standing.futile("a subscription that was refused");
                self.reply(Reply::SubscribeRefused { handle, refusal });
            }
        }
    }

    fn credit(&mut self, handle: u32, total: Credit) -> Result<(), Refusal> {
        let credit_max = self.shared.settings.model.credit_max;
        // Credit for a subscription that has just been closed crosses the news of it.
        let Some(subscription) = self.subscriptions.get_mut(&handle) else {
            self.standing.futile("credit for no subscription");
            return Ok(());
        };
        let open = total.messages.saturating_sub(subscription.delivered);
        if open > credit_max.messages {
            return Err(credit_refusal(Credit { messages: open, ..total }, credit_max));
        }
        let before = mem::replace(&mut subscription.credit, total);
        let slot = subscription.slot;
        if total == before {
            self.standing.futile("credit that was given before");
            return Ok(());
        }
        if !before.is_within(total) {
            // It may be needed, but is answered, and could go up and down for ever.
            self.standing.futile("credit that was taken back");
        }
        self.tell(slot, Event::Credit { consumer: self.consumer(handle), total });
        Ok(())
    }

    fn unsubscribe(&mut self, handle: u32) {
        match self.subscriptions.get_mut(&handle) {
            Some(subscription) if !subscription.leaving => {
                subscription.leaving = true;
                let slot = subscription.slot;
                if subscription.delivered == 0 {
                    self.standing.useless("the end of a subscription that was given nothing");
                }
                self.tell(slot, Event::Unsubscribe { consumer: self.consumer(handle) });
            }
            Some(_) => self.standing.futile("a subscription's end said twice"),
            None => {
                self.standing.futile("the end of no subscription");
                self.reply(Reply::SubscriptionClosed { handle, refusal: None });
            }
        }
    }

    fn admin(&mut self, request: u32, action: crate::AdminRequest) {
        let permitted = self.standing.permit_request(&action);
        let together = self.outbox.together();
        let asked = match permitted.and_then(|()| Asked::on(together)) {
            Ok(asked) => asked,
            Err(refusal) => {
                self.standing.futile("an operator's request that was refused");
                self.reply(Reply::Admin { request, result: Err(refusal) });
                return;
            }
        };
        let asking = Asking::on(together, self.standing.rank());
        self.standing.asks(&action);
        let sight = self.standing.sight();
        let (shared, outbox) = (self.shared.clone(), self.outbox.clone());
        let requesting = self.requesting.get_or_insert_default();
        while requesting.try_join_next().is_some() {}
        let asked_for = (request, action);
        requesting.spawn(inherit(answers::answer(shared, outbox, asked, asking, asked_for, sight)));
    }

    /// Notes what a topic says about the handles, in the client's numbers from then on. An error
    /// if it is for nobody any more.
    pub(super) fn replied(&mut self, reply: &mut Reply) -> Result<(), Nobody> {
        self.standing.answered(reply, &self.producers);
        match reply {
            Reply::SubscribeRefused { handle, .. } | Reply::SubscriptionClosed { handle, .. } => {
                if let Some(subscription) = self.subscriptions.remove(handle) {
                    self.leave_slot(subscription.slot, Kind::Subscription);
                }
            }
            Reply::Admin { .. }
            | Reply::Subscribed { .. }
            | Reply::Settled { .. }
            | Reply::Credited { .. } => {}
            reply => {
                if let Some(left) = self.producers.replied(reply)? {
                    self.leave_producer(left);
                }
            }
        }
        Ok(())
    }

    /// Counts what is answered, everything that topics said being [noted](Self::replied).
    pub(super) fn heard(&mut self) {
        self.room.outstanding.count(self.producers.unconfirmed_bytes());
    }

    /// Notes that so many messages are on their way to the client.
    pub(super) fn delivered(&mut self, handle: u32, messages: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&handle) {
            subscription.delivered += messages;
        }
    }

    /// Whether the session may read on. If not, what keeps it wakes this task when there is room. A hello
    /// asks for nothing that anybody has to keep.
    pub(super) fn poll_room(&mut self, context: &Context<'_>) -> Result<(), Hold> {
        match self.standing.is_admitted() {
            true => self.room.poll(&self.producers, context),
            false => Ok(()),
        }
    }

    /// Whether frames that were read already have to wait: the first producer was opened among them, and
    /// there is no room for publishes. Without one the session is read in any case, and else many
    /// sessions would each bring what one read holds.
    pub(super) fn is_crowded(&self) -> bool {
        self.producers.len() > 0
            && self.producers.unconfirmed_bytes() == 0
            && self.room.is_crowded()
    }

    /// The answers that the session has still to say.
    pub(super) const fn unread(&mut self) -> &mut Unread {
        &mut self.room.unread
    }

    /// Bytes of the publishes that [`hand_over`](Self::hand_over) is going to hand over, and that
    /// keep what they were read with.
    pub(super) fn gathered_bytes(&mut self) -> usize {
        if self.gathering.as_ref().is_some_and(|gathering| !gathering.is_joined()) {
            self.tell_gathered();
        }
        self.gathered_bytes
    }

    /// Makes copies of the publishes that are going to be handed over, so that they do not keep
    /// what they were read with.
    pub(super) fn copy_gathered(&mut self) {
        for index in &self.touched {
            let Some(Some(slot)) = self.topics.get_mut(*index) else { continue };
            for event in &mut slot.events {
                if let Event::Publish { records, .. } = event {
                    let (count, bytes) = (records.count(), records.payload().len());
                    let mut copy = RecordsBuilder::with_capacity(count, bytes);
                    copy.extend(records);
                    *records = copy.finish();
                }
            }
        }
    }

    /// Hands all gathered events to their topics.
    pub(super) fn hand_over(&mut self) {
        self.tell_gathered();
        self.gathered_bytes = 0;
        self.room.outstanding.count(self.producers.unconfirmed_bytes());
        while let Some(index) = self.touched.pop() {
            let Some(Some(slot)) = self.topics.get_mut(index) else { continue };
            if slot.events.is_empty() {
                continue;
            }
            match slot.inbox.push_all(&mut slot.events) {
                Ok(pressed) => {
                    if pressed {
                        self.room.press(slot.inbox.clone());
                    }
                    if slot.events.capacity() > EVENTS_KEPT {
                        slot.events = Vec::new();
                    }
                }
                Err(_) => {
                    let events = mem::take(&mut slot.events);
                    let topic = slot.inbox.topic();
                    // The next use of its name finds another one.
                    if self.slots.get(topic) == Some(&index) {
                        self.slots.remove(topic);
                    }
                    let refusal = gone(topic, self.shared.is_stopping());
                    for event in events {
                        if let Some((_, reply)) = refuse(&event, &refusal) {
                            self.outbox.push(Outgoing::Reply(reply));
                            self.spoke = true;
                        }
                    }
                }
            }
        }
        if mem::take(&mut self.spoke) {
            self.outbox.wake();
        }
    }

    /// The session is over: all topics are told.
    pub(super) fn end(&mut self) {
        self.hand_over();
        let unconfirmed = self.producers.unconfirmed_by_slot(self.topics.len());
        for (index, slot) in self.topics.drain(..).enumerate() {
            let Some(slot) = slot else { continue };
            // A closed topic knows nobody any more, and has answered all.
            let unconfirmed = unconfirmed.get(index).copied().unwrap_or(0);
            if unconfirmed > 0 {
                let left = self.room.outstanding.leave_behind(unconfirmed);
                let _ = slot.inbox.push(Entry::Left(left));
            }
            let _ = slot.inbox.push(Entry::Event(Event::SessionEnded { session: self.session }));
        }
        let idle = self.subscriptions.values().filter(|one| one.delivered == 0 && !one.leaving);
        self.standing.ended(idle.count() + self.producers.useless());
        let open = self.standing.open();
        open.give_back(Kind::Producer, self.producers.len());
        open.give_back(Kind::Subscription, self.subscriptions.len());
        self.room.leave();
        (self.free, self.slots) = Default::default();
        self.producers.clear();
        self.heard();
        self.subscriptions.clear();
        self.requesting = None;
    }

    fn tell(&mut self, index: usize, event: Event) {
        self.tell_gathered();
        self.push_event(index, event);
    }

    fn push_event(&mut self, index: usize, event: Event) {
        if let Some(Some(slot)) = self.topics.get_mut(index) {
            if slot.events.is_empty() {
                self.touched.push(index);
            }
            slot.events.push(event);
        }
    }

    /// Says something of the session's own, behind what topics have said so far.
    fn reply(&mut self, reply: Reply) {
        self.outbox.push(Outgoing::Own(reply));
        self.spoke = true;
    }

    const fn producer(&self, id: u32) -> ProducerId {
        ProducerId { session: self.session, handle: id }
    }

    const fn consumer(&self, handle: u32) -> ConsumerId {
        ConsumerId { session: self.session, handle }
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.end();
    }
}

/// Room for this many events is kept for each topic between reads.
const EVENTS_KEPT: usize = 16;

#[cfg(test)]
#[path = "handles_tests.rs"]
mod tests;
