//! Producers that keep a whole window of messages unanswered while the nodes of a cluster are restarted one after the
//! other, and while one is killed: whatever comes back from one node comes back by the thousand.
#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use ltq_client::{Availability, ClusterProducer, ClusterPublishError, ClusterReceipt, Message};
use ltq_tests::{Consumed, Field, Judged, Stalls, check_stored, consume_in_order, within};
use tokio::{
    sync::watch,
    task::{JoinHandle, unconstrained, yield_now},
};

/// So many are unanswered all the time.
const WINDOW: usize = 4_096;
const KEYS: usize = 64;
/// How long one that had room may wait for its receipt while nodes are restarted.
const WAITS_MAX: Duration = Duration::from_secs(1);
/// No receipt of a node that is well takes as long.
const LONG: Duration = Duration::from_millis(300);
/// Longer than a node that was killed is away.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Who publishes until told to stop.
struct Flow {
    stop: watch::Sender<bool>,
    confirmed: Arc<AtomicU64>,
    task: JoinHandle<Account>,
}

/// What became of it.
#[derive(Default)]
struct Account {
    /// By body: the node that has it.
    confirmed: BTreeMap<String, String>,
    /// How many were told that the order moves.
    moved: u64,
    /// When each had room, and when it was answered.
    calls: Vec<(Instant, Instant)>,
    /// How many were unanswered at once.
    most: usize,
}

impl Account {
    /// The longest wait, not counting the time in which this machine had other things to do.
    fn longest(&self, stalls: &Stalls) -> Judged {
        assert_eq!(self.most, WINDOW, "the window was never full");
        let judged = self.calls.iter().map(|(began, ended)| stalls.without(*began, *ended));
        let longest = judged.max().expect("a call");
        let (confirmed, moved) = (self.confirmed.len(), self.moved);
        println!("{confirmed} confirmed, {moved} told of moves, the longest wait: {longest:?}");
        longest
    }
}

/// What is published with one key.
#[derive(Default)]
struct Key {
    next: u64,
    under_way: usize,
    /// The last one that is stored.
    last: Option<u64>,
    /// The first one that is not, since the order moved.
    back_to: Option<u64>,
}

/// A message that was taken: by which key, its number, when it had room and when it was answered.
type Answer = (usize, u64, Instant, Instant, Result<ClusterReceipt, ClusterPublishError>);

/// Keeps the window full.
struct Publisher {
    producer: ClusterProducer,
    /// What was consumed, where somebody does.
    consumed: watch::Receiver<BTreeMap<String, u64>>,
    confirmed: Arc<AtomicU64>,
    keys: Vec<Key>,
    turn: usize,
    under_way: FuturesUnordered<BoxFuture<'static, Answer>>,
    account: Account,
}

impl Publisher {
    async fn run(mut self, stop: watch::Receiver<bool>) -> Account {
        loop {
            let stops = *stop.borrow();
            if !stops {
                self.fill().await;
            }
            if stops && self.under_way.is_empty() {
                return self.account;
            }
            let is_moving = self.keys.iter().any(|key| key.back_to.is_some());
            tokio::select! {
                Some(answer) = self.under_way.next() => {
                    self.answered(answer);
                    while let Some(Some(answer)) = self.under_way.next().now_or_never() {
                        self.answered(answer);
                    }
                }
                changed = self.consumed.changed(), if is_moving => changed.expect("a consumer"),
            }
            if is_moving {
                self.go_on();
            }
            // Others in this process have their turn, too.
            yield_now().await;
        }
    }

    /// Publishes as much as there is room for, by all keys whose order does not move.
    async fn fill(&mut self) {
        let mut passed = 0;
        while self.under_way.len() < WINDOW && passed < KEYS {
            let at = self.turn % KEYS;
            self.turn += 1;
            let key = &mut self.keys[at];
            if key.back_to.is_some() {
                passed += 1;
                continue;
            }
            passed = 0;
            let number = key.next;
            key.next += 1;
            let message = Message::new(format!("{at}/{number}")).with_key(at.to_string());
            // There is room: as many are unanswered as the window holds, but for this one.
            let began = Instant::now();
            match self.producer.enqueue(message).await {
                Ok(receipt) => {
                    key.under_way += 1;
                    let answer = async move {
                        let result = receipt.await;
                        (at, number, began, Instant::now(), result)
                    };
                    self.under_way.push(answer.boxed());
                }
                Err(error) => self.failed(at, number, error),
            }
        }
        self.account.most = self.account.most.max(self.under_way.len());
    }

    fn answered(&mut self, (at, number, began, ended, result): Answer) {
        self.keys[at].under_way -= 1;
        self.account.calls.push((began, ended));
        match result {
            Ok(receipt) => {
                let key = &mut self.keys[at];
                key.last = key.last.max(Some(number));
                self.confirmed.fetch_add(1, Ordering::Relaxed);
                let body = format!("{at}/{number}");
                let before = self.account.confirmed.insert(body, receipt.node.to_string());
                assert_eq!(before, None, "{at}/{number} was confirmed twice");
            }
            Err(error) => self.failed(at, number, error),
        }
    }

    fn failed(&mut self, at: usize, number: u64, error: ClusterPublishError) {
        assert!(matches!(error, ClusterPublishError::OrderMoved { .. }), "{at}/{number}: {error}");
        self.account.moved += 1;
        let key = &mut self.keys[at];
        key.back_to = Some(key.back_to.map_or(number, |first| first.min(number)));
    }

    /// Whose order moved goes on where it has to, when nothing of it is under way any more and all before that is
    /// consumed.
    fn go_on(&mut self) {
        let consumed = self.consumed.borrow_and_update();
        for (at, key) in self.keys.iter_mut().enumerate() {
            let Some(first) = key.back_to.filter(|_| key.under_way == 0) else { continue };
            assert!(
                key.last < Some(first),
                "promise 5: {:?} of key {at} was stored in front of {first}, which was told of the move",
                key.last
            );
            if consumed.get(&at.to_string()).copied() == first.checked_sub(1) {
                (key.next, key.back_to) = (first, None);
            }
        }
    }
}

impl Flow {
    /// Who hears that the order of a key moves waits for what is under way of it, and until all of it that is
    /// confirmed is consumed; and publishes again from the first on that is not.
    fn start(producer: &ClusterProducer, consumed: &Consumed) -> Self {
        let (stop, stopped) = watch::channel(false);
        let confirmed = Arc::new(AtomicU64::new(0));
        let publisher = Publisher {
            producer: producer.clone(),
            consumed: consumed.subscribe(),
            confirmed: confirmed.clone(),
            keys: (0..KEYS).map(|_| Key::default()).collect(),
            turn: 0,
            under_way: FuturesUnordered::new(),
            account: Account::default(),
        };
        // With a budget of 128 answers at a time those beyond it would be looked at in another order, and late.
        let task = tokio::spawn(unconstrained(publisher.run(stopped)));
        Self { stop, confirmed, task }
    }

    /// Waits until so many more messages were confirmed.
    async fn more(&self, count: usize) {
        let from = self.confirmed.load(Ordering::Relaxed);
        within("the flow to go on", async {
            while self.confirmed.load(Ordering::Relaxed) < from + count as u64
                && !self.task.is_finished()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits until nothing was confirmed for longer than any node that is well takes.
    async fn stands_still(&self) {
        within("the flow to stand still", async {
            let mut seen = None;
            while seen != Some(self.confirmed.load(Ordering::Relaxed)) {
                seen = Some(self.confirmed.load(Ordering::Relaxed));
                tokio::time::sleep(LONG).await;
            }
        })
        .await;
    }

    async fn end(self) -> Account {
        self.stop.send_replace(true);
        within("the last publish", self.task).await.expect("no panic")
    }
}

/// Restarts the nodes one after the other.
async fn roll(field: &mut Field, flow: &Flow) {
    flow.more(WINDOW * 2).await;
    for name in Field::NAMES {
        let port = field.end(name).await;
        flow.more(WINDOW).await;
        field.start_again(name, port).await;
        flow.more(WINDOW).await;
    }
}

/// Nobody consumes.
fn nobody() -> Consumed {
    watch::Sender::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_11_a_rolling_restart_under_a_full_window_loses_and_repeats_nothing() {
    let mut field = Field::new("").await;
    let builder = field.cluster.producer_builder("orders").window_messages(WINDOW);
    let producer = builder.open().await.expect("a producer");
    let flow = Flow::start(&producer, &nobody());
    roll(&mut field, &flow).await;
    let account = flow.end().await;
    let longest = account.longest(&field.stalls);
    assert!(longest.own <= WAITS_MAX, "one waited for more than {WAITS_MAX:?}: {longest:?}");
    println!("{} came back from a node that stopped", producer.figures().moved);
    let stored = field.stored("orders").await;
    check_stored(&account.confirmed, &stored);
    let all: usize = stored.values().map(Vec::len).sum();
    assert_eq!(all, account.confirmed.len(), "each is there once");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_nothing_confirmed_of_a_full_window_is_lost_when_a_node_is_killed() {
    let mut field = Field::new("").await;
    let builder = field.cluster.producer_builder("orders").window_messages(WINDOW);
    let producer = builder.timeout(TIMEOUT).open().await.expect("a producer");
    let flow = Flow::start(&producer, &nobody());
    flow.more(WINDOW * 2).await;
    let killed = field.nodes.remove("n2").expect("it");
    let port = killed.port();
    // It has much that it never answers when it is killed.
    killed.pause(true).expect("paused");
    flow.more(WINDOW).await;
    killed.kill().await.expect("killed");
    flow.more(WINDOW * 2).await;
    within("what it had to go elsewhere", async {
        while producer.figures().maybe_repeated == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    field.start_again("n2", port).await;
    flow.more(WINDOW * 2).await;
    let account = flow.end().await;
    assert!(account.longest(&field.stalls).took > LONG, "nobody waited for it: this shows nothing");
    let stored = field.stored("orders").await;
    check_stored(&account.confirmed, &stored);
    assert_eq!(stored.len(), Field::NAMES.len(), "each node had its share");
    let mut nodes_of = BTreeMap::<&String, BTreeSet<&str>>::new();
    for (name, messages) in &stored {
        for (body, _) in messages {
            nodes_of.entry(body).or_default().insert(name);
        }
    }
    let repeated: Vec<_> = nodes_of.values().filter(|nodes| nodes.len() > 1).collect();
    println!("{} of {} are on two nodes", repeated.len(), nodes_of.len());
    assert!(repeated.iter().all(|nodes| nodes.contains("n2")), "only what was sent to it repeats");
    assert_eq!(nodes_of.len(), account.confirmed.len(), "nothing is there that nobody published");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_5_a_full_window_keeps_its_order_when_a_node_is_killed() {
    let mut field = Field::new("").await;
    let builder = field.cluster.producer_builder("orders").window_messages(WINDOW);
    let builder = builder.ordered(Availability::Fail).timeout(TIMEOUT);
    let producer = builder.open().await.expect("a producer");
    let flow = Flow::start(&producer, &nobody());
    flow.more(WINDOW * 2).await;
    let killed = field.nodes.remove("n2").expect("it");
    let port = killed.port();
    // Its keys wait for it, and soon all of the window is theirs.
    killed.pause(true).expect("paused");
    flow.stands_still().await;
    killed.kill().await.expect("killed");
    field.start_again("n2", port).await;
    flow.more(WINDOW * 2).await;
    let account = flow.end().await;
    assert!(account.longest(&field.stalls).took > LONG, "nobody waited for it: this shows nothing");
    assert_eq!(account.moved, 0, "no order moved");
    let stored = field.stored("orders").await;
    check_stored(&account.confirmed, &stored);
    let mut next = BTreeMap::<&str, u64>::new();
    for (body, _) in stored.values().flatten() {
        let (key, number) = body.split_once('/').expect("a key and a number");
        let next = next.entry(key).or_default();
        assert_eq!(number.parse(), Ok(*next), "promise 5: key {key} is not in order");
        *next += 1;
    }
    let all: usize = stored.values().map(Vec::len).sum();
    assert_eq!(all, account.confirmed.len(), "each is there once");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_5_a_full_window_keeps_its_order_through_a_rolling_restart() {
    let mut field = Field::new("[drain]\non_signal = true\ntimeout = \"15s\"\n").await;
    let consumer = field.cluster.consumer("orders", "billing").await.expect("a consumer");
    let consumed = Arc::new(Consumed::default());
    let consuming = tokio::spawn(consume_in_order(consumer, consumed.clone()));
    let builder = field.cluster.producer_builder("orders").window_messages(WINDOW);
    let producer = builder.ordered(Availability::Move).open().await.expect("a producer");
    let flow = Flow::start(&producer, &consumed);
    roll(&mut field, &flow).await;
    let account = flow.end().await;
    let longest = account.longest(&field.stalls);
    assert!(longest.own <= WAITS_MAX, "one waited for more than {WAITS_MAX:?}: {longest:?}");
    println!("{} came back from a node that drained", producer.figures().moved);
    assert!(account.moved > 0, "no key ever moved: this shows nothing");
    let published = account.confirmed.len() as u64;
    let all = |consumed: &BTreeMap<String, u64>| {
        consumed.values().map(|number| number + 1).sum::<u64>() >= published
    };
    within("everything", consumed.subscribe().wait_for(all)).await.expect("a consumer");
    let end = field.cluster.producer("orders").await.expect("a producer");
    end.send(Message::new("end")).await.expect("stored");
    let count = within("the end", consuming).await.expect("no panic");
    assert_eq!(count, published, "promise 1: each once");
}
