//! As many histories as `LTQ_HISTORY_SEEDS=FROM..BEHIND` names, and those that something was found in.

mod regressions;

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use proptest::strategy::ValueTree;

use super::{made, play_seed, played};

/// As many as are played when nobody says which.
const SEEDS: Range<u64> = 1..18_001;

#[test]
fn promises_1_to_4_6_to_9_and_11_to_16_hold_through_any_history() {
    let seeds = std::env::var("LTQ_HISTORY_SEEDS").map_or(SEEDS, |range| {
        let (from, behind) = range.split_once("..").expect("FROM..BEHIND");
        from.parse().expect("a number")..behind.parse().expect("a number")
    });
    assert!(!seeds.is_empty(), "there is no seed in {seeds:?}");
    let next = AtomicU64::new(seeds.start);
    let broken: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Relaxed);
                if seed >= seeds.end {
                    return None;
                }
                if let Err(report) = play_seed(seed, &again(seed), None) {
                    next.store(seeds.end, Relaxed);
                    return Some(report);
                }
            }
        };
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

fn again(seed: u64) -> String {
    let behind = seed + 1;
    format!("LTQ_HISTORY_SEEDS={seed}..{behind} cargo test -p ltq-core --lib any_history")
}

#[test]
fn the_same_seed_makes_the_same_history_and_another_another() {
    let words = |seed| played(&made(seed).1.current(), None).1.all();
    assert_eq!(words(1), words(1));
    assert!(words(1) != words(2) && words(1).len() > 10);
}
