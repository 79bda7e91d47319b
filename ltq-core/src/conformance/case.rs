//! One test of a suite.

use std::fmt;

use futures::future::BoxFuture;

use super::{CaseResult, Outcome, Report, Stop};

/// One test of a suite whose harness is `H`.
pub struct Case<H> {
    name: &'static str,
    promise: &'static str,
    run: fn(H) -> BoxFuture<'static, CaseResult>,
}

impl<H> Case<H> {
    /// A case by its name, the promise that it checks in a sentence, and what checks it.
    pub const fn new(
        name: &'static str,
        promise: &'static str,
        run: fn(H) -> BoxFuture<'static, CaseResult>,
    ) -> Self {
        Self { name, promise, run }
    }

    /// Its name, which is the name of the test that is mounted for it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it checks, in a sentence.
    #[must_use]
    pub const fn promise(&self) -> &'static str {
        self.promise
    }

    /// Runs it, on a tokio runtime with time enabled. A panic of what is tried is a failure.
    pub async fn run(&self, harness: H) -> Outcome {
        match tokio::spawn((self.run)(harness)).await {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(Stop::Skipped(why))) => Outcome::Skipped(why),
            Ok(Err(Stop::Failed(why))) => Outcome::Failed(why),
            Err(error) => match error.try_into_panic() {
                Err(error) => Outcome::Failed(format!("did not end: {error}")),
                Ok(panic) => {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                    Outcome::Failed(format!("panicked: {}", text.unwrap_or("without a text")))
                }
            },
        }
    }
}

impl<H> fmt::Debug for Case<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Runs all cases, one after another, each on a harness of its own, whatever becomes of the ones before.
pub async fn run_all<H, F: Future<Output = H>>(
    cases: &'static [Case<H>],
    harness: impl Fn() -> F,
) -> Report {
    let mut report = Report::default();
    for case in cases {
        report.add(case.name, case.run(harness().await).await);
    }
    report
}
