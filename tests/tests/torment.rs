//! A cluster of real processes on hosts of their own, in trouble: what was confirmed is consumed, and comes over a
//! bridge, whatever is cut, killed, paused or drained meanwhile, and whatever clocks say. The same for a mesh.
//! `ltq-cluster-torment` does both for longer.
#![cfg(target_os = "linux")]

use std::{io::Write as _, time::Duration};

use ltq_tests::torment::{self, Plan, Setting, TormentError};

/// Past the capture of what tests print.
fn say(words: &str) {
    std::io::stderr().write_all(format!("{words}\n").as_bytes()).expect("said");
}

async fn torment(setting: Setting, seed: u64, seconds: u64) {
    let plan = Plan {
        setting,
        over: None,
        seed,
        lasts: Duration::from_secs(seconds),
        fault_max: Duration::from_secs(3),
        worker: env!("CARGO_BIN_EXE_ltq-cluster-torment").into(),
        rate: 25,
        tells: true,
        keeps: false,
    };
    if !torment::has_clocks() {
        assert!(std::env::var_os("REQUIRE_FAKETIME").is_none(), "there is no libfaketime");
        say("steps of clocks are skipped: there is no libfaketime; see scripts/faketime.sh");
    }
    match torment::run(&plan).await {
        Ok(account) => println!("{account}"),
        Err(TormentError::Unavailable(why)) => say(&format!("skipped: {why}")),
        Err(error) => panic!("{setting:?}, seed {seed}: {error}"),
    }
}

// One after the other: each takes both processors now and then.
#[tokio::test(flavor = "multi_thread")]
async fn promises_1_2_5_6_and_14_hold_for_a_cluster_and_a_mesh_in_trouble() {
    for seed in 1..=3 {
        torment(Setting::Cluster, seed, 30).await;
    }
    torment(Setting::Mesh, 1, 25).await;
}
