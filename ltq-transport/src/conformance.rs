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
mod trial;

pub use ltq_core::conformance::{Outcome, Report};

pub use harness::Harness;

/// One test of the suite.
pub type Case = ltq_core::conformance::Case<Harness>;

/// All cases, in the order in which they are run.
#[must_use]
pub fn cases() -> &'static [Case] {
    cases::ALL
}

/// Runs all cases, one after another, whatever becomes of the ones before, on a tokio runtime with time enabled.
pub async fn run_all(harness: &Harness) -> Report {
    ltq_core::conformance::run_all(cases(), || std::future::ready(harness.clone())).await
}

/// For [`conformance_tests`](crate::conformance_tests).
#[doc(hidden)]
pub use ltq_core::mount_cases;

/// Mounts every case of the suite as a `#[test]` of its own, in the module where it stands. The
/// argument makes a [`Harness`](crate::conformance::Harness); it is evaluated within a tokio
/// runtime, once per test.
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr) => {
        $crate::conformance::mount_cases! { $crate::conformance::cases(), async { $harness };
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
