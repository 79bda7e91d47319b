//! What the conformance suites are made of that try a contract case by case (feature `conformance`): those of
//! transports and of discovery schemes, and any of yours.
//!
//! A suite is a list of [`Case`]s over its own harness, the thing under trial and what has to be known of it. A
//! case is an async function that ends in a [`CaseResult`]; whoever writes one uses [`ensure`], [`worked`] and
//! their like. [`mount_cases`](crate::mount_cases) makes a `#[test]` of each.
mod case;
mod mounting;
mod report;
mod verdict;

pub use case::{Case, run_all};
pub use mounting::run_mounted;
pub use report::{Outcome, Report};
pub use verdict::{CaseResult, Stop, ensure, fail, poll_once, skip, worked};
