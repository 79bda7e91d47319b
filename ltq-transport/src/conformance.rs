//! The tests that every transport has to pass (feature `conformance`).
//!
//! Each case is one promise of the contract in [`ltq_core::Transport`] and its neighbours. Say how
//! to make the transport and an address to listen on, and mount every case as a test of its own:
//!
//! ```
//! use ltq_core::Address;
//! use ltq_transport::{InProcess, conformance::Harness};
//!
//! fn harness() -> Harness {
//!     Harness::new(InProcess::new(), || Address::new("in-process", "conformance"))
//! }
//! # #[cfg(test)]
//! mod my_transport_conforms {
//!     ltq_transport::conformance_tests!(super::harness());
//! }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! // Or run them all and look at the report.
//! let report = ltq_transport::conformance::run_all(&harness()).await;
//! assert!(report.is_ok(), "{report}");
//! # })
//! ```
//!
//! No case sleeps and every wait has a deadline, so a transport that hangs fails by name. A case
//! that does not apply is reported as skipped, with the reason.

mod cases;
mod ends;
mod harness;
mod pattern;
mod report;
mod trial;

use std::{fmt, panic::resume_unwind, time::Duration};

use futures::future::BoxFuture;

use trial::{CaseResult, Stop, Trial};

pub use harness::Harness;
pub use report::{Outcome, Report};

/// One test of the suite.
pub struct Case {
    name: &'static str,
    promise: &'static str,
    run: fn(Trial) -> BoxFuture<'static, CaseResult>,
}

impl Case {
    /// Its name, which is the name of the test that [`conformance_tests`](crate::conformance_tests)
    /// mounts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it checks, in a sentence.
    #[must_use]
    pub const fn promise(&self) -> &'static str {
        self.promise
    }

    /// Runs it, on a tokio runtime with time enabled. A panic of the transport is a failure.
    pub async fn run(&self, harness: &Harness) -> Outcome {
        let trial = Trial::new(harness.clone());
        match tokio::spawn((self.run)(trial)).await {
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

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All cases, in the order in which they are run.
#[must_use]
pub fn cases() -> &'static [Case] {
    cases::ALL
}

/// Runs all cases, one after another, whatever becomes of the ones before.
pub async fn run_all(harness: &Harness) -> Report {
    let mut report = Report::default();
    for case in cases() {
        report.add(case, case.run(harness).await);
    }
    report
}

/// Runs one case on a runtime of its own, for [`conformance_tests`](crate::conformance_tests).
///
/// # Panics
/// When the case fails, or there is none of this name.
#[doc(hidden)]
pub fn run_mounted(name: &str, harness: impl FnOnce() -> Harness) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => resume_unwind(Box::new(format!("no runtime for the test: {error}"))),
    };
    let outcome = runtime.block_on(async {
        match cases().iter().find(|case| case.name == name) {
            Some(case) => case.run(&harness()).await,
            None => Outcome::Failed("there is no such case".to_owned()),
        }
    });
    // A transport's lookup in a system library may hang on.
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

/// Mounts every case of the suite as a `#[test]` of its own, in the module where it stands. The
/// argument makes a [`Harness`](crate::conformance::Harness); it is evaluated within a tokio
/// runtime, once per test.
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr) => {
        $crate::__conformance_tests! { $harness;
            bytes_keep_their_order_both_ways
            one_big_write_arrives_whole
            single_bytes_arrive
            empty_slices_are_nothing
            many_slices_go_as_one
            heavy_traffic_both_ways_does_not_deadlock
            a_receive_takes_no_more_than_it_was_told
            a_pending_receive_leaves_the_buffer_alone
            a_half_close_ends_one_direction
            a_finished_stream_takes_no_more
            a_finished_stream_survives_being_dropped
            a_peer_that_does_not_read_stops_the_sender
            every_piece_wakes_its_reader
            the_newest_waker_is_woken_for_bytes
            the_newest_waker_is_woken_for_room
            an_end_wakes_a_waiting_reader
            halves_move_between_tasks
            a_cut_is_seen_and_stays
            a_dropped_accept_loses_no_connection
            a_dropped_connect_harms_nobody
            a_dropped_open_uses_nothing_up
            a_multiplexed_connection_carries_many_streams
            streams_keep_their_bytes_apart
            a_stalled_stream_stops_no_other
            streams_are_accepted_in_the_order_of_opening
            a_cut_stream_leaves_the_others
            the_end_of_a_stream_ends_no_other
            streams_come_and_go
            streams_at_once_are_bounded
            dropped_opens_and_accepts_lose_no_stream
            streams_outlive_what_gave_them_out
            who_waits_for_a_stream_learns_of_the_end
            a_connection_of_one_stream_says_so
            many_connections_work_at_once
            a_dropped_listener_leaves_its_connections
            a_connection_that_waits_is_cut_with_its_listener
            the_listeners_address_can_be_connected_to
            connecting_to_nobody_fails
            an_address_of_another_kind_is_refused
            an_unknown_host_is_an_error
            peers_are_named
        }
    };
}

/// The inside of [`conformance_tests`].
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($harness:expr; $($name:ident)*) => {
        $(#[test]
        fn $name() {
            $crate::conformance::run_mounted(stringify!($name), || $harness);
        })*

        #[test]
        fn every_case_is_mounted() {
            let mounted = [$(stringify!($name)),*];
            let cases = $crate::conformance::cases();
            assert!(cases.iter().map(|case| case.name()).eq(mounted));
        }
    };
}
