//! Transports of many streams, and transports that take their time.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::BytesMut;
use ltq_core::{
    Address, Broker, BrokerSettings, Connection, Environment, Listener, Peer, RecvStream,
    RefusalCode, SendStream, Stream, Transport, TransportError, protocol::Frame,
};
use ltq_store::MemoryStore;
use ltq_tests::{DEADLINE, RawPeer, Served, bytes_of, within};
use ltq_transport::InProcess;
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, timeout},
};

/// A connection whose streams are links of the in-process transport.
struct Many {
    peer: Peer,
    streams: Mutex<mpsc::Receiver<Stream>>,
    multiplexed: bool,
}

#[async_trait]
impl Connection for Many {
    fn multiplexed(&self) -> bool {
        self.multiplexed
    }
    fn peer(&self) -> &Peer {
        &self.peer
    }
    async fn open_stream(&self) -> Result<Stream, TransportError> {
        Err(TransportError::Closed)
    }
    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        Ok(self.streams.lock().await.recv().await)
    }
}

struct Given(mpsc::Receiver<Many>);

#[async_trait]
impl Listener for Given {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        match self.0.recv().await {
            Some(connection) => Ok(Box::new(connection)),
            None => std::future::pending().await,
        }
    }
    fn local_address(&self) -> Address {
        Address::new("many", "here")
    }
}

struct Setup {
    broker: Broker<MemoryStore>,
    connections: mpsc::Sender<Many>,
}

impl Setup {
    async fn new(settings: BrokerSettings) -> Self {
        let store = MemoryStore::new(64 << 20);
        let broker = Broker::start(store, settings, Environment::system()).await.expect("it");
        let (connections, given) = mpsc::channel(16);
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(Box::new(Given(given))).await });
        Self { broker, connections }
    }

    /// A connection to which streams are added by the sender.
    async fn connection(&self, multiplexed: bool) -> mpsc::Sender<Stream> {
        let (streams, taken) = mpsc::channel(16);
        let peer = Peer { address: Address::new("many", "peer"), identity: None };
        let connection = Many { peer, streams: Mutex::new(taken), multiplexed };
        self.connections.send(connection).await.unwrap_or_else(|_| panic!("taken"));
        streams
    }

    async fn open_connections(&self) -> u64 {
        self.broker.stats().await.connections
    }

    /// How often a limit held somebody back.
    fn held_back(&self, limit: &str) -> u64 {
        let counts = self.broker.held_back();
        counts.into_iter().find(|(name, _)| *name == limit).expect("a limit").1
    }

    async fn no_connection_is_left(&self) {
        while self.open_connections().await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Both ends of a stream.
async fn link() -> (RawPeer, Stream) {
    let transport = InProcess::new();
    let address = Address::new("in-process", "x");
    let mut listener = transport.listen(&address).await.expect("a listener");
    let near = transport.connect(&address).await.expect("a connection");
    let far = listener.accept().await.expect("a connection");
    let near = near.open_stream().await.expect("a stream");
    let far = far.accept_stream().await.expect("a stream").expect("one");
    (RawPeer::over(near), far)
}

async fn greeted(streams: &mpsc::Sender<Stream>) -> RawPeer {
    let (mut peer, far) = link().await;
    streams.send(far).await.unwrap_or_else(|_| panic!("taken"));
    peer.greet(RawPeer::hello()).await;
    peer
}

#[tokio::test(start_paused = true)]
async fn streams_max_bounds_the_streams_of_a_connection() {
    let setup = Setup::new(BrokerSettings { streams_max: 2, ..Served::settings() }).await;
    let streams = setup.connection(true).await;
    let first = greeted(&streams).await;
    let mut second = greeted(&streams).await;
    let (mut third, far) = link().await;
    streams.send(far).await.unwrap_or_else(|_| panic!("queued"));
    third.send(Frame::Hello(RawPeer::hello())).await;
    let answer = timeout(Duration::from_secs(3), third.any()).await;
    assert!(answer.is_err(), "a third stream is not served: {answer:?}");
    assert_eq!(setup.held_back("streams_max"), 1);
    // The two are served all the while; another connection has streams of its own.
    second.send(Frame::Ping { nonce: 1 }).await;
    assert_eq!(second.next().await, Some(Frame::Pong { nonce: 1 }));
    greeted(&setup.connection(true).await).await;
    drop(first);
    assert!(matches!(third.next().await, Some(Frame::Welcome(_))), "now there is room");
}

#[tokio::test(start_paused = true)]
async fn streams_of_one_connection_end_by_themselves() {
    let setup = Setup::new(Served::settings()).await;
    let streams = setup.connection(true).await;
    let mut bad = greeted(&streams).await;
    let mut good = greeted(&streams).await;
    bad.send_bytes(&[0, 0, 0, 0]).await.expect("sent");
    bad.expect_goodbye(RefusalCode::Malformed).await;
    good.open_producer(1, "t").await;
    let answer = good.publish(1, 1, &[b"x"]).await;
    assert!(matches!(answer, Some(Frame::Confirmed { .. })), "{answer:?}");
    assert_eq!(setup.open_connections().await, 1);
    drop((streams, good));
    within("the connection is gone", setup.no_connection_is_left()).await;
}

#[tokio::test(start_paused = true)]
async fn promise_10_connections_without_a_stream_are_dropped_at_a_deadline() {
    let setup = Setup::new(Served::settings()).await;
    for multiplexed in [true, false] {
        let began = Instant::now();
        let streams = setup.connection(multiplexed).await;
        while setup.open_connections().await == 0 {
            tokio::task::yield_now().await;
        }
        within("the connection is dropped", streams.closed()).await;
        within("it counts no more", setup.no_connection_is_left()).await;
        let after = began.elapsed().as_secs();
        assert!((5..=6).contains(&after), "multiplexed {multiplexed}: after {after} s");
    }
    // One with a stream is not.
    let streams = setup.connection(true).await;
    let mut peer = greeted(&streams).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    peer.send(Frame::Ping { nonce: 1 }).await;
    assert_eq!(peer.next().await, Some(Frame::Pong { nonce: 1 }));
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_connection_of_streams_that_never_say_hello_is_small_and_does_not_last() {
    let setup = Setup::new(Served::settings()).await;
    let began = Instant::now();
    let streams = setup.connection(true).await;
    let mut peers = Vec::new();
    while let Ok((peer, far)) = timeout(Duration::from_secs(1), link()).await {
        match timeout(Duration::from_secs(1), streams.send(far)).await {
            Ok(Ok(())) => peers.push(peer),
            // As many wait as this transport holds.
            Err(_) if began.elapsed() < Duration::from_secs(30) => {}
            _ => break,
        }
    }
    within("it counts no more", setup.no_connection_is_left()).await;
    let after = began.elapsed().as_secs();
    assert!((5..=12).contains(&after), "after {after} s");
    let counters = setup.broker.counters();
    assert!(counters.streams_failed <= 5, "{} streams were served", counters.streams_failed);
    // Nor one whose streams all fail, however fast it is.
    let streams = setup.connection(true).await;
    let mut served = 0;
    loop {
        let (mut peer, far) = link().await;
        if streams.send(far).await.is_err() {
            break;
        }
        let _ = peer.send_bytes(&[0, 0, 0, 0]).await;
        // Nobody reads those that come too late.
        served += usize::from(matches!(peer.any().await, Some(Frame::Goodbye { .. })));
        assert!(served < 20, "{served} streams failed, and it goes on");
    }
    assert!((8..12).contains(&served), "{served} streams were served");
    assert_eq!(setup.broker.counters().connections_given_up, 1);
}

/// Says hello, and whether it is answered.
async fn is_greeted(peer: &mut RawPeer) -> bool {
    peer.send(Frame::Hello(RawPeer::hello())).await;
    timeout(Duration::from_secs(2), peer.any()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn unknown_and_opening_streams_max_bound_streams_without_a_hello() {
    let settings =
        BrokerSettings { unknown_streams_max: 2, opening_streams_max: 3, ..Served::settings() };
    let setup = Setup::new(settings).await;
    let streams = setup.connection(true).await;
    let mut silent = Vec::new();
    let mut add = async || {
        let (peer, far) = link().await;
        streams.send(far).await.unwrap_or_else(|_| panic!("taken"));
        silent.push(peer);
        silent.len() - 1
    };
    let [first, _second, third] = [add().await, add().await, add().await];
    assert!(!is_greeted(&mut silent[third]).await, "there are two without a hello before it");
    assert_eq!(
        (setup.held_back("unknown_streams_max"), setup.held_back("opening_streams_max")),
        (1, 0)
    );
    assert!(is_greeted(&mut silent[first]).await);
    assert!(matches!(silent[third].any().await, Some(Frame::Welcome(_))), "now there is room");
    // One is silent still; two more may be.
    let mut more = Vec::new();
    for _ in 0..3 {
        let (peer, far) = link().await;
        streams.send(far).await.unwrap_or_else(|_| panic!("taken"));
        more.push(peer);
    }
    assert!(!is_greeted(&mut more[2]).await, "there are three without a hello before it");
    assert!(setup.held_back("opening_streams_max") > 0);
    assert!(is_greeted(&mut more[0]).await);
    assert!(matches!(more[2].any().await, Some(Frame::Welcome(_))), "now there is room");
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_connection_that_is_welcomed_after_many_failures_is_served_on() {
    let settings = BrokerSettings { unknown_streams_max: 2, ..Served::settings() };
    let setup = Setup::new(settings).await;
    let streams = setup.connection(true).await;
    let add = async || {
        let (peer, far) = link().await;
        streams.send(far).await.unwrap_or_else(|_| panic!("taken"));
        peer
    };
    let mut late = add().await;
    // As many as end a connection that nobody is welcomed on.
    for _ in 0..4 {
        let mut failing = add().await;
        let _ = failing.send_bytes(&[0, 0, 0, 0]).await;
        assert!(matches!(failing.any().await, Some(Frame::Goodbye { .. })));
    }
    // The clock moves when all of them have ended.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut more = add().await;
    assert!(!is_greeted(&mut more).await, "nobody is welcomed yet");
    assert!(is_greeted(&mut late).await);
    assert!(matches!(more.any().await, Some(Frame::Welcome(_))), "it was only to wait");
    assert!(is_greeted(&mut add().await).await);
    assert_eq!(setup.broker.counters().connections_given_up, 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_first_hello_is_late_but_in_time_goes_on() {
    let setup = Setup::new(Served::settings()).await;
    let streams = setup.connection(true).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (mut first, far) = link().await;
    streams.send(far).await.unwrap_or_else(|_| panic!("taken"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    first.greet(RawPeer::hello()).await;
    within("further streams", greeted(&streams)).await;
}

#[tokio::test(start_paused = true)]
async fn promise_11_stopping_waits_for_no_connection_that_has_no_stream() {
    let settings =
        BrokerSettings { hello_timeout: Duration::from_secs(3600), ..Served::settings() };
    let setup = Setup::new(settings).await;
    let _single = setup.connection(false).await;
    let _many = setup.connection(true).await;
    let streams = setup.connection(true).await;
    let mut peer = greeted(&streams).await;
    let began = Instant::now();
    let goodbye = tokio::spawn(async move { peer.expect_goodbye(RefusalCode::Stopping).await });
    setup.broker.stop(DEADLINE).await.expect("a clean stop");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    goodbye.await.expect("it was told");
    assert_eq!(setup.open_connections().await, 0);
}

/// Always has another ping, and takes everything.
struct Flood {
    hello: Option<Vec<u8>>,
    ping: Vec<u8>,
}

impl RecvStream for Flood {
    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        buffer: &mut BytesMut,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        let hello = self.hello.take();
        let bytes = hello.as_ref().unwrap_or(&self.ping);
        buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
}

struct Sink(Arc<std::sync::atomic::AtomicU64>);

impl SendStream for Sink {
    fn poll_send(&mut self, _: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let taken: usize = bytes.iter().map(|slice| slice.len()).sum();
        self.0.fetch_add(taken as u64, std::sync::atomic::Ordering::Relaxed);
        Poll::Ready(Ok(taken))
    }
    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn promise_11_a_peer_that_never_pauses_does_not_hold_up_the_stop() {
    let setup = Setup::new(Served::settings()).await;
    let streams = setup.connection(true).await;
    let taken = Arc::default();
    let flood = Flood {
        hello: Some(bytes_of(&Frame::Hello(RawPeer::hello()))),
        ping: bytes_of(&Frame::Ping { nonce: 1 }),
    };
    let stream = Stream { send: Box::new(Sink(Arc::clone(&taken))), recv: Box::new(flood) };
    streams.send(stream).await.unwrap_or_else(|_| panic!("taken"));
    while taken.load(std::sync::atomic::Ordering::Relaxed) < 10_000 {
        tokio::task::yield_now().await;
    }
    let mut other = greeted(&streams).await;
    other.open_producer(1, "t").await;
    within("the stop", setup.broker.stop(Duration::from_secs(15))).await.expect("clean");
}
