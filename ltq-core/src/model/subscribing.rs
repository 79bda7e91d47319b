//! Consumers come, grant credit, settle and leave.

use std::{mem, time::Duration};

use super::{
    Claim, Command, ConsumerId, LoadTicket, Reply, RequestId, SessionId, Topic, TopicAction,
    channels::Index,
    in_flight::{InFlight, Slot},
    stale_tags::StaleTags,
    topic::Stage,
    wish::Wish,
};
use crate::{
    AdminResponse, ChannelName, Credit, Limit, Offset, Refusal, RefusalCode, Settlement, StartAt,
    StoreError,
};

/// What a consumer's number stands for.
#[derive(Debug)]
pub(super) enum Subscription {
    /// It is in its channel.
    Active { channel: Index, slot: Slot },
    /// Its channel does not exist yet.
    Waiting(Box<Waiting>),
}

/// What a consumer has said before its channel exists.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Tells this wait from an earlier one under the same number.
    serial: u64,
    timeout: Duration,
    credit: Credit,
    claim: Option<Box<Claim>>,
}

impl Topic {
    pub(super) fn subscribe(
        &mut self,
        consumer: ConsumerId,
        (channel, start, create): (ChannelName, StartAt, bool),
        timeout: Option<Duration>,
        credit: Credit,
        claim: Option<Claim>,
    ) {
        let timeout = timeout.unwrap_or(self.limits.delivery_timeout);
        if let Err(refusal) = self.may_subscribe(consumer, timeout) {
            let handle = consumer.handle;
            return self.reply(consumer.session, Reply::SubscribeRefused { handle, refusal });
        }
        self.last_serial += 1;
        let serial = self.last_serial;
        let credit = credit.at_most(self.limits.credit_max);
        let waiting = Waiting { serial, timeout, credit, claim: claim.map(Box::new) };
        self.consumers.insert(consumer, Subscription::Waiting(Box::new(waiting)));
        if let Some(index) = self.channels.find(&channel) {
            return self.join(index, consumer, serial);
        }
        self.wish_at(start, create, |start| Wish::Subscribe {
            consumer,
            serial,
            channel,
            start,
            create,
        });
    }

    fn may_subscribe(&self, consumer: ConsumerId, timeout: Duration) -> Result<(), Refusal> {
        if let Some(refusal) = self.closed() {
            return Err(refusal);
        }
        if self.consumers.contains_key(&consumer) {
            let detail = format!("subscription {} is open already", consumer.handle);
            return Err(Refusal::new(RefusalCode::HandleInUse, detail));
        }
        let longest = self.limits.delivery_timeout_max;
        if timeout.is_zero() || timeout > longest {
            let detail = format!(
                "a delivery timeout of {timeout:?} was asked for; it must be more than 0 and at \
                 most {longest:?}"
            );
            return Err(Refusal::new(RefusalCode::OutOfRange, detail));
        }
        Ok(())
    }

    /// Queues a wish that may have to know the offset of a time first.
    fn wish_at(&mut self, start: StartAt, create: bool, wish: impl FnOnce(StartAt) -> Wish) {
        let has_records = self.stage == Stage::Live && self.bounds.first < self.bounds.end;
        match start {
            StartAt::Time(time) if create && has_records => {
                let ticket = self.window.ticket();
                self.locating.push((ticket, wish(start)));
                self.out.push_back(Command::Locate { ticket, time });
            }
            // As a look-up would say; what is being stored comes behind it.
            StartAt::Time(_) => self.wishes.push_back(wish(StartAt::Offset(self.bounds.end))),
            start => self.wishes.push_back(wish(start)),
        }
    }

    pub(super) fn located(&mut self, ticket: LoadTicket, result: Result<Offset, StoreError>) {
        let Some(index) = self.locating.iter().position(|(asked, _)| *asked == ticket) else {
            return;
        };
        let (_, mut wish) = self.locating.swap_remove(index);
        let refusal = match result {
            Ok(offset) => {
                match &mut wish {
                    Wish::Subscribe { start, .. }
                    | Wish::Admin { action: TopicAction::CreateChannel(_, start), .. } => {
                        *start = StartAt::Offset(offset);
                    }
                    _ => {}
                }
                return self.wishes.push_back(wish);
            }
            Err(error) => {
                let detail = format!("looking up a time in topic {}: {error}", self.name);
                Refusal::new(RefusalCode::Internal, detail)
            }
        };
        match wish {
            Wish::Subscribe { consumer, serial, .. } => {
                self.refuse_subscriber(consumer, serial, refusal);
            }
            Wish::Admin { request, .. } => self.answer(request, Err(refusal)),
            _ => {}
        }
    }

    /// Lets a waiting consumer into its channel.
    pub(super) fn join(&mut self, index: Index, consumer: ConsumerId, serial: u64) {
        let claim = match self.consumers.get(&consumer) {
            Some(Subscription::Waiting(waiting)) => waiting.claim.clone(),
            Some(Subscription::Active { .. }) | None => return,
        };
        if let Some(claim) = &claim
            && let Err(refusal) = self.take_seat(index, claim)
        {
            return self.refuse_subscriber(consumer, serial, refusal);
        }
        let limit = self.limits.consumers_max;
        let Some(channel) = self.channels.get_mut(index) else { return };
        if channel.consumers.count() >= limit {
            let detail = format!(
                "channel {} of topic {} has {limit} consumers, the most it may",
                channel.name, self.name
            );
            let refusal = Refusal::limit(Limit::Consumers, detail);
            return self.refuse_subscriber(consumer, serial, refusal);
        }
        let Some(Subscription::Waiting(waiting)) = self.consumers.get(&consumer) else { return };
        let &Waiting { timeout, credit, .. } = &**waiting;
        let slot = channel.join(consumer, (timeout, claim), credit, &self.limits);
        self.consumers.insert(consumer, Subscription::Active { channel: index, slot });
        self.channels.touch(index);
        let handle = consumer.handle;
        self.reply(consumer.session, Reply::Subscribed { handle, timeout });
    }

    /// Ends the subscription that has a seat, for the one that claims it now, which lost the connection of
    /// the one before. What that one had goes back before the new one gets anything, so that it comes first.
    fn take_seat(&mut self, index: Index, claim: &Claim) -> Result<(), Refusal> {
        let Some(channel) = self.channels.get_mut(index) else { return Ok(()) };
        let Some((slot, sitting)) = channel.consumers.seated(claim) else { return Ok(()) };
        let turn = sitting.claim.as_ref().map_or(0, |claim| claim.seat.turn);
        let (channel_name, topic) = (&channel.name, &self.name);
        if turn > claim.seat.turn {
            let detail = format!(
                "channel {channel_name} of topic {topic}: the seat was taken over by a later subscription"
            );
            return Err(Refusal::new(RefusalCode::Fenced, detail));
        }
        let detail = format!(
            "channel {channel_name} of topic {topic}: a later subscription has taken over the seat"
        );
        // The channel does not vanish for it, though it be ephemeral: somebody comes in its place.
        if let Some(id) = channel.leave(slot) {
            self.consumers.remove(&id);
            self.closed_subscription(id, Some(Refusal::new(RefusalCode::Fenced, detail)));
        }
        Ok(())
    }

    /// Whether a consumer still waits as it did when it got this serial number.
    pub(super) fn still_waits(&self, consumer: ConsumerId, serial: u64) -> bool {
        match self.consumers.get(&consumer) {
            Some(Subscription::Waiting(waiting)) => waiting.serial == serial,
            _ => false,
        }
    }

    pub(super) fn refuse_subscriber(
        &mut self,
        consumer: ConsumerId,
        serial: u64,
        refusal: Refusal,
    ) {
        if self.still_waits(consumer, serial) {
            self.consumers.remove(&consumer);
            let handle = consumer.handle;
            self.reply(consumer.session, Reply::SubscribeRefused { handle, refusal });
        }
    }

    pub(super) fn grant(&mut self, consumer: ConsumerId, total: Credit) {
        let credit_max = self.limits.credit_max;
        let taken_back = match self.consumers.get_mut(&consumer) {
            Some(&mut Subscription::Active { channel: index, slot }) => {
                let Some(channel) = self.channels.get_mut(index) else { return };
                let taken_back = channel.consumers.grant(slot, total, credit_max);
                self.channels.touch(index);
                taken_back
            }
            Some(Subscription::Waiting(waiting)) => {
                let total = total.at_most(credit_max);
                let before = mem::replace(&mut waiting.credit, total);
                (!before.is_within(total)).then_some(total)
            }
            None => None,
        };
        if let Some(total) = taken_back {
            let handle = consumer.handle;
            self.reply(consumer.session, Reply::Credited { handle, total });
        }
    }

    pub(super) fn release(&mut self, consumer: ConsumerId) {
        if let Some(&Subscription::Active { channel: index, slot }) = self.consumers.get(&consumer)
            && let Some(channel) = self.channels.get_mut(index)
        {
            channel.consumers.release(slot);
            self.channels.touch(index);
        }
    }

    pub(super) fn leave_alone(&mut self, consumer: ConsumerId) {
        if let Some(&Subscription::Active { channel: index, slot }) = self.consumers.get(&consumer)
            && let Some(channel) = self.channels.get_mut(index)
        {
            channel.consumers.leave_alone(slot);
            self.channels.touch(index);
        }
    }

    pub(super) fn settle(
        &mut self,
        consumer: ConsumerId,
        request: u32,
        settlements: &[Settlement],
    ) {
        let stale = match self.consumers.get(&consumer) {
            Some(&Subscription::Active { channel: index, slot }) => {
                let Some(channel) = self.channels.get_mut(index) else { return };
                let (now, limits) = (self.now.monotonic, &*self.limits);
                let stale = channel.settle(slot, settlements, now, limits, &mut self.scratch);
                self.channels.touch(index);
                stale
            }
            // It has nothing in flight, so that nothing of this can be.
            Some(Subscription::Waiting(_)) | None => {
                let mut stale = StaleTags::default();
                for settlement in settlements {
                    let tags = settlement.tags;
                    InFlight::default().take(0, tags, &mut self.scratch, &mut stale);
                }
                stale
            }
        };
        if request != 0 || !stale.is_empty() {
            let (handle, stale) = (consumer.handle, stale.finish());
            self.reply(consumer.session, Reply::Settled { handle, request, stale });
        }
    }

    pub(super) fn unsubscribe(&mut self, consumer: ConsumerId) {
        let Some(subscription) = self.consumers.remove(&consumer) else { return };
        // It is told before anyone gets what it had.
        self.closed_subscription(consumer, None);
        if let Subscription::Active { channel, slot } = subscription {
            self.leave(channel, slot);
        }
    }

    pub(super) fn session_ended(&mut self, session: SessionId) {
        for consumer in self.consumers_of(session) {
            if let Some(Subscription::Active { channel, slot }) = self.consumers.remove(&consumer) {
                self.leave(channel, slot);
            }
        }
        // Producers go behind what they have published.
        if !self.wishes.is_empty() || !self.producers.of(session).is_empty() {
            self.wishes.push_back(Wish::SessionEnded(session));
        }
    }

    fn consumers_of(&self, session: SessionId) -> Vec<ConsumerId> {
        let first = ConsumerId { session, handle: 0 };
        let last = ConsumerId { session, handle: u32::MAX };
        self.consumers.range(first..=last).map(|(&id, _)| id).collect()
    }

    /// Takes back what a consumer had.
    pub(super) fn leave(&mut self, index: Index, slot: Slot) {
        if let Some(channel) = self.channels.get_mut(index) {
            channel.leave(slot);
            self.channels.touch(index);
            self.drop_if_abandoned(index);
        }
    }

    pub(super) fn closed_subscription(&mut self, consumer: ConsumerId, refusal: Option<Refusal>) {
        let handle = consumer.handle;
        self.reply(consumer.session, Reply::SubscriptionClosed { handle, refusal });
    }

    /// Removes an ephemeral channel that has no consumers.
    pub(super) fn drop_if_abandoned(&mut self, index: Index) {
        let abandoned = |channel: &super::channel::Channel| {
            channel.name.is_ephemeral() && channel.consumers.count() == 0
        };
        if self.channels.get(index).is_some_and(abandoned) {
            self.drop_channel(index);
        }
    }

    /// Removes a channel and tells its consumers.
    pub(super) fn drop_channel(&mut self, index: Index) {
        let Some(channel) = self.channels.remove(index) else { return };
        let detail = format!("channel {} of topic {} was deleted", channel.name, self.name);
        let refusal = Refusal::new(RefusalCode::ChannelDeleted, detail);
        for consumer in channel.consumers.iter() {
            self.consumers.remove(&consumer.id);
            self.closed_subscription(consumer.id, Some(refusal.clone()));
        }
        if self.channels.is_empty() {
            self.vanish_if_ephemeral();
        } else {
            self.list_truncation();
        }
    }

    /// Whether a channel that is there is about to be deleted.
    fn is_going(&self, name: &ChannelName) -> bool {
        let goes = |wish: &Wish| match wish {
            Wish::Admin { action: TopicAction::DeleteChannel(going), .. } => going == name,
            _ => false,
        };
        self.commit.dropping.contains(name) || self.wishes.iter().any(goes)
    }

    pub(super) fn admin(&mut self, request: RequestId, action: TopicAction) {
        match action {
            TopicAction::Show => {
                let stats = AdminResponse::Topic(Box::new(self.stats()));
                self.answer(Some(request), Ok(stats));
            }
            action => match self.closed() {
                Some(refusal) => self.answer(Some(request), Err(refusal)),
                None => {
                    let request = Some(request);
                    match action {
                        TopicAction::CreateChannel(name, start)
                            if self.channels.find(&name).is_none() || self.is_going(&name) =>
                        {
                            self.wish_at(start, true, |start| Wish::Admin {
                                request,
                                action: TopicAction::CreateChannel(name, start),
                            });
                        }
                        action => self.wishes.push_back(Wish::Admin { request, action }),
                    }
                }
            },
        }
    }
}
