//! Promises 9 and 10 on a real node with hostile peers of every kind, and honest ones among them.
//!
//! ```text
//! LTQ_ATTACKS=100000 cargo test --release -p ltq-tests --test attacks -- --nocapture
//! ```
//!
//! `LTQ_ATTACK_SEED` is another seed than 1, which a failure names. `LTQ_ATTACKS_PER_SECOND` holds the attackers
//! back, so that what honest clients wait for is the node and not the attackers' own work.
#![cfg(target_os = "linux")]

use std::{collections::BTreeSet, time::Duration};

use ltq_tests::attacker::{Kind, Siege};

#[tokio::test(flavor = "multi_thread")]
async fn promises_4_9_10_and_11_hold_under_attack() {
    let attacks = variable("LTQ_ATTACKS").unwrap_or(2_000);
    let siege = Siege {
        attacks,
        at_once: 48,
        per_second: variable("LTQ_ATTACKS_PER_SECOND").and_then(|it| u32::try_from(it).ok()),
        seed: variable("LTQ_ATTACK_SEED").unwrap_or(1),
        calm: Duration::from_secs(if attacks > 10_000 { 20 } else { 2 }),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let report = siege.run(folder.path()).await.expect("a node to attack");
    println!("{report}");
    report.check();
    let carried_out: BTreeSet<_> = report.tally.by_kind.into_keys().collect();
    assert_eq!(carried_out, Kind::ALL.map(|(kind, _)| kind).into(), "each kind has its turn");
    assert!(report.tally.unmet < attacks / 10, "the attackers met the node");
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}
