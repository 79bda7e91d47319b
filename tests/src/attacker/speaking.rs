//! What is said, or not said, on one stream.

use std::time::Duration;

use ltq_core::{
    Address, AdminRequest, ChannelName, Credit, Message, ProducerName, Records, TopicName,
    Transport as _,
    protocol::{FRAME_BYTES_MIN, Frame},
};
use rand::RngExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    Assault, FRAME_BYTES_MAX, Failed, MEETING,
    line::{Heard, Line, PATIENCE},
    words,
};
use crate::{RawPeer, bytes_of};

impl Assault<'_> {
    pub(super) async fn silence(&mut self) -> Result<(), Failed> {
        let mut line = self.line().await?;
        if self.chance.random_bool(0.2) {
            return line.hear_the_end(only_goodbyes).await;
        }
        sleep(self.a_moment()).await;
        Ok(())
    }

    pub(super) async fn noise(&mut self) -> Result<(), Failed> {
        let mut line = self.line().await?;
        line.send(&words::noise(&mut self.chance, 64 << 10)).await;
        line.finish().await;
        line.hear_the_end(only_goodbyes).await
    }

    pub(super) async fn other_protocol(&mut self) -> Result<(), Failed> {
        let target = &self.attacker.target;
        let (to, bytes) = match self.chance.random_range(0..5) {
            0 => {
                // TLS to where there is none.
                let plain = Address::new("tls", target.tcp.rest());
                let met = timeout(PATIENCE, self.attacker.transports.connect(&plain)).await;
                return match met {
                    Ok(Err(_)) => Ok(()),
                    Ok(Ok(_)) => Err(Failed::Fault("TLS over a plain listener".to_owned())),
                    Err(_) => Err(Failed::Fault("a TLS hello was not dropped".to_owned())),
                };
            }
            1 => (&target.tls, words::conversation(&mut self.chance)),
            2 => (&target.tls, words::noise(&mut self.chance, 20_000)),
            // The head of a TLS record with a hello of 512 bytes, and nothing of it.
            3 => (&target.tls, vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
            _ => (&target.tcp, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        };
        let met = timeout(MEETING, TcpStream::connect(to.rest())).await;
        let mut socket = met.map_err(|_| Failed::Unmet)?.map_err(|_| Failed::Unmet)?;
        let _ = timeout(PATIENCE, socket.write_all(&bytes)).await;
        if self.chance.random_bool(0.5) {
            return Ok(());
        }
        let ended = async {
            let mut read = [0; 4096];
            while socket.read(&mut read).await.unwrap_or(0) > 0 {}
        };
        match timeout(PATIENCE, ended).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Failed::Fault("another protocol was not dropped".to_owned())),
        }
    }

    pub(super) async fn cut_hello(&mut self) -> Result<(), Failed> {
        let bytes = bytes_of(&Frame::Hello(words::hello()));
        let cut = self.chance.random_range(0..bytes.len());
        let mut line = self.line().await?;
        line.send(&bytes[..cut]).await;
        match self.chance.random_range(0..10) {
            0 => line.hear_the_end(only_goodbyes).await,
            1..=5 => {
                line.finish().await;
                line.hear_the_end(only_goodbyes).await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn dripped_hello(&mut self) -> Result<(), Failed> {
        let bytes = bytes_of(&Frame::Hello(words::hello()));
        let mut line = self.line().await?;
        // For twice as long as a hello may take.
        for byte in bytes[..bytes.len() - 1].iter().cycle().take(40) {
            if !line.send(&[*byte]).await {
                break;
            }
            if line.hear(Duration::from_millis(50), only_goodbyes).await? == Heard::End {
                return Ok(());
            }
        }
        line.hear_the_end(only_goodbyes).await
    }

    pub(super) async fn odd_hello(&mut self) -> Result<(), Failed> {
        let hello = words::odd_hello(&mut self.chance);
        let mut line = self.line().await?;
        line.say(&Frame::Hello(hello)).await;
        line.send(&bytes_of(&words::request(&mut self.chance))).await;
        self.leave(line).await
    }

    pub(super) async fn long_hello(&mut self) -> Result<(), Failed> {
        let bytes = words::at_a_length(&mut self.chance, FRAME_BYTES_MIN);
        let mut line = self.line().await?;
        line.send(&bytes).await;
        line.hear_the_end(only_goodbyes).await
    }

    pub(super) async fn two_hellos(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        line.say(&Frame::Hello(words::hello())).await;
        line.hear_the_end(|_| true).await
    }

    pub(super) async fn wrong_token(&mut self) -> Result<(), Failed> {
        let mut hello = words::hello();
        hello.token = words::wrong_token(&mut self.chance);
        let mut line = self.line().await?;
        line.say(&Frame::Hello(hello)).await;
        line.send(&bytes_of(&words::request(&mut self.chance))).await;
        line.hear_the_end(only_goodbyes).await
    }

    pub(super) async fn no_hello(&mut self) -> Result<(), Failed> {
        let frame = match self.chance.random_range(0..3) {
            0 => words::answer(&mut self.chance),
            _ => words::request(&mut self.chance),
        };
        let mut line = self.line().await?;
        line.say(&frame).await;
        line.say(&Frame::Hello(words::hello())).await;
        line.hear_the_end(only_goodbyes).await
    }

    pub(super) async fn any_frames(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        for _ in 0..self.chance.random_range(1..40) {
            let bytes = bytes_of(&words::frame(&mut self.chance));
            if !line.send(&bytes).await {
                break;
            }
        }
        self.leave(line).await
    }

    pub(super) async fn limits(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        line.say(&words::open_producer(&mut self.chance, 1)).await;
        line.say(&words::subscribe(&mut self.chance, 1)).await;
        let bytes = match self.chance.random() {
            true => words::at_a_limit(&mut self.chance),
            false => words::at_a_length(&mut self.chance, FRAME_BYTES_MAX),
        };
        line.send(&bytes).await;
        self.leave(line).await
    }

    pub(super) async fn truncated(&mut self) -> Result<(), Failed> {
        let mut bytes = words::conversation(&mut self.chance);
        bytes.truncate(self.chance.random_range(0..bytes.len()));
        let mut line = self.line().await?;
        line.send(&bytes).await;
        self.leave(line).await
    }

    pub(super) async fn mutated(&mut self) -> Result<(), Failed> {
        let mut bytes = words::conversation(&mut self.chance);
        words::mutate(&mut self.chance, &mut bytes);
        let mut line = self.line().await?;
        line.send(&bytes).await;
        self.leave(line).await
    }

    pub(super) async fn futile(&mut self) -> Result<(), Failed> {
        let handle = 77;
        let frame = match self.chance.random_range(0..7) {
            0 => Frame::Ping { nonce: 1 },
            1 => Frame::Pong { nonce: 1 },
            2 => Frame::Credit { handle, total: Credit { messages: 1, bytes: 1 } },
            3 => Frame::Unsubscribe { handle },
            4 => Frame::CloseProducer { handle, forget: true },
            5 => Frame::Settle { handle, request: 1, settlements: Vec::new() },
            _ => {
                let records = Records::encode([&Message::new("x")]);
                Frame::Publish { handle, sequence: 1, durability: None, records }
            }
        };
        let times = self.chance.random_range(500..5_000);
        let flood: Vec<u8> = std::iter::repeat_n(bytes_of(&frame), times).flatten().collect();
        let mut line = self.greeted().await?;
        line.send(&flood).await;
        self.leave(line).await
    }

    pub(super) async fn openings(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        for handle in 0..1_000 {
            let frame = match self.chance.random() {
                true => words::open_producer(&mut self.chance, handle),
                false => words::subscribe(&mut self.chance, handle),
            };
            if !line.say(&frame).await {
                break;
            }
        }
        self.leave(line).await
    }

    pub(super) async fn deaf_subscriber(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        let topic = words::topic(&mut self.chance);
        let open = Frame::OpenProducer {
            handle: 1,
            topic: topic.clone(),
            name: None,
            epoch: None,
            seat: None,
        };
        line.say(&open).await;
        let credit = Credit { messages: 2500, bytes: 4 << 20 };
        line.say(&RawPeer::subscribe(1, topic.as_str(), "deaf", credit)).await;
        self.publish_on(&mut line, 20).await;
        sleep(self.a_while()).await;
        Ok(())
    }

    pub(super) async fn deaf_publisher(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        let topic = words::topic(&mut self.chance);
        line.say(&Frame::OpenProducer { handle: 1, topic, name: None, epoch: None, seat: None })
            .await;
        self.publish_on(&mut line, 60).await;
        sleep(self.a_while()).await;
        Ok(())
    }

    pub(super) async fn half_close(&mut self) -> Result<(), Failed> {
        let mut line = self.line().await?;
        if self.chance.random_bool(0.8) {
            line.send(&words::conversation(&mut self.chance)).await;
        }
        line.finish().await;
        line.hear_the_end(|_| true).await
    }

    pub(super) async fn reset(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        line.say(&words::open_producer(&mut self.chance, 1)).await;
        let records = Records::encode([&Message::new(vec![1; 100_000])]);
        let publish = Frame::Publish { handle: 1, sequence: 1, durability: None, records };
        let bytes = bytes_of(&publish);
        line.send(&bytes[..self.chance.random_range(0..bytes.len())]).await;
        // Dropping a stream that is not finished cuts it.
        drop(line);
        Ok(())
    }

    pub(super) async fn half_frame(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        let mut bytes = FRAME_BYTES_MAX.to_le_bytes().to_vec();
        bytes.push(19);
        bytes.resize(self.chance.random_range(6..FRAME_BYTES_MAX as usize), 1);
        line.send(&bytes).await;
        if self.chance.random_bool(0.5) {
            return line.hear_the_end(|_| true).await;
        }
        sleep(self.a_while()).await;
        Ok(())
    }

    pub(super) async fn others_things(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        let name = if self.chance.random() { "honest.tcp" } else { "honest.quic" };
        let topic = TopicName::new(name).expect("a name");
        let channel = ChannelName::new("c").expect("a name");
        let producer = ProducerName::new("honest").expect("a name");
        let credit = Credit { messages: 2500, bytes: 1 << 20 };
        let requests = [
            Frame::OpenProducer {
                handle: 1,
                topic: topic.clone(),
                name: Some(producer),
                epoch: Some(u64::MAX),
                seat: None,
            },
            RawPeer::subscribe(1, name, "c", credit),
            self.admin_of(AdminRequest::PauseTopic { topic: topic.clone(), paused: true }),
            self.admin_of(AdminRequest::DeleteChannel { topic: topic.clone(), channel }),
            self.admin_of(AdminRequest::DeleteTopic { topic: topic.clone() }),
            self.admin_of(AdminRequest::ShowTopic { topic }),
        ];
        for frame in &requests {
            line.say(frame).await;
        }
        line.finish().await;
        line.hear_the_end(|frame| match frame {
            Frame::ProducerOpened { .. } | Frame::Subscribed { .. } | Frame::Deliver { .. } => {
                false
            }
            Frame::AdminAnswered { result, .. } => result.is_err(),
            _ => true,
        })
        .await
    }

    pub(super) async fn settlements(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        let topic = words::topic(&mut self.chance);
        let open = Frame::OpenProducer {
            handle: 1,
            topic: topic.clone(),
            name: None,
            epoch: None,
            seat: None,
        };
        line.say(&open).await;
        let credit = Credit { messages: 2500, bytes: 1 << 20 };
        for handle in 0..3 {
            line.say(&RawPeer::subscribe(handle, topic.as_str(), "a", credit)).await;
        }
        self.publish_on(&mut line, 1).await;
        line.hear(self.a_moment(), |_| true).await?;
        for _ in 0..self.chance.random_range(1..10) {
            let handle = self.chance.random_range(0..4);
            line.say(&words::settle(&mut self.chance, handle)).await;
        }
        self.leave(line).await
    }

    pub(super) async fn sequences(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        line.say(&words::open_producer(&mut self.chance, 1)).await;
        let mut sequence = 1;
        for _ in 0..self.chance.random_range(1..30) {
            let records = words::records(&mut self.chance);
            let next = sequence + records.count() as u64;
            line.say(&Frame::Publish { handle: 1, sequence, durability: None, records }).await;
            sequence = match self.chance.random_range(0..4) {
                0 => words::number(&mut self.chance) >> 1,
                1 => sequence,
                _ => next,
            };
        }
        self.leave(line).await
    }

    pub(super) async fn operator(&mut self) -> Result<(), Failed> {
        let mut line = self.greeted().await?;
        for _ in 0..self.chance.random_range(20..200) {
            let frame = words::admin(&mut self.chance);
            if !line.say(&frame).await {
                break;
            }
        }
        self.leave(line).await
    }

    pub(super) async fn flood(&mut self) -> Result<(), Failed> {
        let mut held = Vec::new();
        for number in 0..self.chance.random_range(100..150) {
            let mut line = self.line().await?;
            if number % 3 == 0 {
                line.say(&Frame::Hello(words::hello())).await;
            }
            held.push(line);
        }
        sleep(self.a_while()).await;
        Ok(())
    }

    /// A stream on which a hello was said that is let in.
    async fn greeted(&mut self) -> Result<Line, Failed> {
        let mut line = self.line().await?;
        line.say(&Frame::Hello(words::hello())).await;
        Ok(line)
    }

    /// Goes, in one of the ways of going.
    async fn leave(&mut self, mut line: Line) -> Result<(), Failed> {
        match self.chance.random_range(0..3) {
            0 => Ok(()),
            1 => line.hear(self.a_moment(), |_| true).await.map(drop),
            _ => {
                line.finish().await;
                line.hear_the_end(|_| true).await
            }
        }
    }

    /// Publishes some MiB in all, or as much as the node takes.
    async fn publish_on(&mut self, line: &mut Line, publishes: u64) {
        let message = Message::new(vec![9; 8 << 10]);
        for publish in 0..publishes {
            let records = Records::encode(std::iter::repeat_n(&message, 10));
            let sequence = publish * 10 + 1;
            let publish = Frame::Publish { handle: 1, sequence, durability: None, records };
            if !line.send_for(&bytes_of(&publish), self.a_while()).await {
                break;
            }
        }
    }

    fn admin_of(&mut self, action: AdminRequest) -> Frame {
        Frame::Admin { request: self.chance.random(), action }
    }

    pub(super) fn a_moment(&mut self) -> Duration {
        Duration::from_millis(self.chance.random_range(0..30))
    }

    pub(super) fn a_while(&mut self) -> Duration {
        Duration::from_millis(self.chance.random_range(100..2_500))
    }
}

/// All that a node says to who was not let in.
fn only_goodbyes(frame: &Frame) -> bool {
    matches!(frame, Frame::Goodbye { .. })
}
