//! Promises 9 and 10 on a real node with hostile peers of every kind, and honest ones among them: some
//! thousands as fast as they can, and some thousands at an even pace, at which honest clients can be asked what they
//! waited for.
//!
//! ```text
//! LTQ_ATTACKS=100000 cargo test --release -p ltq-tests --test attacks -- --nocapture
//! ```
//!
//! With `LTQ_ATTACKS` there is one siege of so many; `LTQ_ATTACKS_PER_SECOND` holds the attackers back, so that what
//! honest clients wait for is the node and not the attackers' own work: their p99 is to be at most twice the calm one
//! then. `LTQ_ATTACK_SEED` is another seed than 1, which a failure names.
#![cfg(target_os = "linux")]

use std::time::Duration;

use ltq_tests::attacker::{Arms, Bound, Siege, asked_for};

#[tokio::test(flavor = "multi_thread")]
async fn promises_4_9_10_and_11_hold_under_attack() {
    let seed = asked_for("LTQ_ATTACK_SEED").unwrap_or(1);
    let asked = asked_for("LTQ_ATTACKS");
    let per_second = asked_for("LTQ_ATTACKS_PER_SECOND").and_then(|it| u32::try_from(it).ok());
    let (calm, bound) = (Duration::from_secs(2), Bound::TenTimesAtBest);
    let arms = Arms::Network;
    let usual = Siege { arms, attacks: 2_000, at_once: 48, per_second: None, seed, calm, bound };
    if asked.is_some() || per_second.is_some() {
        let attacks = asked.unwrap_or(2_000);
        let calm = Duration::from_secs(if attacks > 10_000 { 20 } else { 2 });
        let bound = Bound::Twice;
        Siege { attacks, per_second, calm, bound, ..usual }.hold().await;
        return;
    }
    usual.hold().await;
    // At a pace that leaves most of two slow processors to the node and its honest clients.
    let (per_second, calm) = (Some(PER_SECOND), Duration::from_secs(6));
    Siege { attacks: 2_400, per_second, seed: seed + 1, calm, ..usual }.hold().await;
}

/// Attacks that begin in a second.
const PER_SECOND: u32 = 80;
