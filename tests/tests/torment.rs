//! A cluster of real processes on hosts of their own, in trouble: what was confirmed is consumed, and comes over a
//! bridge, whatever is cut, killed, paused or drained meanwhile, and whatever clocks say. The same for a mesh.
//! `ltq-cluster-torment` does both for longer.
#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ltq_tests::{
    require, skipped,
    torment::{self, Account, Plan, Setting, TormentError},
};

/// `None` where it is skipped.
async fn torment(
    setting: Setting,
    seed: u64,
    seconds: u64,
    forgotten_after: u32,
) -> Option<Account> {
    let plan = Plan {
        setting,
        over: None,
        seed,
        lasts: Duration::from_secs(seconds),
        fault_max: Duration::from_secs(3),
        forgotten_after,
        worker: env!("CARGO_BIN_EXE_ltq-cluster-torment").into(),
        rate: 25,
        tells: true,
        keeps: false,
    };
    match torment::run(&plan).await {
        Ok(account) => {
            println!("{account}");
            Some(account)
        }
        Err(TormentError::Unavailable(why)) => {
            skipped(require::NAMESPACES, &format!("torment of a {setting:?}"), &why);
            None
        }
        Err(error) => panic!("{setting:?}, seed {seed}: {error}"),
    }
}

// One after the other: each takes both processors now and then.
#[tokio::test(flavor = "multi_thread")]
async fn promises_1_2_5_6_and_14_hold_for_a_cluster_and_a_mesh_in_trouble() {
    if !torment::has_clocks() {
        let why = "there is no libfaketime; see scripts/faketime.sh";
        skipped(require::FAKETIME, "steps of clocks", &why);
    }
    if !torment::has_devices() {
        skipped(require::MOUNTS, "full devices of nodes", &"mounting is not allowed here");
    }
    if !torment::has_disks() {
        let why = "there may be no disk of zram; see scripts/permitted.sh";
        skipped(require::DISKS, "a device that refuses writes", &why);
    }
    let (mut used, mut runs) = (BTreeMap::<String, u64>::new(), 0);
    let mut forgotten = 0;
    // Nodes are only suspected, or forgotten after 1.5 s.
    for (seed, forgotten_after) in [(1, 30), (2, 5), (3, 5)] {
        let account = torment(Setting::Cluster, seed, 30, forgotten_after).await;
        let Some(account) = account else { continue };
        forgotten += account.forgotten;
        runs += 1;
        for (way, count) in account.ways() {
            *used.entry(way.clone()).or_default() += count;
        }
    }
    if runs > 0 {
        assert!(forgotten > 0, "no node was forgotten");
        let unused: BTreeSet<_> = torment::ways().filter(|way| !used.contains_key(way)).collect();
        assert!(unused.is_empty(), "no message went {unused:?}, only {used:?}");
    }
    torment(Setting::Mesh, 1, 25, 30).await;
}
