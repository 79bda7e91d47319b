//! What came out.

use std::fmt;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The promise was kept.
    Passed,
    /// It was not: why.
    Failed(String),
    /// It does not apply to what is tried: why.
    Skipped(String),
}

/// How all cases ended. Prints one line for each, and the sums.
#[derive(Clone, Debug, Default)]
pub struct Report {
    cases: Vec<(&'static str, Outcome)>,
}

impl Report {
    /// A further case ended.
    pub fn add(&mut self, case: &'static str, outcome: Outcome) {
        self.cases.push((case, outcome));
    }

    /// Whether no case failed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.failed().next().is_none()
    }

    /// All cases by name, in the order in which they were run.
    #[must_use]
    pub fn cases(&self) -> &[(&'static str, Outcome)] {
        &self.cases
    }

    /// Names of the cases that passed.
    pub fn passed(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.cases.iter().filter(|(_, o)| *o == Outcome::Passed).map(|(name, _)| *name)
    }

    /// Names of the cases that failed, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&'static str, &str)> + '_ {
        self.cases.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Failed(why) => Some((*name, &**why)),
            Outcome::Passed | Outcome::Skipped(_) => None,
        })
    }

    /// Names of the cases that were skipped, and why.
    pub fn skipped(&self) -> impl Iterator<Item = (&'static str, &str)> + '_ {
        self.cases.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Skipped(why) => Some((*name, &**why)),
            Outcome::Passed | Outcome::Failed(_) => None,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, outcome) in &self.cases {
            match outcome {
                Outcome::Passed => writeln!(f, "passed   {name}")?,
                Outcome::Failed(why) => writeln!(f, "FAILED   {name}: {why}")?,
                Outcome::Skipped(why) => writeln!(f, "skipped  {name}: {why}")?,
            }
        }
        let (passed, failed) = (self.passed().count(), self.failed().count());
        write!(f, "{passed} passed, {failed} failed, {} skipped", self.skipped().count())
    }
}
