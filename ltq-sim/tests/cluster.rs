//! Promises 1, 2, 5, 6, 8, 13, 15 and 16 in simulations of whole clusters.

use std::{error::Error, ops::Range};

use ltq_sim::{ClusterSimulation, SeedsError};

/// Which seeds: `LTQ_SIM_SEEDS=FROM..BEHIND`, or the first ones.
fn seeds() -> Result<Range<u64>, SeedsError> {
    ltq_sim::seeds(1..51)
}

#[test]
fn promises_hold_whatever_happens_to_nodes_registries_and_network() -> Result<(), Box<dyn Error>> {
    let played = ClusterSimulation::new().play_all(seeds()?);
    let played = played.inspect_err(|failure| {
        let left_out: Vec<_> = failure.left_out.iter().map(String::as_str).collect();
        let without = match left_out.is_empty() {
            true => String::new(),
            false => format!(" --without {}", left_out.join(",")),
        };
        let (seed, behind) = (failure.seed, failure.seed + 1);
        eprintln!("cargo run -p ltq-sim -- cluster --seeds {seed}..{behind} --trace{without}");
    })?;
    println!("{played}");
    Ok(())
}

#[test]
fn the_same_seed_is_the_same_history_and_another_seed_another_one() {
    let simulation = ClusterSimulation::new();
    for seed in [2, 5, 11] {
        let (once, again) = (simulation.play(seed), simulation.play(seed));
        assert_eq!(once.difference(&again), None, "seed {seed}");
        assert_eq!(once.trace(), again.trace(), "seed {seed}");
    }
    assert_ne!(simulation.play(2).trace(), simulation.play(5).trace());
}
