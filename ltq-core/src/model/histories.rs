//! Long histories of everything that can happen to a topic, watched by a naive one: a plain loop,
//! in which a seed alone decides everything (feature `simulation`).
//!
//! A history plays a topic with its producers, consumers, operators and clocks, and a store: one
//! that it plays itself, which fills, fails, loses or keeps what was under way as the history will
//! have it, or a [`RealStore`]. A history in which a promise is broken is made as short as it can
//! be, and told in words.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what is wrong with a history is to be seen at once"
)]

mod answers;
mod channel;
mod checks;
mod clients;
mod ending;
mod history;
mod oracle;
mod real;
mod saved;
mod scenario;
mod starts;
mod storing;
#[cfg(test)]
mod tests;
mod words;

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::Once,
    time::Duration,
};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

pub use self::{
    real::{Ending, Found, RealStore},
    scenario::Failure,
};

use self::{
    history::History,
    scenario::{Narrow, Scenario, scenario},
    words::Words,
};
use crate::{Credit, model::ModelSettings};

/// Makes a new and empty store for each time that a history is played. The same history does the
/// same to each of them, and has to find the same each time.
pub type RealStores<'a> = &'a dyn Fn() -> Box<dyn RealStore>;

/// Of so many, one is played twice, and has to be the same again.
const TWICE: u64 = 100;
/// A history is made shorter for no longer than that.
const SHRINK_MAX: Duration = Duration::from_secs(90);

/// Plays the history of one seed, over real stores or else over one of its own. `again` is what to
/// type to see it again.
///
/// # Errors
/// When a promise is broken, or the history is not the same a second time (one in 100 is played
/// twice): `again`, the least of the history that does that, and what happened in it, in words.
pub fn play_seed(seed: u64, again: &str, stores: Option<RealStores<'_>>) -> Result<(), String> {
    let again = format!("to see it again: {again}");
    let (mut runner, tree) = made(seed);
    let scenario = tree.current();
    let first = played_quietly(&scenario, None, stores);
    if first.is_ok() && !seed.is_multiple_of(TWICE) {
        return Ok(());
    }
    if first.is_ok() {
        let (one, other) = (played(&scenario, stores).1.all(), played(&scenario, stores).1.all());
        if one == other {
            return Ok(());
        }
        let place = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
        let (one, other) = (one.get(place), other.get(place));
        return Err(format!("{again}\nseed {seed} is not the same twice: {one:?} {other:?}"));
    }
    let small = match runner.run_one(tree, |scenario| {
        let outcome = played_quietly(&scenario, None, stores);
        outcome.map_err(proptest::test_runner::TestCaseError::fail)
    }) {
        Err(TestError::Fail(_, small)) => small,
        _ => scenario,
    };
    let (outcome, words) = played(&small, stores);
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

fn played(scenario: &Scenario, stores: Option<RealStores<'_>>) -> (Result<(), String>, Words) {
    let words = Words::default();
    (played_quietly(scenario, Some(words.clone()), stores), words)
}

/// Plays a history to its end. A promise that is broken is a panic, of which nobody hears but who
/// called this.
fn played_quietly(
    scenario: &Scenario,
    words: Option<Words>,
    stores: Option<RealStores<'_>>,
) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| match QUIET.get() {
            true => WHY.set(panic.to_string()),
            false => usual(panic),
        }));
    });
    QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| play(scenario, words, stores)));
    QUIET.set(false);
    outcome.map_err(|_| WHY.take())
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static WHY: RefCell<String> = const { RefCell::new(String::new()) };
}

fn play(scenario: &Scenario, words: Option<Words>, stores: Option<RealStores<'_>>) {
    let mut history = History::new(scenario, words, stores.map(|make| make()));
    for step in &scenario.steps {
        history.step(step);
    }
    history.drain();
}

/// Small enough that every limit is met, where the scenario asks for it those on counts too.
fn limits(narrow: Narrow) -> ModelSettings {
    let usual = ModelSettings::default();
    ModelSettings {
        channel_runs_max: narrow.runs.unwrap_or(usual.channel_runs_max),
        channels_max: narrow.channels.unwrap_or(usual.channels_max),
        consumers_max: narrow.consumers.unwrap_or(usual.consumers_max),
        producers_known_max: narrow.producers.unwrap_or(usual.producers_known_max),
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
        ..usual
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
