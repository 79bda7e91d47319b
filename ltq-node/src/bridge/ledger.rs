//! What a forwarder has taken and not acked: [`Ledger`].

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::poll_fn,
    mem,
    pin::Pin,
};

use futures::FutureExt as _;
use ltq_client::{Delivery, StaleError};
use ltq_core::{Credit, Message, Offset, Refusal, Timestamp};
use tokio::time::Instant;

use super::outlet::{Answer, Failure};

/// Which message of a topic. The time tells apart topics of one name that were made after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(Offset, Timestamp);

impl Key {
    const fn of(delivery: &Delivery) -> Self {
        Self(delivery.offset(), delivery.time())
    }
}

/// The messages that were taken from the source and are not acked: those that wait for their turn, in order,
/// and those that were sent. And a memory of those that were acked of late: an ack that was lost with its
/// connection brings a message again that the destination has.
#[derive(Default)]
pub(super) struct Ledger {
    held: HashMap<Key, Held>,
    bytes: u64,
    waiting: VecDeque<Key>,
    sent: VecDeque<Sent>,
    /// Of those that were sent the ones that came to nothing, in order.
    failed: Vec<Key>,
    done: Done,
}

struct Held {
    /// Its message is the one that goes.
    delivery: Delivery,
    bytes: u64,
    /// Why the destination refused it for good, if it did.
    refusal: Option<Refusal>,
}

struct Sent {
    key: Key,
    since: Instant,
    answer: Answer,
}

/// What a delivery is to a ledger.
#[derive(Debug)]
pub(super) enum News {
    /// It was not there before.
    New(Delivery),
    /// It is there already; who answers for it was changed.
    Held,
    /// It was forwarded, and was acked again.
    Done,
}

/// What became of a message that was sent.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is stored and acked; so many bytes of message.
    Stored { bytes: u64, time: Timestamp, was_parked: bool, ack: Result<(), StaleError> },
    /// It is not, and is kept; whether it was on its way aside.
    Failed { failure: Failure, was_parked: bool },
}

impl Ledger {
    /// Looks whether a delivery is one more of a message that is known.
    pub(super) fn look(&mut self, delivery: Delivery) -> News {
        let key = Key::of(&delivery);
        if let Some(held) = self.held.get_mut(&key) {
            // The one before is void: dropping it gives nothing back.
            let mut before = mem::replace(&mut held.delivery, delivery);
            held.delivery.message = mem::take(&mut before.message);
            return News::Held;
        }
        match self.done.has(key) {
            // If it comes too late once more it comes again.
            true => {
                let _void_again = delivery.ack();
                News::Done
            }
            false => News::New(delivery),
        }
    }

    /// Keeps a message that is [new](News::New) until it is stored.
    pub(super) fn hold(&mut self, delivery: Delivery) {
        let key = Key::of(&delivery);
        let bytes = delivery.message.encoded_len_max() as u64;
        self.bytes = self.bytes.saturating_add(bytes);
        self.held.insert(key, Held { delivery, bytes, refusal: None });
        self.waiting.push_back(key);
    }

    /// Whether more may be taken. A credit bounds what one connection brings; what an earlier one brought and
    /// is void now stands beside it.
    pub(super) fn has_room(&self, credit: Credit) -> bool {
        (self.held.len() as u64) < credit.messages.saturating_mul(2)
            && self.bytes < credit.bytes.saturating_mul(2)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Since when the one that was sent first waits for its answer.
    pub(super) fn oldest_sent(&self) -> Option<Instant> {
        self.sent.front().map(|sent| sent.since)
    }

    /// The next message to be sent, and why it was refused for good, if it was.
    pub(super) fn next(&self) -> Option<(Message, Option<Refusal>)> {
        let held = self.held.get(self.waiting.front()?)?;
        Some((held.delivery.message.clone(), held.refusal.clone()))
    }

    /// The next one was given away.
    pub(super) fn sent(&mut self, answer: Answer) {
        if let Some(key) = self.waiting.pop_front() {
            self.sent.push_back(Sent { key, since: Instant::now(), answer });
        }
    }

    /// The next one was not taken. Returns whether it was on its way aside.
    pub(super) fn not_taken(&mut self, failure: &Failure) -> bool {
        let next = self.waiting.front().copied();
        next.is_some_and(|key| self.note(key, failure))
    }

    /// Writes down why a message is to be set aside, if it is for good. Returns whether it was on its way
    /// there.
    fn note(&mut self, key: Key, failure: &Failure) -> bool {
        let Some(held) = self.held.get_mut(&key) else { return false };
        let was_parked = held.refusal.is_some();
        if let (Failure::Refused(refusal), None) = (failure, &held.refusal) {
            held.refusal = Some(refusal.clone());
        }
        was_parked
    }

    /// Waits for the answer to the message that was sent first. Cancel safe. Waits for ever when none was
    /// sent.
    pub(super) async fn answered(&mut self) -> Outcome {
        let answer = poll_fn(|context| match self.sent.front_mut() {
            Some(sent) => Pin::new(&mut sent.answer).poll(context),
            None => std::task::Poll::Pending,
        });
        let answer = answer.await;
        self.settle(answer)
    }

    /// The same where the answer is there already.
    pub(super) fn try_answered(&mut self) -> Option<Outcome> {
        let answer = (&mut self.sent.front_mut()?.answer).now_or_never()?;
        Some(self.settle(answer))
    }

    fn settle(&mut self, answer: Result<(), Failure>) -> Outcome {
        let key = self.sent.pop_front().map(|sent| sent.key);
        let outcome = match (answer, key) {
            (Err(failure), Some(key)) => {
                let was_parked = self.note(key, &failure);
                self.failed.push(key);
                Outcome::Failed { failure, was_parked }
            }
            (Err(failure), None) => Outcome::Failed { failure, was_parked: false },
            (Ok(()), key) => self.stored(key),
        };
        // Those that failed come before those that were not sent, when all answers are there.
        if self.sent.is_empty() {
            for key in mem::take(&mut self.failed).into_iter().rev() {
                self.waiting.push_front(key);
            }
        }
        outcome
    }

    fn stored(&mut self, key: Option<Key>) -> Outcome {
        let Some((key, held)) = key.and_then(|key| Some((key, self.held.remove(&key)?))) else {
            let failure = Failure::Later("nothing was sent".to_owned());
            return Outcome::Failed { failure, was_parked: false };
        };
        self.bytes = self.bytes.saturating_sub(held.bytes);
        self.done.remember(key);
        let (time, was_parked) = (held.delivery.time(), held.refusal.is_some());
        let bytes = held.delivery.message.body.len() as u64;
        Outcome::Stored { bytes, time, was_parked, ack: held.delivery.ack() }
    }

    /// Asks for more time for everything, and lets go of what is void and was not sent: it comes again, here
    /// or elsewhere.
    pub(super) fn touch(&mut self) {
        let unsent: HashSet<Key> = self.waiting.iter().copied().collect();
        let bytes = &mut self.bytes;
        self.held.retain(|key, held| {
            let is_kept = held.delivery.touch().is_ok() || !unsent.contains(key);
            if !is_kept {
                *bytes = bytes.saturating_sub(held.bytes);
            }
            is_kept
        });
        self.waiting.retain(|key| self.held.contains_key(key));
    }

    /// Remembers as many as can be given out again by a node that was lost with so much unsettled, and
    /// somewhat more.
    pub(super) fn remember(&mut self, credit: Credit) {
        self.done.keep(credit.messages.saturating_mul(2));
    }
}

/// The messages that were forwarded last, as many as can come again for a lost ack.
#[derive(Default)]
struct Done {
    order: VecDeque<Key>,
    known: HashSet<Key>,
    max: u64,
}

impl Done {
    fn has(&self, key: Key) -> bool {
        self.known.contains(&key)
    }

    fn remember(&mut self, key: Key) {
        if self.known.insert(key) {
            self.order.push_back(key);
        }
        self.shorten();
    }

    fn keep(&mut self, max: u64) {
        self.max = max;
        self.shorten();
    }

    fn shorten(&mut self) {
        while self.order.len() as u64 > self.max.max(DONE_MIN) {
            if let Some(key) = self.order.pop_front() {
                self.known.remove(&key);
            }
        }
    }
}

/// How many are remembered at least.
const DONE_MIN: u64 = 512;
