//! What the client costs by itself: messages a second of one core, against a broker that does
//! nothing but answer, over TCP on this machine. The client runs on one thread, the broker on
//! another; what is told is the client thread's own CPU time and the wall time.
//!
//! ```text
//! cargo bench -p ltq-client
//! cargo bench -p ltq-client -- consume    (or publish, latency: that alone)
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program that measures"
)]

use std::{
    collections::HashMap,
    fs,
    future::poll_fn,
    io,
    sync::mpsc,
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use ltq_client::{Client, Cluster, Message, Producer};
use ltq_core::{
    Credit, Durability, Offset, RecordBatch, Records, Stream, Tag, Timestamp, Transport,
    model::SequenceRange,
    protocol::{Decoder, Features, Frame, InstanceId, PeerLimits, Welcome, WriteQueue, encode},
};
use ltq_discovery::StaticList;
use ltq_transport::Tcp;

const BODY_BYTES: usize = 100;
const MESSAGES: u64 = 4_000_000;
/// What is consumed, and what is said of it: without headers, and with an id as those of a cluster's producer have.
const TOPICS: [(&str, &str); 2] = [("t", ""), (WITH_IDS, ", with ids")];
const WITH_IDS: &str = "with-ids";

fn main() {
    let addresses = serve();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!("{BODY_BYTES} bytes a message, {MESSAGES} messages");
    println!("{:<34} {:>12} {:>12}", "", "per CPU s", "per wall s");
    let wanted: Vec<_> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    let is_wanted = |what: &str| wanted.is_empty() || wanted.iter().any(|it| it == what);
    runtime.block_on(async {
        let client = Client::connect(addresses.first().unwrap()).await.unwrap();
        if is_wanted("publish") {
            publish(&client).await;
        }
        if is_wanted("consume") {
            consume(&client).await;
        }
        if is_wanted("latency") {
            latency(&client).await;
        }
        for nodes in [1, 2, 4] {
            println!("a cluster of {nodes}");
            let addresses = addresses.get(..nodes).unwrap();
            if is_wanted("publish") {
                publish_by_cluster(addresses).await;
            }
            if is_wanted("consume") {
                consume_by_cluster(addresses).await;
            }
        }
    });
}

async fn publish(client: &Client) {
    let message = Message::new(vec![7; BODY_BYTES]);
    let builder = || client.producer_builder("t").window_messages(50_000).window_bytes(32 << 20);

    let producer = builder().open().await.unwrap();
    let batch = vec![message.clone(); 1_000];
    let watch = Watch::start();
    for _ in 0..MESSAGES / 1_000 {
        drop(producer.enqueue_batch(&batch).await.unwrap());
    }
    producer.flush().await.unwrap();
    watch.tell("enqueue_batch, 1,000 at a time", MESSAGES);

    let producer = builder().open().await.unwrap();
    let watch = Watch::start();
    for _ in 0..MESSAGES {
        drop(producer.enqueue(message.clone()).await.unwrap());
    }
    producer.flush().await.unwrap();
    watch.tell("enqueue, receipts dropped", MESSAGES);

    let producer = builder().open().await.unwrap();
    let watch = Watch::start();
    let mut pending = Vec::with_capacity(1_000);
    for _ in 0..MESSAGES / 1_000 {
        for _ in 0..1_000 {
            pending.push(producer.enqueue(message.clone()).await.unwrap());
        }
        for pending in pending.drain(..) {
            pending.await.unwrap();
        }
    }
    watch.tell("enqueue, receipts awaited", MESSAGES);

    let producer = builder().open().await.unwrap();
    let count = MESSAGES / 8;
    let watch = Watch::start();
    let tasks: Vec<_> = (0..64).map(|_| sender(&producer, &message, count / 64)).collect();
    futures::future::join_all(tasks).await;
    watch.tell("send, 64 tasks", count);
}

/// The same by way of a cluster.
async fn publish_by_cluster(addresses: &[String]) {
    let nodes: StaticList = addresses.join(",").parse().unwrap();
    let cluster = Cluster::builder().discovery(nodes).connect().await.unwrap();
    let message = Message::new(vec![7; BODY_BYTES]);
    for (ids, what) in [(false, "  enqueue, without ids"), (true, "  enqueue, with ids")] {
        let builder = cluster.producer_builder("t").window_messages(50_000).window_bytes(32 << 20);
        let producer = builder.ids(ids).open().await.unwrap();
        let watch = Watch::start();
        for _ in 0..MESSAGES {
            drop(producer.enqueue(message.clone()).await.unwrap());
        }
        producer.flush().await.unwrap();
        watch.tell(what, MESSAGES);
    }
    let producer = cluster.producer("t").await.unwrap();
    let batch = vec![message; 1_000];
    let watch = Watch::start();
    for _ in 0..MESSAGES / 1_000 {
        drop(producer.enqueue_batch(&batch).await.unwrap());
    }
    producer.flush().await.unwrap();
    watch.tell("  enqueue_batch, with ids", MESSAGES);
    let mut times = Vec::new();
    for _ in 0..20_000 {
        let start = Instant::now();
        producer.send(Message::new("x")).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let half = times.get(times.len() / 2);
    println!("  a lone send, there and back: half within {half:?}");
}

fn sender(producer: &Producer, message: &Message, count: u64) -> tokio::task::JoinHandle<()> {
    let (producer, message) = (producer.clone(), message.clone());
    tokio::spawn(async move {
        for _ in 0..count {
            producer.send(message.clone()).await.unwrap();
        }
    })
}

async fn consume(client: &Client) {
    for (topic, ids) in TOPICS {
        let builder = || client.consumer_builder(topic, "c").credit(20_000, 64 << 20);

        let mut consumer = builder().open().await.unwrap();
        let watch = Watch::start();
        let (mut seen, mut bytes) = (0, 0);
        while seen < MESSAGES {
            let batch = consumer.next_batch(1_000).await.unwrap().unwrap();
            for received in batch.iter() {
                bytes += received.unwrap().message.body.len();
            }
            seen += batch.len() as u64;
            batch.ack_all().unwrap();
        }
        watch.tell(&format!("next_batch and ack_all{ids}"), seen);
        assert_eq!(bytes as u64, seen * BODY_BYTES as u64);
        drop(consumer);

        let mut consumer = builder().open().await.unwrap();
        let watch = Watch::start();
        for _ in 0..MESSAGES {
            consumer.next().await.unwrap().unwrap().ack().unwrap();
        }
        watch.tell(&format!("next and ack{ids}"), MESSAGES);
        drop(consumer);
    }
}

/// The same by way of a cluster.
async fn consume_by_cluster(addresses: &[String]) {
    let nodes: StaticList = addresses.join(",").parse().unwrap();
    let cluster = Cluster::builder().discovery(nodes).connect().await.unwrap();
    for (topic, ids) in TOPICS {
        let builder = || cluster.consumer_builder(topic, "c").credit(20_000, 64 << 20);

        let mut consumer = builder().open().await.unwrap();
        let watch = Watch::start();
        let (mut seen, mut bytes) = (0, 0);
        while seen < MESSAGES {
            let batch = consumer.next_batch(1_000).await.unwrap().unwrap();
            for received in batch.iter() {
                bytes += received.unwrap().message.body.len();
            }
            seen += batch.len() as u64;
            batch.ack_all().unwrap();
        }
        watch.tell(&format!("  next_batch and ack_all{ids}"), seen);
        assert_eq!(bytes as u64, seen * BODY_BYTES as u64);
        drop(consumer);

        let mut consumer = builder().open().await.unwrap();
        let watch = Watch::start();
        for _ in 0..MESSAGES {
            consumer.next().await.unwrap().unwrap().ack().unwrap();
        }
        watch.tell(&format!("  next and ack{ids}"), MESSAGES);
        drop(consumer);
    }
}

async fn latency(client: &Client) {
    let producer = client.producer("t").await.unwrap();
    let mut times = Vec::new();
    for _ in 0..20_000 {
        let start = Instant::now();
        producer.send(Message::new("x")).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let half = times.get(times.len() / 2);
    println!("a lone send, there and back: half within {half:?}");
}

/// Counts this thread's CPU time, and the time on the wall.
struct Watch {
    wall: Instant,
    cpu: Duration,
}

impl Watch {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_time() }
    }

    fn tell(&self, what: &str, messages: u64) {
        let (wall, cpu) = (self.wall.elapsed(), cpu_time() - self.cpu);
        let per = |time: Duration| messages as f64 / time.as_secs_f64() / 1e6;
        println!("{what:<34} {:>10.2} M {:>10.2} M", per(cpu), per(wall));
    }
}

/// The scheduler's own count, in nanoseconds; Linux only.
fn cpu_time() -> Duration {
    let line = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos = line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
    Duration::from_nanos(nanos)
}

/// Starts four brokers that only answer, on one thread of their own.
fn serve() -> Vec<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(futures::future::join_all((0..4).map(|nth| listen(nth, tell.clone()))));
    });
    (0..4).map(|_| told.recv().unwrap()).collect()
}

async fn listen(nth: u8, tell: mpsc::Sender<String>) {
    let mut listener = Tcp::default().listen(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    tell.send(listener.local_address().to_string()).unwrap();
    loop {
        let connection = listener.accept().await.unwrap();
        let stream = connection.accept_stream().await.unwrap().unwrap();
        let mut answering = Answering::new(stream, nth);
        tokio::spawn(async move {
            let _ended = poll_fn(|context| answering.poll(context)).await;
            drop(connection);
        });
    }
}

/// Confirms what is published and delivers as much as there is credit for.
struct Answering {
    /// Which of the brokers.
    nth: u8,
    stream: Stream,
    input: BytesMut,
    output: WriteQueue,
    plain: Records,
    with_ids: Records,
    subscriptions: HashMap<u32, Subscription>,
}

struct Subscription {
    granted: u64,
    sent: u64,
    run: Records,
}

impl Answering {
    fn new(stream: Stream, nth: u8) -> Self {
        let message = Message::new(vec![7; BODY_BYTES]);
        let id = |at: u64| format!("7f3a9c2e5b1d4860-{}", 1_000_000 + at);
        let with_id = |at| message.clone().with_header(ltq_client::ID_HEADER, id(at));
        let with_ids: Vec<_> = (0..1_000).map(with_id).collect();
        Self {
            nth,
            stream,
            input: BytesMut::new(),
            output: WriteQueue::new(),
            plain: Records::encode(&vec![message; 1_000]),
            with_ids: Records::encode(&with_ids),
            subscriptions: HashMap::new(),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.deliver();
            let flushed = self.output.poll_flush(context, &mut *self.stream.send)?;
            let received = self.stream.recv.poll_recv(context, &mut self.input, 256 << 10)?;
            if let Poll::Ready(0) = received {
                return Poll::Ready(Ok(()));
            }
            while let Some(frame) = Decoder::new(8 << 20).decode(&mut self.input).unwrap() {
                self.answer(frame);
            }
            if received.is_pending() && (flushed.is_pending() || self.output.is_empty()) {
                return Poll::Pending;
            }
        }
    }

    fn deliver(&mut self) {
        for (handle, Subscription { granted, sent, run }) in &mut self.subscriptions {
            while *sent < *granted && self.output.len() < 1 << 20 {
                let count = (*granted - *sent).min(run.count() as u64);
                let records = run.slice(0..count as usize);
                let batch = RecordBatch { first: Offset(*sent), time: Timestamp(0), records };
                let first_tag = Tag(*sent + 1);
                let frame = Frame::Deliver { handle: *handle, first_tag, attempt: 1, batch };
                encode(&frame, &mut self.output);
                *sent += count;
            }
        }
    }

    fn answer(&mut self, frame: Frame) {
        let durability = Durability::Memory;
        let answer = match frame {
            Frame::Hello(_) => welcome(self.nth),
            Frame::OpenProducer { handle, .. } => {
                Frame::ProducerOpened { handle, epoch: 1, last_sequence: 0, durability }
            }
            Frame::Publish { handle, sequence, records, .. } => {
                let count = records.count() as u64;
                let ranges =
                    vec![SequenceRange { sequence, count, offset: Some(Offset(sequence)) }];
                Frame::Confirmed { handle, ranges, durability }
            }
            Frame::Subscribe { handle, topic, credit, .. } => {
                let is_plain = topic.as_str() != WITH_IDS;
                let run = if is_plain { self.plain.clone() } else { self.with_ids.clone() };
                let subscription = Subscription { granted: credit.messages, sent: 0, run };
                self.subscriptions.insert(handle, subscription);
                Frame::Subscribed { handle, timeout_ms: 60_000 }
            }
            Frame::Credit { handle, total } => {
                let found = self.subscriptions.get_mut(&handle);
                let Some(Subscription { granted, sent, .. }) = found else { return };
                let is_less = total.messages < *granted;
                *granted = total.messages.max(*sent);
                if !is_less {
                    return;
                }
                // What has gone already cannot be taken back.
                Frame::Credited { handle, total: Credit { messages: *granted, ..total } }
            }
            Frame::Unsubscribe { handle } => {
                self.subscriptions.remove(&handle);
                Frame::SubscriptionClosed { handle, refusal: None }
            }
            _ => return,
        };
        encode(&answer, &mut self.output);
    }
}

fn welcome(nth: u8) -> Frame {
    Frame::Welcome(Welcome {
        major: 1,
        minor: 0,
        features: Features(0),
        node: "bench".to_owned(),
        instance: InstanceId([nth; 16]),
        limits: PeerLimits {
            frame_bytes_max: 8 << 20,
            message_bytes_max: 1 << 20,
            credit_max: Credit { messages: 1 << 40, bytes: 1 << 40 },
            subscriptions_max: 100,
            producers_max: 100,
            publish_bytes_max: 1 << 40,
        },
        heartbeat_ms: 0,
    })
}
