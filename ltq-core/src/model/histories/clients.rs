//! What clients and operators do.

use std::time::Duration;

use super::{
    body,
    history::{History, consumer},
    scenario::{PRODUCERS, Part, Start, Terms},
    starts::Asks,
};
use crate::{
    Credit, Durability, Message, Offset, Records, Refusal, RefusalCode, Seat, Settlement, StartAt,
    Tag, TagRange, Timestamp,
    model::{Claim, ConsumerId, Event, RequestId, SessionId, TopicAction, testing::channel},
};

impl History {
    pub(super) fn admin(&mut self, action: TopicAction) {
        self.requests += 1;
        let request = self.requests;
        self.oracle.answers.requests(request, action.clone());
        self.tell(Event::Admin { request: RequestId { session: OPERATOR, request }, action });
    }

    pub(super) fn create_channel(&mut self, name: &str, start: Start) {
        let (start, asks) = self.start_at(start);
        let is_there = self.oracle.channels.contains_key(name);
        let goes =
            channel(name).is_ephemeral() || self.oracle.answers.is_being_deleted(&channel(name));
        if !is_there || goes {
            let log = (self.oracle.first_kept(), self.oracle.end());
            self.oracle.starts.asks(name, asks, log);
        }
        self.admin(TopicAction::CreateChannel(channel(name), start));
    }

    fn start_at(&self, start: Start) -> (StartAt, Asks) {
        let end = self.oracle.end();
        match start {
            Start::Earliest => (StartAt::Earliest, Asks::Earliest),
            Start::Latest => (StartAt::Latest, Asks::Latest),
            Start::Back(back) => {
                let offset = if back == 0 { end + 10 } else { end.saturating_sub(back) };
                (StartAt::Offset(Offset(offset)), Asks::Offset(offset))
            }
            Start::Ago(ago) => {
                let time = Timestamp(self.world.now.wall.0.saturating_add_signed(-ago));
                (StartAt::Time(time), Asks::Time(self.first_of(time)))
            }
        }
    }

    pub(super) fn open(&mut self, index: usize, resume: bool) {
        self.lives += 1;
        let publisher = &mut self.publishers[index];
        // The last one has no name, and is another one each time.
        let name = match index + 1 < PRODUCERS {
            true => Some(publisher.name(index)),
            false if publisher.asked => return,
            false => None,
        };
        publisher.prefix = match &name {
            Some(name) => format!("{name}-"),
            None => format!("life{}-", self.lives),
        };
        let epoch = (resume && name.is_some() && publisher.epoch > 0).then_some(publisher.epoch);
        publisher.session = self.lives;
        publisher.used.clone_from(&name);
        self.names.extend(name.clone());
        (publisher.open, publisher.asked, publisher.next) = (false, true, 1);
        let producer = publisher.id(index);
        self.oracle.answers.opens(producer);
        self.tell(Event::OpenProducer { producer, name, epoch, seat: None });
    }

    pub(super) fn close(&mut self, index: usize, forget: bool) {
        let publisher = &mut self.publishers[index];
        if std::mem::take(&mut publisher.open) {
            publisher.asked = false;
            let producer = publisher.id(index);
            if forget && index + 1 < PRODUCERS {
                // The last commit may be on its way already.
                if !self.stopping {
                    self.given_up.extend(publisher.used.take());
                }
                (publisher.names, publisher.epoch) = (publisher.names + 1, 0);
            }
            self.tell(Event::CloseProducer { producer, forget });
        }
    }

    pub(super) fn producer_gone(&mut self, index: usize) {
        let publisher = &mut self.publishers[index];
        if std::mem::take(&mut publisher.asked) {
            publisher.open = false;
            let session = publisher.session();
            self.oracle.answers.gone(session);
            self.tell(Event::SessionEnded { session });
        }
    }

    /// Ends the session of any producer that ever was.
    pub(super) fn producer_gone_of(&mut self, life: u64) {
        let session = SessionId(1_000 + life);
        self.oracle.answers.gone(session);
        self.tell(Event::SessionEnded { session });
    }

    pub(super) fn publish(
        &mut self,
        index: usize,
        sequence: u64,
        count: u64,
        durability: Option<Durability>,
    ) {
        let publisher = &mut self.publishers[index];
        if !publisher.open {
            return;
        }
        publisher.next = publisher.next.max(sequence + count);
        let (producer, prefix) = (publisher.id(index), publisher.prefix.clone());
        let usual = self.settings.durability.min(self.world.reach);
        let least = durability.unwrap_or(usual);
        self.oracle.answers.published(producer, &prefix, (sequence, count), least);
        let bodies: Vec<String> = (sequence..sequence + count).map(|n| body(&prefix, n)).collect();
        bodies.iter().for_each(|body| self.oracle.starts.published(body));
        let messages: Vec<Message> = bodies.into_iter().map(Message::new).collect();
        let records = Records::encode(&messages);
        self.tell(Event::Publish { producer, sequence, durability, records });
        if !self.world.hold_commits && self.gathering == 0 {
            let last = self.oracle.last_sequence(&prefix);
            self.publishers[index].next = last + 1;
        }
    }

    pub(super) fn refuse_publish(&mut self, index: usize) {
        let publisher = &self.publishers[index];
        if publisher.open {
            let (producer, sequence) = (publisher.id(index), publisher.next);
            let prefix = publisher.prefix.clone();
            let open = (sequence, 2);
            self.oracle.answers.published(producer, &prefix, open, Durability::Memory);
            // A code that says nothing of whether it is stored: it may be a repeat.
            let refusal = Refusal::new(RefusalCode::Stopping, "a test said so");
            self.tell(Event::RefusePublish { producer, sequence, count: 2, refusal });
        }
    }

    pub(super) fn subscribe(
        &mut self,
        index: usize,
        name: &str,
        start: Start,
        create: bool,
        terms: Terms,
    ) {
        let consumer = consumer(index);
        if self.oracle.consumers.contains_key(&consumer) {
            return;
        }
        let (start, asks) = self.start_at(start);
        if create && !self.oracle.channels.contains_key(name) {
            let log = (self.oracle.first_kept(), self.oracle.end());
            self.oracle.starts.asks(name, asks, log);
        }
        let Terms { messages, bytes, timeout_ms, seat } = terms;
        let timeout = timeout_ms.map(Duration::from_millis);
        let agreed = timeout.unwrap_or(self.oracle.limits.delivery_timeout);
        self.oracle.subscribes(consumer, name, (messages, bytes), agreed);
        let (channel, credit) = (channel(name), Credit { messages, bytes });
        let claim = seat.map(|(number, turn)| {
            self.oracle.seats.insert(consumer, (number, turn));
            let seat = Seat { number: [number; 16], turn };
            Claim { owner: "a test".into(), seat }
        });
        self.tell(Event::Subscribe { consumer, channel, start, create, timeout, credit, claim });
    }

    pub(super) fn unsubscribe(&mut self, consumer: ConsumerId) {
        if self.oracle.consumers.contains_key(&consumer) {
            self.oracle.answers.unsubscribes(consumer);
            self.oracle.leave(consumer);
        }
        self.tell(Event::Unsubscribe { consumer });
    }

    pub(super) fn grant(&mut self, consumer: ConsumerId, messages: u64, bytes: u64) {
        if let Some(known) = self.oracle.consumers.get(&consumer) {
            let granted = known.granted;
            self.credit(consumer, granted.0 + messages, granted.1 + bytes);
        }
    }

    pub(super) fn take_back(&mut self, consumer: ConsumerId, messages: u64, bytes: u64) {
        if let Some(known) = self.oracle.consumers.get(&consumer) {
            let granted = known.granted;
            let (messages, bytes) =
                (granted.0.saturating_sub(messages), granted.1.saturating_sub(bytes));
            self.credit(consumer, messages, bytes);
        }
    }

    fn credit(&mut self, consumer: ConsumerId, messages: u64, bytes: u64) {
        self.oracle.grant(consumer, messages, bytes);
        self.tell(Event::Credit { consumer, total: Credit { messages, bytes } });
        // It is answered before anything else happens, unless the topic is over.
        if !self.dark && !self.gone {
            self.oracle.check_credited(consumer);
        }
    }

    pub(super) fn settle_parts(&mut self, consumer: ConsumerId, answer: bool, parts: &[Part]) {
        let last_tag = self.oracle.consumers.get(&consumer).map_or(3, |known| known.last_tag);
        let settlement = |part: &Part| {
            let first = last_tag.saturating_sub(part.back);
            let tags = TagRange { first: Tag(first), last: Tag(first.saturating_add(part.count)) };
            Settlement { tags, verdict: part.verdict }
        };
        self.settle(consumer, answer, parts.iter().map(settlement).collect());
    }

    pub(super) fn settle(
        &mut self,
        consumer: ConsumerId,
        answer: bool,
        settlements: Vec<Settlement>,
    ) {
        let stale = self.oracle.settle(consumer, &settlements, self.world.now.monotonic);
        if answer || !stale.is_empty() {
            self.settled.push_back(stale);
        }
        self.tell(Event::Settle { consumer, request: if answer { 5 } else { 0 }, settlements });
    }
}

/// Whose requests are the operators'.
const OPERATOR: SessionId = SessionId(500);
