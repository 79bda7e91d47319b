//! What a forwarder has taken and not acked: [`Ledger`].

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::poll_fn,
    mem,
    pin::Pin,
    sync::Arc,
};

use futures::FutureExt as _;
use ltq_client::{Delivery, StaleError};
use ltq_core::{Credit, Message, Refusal, RefusalCode, Timestamp};
use tokio::{runtime::Handle, time::Instant};

use super::{
    REFUSED_HEADER, Refused, Stamp,
    budget::Counted,
    memory::{Key, Memory},
    outlet::{Answer, Failure},
};

/// The messages that were taken from the source and are not acked: those that wait for their turn, in order,
/// and those that were sent. Each is kept as it came; what it carries when it goes is put on it then.
pub(super) struct Ledger {
    held: HashMap<Key, Held>,
    bytes: u64,
    waiting: VecDeque<Key>,
    sent: VecDeque<Sent>,
    /// Of those that were sent the ones that came to nothing, in order.
    failed: Vec<Key>,
    /// What becomes of those that are refused for good.
    refused: OnRefusal,
    memory: Memory,
    /// By what all this counts.
    counted: Arc<Counted>,
}

/// What becomes of a message that the destination refuses for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnRefusal {
    Hold,
    Park,
    Skip,
}

struct Held {
    delivery: Delivery,
    stamp: Option<Stamp>,
    bytes: u64,
    way: Way,
}

/// The way that a message goes next.
#[derive(Clone, Debug)]
enum Way {
    /// To the destination.
    On,
    /// Aside, with the reason on it.
    Aside(Refusal),
    /// Aside as it came: with the reason on it, it does not fit there.
    AsideBare,
}

struct Sent {
    key: Key,
    since: Instant,
    answer: Answer,
}

/// A message on its way.
pub(super) struct Parcel {
    pub(super) message: Message,
    /// Whether it is set aside, and goes not to the destination.
    pub(super) is_aside: bool,
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
    /// It was refused for good, and acked all the same, as the route wants it.
    Skipped { why: String, ack: Result<(), StaleError> },
    /// It is not stored, and is kept.
    Kept(Kept),
}

/// What becomes of a message that is kept.
#[derive(Debug)]
pub(super) enum Kept {
    /// It may go later, the same way.
    Later(String),
    /// It was refused for good, and may go no other way.
    Held(String),
    /// It was refused for good, and goes another way at once.
    OtherWay(String),
}

impl Ledger {
    /// An empty one, on a route of which this becomes of messages that are refused for good.
    pub(super) fn new(refused: &Refused, memory: Memory, counted: Arc<Counted>) -> Self {
        Self {
            held: HashMap::new(),
            bytes: 0,
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            failed: Vec::new(),
            refused: match refused {
                Refused::Hold => OnRefusal::Hold,
                Refused::Park(_) => OnRefusal::Park,
                Refused::Skip => OnRefusal::Skip,
            },
            memory,
            counted,
        }
    }

    /// Lets go of everything that was not sent, and keeps what is remembered.
    pub(super) fn into_memory(mut self) -> Memory {
        mem::take(&mut self.memory)
    }

    /// Looks whether a delivery is one more of a message that is known.
    pub(super) fn look(&mut self, delivery: Delivery) -> News {
        let key = Key::of(&delivery);
        if let Some(held) = self.held.get_mut(&key) {
            // The one before is void: dropping it gives nothing back.
            held.delivery = delivery;
            return News::Held;
        }
        match self.memory.has(key) {
            // If it comes too late once more it comes again.
            true => {
                let _void_again = delivery.ack();
                News::Done
            }
            false => News::New(delivery),
        }
    }

    /// Keeps a message that is [new](News::New) until it is stored. It goes with this on it.
    pub(super) fn hold(&mut self, delivery: Delivery, stamp: Option<Stamp>) {
        let key = Key::of(&delivery);
        let stamp_bytes = stamp.as_ref().map_or(0, Stamp::byte_len);
        let bytes = (delivery.message.encoded_len_max() + stamp_bytes) as u64;
        self.bytes = self.bytes.saturating_add(bytes);
        self.held.insert(key, Held { delivery, stamp, bytes, way: Way::On });
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

    /// The next message to be sent, made for its way.
    pub(super) fn next(&self) -> Option<Parcel> {
        let held = self.held.get(self.waiting.front()?)?;
        Some(held.parcel())
    }

    /// The next one was given away.
    pub(super) fn sent(&mut self, answer: Answer) {
        if let Some(key) = self.waiting.pop_front() {
            self.sent.push_back(Sent { key, since: Instant::now(), answer });
        }
    }

    /// The next one was not taken.
    pub(super) fn not_taken(&mut self, failure: Failure) -> Outcome {
        let Some(key) = self.waiting.front().copied() else { return nothing_sent() };
        let outcome = self.failed(key, failure);
        if matches!(outcome, Outcome::Skipped { .. }) {
            self.waiting.pop_front();
        }
        outcome
    }

    /// Decides what becomes of a message that was not stored.
    fn failed(&mut self, key: Key, failure: Failure) -> Outcome {
        let Some(held) = self.held.get_mut(&key) else { return nothing_sent() };
        let refusal = match failure {
            Failure::Later(why) => return Outcome::Kept(Kept::Later(why)),
            Failure::Refused(refusal) => refusal,
        };
        match (&held.way, self.refused) {
            (Way::On, OnRefusal::Park) => {
                let why = held.why(&refusal);
                held.way = Way::Aside(refusal);
                Outcome::Kept(Kept::OtherWay(why))
            }
            (Way::On, OnRefusal::Skip) => {
                let why = held.why(&refusal);
                match self.take_out(key) {
                    Some(held) => Outcome::Skipped { why, ack: held.delivery.ack() },
                    None => nothing_sent(),
                }
            }
            (Way::Aside(_), _) if refusal.code == RefusalCode::MessageTooLarge => {
                let why = "the reason does not fit on the message".to_owned();
                held.way = Way::AsideBare;
                Outcome::Kept(Kept::OtherWay(why))
            }
            _ => Outcome::Kept(Kept::Held(held.why(&refusal))),
        }
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
                let outcome = self.failed(key, failure);
                if matches!(outcome, Outcome::Kept(_)) {
                    self.failed.push(key);
                }
                outcome
            }
            (Ok(()), Some(key)) => self.stored(key),
            (_, None) => nothing_sent(),
        };
        // Those that failed come before those that were not sent, when all answers are there.
        if self.sent.is_empty() {
            for key in mem::take(&mut self.failed).into_iter().rev() {
                self.waiting.push_front(key);
            }
        }
        outcome
    }

    fn stored(&mut self, key: Key) -> Outcome {
        let Some(held) = self.take_out(key) else { return nothing_sent() };
        let (time, was_parked) = (held.delivery.time(), !matches!(held.way, Way::On));
        let bytes = held.delivery.message.body.len() as u64;
        Outcome::Stored { bytes, time, was_parked, ack: held.delivery.ack() }
    }

    /// Takes out what is done with, and remembers it.
    fn take_out(&mut self, key: Key) -> Option<Held> {
        let held = self.held.remove(&key)?;
        self.bytes = self.bytes.saturating_sub(held.bytes);
        self.memory.remember(key);
        Some(held)
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
        self.memory.keep(credit.messages.saturating_mul(2));
    }
}

impl Drop for Ledger {
    /// What was sent stays in memory until it is answered, and so it counts until then: whoever ended this
    /// did not wait for it.
    fn drop(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let sent = mem::take(&mut self.sent);
        let ending = self.counted.clone().ending();
        // Without a runtime there is nobody left who would send it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                for Sent { answer, .. } in sent {
                    // Whatever it is: what was not acked is given again by its source.
                    let _late = answer.await;
                }
                drop(ending);
            });
        }
    }
}

impl Held {
    fn parcel(&self) -> Parcel {
        let came = &self.delivery.message;
        match (&self.way, &self.stamp) {
            (Way::On, Some(stamp)) => Parcel { message: stamp.on(came), is_aside: false },
            (Way::On, None) => Parcel { message: came.clone(), is_aside: false },
            (Way::Aside(why), _) => {
                let message = came.clone().with_header(REFUSED_HEADER, why.to_string());
                Parcel { message, is_aside: true }
            }
            (Way::AsideBare, _) => Parcel { message: came.clone(), is_aside: true },
        }
    }

    /// Which message it is, and why it was refused.
    fn why(&self, refusal: &Refusal) -> String {
        let mut text = format!("the message at offset {}: {refusal}", self.delivery.offset());
        if refusal.code == RefusalCode::MessageTooLarge && self.stamp.is_some() {
            let bytes = self.delivery.message.encoded_len_max();
            text.push_str(&format!("; without the bridge's headers it has {bytes} at most"));
        }
        text
    }
}

/// An answer to nobody's question.
fn nothing_sent() -> Outcome {
    Outcome::Kept(Kept::Later("nothing was sent".to_owned()))
}
