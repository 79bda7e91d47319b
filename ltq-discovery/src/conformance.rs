//! The tests that every discovery scheme has to pass (feature `conformance`).
//!
//! Each case is one promise of the contract in [`Discovery`](crate::Discovery) and its neighbours. Say
//! how to make the scheme, with a backend that nobody else uses, and mount every case as a test of its
//! own:
//!
//! ```
//! use ltq_discovery::{StaticList, conformance::Harness};
//!
//! async fn harness() -> Harness {
//!     let list: StaticList = "tcp://10.0.0.1:7440, tcp://10.0.0.2:7440".parse().unwrap();
//!     Harness::new(list)
//! }
//! # #[cfg(test)]
//! mod my_scheme_conforms {
//!     ltq_discovery::discovery_conformance_tests!(super::harness());
//! }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! // Or run them all and look at the report.
//! let report = ltq_discovery::conformance::run_all(|| Box::pin(harness())).await;
//! assert!(report.is_ok(), "{report}");
//! # })
//! ```
//!
//! Every wait has a deadline, so that a scheme that hangs fails by name. A case that does not apply is
//! reported as skipped, with the reason.

mod announcing;
mod harness;
mod sight;
mod trial;
mod watching;

use futures::future::BoxFuture;
pub use ltq_core::conformance::{Outcome, Report};

use trial::Trial;

pub use harness::{Backend, Harness};

/// One test of the suite.
pub type Case = ltq_core::conformance::Case<Harness>;

macro_rules! cases {
    ($($module:ident::$name:ident: $promise:literal)*) => {
        /// All cases, in the order in which they are run.
        #[must_use]
        pub fn cases() -> &'static [Case] {
            const ALL: &[Case] = &[$(Case::new(stringify!($name), $promise, |harness| {
                Box::pin($module::$name(Trial::new(harness)))
            })),*];
            ALL
        }
    };
}

cases! {
    watching::the_first_set_is_given_at_once: "the first call gives the nodes as they are"
    watching::nothing_new_is_waited_for: "a later call waits while nothing differs"
    watching::a_dropped_call_loses_no_set: "a call that is given up loses nothing"
    watching::a_watch_of_a_topic_leaves_others_out: "nodes that lack the topic are not told of"
    watching::topics_that_differ_in_case_alone_are_two: "Orders and orders are two topics"
    watching::a_watch_of_nodes_tells_no_topics: "who asks for the nodes alone is told of nothing else"
    watching::a_watch_of_a_topic_tells_no_other: "a node is told of with the topic of interest alone"
    watching::a_node_of_unknown_topics_is_in_every_watch: "a node may have what it does not name"
    watching::programs_of_a_mesh_are_told_to_their_mesh_alone: "who looks for brokers finds no programs, and programs find their own mesh"
    watching::all_watches_hear_the_same: "watches do not take from each other"
    announcing::an_announced_node_is_found: "an announced node is told of as it was announced"
    announcing::who_tells_topics_says_so: "clients know whether to wait for word of topics"
    announcing::topics_that_came_are_told: "an update tells what is different now"
    announcing::topics_that_went_are_told: "a topic that is gone from a node takes it out of its watches"
    announcing::a_draining_node_is_told_and_marked: "draining nodes are among the others, marked so"
    announcing::the_last_of_quick_updates_counts: "of several quick updates the last one counts"
    announcing::an_update_for_another_id_is_refused: "the id must be the announced one"
    announcing::a_withdrawn_node_is_gone: "a node that is withdrawn is told of no more"
    announcing::a_dropped_announcement_withdraws: "dropping an announcement withdraws its node"
    announcing::a_later_announcement_takes_the_place: "of two announcements under one id the later one counts"
    announcing::the_end_of_an_earlier_announcement_harms_no_later_one: "what was replaced withdraws nothing"
    announcing::many_nodes_are_all_told_of: "no node is lost among many that change at once"
    sight::losing_sight_takes_no_node_away: "the last set stays in force until the backend says otherwise"
    sight::what_changed_out_of_sight_is_told_afterwards: "nothing is missed by losing sight"
    sight::an_announcement_comes_through_an_outage: "an announced node is found when the backend is back"
}

/// Runs all cases, one after another, each on a harness of its own, whatever becomes of the ones before, on a
/// tokio runtime with time enabled.
pub async fn run_all(harness: impl Fn() -> BoxFuture<'static, Harness>) -> Report {
    ltq_core::conformance::run_all(cases(), harness).await
}

/// For [`discovery_conformance_tests`](crate::discovery_conformance_tests).
#[doc(hidden)]
pub use ltq_core::mount_cases;

/// Mounts every case of the suite as a `#[test]` of its own, in the module where it stands. The
/// argument is a future of a [`Harness`](crate::conformance::Harness); it is awaited within a tokio
/// runtime, once per test.
#[macro_export]
macro_rules! discovery_conformance_tests {
    ($harness:expr) => {
        $crate::conformance::mount_cases! { $crate::conformance::cases(), $harness;
            the_first_set_is_given_at_once
            nothing_new_is_waited_for
            a_dropped_call_loses_no_set
            a_watch_of_a_topic_leaves_others_out
            topics_that_differ_in_case_alone_are_two
            a_watch_of_nodes_tells_no_topics
            a_watch_of_a_topic_tells_no_other
            a_node_of_unknown_topics_is_in_every_watch
            programs_of_a_mesh_are_told_to_their_mesh_alone
            all_watches_hear_the_same
            an_announced_node_is_found
            who_tells_topics_says_so
            topics_that_came_are_told
            topics_that_went_are_told
            a_draining_node_is_told_and_marked
            the_last_of_quick_updates_counts
            an_update_for_another_id_is_refused
            a_withdrawn_node_is_gone
            a_dropped_announcement_withdraws
            a_later_announcement_takes_the_place
            the_end_of_an_earlier_announcement_harms_no_later_one
            many_nodes_are_all_told_of
            losing_sight_takes_no_node_away
            what_changed_out_of_sight_is_told_afterwards
            an_announcement_comes_through_an_outage
        }
    };
}
