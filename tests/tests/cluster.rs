//! A registry and three real nodes, and producers and consumers that know the registry's address alone:
//! what was confirmed is there, and is consumed, when nodes are killed, when they are restarted one after
//! the other, and when the registry is gone.
#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ltq_client::{ClusterConsumer, ClusterProducer, Message};
use ltq_tests::{Field, Judged, RegistryProcess, Stalls, check_stored, within};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

/// Each waits for its receipt before it publishes again.
const PUBLISHERS: usize = 4;
/// How long those wait who had given something to a node that is gone, and nobody else: `failover_after`, unless it is
/// set.
const FAILOVER_AFTER: Duration = Duration::from_millis(500);
/// Who waits for that in another process may find it somewhat shorter.
const WAITED: Duration = Duration::from_millis(480);
/// What the programs may take for their part of something, but for what they waited for a processor beyond their turn.
const SLACK: Duration = Duration::from_millis(150);
/// How long a publish may wait while nodes are restarted.
const WAITS_MAX: Duration = Duration::from_millis(300);
/// Of so many publishes in a row one node of four has to have at least half of its quarter.
const SHARED: u64 = 100;
/// And so soon after it was started.
const SHARED_WITHIN: Duration = Duration::from_millis(500);
const HEARTBEAT: Duration = Field::HEARTBEAT;
/// No receipt of a node that is well takes as long.
const LONG: Duration = Duration::from_millis(150);

/// Who publishes until told to stop, one after the other.
struct Load {
    stalls: Arc<Stalls>,
    stop: watch::Sender<bool>,
    confirmed: Arc<AtomicU64>,
    /// When each publisher began with what it is at.
    begun: watch::Sender<[Option<Instant>; PUBLISHERS]>,
    tasks: Vec<JoinHandle<Account>>,
}

/// What became of it.
#[derive(Debug, Default)]
struct Account {
    /// By body: the node that has it.
    confirmed: BTreeMap<String, String>,
    failed: Vec<String>,
    /// In the order in which they ended.
    calls: Vec<Call>,
}

/// When a node did not answer.
struct Away {
    /// From when on.
    gone: Instant,
    /// When its connections were lost, or else the same.
    lost: Instant,
    /// Until when.
    back: Instant,
}

/// One publish, by one of the publishers.
#[derive(Clone, Debug)]
struct Call {
    who: usize,
    began: Instant,
    ended: Instant,
    /// Who stored it.
    node: String,
    judged: Judged,
}

impl Account {
    /// The longest one, not counting the time in which this machine had other things to do.
    fn longest(&self) -> Judged {
        self.calls.iter().map(|call| call.judged).max().unwrap_or_default()
    }

    /// A node that answered nobody from some time on had some publishers wait for it, each once and no longer than
    /// `most` from when it was `lost`; and nothing that was published three heartbeats later was given to it.
    fn assert_avoided(&self, stalls: &Stalls, away: &Away, most: Duration) {
        let Away { gone, lost, back } = *away;
        // Whenever they ended: a call that waits does not end before others have been done for long.
        let is_then = |call: &&Call| call.began < back && call.ended > gone;
        // The machine may have been so busy that most of the wait counts as its own doing.
        let somebody = self.calls.iter().filter(is_then).any(|call| call.judged.took > WAITED);
        assert!(somebody, "nobody waited: this shows nothing");
        let waited = |call: &&Call| is_then(call) && call.judged.own > WAITED;
        for who in 0..PUBLISHERS {
            let waited: Vec<_> =
                self.calls.iter().filter(waited).filter(|it| it.who == who).collect();
            assert!(waited.len() <= 1, "publisher {who} waited for it more than once: {waited:?}");
            for Call { began, ended, judged, .. } in waited {
                let cost = stalls.without(lost.max(*began), *ended);
                assert!(cost.own <= most, "publisher {who} waited for {cost:?} of {judged:?}");
                let after = stalls.without(gone.min(*began), *began);
                assert!(
                    after.own <= HEARTBEAT * 3 + SLACK,
                    "it was not avoided {after:?} later: {judged:?}"
                );
            }
        }
    }

    /// No publish waited for longer than that, but for the time in which this machine had other things to do.
    fn assert_longest(&self, most: Duration) {
        let longest = self.longest();
        println!("{} confirmed, the longest publish: {longest:?}", self.confirmed.len());
        assert!(longest.own <= most, "a publish waited for more than {most:?}: {longest:?}");
    }
}

impl Load {
    fn start(field: &Field, producer: &ClusterProducer) -> Self {
        let (stop, stopped) = watch::channel(false);
        let confirmed = Arc::new(AtomicU64::new(0));
        let stalls = field.stalls.clone();
        let begun = watch::Sender::new([None; PUBLISHERS]);
        let publish = |who: usize| {
            let (producer, stopped) = (producer.clone(), stopped.clone());
            let begun = begun.clone();
            let confirmed = confirmed.clone();
            tokio::spawn(async move {
                let mut account = Account::default();
                for number in 0.. {
                    if *stopped.borrow() {
                        break;
                    }
                    let body = format!("{who}-{number}");
                    let began = Instant::now();
                    begun.send_modify(|begun| begun[who] = Some(began));
                    match producer.send(Message::new(body.clone())).await {
                        Ok(receipt) => {
                            confirmed.fetch_add(1, Ordering::Relaxed);
                            let (ended, node) = (Instant::now(), receipt.node.to_string());
                            account.confirmed.insert(body, node.clone());
                            let judged = Judged::default();
                            account.calls.push(Call { who, began, ended, node, judged });
                        }
                        Err(error) => account.failed.push(error.to_string()),
                    }
                }
                account
            })
        };
        let tasks = (0..PUBLISHERS).map(publish).collect();
        Self { stalls, stop, confirmed, begun, tasks }
    }

    /// Waits until so many more messages were confirmed.
    async fn more(&self, count: u64) {
        let from = self.confirmed.load(Ordering::Relaxed);
        within("the load to go on", async {
            while self.confirmed.load(Ordering::Relaxed) < from + count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits until somebody waits for a receipt for longer than any node that is well takes.
    async fn somebody_waits(&self) {
        within("somebody to wait", async {
            let waits = |began: &Option<Instant>| began.is_some_and(|it| it.elapsed() > LONG);
            while !self.begun.borrow().iter().any(waits) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits until nobody is at what was begun before that any more.
    async fn nobody_waits_since(&self, moment: Instant) {
        within("everybody to be done with what was begun before", async {
            let is_later = |began: &Option<Instant>| began.is_some_and(|it| it > moment);
            while !self.begun.borrow().iter().all(is_later) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn end(self) -> Account {
        self.stop.send_replace(true);
        let mut all = Account::default();
        for task in self.tasks {
            let one = within("the last publish", task).await.expect("no panic");
            all.confirmed.extend(one.confirmed);
            all.failed.extend(one.failed);
            all.calls.extend(one.calls);
        }
        for call in &mut all.calls {
            call.judged = self.stalls.without(call.began, call.ended);
        }
        all.calls.sort_by_key(|call| call.ended);
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_nothing_confirmed_is_lost_when_a_node_and_the_registry_are_killed() {
    let mut field = Field::new("").await;
    let producer = field.cluster.producer("orders").await.expect("a producer");
    let load = Load::start(&field, &producer);
    load.more(200).await;
    let killed = field.nodes.remove("n2").expect("it");
    let port = killed.port();
    // It has something that it never answers when it is killed.
    let gone = Instant::now();
    killed.pause(true).expect("paused");
    load.somebody_waits().await;
    let lost = Instant::now();
    killed.kill().await.expect("killed");
    // It stays away until whoever waits for it has gone elsewhere.
    load.nobody_waits_since(lost).await;
    load.more(200).await;
    let away = Away { gone, lost, back: Instant::now() };
    // The others go on while nobody tells of nodes any more.
    field.registry.take().expect("it").kill().await.expect("killed");
    load.more(200).await;
    field.start("n2", port).await;
    load.more(200).await;
    let stalls = load.stalls.clone();
    let account = load.end().await;
    assert!(account.failed.is_empty(), "{:?}", account.failed);
    println!("{} confirmed, the longest publish: {:?}", account.confirmed.len(), account.longest());
    account.assert_avoided(&stalls, &away, FAILOVER_AFTER + SLACK);
    let stored = field.stored("orders").await;
    check_stored(&account.confirmed, &stored);
    assert_eq!(stored.len(), 3, "each node had its share");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_11_a_rolling_restart_loses_and_repeats_nothing() {
    let mut field = Field::new("").await;
    let producer = field.cluster.producer("orders").await.expect("a producer");
    let load = Load::start(&field, &producer);
    load.more(200).await;
    for name in Field::NAMES {
        let port = field.end(name).await;
        load.more(50).await;
        field.start_again(name, port).await;
        load.more(50).await;
    }
    let account = load.end().await;
    assert!(account.failed.is_empty(), "{:?}", account.failed);
    account.assert_longest(WAITS_MAX);
    let stored = field.stored("orders").await;
    check_stored(&account.confirmed, &stored);
    let all: usize = stored.values().map(Vec::len).sum();
    assert_eq!(all, account.confirmed.len(), "each is there once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_gets_its_share_and_one_that_stands_still_is_avoided() {
    let mut field = Field::new("").await;
    let producer = field.cluster.producer("orders").await.expect("a producer");
    let load = Load::start(&field, &producer);
    load.more(100).await;
    let began = Instant::now();
    field.start("n4", 0).await;
    load.more(SHARED * 3).await;
    // It stands still, with whatever it was given.
    let of = |name: &str| {
        let figures = producer.figures();
        let node = figures.nodes.iter().find(|(id, _)| id.as_str() == name);
        node.map_or(0, |(_, node)| node.stored)
    };
    let still = field.nodes.get("n1").expect("it");
    let paused = Instant::now();
    still.pause(true).expect("paused");
    let registry = field.registry();
    let suspected = |nodes: &[Value]| nodes.iter().any(|node| node["suspected"] == true);
    registry.until("it is suspected", suspected).await;
    let suspected_at = Instant::now();
    load.more(SHARED).await;
    let before = of("n1");
    load.more(SHARED).await;
    assert_eq!(of("n1"), before, "it is avoided");
    // It stands until whoever waits for it has gone elsewhere.
    load.nobody_waits_since(suspected_at).await;
    let back = Instant::now();
    field.nodes.get("n1").expect("it").pause(false).expect("goes on");
    let (timeout, stalls) = (producer.timeout(), load.stalls.clone());
    let account = load.end().await;
    assert!(account.failed.is_empty(), "{:?}", account.failed);
    // The first stretch in which it had at least half of what is a quarter's share, which has to end in time.
    let later: Vec<_> = account.calls.iter().filter(|call| call.began >= began).collect();
    let is_share = |stretch: &&[&Call]| {
        stretch.iter().filter(|call| call.node == "n4").count() * 8 >= SHARED as usize
    };
    let stretch = later.windows(SHARED as usize).find(is_share).expect("the new node had no share");
    let shared = stalls.without(began, stretch.last().expect("a call").ended);
    println!("the new node had its share within {shared:?} of its start");
    assert!(shared.own <= SHARED_WITHIN, "it had no share within {SHARED_WITHIN:?}: {shared:?}");
    let suspicion = stalls.without(paused, suspected_at);
    println!("the one that stands still was suspected within {suspicion:?}");
    assert!(suspicion.own <= HEARTBEAT * 3 + SLACK, "it was not suspected in time: {suspicion:?}");
    account.assert_avoided(&stalls, &Away { gone: paused, lost: paused, back }, timeout);
    let nodes = Arc::new(field.stored("orders").await);
    check_stored(&account.confirmed, &nodes);
}

/// Takes and acks until it is told which messages it is to have seen, and has.
fn consume(
    mut consumer: ClusterConsumer,
    mut wanted: watch::Receiver<Option<BTreeSet<String>>>,
) -> (Arc<AtomicU64>, JoinHandle<BTreeMap<String, u32>>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let consuming = tokio::spawn(async move {
        let mut seen = BTreeMap::new();
        loop {
            let is_done = wanted
                .borrow_and_update()
                .as_ref()
                .is_some_and(|wanted| wanted.iter().all(|body| seen.contains_key(body)));
            if is_done {
                consumer.close().await.expect("a clean end");
                return seen;
            }
            tokio::select! {
                _ = wanted.changed() => {}
                delivery = consumer.next() => {
                    let delivery = delivery.expect("it goes on").expect("whole");
                    let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
                    *seen.entry(body).or_default() += 1;
                    counted.fetch_add(1, Ordering::Relaxed);
                    // Where its connection is lost it comes again.
                    let _void = delivery.ack();
                }
            }
        }
    });
    (count, consuming)
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_2_everything_confirmed_is_consumed_when_nodes_and_the_registry_are_killed_and_return()
 {
    let mut field = Field::new("").await;
    // No node has the topic yet.
    let consumer = field.cluster.consumer("orders", "billing").await.expect("a consumer");
    let (wants, wanted) = watch::channel(None);
    let (count, consuming) = consume(consumer, wanted);
    let more_consumed = async |what: &str, more: u64| {
        let from = count.load(Ordering::Relaxed);
        within(what, async {
            while count.load(Ordering::Relaxed) < from + more {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    let producer = field.cluster.producer("orders").await.expect("a producer");
    let load = Load::start(&field, &producer);
    load.more(200).await;
    more_consumed("all go on", 200).await;
    let killed = field.nodes.remove("n2").expect("it");
    let port = killed.port();
    killed.kill().await.expect("killed");
    load.more(200).await;
    more_consumed("the others go on", 200).await;
    let registry = field.registry.take().expect("it");
    let at = registry.port();
    registry.kill().await.expect("killed");
    load.more(200).await;
    more_consumed("it goes on without a registry", 200).await;
    field.start("n2", port).await;
    load.more(200).await;
    let registry = RegistryProcess::start(at, &["--heartbeat", "200ms"]).await.expect("again");
    let all = |nodes: &[Value]| nodes.len() == Field::NAMES.len();
    registry.until("all are there again", all).await;
    field.registry = Some(registry);
    load.more(200).await;
    more_consumed("all go on again", 200).await;
    let account = load.end().await;
    assert!(account.failed.is_empty(), "{:?}", account.failed);
    let confirmed: BTreeSet<_> = account.confirmed.keys().cloned().collect();
    wants.send_replace(Some(confirmed.clone()));
    let seen = within("everything to be consumed", consuming).await.expect("no panic");
    let repeats: u32 = seen.values().map(|times| times - 1).sum();
    println!("{} confirmed, {repeats} deliveries of them repeated", confirmed.len());
    let never: Vec<_> = confirmed.iter().filter(|body| !seen.contains_key(*body)).collect();
    assert!(never.is_empty(), "{never:?}");
    // What was killed is n2 alone: only what it had in flight, or was sent again elsewhere, may repeat.
    let used: BTreeSet<_> = account.confirmed.values().collect();
    assert_eq!(used.len(), 3, "each node had its share");
}
