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

/// What may wait for one stream, and at what topics go on, by default.
const BYTES_HIGH: usize = 1 << 20;
const BYTES_LOW: usize = 256 << 10;

fn inbox() -> Arc<Inbox> {
    Inbox::new(topic("t"), Arc::new(Budget::new(0)), 8192)
}

fn outbox() -> Arc<Outbox> {
    Outbox::new(Together::of(Arc::new(Budget::new(usize::MAX))))
}

/// As topics do it: says whether there was room.
pub(in crate::broker) fn deliver(
    outbox: &Arc<Outbox>,
    consumer: ConsumerId,
    bytes: usize,
    inbox: &Arc<Inbox>,
) -> bool {
    let delivery = delivery(bytes);
    let admitted = outbox.admit(consumer, delivery.batch.records.byte_len(), inbox);
    if admitted {
        outbox.push_delivery(consumer.handle, delivery);
    }
    admitted
}

/// Which consumers a topic was told of.
pub(in crate::broker) fn released(inbox: &Inbox) -> Vec<u32> {
    let mut entries = Vec::new();
    let context = Context::from_waker(Waker::noop());
    let _ = inbox.poll_drain(&context, &mut entries);
    let handle = |entry| match entry {
        Entry::Event(Event::Release { consumer }) => consumer.handle,
        other => panic!("{other:?}"),
    };
    entries.into_iter().map(handle).collect()
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
    let (outbox, inbox) = (outbox(), inbox());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let context = Context::from_waker(&waker);
    let mut taken = VecDeque::new();
    assert!(outbox.poll_drain(&context, &mut taken).is_pending());
    outbox.push(reply(1));
    assert!(deliver(&outbox, consumer(2), 10, &inbox));
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
fn promise_9_there_is_no_room_when_much_waits_and_there_is_when_little_is_left() {
    let (outbox, inbox) = (outbox(), inbox());
    let context = Context::from_waker(Waker::noop());
    let mut taken = VecDeque::new();
    let half = BYTES_HIGH / 2;
    assert!(deliver(&outbox, consumer(1), half, &inbox));
    assert!(outbox.poll_drain(&context, &mut taken).is_ready());
    // What was taken and not written counts on.
    assert!(deliver(&outbox, consumer(1), half, &inbox));
    for handle in [1, 2] {
        assert!(!deliver(&outbox, consumer(handle), 1, &inbox));
    }
    outbox.written(0);
    assert_eq!(released(&inbox), [], "half of it was not even taken");
    taken.clear();
    assert!(outbox.poll_drain(&context, &mut taken).is_ready());
    outbox.written(BYTES_LOW + 1);
    assert_eq!(released(&inbox), []);
    outbox.written(BYTES_LOW);
    assert_eq!(released(&inbox), [1, 2], "each once");
    outbox.written(0);
    assert_eq!(released(&inbox), []);
    assert!(deliver(&outbox, consumer(1), 1, &inbox));
}

#[test]
fn promise_9_a_closed_outbox_keeps_nothing_and_holds_nobody() {
    let budget = Arc::new(Budget::new(usize::MAX));
    let (outbox, inbox) = (Outbox::new(Together::of(budget.clone())), inbox());
    assert!(deliver(&outbox, consumer(1), 2 * BYTES_HIGH, &inbox));
    assert!(budget.used() > 2 * BYTES_HIGH && !outbox.admit(consumer(1), 1, &inbox));
    outbox.close();
    assert_eq!(budget.used(), 0);
    outbox.push(reply(1));
    assert!(deliver(&outbox, consumer(1), 2 * BYTES_HIGH, &inbox));
    let state = outbox.state.lock();
    assert!(state.queue.is_empty() && state.turns.is_empty() && state.delivery_bytes() == 0);
    assert_eq!(budget.used(), 0);
}

#[test]
fn promise_9_a_delivery_that_is_let_in_and_never_comes_is_given_back_with_the_session() {
    let budget = Arc::new(Budget::new(usize::MAX));
    let outbox = Outbox::new(Together::of(budget.clone()));
    assert!(outbox.admit(consumer(1), 100, &inbox()));
    assert_eq!(budget.used(), 100);
    drop(outbox);
    assert_eq!(budget.used(), 0);
}

#[test]
fn promise_9_small_deliveries_that_stay_keep_no_large_block() {
    let (outbox, inbox) = (outbox(), inbox());
    let block = Records::encode(&vec![Message::new(vec![1; 1_000]); 100]);
    for index in 0..100 {
        let batch = RecordBatch {
            first: Offset(index as u64),
            time: Timestamp(0),
            records: block.slice(index..index + 1),
        };
        let (bytes, whole) = (batch.records.byte_len(), batch.records.clone());
        assert!(outbox.admit(consumer(1), bytes, &inbox));
        outbox.push_delivery(1, Delivery { first_tag: Tag(1), attempt: 1, batch });
        let state = outbox.state.lock();
        let Some(Outgoing::Delivery(_, delivery)) = state.queue.back() else { panic!() };
        let kept = &delivery.batch.records;
        assert_eq!((kept.count(), kept.encoded(0)), (1, whole.encoded(0)));
        let shared = kept.payload().as_ptr() == whole.payload().as_ptr();
        assert_eq!(shared, index == 0, "{index}");
    }
}
