//! Promises 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 15 and 16 in simulations of whole brokers.

use std::{error::Error, ops::Range};

use ltq_sim::{SeedsError, Simulation};

/// Which seeds: `LTQ_SIM_SEEDS=FROM..BEHIND`, or the first five hundred.
fn seeds() -> Result<Range<u64>, SeedsError> {
    ltq_sim::seeds(1..501)
}

#[test]
fn promises_hold_whatever_happens_to_node_network_and_disk() -> Result<(), Box<dyn Error>> {
    let played = Simulation::new().play_all(seeds()?);
    let played = played.inspect_err(|failure| {
        let left_out: Vec<_> = failure.left_out.iter().map(String::as_str).collect();
        let without = match left_out.is_empty() {
            true => String::new(),
            false => format!(" --without {}", left_out.join(",")),
        };
        eprintln!("cargo run -p ltq-sim -- --from {} --trace{without}", failure.seed);
    })?;
    println!("{played}");
    Ok(())
}

/// That the same seed is the same history is seen where one in fifty of them is played twice.
#[test]
fn another_seed_is_another_history() {
    let simulation = Simulation::new();
    assert_ne!(simulation.play(1).trace(), simulation.play(2).trace());
}
