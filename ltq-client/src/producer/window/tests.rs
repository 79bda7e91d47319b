mod chaos;
mod elsewhere;

use std::time::Duration;

use ltq_core::{Durability, Offset, model::SequenceRange};

use super::*;

const LIMITS: FrameLimits = FrameLimits { bytes: 1 << 20, message_bytes: 1 << 20 };

/// A window whose calls are named by numbers, and what came of them.
struct Harness {
    window: Window<u32>,
    start: Instant,
    now: Instant,
    timeout: Duration,
    limits: FrameLimits,
    answers: Vec<(u32, u64, Option<Failure>)>,
    freed: Room,
}

type Sent = (u64, Vec<String>);

impl Harness {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            window: Window::new(Elsewhere::Nothing),
            start: now,
            now,
            timeout: Duration::from_secs(10),
            limits: LIMITS,
            answers: Vec::new(),
            freed: Room::default(),
        }
    }

    fn opened(last_sequence: u64) -> Self {
        let mut harness = Self::new();
        harness.window.handle_opened(false, last_sequence).unwrap();
        harness
    }

    fn push(&mut self, call: u32, body: &str) {
        let room = Room { messages: 1, bytes: body.len() };
        let message = Message::new(body.to_owned());
        self.window.push(&message, room, self.now + self.timeout, None, call);
    }

    fn push_all(&mut self, call: u32, bodies: &[&str]) {
        let messages: Vec<_> = bodies.iter().map(|b| Message::new((*b).to_owned())).collect();
        let room = Room { messages: bodies.len(), bytes: 1 };
        let records = (!messages.is_empty()).then(|| Records::encode(&messages));
        self.window.push_records(records, room, self.now + self.timeout, call);
    }

    /// Everything that is to be sent now.
    fn send(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        while let Some((sequence, records)) = self.window.poll_frame(self.now, self.limits) {
            records.verify().unwrap();
            let bodies = records.messages().map(|m| m.unwrap().body);
            sent.push((sequence, bodies.map(|b| String::from_utf8(b.to_vec()).unwrap()).collect()));
        }
        sent
    }

    fn confirm(&mut self, sequence: u64, count: u64, offset: u64) {
        let range = SequenceRange { sequence, count, offset: Some(Offset(offset)) };
        self.window.handle_confirmed(&[range], Durability::Disk).unwrap();
    }

    fn refuse(&mut self, sequence: u64, count: u64, code: RefusalCode) {
        self.window.handle_refused(sequence, count, Refusal::new(code, "")).unwrap();
    }

    fn after(&mut self, time: Duration) {
        self.now += time;
        self.window.handle_timeout(self.now);
    }

    /// The answers since the last time: call, messages stored, failure.
    fn answers(&mut self) -> Vec<(u32, u64, Option<Failure>)> {
        let (answers, freed) = self.window.take_answers();
        self.freed.messages += freed.messages;
        self.freed.bytes += freed.bytes;
        for answer in answers {
            let stored = answer.stored.into_vec().iter().map(|range| range.count).sum();
            self.answers.push((answer.reply, stored, answer.failure));
        }
        std::mem::take(&mut self.answers)
    }
}

fn sent(sequence: u64, bodies: &[&str]) -> Sent {
    (sequence, bodies.iter().map(|b| (*b).to_owned()).collect())
}

fn refused(code: RefusalCode) -> Option<Failure> {
    Some(Failure::Refused(Refusal::new(code, "")))
}

const FORGOTTEN: Option<Failure> = Some(Failure::Unknown(UnknownCause::Forgotten));

#[test]
fn messages_pushed_one_by_one_are_sent_together() {
    let mut harness = Harness::opened(7);
    for (call, body) in (0..).zip(["a", "b", "c"]) {
        harness.push(call, body);
    }
    assert_eq!(harness.send(), [sent(8, &["a", "b", "c"])]);
    harness.push(3, "d");
    assert_eq!(harness.send(), [sent(11, &["d"])]);
    harness.confirm(8, 2, 100);
    assert_eq!(harness.answers(), [(0, 1, None), (1, 1, None)]);
    harness.confirm(10, 2, 102);
    assert_eq!(harness.answers(), [(2, 1, None), (3, 1, None)]);
    assert_eq!(harness.freed, Room { messages: 4, bytes: 4 });
    assert_eq!(harness.window.pending(), 0);
    assert_eq!(harness.window.next_timeout(), None);
}

#[test]
fn a_receipt_tells_where_its_message_stands() {
    let mut harness = Harness::opened(0);
    harness.push(0, "a");
    harness.push(1, "b");
    harness.push_all(2, &["c", "d", "e"]);
    harness.send();
    let ranges = [
        SequenceRange { sequence: 1, count: 3, offset: Some(Offset(10)) },
        SequenceRange { sequence: 4, count: 2, offset: None },
    ];
    harness.window.handle_confirmed(&ranges, Durability::Os).unwrap();
    let (answers, _) = harness.window.take_answers();
    let all: Vec<_> =
        answers.into_iter().map(|a| (a.reply, a.stored.into_vec(), a.durability)).collect();
    let range = |sequence, count, offset: Option<u64>| SequenceRange {
        sequence,
        count,
        offset: offset.map(Offset),
    };
    assert_eq!(
        all,
        [
            (0, vec![range(1, 1, Some(10))], Durability::Os),
            (1, vec![range(2, 1, Some(11))], Durability::Os),
            (2, vec![range(3, 1, Some(12)), range(4, 2, None)], Durability::Os),
        ]
    );
}

#[test]
fn nothing_is_sent_before_it_is_open() {
    let mut harness = Harness::new();
    harness.push(0, "a");
    assert_eq!(harness.send(), []);
    harness.window.handle_opened(false, 3).unwrap();
    assert_eq!(harness.send(), [sent(4, &["a"])]);
}

#[test]
fn what_was_sent_behind_a_refused_message_is_sent_again_under_new_numbers() {
    let mut harness = Harness::opened(0);
    for (call, body) in (0..).zip(["a", "b", "c", "d"]) {
        harness.push(call, body);
        harness.send();
    }
    harness.confirm(1, 1, 0);
    harness.refuse(2, 1, RefusalCode::StoreFull);
    assert_eq!(harness.answers(), [(0, 1, None), (1, 0, refused(RefusalCode::StoreFull))]);
    harness.push(4, "e");
    harness.refuse(3, 1, RefusalCode::SequenceGap);
    assert_eq!(harness.send(), [], "not before everything is answered");
    harness.refuse(4, 1, RefusalCode::SequenceGap);
    assert_eq!(harness.send(), [sent(2, &["c"]), sent(3, &["d"]), sent(4, &["e"])]);
    harness.confirm(2, 3, 1);
    assert_eq!(harness.answers(), [(2, 1, None), (3, 1, None), (4, 1, None)]);
}

#[test]
fn a_batch_is_stored_from_the_front_and_its_rest_withdrawn() {
    let mut harness = Harness::opened(0);
    harness.limits = FrameLimits { bytes: 20, message_bytes: 20 };
    harness.push_all(0, &["a", "b", "c", "d", "e"]);
    harness.push(1, "z");
    let frames = harness.send();
    assert_eq!(
        frames,
        [sent(1, &["a", "b"]), sent(3, &["c", "d"]), sent(5, &["e"]), sent(6, &["z"])]
    );
    harness.confirm(1, 2, 0);
    harness.refuse(3, 2, RefusalCode::StoreFull);
    assert_eq!(harness.answers(), [(0, 2, refused(RefusalCode::StoreFull))]);
    harness.refuse(5, 1, RefusalCode::SequenceGap);
    harness.refuse(6, 1, RefusalCode::SequenceGap);
    assert_eq!(harness.send(), [sent(3, &["z"])], "e belongs to a call that failed");
    harness.confirm(3, 1, 2);
    assert_eq!(harness.answers(), [(1, 1, None)]);
    assert_eq!(harness.freed.messages, 6);
}

#[test]
fn a_refusal_at_the_door_waits_for_the_answers_before_it() {
    let mut harness = Harness::opened(0);
    for (call, body) in (0..).zip(["a", "b", "c"]) {
        harness.push(call, body);
        harness.send();
    }
    harness.refuse(2, 1, RefusalCode::Damaged);
    assert_eq!(harness.answers(), []);
    harness.confirm(1, 1, 0);
    assert_eq!(harness.answers(), [(0, 1, None), (1, 0, refused(RefusalCode::Damaged))]);
    harness.refuse(3, 1, RefusalCode::SequenceGap);
    assert_eq!(harness.send(), [sent(2, &["c"])]);
}

#[test]
fn what_was_sent_behind_a_refused_message_is_sent_again_after_a_cut_too() {
    let mut harness = Harness::opened(0);
    for (call, body) in (0..).zip(["a", "b"]) {
        harness.push(call, body);
        harness.send();
    }
    harness.refuse(1, 1, RefusalCode::StoreFull);
    harness.window.handle_cut();
    harness.window.handle_opened(true, 0).unwrap();
    assert_eq!(harness.answers(), [(0, 0, refused(RefusalCode::StoreFull))]);
    assert_eq!(harness.send(), [sent(1, &["b"])], "nothing of b had happened");
}

#[test]
fn nothing_of_a_batch_that_failed_is_sent_again_with_what_came_back_before_it() {
    let mut harness = Harness::opened(0);
    harness.limits = FrameLimits { bytes: 10, message_bytes: 10 };
    harness.push(0, "x");
    harness.push(1, "a");
    harness.push_all(2, &["b", "c"]);
    harness.push(3, "d");
    assert_eq!(harness.send().len(), 5);
    harness.refuse(4, 1, RefusalCode::Damaged);
    harness.refuse(1, 1, RefusalCode::StoreFull);
    for sequence in [2, 3, 5] {
        harness.refuse(sequence, 1, RefusalCode::SequenceGap);
    }
    let answers = harness.answers();
    let full = refused(RefusalCode::StoreFull);
    assert_eq!(answers, [(0, 0, full), (2, 0, refused(RefusalCode::Damaged))]);
    assert_eq!(harness.send(), [sent(1, &["a"]), sent(2, &["d"])]);
    harness.confirm(1, 2, 0);
    assert_eq!(harness.answers(), [(1, 1, None), (3, 1, None)]);
    assert_eq!(harness.freed.messages, 5);
}

#[test]
fn a_broker_that_stops_gives_its_messages_back_to_be_sent_elsewhere() {
    let mut harness = Harness::opened(0);
    harness.push(0, "a");
    harness.push(1, "b");
    harness.send();
    harness.refuse(1, 2, RefusalCode::Stopping);
    assert_eq!(harness.answers(), []);
    harness.window.handle_cut();
    harness.window.handle_opened(true, 0).unwrap();
    assert_eq!(harness.send(), [sent(1, &["a", "b"])]);
}

#[test]
fn promise_6_after_a_cut_the_same_messages_have_the_same_sequences() {
    let mut harness = Harness::opened(0);
    for (call, body) in (0..).zip(["a", "b", "c", "d"]) {
        harness.push(call, body);
    }
    harness.send();
    harness.push(4, "e");
    harness.send();
    harness.confirm(1, 1, 0);
    harness.window.handle_cut();
    harness.push(5, "f");
    assert_eq!(harness.send(), []);
    harness.window.handle_opened(true, 3).unwrap();
    // What is stored already and what is not do not share a frame.
    assert_eq!(
        harness.send(),
        [sent(2, &["b", "c"]), sent(4, &["d"]), sent(5, &["e"]), sent(6, &["f"])]
    );
    let repeat = SequenceRange { sequence: 2, count: 2, offset: None };
    harness.window.handle_confirmed(&[repeat], Durability::Disk).unwrap();
    harness.confirm(4, 3, 3);
    let calls: Vec<_> = harness.answers().into_iter().map(|a| (a.0, a.2)).collect();
    assert_eq!(calls, [(0, None), (1, None), (2, None), (3, None), (4, None), (5, None)]);
}

#[test]
fn frames_are_cut_anew_for_a_broker_that_takes_smaller_ones() {
    let mut harness = Harness::opened(0);
    harness.push_all(0, &["a", "b", "c"]);
    assert_eq!(harness.send().len(), 1);
    harness.window.handle_cut();
    harness.limits = FrameLimits { bytes: 10, message_bytes: 10 };
    harness.window.handle_opened(true, 0).unwrap();
    assert_eq!(harness.send(), [sent(1, &["a"]), sent(2, &["b"]), sent(3, &["c"])]);
    harness.confirm(1, 3, 0);
    assert_eq!(harness.answers(), [(0, 3, None)]);
}

#[test]
fn promise_15_a_broker_without_memory_leaves_what_was_sent_unknown() {
    for resumed in [false, true] {
        let mut harness = Harness::opened(100);
        harness.push(0, "a");
        harness.send();
        harness.confirm(101, 1, 0);
        harness.push(1, "b");
        harness.send();
        harness.push(2, "c");
        harness.window.handle_cut();
        harness.window.handle_opened(resumed, 0).unwrap();
        assert_eq!(harness.answers(), [(0, 1, None), (1, 0, FORGOTTEN)]);
        assert_eq!(harness.send(), [sent(1, &["c"])], "what was not sent begins anew");
    }
}

#[test]
fn promise_15_a_message_that_was_not_sent_in_time_is_withdrawn() {
    let mut harness = Harness::opened(0);
    harness.push(0, "a");
    harness.after(Duration::from_secs(5));
    harness.push(1, "b");
    harness.after(Duration::from_secs(5));
    assert_eq!(harness.answers(), [(0, 0, Some(Failure::NotSent))]);
    assert_eq!(harness.freed.messages, 1);
    assert_eq!(harness.send(), [sent(1, &["b"])]);
}

#[test]
fn promise_15_a_message_that_was_sent_keeps_its_place_after_its_time() {
    let mut harness = Harness::opened(0);
    harness.push(0, "a");
    harness.send();
    harness.after(Duration::from_secs(1));
    harness.push(1, "b");
    harness.send();
    assert_eq!(harness.window.next_timeout(), Some(harness.start + Duration::from_secs(10)));
    harness.after(Duration::from_secs(9));
    assert_eq!(harness.answers(), [(0, 0, Some(Failure::Late))]);
    assert_eq!(harness.freed.messages, 0, "it is still on its way");
    harness.window.handle_cut();
    harness.window.handle_opened(true, 0).unwrap();
    assert_eq!(harness.send(), [sent(1, &["a"]), sent(2, &["b"])]);
    harness.confirm(1, 2, 0);
    assert_eq!(harness.answers(), [(1, 1, None)]);
    assert_eq!(harness.freed.messages, 2);
}

#[test]
fn promise_15_a_batch_whose_time_is_up_sends_no_more_of_itself() {
    let mut harness = Harness::opened(0);
    harness.limits = FrameLimits { bytes: 10, message_bytes: 10 };
    harness.push_all(0, &["a", "b", "c"]);
    let (sequence, records) = harness.window.poll_frame(harness.now, harness.limits).unwrap();
    assert_eq!((sequence, records.count()), (1, 1));
    harness.push(1, "z");
    harness.after(Duration::from_secs(10));
    assert_eq!(harness.answers(), [(0, 0, Some(Failure::Late)), (1, 0, Some(Failure::NotSent))]);
    harness.push(2, "y");
    assert_eq!(harness.send(), [sent(2, &["y"])]);
    harness.confirm(1, 2, 0);
    assert_eq!(harness.answers(), [(2, 1, None)]);
    assert_eq!(harness.freed.messages, 5);
}

#[test]
fn a_broker_that_does_not_know_leaves_its_numbers_used() {
    let mut harness = Harness::opened(0);
    harness.push(0, "a");
    harness.send();
    harness.push(1, "b");
    harness.send();
    harness.refuse(1, 1, RefusalCode::OutcomeUnknown);
    let unknown =
        Failure::Unknown(UnknownCause::Broker(Refusal::new(RefusalCode::OutcomeUnknown, "")));
    assert_eq!(harness.answers(), [(0, 0, Some(unknown))]);
    harness.refuse(2, 1, RefusalCode::StoreFailed);
    assert_eq!(harness.answers(), [(1, 0, refused(RefusalCode::StoreFailed))]);
    harness.push(2, "c");
    assert_eq!(harness.send(), [sent(2, &["c"])], "1 may be stored");
    harness.window.handle_cut();
    // It was not stored, as the broker sees it now; but that may be the word of one that failed.
    harness.window.handle_opened(true, 0).unwrap();
    let answers = harness.answers();
    assert_eq!(answers, [(2, 0, FORGOTTEN)]);
    harness.push(3, "d");
    assert_eq!(harness.send(), [sent(1, &["d"])]);
    // After a restart "a" may turn out to be what 1 stands for.
    harness.window.handle_cut();
    harness.window.handle_opened(true, 1).unwrap();
    assert_eq!(harness.answers(), [(3, 0, FORGOTTEN)], "1 tells nothing about d");
}

#[test]
fn a_message_too_large_for_the_broker_is_refused_alone() {
    let mut harness = Harness::opened(0);
    harness.limits = FrameLimits { bytes: 1000, message_bytes: 10 };
    for (call, body) in (0..).zip(["a", "much too large", "b"]) {
        harness.push(call, body);
    }
    assert_eq!(harness.send(), [sent(1, &["a"]), sent(2, &["b"])]);
    harness.confirm(1, 2, 0);
    let answers = harness.answers();
    let code = |f: &Option<Failure>| match f {
        Some(Failure::Refused(refusal)) => Some(refusal.code),
        _ => None,
    };
    let codes: Vec<_> = answers.iter().map(|a| (a.0, code(&a.2))).collect();
    assert_eq!(codes, [(1, Some(RefusalCode::MessageTooLarge)), (0, None), (2, None)]);
    assert_eq!(harness.freed.messages, 3);
}

#[test]
fn a_barrier_tells_of_the_first_failure_before_it() {
    let mut harness = Harness::opened(0);
    harness.push_all(0, &[]);
    assert_eq!(harness.answers(), [(0, 0, None)], "nothing to wait for");
    harness.push(1, "a");
    harness.push(2, "b");
    harness.push_all(3, &[]);
    harness.send();
    harness.refuse(1, 2, RefusalCode::StoreFull);
    let full = refused(RefusalCode::StoreFull);
    assert_eq!(harness.answers(), [(1, 0, full.clone()), (2, 0, full.clone()), (3, 0, full)]);
    harness.push_all(4, &[]);
    assert_eq!(harness.answers(), [(4, 0, None)]);
}

#[test]
fn a_message_lingers_until_its_time_or_until_there_are_many() {
    let mut harness = Harness::opened(0);
    let until = harness.now + Duration::from_millis(5);
    let far = harness.now + Duration::from_secs(9);
    let push = |harness: &mut Harness, call, bytes| {
        let message = Message::new(vec![b'x'; bytes]);
        harness.window.push(&message, Room::default(), far, Some(until), call);
    };
    push(&mut harness, 0, 1);
    push(&mut harness, 1, 1);
    assert_eq!(harness.send(), []);
    assert_eq!(harness.window.next_timeout(), Some(until));
    harness.after(Duration::from_millis(5));
    assert_eq!(harness.send(), [sent(1, &["x", "x"])]);
    assert_ne!(harness.window.next_timeout(), Some(until));
    push(&mut harness, 2, crate::producer::chunks::CHUNK_BYTES);
    assert_eq!(harness.send().len(), 1);
}

#[test]
fn promise_15_a_refused_producer_refuses_all_that_is_not_answered() {
    let refused = Refusal::new(RefusalCode::Fenced, "");
    let fenced = Failure::Refused(refused.clone());
    let mut harness = Harness::opened(0);
    harness.push(0, "a");
    harness.send();
    harness.confirm(1, 1, 0);
    harness.push_all(1, &["b", "c"]);
    harness.send();
    harness.confirm(2, 1, 1);
    harness.window.take_answered_bytes();
    harness.push(2, "d");
    harness.send();
    harness.push(3, "e");
    harness.window.handle_ended(&fenced);
    assert_eq!(harness.window.ended(), Some(&fenced));
    let failure = || Some(fenced.clone());
    let expected = [(0, 1, None), (1, 1, failure()), (2, 0, failure()), (3, 0, failure())];
    assert_eq!(harness.answers(), expected);
    assert_eq!(harness.window.pending(), 0);
    assert!(harness.window.take_answered_bytes() > 0, "no answer to them is to come");
    // What the broker took behind its refusal names a producer that it does not know.
    harness.window.handle_refused(3, 1, refused).unwrap();
    harness.confirm(4, 1, 9);
    assert_eq!(harness.answers(), []);
}

/// Whatever is told of the repeat, and though it stops there.
#[test]
fn promise_15_a_repeat_that_a_stopping_node_refuses_is_not_called_undone_nor_sent_anew() {
    for cut in [false, true] {
        let mut harness = Harness::opened(0);
        harness.push(0, "a");
        harness.send();
        harness.push(1, "b");
        harness.send();
        harness.push(2, "c");
        harness.send();
        harness.window.handle_cut();
        // The first two are stored, by their first sending.
        harness.window.handle_opened(true, 2).unwrap();
        harness.send();
        harness.refuse(1, 1, RefusalCode::Stopping);
        if !cut {
            harness.refuse(2, 1, RefusalCode::Stopping);
        }
        harness.window.handle_cut();
        let refusal = Refusal::new(RefusalCode::Stopping, "");
        let refused = Some(Failure::Unknown(UnknownCause::Broker(refusal)));
        let lost = Some(Failure::Unknown(UnknownCause::ConnectionLost));
        let second = if cut { lost } else { refused.clone() };
        assert_eq!(harness.answers(), [(0, 0, refused), (1, 0, second)], "{cut}");
        harness.window.handle_opened(true, 2).unwrap();
        assert_eq!(harness.send(), [(3, vec!["c".to_owned()])], "{cut}");
    }
}

#[test]
fn promise_15_a_repeat_that_is_refused_with_its_producer_is_not_called_undone() {
    let mut harness = Harness::opened(0);
    harness.push(0, "a");
    harness.send();
    harness.push(1, "b");
    harness.send();
    harness.window.handle_cut();
    harness.window.handle_opened(true, 1).unwrap();
    harness.send();
    let refusal = Refusal::new(RefusalCode::TopicDeleted, "");
    let deleted = Failure::Refused(refusal.clone());
    harness.window.handle_ended(&deleted);
    let unknown = Failure::Unknown(UnknownCause::Broker(refusal));
    assert_eq!(harness.answers(), [(0, 0, Some(unknown)), (1, 0, Some(deleted.clone()))]);

    let mut harness = Harness::opened(0);
    harness.push(0, "a");
    harness.send();
    harness.push(1, "b");
    harness.window.handle_cut();
    harness.window.handle_ended(&deleted);
    let lost = Some(Failure::Unknown(UnknownCause::ConnectionLost));
    assert_eq!(harness.answers(), [(0, 0, lost), (1, 0, Some(deleted))]);
}

#[test]
fn abandoned_calls_are_answered_all() {
    let mut harness = Harness::opened(0);
    harness.push(0, "a");
    harness.send();
    harness.push(1, "b");
    harness.push_all(2, &[]);
    harness.window.abandon(&UnknownCause::Closed);
    assert_eq!(harness.answers().len(), 3);
    assert_eq!(harness.window.pending(), 0);
}

#[test]
fn promise_10_answers_that_cannot_be_are_violations() {
    let confirmed = |window: &mut Window<u32>, sequence, count| {
        let range = SequenceRange { sequence, count, offset: Some(Offset(u64::MAX)) };
        window.handle_confirmed(&[range], Durability::Disk)
    };
    let mut harness = Harness::opened(0);
    assert!(confirmed(&mut harness.window, 1, 1).is_err(), "never sent");
    assert!(confirmed(&mut harness.window, u64::MAX, u64::MAX).is_err());
    for (call, body) in (0..).zip(["a", "b", "c"]) {
        harness.push(call, body);
        harness.send();
    }
    assert!(confirmed(&mut harness.window, 2, 1).is_err(), "out of order");
    assert!(confirmed(&mut harness.window, 1, u64::MAX).is_err(), "more than was sent");
    let mut harness = Harness::opened(0);
    harness.push(0, "a");
    harness.send();
    let gap = Refusal::new(RefusalCode::SequenceGap, "");
    assert!(harness.window.handle_refused(1, 1, gap).is_err(), "no refusal before it");
    harness.window.handle_cut();
    harness.window.handle_opened(true, 0).unwrap();
    assert!(confirmed(&mut harness.window, 1, 1).is_err(), "not sent on this connection");
    assert!(harness.window.handle_opened(true, u64::MAX).is_err());
    confirmed(&mut harness.window, 0, 0).unwrap();
}
