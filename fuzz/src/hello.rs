use std::sync::Arc;

use ltq_core::{
    Address, Broker, BrokerSettings, Durability, Environment, SharedToken, TopicSettings,
    Transport, protocol::Frame,
};
use ltq_store::MemoryStore;
use ltq_transport::InProcess;

use crate::{
    STOP,
    peer::{Peer, within},
};

/// Whatever a stream begins with: who does not bring the token is told goodbye and nothing else, and
/// leaves nothing behind.
pub fn hello(data: &[u8]) {
    // In how many pieces they come.
    let Some((pieces, bytes)) = data.split_first() else { return };
    crate::run(greet(usize::from(*pieces % 8) + 1, bytes));
}

async fn greet(pieces: usize, bytes: &[u8]) {
    let access = Arc::new(SharedToken::new(TOKEN).expect("a token"));
    let settings = BrokerSettings {
        access,
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        ..BrokerSettings::default()
    };
    let store = MemoryStore::new(1 << 20);
    let broker = Broker::start(store, settings, Environment::system()).await.expect("a broker");
    let transport = InProcess::new();
    let address = Address::new("in-process", "hello");
    let listener = transport.listen(&address).await.expect("a listener");
    let serving = tokio::spawn({
        let broker = broker.clone();
        async move { broker.serve(listener).await }
    });
    let mut peer = Peer::connect(&transport, &address).await;
    for piece in bytes.chunks(bytes.len().div_ceil(pieces).max(1)) {
        if peer.send(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let knows = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
    // A stream that was cut is at its end as well.
    let _ = peer.finish().await;
    while let Some(frame) = peer.next().await {
        let allowed = knows || matches!(frame, Frame::Goodbye { .. });
        assert!(allowed, "promise 10: without the token it was told {frame:?}");
    }
    let stats = broker.stats().await;
    assert!(knows || stats.topics.is_empty(), "promise 10: {stats:?}");
    drop(peer);
    within("the broker's stop", broker.stop(STOP)).await.expect("promise 11: a clean stop");
    within("the end of serving", serving).await.expect("no panic").expect("a clean end");
}

/// Short, so that it can be come by.
const TOKEN: &str = "key!";
