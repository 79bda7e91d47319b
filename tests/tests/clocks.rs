//! Heartbeats and deadlines of a stream, on a clock that the test moves.

use std::time::Duration;

use ltq_core::{BrokerSettings, RefusalCode, protocol::Frame};
use ltq_tests::{Local, RawPeer, Served};
use tokio::time::Instant;

const HEARTBEAT: Duration = Duration::from_secs(15);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Waits for the broker to give the peer up, and returns what it says then.
async fn goodbye(peer: &mut RawPeer) -> String {
    loop {
        match peer.any().await {
            Some(Frame::Ping { .. }) => {}
            Some(Frame::Goodbye { refusal }) => {
                assert_eq!(refusal.code, RefusalCode::PeerTimeout);
                return refusal.detail;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_broker_says_something_within_every_heartbeat() {
    let local = Local::start(Served::settings()).await;
    let mut peer = local.peer().await;
    let mut last = Instant::now();
    for round in 0..40 {
        // Answers at odd moments, so that the broker's own words fall anywhere between two pings.
        let frame = peer.any().await;
        let quiet = last.elapsed();
        assert!(quiet <= HEARTBEAT, "nothing for {quiet:?} in round {round}, then {frame:?}");
        last = Instant::now();
        match frame {
            Some(Frame::Ping { nonce }) => {
                peer.send(Frame::Pong { nonce }).await;
                if round % 3 == 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    peer.send(Frame::Ping { nonce }).await;
                }
            }
            Some(Frame::Pong { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_between_three_and_four_heartbeats() {
    let local = Local::start(Served::settings()).await;
    let mut peer = local.peer().await;
    let began = Instant::now();
    let goodbye = goodbye(&mut peer).await;
    assert!(goodbye.contains("nothing was heard"), "{goodbye}");
    let after = began.elapsed();
    assert!(after >= HEARTBEAT * 3 && after <= HEARTBEAT * 4, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_lives_for_hours() {
    let local = Local::start(Served::settings()).await;
    let mut peer = local.peer().await;
    let began = Instant::now();
    while began.elapsed() < seconds(2 * 3600) {
        match peer.any().await {
            Some(Frame::Ping { nonce }) => peer.send(Frame::Pong { nonce }).await,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_does_not_come_is_waited_for_as_long_as_is_set() {
    for hello_timeout in [seconds(5), seconds(40)] {
        let local = Local::start(BrokerSettings { hello_timeout, ..Served::settings() }).await;
        let mut peer = local.connect().await;
        let began = Instant::now();
        // A hello that trickles in is not one that came.
        peer.send_bytes(&[40, 0, 0, 0, 1]).await.expect("sent");
        let goodbye = tokio::time::timeout(seconds(60), peer.any()).await.expect("a goodbye");
        assert!(
            matches!(&goodbye, Some(Frame::Goodbye { refusal }) if refusal.code == RefusalCode::PeerTimeout),
            "{goodbye:?}"
        );
        assert_eq!(began.elapsed().as_secs(), hello_timeout.as_secs());
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_is_waited_for_no_longer_than_the_stall_timeout_and_one_tick() {
    let local = Local::start(Served::settings()).await;
    let mut peer = local.peer().await;
    let began = Instant::now();
    peer.send_bytes(&[100, 0, 0, 0, 19, 1]).await.expect("sent");
    let goodbye = goodbye(&mut peer).await;
    assert!(goodbye.contains("frame"), "{goodbye}");
    let after = began.elapsed();
    assert!(after >= seconds(30) && after <= seconds(45), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn the_longest_durations_that_can_be_set_are_harmless() {
    let longest = seconds(24 * 3600);
    let settings = BrokerSettings {
        hello_timeout: longest,
        heartbeat: longest,
        stall_timeout: longest,
        ..Served::settings()
    };
    let local = Local::start(settings).await;
    let mut peer = local.peer().await;
    assert!(matches!(peer.any().await, Some(Frame::Ping { .. })));
    for setting in ["hello_timeout", "heartbeat", "stall_timeout"] {
        let mut bad = Served::settings();
        let field = match setting {
            "hello_timeout" => &mut bad.hello_timeout,
            "heartbeat" => &mut bad.heartbeat,
            _ => &mut bad.stall_timeout,
        };
        *field = Duration::MAX;
        assert_eq!(bad.check().expect_err("too long").setting, setting);
    }
}
