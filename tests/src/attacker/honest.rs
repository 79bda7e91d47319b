//! Clients that do nothing wrong, and notice what others' wrongs cost them.
//!
//! Over TCP and over QUIC one publishes numbered messages at an even pace and waits for each confirm,
//! and one consumes and acks them. Promise 4 is theirs: without faults on their own lines, each
//! message comes once, and in order.

use std::{
    collections::VecDeque,
    ops::Range,
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
    /// Whether they are to publish no more.
    over: watch::Sender<bool>,
    /// What their times are counted from.
    begin: Instant,
    threads: Vec<JoinHandle<Worked>>,
}

/// What a pair of clients did.
struct Worked {
    topic: String,
    /// Messages published and confirmed, each of them consumed once and in order.
    messages: u64,
    measured: Measured,
}

/// When each message was published, and how long it took to be delivered, in microseconds.
type Measured = Vec<(u64, u64)>;

/// What a pair of clients went through.
#[derive(Clone, Debug)]
pub struct Account {
    /// Their topic.
    pub topic: String,
    /// Messages published and confirmed, each of them consumed once and in order.
    pub messages: u64,
    /// Milliseconds from a publish to its delivery, while all was calm and under attack.
    pub latencies: [Latencies; 2],
    /// The same under attack, of each whole [`ROUND`] of it, however little was published in it.
    pub rounds: Vec<Latencies>,
}

impl Account {
    /// What they went through when attacks began in this time. What was published before is calm; what was
    /// published after has nobody to suffer from, and is only not to be lost.
    fn of(worked: Worked, siege: &Range<u64>) -> Self {
        let Worked { topic, messages, measured } = worked;
        let of = |when: Range<u64>| {
            let published = measured.iter().filter(|(at, _)| when.contains(at));
            Latencies::of(published.map(|(_, micros)| *micros).collect())
        };
        let round = ROUND.as_micros() as u64;
        // By the clock and not by the messages: what a node holds up is not there to be counted from.
        let whole = siege.end.saturating_sub(siege.start) / round;
        let begins = (0..whole).map(|number| siege.start + number * round);
        let rounds = begins.map(|begin| of(begin..begin + round)).collect();
        let latencies = [of(0..siege.start), of(siege.clone())];
        Self { topic, messages, latencies, rounds }
    }

    /// The p99 in milliseconds of the round under attack that was best. What the machine does besides spoils some
    /// rounds; what the node lets attackers do all the time spoils all of them.
    #[must_use]
    pub fn best_p99(&self) -> Option<f64> {
        self.p99s().first().copied()
    }

    /// The p99 in milliseconds of the round in the middle, and of two the worse: what the node lets attackers do now
    /// and then spoils half of them.
    #[must_use]
    pub fn median_p99(&self) -> Option<f64> {
        let p99s = self.p99s();
        p99s.get(p99s.len() / 2).copied()
    }

    /// Of each round, from the best on.
    fn p99s(&self) -> Vec<f64> {
        let mut p99s: Vec<f64> = self.rounds.iter().map(Latencies::p99_of_round).collect();
        p99s.sort_unstable_by(f64::total_cmp);
        p99s
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
        let begin = Instant::now();
        let (over, ended) = watch::channel(false);
        let (begun, mut beginning) = watch::channel(0);
        let begun = Arc::new(begun);
        let count = pairs.len();
        let threads = pairs
            .into_iter()
            .map(|pair| {
                let (ended, begun) = (ended.clone(), begun.clone());
                std::thread::spawn(move || {
                    let mut runtime = tokio::runtime::Builder::new_current_thread();
                    let runtime = runtime.enable_all().build().expect("a runtime");
                    runtime.block_on(work(pair, &ended, begin, &begun))
                })
            })
            .collect();
        let all = beginning.wait_for(|begun| *begun == count);
        timeout(DEADLINE, all).await.expect("honest clients begin").expect("none failed");
        Self { over, begin, threads }
    }

    /// Lets them publish no more, and waits until everything that was published is consumed. From the first to the
    /// last beginning of an attack they were under `siege`.
    ///
    /// # Panics
    /// When a promise to one of them was broken.
    pub async fn end(self, siege: Range<Instant>) -> Vec<Account> {
        let Self { over, begin, threads } = self;
        over.send_replace(true);
        let since = |at: Instant| at.saturating_duration_since(begin).as_micros() as u64;
        let siege = since(siege.start)..since(siege.end);
        let joined = tokio::task::spawn_blocking(move || {
            let joined = threads.into_iter().map(JoinHandle::join);
            let worked = joined.map(|worked| worked.expect("an honest client was served"));
            worked.map(|worked| Account::of(worked, &siege)).collect()
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
    over: &watch::Receiver<bool>,
    begin: Instant,
    begun: &watch::Sender<usize>,
) -> Worked {
    let consumer = connect(&pair).await;
    let messages = consumer.consumer(pair.topic.as_str(), "c").await.expect("a consumer");
    let producer = connect(&pair).await;
    let publishing = publish(&pair, &producer, over, begin);
    let (published, mut all) = watch::channel(None);
    let measured: Mutex<Measured> = Mutex::default();
    let ((), ()) = tokio::join!(
        async {
            published.send_replace(Some(publishing.await));
        },
        consume(messages, begin, &mut all, &measured, begun),
    );
    producer.close().await.expect("a clean close");
    consumer.close().await.expect("a clean close");
    let messages = all.borrow().expect("it has published");
    Worked { topic: pair.topic, messages, measured: measured.into_inner() }
}

/// Publishes until the end, and returns how many messages were confirmed: all.
async fn publish(
    pair: &Pair,
    client: &Client,
    over: &watch::Receiver<bool>,
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
        if *over.borrow() {
            break;
        }
        let at = begin.elapsed().as_micros() as u64;
        let mut body = number.to_le_bytes().to_vec();
        body.extend(at.to_le_bytes());
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
    measured: &Mutex<Measured>,
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
        let (number, at) = (word(0), word(8));
        assert_eq!(
            (number, delivery.attempt()),
            (next, 1),
            "promise 4: the message and attempt that came, and those expected, of {:?}",
            delivery.topic()
        );
        let latency = (begin.elapsed().as_micros() as u64).saturating_sub(at);
        assert!(Duration::from_micros(latency) < ALIVE, "promise 10: {number} took {latency} us");
        measured.lock().push((at, latency));
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

    /// The p99 of a round; unbounded where no more than half of what was due was published. A node that holds a pair up
    /// keeps it from publishing, too, and the few messages of its good moments say nothing of the others.
    fn p99_of_round(&self) -> f64 {
        if self.count <= ROUND_MESSAGES / 2 { f64::INFINITY } else { self.p99 }
    }
}

/// What is measured together: some hundred messages.
pub const ROUND: Duration = Duration::from_secs(4);
/// Between two messages of a pair.
const PACE: Duration = Duration::from_millis(10);
/// Messages of a pair that are due in a round.
const ROUND_MESSAGES: usize = (ROUND.as_millis() / PACE.as_millis()) as usize;
const BODY_BYTES: usize = 100;
/// Messages of a pair that may be on their way to be confirmed.
const IN_FLIGHT: usize = 50;
/// Nothing that honest clients ask for takes longer, however busy the machine is.
const ALIVE: Duration = DEADLINE;

#[cfg(test)]
mod tests {
    use super::*;

    /// Of messages published at a time and delivered so much later, and attacks from six seconds on until `end`, all
    /// in milliseconds.
    fn account(end: u64, messages: impl Iterator<Item = (u64, u64)>) -> Account {
        let measured: Measured = messages.map(|(at, took)| (at * 1_000, took * 1_000)).collect();
        let messages = measured.len() as u64;
        let worked = Worked { topic: "t".to_owned(), messages, measured };
        Account::of(worked, &(6_000_000..end * 1_000))
    }

    /// When a pair publishes that nobody holds up.
    fn paced(end: u64) -> impl Iterator<Item = u64> {
        (0..end / 10).map(|number| number * 10)
    }

    fn counts(account: &Account) -> Vec<usize> {
        account.rounds.iter().map(|round| round.count).collect()
    }

    #[test]
    fn the_rounds_that_count_are_those_of_the_siege_that_are_whole() {
        // Calm, three rounds, and half a round.
        let took = |at: u64| match at / 2_000 {
            0..=2 => 2,
            3..=4 => 90,
            5..=6 => 5,
            7..=8 => 70,
            _ => 1,
        };
        let account = account(20_000, paced(20_000).map(|at| (at, took(at))));
        assert_eq!(counts(&account), [400, 400, 400]);
        assert_eq!(account.latencies.map(|it| it.count), [600, 1_400]);
        assert_eq!((account.best_p99(), account.median_p99()), (Some(5.0), Some(70.0)));
    }

    #[test]
    fn what_is_published_after_the_last_attack_began_hides_nothing() {
        // Three rounds, and a letting-go that takes longer than two.
        let took = |at: u64| if (6_000..18_000).contains(&at) { 900 } else { 2 };
        let account = account(18_000, paced(28_000).map(|at| (at, took(at))));
        assert_eq!((account.messages, counts(&account)), (2_800, vec![400, 400, 400]));
        assert_eq!((account.best_p99(), account.median_p99()), (Some(900.0), Some(900.0)));
        assert_eq!(account.latencies.map(|it| it.p99), [2.0, 900.0]);
    }

    #[test]
    fn a_node_that_holds_everybody_up_for_six_of_eight_seconds_has_no_good_round() {
        for shift in (0..8_000).step_by(500) {
            let message = |at: u64| {
                let into = (at.saturating_sub(6_000) + shift) % 8_000;
                match into {
                    _ if at < 6_000 => Some((at, 2)),
                    // As many as may be in flight; then nothing more is published.
                    0..500 => Some((at, 6_000 - into)),
                    500..6_000 => None,
                    _ => Some((at, 2)),
                }
            };
            let account = account(38_000, paced(38_000).filter_map(message));
            assert_eq!(account.rounds.len(), 8, "those without a message, too");
            assert!(account.best_p99() > Some(5_000.0), "{shift}: {:?}", account.best_p99());
            assert_eq!(account.median_p99(), Some(f64::INFINITY), "{shift}");
        }
    }
}
