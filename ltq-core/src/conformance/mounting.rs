//! Cases as tests.

use std::{panic::resume_unwind, time::Duration};

use super::{Case, Outcome};

/// Runs one case of a suite on a runtime of its own, for [`mount_cases`](crate::mount_cases).
///
/// # Panics
/// When the case fails, or there is none of this name.
pub fn run_mounted<H, F: Future<Output = H>>(
    cases: &'static [Case<H>],
    name: &str,
    harness: impl FnOnce() -> F,
) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => resume_unwind(Box::new(format!("no runtime for the test: {error}"))),
    };
    let outcome = runtime.block_on(async {
        match cases.iter().find(|case| case.name() == name) {
            Some(case) => case.run(harness().await).await,
            None => Outcome::Failed("there is no such case".to_owned()),
        }
    });
    // A lookup in a system library may hang on.
    runtime.shutdown_timeout(Duration::from_secs(1));
    report_mounted(name, &outcome);
}

#[expect(clippy::panic, clippy::print_stdout, reason = "a test fails and tells in no other way")]
fn report_mounted(name: &str, outcome: &Outcome) {
    match outcome {
        Outcome::Passed => {}
        Outcome::Skipped(why) => println!("{name} was skipped: {why}"),
        Outcome::Failed(why) => panic!("{name}: {why}"),
    }
}

/// Mounts cases as tests of their names, in the module where it stands: `mount_cases!(cases(), harness; one two)`.
/// The second argument is a future of a harness; it is awaited within a tokio runtime, once per test. A further
/// test checks that every case is named.
#[macro_export]
macro_rules! mount_cases {
    ($cases:expr, $harness:expr; $($name:ident)*) => {
        $(#[test]
        fn $name() {
            $crate::conformance::run_mounted($cases, stringify!($name), || $harness);
        })*

        #[test]
        fn every_case_is_mounted() {
            let mounted = [$(stringify!($name)),*];
            assert!($cases.iter().map(|case| case.name()).eq(mounted));
        }
    };
}
