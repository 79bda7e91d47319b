//! What a hostile peer says: frames of valid shape with anything in them, and bytes that are
//! nearly frames.

use ltq_core::{
    AdminRequest, AdminResponse, ChannelName, Credit, Durability, Message, Offset, ProducerName,
    RecordBatch, Records, Refusal, RefusalCode, Retention, RetentionChange, Seat, Settlement,
    StartAt, Tag, TagRange, Timestamp, TopicName, TopicOptions, Verdict,
    model::SequenceRange,
    protocol::{
        FRAME_BYTES_MIN, Features, Frame, Hello, InstanceId, PROTOCOL_MAJOR, PROTOCOL_MINOR,
        PeerLimits, SETTLEMENTS_MAX, Welcome,
    },
};
use rand::{Rng, RngExt, rngs::SmallRng};

use super::{ATTACK_TOPICS, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, TOKEN};
use crate::bytes_of;

/// A hello that is let in.
pub(super) fn hello() -> Hello {
    Hello {
        major: PROTOCOL_MAJOR,
        minor: PROTOCOL_MINOR,
        features: Features(0),
        client: "attacker".to_owned(),
        token: Some(TOKEN.to_owned()),
        frame_bytes_max: 16 << 20,
        heartbeat_ms: 0,
    }
}

/// A hello with something wrong, or odd, in it.
pub(super) fn odd_hello(chance: &mut SmallRng) -> Hello {
    let mut hello = hello();
    match chance.random_range(0..8) {
        0 => hello.major = number(chance) as u16,
        1 => hello.minor = number(chance) as u16,
        2 => hello.features = Features(number(chance)),
        3 => hello.client = "c".repeat(chance.random_range(250..=3000)),
        4 => hello.frame_bytes_max = number(chance) as u32,
        5 => hello.heartbeat_ms = number(chance) as u32,
        6 => hello.client = "\u{0}\u{1b}[2J\n\u{10ffff}".to_owned(),
        _ => hello.token = wrong_token(chance),
    }
    hello
}

/// None, or one that is nearly right, or far too long.
pub(super) fn wrong_token(chance: &mut SmallRng) -> Option<String> {
    match chance.random_range(0..6) {
        0 => None,
        1 => Some(String::new()),
        2 => Some(TOKEN[..TOKEN.len() - 1].to_owned()),
        3 => Some(format!("{TOKEN} ")),
        4 => Some("t".repeat(chance.random_range(1020..=1030))),
        _ => Some(format!("guess {}", chance.random::<u64>())),
    }
}

/// A number that is often at an end of what there is.
pub(super) fn number(chance: &mut SmallRng) -> u64 {
    const ENDS: [u64; 12] = [
        0,
        1,
        2,
        3,
        127,
        128,
        65_535,
        u32::MAX as u64 - 1,
        u32::MAX as u64,
        u32::MAX as u64 + 1,
        u64::MAX - 1,
        u64::MAX,
    ];
    match chance.random_range(0..3) {
        0 => ENDS[chance.random_range(0..ENDS.len())],
        1 => chance.random_range(0..1000),
        _ => chance.random(),
    }
}

/// The number of a producer or subscription: mostly one that others use too.
pub(super) fn handle(chance: &mut SmallRng) -> u32 {
    match chance.random_range(0..10) {
        0 => number(chance) as u32,
        _ => chance.random_range(0..6),
    }
}

/// Mostly one that the attacker may use; else one that is not its own.
pub(super) fn topic(chance: &mut SmallRng) -> TopicName {
    let name = match chance.random_range(0..12) {
        0 => "honest.tcp".to_owned(),
        1 => "honest.quic".to_owned(),
        2 => "attack.gone#ephemeral".to_owned(),
        _ => format!("attack.{}", chance.random_range(0..ATTACK_TOPICS)),
    };
    TopicName::new(&name).expect("a name")
}

/// One of a few, some of which go with their last consumer.
pub(super) fn channel(chance: &mut SmallRng) -> ChannelName {
    let name = ["a", "b", "c", "d#ephemeral"][chance.random_range(0..4)];
    ChannelName::new(name).expect("a name")
}

/// Some messages.
pub(super) fn records(chance: &mut SmallRng) -> Records {
    let count = match chance.random_range(0..20) {
        0 => 0,
        1 => chance.random_range(100..2000),
        _ => chance.random_range(1..8),
    };
    let bytes = match chance.random_range(0..20) {
        0 if count < 4 => MESSAGE_BYTES_MAX as usize / 2,
        _ => chance.random_range(0..100),
    };
    let messages: Vec<_> = (0..count)
        .map(|_| {
            let message = Message::new(vec![chance.random::<u8>(); bytes]);
            match chance.random_range(0..4) {
                0 => message.with_key(vec![chance.random::<u8>()]),
                1 => message.with_header("name", vec![0; 10]),
                _ => message,
            }
        })
        .collect();
    Records::encode(&messages)
}

/// Whatever a client may say after its hello.
pub(super) fn request(chance: &mut SmallRng) -> Frame {
    let handle = handle(chance);
    match chance.random_range(0..10) {
        0 => open_producer(chance, handle),
        1..=2 => Frame::Publish {
            handle,
            sequence: number(chance),
            durability: durability(chance),
            records: records(chance),
        },
        3 => Frame::CloseProducer { handle, forget: chance.random() },
        4 => subscribe(chance, handle),
        5 => Frame::Credit { handle, total: credit(chance) },
        6 => settle(chance, handle),
        7 => Frame::Unsubscribe { handle },
        8 => admin(chance),
        _ => Frame::Ping { nonce: number(chance) },
    }
}

pub(super) fn open_producer(chance: &mut SmallRng, handle: u32) -> Frame {
    let name = chance.random_bool(0.5).then(|| {
        let name = format!("name-{}", chance.random_range(0..20));
        ProducerName::new(&name).expect("a name")
    });
    let epoch = chance.random_bool(0.3).then(|| number(chance));
    Frame::OpenProducer {
        handle,
        topic: topic(chance),
        name,
        epoch,
        seat: chance.random_bool(0.5).then(|| seat(chance)),
    }
}

pub(super) fn subscribe(chance: &mut SmallRng, handle: u32) -> Frame {
    let start = match chance.random_range(0..4) {
        0 => StartAt::Earliest,
        1 => StartAt::Latest,
        2 => StartAt::Offset(Offset(number(chance))),
        _ => StartAt::Time(Timestamp(number(chance))),
    };
    Frame::Subscribe {
        handle,
        topic: topic(chance),
        channel: channel(chance),
        start,
        timeout_ms: chance.random_bool(0.3).then(|| number(chance)),
        credit: credit(chance),
        make_topic: chance.random_bool(0.9),
        seat: chance.random_bool(0.5).then(|| seat(chance)),
    }
}

/// One of a few, so that consumers take over from each other.
fn seat(chance: &mut SmallRng) -> Seat {
    Seat { number: [chance.random_range(0..3); 16], turn: number(chance) }
}

/// Settlements of whatever was delivered, or was not, or to somebody else.
pub(super) fn settle(chance: &mut SmallRng, handle: u32) -> Frame {
    let count = match chance.random_range(0..20) {
        0 => chance.random_range(1000..SETTLEMENTS_MAX as usize),
        _ => chance.random_range(0..20),
    };
    let settlements = (0..count)
        .map(|_| {
            let tags = TagRange { first: Tag(number(chance)), last: Tag(number(chance)) };
            let verdict = match chance.random_range(0..3) {
                0 => Verdict::Ack,
                1 => Verdict::Requeue { delay_ms: number(chance) },
                _ => Verdict::Touch,
            };
            Settlement { tags, verdict }
        })
        .collect();
    Frame::Settle { handle, request: number(chance) as u32, settlements }
}

/// What an operator asks: of its own topics, and of those of others.
pub(super) fn admin(chance: &mut SmallRng) -> Frame {
    let (topic, channel) = (topic(chance), channel(chance));
    let paused = chance.random();
    let change = RetentionChange {
        keep: None,
        age_max: chance
            .random_bool(0.3)
            .then(|| Some(std::time::Duration::from_secs(number(chance)))),
        // Never without a limit, or the run would fill the device.
        bytes_max: chance.random_bool(0.3).then(|| Some(number(chance).min(Retention::BYTES_MIN))),
    };
    let action = match chance.random_range(0..20) {
        0..=2 => AdminRequest::ListTopics,
        3..=5 => {
            let options = TopicOptions { durability: durability(chance), retention: change };
            AdminRequest::CreateTopic { topic, options }
        }
        6..=7 => AdminRequest::AlterTopic { topic, change },
        8..=10 => AdminRequest::ShowTopic { topic },
        11 => AdminRequest::DeleteTopic { topic },
        12..=13 => AdminRequest::PauseTopic { topic, paused },
        14..=15 => AdminRequest::CreateChannel { topic, channel, start: StartAt::Earliest },
        16 => AdminRequest::DeleteChannel { topic, channel },
        17..=18 => AdminRequest::PauseChannel { topic, channel, paused },
        _ => AdminRequest::Stats,
    };
    Frame::Admin { request: number(chance) as u32, action }
}

fn durability(chance: &mut SmallRng) -> Option<Durability> {
    match chance.random_range(0..4) {
        0 => Some(Durability::Memory),
        1 => Some(Durability::Os),
        2 => Some(Durability::Disk),
        _ => None,
    }
}

pub(super) fn credit(chance: &mut SmallRng) -> Credit {
    match chance.random_range(0..3) {
        0 => Credit { messages: number(chance), bytes: number(chance) },
        _ => Credit { messages: chance.random_range(0..2500), bytes: 1 << 20 },
    }
}

/// What only a broker says.
pub(super) fn answer(chance: &mut SmallRng) -> Frame {
    let handle = handle(chance);
    let refusal = Refusal::new(
        RefusalCode::ALL[chance.random_range(0..RefusalCode::ALL.len())],
        "x".repeat(chance.random_range(0..100)),
    );
    match chance.random_range(0..14) {
        0 => Frame::Welcome(Welcome {
            major: PROTOCOL_MAJOR,
            minor: PROTOCOL_MINOR,
            features: Features(0),
            node: "I am the node".to_owned(),
            instance: InstanceId([0; 16]),
            limits: PeerLimits {
                frame_bytes_max: 1,
                message_bytes_max: 1,
                credit_max: credit(chance),
                subscriptions_max: 1,
                producers_max: 1,
                publish_bytes_max: 1,
            },
            heartbeat_ms: 1,
        }),
        1 => Frame::Goodbye { refusal },
        2 => Frame::Pong { nonce: number(chance) },
        3 => Frame::ProducerOpened {
            handle,
            epoch: number(chance),
            last_sequence: number(chance),
            durability: Durability::Disk,
        },
        4 => Frame::ProducerRefused { handle, refusal },
        5 => {
            let range = SequenceRange { sequence: number(chance), count: 1, offset: None };
            Frame::Confirmed { handle, ranges: vec![range; 3], durability: Durability::Disk }
        }
        6 => Frame::PublishRefused { handle, sequence: 1, count: number(chance), refusal },
        7 => Frame::Subscribed { handle, timeout_ms: number(chance) },
        8 => Frame::SubscribeRefused { handle, refusal },
        9 => {
            let batch = RecordBatch {
                first: Offset(number(chance)),
                time: Timestamp(number(chance)),
                records: records(chance),
            };
            Frame::Deliver { handle, first_tag: Tag(number(chance)), attempt: 1, batch }
        }
        10 => Frame::Settled { handle, request: 1, stale: Vec::new() },
        11 => Frame::SubscriptionClosed { handle, refusal: Some(refusal) },
        12 => Frame::Credited { handle, total: credit(chance) },
        _ => Frame::AdminAnswered { request: 1, result: Ok(AdminResponse::Done) },
    }
}

/// Any frame at all.
pub(super) fn frame(chance: &mut SmallRng) -> Frame {
    match chance.random_range(0..12) {
        0 => Frame::Hello(odd_hello(chance)),
        1..=2 => answer(chance),
        _ => request(chance),
    }
}

/// A few requests, one behind the other, that begin with a hello which is let in.
pub(super) fn conversation(chance: &mut SmallRng) -> Vec<u8> {
    let mut bytes = bytes_of(&Frame::Hello(hello()));
    for _ in 0..chance.random_range(1..12) {
        bytes.extend(bytes_of(&request(chance)));
    }
    bytes
}

/// Changes some bits, bytes or lengths.
pub(super) fn mutate(chance: &mut SmallRng, bytes: &mut Vec<u8>) {
    for _ in 0..chance.random_range(1..5) {
        if bytes.is_empty() {
            return;
        }
        let at = chance.random_range(0..bytes.len());
        match chance.random_range(0..5) {
            0 => bytes[at] ^= 1 << chance.random_range(0..8),
            1 => bytes[at] = chance.random(),
            2 => {
                bytes.remove(at);
            }
            3 => bytes.insert(at, chance.random()),
            _ => {
                let end = bytes.len().min(at + chance.random_range(1..20));
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// Bytes by chance.
pub(super) fn noise(chance: &mut SmallRng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; chance.random_range(1..=most)];
    chance.fill_bytes(&mut bytes);
    bytes
}

/// A frame whose length stands at a limit, or beyond it, and as much of it as is worth sending.
pub(super) fn at_a_length(chance: &mut SmallRng, limit: u32) -> Vec<u8> {
    let length = match chance.random_range(0..7) {
        0 => limit - 1,
        1 => limit,
        2 => limit + 1,
        3 => limit.saturating_mul(2),
        4 => u32::MAX,
        5 => 0,
        _ => 1,
    };
    let mut bytes = length.to_le_bytes().to_vec();
    // Known types and others.
    bytes.push(chance.random_range(0..60));
    let filler = if chance.random() { 0xff } else { chance.random() };
    let body = length.saturating_sub(1).min(limit.min(FRAME_BYTES_MAX) + 10) as usize;
    bytes.resize(bytes.len() + body, filler);
    bytes
}

/// Something of valid shape that stands at one of the limits, or just beyond.
pub(super) fn at_a_limit(chance: &mut SmallRng) -> Vec<u8> {
    let beyond = chance.random_range(0..=1usize);
    let handle = 1;
    match chance.random_range(0..6) {
        0 => {
            // The meta part's length is one byte before the body.
            let body = vec![7; MESSAGE_BYTES_MAX as usize - 1 + beyond];
            let records = Records::encode([&Message::new(body)]);
            bytes_of(&Frame::Publish { handle, sequence: 1, durability: None, records })
        }
        1 => {
            let message = Message::new(vec![7; MESSAGE_BYTES_MAX as usize / 2]);
            let count = 2 * (FRAME_BYTES_MAX / MESSAGE_BYTES_MAX) as usize - 1 + beyond;
            let records = Records::encode(std::iter::repeat_n(&message, count));
            bytes_of(&Frame::Publish { handle, sequence: 1, durability: None, records })
        }
        2 => {
            let tags = TagRange { first: Tag(1), last: Tag(u64::MAX) };
            let settlement = Settlement { tags, verdict: Verdict::Touch };
            let settlements = vec![settlement; SETTLEMENTS_MAX as usize + beyond];
            bytes_of(&Frame::Settle { handle, request: 1, settlements })
        }
        3 => {
            let longest = TopicName::new(&format!("attack.{}", "n".repeat(57))).expect("a name");
            let mut bytes = bytes_of(&Frame::OpenProducer {
                handle,
                topic: longest,
                name: None,
                epoch: None,
                seat: None,
            });
            if beyond > 0 {
                // Length, type and handle; then the name's length, and the name.
                bytes[0] += 1;
                bytes[6] += 1;
                bytes.insert(7, b'n');
            }
            bytes
        }
        4 => {
            let total = Credit { messages: 2500 + beyond as u64, bytes: u64::MAX };
            bytes_of(&Frame::Credit { handle, total })
        }
        _ => {
            let mut hello = hello();
            hello.client = "c".repeat(FRAME_BYTES_MIN as usize - 100 + 100 * beyond);
            bytes_of(&Frame::Hello(hello))
        }
    }
}
