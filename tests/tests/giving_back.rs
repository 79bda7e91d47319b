//! Promise 9 of a real node: what its files take, compared with what some channel still wants,
//! for consumers that leave something unacked for ever.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use ltq_client::{Client, Message};
use ltq_core::TABLE_ENTRY_BYTES;
use ltq_tests::{NodeProcess, within};
use tokio::time::{Instant, sleep};

const SEGMENT: u64 = 1 << 20;
const BODY: usize = 1 << 10;
/// A look is due each second; this is for slow machines.
const CAUGHT_UP: Duration = Duration::from_secs(60);

async fn start(folder: &Path) -> (NodeProcess, Client) {
    let config = folder.join("small.toml");
    let settings = "file_store.tail_bytes = \"256KiB\"\nfile_store.segment_bytes = \"1MiB\"\n\
                    file_store.journal_bytes_max = \"2MiB\"\ndelivery.timeout = \"15m\"\n\
                    limits.frame_bytes_max = \"256KiB\"\nlimits.message_bytes_max = \"64KiB\"\n";
    std::fs::write(&config, settings).expect("written");
    let flags = ["--config", config.to_str().expect("a path"), "--durability", "os"];
    let node = NodeProcess::start(&folder.join("data"), 0, &flags).await.expect("the node starts");
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    (node, client)
}

/// The segment files, and what each takes.
fn segments(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let files = std::fs::read_dir(folder.join("data/segments")).into_iter().flatten();
    let sizes = files.filter_map(|file| {
        let file = file.ok()?;
        // One may go while they are listed.
        Some((file.path(), file.metadata().ok()?.len()))
    });
    sizes.collect()
}

/// Publishes so many messages, acks all of them but those that are `left`, and returns what the
/// segments took when they had come to rest, what they took at most once the messages were there,
/// and the most that was promised.
async fn left_over(count: u64, left: impl Fn(u64) -> bool) -> (u64, u64, u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let (node, client) = start(folder.path()).await;
    let mut consumer = client.consumer("t", "c").await.expect("a consumer");
    let producer = client.producer("t").await.expect("a producer");
    let (mut held, mut wanted, mut peak) = (Vec::new(), 0, 0);
    for first in (0..count).step_by(1_000) {
        let mut pending = Vec::new();
        for _ in 0..1_000 {
            pending.push(producer.enqueue(Message::new(vec![7; BODY])).await.expect("taken"));
        }
        for receipt in pending {
            within("the confirm", receipt).await.expect("stored");
        }
        peak = peak.max(segments(folder.path()).values().sum());
        for at in first..first + 1_000 {
            let delivery = within("a delivery", consumer.next()).await.expect("one").expect("good");
            assert_eq!(delivery.offset().0, at, "promise 4");
            if left(at) {
                wanted += (BODY + TABLE_ENTRY_BYTES) as u64;
                held.push(delivery);
            } else {
                delivery.ack().expect("acked");
            }
        }
    }
    // "At most twice what is still wanted, and one segment for each topic."
    let most = 2 * wanted + SEGMENT;
    let since = Instant::now();
    let mut rest = loop {
        let used: u64 = segments(folder.path()).values().sum();
        if used <= most || since.elapsed() > CAUGHT_UP {
            break used;
        }
        sleep(Duration::from_millis(20)).await;
    };
    // It holds when the node has stopped, and what was left is there.
    drop((held, consumer, producer));
    client.close().await.expect("closed");
    assert!(node.terminate().await.expect("stopped").success());
    rest = rest.max(segments(folder.path()).values().sum());
    let (node, client) = start(folder.path()).await;
    let mut consumer = client.consumer("t", "c").await.expect("a consumer");
    // Held, or they would be given back and come again.
    let mut again = Vec::new();
    for at in (0..count).filter(|&at| left(at)) {
        let delivery = within("what was left", consumer.next()).await.expect("one").expect("good");
        assert_eq!((delivery.offset().0, delivery.message.body.len()), (at, BODY), "promise 2");
        again.push(delivery);
    }
    assert!(node.terminate().await.expect("stopped").success());
    (rest, peak, most)
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_9_files_take_at_most_twice_what_is_wanted_and_a_segment_for_each_topic() {
    let (first, fiftieth, thousandth) = tokio::join!(
        left_over(20_000, |at| at == 0),
        left_over(20_000, |at| at % 50 == 0),
        left_over(20_000, |at| at % 1_000 == 0),
    );
    for (what, (used, peak, most)) in
        [("the first", first), ("each 50th", fiftieth), ("each 1,000th", thousandth)]
    {
        assert!(used <= most, "{what} left unacked: {used} bytes, {most} at most");
        assert!(peak > 0, "{what}: nothing ever reached a segment");
    }
}
