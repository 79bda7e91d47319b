use std::time::Duration;

use futures::FutureExt;
use ltq_client::{Durability, Message, Offset, Outcome, PublishError, RefusalCode, UnknownCause};
use ltq_core::protocol::Frame;

use crate::fake::{Fake, welcome, within};

#[tokio::test]
async fn a_sent_message_ends_in_its_receipt() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 41));
    let producer = producer.unwrap();
    assert_eq!(producer.last_sequence(), 41);
    assert_eq!(opened.name.as_deref(), Some(producer.name().as_str()));
    assert_eq!(opened.epoch, None);
    let sending = tokio::spawn({
        let producer = producer.clone();
        async move { producer.send(Message::new("hello")).await }
    });
    assert_eq!(peer.publish().await, (42, vec!["hello".to_owned()]));
    peer.confirm(opened.handle, 42, 1, 7).await;
    let receipt = within(sending).await.unwrap().unwrap();
    assert_eq!(receipt.offset, Some(Offset(7)));
    assert_eq!((receipt.sequence, receipt.durability), (42, Durability::Disk));
    assert_eq!(receipt.topic.as_str(), "orders");
}

#[tokio::test]
async fn the_builder_says_name_and_durability() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.producer_builder("orders").name("loader-7").durability(Durability::Os);
    let (producer, opened) = tokio::join!(builder.open(), peer.open_producer(3, 0));
    assert_eq!(opened.name.as_deref(), Some("loader-7"));
    let pending = producer.unwrap().enqueue(Message::new("x")).await.unwrap();
    let Frame::Publish { durability, .. } = peer.recv().await else { panic!() };
    assert_eq!(durability, Some(Durability::Os));
    drop(pending);
}

#[tokio::test]
async fn messages_enqueued_in_one_go_leave_in_one_frame() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let mut pending = Vec::new();
    for n in 0..500 {
        pending.push(producer.enqueue(Message::new(n.to_string())).await.unwrap());
    }
    let (sequence, bodies) = peer.publish().await;
    assert_eq!((sequence, bodies.len()), (1, 500));
    peer.confirm(opened.handle, 1, 500, 100).await;
    for (n, pending) in (0..).zip(pending) {
        let receipt = within(pending).await.unwrap();
        assert_eq!((receipt.sequence, receipt.offset), (n + 1, Some(Offset(n + 100))));
    }
}

#[tokio::test]
async fn a_batch_has_one_receipt_for_all_of_it() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let messages: Vec<_> = (0..10).map(|n| Message::new(n.to_string())).collect();
    let pending = producer.enqueue_batch(&messages).await.unwrap();
    assert_eq!(peer.publish().await.1.len(), 10);
    peer.confirm(opened.handle, 1, 4, 0).await;
    peer.confirm(opened.handle, 5, 6, 90).await;
    let receipt = within(pending).await.unwrap();
    let offsets: Vec<_> = receipt.iter().map(|r| r.offset.unwrap().0).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 90, 91, 92, 93, 94, 95]);
    assert_eq!(receipt.len(), 10);

    let none: [Message; 0] = [];
    assert!(within(producer.send_batch(none)).await.unwrap().is_empty());
}

#[tokio::test]
async fn sixty_four_tasks_share_a_producer() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let producer = producer.clone();
            tokio::spawn(async move { (n, producer.send(Message::new(n.to_string())).await) })
        })
        .collect();
    let mut log = Vec::new();
    while log.len() < 64 {
        let (sequence, bodies) = peer.publish().await;
        assert_eq!(sequence, log.len() as u64 + 1);
        peer.confirm(opened.handle, sequence, bodies.len() as u64, log.len() as u64).await;
        log.extend(bodies);
    }
    for task in tasks {
        let (n, receipt) = within(task).await.unwrap();
        let place = receipt.unwrap().offset.unwrap().0 as usize;
        assert_eq!(log[place], n.to_string());
    }
}

#[tokio::test]
async fn promise_9_a_full_window_makes_enqueue_wait() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.producer_builder("orders").window_messages(2);
    let (producer, opened) = tokio::join!(builder.open(), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let _first = producer.enqueue(Message::new("a")).await.unwrap();
    let _second = producer.enqueue(Message::new("b")).await.unwrap();
    let mut third = tokio_test_task(producer.enqueue(Message::new("c")));
    assert!(!third.is_ready().await, "there is no room");
    assert_eq!(peer.publish().await.1.len(), 2);
    peer.confirm(opened.handle, 1, 1, 0).await;
    let _third = within(third.task).await.unwrap();
    assert_eq!(peer.publish().await, (3, vec!["c".to_owned()]));
}

#[tokio::test]
async fn promise_9_the_window_counts_bytes_too_and_lets_one_large_message_through() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.producer_builder("orders").window_bytes(1000);
    let (producer, opened) = tokio::join!(builder.open(), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let _large = producer.enqueue(Message::new(vec![b'x'; 100_000])).await.unwrap();
    let mut small = tokio_test_task(producer.enqueue(Message::new("c")));
    assert!(!small.is_ready().await, "there is no room");
    peer.publish().await;
    peer.confirm(opened.handle, 1, 1, 0).await;
    let _small = within(small.task).await.unwrap();
}

/// A future that is polled while the test does other things.
struct Polled<F> {
    task: std::pin::Pin<Box<F>>,
}

fn tokio_test_task<F: Future>(future: F) -> Polled<F> {
    Polled { task: Box::pin(future) }
}

impl<F: Future> Polled<F> {
    async fn is_ready(&mut self) -> bool {
        for _ in 0..100 {
            if futures::poll!(self.task.as_mut()).is_ready() {
                return true;
            }
            tokio::task::yield_now().await;
        }
        false
    }
}

#[tokio::test]
async fn a_refused_message_fails_and_those_behind_it_are_sent_again() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let first = producer.enqueue(Message::new("a")).await.unwrap();
    peer.publish().await;
    let second = producer.enqueue(Message::new("b")).await.unwrap();
    peer.publish().await;
    peer.refuse(opened.handle, 1, 1, RefusalCode::StoreFull).await;
    peer.refuse(opened.handle, 2, 1, RefusalCode::SequenceGap).await;
    assert_eq!(peer.publish().await, (1, vec!["b".to_owned()]));
    peer.confirm(opened.handle, 1, 1, 0).await;
    let error = within(first).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, RefusalCode::StoreFull);
    assert_eq!(error.outcome(), Outcome::Nothing);
    assert_eq!(within(second).await.unwrap().sequence, 1);
    let flushed = within(producer.flush()).await.unwrap_err();
    assert_eq!(flushed, error, "flush tells of the failure too");
    within(producer.flush()).await.unwrap();
}

#[tokio::test]
async fn a_batch_that_fails_in_the_middle_tells_what_is_stored() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let messages: Vec<_> = (0..4).map(|n| Message::new(n.to_string())).collect();
    let pending = producer.enqueue_batch(messages).await.unwrap();
    peer.publish().await;
    peer.confirm(opened.handle, 1, 3, 0).await;
    peer.refuse(opened.handle, 4, 1, RefusalCode::OutcomeUnknown).await;
    let error = within(pending).await.unwrap_err();
    assert_eq!((error.stored.len(), error.outcome()), (3, Outcome::Unknown));
}

#[tokio::test]
async fn promise_15_a_fenced_producer_fails_every_call() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.producer_builder("orders").name("p").window_messages(1);
    let (producer, opened) = tokio::join!(builder.open(), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let sent = producer.enqueue(Message::new("a")).await.unwrap();
    peer.publish().await;
    let waiting = producer.enqueue(Message::new("b"));
    let refusal = ltq_core::Refusal::new(RefusalCode::Fenced, "epoch 2");
    let handle = opened.handle;
    let ended = Frame::ProducerRefused { handle, refusal: refusal.clone() };
    let (waiting, ()) = tokio::join!(waiting, peer.send(&ended));
    assert_eq!(waiting.unwrap_err().refusal(), Some(&refusal));
    let sent = within(sent).await.unwrap_err();
    assert_eq!((sent.refusal(), sent.outcome()), (Some(&refusal), Outcome::Nothing));
    let later = within(producer.send(Message::new("c"))).await.unwrap_err();
    assert_eq!((later.refusal(), later.outcome()), (Some(&refusal), Outcome::Nothing));
    assert_eq!(within(producer.flush()).await.unwrap_err().refusal(), Some(&refusal));
}

#[tokio::test]
async fn what_was_sent_with_a_refused_producer_does_not_hold_up_others() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = tokio::join!(fake.builder().connect(), async {
        let mut peer = fake.accept().await;
        let mut welcome = welcome();
        welcome.limits.publish_bytes_max = 300;
        peer.greet(welcome).await;
        peer
    });
    let client = client.unwrap();
    let (first, opened) = tokio::join!(client.producer("a"), peer.open_producer(1, 0));
    let first = first.unwrap();
    let (second, other) = tokio::join!(client.producer("b"), peer.open_producer(1, 0));
    let second = second.unwrap();
    let sent = first.enqueue(Message::new(vec![b'x'; 100])).await.unwrap();
    peer.publish().await;
    let waits = second.enqueue(Message::new("waits for room")).await.unwrap();
    let refusal = ltq_core::Refusal::new(RefusalCode::TopicDeleted, "a");
    peer.send(&Frame::ProducerRefused { handle: opened.handle, refusal }).await;
    // It was on its way when the producer was refused.
    peer.refuse(opened.handle, 1, 1, RefusalCode::NoSuchHandle).await;
    within(sent).await.unwrap_err();
    assert_eq!(within(peer.publish()).await, (1, vec!["waits for room".to_owned()]));
    peer.confirm(other.handle, 1, 1, 0).await;
    within(waits).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn promise_15_a_publish_without_an_answer_is_unknown_by_its_deadline() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.producer_builder("orders").timeout(Duration::from_secs(3));
    let (producer, opened) = tokio::join!(builder.open(), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let start = tokio::time::Instant::now();
    let pending = producer.enqueue(Message::new("a")).await.unwrap();
    peer.publish().await;
    let error = pending.await.unwrap_err();
    assert_eq!(start.elapsed().as_secs(), 3);
    let after = Duration::from_secs(3);
    let cause = UnknownCause::TimedOut { after };
    assert_eq!(error, PublishError::Unknown { topic: "orders".try_into().unwrap(), cause });
    // Its confirm comes late, and nothing is out of step.
    peer.confirm(opened.handle, 1, 1, 0).await;
    let pending = producer.enqueue(Message::new("b")).await.unwrap();
    assert_eq!(peer.publish().await.0, 2);
    peer.confirm(opened.handle, 2, 1, 1).await;
    assert_eq!(pending.await.unwrap().sequence, 2);
}

#[tokio::test(start_paused = true)]
async fn promise_15_without_a_connection_a_publish_times_out_and_nothing_happens() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder =
        client.producer_builder("orders").window_messages(1).timeout(Duration::from_secs(3));
    let (producer, _) = tokio::join!(builder.open(), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    drop(peer);
    let start = tokio::time::Instant::now();
    // One has a place in the window, the other waits for it.
    let (first, second) =
        tokio::join!(producer.send(Message::new("a")), producer.send(Message::new("b")));
    assert_eq!(start.elapsed().as_secs(), 3);
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert!(matches!(error, PublishError::TimedOut { .. }), "{error}");
        assert_eq!(error.outcome(), Outcome::Nothing);
    }
    let mut peer = fake.welcome().await;
    let opened = peer.open_producer(1, 0).await;
    let pending = producer.enqueue(Message::new("c")).await.unwrap();
    assert_eq!(peer.publish().await, (1, vec!["c".to_owned()]), "nothing of a or b is left");
    peer.confirm(opened.handle, 1, 1, 0).await;
    pending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn promise_15_each_publish_ends_by_its_deadline_while_nobody_answers_who_connects() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.producer_builder("orders").timeout(Duration::from_millis(700));
    let (producer, _) = tokio::join!(builder.open(), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    drop(peer);
    for _ in 0..20 {
        let start = tokio::time::Instant::now();
        let error = producer.send(Message::new("a")).await.unwrap_err();
        assert_eq!(start.elapsed().as_millis(), 700);
        assert_eq!(error.outcome(), Outcome::Nothing, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lingering_message_waits_for_others() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.producer_builder("orders").linger(Duration::from_millis(20));
    let (producer, _) = tokio::join!(builder.open(), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let start = tokio::time::Instant::now();
    let _first = producer.enqueue(Message::new("a")).await.unwrap();
    tokio::time::advance(Duration::from_millis(10)).await;
    let _second = producer.enqueue(Message::new("b")).await.unwrap();
    assert_eq!(peer.publish().await.1, ["a", "b"]);
    assert_eq!(start.elapsed().as_millis(), 20);
}

#[tokio::test]
async fn a_message_too_large_is_refused_without_a_word_to_the_broker() {
    let mut fake = Fake::start().await;
    let connecting = fake.builder().connect();
    let (client, mut peer) = tokio::join!(connecting, async {
        let mut peer = fake.accept().await;
        let mut welcome = welcome();
        welcome.limits.message_bytes_max = 20_000;
        peer.greet(welcome).await;
        peer
    });
    let client = client.unwrap();
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let error = producer.send(Message::new(vec![0; 20_001])).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, RefusalCode::MessageTooLarge);
    let batch = [Message::new("small"), Message::new(vec![0; 30_000])];
    let error = producer.send_batch(&batch).await.unwrap_err();
    assert_eq!(error.error.refusal().unwrap().code, RefusalCode::MessageTooLarge);
    let pending = producer.enqueue(Message::new(vec![b'x'; 19_990])).await.unwrap();
    assert_eq!(peer.publish().await.0, 1);
    peer.confirm(opened.handle, 1, 1, 0).await;
    within(pending).await.unwrap();
}

#[tokio::test]
async fn unconfirmed_bytes_stay_within_what_the_broker_reads() {
    let mut fake = Fake::start().await;
    let connecting = fake.builder().connect();
    let (client, mut peer) = tokio::join!(connecting, async {
        let mut peer = fake.accept().await;
        let mut welcome = welcome();
        welcome.limits.publish_bytes_max = 1_000;
        peer.greet(welcome).await;
        peer
    });
    let client = client.unwrap();
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let large = || Message::new(vec![b'x'; 20_000]);
    let first = producer.enqueue(large()).await.unwrap();
    let second = producer.enqueue(large()).await.unwrap();
    assert_eq!(peer.publish().await.0, 1);
    // Another request overtakes the publish that must wait.
    let admin = client.admin();
    let (listed, ()) = tokio::join!(admin.list_topics(), async {
        let Frame::Admin { request, .. } = peer.recv().await else { panic!("the limit is passed") };
        let result = Ok(ltq_core::AdminResponse::Topics(Vec::new()));
        peer.send(&Frame::AdminAnswered { request, result }).await;
    });
    listed.unwrap();
    peer.confirm(opened.handle, 1, 1, 0).await;
    assert_eq!(peer.publish().await.0, 2);
    peer.confirm(opened.handle, 2, 1, 1).await;
    within(first).await.unwrap();
    within(second).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_15_no_deadline_is_missed_on_a_running_clock() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.producer_builder("orders").timeout(Duration::from_millis(2));
    let (producer, _) = tokio::join!(builder.open(), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let silent = tokio::spawn(async move { while peer.recv_any().await.is_some() {} });
    for _ in 0..500 {
        let error = within(producer.send(Message::new("a"))).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown);
    }
    silent.abort();
}

#[tokio::test]
async fn a_message_that_goes_alone_is_sent_by_whoever_publishes_it() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    // With the first one the task sets its timer for the deadlines of all that follow.
    let first = async {
        assert_eq!(peer.publish().await.0, 1);
        peer.confirm(opened.handle, 1, 1, 0).await;
    };
    tokio::join!(producer.send(Message::new("first")), first).0.unwrap();
    let mut sequence = 1;
    for _ in 0..3 {
        // No other task runs on this thread between the two.
        let mut sending = std::pin::pin!(producer.send(Message::new("alone")));
        assert!(futures::poll!(&mut sending).is_pending());
        sequence += 1;
        let sent = peer.publish().now_or_never();
        assert_eq!(sent, Some((sequence, vec!["alone".to_owned()])));
        peer.confirm(opened.handle, sequence, 1, 0).await;
        within(sending).await.unwrap();
    }
    // Those that come while an answer is due go together.
    let sending = (0..10).map(|_| producer.send(Message::new("together")));
    let mut sending = std::pin::pin!(futures::future::join_all(sending));
    assert!(futures::poll!(&mut sending).is_pending());
    assert_eq!(peer.publish().await.1.len(), 1);
    assert_eq!(peer.publish().now_or_never(), None);
    assert_eq!(peer.publish().await.1.len(), 9);
    peer.confirm(opened.handle, sequence + 1, 10, 3).await;
    within(&mut sending).await.into_iter().for_each(|sent| drop(sent.unwrap()));
    // More follow, as far as can be told.
    let pending = producer.enqueue(Message::new("one of many")).await.unwrap();
    assert_eq!(peer.publish().now_or_never(), None);
    assert_eq!(peer.publish().await.0, sequence + 11);
    peer.confirm(opened.handle, sequence + 11, 1, 13).await;
    within(pending).await.unwrap();
}

#[tokio::test]
async fn promise_6_a_message_that_goes_alone_into_a_lost_connection_is_sent_again() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    drop(peer);
    let mut sending = std::pin::pin!(producer.send(Message::new("a")));
    assert!(futures::poll!(&mut sending).is_pending());
    let mut peer = fake.welcome().await;
    assert_eq!(peer.open_producer(1, 0).await.epoch, Some(1));
    assert_eq!(peer.publish().await, (1, vec!["a".to_owned()]));
    peer.confirm(opened.handle, 1, 1, 0).await;
    within(sending).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_without_a_runtime_may_publish() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let thread = std::thread::spawn(move || {
        for _ in 0..100 {
            wait_parked(producer.send(Message::new("a"))).unwrap();
        }
    });
    for sequence in 1..=100 {
        assert_eq!(peer.publish().await.0, sequence);
        peer.confirm(opened.handle, sequence, 1, sequence - 1).await;
    }
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
}

/// Waits for a future on a thread that no runtime knows.
fn wait_parked<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
