use std::time::Duration;

use super::*;
use crate::{Monotonic, Tag};

fn run(first: u64, end: u64) -> Run {
    Run::new(Offset(first), Offset(end))
}

fn back(first: u64, end: u64, attempt: u32) -> Returned {
    Returned { run: run(first, end), attempt }
}

fn now(monotonic_ms: u64, wall: u64) -> Now {
    Now { monotonic: Monotonic(monotonic_ms * 1_000), wall: Timestamp(wall) }
}

fn name() -> ChannelName {
    ChannelName::new("c").unwrap()
}

fn bounds(first: u64, end: u64) -> Bounds {
    Bounds { first: Offset(first), end: Offset(end) }
}

/// Start 10, floor 20; acked 22..24; delayed 24..26 (twice, until 500 ms); due 20..22 (once);
/// in flight 26..30 (thrice); cursor 30.
fn channel() -> Channel {
    let mut channel = Channel::new(name(), Offset(10));
    (channel.floor, channel.cursor, channel.damaged) = (Offset(20), Offset(30), 3);
    channel.done.insert(run(22, 24));
    channel.redelivery.delay(back(24, 26, 2), Monotonic(500_000));
    channel.redelivery.give_back(back(20, 22, 1));
    let long = Duration::from_secs(1);
    channel.in_flight.deliver(0, Tag(1), back(26, 28, 3), Monotonic(0), long);
    channel.in_flight.deliver(1, Tag(1), back(28, 30, 3), Monotonic(0), long);
    channel.check(Offset(30));
    channel
}

fn restore(value: &[u8], bounds: Bounds, now: Now) -> Result<Channel, RestoreError> {
    decode_channel(name(), b"k", value, bounds, &ModelSettings::default(), now)
}

#[test]
fn promise_12_and_14_a_channel_comes_back() {
    let value = encode_channel(&channel(), now(100, 1_000));
    let back_again = restore(&value, bounds(20, 35), now(7, 1_150)).unwrap();
    back_again.check(Offset(35));
    let delayed: Vec<_> = back_again.redelivery.delayed().collect();
    assert_eq!(delayed, [(back(24, 26, 2), Monotonic(257_000))], "400 ms less the 150 passed");
    let due: Vec<_> = back_again.redelivery.due().collect();
    assert_eq!(due, [back(20, 22, 1), back(26, 30, 3)]);
    let stats = back_again.stats(Offset(35));
    assert_eq!((stats.acked, stats.damaged, stats.delayed, stats.waiting), (9, 3, 2, 11));

    let late = restore(&value, bounds(20, 35), now(7, 9_000)).unwrap();
    assert_eq!(late.redelivery.delayed_messages(), 0);
    let stepped_back = restore(&value, bounds(20, 35), now(0, 0)).unwrap();
    assert_eq!(stepped_back.next_deadline(), Some(Monotonic(1_400_000)));
}

#[test]
fn a_log_that_came_back_shorter_is_followed() {
    let value = encode_channel(&channel(), now(100, 1_000));
    for end in [0, 5, 10, 15, 20, 21, 23, 25, 27, 30, 40] {
        let channel = restore(&value, bounds(0, end), now(0, 0)).unwrap();
        channel.check(Offset(end));
    }
}

#[test]
fn nonsense_is_refused_and_never_panics() {
    let value = encode_channel(&channel(), now(100, 1_000));
    assert!(matches!(
        restore(&[], bounds(0, 35), now(0, 0)).unwrap_err(),
        RestoreError::Version { found: 0, .. }
    ));
    assert!(matches!(
        restore(&[9, 1], bounds(0, 35), now(0, 0)).unwrap_err(),
        RestoreError::Version { found: 9, .. }
    ));
    for at in 0..value.len() {
        let _ = restore(&value[..at], bounds(0, 35), now(0, 0));
        for flip in 1..=255u8 {
            let mut bad = value.to_vec();
            bad[at] ^= flip;
            if let Ok(channel) = restore(&bad, bounds(0, 35), now(0, 0)) {
                channel.check(Offset(35));
            }
        }
    }
}
