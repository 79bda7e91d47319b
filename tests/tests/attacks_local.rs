//! Promises 9 and 10 on a real node whose hostile peers come by the doors that networks have no part in: HTTP, and a
//! Unix socket, as the user that the honest ones there are. Beside them honest clients publish and consume, by HTTP,
//! too.
//!
//! `LTQ_ATTACKS` is how many there are of each, and `LTQ_ATTACK_SEED` another seed than 1, which a failure names.
#![cfg(target_os = "linux")]

use std::time::Duration;

use ltq_tests::attacker::{Arms, Bound, Siege, asked_for};

// One after the other: each takes both processors.
#[tokio::test(flavor = "multi_thread")]
async fn promises_4_9_10_and_11_hold_under_attack_by_http_and_over_a_unix_socket() {
    let seed = asked_for("LTQ_ATTACK_SEED").unwrap_or(1);
    let asked = asked_for("LTQ_ATTACKS");
    let siege = |arms, usual| {
        let attacks = asked.unwrap_or(usual);
        let (calm, bound) = (Duration::from_millis(500), Bound::TenTimesAtBest);
        Siege { arms, attacks, at_once: 48, per_second: None, seed, calm, bound }
    };
    siege(Arms::Http, 300).hold().await;
    let report = siege(Arms::Unix, 500).hold().await;
    assert!(report.refused_by_address > 0, "a user reached its share of connections");
}
