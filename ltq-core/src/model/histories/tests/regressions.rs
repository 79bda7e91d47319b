//! Histories in which something was wrong once, as short as they could be made.

use std::time::Duration;

use super::super::{
    play,
    scenario::{Failure, Narrow, Part, Restart, Scenario, Start, Step, Terms},
};
use crate::{Durability, Retention, TopicSettings, Verdict};

fn plays(steps: Vec<Step>) {
    plays_with(false, steps);
}

fn plays_with(ephemeral: bool, steps: Vec<Step>) {
    plays_in(Narrow::default(), ephemeral, steps);
}

fn plays_in(narrow: Narrow, ephemeral: bool, steps: Vec<Step>) {
    let settings = TopicSettings { durability: Durability::Disk, retention: Retention::default() };
    play(&Scenario { settings, ephemeral, narrow, reach: Durability::Disk, steps }, None, None);
}

const OPEN: Step = Step::Open { producer: 0, resume: false };

const fn publish(back: u64, count: u64, durability: Option<Durability>) -> Step {
    Step::Publish { producer: 0, back, count, durability }
}

fn subscribe(channel: usize) -> Step {
    let terms = Terms { messages: 1, bytes: 1 << 20, timeout_ms: None, seat: None };
    Step::Subscribe { consumer: 0, channel, start: Start::Earliest, create: true, terms }
}

fn settle(verdict: Verdict) -> Step {
    Step::Settle { consumer: 0, answer: false, parts: vec![Part { back: 0, count: 0, verdict }] }
}

#[test]
fn promise_1_a_receipt_is_not_weakened_by_a_repeat_that_it_comes_with() {
    plays(vec![
        OPEN,
        publish(0, 1, Some(Durability::Os)),
        Step::HoldCommits(true),
        publish(0, 5, None),
        publish(1, 1, None),
        Step::Commit,
    ]);
    // The repeat is of something that is less durable indeed.
    plays(vec![
        OPEN,
        publish(0, 1, Some(Durability::Os)),
        publish(1, 1, Some(Durability::Os)),
        publish(1, 2, Some(Durability::Os)),
        Step::Gather { events: 2 },
        publish(1, 1, Some(Durability::Os)),
        publish(0, 1, None),
    ]);
}

#[test]
fn promise_12_a_delay_that_has_ended_does_not_begin_again_when_the_wall_clock_steps_back() {
    plays(vec![
        OPEN,
        subscribe(0),
        publish(0, 1, None),
        settle(Verdict::Requeue { delay_ms: 500 }),
        Step::Restart { how: Restart::Clean, keeps: 0, away_ms: 500 },
        Step::Restart { how: Restart::Clean, keeps: 0, away_ms: -400 },
    ]);
}

#[test]
fn promise_3_touching_the_start_of_a_run_in_vain_leaves_the_rest_to_be_touched() {
    let terms = Terms { messages: 3, bytes: 1 << 20, timeout_ms: None, seat: None };
    let start = Part { back: 3, count: 1, verdict: Verdict::Touch };
    let end = Part { back: 0, count: 0, verdict: Verdict::Touch };
    plays(vec![
        OPEN,
        Step::Subscribe { consumer: 0, channel: 0, start: Start::Earliest, create: true, terms },
        publish(0, 3, None),
        Step::Settle { consumer: 0, answer: true, parts: vec![start, end] },
    ]);
}

#[test]
fn promise_9_pausing_an_ephemeral_channel_does_not_keep_what_it_has_acked() {
    plays(vec![
        OPEN,
        subscribe(2),
        publish(0, 1, None),
        settle(Verdict::Ack),
        Step::PauseChannel(2, true),
        Step::PauseChannel(2, false),
    ]);
}

#[test]
fn promise_2_a_channel_made_again_from_a_time_begins_there_though_the_old_one_is_there_still() {
    plays(vec![
        OPEN,
        publish(0, 3, None),
        Step::CreateChannel(0, Start::Earliest),
        Step::HoldCommits(true),
        Step::Ensure,
        Step::DeleteChannel(0),
        Step::CreateChannel(0, Start::Ago(0)),
        Step::HoldCommits(false),
    ]);
}

#[test]
fn promise_9_an_ephemeral_topic_goes_though_the_last_that_came_was_refused() {
    let comes = Step::Open { producer: 1, resume: false };
    plays_with(
        true,
        vec![
            OPEN,
            Step::HoldCommits(true),
            Step::Gather { events: 2 },
            comes,
            Step::Close { producer: 0, forget: false },
            Step::Fail(Failure::Full),
        ],
    );
}

#[test]
fn promise_9_an_ephemeral_topic_goes_though_the_last_that_came_had_left_before_it_was_let_in() {
    let comes = |producer| Step::Open { producer, resume: false };
    plays_with(
        true,
        vec![
            Step::HoldCommits(true),
            comes(2),
            Step::Commit,
            Step::Restart { how: Restart::Kill, keeps: 0, away_ms: 0 },
            comes(1),
            Step::ProducerGone { producer: 1 },
            Step::Fail(Failure::Full),
        ],
    );
}

#[test]
fn promise_9_pausing_a_channel_whose_state_could_not_be_stored_gives_up_what_it_has_acked() {
    let terms = Terms { messages: 1, bytes: 1 << 20, timeout_ms: None, seat: None };
    plays(vec![
        subscribe(0),
        Step::Open { producer: 2, resume: false },
        Step::Publish { producer: 2, back: 0, count: 1, durability: None },
        Step::HoldCommits(true),
        Step::Restart { how: Restart::Clean, keeps: 0, away_ms: 0 },
        Step::Subscribe { consumer: 3, channel: 0, start: Start::Earliest, create: true, terms },
        OPEN,
        Step::Fail(Failure::Full),
        Step::Settle {
            consumer: 3,
            answer: false,
            parts: vec![Part { back: 0, count: 0, verdict: Verdict::Ack }],
        },
    ]);
}

#[test]
fn promise_16_a_channel_that_is_full_of_what_was_discarded_before_it_waits_for_an_ack() {
    let comes = |consumer, channel, messages| {
        let terms = Terms { messages, bytes: 1 << 20, timeout_ms: None, seat: None };
        Step::Subscribe { consumer, channel, start: Start::Earliest, create: true, terms }
    };
    let settle = |back, count, verdict| Step::Settle {
        consumer: 0,
        answer: false,
        parts: vec![Part { back, count, verdict }],
    };
    let narrow = Narrow { runs: Some(4), ..Narrow::default() };
    // 1 to 4 and 6 to 7 are done for the one channel that there is; 0 and 5 are not.
    let steps = vec![
        OPEN,
        comes(0, 1, 9),
        publish(0, 8, None),
        settle(6, 3, Verdict::Ack),
        settle(1, 1, Verdict::Ack),
        publish(0, 1, None),
        comes(1, 2, 9),
        Step::Settle {
            consumer: 1,
            answer: false,
            parts: vec![Part { back: 1, count: 0, verdict: Verdict::Ack }],
        },
    ];
    plays_in(narrow, true, steps);
}

#[test]
fn promise_12_a_delay_goes_on_from_the_time_that_the_topic_knew_when_it_was_stored() {
    plays(vec![
        OPEN,
        publish(0, 1, None),
        subscribe(0),
        settle(Verdict::Requeue { delay_ms: u64::MAX }),
        Step::Oversleep { millis: 387 },
        Step::Nudge { back_ms: 1 },
        Step::Restart { how: Restart::Failing(Failure::Full), keeps: 0, away_ms: 0 },
    ]);
}

#[test]
fn promise_13_what_was_damaged_and_discarded_then_is_damaged_for_a_channel_made_later() {
    let comes = |consumer, channel, messages| {
        let terms = Terms { messages, bytes: 1 << 20, timeout_ms: None, seat: None };
        Step::Subscribe { consumer, channel, start: Start::Earliest, create: true, terms }
    };
    plays(vec![
        OPEN,
        publish(0, 1, None),
        publish(0, 6, None),
        publish(0, 4, None),
        publish(0, 4, None),
        Step::Damage { back: 1, count: 1 },
        Step::Damage { back: 7, count: 1 },
        comes(0, 1, 5),
        comes(1, 1, 4),
        Step::Advance { millis: 20 },
        comes(2, 0, 9),
    ]);
}

#[test]
fn promise_12_what_was_discarded_before_a_channel_was_made_and_aged_out_then_is_no_news() {
    let comes = |consumer, channel, start, messages| {
        let terms = Terms { messages, bytes: 1 << 20, timeout_ms: None, seat: None };
        Step::Subscribe { consumer, channel, start, create: true, terms }
    };
    let settle = |back, verdict| Step::Settle {
        consumer: 2,
        answer: false,
        parts: vec![Part { back, count: 0, verdict }],
    };
    let age_max = Some(Duration::from_millis(200));
    plays(vec![
        OPEN,
        publish(0, 3, None),
        comes(2, 2, Start::Latest, 6),
        publish(0, 6, None),
        settle(0, Verdict::Ack),
        Step::Open { producer: 1, resume: false },
        settle(1, Verdict::Requeue { delay_ms: 837 }),
        settle(2, Verdict::Requeue { delay_ms: 901 }),
        comes(0, 0, Start::Back(1), 0),
        Step::Alter(Retention { age_max, ..Retention::default() }),
    ]);
}

#[test]
fn promise_13_what_a_limit_takes_while_what_follows_is_found_damaged_is_dropped() {
    let comes = |consumer, channel, messages| {
        let terms = Terms { messages, bytes: 1 << 20, timeout_ms: None, seat: None };
        Step::Subscribe { consumer, channel, start: Start::Earliest, create: true, terms }
    };
    let limit = |bytes_max| Step::Alter(Retention { bytes_max, ..Retention::default() });
    plays_with(
        true,
        vec![
            Step::Open { producer: 1, resume: false },
            Step::Publish { producer: 1, back: 0, count: 3, durability: None },
            comes(0, 1, 0),
            OPEN,
            Step::HoldCommits(true),
            Step::Damage { back: 2, count: 2 },
            Step::Open { producer: 2, resume: false },
            publish(0, 1, None),
            Step::Publish { producer: 2, back: 0, count: 4, durability: None },
            comes(2, 1, 1),
            comes(1, 2, 1),
            limit(Some(100)),
            limit(None),
        ],
    );
}

#[test]
fn promise_13_one_of_two_damaged_ones_is_given_up_and_the_other_delivered_from_memory() {
    let comes = |consumer, channel, messages| {
        let terms = Terms { messages, bytes: 1 << 20, timeout_ms: None, seat: None };
        Step::Subscribe { consumer, channel, start: Start::Earliest, create: true, terms }
    };
    plays_with(
        true,
        vec![
            OPEN,
            publish(0, 4, None),
            comes(0, 0, 0),
            Step::Damage { back: 1, count: 1 },
            comes(1, 0, 2),
            Step::Damage { back: 2, count: 1 },
            Step::PauseTopic(true),
            comes(2, 2, 4),
        ],
    );
}
