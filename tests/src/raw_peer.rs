use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use ltq_core::{
    Address, ChannelName, Credit, Message, Records, RefusalCode, SendStream, StartAt, Stream,
    TopicName, Transport,
    protocol::{
        Decoder, Features, Frame, Hello, PROTOCOL_MAJOR, PROTOCOL_MINOR, Welcome, WriteQueue,
        encode,
    },
};
use ltq_transport::Tcp;

use crate::within;

/// A peer that sends whatever it likes.
pub struct RawPeer {
    stream: Stream,
    buffer: BytesMut,
    decoder: Decoder,
}

impl RawPeer {
    /// Connects over TCP, and says nothing.
    pub async fn connect(address: &Address) -> Self {
        Self::connect_over(&Tcp::default(), address).await
    }

    /// Connects, and says nothing.
    pub async fn connect_over(transport: &dyn Transport, address: &Address) -> Self {
        let connection = within("connecting", transport.connect(address)).await;
        let connection = connection.expect("a connection");
        let stream = within("a stream", connection.open_stream()).await;
        Self::over(stream.expect("a stream"))
    }

    /// Says nothing over this stream.
    #[must_use]
    pub fn over(stream: Stream) -> Self {
        Self { stream, buffer: BytesMut::new(), decoder: Decoder::new(16 << 20) }
    }

    /// Connects and says hello.
    pub async fn greeted(address: &Address) -> Self {
        let mut peer = Self::connect(address).await;
        peer.greet(Self::hello()).await;
        peer
    }

    /// A hello that any broker without a token accepts.
    #[must_use]
    pub fn hello() -> Hello {
        Hello {
            major: PROTOCOL_MAJOR,
            minor: PROTOCOL_MINOR,
            features: Features(0),
            client: "raw".to_owned(),
            token: None,
            frame_bytes_max: 16 << 20,
            heartbeat_ms: 0,
        }
    }

    /// Says this hello and waits for the welcome. Frames longer than the hello allows are none.
    pub async fn greet(&mut self, hello: Hello) -> Welcome {
        self.decoder = Decoder::new(hello.frame_bytes_max);
        self.send(Frame::Hello(hello)).await;
        match self.next().await {
            Some(Frame::Welcome(welcome)) => welcome,
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: Frame) {
        self.send_bytes(&bytes_of(&frame)).await.expect("the frame is sent");
    }

    /// Sends bytes, as far as the broker takes them.
    pub async fn send_bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
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

    /// Sends no more, and hears what still comes.
    pub async fn finish(&mut self) {
        let send = &mut self.stream.send;
        within("finishing", poll_fn(|context| send.poll_finish(context))).await.expect("finished");
    }

    /// The next frame but pings; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Frame> {
        within("a frame", async {
            loop {
                match self.any().await {
                    Some(Frame::Ping { .. }) => {}
                    other => return other,
                }
            }
        })
        .await
    }

    /// The next frame, pings too; `None` at the end of the stream.
    pub async fn any(&mut self) -> Option<Frame> {
        loop {
            let decoded = self.decoder.decode(&mut self.buffer);
            if let Some(frame) = decoded.expect("the broker's frames decode") {
                return Some(frame);
            }
            let Self { stream, buffer, .. } = self;
            let read = poll_fn(|context| stream.recv.poll_recv(context, buffer, 64 << 10)).await;
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Reads so many bytes at most, without a look at what they are. How many: 0 at the end of the stream.
    pub async fn read(&mut self, most: usize) -> usize {
        let Self { stream, buffer, .. } = self;
        buffer.clear();
        poll_fn(|context| stream.recv.poll_recv(context, buffer, most)).await.unwrap_or(0)
    }

    /// Reads until the broker says goodbye with this code, and then ends the stream.
    pub async fn expect_goodbye(&mut self, code: RefusalCode) -> String {
        loop {
            match self.next().await {
                Some(Frame::Goodbye { refusal }) => {
                    assert_eq!(refusal.code, code, "{refusal}");
                    assert_eq!(self.next().await, None, "nothing comes behind a goodbye");
                    return refusal.detail;
                }
                Some(_) => {}
                None => panic!("the stream ended without a goodbye"),
            }
        }
    }

    /// Opens a producer without a name.
    pub async fn open_producer(&mut self, handle: u32, topic: &str) {
        let topic = TopicName::new(topic).expect("a name");
        self.send(Frame::OpenProducer { handle, topic, name: None, epoch: None, seat: None }).await;
        match self.next().await {
            Some(Frame::ProducerOpened { handle: opened, .. }) if opened == handle => {}
            other => panic!("no producer but {other:?}"),
        }
    }

    /// Publishes messages with these bodies and returns the broker's answer.
    pub async fn publish(&mut self, handle: u32, sequence: u64, bodies: &[&[u8]]) -> Option<Frame> {
        let messages: Vec<_> = bodies.iter().map(|body| Message::new(body.to_vec())).collect();
        let records = Records::encode(&messages);
        self.send(Frame::Publish { handle, sequence, durability: None, records }).await;
        self.next().await
    }

    /// The frame that subscribes to a channel from its start.
    #[must_use]
    pub fn subscribe(handle: u32, topic: &str, channel: &str, credit: Credit) -> Frame {
        Frame::Subscribe {
            handle,
            topic: TopicName::new(topic).expect("a name"),
            channel: ChannelName::new(channel).expect("a name"),
            start: StartAt::Earliest,
            timeout_ms: None,
            credit,
            make_topic: true,
            seat: None,
        }
    }
}

/// A frame as it goes over the wire.
#[must_use]
pub fn bytes_of(frame: &Frame) -> Vec<u8> {
    struct Taken(Vec<u8>);
    impl SendStream for Taken {
        fn poll_send(
            &mut self,
            _: &mut Context<'_>,
            bytes: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let before = self.0.len();
            for slice in bytes {
                self.0.extend_from_slice(slice);
            }
            Poll::Ready(Ok(self.0.len() - before))
        }
        fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let mut queue = WriteQueue::new();
    let mut taken = Taken(Vec::new());
    encode(frame, &mut queue);
    let _ = queue.poll_flush(&mut Context::from_waker(Waker::noop()), &mut taken);
    taken.0
}

/// All bytes that a broker answers over TCP to these frames, from the first to the end of the
/// stream.
///
/// # Panics
/// When nobody listens there, or the stream does not end in time.
pub async fn answers(address: &Address, frames: &[Frame]) -> Vec<u8> {
    answers_over(&Tcp::default(), address, frames).await
}

/// The same over another transport.
///
/// # Panics
/// As [`answers`] does.
pub async fn answers_over(
    transport: &dyn Transport,
    address: &Address,
    frames: &[Frame],
) -> Vec<u8> {
    let connection = transport.connect(address).await.expect("a connection");
    let Stream { mut send, mut recv } = connection.open_stream().await.expect("a stream");
    let bytes: Vec<u8> = frames.iter().flat_map(bytes_of).collect();
    let mut rest = &bytes[..];
    // The broker may end the stream before it has read everything.
    while !rest.is_empty() {
        let slices = [IoSlice::new(rest)];
        match poll_fn(|context| send.poll_send(context, &slices)).await {
            Ok(sent) => rest = &rest[sent..],
            Err(_) => break,
        }
    }
    let _ = poll_fn(|context| send.poll_finish(context)).await;
    let mut answer = BytesMut::new();
    within("the end of the answers", async {
        while poll_fn(|context| recv.poll_recv(context, &mut answer, 4096)).await.unwrap_or(0) > 0 {
        }
    })
    .await;
    answer.to_vec()
}
