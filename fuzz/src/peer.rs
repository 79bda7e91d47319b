use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use ltq_core::{
    Address, ChannelName, Connection, Credit, SendStream, StartAt, Stream, TopicName, Transport,
    protocol::{
        Decoder, Features, Frame, Hello, PROTOCOL_MAJOR, PROTOCOL_MINOR, WriteQueue, encode,
    },
};

/// A peer of a broker that sends what it likes. What the broker says has to be frames.
pub(crate) struct Peer {
    stream: Stream,
    read: BytesMut,
}

impl Peer {
    /// Connects for one stream; the connection lives as long as that.
    pub(crate) async fn connect(transport: &dyn Transport, address: &Address) -> Self {
        let connection = within("connecting", transport.connect(address)).await;
        Self::open(&*connection.expect("a connection")).await.expect("a stream")
    }

    /// Opens one more stream, if the broker has not given the connection up.
    pub(crate) async fn open(connection: &dyn Connection) -> Option<Self> {
        let stream = within("a stream", connection.open_stream()).await.ok()?;
        Some(Self { stream, read: BytesMut::new() })
    }

    /// Sends bytes, if the stream was not ended.
    pub(crate) async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let send = &mut self.stream.send;
        let sent = poll_fn(|context| {
            while !bytes.is_empty() {
                let sent = std::task::ready!(send.poll_send(context, &[IoSlice::new(bytes)]))?;
                bytes = &bytes[sent..];
            }
            Poll::Ready(Ok(()))
        });
        within("sending", sent).await
    }

    pub(crate) async fn say(&mut self, frame: &Frame) {
        self.send(&bytes_of(frame)).await.expect("the broker takes it");
    }

    /// Sends no more, if the stream was not ended.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        let send = &mut self.stream.send;
        within("finishing", poll_fn(|context| send.poll_finish(context))).await
    }

    /// The next frame but pings; `None` at the end of the stream, which comes.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            match within("a frame", self.any()).await {
                Some(Frame::Ping { .. }) => {}
                other => return other,
            }
        }
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) async fn any(&mut self) -> Option<Frame> {
        loop {
            let decoded = Decoder::new(FRAME_BYTES_MAX).decode(&mut self.read);
            if let Some(frame) = decoded.expect("the broker's frames decode") {
                return Some(frame);
            }
            let Self { stream, read } = self;
            let got = poll_fn(|context| stream.recv.poll_recv(context, read, 4096)).await;
            if got.unwrap_or(0) == 0 {
                return None;
            }
        }
    }
}

/// Waits for what must happen, on a clock that goes on when nothing else does.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {DEADLINE:?}"),
    }
}

pub(crate) fn hello(token: &str) -> Hello {
    Hello {
        major: PROTOCOL_MAJOR,
        minor: PROTOCOL_MINOR,
        features: Features(0),
        client: "fuzz".to_owned(),
        token: Some(token.to_owned()),
        frame_bytes_max: FRAME_BYTES_MAX,
        heartbeat_ms: 0,
    }
}

pub(crate) fn subscribe(handle: u32, topic: &str, channel: &str, credit: Credit) -> Frame {
    Frame::Subscribe {
        handle,
        topic: TopicName::new(topic).expect("a name"),
        channel: ChannelName::new(channel).expect("a name"),
        start: StartAt::Earliest,
        timeout_ms: None,
        make_topic: true,
        seat: None,
        credit,
    }
}

/// A frame as it goes over the wire.
pub(crate) fn bytes_of(frame: &Frame) -> Vec<u8> {
    struct Taken(Vec<u8>);
    impl SendStream for Taken {
        fn poll_send(
            &mut self,
            _: &mut Context<'_>,
            bytes: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let before = self.0.len();
            bytes.iter().for_each(|slice| self.0.extend_from_slice(slice));
            Poll::Ready(Ok(self.0.len() - before))
        }
        fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let (mut queue, mut taken) = (WriteQueue::new(), Taken(Vec::new()));
    encode(frame, &mut queue);
    let _ = queue.poll_flush(&mut Context::from_waker(Waker::noop()), &mut taken);
    taken.0
}

const FRAME_BYTES_MAX: u32 = 16 << 20;
const DEADLINE: Duration = Duration::from_secs(20);
