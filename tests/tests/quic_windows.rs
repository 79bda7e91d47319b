//! Promise 10 over real QUIC: what a broker does not read for now takes a part of its connection's window, so
//! that acks and heartbeats on the other streams are heard, however narrow the window is.

use std::time::Duration;

use ltq_core::{
    Broker, BrokerSettings, Connection, Environment, Message, Records, TopicName, Transport,
    protocol::Frame,
};
use ltq_store::MemoryStore;
use ltq_tests::{Gated, RawPeer, Served, bytes_of, within};
use ltq_transport::{ClientTrust, Pem, Quic, QuicOptions, ServerTrust, self_signed};
use tokio::time::timeout;

async fn stream(connection: &dyn Connection) -> RawPeer {
    let opened = within("a stream", connection.open_stream()).await;
    let mut peer = RawPeer::over(opened.expect("a stream"));
    within("a welcome", peer.greet(RawPeer::hello())).await;
    peer
}

fn publish(sequence: u64) -> Vec<u8> {
    let records = Records::encode([&Message::new(vec![7; 10 << 10])]);
    bytes_of(&Frame::Publish { handle: 1, sequence, durability: None, records })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_10_consumers_are_heard_over_quic_while_publishers_of_their_connection_wait() {
    let settings = BrokerSettings {
        message_bytes_max: 16 << 10,
        frame_bytes_max: 68 << 10,
        publish_bytes_max: 68 << 10,
        publish_bytes_per_connection_max: Some(68 << 10),
        ..Served::settings()
    };
    let (store, gate) = Gated::new(MemoryStore::new(256 << 20), true);
    let broker = Broker::start(store, settings, Environment::system()).await.expect("a broker");
    let made = self_signed(&["localhost"]).expect("a certificate");
    let trust = ServerTrust::new(Pem::text(made.certificate), Pem::text(made.key)).expect("trust");
    // No connection has more than the least.
    let options = QuicOptions { windows_bytes_max: 1, ..QuicOptions::default() };
    let server = Quic::new(options).serving(trust);
    let listener = server.listen(&"quic://127.0.0.1:0".parse().expect("an address")).await;
    let listener = listener.expect("a listener");
    let address = listener.local_address();
    let serving = broker.clone();
    tokio::spawn(async move { serving.serve(listener).await });

    let trust = ClientTrust::fingerprint(made.fingerprint).expect("trust");
    let client = Quic::default().trusting(trust);
    let connection = within("connecting", client.connect(&address)).await.expect("a connection");
    let mut consumer = stream(&*connection).await;
    let mut publishers = Vec::new();
    for _ in 0..3 {
        let mut publisher = stream(&*connection).await;
        let topic = TopicName::new("t").expect("a name");
        publisher
            .send(Frame::OpenProducer { handle: 1, topic, name: None, epoch: None, seat: None })
            .await;
        let opened = within("a producer", publisher.next()).await;
        assert!(matches!(opened, Some(Frame::ProducerOpened { .. })), "{opened:?}");
        publishers.push(publisher);
    }
    gate.send_replace(false);
    for publisher in &mut publishers {
        let mut sequence = 0;
        while let Ok(sent) = timeout(QUIET, publisher.send_bytes(&publish(sequence + 1))).await {
            sent.expect("sent");
            sequence += 1;
            assert!(sequence < 100, "it is never held back");
        }
    }
    let held_back = broker.held_back();
    assert!(held_back.iter().any(|(name, count)| name.starts_with("publish") && *count > 0));
    for nonce in 0..10_000 {
        consumer.send(Frame::Ping { nonce }).await;
        let answer = within("an answer to a heartbeat", consumer.next()).await;
        assert_eq!(answer, Some(Frame::Pong { nonce }));
    }
    let _another = stream(&*connection).await;
    gate.send_replace(true);
    for publisher in &mut publishers {
        let answer = within("a confirmation", publisher.next()).await;
        assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    }
}

/// For what waits.
const QUIET: Duration = Duration::from_millis(500);
