//! Many streams, one connection; many connections, one node.

use std::{
    collections::VecDeque,
    task::{Context, Waker},
};

use super::*;
use crate::{
    broker::{
        inbox::Inbox,
        outbox::tests::{deliver, released},
        shares::Shares,
        testing::{far, topic},
    },
    model::{ConsumerId, SessionId},
};

fn inbox() -> Arc<Inbox> {
    Inbox::new(topic("t"), Arc::new(Budget::new(0)), 8192)
}

fn consumer(handle: u32) -> ConsumerId {
    ConsumerId { session: SessionId(1), handle }
}

/// A session reads all that there is.
fn read(outbox: &Arc<Outbox>) {
    let context = Context::from_waker(Waker::noop());
    let _ = outbox.poll_drain(&context, &mut VecDeque::new());
    outbox.written(0);
}

/// A crowd: one that does not read.
fn crowd(inbox: &Arc<Inbox>) -> (Arc<Budget>, Arc<Outbox>) {
    let budget = Arc::new(Budget::new(10_000));
    let lazy = Outbox::new(Together::of(budget.clone()));
    while deliver(&lazy, consumer(1), 1_000, inbox) {}
    assert!(budget.is_full() && budget.used() < 12_000, "{}", budget.used());
    (budget, lazy)
}

#[test]
fn promise_9_in_a_crowd_who_reads_gets_run_after_run_and_who_does_not_gets_one() {
    let inbox = inbox();
    let (budget, lazy) = crowd(&inbox);
    let diligent = Outbox::new(Together::of(budget.clone()));
    assert!(deliver(&diligent, consumer(2), 1_000, &inbox));
    for handle in [2, 3, 4] {
        assert!(!deliver(&diligent, consumer(handle), 1_000, &inbox));
    }
    for round in 0..100 {
        read(&diligent);
        let turn = 2 + round % 3;
        assert_eq!(released(&inbox), [turn], "one at a time, and each in its turn");
        assert!(deliver(&diligent, consumer(turn), 1_000, &inbox));
        assert!(!deliver(&diligent, consumer(turn), 1_000, &inbox));
    }
    read(&lazy);
    assert_eq!((released(&inbox), budget.used()), (vec![1], 1_009));
    read(&diligent);
    assert_eq!(released(&inbox), [3, 4, 2], "there is room for all of them");
}

#[test]
fn promise_16_a_turn_is_passed_on_where_there_was_nothing_for_it() {
    let inbox = inbox();
    let (budget, _lazy) = crowd(&inbox);
    let diligent = Outbox::new(Together::of(budget));
    assert!(deliver(&diligent, consumer(2), 1_000, &inbox));
    for handle in [2, 3, 4, 5, 6] {
        assert!(!deliver(&diligent, consumer(handle), 1_000, &inbox));
    }
    read(&diligent);
    assert_eq!(released(&inbox), [2]);
    diligent.turn_over(2, false);
    assert_eq!(released(&inbox), [3], "others took it");
    diligent.forget(3);
    assert_eq!(released(&inbox), [4], "it is no consumer any more");
    // Its topic reads what there is for it, and may find that it is gone.
    assert!(diligent.admit(consumer(4), 0, &inbox));
    diligent.turn_over(4, false);
    assert_eq!(released(&inbox), []);
    diligent.turn_over(4, true);
    assert_eq!(released(&inbox), [5]);
    diligent.nudge();
    assert_eq!(released(&inbox), [6], "nothing was heard of the other's topic");
    diligent.turn_over(6, false);
    diligent.nudge();
    assert_eq!(released(&inbox), [], "nobody is left");
}

#[test]
fn promise_16_a_closed_topic_takes_no_turn() {
    let (closed, inbox) = (inbox(), inbox());
    let (budget, _lazy) = crowd(&inbox);
    let diligent = Outbox::new(Together::of(budget));
    assert!(deliver(&diligent, consumer(2), 1_000, &closed));
    assert!(!deliver(&diligent, consumer(2), 1_000, &closed));
    assert!(!deliver(&diligent, consumer(3), 1_000, &inbox));
    closed.close(drop);
    read(&diligent);
    assert_eq!(released(&inbox), [3]);
}

#[test]
fn promise_9_in_a_crowd_the_streams_of_one_connection_get_one_run_together() {
    let inbox = inbox();
    let (budget, lazy) = crowd(&inbox);
    let together = Together::of(budget);
    let [one, other, third] = [(); 3].map(|()| Outbox::new(together.clone()));
    assert!(deliver(&one, consumer(2), 1_000, &inbox));
    assert!(!deliver(&other, consumer(3), 1_000, &inbox));
    assert!(!deliver(&other, consumer(4), 1_000, &inbox));
    assert!(!deliver(&third, consumer(5), 1_000, &inbox));
    read(&one);
    assert_eq!(released(&inbox), [3]);
    // It had nothing: it is the next stream's turn, and then the first one's again.
    other.turn_over(3, false);
    assert_eq!(released(&inbox), [5]);
    assert!(deliver(&third, consumer(5), 1_000, &inbox));
    read(&third);
    assert_eq!(released(&inbox), [4]);
    assert!(deliver(&other, consumer(4), 1_000, &inbox));
    assert!(!deliver(&third, consumer(5), 1_000, &inbox));
    // The end of a stream is as good as its reading.
    drop(other);
    assert_eq!(released(&inbox), [5]);
    assert!(deliver(&third, consumer(5), 1_000, &inbox));
    assert!(!deliver(&one, consumer(2), 1_000, &inbox));
    // When it is crowded no more, nobody need wait for the others.
    read(&lazy);
    assert_eq!(released(&inbox), [1]);
    read(&third);
    assert_eq!(released(&inbox), [2]);
    assert!(together.waiting.lock().is_empty());
}

#[test]
fn promise_9_streams_that_came_and_went_leave_nothing_behind() {
    let inbox = inbox();
    let (budget, _lazy) = crowd(&inbox);
    let together = Together::of(budget);
    let one = Outbox::new(together.clone());
    assert!(deliver(&one, consumer(2), 1_000, &inbox));
    for handle in 3..100 {
        let other = Outbox::new(together.clone());
        assert!(!deliver(&other, consumer(handle), 1_000, &inbox));
        other.close();
    }
    assert!(together.waiting.lock().is_empty());
}

#[test]
fn promise_9_half_read_frames_are_free_up_to_a_limit_of_their_connection() {
    let together = Together::of(Arc::new(Budget::new(0)));
    let most = (256 << 10) / 64;
    assert!((0..64).all(|_| together.half_read(0, most)));
    assert!(!together.half_read(0, 1));
    assert!(together.half_read(most, 0));
    assert!(!together.half_read(1, most + 1));
    assert!(together.half_read(most + 1, most), "one that goes on is looked at anew");
}

#[test]
fn promise_10_an_address_has_its_part_of_what_waits_to_be_read_and_others_have_theirs() {
    let inbox = inbox();
    let settings = BrokerSettings {
        delivery_bytes_max: 4_096,
        delivery_bytes_per_address_max: Some(10_000),
        ..BrokerSettings::default()
    };
    let (node, shares) = (Arc::new(Budget::new(1 << 20)), Shares::new(&settings));
    let holds = Arc::new(Holds::default());
    let connection = |n| {
        let common = Common {
            delivered: node.clone(),
            answers: Arc::new(Budget::new(1 << 20)),
            holds: holds.clone(),
            handles: Arc::new(Places::new(1)),
            origin: far(n),
            address: shares.of(far(n)),
        };
        Outbox::new(Together::new(common, &settings))
    };
    let fill = |outbox: &Arc<Outbox>| while deliver(outbox, consumer(1), 1_000, &inbox) {};
    let lazy: Vec<_> = [(); 3].map(|()| connection(1)).into();
    lazy.iter().for_each(fill);
    assert!((10_000..12_000).contains(&node.used()), "{}", node.used());
    // The others of the address get one run after another, and those of another one as much as they may have.
    let (same, other) = (connection(1), connection(2));
    for _ in 0..3 {
        assert!(deliver(&same, consumer(2), 1_000, &inbox));
        assert!(!deliver(&same, consumer(2), 1_000, &inbox));
        read(&same);
    }
    fill(&other);
    assert!(other.together().delivery_bytes.load(SeqCst) > 4_096);
    // However many connections it has, there is an end.
    let idle: Vec<_> = [(); 100].map(|()| connection(1)).into();
    idle.iter().for_each(fill);
    let used = same.together().address.as_ref().map(|address| address.delivered.used());
    assert!(used.is_some_and(|used| (20_000..22_000).contains(&used)), "{used:?}");
    assert!(!deliver(&same, consumer(2), 1_000, &inbox));
    let held = holds.all().into_iter().find(|(name, _)| *name == "delivery_bytes_per_address_max");
    assert!(held.is_some_and(|(_, count)| count >= 100), "{held:?}");
    // When they have read, it goes on, at its next look at the latest.
    lazy.iter().chain(&idle).for_each(read);
    released(&inbox);
    same.nudge();
    assert_eq!(released(&inbox), [2]);
    assert!(deliver(&same, consumer(2), 1_000, &inbox));
    drop((lazy, idle, same));
    read(&other);
    assert_eq!(node.used(), 0);
}
