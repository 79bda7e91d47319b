//! One topic of one node, brought to a destination: [`Forwarder`].

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use ltq_client::{Backoff, ConsumeError, Consumer, Delivery, RequestError};
use ltq_core::{Entropy as _, Refusal, RefusalCode, SystemEntropy};
use ltq_discovery::NodeId;
use thiserror::Error;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    Destination, Failure, Garbled, Memory, Passage, Place, Refused, Rules, Share, Source, Status,
    TopicFigures,
    figures::{add, count},
    ledger::{Kept, Ledger, News, Outcome, Parcel},
    outlet::{Answer, Outlet},
};

/// Brings the messages of one topic of one node to a destination, each of them at least once.
///
/// A message is acked at the source when the destination has confirmed it, and not before. So the channel at
/// the source knows what is still to be done, and whoever takes it up, after whatever crash, goes on there.
/// What may be stored twice is what was sent and not acked then: at most as much as the [share](Share). A
/// forwarder that lives on remembers what it has forwarded, and forwards none of it again for a connection
/// that was lost; its [`Memory`] goes on to the next one of its topic and node.
///
/// Messages go in the order in which the source gives them: to a lone consumer that of its log. Where one
/// fails, none is sent before all that were sent are answered, and then those that failed go first, one by
/// one until they are stored. So what failed comes behind what was under way with it, and before everything
/// else.
///
/// While the destination is away, what was taken is kept and touched, and nothing more is taken than the
/// share.
#[derive(Debug)]
pub struct Forwarder {
    source: Source,
    rules: Rules,
    share: Share,
    figures: Arc<TopicFigures>,
    memory: Memory,
    outlet: Outlet,
    park: Option<Outlet>,
    backoff: Backoff,
}

/// Why a forwarder has ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Ended {
    /// It was told to.
    #[error("stopped")]
    Stopped,
    /// There is no such topic any more.
    #[error("the topic is gone: {0}")]
    Gone(Refusal),
    /// The source's client was closed.
    #[error("the client was closed")]
    Closed,
}

/// Something failed; until when to wait before a message is sent again.
struct Trouble {
    failures: u32,
    until: Instant,
    /// One message is under way, to see whether it is over.
    is_tried: bool,
}

impl Forwarder {
    /// A forwarder that does nothing before it is [run](Self::run).
    #[must_use]
    pub fn new(
        source: Source,
        destination: Destination,
        rules: Rules,
        share: Share,
        figures: Arc<TopicFigures>,
    ) -> Self {
        let window = share.credit_max();
        let park = match &rules.refused {
            Refused::Hold | Refused::Skip => None,
            Refused::Park(topic) => {
                let (client, topic) = (source.client.clone(), topic.clone());
                let there = Destination::Node { client, topic, durability: None };
                Some(Outlet::new(there, window))
            }
        };
        let outlet = Outlet::new(destination, window);
        let backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        let memory = Memory::default();
        Self { source, rules, share, figures, memory, outlet, park, backoff }
    }

    /// Goes on with what another one remembers. Default: nothing.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Waits so long after failures. Default: from 100 ms to 10 s.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Forwards until `stop` becomes true, or there is no such topic. Then it takes nothing more, waits until
    /// what was sent is answered, gives back what was not, and waits until the source knows all of that.
    ///
    /// # Cancellation
    /// Dropped, it gives back at once what is not acked; of that the destination may have some.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Ended {
        loop {
            let consumer = match self.subscribe(&mut stop).await {
                Ok(consumer) => consumer,
                Err(ended) => return ended,
            };
            match self.forward(consumer, &mut stop).await {
                Ok(()) => {
                    if let Err(ended) = self.pause(1, &mut stop).await {
                        return ended;
                    }
                }
                Err(ended) => return ended,
            }
        }
    }

    /// Subscribes, for as long as it takes.
    async fn subscribe(&mut self, stop: &mut watch::Receiver<bool>) -> Result<Consumer, Ended> {
        for failures in 1.. {
            let Source { client, topic, channel, start, .. } = &self.source;
            let credit = self.share.credit();
            let opening = client
                .consumer_builder(topic, channel)
                .start(*start)
                .credit(credit.messages, credit.bytes)
                .seat(self.memory.seat())
                .open();
            let error = tokio::select! {
                biased;
                () = told(stop) => return Err(Ended::Stopped),
                opened = opening => match opened {
                    Ok(consumer) => return Ok(consumer),
                    Err(error) => error,
                },
            };
            match error {
                RequestError::Closed { .. } => return Err(Ended::Closed),
                error => match error.refusal().filter(|refusal| is_gone(refusal.code)) {
                    Some(refusal) => return Err(Ended::Gone(refusal.clone())),
                    None => self.failed(Status::Waiting(error.to_string())),
                },
            }
            self.pause(failures, stop).await?;
        }
        Err(Ended::Stopped)
    }

    /// Forwards what comes. Returns when the subscription is over and another one may be made.
    async fn forward(
        &mut self,
        mut consumer: Consumer,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), Ended> {
        let mut ledger = Ledger::new(
            &self.rules.refused,
            std::mem::take(&mut self.memory),
            self.share.counted().clone(),
        );
        let mut trouble: Option<Trouble> = None;
        let mut is_stopping = false;
        let mut over: Option<Refusal> = None;
        let mut touches = interval((consumer.timeout() / 3).max(TOUCH_MIN));
        touches.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = interval(LOOK_PAUSE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.figures.set_status(Status::Forwarding);
        while !((is_stopping || over.is_some()) && !ledger.has_sent()) {
            self.figures.set_unconfirmed(ledger.len());
            if trouble.is_some() && ledger.len() == 0 {
                // What was in trouble became void, and comes again.
                trouble = None;
                self.figures.set_status(Status::Forwarding);
            }
            let is_ending = is_stopping || over.is_some();
            let is_due = trouble.as_ref().is_none_or(|trouble| {
                !trouble.is_tried && !ledger.has_sent() && trouble.until <= Instant::now()
            });
            // None is taken from the ledger before it was given away.
            let next = if is_ending || !is_due { None } else { ledger.next() };
            let has_next = next.is_some();
            let waits_until = trouble.as_ref().filter(|_| !is_due && !ledger.has_sent());
            let waits_until = waits_until.map_or_else(Instant::now, |trouble| trouble.until);
            let credit = self.share.credit();
            tokio::select! {
                biased;
                () = told(stop), if !is_stopping => is_stopping = true,
                outcome = ledger.answered(), if ledger.has_sent() => {
                    let mut outcome = Some(outcome);
                    while let Some(one) = outcome {
                        self.settle(one, &mut trouble);
                        outcome = ledger.try_answered();
                    }
                }
                _ = touches.tick() => ledger.touch(),
                credit = self.share.changed() => {
                    consumer.set_credit(credit);
                    ledger.remember(credit);
                }
                _ = looks.tick(), if ledger.has_sent() => self.look_at_time(&ledger),
                given = give(&mut self.outlet, &mut self.park, next), if has_next => {
                    match given {
                        Ok(answer) => {
                            ledger.sent(answer);
                            match &mut trouble {
                                Some(trouble) => trouble.is_tried = true,
                                None => self.fill(&mut ledger),
                            }
                        }
                        Err(failure) => {
                            let outcome = ledger.not_taken(failure);
                            self.settle(outcome, &mut trouble);
                        }
                    }
                }
                () = sleep_until(waits_until), if !is_due && !ledger.has_sent() => {}
                batch = consumer.next_batch(TAKE_MAX),
                    if !is_ending && ledger.has_room(credit) => match batch {
                    Some(Ok(batch)) => {
                        let name = self.source.name();
                        for delivery in batch.into_deliveries() {
                            match delivery {
                                Ok(delivery) => self.take(delivery, &name, &mut ledger),
                                Err(error) => self.unreadable(&error),
                            }
                        }
                        if trouble.is_none() {
                            self.fill(&mut ledger);
                        }
                    }
                    Some(Err(ConsumeError::Ended(refusal))) => over = Some(refusal),
                    Some(Err(error)) => self.unreadable(&error),
                    None => return Err(Ended::Closed),
                },
            }
        }
        self.figures.set_unconfirmed(0);
        // What was not sent is given back, before the end of the subscription is confirmed.
        self.memory = ledger.into_memory();
        if over.as_ref().is_some_and(|refusal| is_anew(refusal.code)) {
            self.memory.forget();
        }
        match over {
            Some(refusal) if is_gone(refusal.code) => Err(Ended::Gone(refusal)),
            Some(refusal) if !is_stopping => {
                self.failed(Status::Waiting(refusal.to_string()));
                Ok(())
            }
            _ => {
                // A node that is not there confirms nothing, and another forwarder may be waiting for this end.
                let is_there = self.source.client.state().borrow().is_connected();
                if is_there && let Err(error) = consumer.close().await {
                    debug!(%error, "the last acks may be lost");
                }
                Err(Ended::Stopped)
            }
        }
    }

    /// Takes a delivery in. The node has this name.
    fn take(&self, delivery: Delivery, name: &NodeId, ledger: &mut Ledger) {
        let delivery = match ledger.look(delivery) {
            News::New(delivery) => delivery,
            News::Held => return,
            News::Done => return count(&self.figures.route().skipped_repeat),
        };
        let figures = self.figures.route();
        if !self.rules.headers.iter().all(|filter| filter.matches(&delivery.message)) {
            return self.skip(delivery, &figures.skipped_filter);
        }
        let Some(sites) = &self.rules.sites else { return ledger.hold(delivery, None) };
        let topic = &self.source.topic;
        let (offset, time) = (delivery.offset(), delivery.time());
        match sites.pass(&delivery.message, Place { node: name, topic, offset, time }) {
            Passage::On { stamp, garbled } => {
                if let Some(garbled) = garbled {
                    self.garbled(&delivery, garbled);
                }
                ledger.hold(delivery, Some(stamp));
            }
            Passage::Back => self.skip(delivery, &figures.skipped_loop),
            Passage::TooFar => {
                let node = &self.source.node;
                if figures.skipped_hops.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                    warn!(%node, %topic, %offset, "a message has passed as many sites as it may; is \
                          a site called by two names?");
                }
                self.skip(delivery, &figures.skipped_hops);
            }
        }
    }

    fn skip(&self, delivery: Delivery, figure: &std::sync::atomic::AtomicU64) {
        count(figure);
        if delivery.ack().is_err() {
            count(&self.figures.route().late_acks);
        }
    }

    fn garbled(&self, delivery: &Delivery, garbled: Garbled) {
        count(&self.figures.route().garbled_origins);
        let (node, topic) = (&self.source.node, &self.source.topic);
        debug!(%node, %topic, offset = %delivery.offset(), %garbled, "forwarded as from nowhere else");
    }

    fn unreadable(&self, error: &ConsumeError) {
        count(&self.figures.route().unreadable);
        let (node, topic) = (&self.source.node, &self.source.topic);
        debug!(%node, %topic, %error, "a message stays at the source");
    }

    /// Gives away what can be without waiting.
    fn fill(&mut self, ledger: &mut Ledger) {
        while let Some(next) = ledger.next() {
            match give(&mut self.outlet, &mut self.park, Some(next)).now_or_never() {
                Some(Ok(answer)) => ledger.sent(answer),
                // A failure comes again where it is looked at.
                Some(Err(_)) | None => return,
            }
        }
    }

    fn settle(&mut self, outcome: Outcome, trouble: &mut Option<Trouble>) {
        let figures = self.figures.route();
        let ack = match outcome {
            Outcome::Stored { bytes, time, was_parked, ack } => {
                if was_parked {
                    count(&figures.parked);
                } else {
                    count(&figures.forwarded);
                    add(&figures.forwarded_bytes, bytes);
                }
                self.figures.set_reached(time);
                ack
            }
            Outcome::Skipped { why, ack } => {
                count(&figures.refusals);
                count(&figures.skipped_refused);
                let (node, topic) = (&self.source.node, &self.source.topic);
                warn!(%node, %topic, why, "refused for good and skipped");
                ack
            }
            Outcome::Kept(kept) => return self.fail(kept, trouble),
        };
        if ack.is_err() {
            count(&figures.late_acks);
        }
        if trouble.as_ref().is_none_or(|trouble| trouble.is_tried) {
            *trouble = None;
            if self.figures.set_status(Status::Forwarding) {
                let (node, topic) = (&self.source.node, &self.source.topic);
                info!(%node, %topic, "forwarding again");
            }
        }
    }

    fn fail(&mut self, kept: Kept, trouble: &mut Option<Trouble>) {
        let refusals = &self.figures.route().refusals;
        let status = match kept {
            Kept::OtherWay(why) => {
                count(refusals);
                let (node, topic) = (&self.source.node, &self.source.topic);
                info!(%node, %topic, why, "set aside");
                None
            }
            Kept::Held(why) => {
                count(refusals);
                Some(Status::Held(why))
            }
            Kept::Later(why) => {
                // What is wrong may be with the producer: its topic was deleted, say.
                self.outlet.close();
                self.park.iter_mut().for_each(Outlet::close);
                Some(Status::Waiting(why))
            }
        };
        let failures = match trouble {
            // Those that were under way with the first one that failed are of the same failure.
            Some(trouble) if !trouble.is_tried => return,
            Some(trouble) => trouble.failures.saturating_add(1),
            None => 1,
        };
        // Another way is tried at once.
        let wait = match &status {
            Some(_) => self.backoff.wait(failures, SystemEntropy.next()),
            None => Duration::ZERO,
        };
        *trouble = Some(Trouble { failures, until: Instant::now() + wait, is_tried: false });
        if let Some(status) = status {
            self.failed(status);
        }
    }

    /// Says that nothing is heard of what was sent.
    fn look_at_time(&self, ledger: &Ledger) {
        let age = ledger.oldest_sent().map(|since| since.elapsed()).unwrap_or_default();
        if age >= SILENCE {
            let (status, _) = self.figures.status();
            if status == Status::Forwarding {
                let why = "the destination does not answer".to_owned();
                self.say(Status::Waiting(why));
            }
        }
    }

    fn failed(&self, status: Status) {
        count(&self.figures.route().failures);
        self.say(status);
    }

    fn say(&self, status: Status) {
        let (node, topic) = (&self.source.node, &self.source.topic);
        let (word, why) = (status.word(), status.why().unwrap_or_default().to_owned());
        if self.figures.set_status(status) {
            warn!(%node, %topic, why, "{word}; trying again");
        }
    }

    async fn pause(
        &mut self,
        failures: u32,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), Ended> {
        let wait = self.backoff.wait(failures, SystemEntropy.next());
        tokio::select! {
            biased;
            () = told(stop) => Err(Ended::Stopped),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }
}

/// Gives a message to where it goes. Cancel safe: dropped, it was not taken.
async fn give(
    outlet: &mut Outlet,
    park: &mut Option<Outlet>,
    next: Option<Parcel>,
) -> Result<Answer, Failure> {
    match (next, park) {
        (Some(Parcel { message, is_aside: true }), Some(park)) => park.take(message).await,
        (Some(Parcel { message, .. }), _) => outlet.take(message).await,
        (None, _) => std::future::pending().await,
    }
}

/// Waits until `stop` becomes true. Cancel safe.
pub(super) async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody can tell any more, which is the end as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Whether a refusal says that there is no such topic.
const fn is_gone(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::NoSuchTopic | RefusalCode::TopicDeleted)
}

/// Whether what comes next is to be forwarded whatever was before: the topic is another one, or whoever
/// deleted the channel wants it all again.
const fn is_anew(code: RefusalCode) -> bool {
    is_gone(code) || matches!(code, RefusalCode::ChannelDeleted | RefusalCode::NoSuchChannel)
}

/// The header of a message that was moved aside that says why.
pub const REFUSED_HEADER: &str = "ltq-bridge-refused";

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How many are taken from the consumer at once: a turn of the task is short.
const TAKE_MAX: usize = 512;
/// A consumer's timeout that is next to nothing must not become work without an end.
const TOUCH_MIN: Duration = Duration::from_millis(10);
/// How often it is looked whether answers come.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// After how long without an answer it is said that there is none.
const SILENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
#[path = "forwarder_tests/mod.rs"]
mod tests;
