//! Many seeds on all processors, and what to tell of the first that breaks a promise.

use std::{
    collections::BTreeSet,
    env, fmt,
    num::NonZero,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use thiserror::Error;

use crate::{
    played::{Difference, Played},
    simulation::Simulation,
    stores::Stores,
    violation::Rule,
};

/// The seeds that `LTQ_SIM_SEEDS=FROM..BEHIND` asks for, or else these: so that one test plays some
/// hundreds each day, others for as long as there is time, and one again that failed.
///
/// # Errors
/// [`SeedsError`] when the variable is set to anything else, or to no seed at all.
pub fn seeds(or_else: Range<u64>) -> Result<Range<u64>, SeedsError> {
    match env::var(VARIABLE) {
        Ok(text) => parse(&text),
        Err(env::VarError::NotPresent) => Ok(or_else),
        Err(env::VarError::NotUnicode(text)) => Err(SeedsError(text.to_string_lossy().into())),
    }
}

pub(crate) fn parse(text: &str) -> Result<Range<u64>, SeedsError> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, behind)| Some(from.parse().ok()?..behind.parse().ok()?));
    let some = parsed.filter(|seeds: &Range<u64>| !seeds.is_empty());
    some.ok_or_else(|| SeedsError(text.to_owned()))
}

/// The variable that names seeds does not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("LTQ_SIM_SEEDS is {0:?}; it looks like 1..501, which is 1 and up to 500")]
pub struct SeedsError(
    /// What it is.
    pub String,
);

impl<S: Stores> Simulation<S> {
    /// Plays seeds on all processors until one of them breaks a promise, and then looks for the least
    /// of it that does. One in fifty is played twice, and has to be the same both times.
    ///
    /// # Errors
    /// [`Failure`] for the first seed, of all these, that breaks one or is not the same. As an error of a test it says what,
    /// who takes part, how it ends, and how to have it again.
    ///
    /// # Panics
    /// As [`play`](Self::play).
    pub fn play_all(&self, seeds: Range<u64>) -> Result<Summary, Failure> {
        play_all(self, seeds)
    }
}

/// What seeds are played of.
pub(crate) trait Plays: Sync {
    /// Plays a seed without some of those that take part in it.
    fn play_part(&self, seed: u64, left_out: &BTreeSet<String>) -> Played;

    /// The names of who takes part in a seed and can be left out, those first that are left out first.
    fn names(&self, seed: u64) -> Vec<String>;
}

/// Plays seeds on all processors until one of them breaks a promise.
pub(crate) fn play_all(of: &impl Plays, seeds: Range<u64>) -> Result<Summary, Failure> {
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let summary = Mutex::new(Summary { seeds: 0, simulated: Duration::ZERO });
    let first: Mutex<Option<Found>> = Mutex::new(None);
    let play = |seed| of.play_part(seed, &BTreeSet::new());
    let work = || {
        while !stop.load(Relaxed) {
            let taken =
                next.fetch_update(Relaxed, Relaxed, |seed| (seed < seeds.end).then_some(seed + 1));
            let Ok(seed) = taken else { return };
            let played = play(seed);
            let is_twice = (seed - seeds.start).is_multiple_of(TWICE_ONE_IN);
            let differs = if is_twice { played.difference(&play(seed)) } else { None };
            if played.broken.is_empty() && differs.is_none() {
                let mut summary = summary.lock();
                summary.seeds += 1;
                summary.simulated += played.simulated;
                continue;
            }
            stop.store(true, Relaxed);
            let mut first = first.lock();
            // Those before it were all taken up before it was, and are played to their ends.
            if first.as_ref().is_none_or(|other| seed < other.seed) {
                *first = Some(Found { seed, played, differs });
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    match first.into_inner() {
        None => Ok(summary.into_inner()),
        Some(found) => Err(failure(of, found)),
    }
}

fn failure(of: &impl Plays, Found { seed, played, differs }: Found) -> Failure {
    let again = || of.play_part(seed, &BTreeSet::new());
    let differs = differs.or_else(|| played.difference(&again())).map(Box::new);
    let parts: BTreeSet<_> = of.names(seed).into_iter().collect();
    let (left_out, least) = shrink(of, seed, played);
    let parts = parts.difference(&left_out).cloned().collect();
    Failure { seed, left_out, parts, least: Box::new(least), differs }
}

/// Who may be left out of a seed that was played and breaks something, and it breaks the same still, with
/// what becomes of what is left.
pub(crate) fn shrink(of: &impl Plays, seed: u64, played: Played) -> (BTreeSet<String>, Played) {
    let which = |played: &Played| -> BTreeSet<Rule> {
        played.broken.iter().map(|violation| violation.rule).collect()
    };
    let (mut left_out, mut least) = (BTreeSet::new(), played);
    let wanted = which(&least);
    if wanted.is_empty() {
        return (left_out, least);
    }
    for name in of.names(seed) {
        left_out.insert(name.clone());
        let played = of.play_part(seed, &left_out);
        if which(&played).is_disjoint(&wanted) {
            left_out.remove(&name);
        } else {
            least = played;
        }
    }
    (left_out, least)
}

/// A seed that breaks a promise, or differs.
struct Found {
    seed: u64,
    played: Played,
    differs: Option<Difference>,
}

/// What was played, and kept every promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// How many seeds.
    pub seeds: u64,
    /// How long all of it took, in simulated time.
    pub simulated: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, simulated } = self;
        write!(f, "{seeds} seeds, {} s simulated: every promise kept", simulated.as_secs())
    }
}

/// A seed that breaks a promise, or is not the same a second time. `{}` tells the end of what happened, `{:#}` all of it; `{:?}` is `{}`, for
/// tests that unwrap it or return it.
#[derive(Clone)]
#[non_exhaustive]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Who and what of it takes no part, and the same promise is broken still:
    /// [`play_part`](Simulation::play_part) takes it.
    pub left_out: BTreeSet<String>,
    /// Who and what does.
    pub parts: BTreeSet<String>,
    /// What becomes of it then.
    pub least: Box<Played>,
    /// Where a second play of the whole seed went another way, if it did: then something asks something
    /// else than the seed, and what is told here may not come again. It may be all that is wrong.
    pub differs: Option<Box<Difference>>,
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, left_out, parts, least, differs } = self;
        let broken = &least.broken;
        writeln!(f, "seed {seed}: {} broken", broken.len())?;
        for broken in broken.iter().take(BROKEN_SHOWN) {
            writeln!(f, "  {broken}")?;
        }
        if broken.len() > BROKEN_SHOWN {
            writeln!(f, "  and {} more", broken.len() - BROKEN_SHOWN)?;
        }
        if let Some(differs) = differs {
            writeln!(f, "it is not the same a second time:\n{differs}")?;
        }
        writeln!(f, "who takes part: {}\nand who need not: {}", joined(parts), joined(left_out))?;
        let lines = least.events.len();
        let skipped = if f.alternate() { 0 } else { lines.saturating_sub(EVENTS_SHOWN) };
        match skipped {
            0 => writeln!(f, "what happens:")?,
            _ => writeln!(f, "what happens, the last {} of {lines} events:", lines - skipped)?,
        }
        for event in least.events.iter().skip(skipped) {
            writeln!(f, "{event}")?;
        }
        write!(f, "again: {VARIABLE}={seed}..{} where a program asks ltq_sim::seeds", seed + 1)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn joined(names: &BTreeSet<String>) -> String {
    match names.is_empty() {
        true => "nobody".to_owned(),
        false => names.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// That so many are played twice costs two percent.
const TWICE_ONE_IN: u64 = 50;
const VARIABLE: &str = "LTQ_SIM_SEEDS";
/// One mistake mostly breaks a promise for many messages.
const BROKEN_SHOWN: usize = 5;
/// About a screen.
const EVENTS_SHOWN: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_told_as_a_range_with_something_in_it() {
        assert_eq!(parse("7..9"), Ok(7..9));
        for text in ["", "7", "7..", "..9", "7..7", "9..7", "7..=9", "a..b", "-1..3"] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
