//! The suite is tested by stores that are known: one that keeps the contract, over reopenings
//! too, and many that each break one promise.

mod faulty;

use std::collections::BTreeSet;

use self::faulty::{Fault, FaultyHarness};
use super::{Clause, Failure, Outcome, cases, run_all};

// The wrapper without a fault: what fails on the others fails by their fault.
crate::conformance!(without_fault, FaultyHarness::new(Fault::None));

/// Each fault is caught by the case that is there for it, and as a breach of the right clause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_caught_by_name() {
    use Clause::*;
    let faults = [
        (Fault::AppliesPartOfABadBatch, "a_bad_change_at_any_place_undoes_the_batch", Atomic),
        (Fault::TruncatesOneTooMany, "what_is_truncated_is_gone_and_nothing_else", Bounds),
        (Fault::TruncatesOneTooFew, "what_is_truncated_is_gone_and_nothing_else", Bounds),
        (Fault::ReadsBelowTheFirst, "what_is_truncated_is_gone_and_nothing_else", Read),
        (Fault::DiscardsNothing, "what_is_discarded_is_gone_and_nothing_else", Discard),
        (Fault::DiscardsOneTooMany, "what_is_discarded_is_gone_and_nothing_else", Discard),
        (Fault::DiscardsOneTooFew, "what_is_discarded_is_gone_and_nothing_else", Discard),
        (Fault::ReadsOverDiscards, "what_is_discarded_is_gone_and_nothing_else", Discard),
        (Fault::ForgetsDiscards, "discards_survive_a_close", Discard),
        (Fault::ForgetsDiscards, "a_discard_survives_a_drop", Discard),
        (Fault::Reorders, "commits_take_effect_in_the_order_of_their_first_poll", Ordered),
        (Fault::ForgetsOnReopening, "everything_survives_a_close", Durable),
        (Fault::ForgetsTheLastCommit, "os_commits_survive_a_drop", Durable),
        (Fault::ForgetsTheLastCommit, "disk_commits_survive_a_drop", Durable),
        (Fault::ForgetsAnEarlierCommit, "what_survives_has_everything_before_it", Ordered),
        (Fault::ForgetsCommitsToMemory, "a_barrier_makes_earlier_commits_survive", Durable),
        (Fault::ForgetsTruncations, "a_truncation_survives_a_drop", Durable),
        (Fault::ForgetsDeletions, "a_deleted_log_stays_deleted_over_a_close", Durable),
        (Fault::ForgetsWhereSlicesBegan, "slices_of_records_survive_a_close", Durable),
        (Fault::ForgetsWhereSlicesBegan, "slices_of_records_survive_a_drop", Durable),
        (Fault::ForgetsTheEndOfEmptyLogs, "everything_survives_a_close", Durable),
        (Fault::ShowsBeforeItIsDurable, "what_shows_early_is_durable_already", Visible),
        (Fault::ClaimsLooseLogsDurable, "a_log_that_is_not_durable_is_never_said_to_be", Honest),
        (
            Fault::ClaimsMoreThanItCan,
            "a_receipt_is_at_least_what_was_asked_and_at_most_what_the_store_can",
            Honest,
        ),
        (
            Fault::ClaimsLessThanAsked,
            "a_receipt_is_at_least_what_was_asked_and_at_most_what_the_store_can",
            Honest,
        ),
        (Fault::KeepsDeletedRecords, "a_deleted_log_leaves_nothing_to_its_successor", Logs),
        (Fault::IgnoresByteLimits, "a_read_keeps_to_the_bytes_asked_for_but_for_one_record", Read),
        (Fault::IgnoresRecordLimits, "a_read_keeps_to_the_records_asked_for", Read),
        (Fault::StartsEarlier, "a_read_starts_exactly_where_asked", Read),
        (Fault::HoldsBackLargeRecords, "large_messages_and_large_batches_come_back", Read),
        (Fault::LeavesAGap, "a_read_crosses_appends", Read),
        (Fault::FlipsABit, "records_come_back_byte_for_byte", Bytes),
        (Fault::GivesOneTime, "every_record_keeps_its_time", Bytes),
        (Fault::AppendsAnywhere, "an_append_elsewhere_than_at_the_end_is_refused", Append),
        (Fault::ChecksNoRules, "keys_and_values_out_of_bounds_are_invalid", Rules),
        (Fault::TriesReadInVain, "a_read_starts_exactly_where_asked", TryRead),
        (Fault::ListsByLength, "logs_are_listed_by_name_with_options_and_bounds", Logs),
        (Fault::LosesPrefixesOfFf, "values_are_listed_by_prefix_in_order", Values),
        (Fault::DeletesByPrefix, "deleting_a_value_leaves_the_others", Values),
        (Fault::ShowsHalf, "a_batch_over_several_logs_shows_at_once", Atomic),
        (Fault::ShowsHalf, "a_dropped_commit_is_whole_or_nothing", Cancellation),
        (Fault::ShowsLate, "a_commit_shows_once_it_has_resolved", Visible),
        (Fault::SearchesTimesAsSorted, "offsets_are_found_where_time_went_back", OffsetAt),
        (Fault::KnowsNoLimit, "a_full_store_says_so_and_changes_nothing", Full),
        (Fault::RefusesAllWhenFull, "what_needs_no_more_room_is_taken_when_full", Full),
        (Fault::AnswersAfterClose, "every_call_after_a_close_says_so", Close),
        (Fault::PanicsAtASecondClose, "closing_twice_is_harmless", Runs),
    ];
    assert_caught(&faults).await;
}

/// Faults of what is waited for; on a paused clock, which a wait takes no time of.
#[tokio::test(start_paused = true)]
async fn every_fault_of_time_is_caught_by_name() {
    let faults = [
        (Fault::StaysFull, "truncating_makes_room", Clause::Full),
        (Fault::NeverGivesBackMemory, "memory_is_given_back", Clause::Stats),
        (Fault::NeverResolves, "a_log_is_made_once", Clause::Runs),
    ];
    assert_caught(&faults).await;
}

async fn assert_caught(faults: &[(Fault, &str, Clause)]) {
    let mut missed = Vec::new();
    for (fault, name, clause) in faults {
        let case = cases().iter().find(|case| case.name() == *name).expect(name);
        match case.run(FaultyHarness::new(*fault)).await {
            Outcome::Failed(failure) if says(&failure, *clause) => (),
            outcome => missed.push(format!("{fault:?}, {name}: {outcome:?}")),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Whether the failure names the clause, itself or as what a change that should not be showed.
fn says(failure: &Failure, clause: Clause) -> bool {
    failure.clause() == clause || failure.to_string().contains(&clause.to_string())
}

/// The random cases find faults that they know nothing of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_batches_find_faults_too() {
    for fault in [
        Fault::AppliesPartOfABadBatch,
        Fault::TruncatesOneTooMany,
        Fault::DiscardsOneTooMany,
        Fault::DiscardsOneTooFew,
        Fault::KeepsDeletedRecords,
        Fault::GivesOneTime,
        Fault::IgnoresByteLimits,
        Fault::SearchesTimesAsSorted,
        Fault::ClaimsLooseLogsDurable,
    ] {
        let name = "random_batches_match_the_model";
        let case = cases().iter().find(|case| case.name() == name).unwrap();
        let outcome = case.run(FaultyHarness::new(fault)).await;
        let Outcome::Failed(failure) = outcome else { panic!("{fault:?}: {outcome:?}") };
        assert!(failure.to_string().contains("seed "), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_goes_on_after_a_failure_and_counts_everything() {
    let report = run_all(|| FaultyHarness::new(Fault::GivesOneTime).in_memory()).await;
    let (passed, skipped) = (report.passed().count(), report.skipped().count());
    let failed = report.failed().count();
    assert_eq!(passed + skipped + failed, cases().len());
    assert!(failed >= 1 && passed > failed, "{report}");
    // Nothing survives, and that is not passed over in silence.
    let skips: BTreeSet<_> = report.skipped().map(|(name, _)| name).collect();
    assert!(skips.contains("everything_survives_a_close"), "{report}");
    assert!(skips.contains("os_commits_survive_a_drop"), "{report}");
    let text = report.to_string();
    assert!(text.contains("skipped  everything_survives_a_close: the harness says"), "{text}");
    assert!(text.contains("FAILED   every_record_keeps_its_time: broken: Bytes"), "{text}");
    assert!(text.ends_with(&format!("{passed} passed, {skipped} skipped, {failed} failed")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skip_that_is_not_declared_fails_and_so_does_a_wrong_declaration() {
    let harness = || FaultyHarness::new(Fault::None).in_memory();
    let run = super::run_mounted;
    assert!(run("everything_survives_a_close", harness(), &[]).await.is_err());
    assert!(
        run("everything_survives_a_close", harness(), &["everything_survives_a_close"])
            .await
            .is_ok()
    );
    assert!(run("a_log_is_made_once", harness(), &["a_log_is_made_once"]).await.is_err());
    assert!(super::check_skips(&["a_log_is_made_once"]).is_ok());
    assert!(super::check_skips(&["no_such_case"]).is_err());
}

#[test]
fn case_names_are_unique() {
    let names: BTreeSet<_> = cases().iter().map(super::Case::name).collect();
    assert_eq!(names.len(), cases().len());
}
