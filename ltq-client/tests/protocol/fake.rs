//! A broker that does what a test tells it to, frame by frame, over an in-process link.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::BytesMut;
use ltq_client::{Backoff, Client, ClientBuilder};
use ltq_core::{
    Address, Connection, Credit, Durability, Listener, Message, Offset, RecordBatch, Records,
    Refusal, RefusalCode, Stream, Tag, Timestamp, Transport,
    model::SequenceRange,
    protocol::{
        Decoder, Features, Frame, Hello, InstanceId, PeerLimits, Welcome, WriteQueue, encode,
    },
};
use ltq_transport::{InProcess, Transports};
use tokio::time::timeout;

/// Where a fake broker listens.
pub(crate) struct Fake {
    listener: Box<dyn Listener>,
    pub(crate) transports: Transports,
    pub(crate) address: String,
    instance: InstanceId,
    /// What it takes before it has answered some.
    pub(crate) publish_bytes_max: u64,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self::at(&InProcess::new(), "fake").await
    }

    /// One of several in a namespace.
    pub(crate) async fn at(namespace: &InProcess, name: &str) -> Self {
        let address = Address::new("in-process", name);
        let listener = namespace.listen(&address).await.unwrap();
        let transports = Transports::new().with(namespace.clone());
        let instance = match name {
            "fake" => welcome().instance,
            // Each of them is another broker.
            name => {
                let mut bytes = [0; 16];
                bytes.iter_mut().zip(name.bytes()).for_each(|(to, byte)| *to = byte);
                InstanceId(bytes)
            }
        };
        let publish_bytes_max = welcome().limits.publish_bytes_max;
        Self { listener, transports, address: address.to_string(), instance, publish_bytes_max }
    }

    /// A client that is to connect here, quickly.
    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder()
            .server(&self.address)
            .transports(self.transports.clone())
            .backoff(Backoff::new(Duration::from_millis(1), Duration::from_millis(1)))
    }

    /// A client and its first connection.
    pub(crate) async fn connected(&mut self) -> (Client, Peer) {
        let builder = self.builder();
        self.connect(builder).await
    }

    pub(crate) async fn connect(&mut self, builder: ClientBuilder) -> (Client, Peer) {
        let (client, peer) = tokio::join!(builder.connect(), self.welcome());
        (client.unwrap(), peer)
    }

    /// The next connection, its hello answered.
    pub(crate) async fn welcome(&mut self) -> Peer {
        within(self.next_welcome()).await
    }

    /// The same, however long it takes to come.
    pub(crate) async fn next_welcome(&mut self) -> Peer {
        let connection = self.listener.accept().await.unwrap();
        let mut peer = Peer::accept(Arc::from(connection)).await;
        let mut welcome = Welcome { instance: self.instance, ..welcome() };
        welcome.limits.publish_bytes_max = self.publish_bytes_max;
        peer.greet(welcome).await;
        peer
    }

    /// The next connection.
    pub(crate) async fn accept(&mut self) -> Peer {
        within(self.next()).await
    }

    /// The same, however long it takes to come.
    pub(crate) async fn next(&mut self) -> Peer {
        let connection = self.listener.accept().await.unwrap();
        Peer::accept(Arc::from(connection)).await
    }

    /// Whether nobody connects for as long as a client would wait before it does.
    pub(crate) async fn no_more(&mut self) -> bool {
        timeout(Duration::from_secs(60), self.listener.accept()).await.is_err()
    }
}

/// A stream of a client, as a broker sees it. Dropping all of a connection's cuts it.
pub(crate) struct Peer {
    connection: Arc<dyn Connection>,
    stream: Stream,
    input: BytesMut,
    decoder: Decoder,
    pub(crate) hello: Option<Hello>,
}

impl Peer {
    async fn accept(connection: Arc<dyn Connection>) -> Self {
        let stream = within(connection.accept_stream()).await.unwrap().unwrap();
        let (input, decoder) = (BytesMut::new(), Decoder::new(8 << 20));
        Self { connection, stream, input, decoder, hello: None }
    }

    /// The next stream of the same connection.
    pub(crate) async fn next_stream(&self) -> Self {
        Self::accept(self.connection.clone()).await
    }

    /// Answers the hello.
    pub(crate) async fn greet(&mut self, welcome: Welcome) {
        let Some(Frame::Hello(hello)) = self.recv_any().await else { panic!("no hello") };
        self.hello = Some(hello);
        self.send(&Frame::Welcome(welcome)).await;
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        let mut output = WriteQueue::new();
        encode(frame, &mut output);
        within(poll_fn(|context| output.poll_flush(context, &mut *self.stream.send)))
            .await
            .unwrap();
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(&mut self) {
        within(poll_fn(|context| self.stream.send.poll_finish(context))).await.unwrap();
    }

    pub(crate) async fn send_raw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let slice = [std::io::IoSlice::new(bytes)];
            let sent = within(poll_fn(|cx| self.stream.send.poll_send(cx, &slice))).await.unwrap();
            bytes = &bytes[sent..];
        }
    }

    /// Sends unless the client has cut the stream; says whether it has not.
    pub(crate) async fn try_send_raw(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let slice = [std::io::IoSlice::new(bytes)];
            match within(poll_fn(|cx| self.stream.send.poll_send(cx, &slice))).await {
                Ok(sent) => bytes = &bytes[sent..],
                Err(_) => return false,
            }
        }
        true
    }

    /// The next frame that is no ping; pings are answered.
    pub(crate) async fn recv(&mut self) -> Frame {
        loop {
            match self.recv_any().await {
                Some(Frame::Ping { nonce }) => self.send(&Frame::Pong { nonce }).await,
                Some(frame) => return frame,
                None => panic!("the client ended the stream"),
            }
        }
    }

    /// The next frame, or `None` when the client ended or cut the stream.
    pub(crate) async fn recv_any(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(frame);
            }
            let input = &mut self.input;
            let recv = &mut self.stream.recv;
            match within(poll_fn(|context| recv.poll_recv(context, input, 64 << 10))).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Takes up to so many bytes off the line, and looks at none of them.
    pub(crate) async fn take_raw(&mut self, bytes_max: usize) -> usize {
        let (mut taken, recv) = (BytesMut::new(), &mut self.stream.recv);
        within(poll_fn(|context| recv.poll_recv(context, &mut taken, bytes_max))).await.unwrap()
    }

    /// Waits for the client to end or cut the stream.
    pub(crate) async fn ended(&mut self) {
        while self.recv_any().await.is_some() {}
    }

    /// Opens the producer that the client asks for.
    pub(crate) async fn open_producer(&mut self, epoch: u64, last_sequence: u64) -> Opened {
        let Frame::OpenProducer { handle, name, epoch: asked, .. } = self.recv().await else {
            panic!("no producer to open")
        };
        let durability = Durability::Disk;
        self.send(&Frame::ProducerOpened { handle, epoch, last_sequence, durability }).await;
        Opened { handle, name: name.map(|name| name.to_string()), epoch: asked }
    }

    /// Opens the subscription that the client asks for: its handle and credit.
    pub(crate) async fn subscribed(&mut self) -> (u32, Credit) {
        let Frame::Subscribe { handle, credit, .. } = self.recv().await else {
            panic!("no subscription")
        };
        self.send(&Frame::Subscribed { handle, timeout_ms: 60_000 }).await;
        (handle, credit)
    }

    /// The next publish: first sequence and bodies.
    pub(crate) async fn publish(&mut self) -> (u64, Vec<String>) {
        match self.recv().await {
            Frame::Publish { sequence, records, .. } => (sequence, bodies(&records)),
            other => panic!("{other:?} is no publish"),
        }
    }

    pub(crate) async fn confirm(&mut self, handle: u32, sequence: u64, count: u64, offset: u64) {
        let ranges = vec![SequenceRange { sequence, count, offset: Some(Offset(offset)) }];
        self.send(&Frame::Confirmed { handle, ranges, durability: Durability::Disk }).await;
    }

    pub(crate) async fn refuse(
        &mut self,
        handle: u32,
        sequence: u64,
        count: u64,
        code: RefusalCode,
    ) {
        let refusal = Refusal::new(code, "for a test");
        self.send(&Frame::PublishRefused { handle, sequence, count, refusal }).await;
    }

    /// Delivers these bodies, their offsets counting from the first tag less one.
    pub(crate) async fn deliver(
        &mut self,
        handle: u32,
        first_tag: u64,
        attempt: u32,
        bodies: &[&str],
    ) {
        let messages: Vec<_> = bodies.iter().map(|b| Message::new((*b).to_owned())).collect();
        self.deliver_records(handle, first_tag, attempt, Records::encode(&messages)).await;
    }

    pub(crate) async fn deliver_records(
        &mut self,
        handle: u32,
        first_tag: u64,
        attempt: u32,
        records: Records,
    ) {
        let first = Offset(first_tag.saturating_sub(1));
        let batch = RecordBatch { first, time: Timestamp(1_000), records };
        self.send(&Frame::Deliver { handle, first_tag: Tag(first_tag), attempt, batch }).await;
    }

    /// The next settlements: request and what is said of which tags.
    pub(crate) async fn settle(&mut self) -> (u32, Vec<(u64, u64, ltq_core::Verdict)>) {
        match self.recv().await {
            Frame::Settle { request, settlements, .. } => {
                let plain = settlements.iter().map(|s| (s.tags.first.0, s.tags.last.0, s.verdict));
                (request, plain.collect())
            }
            other => panic!("{other:?} is no settlement"),
        }
    }
}

/// How a client asked for a producer.
pub(crate) struct Opened {
    pub(crate) handle: u32,
    pub(crate) name: Option<String>,
    pub(crate) epoch: Option<u64>,
}

pub(crate) fn bodies(records: &Records) -> Vec<String> {
    let bodies = records.messages().map(|m| m.unwrap().body);
    bodies.map(|b| String::from_utf8(b.to_vec()).unwrap()).collect()
}

/// A welcome with generous limits.
pub(crate) fn welcome() -> Welcome {
    Welcome {
        major: 1,
        minor: 0,
        features: Features(0),
        node: "fake".to_owned(),
        instance: InstanceId([7; 16]),
        limits: PeerLimits {
            frame_bytes_max: 8 << 20,
            message_bytes_max: 1 << 20,
            credit_max: Credit { messages: 1 << 40, bytes: 1 << 40 },
            subscriptions_max: 100,
            producers_max: 100,
            publish_bytes_max: 16 << 20,
        },
        heartbeat_ms: 15_000,
    }
}

/// What a test waits for comes soon, or never.
pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    match timeout(Duration::from_secs(20), what).await {
        Ok(value) => value,
        Err(_) => panic!("nothing came"),
    }
}
