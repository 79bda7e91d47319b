//! The suite finds what is wrong: transports that are broken in one way each, and the case that
//! names it.
#![expect(clippy::panic, clippy::expect_used, reason = "a test that finds no such case panics")]

#[cfg(test)]
mod broken;

use std::time::Duration;

use broken::{
    Broken, Fault,
    streams::{BrokenStreams, StreamFault},
};
use ltq_core::Address;
use ltq_transport::conformance::{self, Harness, Outcome};

fn harness(fault: Fault) -> Harness {
    Harness::new(Broken::new(fault), || Address::new("in-process", "bites"))
        .buffered_bytes_max(1 << 20)
        .unknown_host(Address::new("in-process", "nobody"))
}

fn harness_of_streams(fault: StreamFault) -> Harness {
    // The links beneath open 1,024.
    let max = if fault == StreamFault::OpensMoreThanItSays { 10 } else { 1024 };
    Harness::new(BrokenStreams::new(fault), || Address::new("in-process", "bites"))
        .buffered_bytes_max(1 << 20)
        .streams_max(max)
}

/// The case fails, and for the reason that the fault gives.
async fn bites(fault: Fault, case: &str, why: &str) {
    fails(harness(fault), case, why).await;
}

async fn bites_streams(fault: StreamFault, case: &str, why: &str) {
    fails(harness_of_streams(fault), case, why).await;
}

async fn fails(mut harness: Harness, case: &str, why: &str) {
    let case = conformance::cases().iter().find(|found| found.name() == case).expect(case);
    if why.starts_with("in vain") {
        harness = harness.patience(Duration::from_secs(2));
    }
    match case.run(harness).await {
        Outcome::Failed(found) => assert!(found.contains(why), "{found:?} is not {why:?}"),
        other => panic!("{} ended as {other:?}", case.name()),
    }
}

macro_rules! bites {
    ($bites:ident $faults:ident $($test:ident: $fault:ident => $case:ident, $why:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            $bites($faults::$fault, stringify!($case), $why).await;
        }
    )*};
}

bites! { bites_streams StreamFault
    crossed_streams: CrossesStreams => streams_keep_their_bytes_apart,
        "is not the one that was sent";
    one_window_for_all_streams: SharesOneWindow => a_stalled_stream_stops_no_other,
        "in vain for poll_send";
    the_newest_stream_accepted_first: AcceptsNewestFirst =>
        streams_are_accepted_in_the_order_of_opening, "where stream 0 was expected";
    a_cut_of_all_with_one: CutsAllWithOne => a_cut_stream_leaves_the_others, "poll_send failed";
    an_end_of_all_with_one: FinishesAllWithOne => the_end_of_a_stream_ends_no_other,
        "the end came";
    places_that_stay_taken: LeavesPlacesTaken => streams_come_and_go, "in vain for open_stream";
    a_place_that_does_not_come_back: LeavesPlacesTaken => streams_at_once_are_bounded,
        "in vain for open_stream";
    more_streams_than_it_says: OpensMoreThanItSays => streams_at_once_are_bounded,
        "more than 10 streams";
    an_open_of_many_that_is_not_cancel_safe: LosesOpened =>
        dropped_opens_and_accepts_lose_no_stream, "poll_recv failed";
    an_accept_of_streams_that_is_not_cancel_safe: LosesAccepted =>
        dropped_opens_and_accepts_lose_no_stream, "poll_send failed";
    streams_that_end_with_their_connection: ClosesWithItsConnection =>
        streams_outlive_what_gave_them_out, "poll_send failed";
    a_wait_without_an_end: WaitsForEver => who_waits_for_a_stream_learns_of_the_end,
        "in vain for accept_stream";
}

bites! { bites Fault
    a_lost_byte: LosesAByte => bytes_keep_their_order_both_ways, "is not the one that was sent";
    swapped_bytes: SwapsBytes => bytes_keep_their_order_both_ways, "is not the one that was sent";
    taking_more_than_offered: TakesMoreThanOffered => one_big_write_arrives_whole,
        "poll_send took";
    saying_more_than_it_took: SaysMoreThanItTook => one_big_write_arrives_whole,
        "is not the one that was sent";
    only_the_first_slice_seen: SeesOnlyTheFirstSlice => empty_slices_are_nothing,
        "took none of";
    slices_beyond_a_limit_dropped: DropsSlicesBeyondALimit => many_slices_go_as_one,
        "in vain for poll_recv";
    no_reading_while_sending_waits: ReadsOnlyWhileItCanSend =>
        heavy_traffic_both_ways_does_not_deadlock, "in vain for poll_recv";
    more_than_max: IgnoresMax => a_receive_takes_no_more_than_it_was_told, "of at most";
    room_taken_while_pending: ReservesWhilePending => a_pending_receive_leaves_the_buffer_alone,
        "changed the buffer";
    a_swallowed_finish: SwallowsFinish => a_half_close_ends_one_direction, "in vain for poll_recv";
    a_finish_after_which_all_goes_on: SwallowsFinish => a_finished_stream_takes_no_more,
        "sending on a finished stream gave Ok";
    a_finish_of_both_directions: FinishesBothWays => a_half_close_ends_one_direction,
        "the end came";
    a_finish_that_is_lost_on_drop: SwallowsFinish => a_finished_stream_survives_being_dropped,
        "poll_recv failed";
    an_unbounded_buffer: BuffersWithoutBound => a_peer_that_does_not_read_stops_the_sender,
        "though nobody reads";
    a_lost_wakeup: WakesNobody => every_piece_wakes_its_reader, "in vain for poll_recv";
    a_lost_wakeup_at_the_end: WakesNobody => an_end_wakes_a_waiting_reader,
        "in vain for the reader";
    the_first_waker_kept: WakesTheFirst => the_newest_waker_is_woken_for_bytes,
        "in vain for the newest task";
    the_first_sender_kept: WakesTheFirst => the_newest_waker_is_woken_for_room,
        "in vain for the newest task";
    wakers_that_stay_with_the_first_task: WakesTheFirst => halves_move_between_tasks,
        "in vain for poll_";
    a_drop_that_nobody_notices: LeaksWhatIsDropped => a_cut_is_seen_and_stays,
        "in vain for poll_recv";
    bytes_made_up_after_a_cut: MakesBytesUpAfterACut => a_cut_is_seen_and_stays,
        "is not the one that was sent";
    a_cut_forgotten: ForgetsTheCut => a_cut_is_seen_and_stays, "Ok(0) came after an error";
    an_accept_that_is_not_cancel_safe: LosesAccepted => a_dropped_accept_loses_no_connection,
        "in vain for accept";
    a_connect_that_is_not_cancel_safe: LocksWhileConnecting => a_dropped_connect_harms_nobody,
        "in vain for connect";
    a_hundred_connections_and_no_more: AcceptsAHundred => many_connections_work_at_once,
        "in vain for accept";
    connections_cut_with_their_listener: CutsWithItsListener =>
        a_dropped_listener_leaves_its_connections, "accepting a stream failed";
    a_listener_that_nobody_sees_go: LeaksWhatIsDropped =>
        a_connection_that_waits_is_cut_with_its_listener, "in vain for poll_recv";
    an_unknown_host_that_is_met: MeetsNobody => an_unknown_host_is_an_error, "gave Ok";
    an_open_that_is_not_cancel_safe: LosesOpened => a_dropped_open_uses_nothing_up,
        "opening a stream failed";
    a_second_stream_that_hangs: HangsOnASecondStream => a_connection_of_one_stream_says_so,
        "in vain for a second open_stream";
    multiplexing_claimed: ClaimsToMultiplex => a_multiplexed_connection_carries_many_streams,
        "opening a stream failed";
    an_address_of_somewhere_else: NamesAnotherAddress => the_listeners_address_can_be_connected_to,
        "connecting failed";
    nobody_met: MeetsNobody => connecting_to_nobody_fails, "where nobody listens, succeeded";
    foreign_schemes_taken: TakesForeignSchemes => an_address_of_another_kind_is_refused,
        "no-such-scheme";
    a_peer_without_a_scheme: MisnamesItsPeer => peers_are_named, "is not of in-process";
    a_panic: Panics => single_bytes_arrive, "panicked: a broken transport";
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrapper_itself_breaks_nothing() {
    let report = conformance::run_all(&harness(Fault::None)).await;
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.passed().count() + report.skipped().count(), conformance::cases().len());
    let report = conformance::run_all(&harness_of_streams(StreamFault::None)).await;
    assert!(report.is_ok(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_tells_all_and_goes_on_after_a_failure() {
    let harness = harness(Fault::IgnoresMax).patience(Duration::from_secs(1));
    let report = conformance::run_all(&harness).await;
    assert_eq!(report.cases().len(), conformance::cases().len());
    assert!(!report.is_ok());
    let failed: Vec<_> = report.failed().map(|(name, _)| name).collect();
    assert!(failed.contains(&"a_receive_takes_no_more_than_it_was_told"), "{failed:?}");
    assert!(report.passed().any(|name| name == "connecting_to_nobody_fails"));
    let skipped: Vec<_> = report.skipped().collect();
    assert!(skipped.contains(&(
        "a_multiplexed_connection_carries_many_streams",
        "a connection of this transport carries one stream"
    )));
    let text = report.to_string();
    assert!(text.contains("FAILED   a_receive_takes_no_more_than_it_was_told: "), "{text}");
    assert!(text.ends_with(&format!(
        "{} passed, {} failed, {} skipped",
        report.passed().count(),
        failed.len(),
        skipped.len()
    )));
}

#[tokio::test]
async fn what_does_not_apply_is_skipped_with_its_reason() {
    let skips = [
        ("a_multiplexed_connection_carries_many_streams", Fault::None),
        ("a_connection_of_one_stream_says_so", Fault::ClaimsToMultiplex),
    ];
    for (name, fault) in skips {
        let case = conformance::cases().iter().find(|case| case.name() == name).unwrap();
        assert!(matches!(case.run(harness(fault)).await, Outcome::Skipped(_)), "{name}");
    }
}
