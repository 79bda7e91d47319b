//! Long histories of everything that can happen to a topic, watched by a naive one: a plain loop,
//! in which a seed alone decides everything.
//!
//! `LTQ_HISTORY_SEEDS=FROM..BEHIND` plays as many as you like. A history in which a promise is
//! broken is made as short as it can be, and told in words.

mod answers;
mod channel;
mod checks;
mod clients;
mod ending;
mod history;
mod oracle;
mod regressions;
mod saved;
mod scenario;
mod starts;
mod words;

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

use self::{
    history::History,
    scenario::{Scenario, scenario},
    words::Words,
};
use crate::{Credit, model::ModelSettings};

/// As many as are played when nobody says which.
const SEEDS: Range<u64> = 1..18_001;
/// Of so many, one is played twice, and has to be the same again.
const TWICE: u64 = 100;
/// A history is made shorter for no longer than that.
const SHRINK_MAX: Duration = Duration::from_secs(90);

#[test]
fn promises_1_to_4_6_to_9_and_11_to_16_hold_through_any_history() {
    let seeds = std::env::var("LTQ_HISTORY_SEEDS").map_or(SEEDS, |range| {
        let (from, behind) = range.split_once("..").expect("FROM..BEHIND");
        from.parse().expect("a number")..behind.parse().expect("a number")
    });
    let next = AtomicU64::new(seeds.start);
    let broken: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Relaxed);
                if seed >= seeds.end {
                    return None;
                }
                if let Err(report) = check(seed) {
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

#[test]
fn the_same_seed_makes_the_same_history_and_another_another() {
    let words = |seed| played(&made(seed).1.current()).1.all();
    assert_eq!(words(1), words(1));
    assert!(words(1) != words(2) && words(1).len() > 10);
}

/// Plays one seed; when a promise is broken, says how to see it again and what happened.
fn check(seed: u64) -> Result<(), String> {
    let (mut runner, tree) = made(seed);
    let scenario = tree.current();
    let first = played_quietly(&scenario, None);
    if first.is_ok() && !seed.is_multiple_of(TWICE) {
        return Ok(());
    }
    let again = "LTQ_HISTORY_SEEDS";
    let again = format!(
        "to see it again: {again}={seed}..{} cargo test -p ltq-core --lib any_history",
        seed + 1
    );
    if first.is_ok() {
        let (one, other) = (played(&scenario).1.all(), played(&scenario).1.all());
        if one == other {
            return Ok(());
        }
        let place = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
        let (one, other) = (one.get(place), other.get(place));
        return Err(format!("{again}\nseed {seed} is not the same twice: {one:?} {other:?}"));
    }
    let small = match runner.run_one(tree, |scenario| {
        played_quietly(&scenario, None).map_err(proptest::test_runner::TestCaseError::fail)
    }) {
        Err(TestError::Fail(_, small)) => small,
        _ => scenario,
    };
    let (outcome, words) = played(&small);
    let words = words.all().join("\n");
    let why = outcome.err().or_else(|| first.err()).unwrap_or_default();
    Err(format!("{again}\n\n{small:#?}\n\n{words}\n\nseed {seed}: {why}"))
}

/// What a seed makes.
fn made(seed: u64) -> (TestRunner, impl ValueTree<Value = Scenario>) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: u32::MAX,
        max_shrink_time: SHRINK_MAX.as_millis() as u32,
        ..Config::default()
    };
    let chance = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, chance);
    let tree = scenario().new_tree(&mut runner).expect("a history");
    (runner, tree)
}

fn played(scenario: &Scenario) -> (Result<(), String>, Words) {
    let words = Words::default();
    (played_quietly(scenario, Some(words.clone())), words)
}

/// Plays a history to its end. A promise that is broken is a panic, of which nobody hears but who
/// called this.
fn played_quietly(scenario: &Scenario, words: Option<Words>) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| match QUIET.get() {
            true => WHY.set(panic.to_string()),
            false => usual(panic),
        }));
    });
    QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| play(scenario, words)));
    QUIET.set(false);
    outcome.map_err(|_| WHY.take())
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static WHY: RefCell<String> = const { RefCell::new(String::new()) };
}

fn play(scenario: &Scenario, words: Option<Words>) {
    let mut history = History::new(scenario, words);
    for step in &scenario.steps {
        history.step(step);
    }
    history.drain();
}

/// Small enough that every limit is met.
fn limits() -> ModelSettings {
    ModelSettings {
        delivery_timeout: Duration::from_millis(1_000),
        delivery_timeout_max: Duration::from_millis(2_500),
        requeue_delay_max: Duration::from_millis(5_000),
        credit_max: Credit { messages: 20, bytes: 1 << 20 },
        run_messages_max: 4,
        run_bytes_max: 60,
        load_bytes: 256,
        window_bytes: 400,
        commit_publishes_max: 4,
        mark_bytes: 40,
        discard_bytes: 80,
        discard_interval: Duration::from_millis(30),
        ..ModelSettings::default()
    }
}

/// The body that a producer publishes under a sequence: some are larger than any limit on bytes.
fn body(prefix: &str, sequence: u64) -> String {
    let large = if sequence.is_multiple_of(9) { ".".repeat(80) } else { String::new() };
    format!("{prefix}{sequence}{large}")
}

/// The prefix and the sequence of a body.
fn parse(body: &str) -> (&str, u64) {
    let body = body.trim_end_matches('.');
    let at = body.rfind('-').expect("a body of a history") + 1;
    (&body[..at], body[at..].parse().expect("a sequence"))
}
