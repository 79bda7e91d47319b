//! Clients that do nothing wrong, and notice what others' wrongs cost them.
//!
//! Over TCP and over QUIC one publishes numbered messages at an even pace and waits for each confirm,
//! and one consumes and acks them. Promise 4 is theirs: without faults on their own lines, each
//! message comes once, and in order.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ltq_client::{Client, Message, PendingReceipt};
use ltq_transport::{ClientTrust, Fingerprint};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::DEADLINE;

/// Where one pair of them is.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The server, as clients name it.
    pub server: String,
    /// The topic that is theirs.
    pub topic: String,
    /// What lets them in.
    pub token: String,
    /// What the server proves itself with, where it does.
    pub fingerprint: Fingerprint,
}

/// Pairs of honest clients at work, each in a thread of its own so that hostile ones beside them
/// take nothing from them but what the node gives way to.
pub struct Honest {
    phase: watch::Sender<Phase>,
    threads: Vec<JoinHandle<Account>>,
}

/// What the clients measure for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nobody else is there.
    Calm,
    /// Others attack.
    Siege,
    /// They publish no more.
    Over,
}

/// What a pair of clients went through.
#[derive(Clone, Debug)]
pub struct Account {
    /// Their topic.
    pub topic: String,
    /// Messages published and confirmed, each of them consumed once and in order.
    pub messages: u64,
    /// Milliseconds from a publish to its delivery, while all was calm and under attack.
    pub latencies: [Latencies; 2],
    /// The same under attack, of each [`ROUND`] of it that was full.
    pub rounds: Vec<Latencies>,
}

impl Account {
    /// The p99 in milliseconds of the round under attack that was best. What the machine does besides spoils some
    /// rounds; what the node lets attackers do spoils all of them.
    #[must_use]
    pub fn best_p99(&self) -> Option<f64> {
        self.rounds.iter().map(|round| round.p99).min_by(f64::total_cmp)
    }
}

/// Of many latencies in milliseconds, those that most are below.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latencies {
    /// Half of them.
    pub p50: f64,
    /// All but one in a hundred.
    pub p99: f64,
    /// All.
    pub max: f64,
    /// How many there were.
    pub count: usize,
}

impl Honest {
    /// Lets them begin, and waits until every one has published and consumed.
    ///
    /// # Panics
    /// When one cannot, by [`DEADLINE`].
    pub async fn start(pairs: Vec<Pair>) -> Self {
        let (phase, phases) = watch::channel(Phase::Calm);
        let (begun, mut beginning) = watch::channel(0);
        let begun = Arc::new(begun);
        let count = pairs.len();
        let threads = pairs
            .into_iter()
            .map(|pair| {
                let (phases, begun) = (phases.clone(), begun.clone());
                std::thread::spawn(move || {
                    let mut runtime = tokio::runtime::Builder::new_current_thread();
                    let runtime = runtime.enable_all().build().expect("a runtime");
                    runtime.block_on(work(pair, phases, &begun))
                })
            })
            .collect();
        let all = beginning.wait_for(|begun| *begun == count);
        timeout(DEADLINE, all).await.expect("honest clients begin").expect("none failed");
        Self { phase, threads }
    }

    /// What they measure from now on is under attack.
    pub fn besieged(&self) {
        self.phase.send_replace(Phase::Siege);
    }

    /// Lets them publish no more, and waits until everything that was published is consumed.
    ///
    /// # Panics
    /// When a promise to one of them was broken.
    pub async fn end(self) -> Vec<Account> {
        self.phase.send_replace(Phase::Over);
        let joined = tokio::task::spawn_blocking(|| {
            let joined = self.threads.into_iter().map(JoinHandle::join);
            joined.map(|account| account.expect("an honest client was served")).collect()
        });
        joined.await.expect("they end")
    }
}

async fn connect(pair: &Pair) -> Client {
    let trust = ClientTrust::fingerprint(pair.fingerprint).expect("a fingerprint");
    let builder = Client::builder().server(&pair.server).trust(trust).token(&pair.token);
    builder.connect().await.expect("an honest client is let in")
}

async fn work(
    pair: Pair,
    mut phases: watch::Receiver<Phase>,
    begun: &watch::Sender<usize>,
) -> Account {
    let begin = Instant::now();
    let consumer = connect(&pair).await;
    let messages = consumer.consumer(pair.topic.as_str(), "c").await.expect("a consumer");
    let producer = connect(&pair).await;
    let publishing = publish(&pair, &producer, &mut phases, begin);
    let (published, mut all) = watch::channel(None);
    let measured: Measured = Mutex::default();
    let ((), ()) = tokio::join!(
        async {
            published.send_replace(Some(publishing.await));
        },
        consume(messages, begin, &mut all, &measured, begun),
    );
    producer.close().await.expect("a clean close");
    consumer.close().await.expect("a clean close");
    let measured = measured.into_inner();
    let rounds = rounds(&measured[1]);
    let micros =
        |measured: Vec<(u64, u64)>| measured.into_iter().map(|(_, micros)| micros).collect();
    let latencies = measured.map(|phase| Latencies::of(micros(phase)));
    let messages = all.borrow().expect("it has published");
    Account { topic: pair.topic, messages, latencies, rounds }
}

/// When each message was published, and how long it took to be delivered, in microseconds, while all was calm
/// and under attack.
type Measured = Mutex<[Vec<(u64, u64)>; 2]>;

/// One after the other, as they were published, those that are full.
fn rounds(measured: &[(u64, u64)]) -> Vec<Latencies> {
    let (Some((begin, _)), Some((end, _))) = (measured.first(), measured.last()) else {
        return Vec::new();
    };
    let round = ROUND.as_micros() as u64;
    let full = (end - begin) / round;
    let mut rounds = vec![Vec::new(); full as usize];
    for (at, micros) in measured {
        if let Some(round) = rounds.get_mut(((at - begin) / round) as usize) {
            round.push(*micros);
        }
    }
    rounds.into_iter().filter(|round| !round.is_empty()).map(Latencies::of).collect()
}

/// Publishes until the end, and returns how many messages were confirmed: all.
async fn publish(
    pair: &Pair,
    client: &Client,
    phases: &mut watch::Receiver<Phase>,
    begin: Instant,
) -> u64 {
    let producer = client.producer_builder(pair.topic.as_str()).timeout(ALIVE).open().await;
    let producer = producer.expect("a producer");
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unconfirmed: VecDeque<PendingReceipt> = VecDeque::new();
    let mut number = 0_u64;
    loop {
        pace.tick().await;
        let phase = *phases.borrow();
        if phase == Phase::Over {
            break;
        }
        let at = begin.elapsed().as_micros() as u64;
        let mut body = number.to_le_bytes().to_vec();
        body.extend(at.to_le_bytes());
        body.push(u8::from(phase == Phase::Siege));
        body.resize(BODY_BYTES, 0);
        let sent = timeout(ALIVE, producer.enqueue(Message::new(body))).await;
        let sent = sent.unwrap_or_else(|_| panic!("promise 10: {number} was not taken in time"));
        unconfirmed.push_back(sent.expect("promise 15: an honest publish is taken"));
        number += 1;
        while unconfirmed.len() > IN_FLIGHT {
            confirmed(&mut unconfirmed).await;
        }
    }
    while !unconfirmed.is_empty() {
        confirmed(&mut unconfirmed).await;
    }
    number
}

async fn confirmed(unconfirmed: &mut VecDeque<PendingReceipt>) {
    let Some(receipt) = unconfirmed.pop_front() else { return };
    let receipt = timeout(ALIVE, receipt).await;
    let receipt = receipt.unwrap_or_else(|_| panic!("promise 10: no confirm within {ALIVE:?}"));
    receipt.expect("promise 1: an honest publish is confirmed");
}

async fn consume(
    mut messages: ltq_client::Consumer,
    begin: Instant,
    all: &mut watch::Receiver<Option<u64>>,
    measured: &Measured,
    begun: &watch::Sender<usize>,
) {
    let mut next = 0_u64;
    loop {
        let delivery = tokio::select! {
            biased;
            delivery = timeout(ALIVE, messages.next()) => delivery,
            _ = all.wait_for(|all| *all == Some(next)) => break,
        };
        let delivery = delivery
            .unwrap_or_else(|_| panic!("promise 10: {next} was not delivered within {ALIVE:?}"))
            .expect("the subscription lasts")
            .expect("a delivery");
        let body = &delivery.message.body;
        let word = |at: usize| {
            u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes of a long body"))
        };
        let (number, at, phase) = (word(0), word(8), usize::from(body[16]));
        assert_eq!(
            (number, delivery.attempt()),
            (next, 1),
            "promise 4: the message and attempt that came, and those expected, of {:?}",
            delivery.topic()
        );
        let latency = (begin.elapsed().as_micros() as u64).saturating_sub(at);
        assert!(Duration::from_micros(latency) < ALIVE, "promise 10: {number} took {latency} us");
        measured.lock()[phase].push((at, latency));
        delivery.ack().expect("promise 3: its newest delivery");
        if next == 0 {
            begun.send_modify(|begun| *begun += 1);
        }
        next += 1;
    }
    messages.close().await.expect("the subscription ends");
}

impl Latencies {
    fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let at = |part: f64| {
            let last = micros.len().saturating_sub(1) as f64;
            micros.get((last * part) as usize).map_or(0.0, |micros| *micros as f64 / 1e3)
        };
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0), count: micros.len() }
    }
}

/// What is measured together: some hundred messages.
pub const ROUND: Duration = Duration::from_secs(4);
/// Between two messages of a pair.
const PACE: Duration = Duration::from_millis(10);
const BODY_BYTES: usize = 100;
/// Messages of a pair that may be on their way to be confirmed.
const IN_FLIGHT: usize = 50;
/// Nothing that honest clients ask for takes longer, however busy the machine is.
const ALIVE: Duration = DEADLINE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_quiet_round_is_what_counts_and_one_that_is_not_full_does_not() {
        let second = 1_000_000;
        let at = |millis: u64| 7 * second + millis * 1_000;
        // Three rounds and a half of ten messages a second: 90 ms, 5 ms, 70 ms, and 1 ms.
        let micros = |millis: u64| match millis / 4_000 {
            0 => 90_000,
            1 => 5_000,
            2 => 70_000,
            _ => 1_000,
        };
        let measured: Vec<_> = (0..140).map(|n| (at(n * 100), micros(n * 100))).collect();
        let rounds = rounds(&measured);
        assert_eq!(rounds.iter().map(|it| it.count).collect::<Vec<_>>(), [40, 40, 40]);
        let latencies = Default::default();
        let account = Account { topic: "t".to_owned(), messages: 140, latencies, rounds };
        assert_eq!(account.best_p99(), Some(5.0));
    }
}
