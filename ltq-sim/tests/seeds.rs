//! Promises 1, 2, 3, 4, 6, 7, 8, 9, 12, 13, 14, 15 and 16 in simulations of whole brokers.
#![expect(clippy::panic, reason = "a test fails and tells in no other way")]

use ltq_sim::{Played, Simulation};

/// Which seeds: `LTQ_SIM_SEEDS=FROM..BEHIND`, or the first five hundred.
fn seeds() -> std::ops::Range<u64> {
    let Ok(named) = std::env::var("LTQ_SIM_SEEDS") else { return 1..501 };
    let parsed =
        named.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    let parsed = parsed.filter(|seeds: &std::ops::Range<u64>| !seeds.is_empty());
    parsed.unwrap_or_else(|| panic!("LTQ_SIM_SEEDS is {named:?}; it looks like 1..501"))
}

fn kept(simulation: &Simulation, seed: u64, played: &Played) {
    if played.broken.is_empty() {
        return;
    }
    let left_out: Vec<_> = simulation.shrink(seed).into_iter().collect();
    let without = match left_out.is_empty() {
        true => String::new(),
        false => format!(" --without {}", left_out.join(",")),
    };
    panic!(
        "seed {seed}: {:#?}\nSee what happens in the least of it that breaks this with\n  cargo run -p \
         ltq-sim -- --from {seed} --trace{without}",
        played.broken
    );
}

/// Each seed is one thread's; all processors play.
#[test]
fn promises_hold_whatever_happens_to_node_network_and_disk() {
    let seeds = seeds();
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let simulation = Simulation::new();
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    kept(&simulation, seed, &simulation.play(seed));
                }
            });
        }
    });
}

#[test]
fn the_same_seed_is_the_same_history() {
    let simulation = Simulation::new();
    for seed in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] {
        let (once, again) = (simulation.play(seed).trace(), simulation.play(seed).trace());
        let differs = once.lines().zip(again.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(once.len(), again.len(), "seed {seed}");
    }
    assert_ne!(simulation.play(1).trace(), simulation.play(2).trace());
}
