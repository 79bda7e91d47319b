use proptest::prelude::*;

use super::*;
use crate::{
    rules::ConnectionId,
    wire::{Farewell, MAGIC, NotStored, PROTOCOL},
};

fn all() -> Vec<(Say, Bytes)> {
    let id = ConnectionId { dialer: u64::MAX, attempt: 7 };
    let hello = Say::Hello {
        magic: MAGIC,
        version: PROTOCOL,
        mesh: "mesh".to_owned(),
        from: "a".repeat(64),
        to: "b".repeat(64),
        id,
        after: Some(id),
        token: Some("t".repeat(1_024)),
    };
    let resume = Say::Resume {
        inbox: u64::MAX,
        stored: 7,
        messages_max: 1_024,
        bytes_max: 1 << 20,
        message_bytes_max: 5_000,
        patience_ms: 10_000,
    };
    let control = [
        hello,
        Say::Welcome { instance: 9 },
        resume,
        Say::Stored { through: 3 },
        Say::NotStored { number: 4, why: NotStored::Rejected("no".to_owned()) },
        Say::Heard { number: 4 },
        Say::Ping,
        Say::Pong,
        Say::Goodbye { why: Farewell::Stopping, detail: "x".repeat(1_024) },
    ];
    let message = |number, bytes| (Say::Message { number }, Bytes::from(vec![7; bytes]));
    let messages = [message(1, 0), message(u64::MAX, 5), message(3, 5_000)];
    control.into_iter().map(|say| (say, Bytes::new())).chain(messages).collect()
}

fn bytes_of(say: &Say, body: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode(say, body.len(), &mut bytes).expect("a frame");
    bytes.put_slice(body);
    bytes
}

#[test]
fn frames_come_out_as_they_went_in_whatever_the_pieces() {
    let mut bytes = BytesMut::new();
    all().iter().for_each(|(say, body)| bytes.put_slice(&bytes_of(say, body)));
    let (mut received, mut decoded) = (BytesMut::new(), Vec::new());
    for byte in bytes {
        received.put_u8(byte);
        while let Some(frame) = decode(&mut received, Some(5_000)).expect("frames") {
            decoded.push(frame);
        }
    }
    assert_eq!(decoded, all());
    assert!(received.is_empty());
}

#[test]
fn promise_9_what_is_too_long_is_refused_before_memory_is_taken() {
    let mut huge = BytesMut::new();
    huge.put_u32_le(u32::MAX);
    let max = 5_000 + MESSAGE_HEADER_BYTES;
    let bytes = u32::MAX as usize;
    assert_eq!(decode(&mut huge, Some(5_000)), Err(WireError::TooLong { bytes, max }));
    // A frame that is no message is refused by its first byte.
    let mut long = BytesMut::new();
    long.put_u32_le(4_999);
    assert_eq!(decode(&mut long, Some(5_000)), Ok(None));
    long.put_u8(1);
    let (bytes, max) = (4_999, CONTROL_BYTES_MAX);
    assert_eq!(decode(&mut long, Some(5_000)), Err(WireError::TooLong { bytes, max }));
    let mut body = bytes_of(&Say::Message { number: 1 }, &[0; 101]);
    assert_eq!(decode(&mut body, Some(100)), Err(WireError::TooLong { bytes: 101, max: 100 }));
    let words = Say::Goodbye { why: Farewell::Full, detail: "x".repeat(CONTROL_BYTES_MAX) };
    let mut into = BytesMut::new();
    assert!(matches!(encode(&words, 0, &mut into), Err(WireError::TooLong { .. })));
    assert!(into.is_empty());
}

#[test]
fn what_is_behind_a_frame_is_a_body_only_of_a_message_and_only_once_messages_are_taken() {
    let mut ping = bytes_of(&Say::Ping, b"more");
    assert_eq!(decode(&mut ping, Some(100)), Err(WireError::Behind(4)));
    let mut early = bytes_of(&Say::Message { number: 1 }, b"body");
    assert_eq!(decode(&mut early, None), Err(WireError::Behind(4)));
    assert_eq!(bytes_of(&Say::Message { number: 0 }, b"")[LENGTH_BYTES], MESSAGE);
}

proptest! {
    #[test]
    fn any_bytes_are_frames_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for max in [None, Some(100)] {
            let mut bytes = BytesMut::from(&bytes[..]);
            while let Ok(Some((_, body))) = decode(&mut bytes, max) {
                prop_assert!(body.len() <= max.unwrap_or(0));
            }
        }
    }
}
