//! A cluster of real processes on hosts of their own, in trouble: what was confirmed is consumed, whatever is cut,
//! killed, paused or drained meanwhile. `ltq-cluster-torment` does the same for longer.
#![cfg(target_os = "linux")]

use std::{io::Write as _, time::Duration};

use ltq_tests::torment::{self, Plan, TormentError};

async fn torment(seed: u64) {
    let plan = Plan {
        seed,
        lasts: Duration::from_secs(30),
        worker: env!("CARGO_BIN_EXE_ltq-cluster-torment").into(),
        rate: 50,
        tells: true,
    };
    match torment::run(&plan).await {
        Ok(account) => println!("{account}"),
        Err(TormentError::Unavailable(why)) => {
            // Past the capture of what tests print.
            let words = format!("skipped: {why}\n");
            std::io::stderr().write_all(words.as_bytes()).expect("said");
        }
        Err(error) => panic!("seed {seed}: {error}"),
    }
}

// One after the other: each takes both processors now and then.
#[tokio::test(flavor = "multi_thread")]
async fn promises_1_2_5_and_6_hold_for_a_cluster_in_trouble() {
    for seed in 1..=4 {
        torment(seed).await;
    }
}
