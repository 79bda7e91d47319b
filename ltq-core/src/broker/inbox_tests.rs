//! The way to a topic's task.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::Wake,
};

use super::*;
use crate::{
    Message, Records, Settlement, Tag, TagRange, Verdict,
    broker::{
        budget::Turn,
        outstanding::Outstanding,
        testing::{self, topic},
        together::Together,
    },
    model::{ConsumerId, ProducerId, SessionId},
};

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

const ENTRIES_MAX: usize = 8192;

fn task() -> (Arc<Woken>, Waker) {
    let woken = Arc::new(Woken::default());
    (Arc::clone(&woken), Waker::from(woken))
}

fn inbox() -> (Arc<Inbox>, Arc<Budget>) {
    let budget = Arc::new(Budget::new(1000));
    (Inbox::new(topic("t"), Arc::clone(&budget), ENTRIES_MAX), budget)
}

fn publish() -> Event {
    let records = Records::encode([&Message::new("body")]);
    Event::Publish { producer: ProducerId::default(), sequence: 1, durability: None, records }
}

fn other() -> Event {
    Event::CloseProducer { producer: ProducerId::default(), forget: false }
}

#[test]
fn the_reader_is_woken_once_and_gets_everything_in_order() {
    let (inbox, _) = inbox();
    let (woken, waker) = task();
    let context = Context::from_waker(&waker);
    let mut taken = Vec::new();
    assert!(inbox.poll_drain(&context, &mut taken).is_pending());
    let attach = Entry::Attach(SessionId(7), Outbox::new(Together::of(Arc::new(Budget::new(0)))));
    inbox.push(attach).unwrap();
    assert_eq!(inbox.push_all(&mut vec![publish(), other()]), Ok(false));
    assert_eq!(woken.0.load(SeqCst), 1, "it was awake by then");
    assert!(inbox.poll_drain(&context, &mut taken).is_ready());
    assert!(matches!(
        taken[..],
        [
            Entry::Attach(SessionId(7), _),
            Entry::Event(Event::Publish { .. }),
            Entry::Event(Event::CloseProducer { .. }),
        ]
    ));
    taken.clear();
    assert!(inbox.poll_drain(&context, &mut taken).is_pending());
    inbox.push(Entry::Cut).unwrap();
    assert_eq!(woken.0.load(SeqCst), 2);
}

#[test]
fn promise_9_a_full_inbox_holds_sessions_back_until_it_is_read() {
    let (inbox, _) = inbox();
    let (woken, waker) = task();
    let (_, reader) = task();
    let context = Context::from_waker(&waker);
    let mut ticket = Ticket::default();
    let mut events: Vec<_> = (1..ENTRIES_MAX).map(|_| other()).collect();
    assert_eq!(inbox.push_all(&mut events), Ok(false));
    assert!(events.is_empty());
    assert!(inbox.poll_room(&mut ticket, &context).is_ready());
    assert_eq!(inbox.push_all(&mut vec![other()]), Ok(true));
    assert!(inbox.poll_room(&mut ticket, &context).is_pending());
    assert!(inbox.poll_room(&mut ticket, &context).is_pending());
    let mut taken = Vec::new();
    assert!(inbox.poll_drain(&Context::from_waker(&reader), &mut taken).is_ready());
    assert_eq!(woken.0.load(SeqCst), 1, "once, however often it asked");
    assert!(inbox.poll_room(&mut ticket, &context).is_ready());
    assert!(inbox.state.lock().writers.is_empty());
}

#[test]
fn promise_9_many_settlements_in_few_frames_hold_sessions_back_too() {
    let (inbox, _) = inbox();
    let (_, waker) = task();
    let (context, mut ticket) = (Context::from_waker(&waker), Ticket::default());
    let tags = TagRange { first: Tag(1), last: Tag(1) };
    let settlement = Settlement { tags, verdict: Verdict::Ack };
    let settle = || Event::Settle {
        consumer: ConsumerId::default(),
        request: 0,
        settlements: vec![settlement; 16_384],
    };
    let frames = ENTRIES_MAX * SETTLEMENTS_OF_ENTRY / 16_384;
    for _ in 1..frames {
        assert_eq!(inbox.push_all(&mut vec![settle()]), Ok(false));
    }
    assert_eq!(inbox.push_all(&mut vec![settle()]), Ok(true));
    assert!(inbox.poll_room(&mut ticket, &context).is_pending());
    assert!(inbox.poll_drain(&context, &mut Vec::new()).is_ready());
    assert!(inbox.poll_room(&mut ticket, &context).is_ready());
}

#[test]
fn promise_9_publishes_count_from_here_on_and_a_closed_inbox_counts_nothing() {
    let (inbox, budget) = inbox();
    let weight = weight(&publish());
    assert!(weight > "body".len() + Topic::WISH_BYTES);
    inbox.push(Entry::Event(publish())).unwrap();
    inbox.push_all(&mut vec![publish(), other()]).unwrap();
    assert_eq!(budget.used(), 2 * weight);
    let mut left = 0;
    inbox.close(|entry| left += entry.weight());
    assert_eq!(left, 2 * weight);
    assert_eq!(inbox.push(Entry::Event(publish())), Err(InboxClosed));
    let mut kept = vec![publish()];
    assert_eq!(inbox.push_all(&mut kept), Err(InboxClosed));
    assert_eq!(kept.len(), 1, "they are the caller's to answer");
    assert_eq!(budget.used(), 2 * weight);
}

#[test]
fn closing_lets_those_go_who_wait_for_room() {
    let (inbox, _) = inbox();
    let (woken, waker) = task();
    let context = Context::from_waker(&waker);
    let mut ticket = Ticket::default();
    let mut events: Vec<_> = (0..ENTRIES_MAX).map(|_| other()).collect();
    inbox.push_all(&mut events).unwrap();
    assert!(inbox.poll_room(&mut ticket, &context).is_pending());
    inbox.close(drop);
    assert_eq!(woken.0.load(SeqCst), 1);
    assert!(inbox.poll_room(&mut ticket, &context).is_ready());
}

#[test]
fn nobody_finds_it_closed_before_its_last_entries_are_answered() {
    let (inbox, _) = inbox();
    inbox.push_all(&mut vec![publish(), other()]).unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    let mut late = None;
    inbox.close(|_| {
        let (inbox, told) = (Arc::clone(&inbox), told.clone());
        late.get_or_insert_with(|| {
            std::thread::spawn(move || {
                assert_eq!(inbox.push_all(&mut vec![publish()]), Err(InboxClosed));
                told.send("refused by the session").unwrap();
            })
        });
        let early = heard.recv_timeout(std::time::Duration::from_millis(20));
        assert!(early.is_err(), "a session refuses before its earlier publish is answered");
    });
    assert_eq!(heard.recv(), Ok("refused by the session"));
    late.unwrap().join().unwrap();
}

/// Says whether the inbox was locked when somebody was woken.
struct Watching(Arc<Inbox>, AtomicUsize, AtomicUsize);

impl Wake for Watching {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, SeqCst);
        self.2.fetch_add(usize::from(self.0.state.is_locked()), SeqCst);
    }
}

#[test]
fn promise_9_a_topic_that_ends_wakes_who_waits_for_what_streams_left_behind_without_its_lock() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (watching, together) = runtime.block_on(async {
        let (shared, _gate) = testing::shared(true);
        let together = shared.together(None);
        let inbox = shared.topic_by_use(&topic("t"), None).unwrap();
        let mut gone = Outstanding::new(together.clone());
        gone.count(shared.settings.publish_bytes_per_connection() + 1);
        inbox.push(Entry::Left(gone.leave_behind(usize::MAX))).unwrap();
        let watching = Arc::new(Watching(inbox, AtomicUsize::new(0), AtomicUsize::new(0)));
        let waker = Waker::from(watching.clone());
        let (mut waits, context) = (Turn::default(), Context::from_waker(&waker));
        assert!(together.publishes.poll_room(false, &mut waits, &context).is_pending());
        (watching, together)
    });
    // The topic's task has not run so far.
    drop(runtime);
    assert_eq!(together.publishes.used(), 0);
    assert_eq!((watching.1.load(SeqCst), watching.2.load(SeqCst)), (1, 0));
}
