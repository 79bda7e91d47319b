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

use std::{collections::BTreeSet, time::Duration};

use ltq_tests::attacker::{Bound, Kind, Siege};

#[tokio::test(flavor = "multi_thread")]
async fn promises_4_9_10_and_11_hold_under_attack() {
    let seed = variable("LTQ_ATTACK_SEED").unwrap_or(1);
    let asked = variable("LTQ_ATTACKS");
    let per_second = variable("LTQ_ATTACKS_PER_SECOND").and_then(|it| u32::try_from(it).ok());
    let (calm, bound) = (Duration::from_secs(2), Bound::TenTimesAtBest);
    let usual = Siege { attacks: 2_000, at_once: 48, per_second: None, seed, calm, bound };
    if asked.is_some() || per_second.is_some() {
        let attacks = asked.unwrap_or(2_000);
        let calm = Duration::from_secs(if attacks > 10_000 { 20 } else { 2 });
        let bound = Bound::Twice;
        return hold(Siege { attacks, per_second, calm, bound, ..usual }).await;
    }
    hold(usual.clone()).await;
    // At a pace that leaves most of two slow processors to the node and its honest clients.
    let (per_second, calm) = (Some(PER_SECOND), Duration::from_secs(6));
    hold(Siege { attacks: 2_400, per_second, seed: seed + 1, calm, ..usual }).await;
}

async fn hold(siege: Siege) {
    let folder = tempfile::tempdir().expect("a folder");
    let report = siege.run(folder.path()).await.expect("a node to attack");
    println!("{report}");
    report.check();
    let carried_out: BTreeSet<_> = report.tally.by_kind.into_keys().collect();
    assert_eq!(carried_out, Kind::ALL.map(|(kind, _)| kind).into(), "each kind has its turn");
    assert!(report.tally.unmet < siege.attacks / 10, "the attackers met the node");
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

/// Attacks that begin in a second.
const PER_SECOND: u32 = 80;
