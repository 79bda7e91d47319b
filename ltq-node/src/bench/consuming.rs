//! One consumer of a run.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hdrhistogram::Histogram;
use ltq_client::Message;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{
    body::Head,
    ledger::{Came, Ledger, Mark},
    run::{Run, histogram, micros},
};
use crate::cli::{
    CliError,
    ends::{NotTaken, Reader},
};

/// What one consumer got.
pub(super) struct Consumed {
    /// Which channel of all.
    pub(super) place: usize,
    /// Without what was stored more than once, unless that is to be drained too.
    pub(super) received: u64,
    /// Whether some of it has an id, as what was published to a cluster has.
    pub(super) of_cluster: bool,
    /// What came damaged or strange: how many, and the first in words.
    pub(super) wrong: u64,
    pub(super) first_wrong: Option<String>,
    /// From when a message was due to when it was here, in microseconds.
    pub(super) latency: Histogram<u64>,
}

/// One channel of one topic, shared by its consumers.
pub(super) struct Channel {
    /// Whether what is stored more than once is to come as often.
    counts_copies: bool,
    ledger: Mutex<Ledger>,
    /// What came to all of them.
    received: AtomicU64,
    /// What is to come, once that is known.
    expected: watch::Sender<Option<u64>>,
    finished: watch::Sender<bool>,
}

impl Channel {
    pub(super) fn new(counts_copies: bool) -> Self {
        Self {
            counts_copies,
            ledger: Mutex::default(),
            received: AtomicU64::new(0),
            expected: watch::Sender::new(None),
            finished: watch::Sender::new(false),
        }
    }

    /// Which messages came.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    /// Says how many messages are to come.
    pub(super) fn expect(&self, messages: u64) {
        self.expected.send_replace(Some(messages));
        self.finish_if_all(self.received.load(Ordering::SeqCst));
    }

    /// Waits until they have come.
    pub(super) async fn all_received(&self) {
        // The sender lives as long as `self`.
        let _ = self.finished.subscribe().wait_for(|finished| *finished).await;
    }

    /// Lets its consumers go whether or not everything came.
    pub(super) fn give_up(&self) {
        self.finished.send_replace(true);
    }

    fn add(&self, messages: u64) {
        let received = self.received.fetch_add(messages, Ordering::SeqCst) + messages;
        self.finish_if_all(received);
    }

    fn finish_if_all(&self, received: u64) {
        if self.expected.borrow().is_some_and(|expected| received >= expected) {
            self.finished.send_replace(true);
        }
    }
}

/// Consumes and acks until the channel has got everything.
pub(super) async fn consume(
    run: &Run,
    mut consumer: Reader,
    channel: Arc<Channel>,
    place: usize,
) -> Result<Consumed, CliError> {
    let mut consumed = Consumed {
        place,
        received: 0,
        of_cluster: false,
        wrong: 0,
        first_wrong: None,
        latency: histogram(),
    };
    let mut finished = channel.finished.subscribe();
    let mut came = Vec::with_capacity(BATCH_MAX);
    loop {
        let batch = tokio::select! {
            biased;
            batch = consumer.next_batch(BATCH_MAX) => batch,
            // Without its value: that holds a lock, which may not be kept while this waits.
            () = async { drop(finished.wait_for(|finished| *finished).await) } => break,
        };
        let batch = match batch {
            None => return Err(CliError::Failed("the connection was closed".to_owned())),
            Some(Err(NotTaken { is_end: true, why })) => return Err(CliError::Failed(why)),
            Some(Err(NotTaken { why, .. })) => {
                consumed.note(why);
                continue;
            }
            Some(Ok(batch)) => batch,
        };
        let now = run.nanos();
        let mut count = 0;
        // Messages that were published together were due together.
        let (mut due, mut of_due) = (0, 0);
        for received in batch.iter() {
            match received.map_err(|error| error.to_string()) {
                Ok(received) => match run.bodies.verify(&received.message) {
                    Ok(head) => {
                        // Nothing else has headers and passes.
                        consumed.of_cluster |= !received.message.headers.is_empty();
                        let may_repeat = may_repeat(&received.message);
                        let Head { producer, sequence, due } = head;
                        let attempt = received.attempt;
                        came.push((Came { producer, sequence, attempt, may_repeat }, due));
                        continue;
                    }
                    Err(what) => consumed.note(format!("at offset {}: {what}", received.offset)),
                },
                Err(error) => consumed.note(error),
            }
            count += 1;
        }
        let mut ledger = channel.ledger();
        for (one, of_one) in came.drain(..) {
            let is_new = match ledger.mark(one) {
                Mark::New => true,
                Mark::StoredAgain => channel.counts_copies,
                Mark::Redelivered => false,
            };
            if of_one != due {
                consumed.record(now, due, of_due);
                (due, of_due) = (of_one, 0);
            }
            of_due += u64::from(is_new);
            count += u64::from(is_new);
        }
        drop(ledger);
        consumed.record(now, due, of_due);
        // What is too late is delivered again, which counts.
        let _late = batch.ack_all();
        consumed.received += count;
        run.received.fetch_add(count, Ordering::Relaxed);
        channel.add(count);
    }
    // Until the broker has handled the acks.
    consumer.close().await?;
    Ok(consumed)
}

/// Whether a message may be stored more than once. What goes to whichever nodes of a cluster are well may, as it goes
/// to another one where nobody knows whether the first has it; what has a key was published in the order of its key,
/// and goes nowhere else then.
fn may_repeat(message: &Message) -> bool {
    // Nothing else than a cluster's messages has headers and passes.
    !message.headers.is_empty() && message.key.is_none()
}

impl Consumed {
    fn record(&mut self, now: u64, due: u64, messages: u64) {
        if messages > 0 {
            self.latency.saturating_record_n(micros(now.saturating_sub(due)), messages);
        }
    }

    fn note(&mut self, what: String) {
        self.wrong += 1;
        self.first_wrong.get_or_insert(what);
    }
}

/// As many as a consumer may have in flight.
const BATCH_MAX: usize = 2500;
