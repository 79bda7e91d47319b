//! The one list of all cases, and how it becomes tests.

/// Hands every case to the macro named first, with what it needs of the harness.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    ([$($then:tt)+] $arguments:tt) => {
        $($then)+! { $arguments
            logs {
                logs_are_listed_by_name_with_options_and_bounds: Any,
                a_log_starts_at_the_offset_it_is_made_with: Any,
                a_log_is_made_once: Any,
                what_is_not_there_is_named: Any,
                a_deleted_log_leaves_nothing_to_its_successor: Any,
                any_text_names_a_log: Any,
                a_thousand_logs_do_not_mix: Any,
            }
            appending {
                records_come_back_byte_for_byte: Any,
                every_record_keeps_its_time: Any,
                an_append_elsewhere_than_at_the_end_is_refused: Any,
                small_appends_add_up: Any,
                large_messages_and_large_batches_come_back: Any,
                the_largest_offset_is_not_passed: Any,
                an_append_in_pieces_of_another_is_whole: Any,
            }
            rules {
                names_out_of_bounds_are_invalid: Any,
                keys_and_values_out_of_bounds_are_invalid: Any,
                empty_appends_are_invalid: Any,
                a_bad_change_at_any_place_undoes_the_batch: Any,
                changes_see_the_ones_before_them_in_the_batch: Any,
                refusals_leave_no_trace_under_a_concurrent_reader: Any,
            }
            reading {
                a_read_starts_exactly_where_asked: Any,
                a_read_keeps_to_the_records_asked_for: Any,
                a_read_keeps_to_the_bytes_asked_for_but_for_one_record: Any,
                a_read_crosses_appends: Any,
                a_read_at_the_end_is_empty: Any,
                a_read_outside_is_out_of_range: Any,
                a_read_returns_only_what_was_asked_of_this_log: Any,
                any_read_under_any_limits_is_a_run_of_the_log: Any,
                offsets_are_found_by_time: Any,
                offsets_are_found_where_time_went_back: Any,
            }
            truncating {
                what_is_truncated_is_gone_and_nothing_else: Any,
                truncating_back_changes_nothing: Any,
                truncating_beyond_the_end_is_refused: Any,
                truncating_to_the_end_empties_the_log: Any,
                truncating_every_single_record_works: Any,
                truncating_and_appending_in_one_batch_works: Any,
                offsets_by_time_ignore_what_was_truncated: Any,
            }
            discarding {
                what_is_discarded_is_gone_and_nothing_else: Any,
                discarding_again_changes_nothing: Any,
                a_discard_that_is_empty_or_beyond_the_end_is_refused: Any,
                a_truncation_may_end_in_what_was_discarded: Any,
                discarding_every_record_one_by_one_works: Any,
                discards_happen_with_the_rest_of_their_batch: Any,
                a_read_ends_before_what_was_discarded: Any,
                offsets_by_time_pass_over_what_was_discarded: Any,
                a_discard_of_a_log_that_is_not_durable_is_one_too: Any,
                discards_survive_a_close: Close,
                a_discard_survives_a_drop: Drop,
            }
            values {
                the_value_put_last_counts: Any,
                deleting_a_value_leaves_the_others: Any,
                values_are_listed_by_prefix_in_order: Any,
                keys_and_values_may_be_any_bytes: Any,
                large_values_come_back: Any,
            }
            durability {
                a_receipt_is_at_least_what_was_asked_and_at_most_what_the_store_can: Any,
                a_log_that_is_not_durable_is_never_said_to_be: Any,
                an_empty_batch_is_a_barrier: Any,
                everything_survives_a_close: Close,
                closing_again_and_again_keeps_everything: Close,
                a_deleted_log_stays_deleted_over_a_close: Close,
                slices_of_records_survive_a_close: Close,
                os_commits_survive_a_drop: Drop,
                disk_commits_survive_a_drop: Drop,
                a_barrier_makes_earlier_commits_survive: Drop,
                a_truncation_survives_a_drop: Drop,
                slices_of_records_survive_a_drop: Drop,
                what_survives_has_everything_before_it: Drop,
                what_shows_early_is_durable_already: Drop,
                a_log_that_is_not_durable_comes_back_if_shorter: Drop,
            }
            concurrency {
                commits_take_effect_in_the_order_of_their_first_poll: Any,
                a_commit_shows_once_it_has_resolved: Any,
                writers_of_different_logs_do_not_disturb_each_other: Any,
                readers_see_whole_batches_of_right_bytes: Any,
                a_batch_over_several_logs_shows_at_once: Any,
                a_dropped_commit_is_whole_or_nothing: Any,
                a_dropped_read_has_no_effect: Any,
                commits_during_a_close_resolve: Any,
            }
            limits {
                a_full_store_says_so_and_changes_nothing: Limit,
                a_full_store_can_be_read: Limit,
                truncating_makes_room: Limit,
                discarding_makes_room: Limit,
                deleting_a_log_makes_room: Limit,
                values_count_and_deleting_them_makes_room: Limit,
                what_needs_no_more_room_is_taken_when_full: Limit,
            }
            closing {
                every_call_after_a_close_says_so: Any,
                closing_twice_is_harmless: Any,
                an_open_store_is_healthy: Any,
                the_figures_are_plausible: Any,
                memory_is_given_back: Any,
            }
            random {
                random_batches_match_the_model: Any,
                random_batches_match_the_model_over_closes: Close,
                random_batches_match_the_model_over_drops: Drop,
            }
        }
    };
}

/// Mounts the conformance suite on a store: a module of tests, one for each case.
///
/// ```text
/// ltq_store::conformance!(MODULE, HARNESS);
/// ltq_store::conformance!(MODULE, HARNESS, skip: [CASE, CASE]);
/// ```
///
/// `HARNESS` is an expression, evaluated anew for each case, that gives a
/// [`Harness`](crate::conformance::Harness) without data. The cases that its
/// [`Capabilities`](crate::conformance::Capabilities) exclude must be declared under `skip`; an
/// undeclared skip fails, and so does a declared one that is none, so that the list says exactly
/// what was not tested. Your crate needs `tokio` with `macros` and `rt-multi-thread` among its
/// development dependencies. The [module](mod@crate::conformance) has an example.
#[macro_export]
macro_rules! conformance {
    ($module:ident, $harness:expr $(,)?) => {
        $crate::conformance!($module, $harness, skip: []);
    };
    ($module:ident, $harness:expr, skip: [$($skip:ident),* $(,)?] $(,)?) => {
        $crate::__conformance_cases! {
            [$crate::__conformance_mount] ($module, $harness, [$($skip),*])
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_mount {
    (($module:ident, $harness:expr, $skips:tt)
     $($group:ident { $($case:ident: $needs:ident,)+ })+) => {
        mod $module {
            #[allow(unused_imports, reason = "the harness may need none of them")]
            use super::*;

            #[test]
            fn every_declared_skip_is_a_case() -> Result<(), $crate::conformance::Failure> {
                $crate::conformance::check_skips($crate::__conformance_names!($skips))
            }

            $(mod $group {
                #[allow(unused_imports, reason = "the harness may need none of them")]
                use super::*;

                $(#[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() -> Result<(), $crate::conformance::Failure> {
                    $crate::conformance::run_mounted(
                        stringify!($case),
                        $harness,
                        $crate::__conformance_names!($skips),
                    )
                    .await
                })+
            })+
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_names {
    ([$($name:ident),*]) => { &[$(stringify!($name)),*] };
}
