use std::{
    io::{self, IoSlice},
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use ltq_core::{
    Address, ChannelName, Credit, Message, Records, RefusalCode, SendStream, StartAt, TopicName,
    protocol::{
        Decoder, Features, Frame, Hello, PROTOCOL_MAJOR, PROTOCOL_MINOR, Welcome, WriteQueue,
        encode,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::within;

/// A peer that sends whatever it likes.
pub struct RawPeer {
    socket: TcpStream,
    buffer: BytesMut,
    decoder: Decoder,
}

impl RawPeer {
    /// Connects, and says nothing.
    pub async fn connect(address: &Address) -> Self {
        let socket = within("connecting", TcpStream::connect(address.rest())).await;
        let socket = socket.expect("a connection");
        socket.set_nodelay(true).expect("nodelay");
        Self { socket, buffer: BytesMut::new(), decoder: Decoder::new(16 << 20) }
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

    /// Says this hello and waits for the welcome.
    pub async fn greet(&mut self, hello: Hello) -> Welcome {
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
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("sending", self.socket.write_all(bytes)).await
    }

    /// The next frame but pings; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.decode(&mut self.buffer).expect("the broker's frames decode") {
                Some(Frame::Ping { .. }) => continue,
                Some(frame) => return Some(frame),
                None => {}
            }
            let read = within("a frame", self.socket.read_buf(&mut self.buffer)).await;
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
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
        self.send(Frame::OpenProducer { handle, topic, name: None, epoch: None }).await;
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
        }
    }
}

/// A frame as it goes over the wire.
fn bytes_of(frame: &Frame) -> Vec<u8> {
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
