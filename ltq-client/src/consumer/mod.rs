//! Consuming: [`Consumer`], deliveries and their answers, and the handler runner.

mod batch;
mod builder;
mod credit;
mod delivery;
mod for_each;
mod seat;
mod settling;
mod shared;
mod watcher;

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::Stream;
use ltq_core::{ChannelName, Credit, RecordsError, TopicName};
use tokio::time::Instant;
use tracing::debug;

pub use batch::Batch;
pub use builder::ConsumerBuilder;
pub(crate) use builder::check_timeout;
pub use credit::CreditUse;
#[cfg(test)]
pub(crate) use credit::CreditWindow;
pub(crate) use credit::Marks;
pub use delivery::{Delivery, Received};
pub use for_each::{ForEach, ForEachSummary, StopHandle};
pub use seat::ConsumerSeat;
pub(crate) use shared::{ConsumerShared, End, Settings, Standing};
pub(crate) use watcher::{Changes, Watcher};

use crate::{
    ConsumeError, RequestError,
    connection::{Command, Lease, Request},
};
use batch::Part;
use delivery::{Token, requeue};
use shared::{Run, credit_bytes};

/// Takes the messages of one channel, together with the channel's other consumers.
///
/// A stream of deliveries; [`next_batch`](Self::next_batch) is the fast way, and
/// [`for_each`](Self::for_each) the comfortable one. How many deliveries may be unsettled at once
/// is the consumer's credit: the broker sends more as deliveries are settled, and not before, so
/// that memory is bounded by it.
///
/// After a lost connection the consumer subscribes again by itself. Deliveries from before are
/// void then: the broker gives their messages out again, and their answers return
/// [`StaleError`](crate::StaleError) and change nothing. It takes its own [seat](ConsumerSeat) over, so that
/// they come at once and ahead of everything new, though the broker may not know yet that the connection is lost.
///
/// A delivery's time runs from when the broker sent it. What comes faster than it is taken waits
/// here; what waits until its time is up is not returned, since others have it then. Where a
/// message takes long, ask for as little [credit](ConsumerBuilder::credit) as keeps the consumer
/// busy; it can be [changed](Self::set_credit) while the consumer runs.
///
/// Dropping it ends the subscription: what it has not settled is given back at once, and
/// deliveries that somebody still holds become void.
pub struct Consumer {
    shared: Arc<ConsumerShared>,
    current: Option<Current>,
    ended: bool,
    lease: ConsumerLease,
}

/// The run that is being taken.
struct Current {
    run: Run,
    /// The next message.
    next: usize,
    /// Messages before this are not damaged.
    good: usize,
    damage: Option<RecordsError>,
}

impl Current {
    fn new(run: Run) -> Self {
        let mut current = Self { run, next: 0, good: 0, damage: None };
        current.verify();
        current
    }

    /// Finds how far the messages from `next` on are good.
    fn verify(&mut self) {
        let records = &self.run.batch.records;
        match records.slice(self.next..records.count()).verify() {
            Ok(()) => (self.good, self.damage) = (records.count(), None),
            Err(error) => {
                let index = match error {
                    RecordsError::Checksum { index, .. } => index,
                    _ => 0,
                };
                (self.good, self.damage) = (self.next.saturating_add(index), Some(error));
            }
        }
    }

    fn is_done(&self) -> bool {
        self.next >= self.run.batch.records.count()
    }

    const fn tag(&self) -> u64 {
        self.run.first_tag.saturating_add(self.next as u64)
    }
}

/// The run whose next message is to be taken, and whom to answer for it.
type Taken<'a> = (&'a Arc<ConsumerShared>, &'a mut Current);

/// Ends the subscription.
struct ConsumerLease {
    handle: u32,
    client: Arc<Lease>,
}

impl Drop for ConsumerLease {
    fn drop(&mut self) {
        self.client.hub().command(Command::Unsubscribe(self.handle));
    }
}

impl Consumer {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.shared.settings.topic
    }

    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.shared.settings.channel
    }

    /// How long a delivery may stay unsettled before it is delivered again, as the broker said.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.shared.timeout()
    }

    /// How many messages' answers came too late so far, as the broker said, and changed nothing.
    #[must_use]
    pub fn stale(&self) -> u64 {
        self.shared.stale()
    }

    /// Makes the [credit](ConsumerBuilder::credit) larger or smaller: how much may be delivered and not
    /// settled at once from now on, over reconnections too. At least 1 of each; a broker that allows
    /// less is asked for what it allows. Does not wait.
    ///
    /// What a larger one brings is granted at once. A smaller one takes back what the broker has not
    /// used; until it has answered, which takes one round trip, it may send as much as before. What
    /// was delivered stays, so that there may be more than the new credit for as long as it is not
    /// settled, and nothing new comes until it is: [`credit_use`](Self::credit_use) tells.
    pub fn set_credit(&self, credit: Credit) {
        self.shared.set_credit(credit);
    }

    /// What the credit stands at: how much of it is open, and how much is taken up by what is not
    /// settled.
    #[must_use]
    pub fn credit_use(&self) -> CreditUse {
        self.shared.credit_use()
    }

    /// The next delivery; `None` when the client was closed, or behind the error that told why the
    /// subscription is over.
    ///
    /// # Cancellation
    /// Safe: a delivery that was not returned is returned by the next call.
    pub async fn next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        poll_fn(|context| self.poll_delivery(context)).await
    }

    /// Waits for a delivery and returns it with all others that are there, at most `max` (at least
    /// 1). `None` as for [`next`](Self::next). A damaged message is an item of its own, behind
    /// those before it.
    ///
    /// # Cancellation
    /// Safe: deliveries that were not returned are returned by the next call.
    pub async fn next_batch(&mut self, max: usize) -> Option<Result<Batch, ConsumeError>> {
        poll_fn(|context| self.poll_batch(context, max.max(1))).await
    }

    /// Runs `handler` for each message, up to `concurrency` (at least 1) at a time, each as a task
    /// of its own: acks when it returns `Ok`, requeues when it returns an error or panics, and
    /// touches while it runs. See [`ForEach`].
    pub fn for_each<H, F, E>(self, concurrency: usize, handler: H) -> ForEach<H>
    where
        H: FnMut(Received) -> F,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        ForEach::new(self, concurrency.max(1), handler)
    }

    /// Ends the subscription and waits until the broker has handled the last answers: what was
    /// acked is acked then, the rest is given back.
    ///
    /// # Cancellation
    /// Dropping it ends the subscription all the same.
    ///
    /// # Errors
    /// [`RequestError::Unknown`] when the connection was lost or the client's request timeout
    /// passed: the last answers may be lost.
    pub async fn close(self) -> Result<(), RequestError> {
        let (topic, channel) = (self.topic(), self.channel());
        let doing = format!("ending the subscription of {topic}, channel {channel}");
        let (request, asked) = Request::new();
        request.sent();
        self.shared.set_closing(request);
        let client = self.lease.client.clone();
        drop(self);
        asked.wait(doing, client.hub().config.request_timeout).await
    }

    pub(crate) fn poll_delivery(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Delivery, ConsumeError>>> {
        let result = ready!(self.poll_current(context));
        Poll::Ready(result.map(|current| {
            let (shared, current) = current?;
            let (index, token) = (current.next, current.token(shared));
            current.next += 1;
            Delivery::new(&current.run.batch, index, current.run.attempt, token)
        }))
    }

    pub(crate) fn poll_batch(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
    ) -> Poll<Option<Result<Batch, ConsumeError>>> {
        let mut parts = Vec::new();
        let mut left = max;
        loop {
            match self.poll_current(context) {
                Poll::Ready(Some(Ok((shared, current)))) => {
                    let part = current.take_part(shared, left);
                    left -= part.batch.records.count();
                    parts.push(part);
                }
                Poll::Ready(other) if parts.is_empty() => {
                    return Poll::Ready(other.map(|result| result.map(|_| Batch { parts })));
                }
                Poll::Pending if parts.is_empty() => return Poll::Pending,
                Poll::Ready(_) | Poll::Pending => break,
            }
            if left == 0 || !self.has_more() {
                break;
            }
        }
        Poll::Ready(Some(Ok(Batch { parts })))
    }

    pub(crate) const fn shared(&self) -> &Arc<ConsumerShared> {
        &self.shared
    }

    /// Asks for more time for everything that came and was not taken.
    pub(crate) fn touch_waiting(&mut self) {
        let now = Instant::now();
        if let Some(current) = &mut self.current
            && !current.is_done()
            && !current.run.has_expired(now)
        {
            // What is void is found out about when it is taken.
            let _void = current.rest(&self.shared).touch_and_keep();
            current.run.until = self.shared.until(now);
        }
        self.shared.touch_waiting(now);
    }

    /// Whether a good message is there already.
    fn has_more(&mut self) -> bool {
        if self.current.as_ref().is_none_or(Current::is_done) {
            self.current = self.shared.try_run().map(Current::new);
        }
        self.current.as_ref().is_some_and(|current| {
            current.next < current.good
                && self.shared.is_current(current.run.generation)
                && !current.run.has_expired(Instant::now())
        })
    }

    /// The run in which the next message stands, that message being good.
    fn poll_current(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Taken<'_>, ConsumeError>>> {
        loop {
            let shared = &self.shared;
            let usable = |c: &Current| !c.is_done() && shared.is_current(c.run.generation);
            if !self.current.as_ref().is_some_and(usable) {
                if self.ended {
                    return Poll::Ready(None);
                }
                match ready!(shared.poll_run(context)) {
                    Ok(run) => self.current = Some(Current::new(run)),
                    Err(End::Closed) => {
                        self.ended = true;
                        return Poll::Ready(None);
                    }
                    Err(End::Refused(refusal)) => {
                        self.ended = true;
                        return Poll::Ready(Some(Err(ConsumeError::Ended(refusal))));
                    }
                }
                continue;
            }
            if let Some(current) = &mut self.current
                && current.run.has_expired(Instant::now())
            {
                debug!(first = %current.run.batch.first, "deliveries waited too long to be taken");
                // Somebody else has them by now, or will: as soon as the broker hears of this.
                drop(current.rest(shared));
                current.next = current.run.batch.records.count();
                continue;
            }
            let damaged = self.current.as_mut().and_then(|c| c.take_damaged(shared));
            if let Some(error) = damaged {
                return Poll::Ready(Some(Err(error)));
            }
            return Poll::Ready(self.current.as_mut().map(|current| Ok((&self.shared, current))));
        }
    }
}

impl Current {
    /// Gives the next message back if it is damaged, and tells of it.
    fn take_damaged(&mut self, shared: &Arc<ConsumerShared>) -> Option<ConsumeError> {
        if self.next < self.good {
            return None;
        }
        let error = self.damage.take()?;
        let offset = self.run.batch.first.plus(self.next as u64);
        let _void_already = self.token(shared).settle(requeue(DAMAGED_DELAY));
        self.next += 1;
        self.verify();
        Some(ConsumeError::Damaged { offset, error })
    }

    /// The duty to answer for the next message.
    fn token(&self, shared: &Arc<ConsumerShared>) -> Token {
        let encoded = self.run.batch.records.encoded(self.next);
        let bytes = encoded.map_or(0, |encoded| encoded.len() as u64);
        Token::new(shared.clone(), self.run.generation, self.tag(), 1, bytes)
    }

    /// The duty to answer for everything that is left.
    fn rest(&self, shared: &Arc<ConsumerShared>) -> Token {
        let records = &self.run.batch.records;
        let rest = records.slice(self.next..records.count());
        let (count, bytes) = (rest.count() as u64, rest.payload().len() as u64);
        Token::new(shared.clone(), self.run.generation, self.tag(), count, bytes)
    }

    /// Takes up to `max` good messages.
    fn take_part(&mut self, shared: &Arc<ConsumerShared>, max: usize) -> Part {
        let run = &self.run;
        let end = self.good.min(self.next.saturating_add(max));
        let first = run.batch.first;
        let batch = run.batch.slice(first.plus(self.next as u64), first.plus(end as u64));
        let count = batch.records.count() as u64;
        let bytes = credit_bytes(&batch);
        let token = Token::new(shared.clone(), run.generation, self.tag(), count, bytes);
        let attempt = run.attempt;
        self.next = end;
        Part { attempt, batch, token }
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, ConsumeError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Delivery, ConsumeError>>> {
        self.poll_delivery(context)
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("topic", self.topic())
            .field("channel", self.channel())
            .finish_non_exhaustive()
    }
}

/// A message damaged on its way is whole when it is sent again; one that the broker keeps damaged
/// should not come back in a tight loop.
const DAMAGED_DELAY: Duration = Duration::from_secs(1);
