//! Frames survive the wire, in pieces of any size, and nothing else decodes.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{
    AdminRequest, AdminResponse, ChannelName, ChannelStats, Credit, DrainOptions, Durability,
    HeldUp, Keep, Message, NodeStats, Offset, ProducerName, RecordBatch, Records, Refusal,
    RefusalCode, Retention, RetentionChange, Seat, SendStream, Settlement, StartAt, StoreStats,
    Tag, TagRange, Timestamp, TopicName, TopicSettings, TopicStats, Verdict, model::SequenceRange,
};

const LIMIT: u32 = 1 << 20;

/// Takes a few bytes at a time, as a full socket does.
struct Trickle {
    taken: Vec<u8>,
    step: usize,
}

impl SendStream for Trickle {
    fn poll_send(&mut self, _: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut room = self.step;
        for slice in bytes {
            let part = &slice[..slice.len().min(room)];
            self.taken.extend_from_slice(part);
            room -= part.len();
        }
        Poll::Ready(Ok(self.step - room))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn written(frames: &[Frame], step: usize) -> Vec<u8> {
    let mut queue = WriteQueue::new();
    let mut stream = Trickle { taken: Vec::new(), step };
    for frame in frames {
        encode(frame, &mut queue);
    }
    let length = queue.len();
    let flushed = queue.poll_flush(&mut Context::from_waker(Waker::noop()), &mut stream);
    assert!(matches!(flushed, Poll::Ready(Ok(()))));
    assert_eq!(queue.len(), 0);
    assert_eq!(stream.taken.len(), length, "the queue counts its bytes");
    stream.taken
}

fn read_back(bytes: &[u8], step: usize) -> Result<Vec<Frame>, DecodeError> {
    let decoder = Decoder::new(LIMIT);
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        while let Some(frame) = decoder.decode(&mut buffer)? {
            frames.push(frame);
        }
    }
    assert!(buffer.is_empty(), "whole frames leave nothing behind");
    Ok(frames)
}

fn messages() -> impl Strategy<Value = Records> {
    let message =
        (option::of(vec(any::<u8>(), 0..20)), vec(any::<u8>(), 0..3000)).prop_map(|(key, body)| {
            let message = Message::new(body);
            match key {
                Some(key) => message.with_key(key).with_header("h", "v"),
                None => message,
            }
        });
    (vec(message, 1..8), any::<prop::sample::Index>()).prop_map(|(messages, cut)| {
        let records = Records::encode(&messages);
        records.slice(cut.index(messages.len())..messages.len())
    })
}

fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn refusal() -> impl Strategy<Value = Refusal> {
    (prop::sample::select(RefusalCode::ALL), ".{0,40}")
        .prop_map(|(code, detail)| Refusal::new(code, detail))
}

fn tags() -> impl Strategy<Value = TagRange> {
    (any::<u64>(), any::<u64>()).prop_map(|(a, b)| TagRange { first: Tag(a), last: Tag(b) })
}

fn settlement() -> impl Strategy<Value = Settlement> {
    let verdict = prop_oneof![
        Just(Verdict::Ack),
        any::<u64>().prop_map(|delay_ms| Verdict::Requeue { delay_ms }),
        Just(Verdict::Touch),
    ];
    (tags(), verdict).prop_map(|(tags, verdict)| Settlement { tags, verdict })
}

fn durability() -> impl Strategy<Value = Durability> {
    prop::sample::select(vec![Durability::Memory, Durability::Os, Durability::Disk])
}

fn start() -> impl Strategy<Value = StartAt> {
    prop_oneof![
        Just(StartAt::Earliest),
        Just(StartAt::Latest),
        any::<u64>().prop_map(|at| StartAt::Offset(Offset(at))),
        any::<u64>().prop_map(|at| StartAt::Time(Timestamp(at))),
    ]
}

fn seat() -> impl Strategy<Value = Option<Seat>> {
    option::of(any::<([u8; 16], u64)>().prop_map(|(number, turn)| Seat { number, turn }))
}

const RETENTION: Retention = Retention {
    keep: Keep::All,
    age_max: Some(Duration::from_millis(1_500)),
    bytes_max: Some(u64::MAX),
};

fn topic_stats() -> TopicStats {
    TopicStats {
        topic: name("t"),
        settings: TopicSettings { durability: Durability::Os, retention: RETENTION },
        paused: true,
        first: Offset(1),
        end: Offset(9),
        bytes: 10,
        published: 2,
        published_bytes: 3,
        duplicates: 4,
        refused: 5,
        producers: 6,
        producers_known: 7,
        channels: vec![ChannelStats {
            channel: ChannelName::new("c").unwrap(),
            paused: false,
            start: Offset(1),
            floor: Offset(2),
            waiting: 3,
            delayed: 4,
            in_flight: 5,
            acked: 6,
            damaged: 7,
            dropped: 14,
            delivered: 8,
            redelivered: 9,
            requeued: 10,
            timed_out: 11,
            stale: 12,
            consumers: 13,
        }],
    }
}

fn admin_frames() -> Vec<Frame> {
    let (topic, channel) = (name("t"), ChannelName::new("c#ephemeral").unwrap());
    let options = TopicSettings { durability: Durability::Memory, retention: RETENTION }.into();
    let requests = vec![
        AdminRequest::ListTopics,
        AdminRequest::CreateTopic { topic: topic.clone(), options },
        AdminRequest::AlterTopic {
            topic: topic.clone(),
            change: RetentionChange { age_max: Some(None), ..RetentionChange::default() },
        },
        AdminRequest::ShowTopic { topic: topic.clone() },
        AdminRequest::DeleteTopic { topic: topic.clone() },
        AdminRequest::PauseTopic { topic: topic.clone(), paused: true },
        AdminRequest::CreateChannel {
            topic: topic.clone(),
            channel: channel.clone(),
            start: StartAt::Latest,
        },
        AdminRequest::DeleteChannel { topic: topic.clone(), channel: channel.clone() },
        AdminRequest::PauseChannel { topic: topic.clone(), channel, paused: false },
        AdminRequest::Stats,
        AdminRequest::Drain {
            options: DrainOptions {
                hand_over_to: vec!["tcp://n2:7440".to_owned()],
                timeout_ms: Some(5_000),
            },
        },
        AdminRequest::EndDrain,
    ];
    let answers = vec![
        Ok(AdminResponse::Done),
        Ok(AdminResponse::Topics(vec![topic.clone()])),
        Ok(AdminResponse::Topic(Box::new(topic_stats()))),
        Ok(AdminResponse::Stats(Box::new(NodeStats {
            version: "1".to_owned(),
            uptime_seconds: 2,
            connections: 3,
            store: StoreStats { commits: 4, ..StoreStats::default() },
            is_draining: true,
            held_up: vec![HeldUp {
                topic,
                offset: Offset(9),
                bytes: 10,
                why: "too large".to_owned(),
            }],
            store_failure: Some("why".to_owned()),
            topics: vec![topic_stats()],
        }))),
        Err(Refusal::new(RefusalCode::Exists, "it does")),
    ];
    let requests = requests.into_iter().map(|action| Frame::Admin { request: 7, action });
    let answers = answers.into_iter().map(|result| Frame::AdminAnswered { request: 7, result });
    requests.chain(answers).collect()
}

fn frame() -> impl Strategy<Value = Frame> {
    let hello = (any::<(u16, u16, u64, u32, u32)>(), ".{0,20}", option::of(".{0,20}")).prop_map(
        |((major, minor, features, frame_bytes_max, heartbeat_ms), client, token)| {
            Frame::Hello(Hello {
                major,
                minor,
                features: Features(features),
                client,
                token,
                frame_bytes_max,
                heartbeat_ms,
            })
        },
    );
    let welcome = (any::<(u16, u16, u64, u32, u32)>(), any::<(u64, u64, [u8; 16])>()).prop_map(
        |((major, minor, features, max, heartbeat_ms), (messages, bytes, instance))| {
            Frame::Welcome(Welcome {
                major,
                minor,
                features: Features(features),
                node: "n".to_owned(),
                instance: InstanceId(instance),
                limits: PeerLimits {
                    frame_bytes_max: max,
                    message_bytes_max: max / 2,
                    credit_max: Credit { messages, bytes },
                    subscriptions_max: 3,
                    producers_max: 4,
                    publish_bytes_max: 5,
                },
                heartbeat_ms,
            })
        },
    );
    let producer_name = option::of(Just(ProducerName::new("p").unwrap()));
    let range = (any::<u64>(), any::<u64>(), option::of(any::<u64>())).prop_map(
        |(sequence, count, offset)| SequenceRange { sequence, count, offset: offset.map(Offset) },
    );
    let handle = any::<u32>;
    prop_oneof![
        hello,
        welcome,
        refusal().prop_map(|refusal| Frame::Goodbye { refusal }),
        any::<u64>().prop_map(|nonce| Frame::Ping { nonce }),
        any::<u64>().prop_map(|nonce| Frame::Pong { nonce }),
        (handle(), producer_name, option::of(any::<u64>()), seat()).prop_map(
            |(handle, name, epoch, seat)| {
                Frame::OpenProducer { handle, topic: self::name("t.1"), name, epoch, seat }
            }
        ),
        (handle(), any::<u64>(), any::<u64>(), durability()).prop_map(
            |(handle, epoch, last_sequence, durability)| Frame::ProducerOpened {
                handle,
                epoch,
                last_sequence,
                durability
            }
        ),
        (handle(), refusal())
            .prop_map(|(handle, refusal)| Frame::ProducerRefused { handle, refusal }),
        (handle(), any::<u64>(), option::of(durability()), messages()).prop_map(
            |(handle, sequence, durability, records)| Frame::Publish {
                handle,
                sequence,
                durability,
                records
            }
        ),
        (handle(), vec(range, 0..9), durability()).prop_map(|(handle, ranges, durability)| {
            Frame::Confirmed { handle, ranges, durability }
        }),
        (handle(), any::<u64>(), any::<u64>(), refusal()).prop_map(
            |(handle, sequence, count, refusal)| Frame::PublishRefused {
                handle,
                sequence,
                count,
                refusal
            }
        ),
        (handle(), any::<bool>())
            .prop_map(|(handle, forget)| Frame::CloseProducer { handle, forget }),
        (handle(), start(), option::of(any::<u64>()), any::<(u64, u64, bool)>(), seat()).prop_map(
            |(handle, start, timeout_ms, (messages, bytes, make_topic), seat)| Frame::Subscribe {
                handle,
                topic: self::name("t"),
                channel: ChannelName::new("c").unwrap(),
                start,
                timeout_ms,
                credit: Credit { messages, bytes },
                make_topic,
                seat,
            }
        ),
        (handle(), any::<u64>())
            .prop_map(|(handle, timeout_ms)| Frame::Subscribed { handle, timeout_ms }),
        (handle(), refusal())
            .prop_map(|(handle, refusal)| Frame::SubscribeRefused { handle, refusal }),
        (handle(), any::<(u64, u64)>()).prop_map(|(handle, (messages, bytes))| Frame::Credit {
            handle,
            total: Credit { messages, bytes }
        }),
        (handle(), any::<(u64, u64)>()).prop_map(|(handle, (messages, bytes))| Frame::Credited {
            handle,
            total: Credit { messages, bytes }
        }),
        (handle(), any::<(u64, u32, u64, u64)>(), messages()).prop_map(
            |(handle, (tag, attempt, first, time), records)| Frame::Deliver {
                handle,
                first_tag: Tag(tag),
                attempt,
                batch: RecordBatch { first: Offset(first), time: Timestamp(time), records },
            }
        ),
        (handle(), any::<u32>(), vec(settlement(), 0..9)).prop_map(
            |(handle, request, settlements)| Frame::Settle { handle, request, settlements }
        ),
        (handle(), any::<u32>(), vec(tags(), 0..9))
            .prop_map(|(handle, request, stale)| Frame::Settled { handle, request, stale }),
        handle().prop_map(|handle| Frame::Unsubscribe { handle }),
        (handle(), option::of(refusal()))
            .prop_map(|(handle, refusal)| Frame::SubscriptionClosed { handle, refusal }),
        prop::sample::select(admin_frames()),
    ]
}

/// A frame's records may come back sliced otherwise; what they say is what counts.
fn same(a: &Frame, b: &Frame) -> bool {
    let same_records = |a: &Records, b: &Records| {
        a.messages().eq(b.messages()) && a.verify().is_ok() && b.verify().is_ok()
    };
    match (a, b) {
        (
            Frame::Publish { handle, sequence, durability, records },
            Frame::Publish { handle: h, sequence: s, durability: d, records: r },
        ) => (handle, sequence, durability) == (h, s, d) && same_records(records, r),
        (
            Frame::Deliver { handle, first_tag, attempt, batch },
            Frame::Deliver { handle: h, first_tag: t, attempt: a, batch: b },
        ) => {
            (handle, first_tag, attempt, batch.first, batch.time) == (h, t, a, b.first, b.time)
                && same_records(&batch.records, &b.records)
        }
        _ => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn frames_survive_the_wire_in_pieces_of_any_size(
        frames in vec(frame(), 1..12),
        write_step in 1usize..5000,
        read_step in 1usize..5000,
    ) {
        let bytes = written(&frames, write_step);
        let back = read_back(&bytes, read_step).unwrap();
        prop_assert_eq!(back.len(), frames.len());
        for (sent, read) in frames.iter().zip(&back) {
            prop_assert!(same(sent, read), "{sent:?} came back as {read:?}");
        }
    }

    #[test]
    fn promise_9_any_bytes_decode_or_are_refused(bytes in vec(any::<u8>(), 0..300)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = Decoder::new(LIMIT).decode(&mut buffer) {}
    }

    #[test]
    fn promise_9_a_flipped_byte_is_refused_or_harmless(
        frame in frame(),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let mut bytes = written(&[frame], 1 << 20);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = Decoder::new(LIMIT).decode(&mut buffer) {
            if let Frame::Publish { records, .. } = frame {
                let _ = records.verify();
                let _ = records.largest();
                prop_assert!(records.messages().count() == records.count());
            }
        }
    }
}

#[test]
fn lengths_are_bounded_before_anything_is_read() {
    let decoder = Decoder::new(1000);
    let mut long = BytesMut::from(&1001u32.to_le_bytes()[..]);
    assert_eq!(decoder.decode(&mut long), Err(DecodeError::TooLong { length: 1001, limit: 1000 }));
    let mut empty = BytesMut::from(&0u32.to_le_bytes()[..]);
    assert_eq!(decoder.decode(&mut empty), Err(DecodeError::Empty));
    assert_eq!(decoder.missing(&[]), Ok(4));
    assert_eq!(decoder.missing(&[10, 0, 0, 0, 1]), Ok(9));
    let mut unknown = BytesMut::from(&[1, 0, 0, 0, 255][..]);
    assert_eq!(decoder.decode(&mut unknown), Err(DecodeError::UnknownType(255)));
}

#[test]
fn bytes_behind_a_header_are_refused() {
    let mut bytes = written(&[Frame::CloseProducer { handle: 1, forget: true }], 100);
    bytes.push(0);
    bytes[0] += 1;
    assert_eq!(read_back(&bytes, 100), Err(DecodeError::Header(FrameType::CloseProducer)));
}

#[test]
fn a_table_longer_than_its_frame_is_refused() {
    let records = Records::encode(&[Message::new("x")]);
    let frame = Frame::Publish { handle: 1, sequence: 1, durability: None, records };
    let bytes = written(&[frame], 100);
    let mut huge = bytes;
    // handle, sequence, durability and base take a byte each behind length and type; then count.
    huge[9] = 100;
    assert!(matches!(read_back(&huge, 100), Err(DecodeError::Records { .. })));
}

#[test]
fn an_idle_queue_gives_its_memory_back() {
    let mut queue = WriteQueue::new();
    encode(&Frame::Ping { nonce: 1 }, &mut queue);
    queue.shrink();
    assert!(!queue.is_empty(), "what waits stays");
    let mut stream = Trickle { taken: Vec::new(), step: 3 };
    let flushed = queue.poll_flush(&mut Context::from_waker(Waker::noop()), &mut stream);
    assert!(flushed.is_ready());
    queue.shrink();
    assert!(queue.is_empty());
}

#[test]
fn a_hello_in_a_log_keeps_its_token_to_itself() {
    let hello = Hello {
        major: 1,
        minor: 0,
        features: Features(0),
        client: "loader".to_owned(),
        token: Some("hush-hush".to_owned()),
        frame_bytes_max: 4096,
        heartbeat_ms: 0,
    };
    let text = format!("{:?}", Frame::Hello(hello));
    assert!(text.contains("loader") && text.contains("has_token: true"), "{text}");
    assert!(!text.contains("hush"), "{text}");
}
