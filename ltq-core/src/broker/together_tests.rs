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
        testing::topic,
    },
    model::{ConsumerId, SessionId},
};

fn inbox() -> Arc<Inbox> {
    Inbox::new(topic("t"), Arc::new(Budget::new(0)))
}

fn consumer(handle: u32) -> ConsumerId {
    ConsumerId { session: SessionId(1), handle }
}

/// A session reads all that there is.
fn read(outbox: &Outbox) {
    let context = Context::from_waker(Waker::noop());
    let _ = outbox.poll_drain(&context, &mut VecDeque::new());
    outbox.written(0);
}

#[test]
fn promise_9_in_a_crowd_who_reads_gets_run_after_run_and_who_does_not_gets_one() {
    let (budget, inbox) = (Arc::new(Budget::new(10_000)), inbox());
    let alone = || Outbox::new(Together::new(budget.clone()));
    let lazy = alone();
    while deliver(&lazy, consumer(1), 1_000, &inbox) {}
    assert!(budget.is_full() && budget.used() < 12_000, "{}", budget.used());
    let diligent = alone();
    for _ in 0..100 {
        assert!(deliver(&diligent, consumer(2), 1_000, &inbox));
        assert!(!deliver(&diligent, consumer(2), 1_000, &inbox));
        assert!(!deliver(&diligent, consumer(3), 1_000, &inbox));
        read(&diligent);
        assert_eq!(released(&inbox), [2, 3], "whoever had something waiting is asked again");
    }
    read(&lazy);
    assert_eq!((released(&inbox), budget.used()), (vec![1], 0));
    assert!(deliver(&diligent, consumer(2), 1_000, &inbox));
    assert!(deliver(&diligent, consumer(2), 1_000, &inbox));
}

#[test]
fn promise_9_in_a_crowd_the_streams_of_one_connection_get_one_run_together() {
    let (budget, inbox) = (Arc::new(Budget::new(10_000)), inbox());
    let lazy = Outbox::new(Together::new(budget.clone()));
    while deliver(&lazy, consumer(1), 1_000, &inbox) {}
    let together = Together::new(budget);
    let [one, other, third] = [(); 3].map(|()| Outbox::new(together.clone()));
    assert!(deliver(&one, consumer(2), 1_000, &inbox));
    for _ in 0..10 {
        assert!(!deliver(&other, consumer(3), 1_000, &inbox));
        assert!(!deliver(&third, consumer(4), 1_000, &inbox));
    }
    read(&one);
    assert_eq!(released(&inbox), [3, 4], "all of them are asked again");
    assert!(deliver(&other, consumer(3), 1_000, &inbox));
    assert!(!deliver(&third, consumer(4), 1_000, &inbox));
    // The end of a stream is as good as its reading.
    drop(other);
    assert_eq!(released(&inbox), [4]);
    assert!(deliver(&third, consumer(4), 1_000, &inbox));
    // When it is crowded no more, a stream need not wait for the others.
    assert!(!deliver(&one, consumer(2), 1_000, &inbox));
    read(&lazy);
    assert_eq!(released(&inbox), [1]);
    read(&third);
    assert_eq!(released(&inbox), [2]);
}

#[test]
fn promise_9_half_read_frames_are_free_up_to_a_limit_of_their_connection() {
    let together = Together::new(Arc::new(Budget::new(0)));
    let most = HALF_READ_BYTES_FREE / 64;
    assert!((0..64).all(|_| together.half_read(0, most)));
    assert!(!together.half_read(0, 1));
    assert!(together.half_read(most, 0));
    assert!(!together.half_read(1, most + 1));
    assert!(together.half_read(most + 1, most), "one that goes on is looked at anew");
}

#[tokio::test(start_paused = true)]
async fn promise_10_frames_that_bring_nothing_are_counted_over_all_streams() {
    let together = Together::new(Arc::new(Budget::new(0)));
    assert!((0..100).all(|_| !together.futile(100)));
    assert!(together.futile(100));
    tokio::time::advance(WINDOW).await;
    assert!((0..100).all(|_| !together.futile(100)));
    assert!(together.futile(100));
}
