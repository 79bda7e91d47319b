//! What the tests of bridges between real nodes share: a load, and what is stored in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ltq_client::{Client, Message};
use tokio::{sync::watch, task::JoinHandle};

use crate::{NodeProcess, within};

/// The header by which bridges have repeats told.
pub const ORIGIN_ID: &str = "ltq-origin-id";

/// A node of this name, on a port of this machine; 0 is any.
///
/// # Panics
/// When it does not start.
pub async fn node(folder: &Path, name: &str, port: u16) -> NodeProcess {
    NodeProcess::start(&folder.join(name), port, &["--node", name]).await.expect("a node")
}

/// What a node has of a topic: bodies with their ids, in the order of the log.
///
/// # Panics
/// When it does not tell.
pub async fn stored(node: &NodeProcess, topic: &str) -> Vec<(String, String)> {
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    let count = client.admin().show_topic(topic).await.expect("the topic").end.0;
    let mut consumer = client.consumer(topic, "check").await.expect("a consumer");
    let mut found = Vec::new();
    while (found.len() as u64) < count {
        let delivery = within("a message", consumer.next()).await.expect("one").expect("whole");
        let message = &delivery.message;
        let id = message.headers.get(ORIGIN_ID);
        let id = id.map(|id| String::from_utf8_lossy(id).into_owned());
        found.push((String::from_utf8_lossy(&message.body).into_owned(), id.unwrap_or_default()));
        delivery.ack().expect("in time");
    }
    found
}

/// Who publishes until told to stop, and knows what was confirmed.
pub struct Load {
    stop: watch::Sender<bool>,
    confirmed: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<BTreeSet<String>>>,
}

impl Load {
    /// Eight publishers, each with a key of its own.
    ///
    /// # Panics
    /// When the node is not there.
    pub async fn start(node: &NodeProcess, topic: &str) -> Self {
        let client = Client::connect(&node.address().to_string()).await.expect("connected");
        let producer = client.producer(topic).await.expect("a producer");
        let (stop, stopped) = watch::channel(false);
        let confirmed = Arc::new(AtomicU64::new(0));
        let publish = |who: usize| {
            let (producer, stopped, count) = (producer.clone(), stopped.clone(), confirmed.clone());
            tokio::spawn(async move {
                let mut mine = BTreeSet::new();
                for number in 0.. {
                    if *stopped.borrow() {
                        break;
                    }
                    let body = format!("{who}-{number}");
                    if producer
                        .send(Message::new(body.clone()).with_key(who.to_string()))
                        .await
                        .is_ok()
                    {
                        mine.insert(body);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
                mine
            })
        };
        let tasks = (0..8).map(publish).collect();
        Self { stop, confirmed, tasks }
    }

    /// How many messages were confirmed.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Waits until so many more messages were confirmed.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn more(&self, count: u64) {
        let from = self.confirmed.load(Ordering::Relaxed);
        within("the load to go on", async {
            while self.confirmed.load(Ordering::Relaxed) < from + count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    /// Stops, and says what was confirmed.
    ///
    /// # Panics
    /// When a publisher does not end.
    pub async fn end(self) -> BTreeSet<String> {
        self.stop.send_replace(true);
        let mut all = BTreeSet::new();
        for task in self.tasks {
            all.extend(within("a publisher's end", task).await.expect("no panic"));
        }
        all
    }
}

/// Everything that was confirmed is there, and its ids tell every repeat. Returns how many repeats there are.
///
/// # Panics
/// When it is not so.
#[must_use]
pub fn check(confirmed: &BTreeSet<String>, stored: &[(String, String)]) -> usize {
    let mut by_body: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (body, id) in stored {
        assert!(!id.is_empty(), "{body} has no id");
        by_body.entry(body).or_default().insert(id);
    }
    let lost: Vec<_> = confirmed.iter().filter(|body| !by_body.contains_key(&***body)).collect();
    assert!(lost.is_empty(), "{} messages are lost: {lost:?}", lost.len());
    for (body, ids) in &by_body {
        assert_eq!(ids.len(), 1, "{body} has several ids: {ids:?}");
    }
    stored.len() - by_body.len()
}
