//! The cases, by what they are about.

mod addresses;
mod bytes;
mod cancellation;
mod connections;
mod endings;
mod streams;
mod waking;

use super::{Case, trial::Trial};

macro_rules! cases {
    ($($module:ident::$name:ident: $promise:literal,)*) => {
        &[$(Case::new(stringify!($name), $promise, |harness| {
            Box::pin($module::$name(Trial::new(harness)))
        })),*]
    };
}

/// In the order in which a broken transport is best understood.
pub(super) const ALL: &[Case] = cases! {
    bytes::bytes_keep_their_order_both_ways:
        "Bytes arrive once, in order and unchanged, in pieces of any size.",
    bytes::one_big_write_arrives_whole: "8 MiB offered at once arrive.",
    bytes::single_bytes_arrive: "Bytes sent and received one by one arrive.",
    bytes::empty_slices_are_nothing:
        "Empty slices are taken as 0 bytes at once, and are no hindrance among others.",
    bytes::many_slices_go_as_one:
        "Thousands of slices in one call are sent in order, some of them per call.",
    bytes::heavy_traffic_both_ways_does_not_deadlock:
        "Both directions move at once, each at its own pace.",
    bytes::a_receive_takes_no_more_than_it_was_told:
        "A receive appends at most `max` bytes, and refuses a `max` of 0.",
    bytes::a_pending_receive_leaves_the_buffer_alone:
        "A receive that waits neither changes nor enlarges the buffer, and can be given up.",
    endings::a_half_close_ends_one_direction:
        "After a finish the peer reads the rest and the end, and can still answer.",
    endings::a_finished_stream_takes_no_more:
        "After a finish sending fails, and finishing again does not.",
    endings::a_finished_stream_survives_being_dropped:
        "What was sent and finished arrives though the sender drops everything.",
    endings::a_peer_that_does_not_read_stops_the_sender:
        "A sender waits within a bound, and goes on when the peer reads.",
    waking::every_piece_wakes_its_reader: "A reader that waits learns of each piece.",
    waking::the_newest_waker_is_woken_for_bytes:
        "The task of the newest receive is woken, and no earlier one is relied on.",
    waking::the_newest_waker_is_woken_for_room:
        "The task of the newest send is woken, and no earlier one is relied on.",
    waking::an_end_wakes_a_waiting_reader: "A reader that waits learns of a finish and of a cut.",
    waking::halves_move_between_tasks: "Either half may be polled from one task after another.",
    endings::a_cut_is_seen_and_stays:
        "A peer that drops everything is noticed; what came is right, and nothing comes after.",
    cancellation::a_dropped_accept_loses_no_connection:
        "A dropped accept takes no connection with it.",
    cancellation::a_dropped_connect_harms_nobody:
        "Connects that are given up do not keep others from connecting.",
    cancellation::a_dropped_open_uses_nothing_up:
        "A dropped open_stream or accept_stream takes no stream with it.",
    connections::a_multiplexed_connection_carries_many_streams:
        "Streams of one connection are independent, also when one is not read.",
    streams::streams_keep_their_bytes_apart:
        "Streams of one connection carry their own bytes, all at once and in pieces of any size.",
    streams::a_stalled_stream_stops_no_other:
        "While one stream is not read, megabytes pass on others; then it goes on.",
    streams::streams_are_accepted_in_the_order_of_opening:
        "Streams are accepted in the order in which the peer opened them.",
    streams::a_cut_stream_leaves_the_others:
        "A stream that is dropped unfinished ends alone.",
    streams::the_end_of_a_stream_ends_no_other:
        "A finish ends one direction of one stream.",
    streams::streams_come_and_go:
        "A connection outlasts more streams than it may have at once.",
    streams::streams_at_once_are_bounded:
        "Beyond the bound that the harness names nothing opens, until streams have ended.",
    streams::dropped_opens_and_accepts_lose_no_stream:
        "Calls that are given up neither use up a stream nor take one with them.",
    streams::streams_outlive_what_gave_them_out:
        "Streams live on without their connections and their listener.",
    streams::who_waits_for_a_stream_learns_of_the_end:
        "A peer that is gone ends the wait for its streams.",
    connections::a_connection_of_one_stream_says_so:
        "Without multiplexing, every stream but the one is refused at once.",
    connections::many_connections_work_at_once: "200 connections are open and used at once.",
    connections::a_dropped_listener_leaves_its_connections:
        "Connections live on without their listener.",
    connections::a_connection_that_waits_is_cut_with_its_listener:
        "A connection that was not accepted ends when its listener is dropped.",
    addresses::the_listeners_address_can_be_connected_to:
        "A listener's address is whole: written, read back and connected to.",
    addresses::connecting_to_nobody_fails: "Where nobody listens, connecting fails.",
    addresses::an_address_of_another_kind_is_refused:
        "Foreign and malformed addresses are refused as such.",
    addresses::an_unknown_host_is_an_error: "A host that does not exist is an error.",
    addresses::peers_are_named: "Both sides name their peer by an address of their scheme.",
};
