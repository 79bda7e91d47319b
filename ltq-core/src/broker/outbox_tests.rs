//! The way to a session.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::Wake,
};

use super::*;
use crate::{
    Message, Offset, RecordBatch, Records, Tag, Timestamp,
    broker::{budget::Budget, testing::topic},
    model::SessionId,
};

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn inbox() -> Arc<Inbox> {
    Inbox::new(topic("t"), Arc::new(Budget::new(0)))
}

fn consumer(handle: u32) -> ConsumerId {
    ConsumerId { session: SessionId(1), handle }
}

fn delivery(bytes: usize) -> Delivery {
    let records = Records::encode([&Message::new(vec![1; bytes])]);
    let batch = RecordBatch { first: Offset(0), time: Timestamp(0), records };
    Delivery { first_tag: Tag(1), attempt: 1, batch }
}

fn reply(handle: u32) -> Outgoing {
    Outgoing::Own(Reply::SubscriptionClosed { handle, refusal: None })
}

fn handles(queue: &VecDeque<Outgoing>) -> Vec<u32> {
    let handle = |outgoing: &Outgoing| match outgoing {
        Outgoing::Own(Reply::SubscriptionClosed { handle, .. }) | Outgoing::Delivery(handle, _) => {
            *handle
        }
        other => panic!("{other:?}"),
    };
    queue.iter().map(handle).collect()
}

#[test]
fn what_topics_say_comes_in_order_after_one_wake_up() {
    let (outbox, inbox) = (Outbox::new(), inbox());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let context = Context::from_waker(&waker);
    let mut taken = VecDeque::new();
    assert!(outbox.poll_drain(&context, &mut taken).is_pending());
    outbox.push(reply(1));
    assert!(!outbox.push_delivery(consumer(2), delivery(10), &inbox));
    assert_eq!(woken.0.load(SeqCst), 0, "one wake-up for everything");
    outbox.wake();
    outbox.wake();
    assert_eq!(woken.0.load(SeqCst), 1);
    assert!(outbox.poll_drain(&context, &mut taken).is_ready());
    assert_eq!(handles(&taken), [1, 2]);
    taken.clear();
    assert!(outbox.poll_drain(&context, &mut taken).is_pending());
}

#[test]
fn promise_9_consumers_are_held_when_much_waits_and_released_when_little_is_left() {
    let (outbox, inbox) = (Outbox::new(), inbox());
    let context = Context::from_waker(Waker::noop());
    let mut taken = VecDeque::new();
    let half = OUTBOX_BYTES_HIGH / 2;
    assert!(!outbox.push_delivery(consumer(1), delivery(half), &inbox));
    assert!(outbox.poll_drain(&context, &mut taken).is_ready());
    // What was taken and not written counts on.
    assert!(outbox.push_delivery(consumer(1), delivery(half), &inbox));
    assert!(outbox.push_delivery(consumer(1), delivery(1), &inbox));
    assert!(outbox.push_delivery(consumer(2), delivery(1), &inbox));
    assert_eq!(outbox.written(0).len(), 0, "half of it was not even taken");
    taken.clear();
    assert!(outbox.poll_drain(&context, &mut taken).is_ready());
    assert_eq!(outbox.written(OUTBOX_BYTES_LOW + 1).len(), 0);
    let released: Vec<_> =
        outbox.written(OUTBOX_BYTES_LOW).into_iter().map(|(_, consumer)| consumer.handle).collect();
    assert_eq!(released, [1, 2], "each once");
    assert_eq!(outbox.written(0).len(), 0);
    assert!(!outbox.push_delivery(consumer(1), delivery(1), &inbox));
}

#[test]
fn promise_9_a_closed_outbox_keeps_nothing_and_holds_nobody() {
    let (outbox, inbox) = (Outbox::new(), inbox());
    outbox.push_delivery(consumer(1), delivery(2 * OUTBOX_BYTES_HIGH), &inbox);
    outbox.close();
    outbox.push(reply(1));
    assert!(!outbox.push_delivery(consumer(1), delivery(2 * OUTBOX_BYTES_HIGH), &inbox));
    let state = outbox.state.lock();
    assert!(state.queue.is_empty() && state.held.is_empty() && state.queued_bytes == 0);
}
