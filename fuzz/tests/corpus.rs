//! Every target over its corpus, and over changes to it.
//!
//! `LTQ_FUZZ_SECONDS` is how long each is tried with changes made by chance, 2 unless it is set;
//! `LTQ_FUZZ_SEED` is another seed than 1. `scripts/fuzz.sh` finds more, as it sees which code an
//! input reaches.

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ltq_fuzz::{TARGETS, Target};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{folder:?} holds nothing");
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a file"))).collect()
}

/// Runs a target, and says which input it failed on.
fn run(target: Target, what: &str, input: &[u8]) {
    if catch_unwind(|| target(input)).is_err() {
        panic!("{what} fails: {}", input.escape_ascii());
    }
}

fn changed(chance: &mut SmallRng, inputs: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let pick = |chance: &mut SmallRng| inputs[chance.random_range(0..inputs.len())].1.clone();
    let mut input = pick(chance);
    for _ in 0..chance.random_range(1..6) {
        let at = chance.random_range(0..=input.len());
        match chance.random_range(0..7) {
            0 if at < input.len() => input[at] ^= 1 << chance.random_range(0..8),
            1 if at < input.len() => input[at] = chance.random(),
            2 if at < input.len() => {
                let end = input.len().min(at + chance.random_range(1..10));
                input.drain(at..end);
            }
            3 => input.insert(at, chance.random()),
            4 => {
                let ends = [0, 1, 0x7f, 0x80, 0xff];
                let byte = ends[chance.random_range(0..ends.len())];
                input.splice(at..at, std::iter::repeat_n(byte, chance.random_range(1..12)));
            }
            5 => {
                // One input's beginning, and another's end.
                let other = pick(chance);
                let from = chance.random_range(0..=other.len());
                input.truncate(at);
                input.extend(&other[from..]);
            }
            _ => input.truncate(at.max(1)),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn stands(name: &str) {
    let (_, target) = *TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let inputs = corpus(name);
    for (path, input) in &inputs {
        run(target, &path.display().to_string(), input);
    }
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let time = Duration::from_secs(number("LTQ_FUZZ_SECONDS").unwrap_or(2));
    let seed = number("LTQ_FUZZ_SEED").unwrap_or(1);
    let mut chance = SmallRng::seed_from_u64(seed);
    let (begin, mut runs) = (Instant::now(), 0_u64);
    while begin.elapsed() < time {
        let input = changed(&mut chance, &inputs);
        run(target, &format!("change {runs} of seed {seed}"), &input);
        runs += 1;
    }
    println!("{name}: {} inputs of the corpus, and {runs} changes of them", inputs.len());
}

#[test]
fn promise_10_frames_of_any_bytes() {
    stands("decode");
}

#[test]
fn promise_10_hellos_of_any_bytes() {
    stands("hello");
}

#[test]
fn promise_10_streams_on_which_anything_is_done() {
    stands("serve");
}

#[cfg(feature = "config")]
#[test]
fn configurations_of_any_text() {
    stands("config");
}

#[test]
fn the_corpus_is_small() {
    for (name, _) in TARGETS {
        let inputs = corpus(name);
        assert!(inputs.len() <= 60, "{name} has {} files", inputs.len());
        for (path, input) in inputs {
            assert!(input.len() < 1024, "{path:?} has {} bytes", input.len());
        }
    }
}

/// Longer ones find nothing that shorter ones do not.
const INPUT_BYTES_MAX: usize = 4096;
