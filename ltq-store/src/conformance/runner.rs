//! Running the cases, one by one or all.

use std::{collections::BTreeSet, fmt, future::Future, pin::Pin, time::Duration};

use ltq_core::Durability;

use super::{
    Clause, Failure, Harness, clauses,
    harness::{Capabilities, Stage},
};

type Run = for<'a> fn(&'a Stage) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// One case of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    group: &'static str,
    name: &'static str,
    needs: Needs,
    run: Run,
}

/// What a case needs beyond the contract's common part.
#[derive(Clone, Copy)]
enum Needs {
    /// Nothing.
    Any,
    /// Data that survive a close.
    Close,
    /// Data that survive a drop, and a store that promises more than memory.
    Drop,
    /// A limit.
    Limit,
}

impl Needs {
    /// Why it cannot be had.
    fn missing(self, capabilities: Capabilities, max: Durability) -> Option<&'static str> {
        match self {
            Self::Close if !capabilities.survives_close => {
                Some("the harness says that nothing survives a close")
            }
            Self::Drop if !capabilities.survives_drop => {
                Some("the harness says that nothing survives a drop")
            }
            Self::Drop if max < Durability::Os => {
                Some("the store promises no more than memory, so that nothing has to survive")
            }
            Self::Limit if capabilities.limit_bytes.is_none() => {
                Some("the harness opens the store without a limit")
            }
            _ => None,
        }
    }
}

impl Case {
    /// Its name, unique in the suite: the promise that it checks.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The part of the contract that it belongs to.
    #[must_use]
    pub const fn group(&self) -> &'static str {
        self.group
    }

    /// Runs it on a harness of its own. A panic and a hang of the store are failures.
    ///
    /// Needs a tokio runtime with its timer; with several threads the cases about concurrency
    /// find more. Dropped half-way, the case goes on in the background until it ends.
    pub async fn run(&self, harness: impl Harness) -> Outcome {
        let Self { needs, run, .. } = *self;
        let trial = tokio::spawn(async move {
            let stage = Stage::new(harness);
            let capabilities = stage.capabilities;
            if let Needs::Drop = needs {
                let max = stage.open().await?.durability_max();
                if let Some(reason) = needs.missing(capabilities, max) {
                    return Ok(Some(reason));
                }
            } else if let Some(reason) = needs.missing(capabilities, Durability::Disk) {
                return Ok(Some(reason));
            }
            run(&stage).await.map(|()| None)
        });
        let stop = trial.abort_handle();
        match tokio::time::timeout(CASE_DURATION_MAX, trial).await {
            Ok(Ok(Ok(None))) => Outcome::Passed,
            Ok(Ok(Ok(Some(reason)))) => Outcome::Skipped(reason),
            Ok(Ok(Err(failure))) => Outcome::Failed(failure),
            Ok(Err(error)) => Outcome::Failed(Failure::new(Clause::Runs, panic_text(error))),
            Err(_) => {
                stop.abort();
                let detail = format!("the case is not through after {CASE_DURATION_MAX:?}");
                Outcome::Failed(Failure::new(Clause::Runs, detail))
            }
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "the case was cancelled".to_owned() };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("with something that is no text"))
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The store keeps this promise.
    Passed,
    /// It could not be tried, for this reason.
    Skipped(&'static str),
    /// The store broke it.
    Failed(Failure),
}

/// How all cases ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each case's name and outcome, in the suite's order.
    pub outcomes: Vec<(&'static str, Outcome)>,
}

impl Report {
    /// The cases that passed.
    pub fn passed(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.outcomes.iter().filter(|(_, o)| *o == Outcome::Passed).map(|(name, _)| *name)
    }

    /// The cases that were skipped, and why.
    pub fn skipped(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.outcomes.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Skipped(reason) => Some((*name, *reason)),
            _ => None,
        })
    }

    /// The cases that failed, and how.
    pub fn failed(&self) -> impl Iterator<Item = (&'static str, &Failure)> + '_ {
        self.outcomes.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Failed(failure) => Some((*name, failure)),
            _ => None,
        })
    }
}

/// One line for each case, and the sums.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, outcome) in &self.outcomes {
            match outcome {
                Outcome::Passed => writeln!(f, "passed   {name}")?,
                Outcome::Skipped(reason) => writeln!(f, "skipped  {name}: {reason}")?,
                Outcome::Failed(failure) => writeln!(f, "FAILED   {name}: {failure}")?,
            }
        }
        let (passed, skipped) = (self.passed().count(), self.skipped().count());
        write!(f, "{passed} passed, {skipped} skipped, {} failed", self.failed().count())
    }
}

/// Runs every case, each on a harness of its own that `harness` makes, and goes on after a
/// failure.
pub async fn run_all<H: Harness>(harness: impl Fn() -> H) -> Report {
    let mut outcomes = Vec::new();
    for case in super::cases() {
        outcomes.push((case.name(), case.run(harness()).await));
    }
    Report { outcomes }
}

/// What a mounted trial calls: a skip that was not declared is a failure, and so is a declared
/// one that was none.
#[doc(hidden)]
pub async fn run_mounted(name: &str, harness: impl Harness, skips: &[&str]) -> Result<(), Failure> {
    let known = super::cases().iter().find(|case| case.name() == name);
    let Some(case) = known else {
        return Err(Failure::new(Clause::Runs, format!("there is no case {name}")));
    };
    match (case.run(harness).await, skips.contains(&name)) {
        (Outcome::Passed, false) | (Outcome::Skipped(_), true) => Ok(()),
        (Outcome::Passed, true) => {
            let detail = format!("{name} is declared as skipped, and ran");
            Err(Failure::new(Clause::Runs, detail))
        }
        (Outcome::Skipped(reason), false) => {
            let detail = format!("{name} was skipped, and `skip` does not declare it: {reason}");
            Err(Failure::new(Clause::Runs, detail))
        }
        (Outcome::Failed(failure), _) => Err(failure),
    }
}

/// Checks that every declared skip names a case.
#[doc(hidden)]
pub fn check_skips(skips: &[&str]) -> Result<(), Failure> {
    let known: BTreeSet<_> = super::cases().iter().map(Case::name).collect();
    match skips.iter().find(|name| !known.contains(**name)) {
        Some(name) => Err(Failure::new(Clause::Runs, format!("`skip`: there is no case {name}"))),
        None => Ok(()),
    }
}

macro_rules! table {
    (() $($group:ident { $($name:ident: $needs:ident,)+ })+) => {
        /// Every case, in order, for runners of your own.
        #[must_use]
        pub fn cases() -> &'static [Case] {
            const CASES: &[Case] = &[$($(Case {
                group: stringify!($group),
                name: stringify!($name),
                needs: Needs::$needs,
                run: |stage| Box::pin(clauses::$group::$name(stage)),
            },)+)+];
            CASES
        }
    };
}
crate::__conformance_cases!([table]());

/// Long enough for a slow device under load; a store that hangs is told from one that is slow.
const CASE_DURATION_MAX: Duration = Duration::from_secs(120);
