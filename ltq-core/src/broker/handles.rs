//! A session's producers and subscriptions, and the topics that they belong to.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry as MapEntry},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tracing::debug;

use super::{
    admin,
    inbox::{Entry, Inbox},
    outbox::Outbox,
    refuse::refuse,
    shared::Shared,
};
use crate::{
    ChannelName, Credit, Durability, Peer, ProducerName, Records, RecordsError, Refusal,
    RefusalCode, StartAt, TopicName,
    model::{ConsumerId, Event, ProducerId, Reply, SessionId},
    protocol::Frame,
};

/// What a session has open. Events are gathered while a read's frames are looked at, and handed
/// over in one piece for each topic.
pub(super) struct Handles {
    shared: Arc<Shared>,
    session: SessionId,
    outbox: Arc<Outbox>,
    peer: String,
    topics: Vec<Option<TopicSlot>>,
    slots: HashMap<TopicName, usize>,
    /// Slots with events that were not handed over yet.
    touched: Vec<usize>,
    producers: HashMap<u32, Producer>,
    subscriptions: HashMap<u32, Subscription>,
    /// Operators' requests that are not answered.
    requests: u32,
    unconfirmed_bytes: usize,
    /// What the session was too fast for.
    blocked: Option<Arc<Inbox>>,
    /// Replies of the session's own were added to the outbox.
    spoke: bool,
}

struct TopicSlot {
    inbox: Arc<Inbox>,
    events: Vec<Event>,
    /// Producers and subscriptions that use it.
    users: usize,
}

struct Producer {
    slot: usize,
    /// The end of the sequence and the bytes of each publish that is not confirmed.
    unconfirmed: VecDeque<(u64, usize)>,
    /// The client closed it; it is kept until what it published is confirmed.
    closed: bool,
}

struct Subscription {
    slot: usize,
    delivered: u64,
    leaving: bool,
}

impl Handles {
    pub(super) fn new(
        shared: Arc<Shared>,
        session: SessionId,
        outbox: Arc<Outbox>,
        peer: &Peer,
    ) -> Self {
        Self {
            shared,
            session,
            outbox,
            peer: peer.address.to_string(),
            topics: Vec::new(),
            slots: HashMap::new(),
            touched: Vec::new(),
            producers: HashMap::new(),
            subscriptions: HashMap::new(),
            requests: 0,
            unconfirmed_bytes: 0,
            blocked: None,
            spoke: false,
        }
    }

    pub(super) fn greeted(&self, client: &str) {
        debug!(peer = %self.peer, client, "hello");
    }

    /// Takes a frame that belongs behind the hello.
    pub(super) fn handle(&mut self, frame: Frame) -> Result<(), Refusal> {
        match frame {
            Frame::OpenProducer { handle, topic, name, epoch } => {
                self.open_producer(handle, &topic, name, epoch);
            }
            Frame::Publish { handle, sequence, durability, records } => {
                self.publish(handle, sequence, durability, records)?;
            }
            Frame::CloseProducer { handle } => self.close_producer(handle),
            Frame::Subscribe { handle, topic, channel, start, timeout_ms, credit } => {
                self.subscribe(handle, &topic, channel, start, timeout_ms, credit);
            }
            Frame::Credit { handle, total } => self.credit(handle, total)?,
            Frame::Settle { handle, request, settlements } => {
                let consumer = self.consumer(handle);
                if let Some(subscription) = self.subscriptions.get(&handle) {
                    let slot = subscription.slot;
                    self.tell(slot, Event::Settle { consumer, request, settlements });
                } else {
                    let stale = settlements.iter().map(|settlement| settlement.tags).collect();
                    self.reply(Reply::Settled { handle, request, stale });
                }
            }
            Frame::Unsubscribe { handle } => self.unsubscribe(handle),
            Frame::Admin { request, action } => self.admin(request, action),
            other => {
                let detail = format!("a client does not send {}", name_of(&other));
                return Err(Refusal::new(RefusalCode::UnexpectedFrame, detail));
            }
        }
        Ok(())
    }

    fn open_producer(
        &mut self,
        handle: u32,
        topic: &TopicName,
        name: Option<ProducerName>,
        epoch: Option<u64>,
    ) {
        let max = self.shared.settings.producers_max;
        let opened = if self.producers.contains_key(&handle) {
            Err(in_use("producer", handle))
        } else if self.producers.len() >= max as usize {
            Err(limit("producers", max))
        } else {
            self.slot(topic)
        };
        match opened {
            Ok(slot) => {
                let producer = Producer { slot, unconfirmed: VecDeque::new(), closed: false };
                self.producers.insert(handle, producer);
                let producer = self.producer(handle);
                self.tell(slot, Event::OpenProducer { producer, name, epoch });
            }
            Err(refusal) => self.reply(Reply::ProducerRefused { handle, refusal }),
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
        let message_bytes_max = self.shared.settings.message_bytes_max;
        let refusal = match self.producers.get(&handle) {
            Some(producer) if !producer.closed => {
                if count == 0 {
                    let detail = "a publish holds no message";
                    return Err(Refusal::new(RefusalCode::Malformed, detail));
                }
                if sequence == 0 || sequence.checked_add(count).is_none() {
                    let detail = format!("a publish begins at sequence {sequence}");
                    return Err(Refusal::new(RefusalCode::Malformed, detail));
                }
                refusal_of(&records, message_bytes_max)
            }
            _ => {
                let detail = format!("producer {handle} is not open");
                Some(Refusal::new(RefusalCode::NoSuchHandle, detail))
            }
        };
        if let Some(refusal) = refusal {
            self.reply(Reply::PublishRefused { handle, sequence, count, refusal });
            return Ok(());
        }
        let bytes = records.byte_len();
        let id = self.producer(handle);
        if let Some(producer) = self.producers.get_mut(&handle) {
            producer.unconfirmed.push_back((sequence + count, bytes));
            let slot = producer.slot;
            self.unconfirmed_bytes += bytes;
            self.shared.published.take(bytes);
            self.tell(slot, Event::Publish { producer: id, sequence, durability, records });
        }
        Ok(())
    }

    fn close_producer(&mut self, handle: u32) {
        let id = self.producer(handle);
        if let Some(producer) = self.producers.get_mut(&handle)
            && !producer.closed
        {
            producer.closed = true;
            let slot = producer.slot;
            self.tell(slot, Event::CloseProducer { producer: id });
            self.forget_producer_if_done(handle);
        }
    }

    fn forget_producer_if_done(&mut self, handle: u32) {
        if let MapEntry::Occupied(entry) = self.producers.entry(handle)
            && entry.get().closed
            && entry.get().unconfirmed.is_empty()
        {
            let slot = entry.remove().slot;
            self.leave_slot(slot);
        }
    }

    fn subscribe(
        &mut self,
        handle: u32,
        topic: &TopicName,
        channel: ChannelName,
        start: StartAt,
        timeout_ms: Option<u64>,
        credit: Credit,
    ) {
        let settings = &self.shared.settings;
        let (max, create) = (settings.subscriptions_max, settings.auto_create_channels);
        let credit_max = settings.model.credit_max;
        let timeout_max = settings.model.delivery_timeout_max;
        let timeout = timeout_ms.map(Duration::from_millis);
        let subscribed = if self.subscriptions.contains_key(&handle) {
            Err(in_use("subscription", handle))
        } else if self.subscriptions.len() >= max as usize {
            Err(limit("subscriptions", max))
        } else if credit.messages > credit_max.messages || credit.bytes > credit_max.bytes {
            Err(credit_refusal(credit, credit_max))
        } else if timeout.is_some_and(|timeout| timeout > timeout_max || timeout.is_zero()) {
            let detail = format!(
                "a delivery timeout of {} ms; allowed are 1 to {} ms",
                timeout_ms.unwrap_or_default(),
                timeout_max.as_millis()
            );
            Err(Refusal::new(RefusalCode::OutOfRange, detail))
        } else {
            self.slot(topic)
        };
        match subscribed {
            Ok(slot) => {
                let subscription = Subscription { slot, delivered: 0, leaving: false };
                self.subscriptions.insert(handle, subscription);
                let consumer = self.consumer(handle);
                let event = Event::Subscribe { consumer, channel, start, create, timeout, credit };
                self.tell(slot, event);
            }
            Err(refusal) => self.reply(Reply::SubscribeRefused { handle, refusal }),
        }
    }

    fn credit(&mut self, handle: u32, total: Credit) -> Result<(), Refusal> {
        let credit_max = self.shared.settings.model.credit_max;
        let consumer = self.consumer(handle);
        // Credit for a subscription that has just been closed crosses the news of it.
        let Some(subscription) = self.subscriptions.get(&handle) else { return Ok(()) };
        let open = total.messages.saturating_sub(subscription.delivered);
        if open > credit_max.messages {
            return Err(credit_refusal(Credit { messages: open, ..total }, credit_max));
        }
        let slot = subscription.slot;
        self.tell(slot, Event::Credit { consumer, total });
        Ok(())
    }

    fn unsubscribe(&mut self, handle: u32) {
        let consumer = self.consumer(handle);
        match self.subscriptions.get_mut(&handle) {
            Some(subscription) if !subscription.leaving => {
                subscription.leaving = true;
                let slot = subscription.slot;
                self.tell(slot, Event::Unsubscribe { consumer });
            }
            Some(_) => {}
            None => self.reply(Reply::SubscriptionClosed { handle, refusal: None }),
        }
    }

    fn admin(&mut self, request: u32, action: crate::AdminRequest) {
        if self.requests >= REQUESTS_MAX {
            let refusal = limit("unanswered operators' requests", REQUESTS_MAX);
            self.reply(Reply::Admin { request, result: Err(refusal) });
            return;
        }
        self.requests += 1;
        let (shared, outbox) = (self.shared.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let result = admin::perform(&shared, action).await;
            outbox.push_reply(Reply::Admin { request, result });
            outbox.wake();
        });
    }

    /// Notes what a reply that is about to be written says about the handles.
    pub(super) fn replied(&mut self, reply: &Reply) {
        match reply {
            Reply::Confirmed { handle, ranges, .. } => {
                if let Some(last) = ranges.last() {
                    self.confirmed(*handle, last.sequence.saturating_add(last.count));
                }
            }
            Reply::PublishRefused { handle, sequence, count, .. } => {
                self.confirmed(*handle, sequence.saturating_add(*count));
            }
            Reply::ProducerRefused { handle, .. } => {
                if let Some(producer) = self.producers.remove(handle) {
                    let bytes = producer.unconfirmed.iter().map(|(_, bytes)| bytes).sum();
                    self.give_back(bytes);
                    self.leave_slot(producer.slot);
                }
            }
            Reply::SubscribeRefused { handle, .. } | Reply::SubscriptionClosed { handle, .. } => {
                if let Some(subscription) = self.subscriptions.remove(handle) {
                    self.leave_slot(subscription.slot);
                }
            }
            Reply::Admin { .. } => self.requests = self.requests.saturating_sub(1),
            Reply::ProducerOpened { .. } | Reply::Subscribed { .. } | Reply::Settled { .. } => {}
        }
    }

    fn confirmed(&mut self, handle: u32, end: u64) {
        let Some(producer) = self.producers.get_mut(&handle) else { return };
        let mut done = 0;
        while let Some((until, bytes)) = producer.unconfirmed.front()
            && *until <= end
        {
            done += bytes;
            producer.unconfirmed.pop_front();
        }
        let closed = producer.closed;
        self.give_back(done);
        if closed {
            self.forget_producer_if_done(handle);
        }
    }

    fn give_back(&mut self, bytes: usize) {
        self.unconfirmed_bytes -= bytes;
        self.shared.published.give_back(bytes);
    }

    /// Notes that so many messages are about to be written.
    pub(super) fn delivered(&mut self, handle: u32, messages: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&handle) {
            subscription.delivered += messages;
        }
    }

    /// Lets a topic deliver again to a consumer that it held.
    pub(super) fn release(&self, inbox: &Inbox, consumer: ConsumerId) {
        // A closed topic delivers no more.
        let _ = inbox.push(Entry::Event(Event::Hold { consumer, held: false }));
    }

    /// Ready when the session may read on.
    pub(super) fn poll_room(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.unconfirmed_bytes as u64 > self.shared.settings.publish_bytes_max {
            // The confirm comes through the outbox, which wakes this task.
            return Poll::Pending;
        }
        if let Some(inbox) = &self.blocked {
            if inbox.poll_room(context).is_pending() {
                return Poll::Pending;
            }
            self.blocked = None;
        }
        Poll::Ready(())
    }

    /// Hands all gathered events to their topics.
    pub(super) fn hand_over(&mut self) {
        while let Some(index) = self.touched.pop() {
            let Some(Some(slot)) = self.topics.get_mut(index) else { continue };
            if slot.events.is_empty() {
                continue;
            }
            let inbox = slot.inbox.clone();
            match inbox.push_all(&mut slot.events) {
                Ok(pressed) => {
                    if pressed {
                        self.blocked = Some(inbox);
                    }
                    if slot.events.capacity() > EVENTS_KEPT {
                        slot.events = Vec::new();
                    }
                }
                Err(_) => {
                    let events = std::mem::take(&mut slot.events);
                    if self.slots.get(inbox.topic()) == Some(&index) {
                        self.slots.remove(inbox.topic());
                    }
                    let stopping = self.shared.is_stopping();
                    for event in events {
                        if let Some((_, reply)) = refuse(&event, inbox.topic(), stopping) {
                            self.reply(reply);
                        }
                    }
                }
            }
        }
        if std::mem::take(&mut self.spoke) {
            self.outbox.wake();
        }
    }

    /// The session is over: all topics are told.
    pub(super) fn end(&mut self) {
        self.hand_over();
        for slot in self.topics.drain(..).flatten() {
            let ended = Event::SessionEnded { session: self.session };
            // A closed topic knows nobody any more.
            let _ = slot.inbox.push(Entry::Event(ended));
        }
        self.shared.published.give_back(std::mem::take(&mut self.unconfirmed_bytes));
        self.slots.clear();
        self.producers.clear();
        self.subscriptions.clear();
    }

    /// The slot of a topic, which is made where that is allowed.
    fn slot(&mut self, topic: &TopicName) -> Result<usize, Refusal> {
        if let Some(index) = self.slots.get(topic)
            && let Some(Some(slot)) = self.topics.get_mut(*index)
        {
            slot.users += 1;
            return Ok(*index);
        }
        let settings = &self.shared.settings;
        let inbox = self.shared.topic(topic, settings.auto_create_topics, settings.topic)?;
        // If it closes at once, so do the events that follow.
        let _ = inbox.push(Entry::Attach(self.session, self.outbox.clone()));
        let slot = Some(TopicSlot { inbox, events: Vec::new(), users: 1 });
        let index = match self.topics.iter().position(Option::is_none) {
            Some(index) => {
                if let Some(place) = self.topics.get_mut(index) {
                    *place = slot;
                }
                index
            }
            None => {
                self.topics.push(slot);
                self.topics.len() - 1
            }
        };
        self.slots.insert(topic.clone(), index);
        Ok(index)
    }

    /// One user of a slot less; a slot without users detaches the session from the topic.
    fn leave_slot(&mut self, index: usize) {
        let Some(place) = self.topics.get_mut(index) else { return };
        let Some(slot) = place else { return };
        slot.users -= 1;
        if slot.users > 0 {
            return;
        }
        let _ = slot.inbox.push_all(&mut slot.events);
        let _ = slot.inbox.push(Entry::Event(Event::SessionEnded { session: self.session }));
        let topic = slot.inbox.topic().clone();
        *place = None;
        if self.slots.get(&topic) == Some(&index) {
            self.slots.remove(&topic);
        }
    }

    fn tell(&mut self, index: usize, event: Event) {
        if let Some(Some(slot)) = self.topics.get_mut(index) {
            if slot.events.is_empty() {
                self.touched.push(index);
            }
            slot.events.push(event);
        }
    }

    /// Says something of the session's own, behind what topics have said so far.
    fn reply(&mut self, reply: Reply) {
        self.outbox.push_reply(reply);
        self.spoke = true;
    }

    const fn producer(&self, handle: u32) -> ProducerId {
        ProducerId { session: self.session, handle }
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

fn refusal_of(records: &Records, message_bytes_max: u32) -> Option<Refusal> {
    let largest = records.largest();
    if largest > message_bytes_max as usize {
        let detail = format!("a message of {largest} bytes; the limit is {message_bytes_max}");
        return Some(Refusal::new(RefusalCode::MessageTooLarge, detail));
    }
    let error: RecordsError = records.verify().err()?;
    Some(Refusal::new(RefusalCode::Damaged, error.to_string()))
}

fn in_use(what: &str, handle: u32) -> Refusal {
    Refusal::new(RefusalCode::HandleInUse, format!("{what} {handle} is open already"))
}

fn limit(what: &str, max: u32) -> Refusal {
    Refusal::new(RefusalCode::LimitReached, format!("a stream may have {max} {what} at a time"))
}

fn credit_refusal(credit: Credit, max: Credit) -> Refusal {
    let detail = format!(
        "credit for {} messages and {} bytes; the limit is {} messages and {} bytes",
        credit.messages, credit.bytes, max.messages, max.bytes
    );
    Refusal::new(RefusalCode::OutOfRange, detail)
}

fn name_of(frame: &Frame) -> &'static str {
    match frame {
        Frame::Hello(_) => "a second hello",
        Frame::Welcome(_) => "a welcome",
        Frame::Goodbye { .. } => "a goodbye",
        _ => "a broker's answer",
    }
}

/// Operators' requests of one session that may be under way at a time.
const REQUESTS_MAX: u32 = 16;
/// Room for this many events is kept for each topic between reads.
const EVENTS_KEPT: usize = 16;
