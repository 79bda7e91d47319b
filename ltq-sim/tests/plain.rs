//! Promises 1 to 4, 6, 7, 9 and 11 to 16 in histories of the model over the file store's own engine, on
//! a disk that loses its power at any operation: no runtime, no task, no thread, only a loop.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what is wrong with a test is to be seen at once"
)]

#[path = "plain/store.rs"]
mod store;

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use ltq_core::model::histories::{RealStore, play_seed};

use self::store::StoreInHand;

/// As many as are played when nobody says which.
const SEEDS: Range<u64> = 1..SEEDS_BEHIND;
const SEEDS_BEHIND: u64 = 1_501;

/// Which seeds: `LTQ_PLAIN_SEEDS=FROM..BEHIND`, on all processors, or on `LTQ_PLAIN_THREADS`.
#[test]
fn promises_1_to_4_6_7_9_and_11_to_16_hold_over_a_disk_that_stops_anywhere() {
    let seeds = std::env::var("LTQ_PLAIN_SEEDS").map_or(SEEDS, |range| {
        let (from, behind) = range.split_once("..").expect("FROM..BEHIND");
        from.parse().expect("a number")..behind.parse().expect("a number")
    });
    assert!(!seeds.is_empty(), "there is no seed in {seeds:?}");
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = std::env::var("LTQ_PLAIN_THREADS");
    let threads = threads.map_or_else(|_| all(), |count| count.parse().expect("a number"));
    let next = AtomicU64::new(seeds.start);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds.end {
                return None;
            }
            let make = || -> Box<dyn RealStore> { Box::new(StoreInHand::new(seed)) };
            if let Err(report) = play_seed(seed, &again(seed), Some(&make)) {
                next.store(seeds.end, Relaxed);
                return Some(report);
            }
        }
    };
    let broken: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("a thread")).collect()
    });
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

fn again(seed: u64) -> String {
    format!("LTQ_PLAIN_SEEDS={seed}..{} cargo test -p ltq-sim --test plain", seed + 1)
}
