//! How a topic ends: deleted, vanished, or stopped with its node.

use std::time::Duration;

use super::{
    Command, Event, Gate, Reply, Topic, channels::Channels, producers::Producers,
    subscribing::Subscription, topic::Stage, window::Window, wish::Wish,
};
use crate::{Refusal, RefusalCode};

impl Topic {
    /// The node stops.
    pub(super) fn stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        self.close_consumers();
        for (_, wish) in std::mem::take(&mut self.locating) {
            if let Wish::Admin { request, .. } = wish {
                let refusal = self.closed();
                self.answer(request, Err(refusal.unwrap_or_else(|| self.deleted())));
            }
        }
        for index in self.channels.indexes() {
            if let Some(channel) = self.channels.get_mut(index) {
                // The wall clock may have stepped since these delays were stored.
                channel.put.changed |= channel.redelivery.delayed_messages() > 0;
                self.channels.touch(index);
                self.drop_if_abandoned(index);
            }
        }
    }

    /// Ends all subscriptions, giving back what they had.
    fn close_consumers(&mut self) {
        let refusal = self.closed().unwrap_or_else(|| self.deleted());
        for (consumer, subscription) in std::mem::take(&mut self.consumers) {
            match subscription {
                Subscription::Active { channel, slot } => {
                    self.closed_subscription(consumer, Some(refusal.clone()));
                    if let Some(channel) = self.channels.get_mut(channel) {
                        channel.leave(slot);
                    }
                }
                Subscription::Waiting(_) => {
                    let (handle, refusal) = (consumer.handle, refusal.clone());
                    let reply = Reply::SubscribeRefused { handle, refusal };
                    self.reply(consumer.session, reply);
                }
            }
        }
    }

    /// Nobody may need this topic any more.
    pub(super) fn vanish_if_ephemeral(&mut self) {
        if self.name.is_ephemeral() {
            self.vanish_at = Some(self.now.monotonic);
        }
    }

    /// A producer is gone, or did not come to be.
    pub(super) fn vanish_if_unused(&mut self) {
        if self.producers.open_count() == 0 && self.channels.is_empty() {
            self.vanish_if_ephemeral();
        }
    }

    /// It could not be deleted now.
    pub(super) fn vanish_later(&mut self) {
        let again = self.store.failed.is_none();
        self.vanish_at = again.then(|| self.now.monotonic.plus(VANISH_RETRY));
    }

    /// Ends the topic if it is to end and nothing stands against it: no commit is under way and
    /// nothing waits for one.
    pub(super) fn end_if_wished(&mut self, gate: &mut dyn Gate) {
        let unneeded = self.channels.is_empty() && self.consumers.is_empty();
        if self.vanish_at.is_some_and(|at| at <= self.now.monotonic) && unneeded {
            if self.stage == Stage::Live && self.store.failed.is_none() {
                let action = super::TopicAction::Delete;
                self.wishes.push_back(Wish::Admin { request: None, action });
                self.vanish_at = None;
                return self.build(gate);
            }
            self.vanish_at = None;
        }
        if !self.stopping {
            return;
        }
        let may_store = self.stage == Stage::Live && self.store.failed.is_none();
        while may_store
            && (self.states_waiting() || self.names_waiting() || self.marks_waiting())
            && !self.states_given_up()
            && !self.commit.outstanding
        {
            self.put_last_states();
        }
        if !self.commit.outstanding {
            self.stage = Stage::Over;
            self.out.push_back(Command::Stopped);
        }
    }

    /// Whether the commit under way takes its log, or took it: then a read that finds none came too late.
    pub(crate) fn is_giving_up_log(&self) -> bool {
        self.commit.deletes || self.stage == Stage::Over
    }

    /// Ends for good: tells everyone, and that the topic is gone.
    pub(super) fn end(&mut self, refusal: &Refusal) {
        let locating = std::mem::take(&mut self.locating).into_iter().map(|(_, wish)| wish);
        let wishes = std::mem::take(&mut self.wishes).into_iter();
        for wish in wishes.chain(locating) {
            match wish {
                Wish::Publish(publish) => {
                    let count = publish.records.count() as u64;
                    let refusal = refusal.clone();
                    self.tell_refused(publish.producer, publish.sequence, count, refusal);
                }
                Wish::RefusePublish { producer, sequence, count, refusal } => {
                    self.tell_refused(producer, sequence, count, refusal);
                }
                Wish::Open { producer, .. } => self.refuse_producer(producer, refusal.clone()),
                Wish::Admin { request, .. } => self.answer(request, Err(refusal.clone())),
                Wish::Close { .. } | Wish::SessionEnded(_) | Wish::Subscribe { .. } => {}
            }
        }
        for (consumer, subscription) in std::mem::take(&mut self.consumers) {
            let (handle, refusal) = (consumer.handle, refusal.clone());
            let reply = match subscription {
                Subscription::Active { .. } => {
                    Reply::SubscriptionClosed { handle, refusal: Some(refusal) }
                }
                Subscription::Waiting(_) => Reply::SubscribeRefused { handle, refusal },
            };
            self.reply(consumer.session, reply);
        }
        for producer in std::mem::take(&mut self.producers).all_open() {
            self.refuse_producer(producer, refusal.clone());
        }
        self.producers = Producers::default();
        self.channels = Channels::default();
        self.window = Window::default();
        self.wished_bytes = 0;
        self.stage = Stage::Over;
        self.out.push_back(Command::Deleted);
        if self.stopping {
            self.out.push_back(Command::Stopped);
        }
    }

    /// Answers whatever still comes after the end.
    pub(super) fn refuse_event(&mut self, event: Event) {
        let refusal = self.closed().unwrap_or_else(|| self.deleted());
        match event {
            Event::OpenProducer { producer, .. } => self.refuse_producer(producer, refusal),
            Event::Publish { producer, sequence, records, .. } => {
                self.tell_refused(producer, sequence, records.count() as u64, refusal);
            }
            Event::RefusePublish { producer, sequence, count, refusal } => {
                self.tell_refused(producer, sequence, count, refusal);
            }
            Event::Subscribe { consumer, .. } => {
                let handle = consumer.handle;
                self.reply(consumer.session, Reply::SubscribeRefused { handle, refusal });
            }
            Event::Admin { request, .. } => self.answer(Some(request), Err(refusal)),
            Event::Settle { consumer, request, settlements } => {
                self.settle(consumer, request, &settlements);
            }
            Event::Stop if !self.stopping => {
                self.stopping = true;
                self.out.push_back(Command::Stopped);
            }
            _ => {}
        }
    }

    fn deleted(&self) -> Refusal {
        Refusal::new(RefusalCode::TopicDeleted, format!("topic {} was deleted", self.name))
    }
}

/// The pause before an ephemeral topic that could not be deleted is tried again.
const VANISH_RETRY: Duration = Duration::from_secs(5);
