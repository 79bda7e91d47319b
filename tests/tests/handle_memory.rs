//! What a subscription and a producer cost a broker in memory: the figures from which
//! `handles_total_max` follows in ARCHITECTURE.md. A test alone in its process, since it looks at all
//! of that.

use ltq_core::{Credit, TopicName, protocol::Frame};
use ltq_tests::{Local, RawPeer, Served, bytes_of};

/// Bytes of memory that this process has.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = text.split(' ').nth(1).expect("a figure").parse().expect("a number");
    pages * 4096
}

const CONNECTIONS: usize = 5;
const HANDLES: u32 = 4_000;

/// Bytes for each of many that are opened. What else the process needs now and then, and keeps, is in one
/// round and not in the next: so the least of some is what they cost.
async fn each(local: &Local, peers: &mut Vec<RawPeer>, open: impl Fn(u32, u32) -> Frame) -> usize {
    let mut least = usize::MAX;
    for _ in 0..ROUNDS {
        for _ in 0..CONNECTIONS {
            peers.push(local.peer().await);
        }
        let before = resident();
        for (nth, peer) in peers.iter_mut().rev().take(CONNECTIONS).enumerate() {
            for some in (0..HANDLES).collect::<Vec<_>>().chunks(100) {
                let frames = some.iter().flat_map(|handle| bytes_of(&open(nth as u32, *handle)));
                peer.send_bytes(&frames.collect::<Vec<_>>()).await.expect("sent");
                for _ in some {
                    let answer = peer.next().await;
                    let opened = matches!(
                        answer,
                        Some(Frame::Subscribed { .. } | Frame::ProducerOpened { .. })
                    );
                    assert!(opened, "{answer:?}");
                }
            }
        }
        let bytes = resident().saturating_sub(before) / (CONNECTIONS * HANDLES as usize);
        println!("{bytes} bytes");
        least = least.min(bytes);
    }
    least
}

#[tokio::test]
async fn a_subscription_and_a_producer_cost_as_much_as_is_said() {
    let local = Local::start(Served::settings()).await;
    let topic = |nth: u32| TopicName::new(&format!("t{nth}")).expect("a name");
    let credit = Credit { messages: 100, bytes: 1 << 20 };
    let mut peers = Vec::new();
    let subscription = each(&local, &mut peers, |nth, handle| {
        RawPeer::subscribe(handle, topic(nth).as_str(), "c", credit)
    })
    .await;
    let producer = each(&local, &mut peers, |nth, handle| Frame::OpenProducer {
        handle,
        topic: topic(nth),
        name: None,
        epoch: None,
        seat: None,
    })
    .await;
    println!("{subscription} bytes for a subscription, {producer} for a producer");
    for (bytes, said) in [(subscription, SUBSCRIPTION_BYTES), (producer, PRODUCER_BYTES)] {
        // Half of it would be as wrong as twice.
        assert!((said / 2..2 * said).contains(&bytes), "{bytes} bytes, where {said} are said");
    }
}

const ROUNDS: usize = 3;
/// What ARCHITECTURE.md says.
const SUBSCRIPTION_BYTES: usize = 280;
const PRODUCER_BYTES: usize = 430;
