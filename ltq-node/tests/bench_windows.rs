//! `ltq bench --in-flight` reaches the producer's window and the consumer's credit: seen from
//! between `ltq` and its broker, where what is on its way can be counted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests; their helpers stand outside of the test functions"
)]

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::BytesMut;
use ltq_core::{
    Broker, BrokerSettings, Durability, Environment, TopicSettings, Transport,
    protocol::{Decoder, Frame},
};
use ltq_store::MemoryStore;
use ltq_transport::Tcp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::Command,
    sync::watch,
};

/// What went by.
#[derive(Clone, Copy, Default)]
struct Counted {
    unconfirmed: u64,
    /// The most that were unconfirmed at one time.
    most: u64,
}

/// Between `ltq` and the broker. Lets no confirm pass before so many messages are unconfirmed.
struct Between {
    counted: watch::Sender<Counted>,
    /// The credit of each subscription.
    credits: Mutex<Vec<u64>>,
    wanted: u64,
}

impl Between {
    async fn pass_requests(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut frames = Frames::default();
        while let Some(bytes) = frames.read(&mut from).await {
            while let Some(frame) = frames.next() {
                match frame {
                    Frame::Publish { records, .. } => self.counted.send_modify(|counted| {
                        counted.unconfirmed += records.count() as u64;
                        counted.most = counted.most.max(counted.unconfirmed);
                    }),
                    Frame::Subscribe { credit, .. } => {
                        self.credits.lock().unwrap().push(credit.messages);
                    }
                    _ => {}
                }
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }

    async fn pass_answers(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut frames = Frames::default();
        while let Some(bytes) = frames.read(&mut from).await {
            while let Some(frame) = frames.next() {
                if let Frame::Confirmed { ranges, .. } = frame {
                    let mut counted = self.counted.subscribe();
                    counted.wait_for(|counted| counted.most >= self.wanted).await.unwrap();
                    let confirmed: u64 = ranges.iter().map(|range| range.count).sum();
                    self.counted.send_modify(|counted| counted.unconfirmed -= confirmed);
                }
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

/// Frames out of bytes, which also go on as they are.
#[derive(Default)]
struct Frames(BytesMut);

impl Frames {
    async fn read(&mut self, from: &mut OwnedReadHalf) -> Option<BytesMut> {
        let mut bytes = BytesMut::new();
        let read = from.read_buf(&mut bytes).await.unwrap_or(0);
        self.0.extend_from_slice(&bytes);
        (read > 0).then_some(bytes)
    }

    fn next(&mut self) -> Option<Frame> {
        Decoder::new(16 << 20).decode(&mut self.0).unwrap()
    }
}

/// The most messages that were unconfirmed at a time, and the credits of the consumers.
async fn seen(in_flight: u64, wanted: u64) -> (u64, Vec<u64>) {
    let settings = BrokerSettings {
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        ..BrokerSettings::default()
    };
    let store = MemoryStore::new(64 << 20);
    let broker = Broker::start(store, settings, Environment::system()).await.unwrap();
    let listener = Tcp::default().listen(&"tcp://127.0.0.1:0".parse().unwrap()).await.unwrap();
    let behind = listener.local_address().rest().to_owned();
    let serving = broker.clone();
    tokio::spawn(async move { serving.serve(listener).await });

    let (counted, _) = watch::channel(Counted::default());
    let between = Arc::new(Between { counted, credits: Mutex::default(), wanted });
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("tcp://{}", door.local_addr().unwrap());
    let passing = between.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = door.accept().await {
            let broker = TcpStream::connect(&behind).await.unwrap();
            for side in [&client, &broker] {
                side.set_nodelay(true).unwrap();
            }
            let (from_client, to_client) = client.into_split();
            let (from_broker, to_broker) = broker.into_split();
            let (there, back) = (passing.clone(), passing.clone());
            tokio::spawn(async move { there.pass_requests(from_client, to_broker).await });
            tokio::spawn(async move { back.pass_answers(from_broker, to_client).await });
        }
    });

    // More than fit at once, and few enough to go one by one.
    let count = (100 + 3 * in_flight).to_string();
    let mut ltq = Command::new(env!("CARGO_BIN_EXE_ltq"));
    ltq.args(["--server", &server, "bench", "e2e", "--count", &count, "--batch", "1"])
        .args(["--warmup", "0s", "--in-flight", &in_flight.to_string()])
        .env_remove("LTQ_TOKEN")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, ltq.output()).await;
    let output = output.unwrap_or_else(|_| panic!("ltq bench does not end")).unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "--in-flight {in_flight}: {words}");
    let most = between.counted.borrow().most;
    let credits = between.credits.lock().unwrap().clone();
    (most, credits)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_flight_is_the_producers_window_and_the_consumers_credit() {
    for in_flight in [1, 7, 400] {
        assert_eq!(seen(in_flight, in_flight).await, (in_flight, vec![in_flight]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_asks_for_no_more_than_a_node_gives() {
    let (_, credits) = seen(4000, 1).await;
    assert_eq!(credits, [2500]);
}

const DEADLINE: Duration = Duration::from_secs(60);
