//! Promises 1, 2, 3, 4, 6, 7, 8 and 12, and that delivery goes on, in simulations of whole brokers.

use ltq_tests::sim;

/// Which seeds: `LTQ_SIM_SEEDS=FROM..TO`, or the first five hundred.
fn seeds() -> std::ops::Range<u64> {
    let Ok(named) = std::env::var("LTQ_SIM_SEEDS") else { return 1..501 };
    let parsed =
        named.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("LTQ_SIM_SEEDS is {named:?}; it looks like 1..501"))
}

#[test]
fn promises_hold_whatever_happens_to_node_network_and_disk() {
    for seed in seeds() {
        let played = sim::run(seed);
        assert!(
            played.broken.is_empty(),
            "seed {seed}: {:#?}\nSee what happened with\n  cargo run -p ltq-tests --bin ltq-sim -- \
             --from {seed} --trace",
            played.broken
        );
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] {
        let (once, again) = (sim::run(seed).trace(), sim::run(seed).trace());
        let differs = once.lines().zip(again.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(once.len(), again.len(), "seed {seed}");
    }
    assert_ne!(sim::run(1).trace(), sim::run(2).trace());
}
