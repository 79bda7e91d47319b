use std::time::Duration;

use ltq_client::{
    ConnectionState, Message, Outcome, PublishError, RefusalCode, StaleError, UnknownCause,
};
use ltq_core::{Durability, Refusal, protocol::Frame};
use ltq_transport::InProcess;

use crate::fake::{Fake, welcome, within};

#[tokio::test]
async fn promise_6_what_was_not_confirmed_is_sent_again_under_the_same_sequence() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(5, 0));
    let producer = producer.unwrap();
    let mut pending = Vec::new();
    for body in ["a", "b", "c"] {
        pending.push(producer.enqueue(Message::new(body)).await.unwrap());
        peer.publish().await;
    }
    peer.confirm(opened.handle, 1, 1, 0).await;
    within(pending.remove(0)).await.unwrap();
    drop(peer);
    let mut peer = fake.welcome().await;
    pending.push(producer.enqueue(Message::new("d")).await.unwrap());
    // "b" had been stored when the connection broke.
    let again = peer.open_producer(5, 2).await;
    assert_eq!((again.epoch, again.name, again.handle), (Some(5), opened.name, opened.handle));
    assert_eq!(peer.publish().await, (2, vec!["b".to_owned()]));
    assert_eq!(peer.publish().await, (3, vec!["c".to_owned()]));
    assert_eq!(peer.publish().await, (4, vec!["d".to_owned()]));
    let repeat = ltq_core::model::SequenceRange { sequence: 2, count: 1, offset: None };
    let durability = ltq_client::Durability::Os;
    peer.send(&Frame::Confirmed { handle: again.handle, ranges: vec![repeat], durability }).await;
    peer.confirm(again.handle, 3, 2, 2).await;
    let receipts = futures::future::join_all(pending).await;
    let offsets: Vec<_> =
        receipts.into_iter().map(|r| r.unwrap().offset.map(|offset| offset.0)).collect();
    assert_eq!(offsets, [None, Some(2), Some(3)]);
}

#[tokio::test]
async fn promise_15_a_broker_that_forgot_the_producer_leaves_its_publishes_unknown() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, _) = tokio::join!(client.producer("orders"), peer.open_producer(5, 0));
    let producer = producer.unwrap();
    let lost = producer.enqueue(Message::new("a")).await.unwrap();
    peer.publish().await;
    drop(peer);
    let mut peer = fake.welcome().await;
    let Frame::OpenProducer { handle, epoch: Some(5), .. } = peer.recv().await else { panic!() };
    let refusal = Refusal::new(RefusalCode::OutOfRange, "topic orders does not remember it");
    peer.send(&Frame::ProducerRefused { handle, refusal }).await;
    let anew = peer.open_producer(1, 0).await;
    assert_eq!(anew.epoch, None, "it begins as a new instance");
    let error = within(lost).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    let next = producer.enqueue(Message::new("b")).await.unwrap();
    assert_eq!(peer.publish().await, (1, vec!["b".to_owned()]));
    peer.confirm(handle, 1, 1, 0).await;
    within(next).await.unwrap();
}

#[tokio::test]
async fn promise_15_another_node_is_never_sent_what_the_first_may_have_stored() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.producer_builder("orders").name("p");
    let (producer, _) = tokio::join!(builder.open(), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let sent = producer.enqueue(Message::new("a")).await.unwrap();
    peer.publish().await;
    drop(peer);
    let unsent = producer.enqueue(Message::new("b")).await.unwrap();
    let mut peer = fake.accept().await;
    let mut other = welcome();
    other.node = "another".to_owned();
    peer.greet(other).await;
    // Its epoch happens to be the same; it means nothing.
    let opened = peer.open_producer(1, 10).await;
    assert_eq!(opened.epoch, None);
    let error = within(sent).await.unwrap_err();
    let cause = UnknownCause::Forgotten;
    assert_eq!(error, PublishError::Unknown { topic: "orders".try_into().unwrap(), cause });
    assert_eq!(peer.publish().await, (11, vec!["b".to_owned()]));
    peer.confirm(opened.handle, 11, 1, 0).await;
    within(unsent).await.unwrap();
}

#[tokio::test]
async fn a_fenced_producer_does_not_come_back() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.producer_builder("orders").name("p");
    let (producer, _) = tokio::join!(builder.open(), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    drop(peer);
    let mut peer = fake.welcome().await;
    let Frame::OpenProducer { handle, .. } = peer.recv().await else { panic!() };
    let refusal = Refusal::new(RefusalCode::Fenced, "epoch 2");
    peer.send(&Frame::ProducerRefused { handle, refusal }).await;
    let error = within(producer.send(Message::new("a"))).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, RefusalCode::Fenced);
    drop(peer);
    let mut peer = fake.welcome().await;
    let admin = client.admin();
    let (_, frame) = tokio::join!(
        tokio::time::timeout(Duration::from_millis(100), admin.list_topics()),
        peer.recv()
    );
    assert!(matches!(frame, Frame::Admin { .. }), "{frame:?}: it is not opened again");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_may_pass_is_asked_about_again() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let (producer, _) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let (consumer, _) = tokio::join!(client.consumer("orders", "c"), peer.subscribed());
    let (_producer, mut consumer) = (producer.unwrap(), consumer.unwrap());
    drop(peer);
    let mut peer = fake.welcome().await;
    for _ in 0..2 {
        match peer.recv().await {
            Frame::OpenProducer { handle, .. } => {
                let refusal = Refusal::new(RefusalCode::StoreFull, "");
                peer.send(&Frame::ProducerRefused { handle, refusal }).await;
            }
            Frame::Subscribe { handle, .. } => {
                let refusal = Refusal::new(RefusalCode::LimitReached, "");
                peer.send(&Frame::SubscribeRefused { handle, refusal }).await;
            }
            other => panic!("{other:?}"),
        }
    }
    for _ in 0..2 {
        match peer.recv().await {
            Frame::OpenProducer { handle, epoch, .. } => {
                assert_eq!(epoch, Some(1));
                let durability = ltq_client::Durability::Disk;
                let opened =
                    Frame::ProducerOpened { handle, epoch: 1, last_sequence: 0, durability };
                peer.send(&opened).await;
            }
            Frame::Subscribe { handle, .. } => {
                peer.send(&Frame::Subscribed { handle, timeout_ms: 1000 }).await;
                peer.deliver(handle, 1, 1, &["a"]).await;
            }
            other => panic!("{other:?}"),
        }
    }
    within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
}

/// The broker may not know that the connection before is lost.
#[tokio::test]
async fn a_consumer_takes_its_own_seat_over_with_each_connection_and_no_other_has_it() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let seat_of = async |peer: &mut crate::fake::Peer| {
        let Frame::Subscribe { handle, seat, .. } = peer.recv().await else { panic!() };
        peer.send(&Frame::Subscribed { handle, timeout_ms: 1_000 }).await;
        seat.expect("a seat")
    };
    let (first, seat) = tokio::join!(client.consumer("orders", "c"), seat_of(&mut peer));
    drop(peer);
    let mut peer = fake.welcome().await;
    let again = seat_of(&mut peer).await;
    assert!(again.number == seat.number && again.turn > seat.turn, "{again:?} after {seat:?}");
    let (other, others) = tokio::join!(client.consumer("orders", "c"), seat_of(&mut peer));
    assert_ne!(others.number, seat.number);
    // One that is to go on in the place of others.
    let shared = ltq_client::ConsumerSeat::new();
    let open = || client.consumer_builder("orders", "c").seat(&shared).open();
    let (one, before) = tokio::join!(open(), seat_of(&mut peer));
    let (two, after) = tokio::join!(open(), seat_of(&mut peer));
    assert!(before.number == after.number && after.turn > before.turn);
    let (_first, _other, mut one, _two) =
        (first.unwrap(), other.unwrap(), one.unwrap(), two.unwrap());
    // The earlier one does not throw the later one out when it could come back.
    drop(peer);
    let mut peer = fake.welcome().await;
    let mut back = Vec::new();
    for _ in 0..3 {
        back.push(seat_of(&mut peer).await);
    }
    let shared: Vec<_> = back.iter().filter(|seat| seat.number == after.number).collect();
    assert!(matches!(shared[..], [seat] if seat.turn > after.turn), "{back:?}");
    let error = within(one.next()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("a later consumer has its seat"), "{error}");
    assert!(within(one.next()).await.is_none());
}

/// What is left in a lost connection may come to the broker behind what is sent over the next one.
#[tokio::test]
async fn promise_6_each_request_to_open_a_producer_counts_as_later_than_all_before() {
    let mut fake = Fake::start().await;
    let builder = fake.builder();
    let client = within(builder.clone().connect());
    let (client, mut peer) = tokio::join!(client, fake.welcome());
    let client = client.unwrap();
    let asked = async |peer: &mut crate::fake::Peer, answers: bool| {
        let Frame::OpenProducer { handle, seat, .. } = peer.recv().await else { panic!() };
        let durability = Durability::Disk;
        if answers {
            let opened = Frame::ProducerOpened { handle, epoch: 5, last_sequence: 0, durability };
            peer.send(&opened).await;
        }
        seat.expect("a seat")
    };
    let opening = client.producer_builder("orders").name("p").open();
    let served = async {
        let unanswered = asked(&mut peer, false).await;
        drop(peer);
        let mut peer = fake.welcome().await;
        (unanswered, asked(&mut peer, true).await, peer)
    };
    let (producer, (unanswered, second, peer)) = tokio::join!(opening, served);
    let _producer = producer.unwrap();
    drop(peer);
    let mut peer = fake.welcome().await;
    let third = asked(&mut peer, true).await;
    // A further client that was made like it, as those for one node after another are.
    let (other, mut peer) = tokio::join!(within(builder.connect()), fake.welcome());
    let other = other.unwrap();
    let (producer, fourth) = tokio::join!(other.producer("orders"), asked(&mut peer, true));
    producer.unwrap();
    let seats = [unanswered, second, third, fourth];
    assert!(seats.is_sorted_by(|a, b| a.number == b.number && a.turn < b.turn), "{seats:?}");
}

/// Neither one of another channel nor one that was not let in.
#[tokio::test]
async fn a_seat_is_lost_to_a_later_consumer_of_its_channel_alone_that_was_let_in() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let shared = ltq_client::ConsumerSeat::new();
    let open = |channel| client.consumer_builder("orders", channel).seat(&shared).open();
    let answer = async |peer: &mut crate::fake::Peer, lets_in: bool| {
        let Frame::Subscribe { handle, channel, seat, .. } = peer.recv().await else { panic!() };
        let refusal = Refusal::new(RefusalCode::Forbidden, "for a test");
        peer.send(&match lets_in {
            true => Frame::Subscribed { handle, timeout_ms: 1_000 },
            false => Frame::SubscribeRefused { handle, refusal },
        })
        .await;
        (channel.to_string(), seat.expect("a seat").turn)
    };
    let (one, (_, before)) = tokio::join!(open("c"), answer(&mut peer, true));
    let (other, _) = tokio::join!(open("d"), answer(&mut peer, true));
    let (refused, _) = tokio::join!(open("c"), answer(&mut peer, false));
    let (_one, _other) = (one.unwrap(), other.unwrap());
    refused.unwrap_err();
    drop(peer);
    let mut peer = fake.welcome().await;
    let mut back = [answer(&mut peer, true).await, answer(&mut peer, true).await];
    back.sort();
    assert_eq!((&*back[0].0, &*back[1].0), ("c", "d"));
    assert!(back[0].1 > before);
}

/// Whom a later one at another broker takes nothing from.
#[tokio::test]
async fn a_seat_is_lost_at_the_broker_alone_where_a_later_consumer_has_it() {
    let namespace = InProcess::new();
    let mut one = Fake::at(&namespace, "one").await;
    let mut two = Fake::at(&namespace, "two").await;
    let (here, mut peer) = one.connected().await;
    let (there, mut other) = two.connected().await;
    let shared = ltq_client::ConsumerSeat::new();
    let open =
        |client: &ltq_client::Client| client.consumer_builder("orders", "c").seat(&shared).open();
    let (first, _) = tokio::join!(open(&here), peer.subscribed());
    let (second, _) = tokio::join!(open(&there), other.subscribed());
    let (mut first, _second) = (first.unwrap(), second.unwrap());
    drop(peer);
    let mut peer = one.welcome().await;
    let (handle, _) = peer.subscribed().await;
    peer.deliver(handle, 1, 1, &["a"]).await;
    within(first.next()).await.unwrap().unwrap().ack().unwrap();
}

#[tokio::test]
async fn promise_3_deliveries_from_before_a_cut_are_void() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let builder = client.consumer_builder("orders", "billing").credit(10, 1000);
    let (consumer, (handle, _)) = tokio::join!(builder.open(), peer.subscribed());
    let mut consumer = consumer.unwrap();
    peer.deliver(handle, 1, 1, &["a", "b", "c"]).await;
    let old = within(consumer.next()).await.unwrap().unwrap();
    let awaited = within(consumer.next()).await.unwrap().unwrap();
    let confirmation = tokio::spawn(awaited.ack_confirmed());
    assert_eq!(peer.settle().await.1.len(), 1);
    drop(peer);
    let error = within(confirmation).await.unwrap().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(old.touch(), Err(StaleError));
    let mut peer = fake.welcome().await;
    let (handle, credit) = peer.subscribed().await;
    assert_eq!(credit.messages, 10, "all of it is free again");
    assert_eq!(old.touch(), Err(StaleError));
    assert_eq!(old.ack(), Err(StaleError));
    // "c" had not been looked at, and is not delivered from before the cut.
    peer.deliver(handle, 1, 2, &["x"]).await;
    let new = within(consumer.next()).await.unwrap().unwrap();
    assert_eq!((&new.message.body[..], new.attempt()), (&b"x"[..], 2));
    new.ack().unwrap();
    let (_, settled) = peer.settle().await;
    assert_eq!(settled, [(1, 1, ltq_core::Verdict::Ack)], "nothing of the old ones");
}

#[tokio::test]
async fn state_tells_of_every_change() {
    let mut fake = Fake::start().await;
    let (client, peer) = fake.connected().await;
    let mut state = client.state();
    assert!(state.borrow_and_update().is_connected());
    drop(peer);
    within(state.wait_for(|state| matches!(state, ConnectionState::Connecting { .. })))
        .await
        .unwrap();
    let _peer = fake.welcome().await;
    let up = within(state.wait_for(ConnectionState::is_connected)).await.unwrap();
    let ConnectionState::Connected { node, .. } = &*up else { panic!() };
    assert_eq!(node, "fake");
}

#[tokio::test]
async fn a_lost_connection_is_made_again_at_the_same_server_and_then_at_others() {
    let namespace = InProcess::new();
    let mut one = Fake::at(&namespace, "one").await;
    let mut two = Fake::at(&namespace, "two").await;
    let (client, peer) = one.connect(one.builder().server(&two.address)).await;
    drop(peer);
    let peer = one.welcome().await;
    drop(one);
    drop(peer);
    let mut peer = two.welcome().await;
    let (producer, _) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    producer.unwrap();
}

#[tokio::test]
async fn a_broker_that_stops_is_left_for_another() {
    let namespace = InProcess::new();
    let mut one = Fake::at(&namespace, "one").await;
    let mut two = Fake::at(&namespace, "two").await;
    let (client, mut peer) = one.connect(one.builder().server(&two.address)).await;
    let (producer, opened) = tokio::join!(client.producer("orders"), peer.open_producer(1, 0));
    let producer = producer.unwrap();
    let first = producer.enqueue(Message::new("a")).await.unwrap();
    peer.publish().await;
    let second = producer.enqueue(Message::new("b")).await.unwrap();
    peer.publish().await;
    let refusal = Refusal::new(RefusalCode::Stopping, "");
    peer.send(&Frame::Goodbye { refusal }).await;
    peer.confirm(opened.handle, 1, 1, 0).await;
    peer.refuse(opened.handle, 2, 1, RefusalCode::Stopping).await;
    within(first).await.unwrap();
    let third = producer.enqueue(Message::new("c")).await.unwrap();
    drop(peer);
    let mut peer = two.welcome().await;
    let opened = peer.open_producer(1, 0).await;
    assert_eq!(peer.publish().await, (1, vec!["b".to_owned()]), "nothing of it had happened");
    assert_eq!(peer.publish().await, (2, vec!["c".to_owned()]));
    peer.confirm(opened.handle, 1, 2, 0).await;
    within(second).await.unwrap();
    within(third).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_says_it_stops_and_does_not_is_left_all_the_same() {
    let mut fake = Fake::start().await;
    let (_client, mut peer) = fake.connected().await;
    peer.send(&Frame::Goodbye { refusal: Refusal::new(RefusalCode::Stopping, "") }).await;
    let _next = fake.welcome().await;
    peer.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_is_asked_and_then_given_up() {
    let mut fake = Fake::start().await;
    let (client, mut peer) = fake.connected().await;
    let start = tokio::time::Instant::now();
    let Some(Frame::Ping { nonce }) = peer.recv_any().await else { panic!("no ping") };
    assert_eq!(start.elapsed().as_secs(), 15);
    peer.send(&Frame::Pong { nonce }).await;
    // From here on it says nothing.
    peer.ended().await;
    let silent = start.elapsed().as_secs();
    assert!((15 + 45..15 + 45 + 15).contains(&silent), "{silent} s");
    let _peer = fake.welcome().await;
    assert!(within(client.state().wait_for(ConnectionState::is_connected)).await.is_ok());
}

#[tokio::test]
async fn a_ping_is_answered() {
    let mut fake = Fake::start().await;
    let (_client, mut peer) = fake.connected().await;
    peer.send(&Frame::Ping { nonce: 77 }).await;
    assert_eq!(peer.recv().await, Frame::Pong { nonce: 77 });
}

#[tokio::test]
async fn what_a_stopping_broker_does_not_open_is_opened_by_the_next() {
    let namespace = InProcess::new();
    let mut one = Fake::at(&namespace, "one").await;
    let mut two = Fake::at(&namespace, "two").await;
    let (client, mut peer) = one.connect(one.builder().server(&two.address)).await;
    let opening = tokio::spawn({
        let client = client.clone();
        async move { tokio::join!(client.producer("orders"), client.consumer("orders", "c")) }
    });
    for _ in 0..2 {
        let refusal = Refusal::new(RefusalCode::Stopping, "");
        let answer = match peer.recv().await {
            Frame::OpenProducer { handle, .. } => Frame::ProducerRefused { handle, refusal },
            Frame::Subscribe { handle, .. } => Frame::SubscribeRefused { handle, refusal },
            other => panic!("{other:?}"),
        };
        peer.send(&answer).await;
    }
    drop(peer);
    let mut peer = two.welcome().await;
    for _ in 0..2 {
        let durability = ltq_client::Durability::Disk;
        let answer = match peer.recv().await {
            Frame::OpenProducer { handle, .. } => {
                Frame::ProducerOpened { handle, epoch: 1, last_sequence: 0, durability }
            }
            Frame::Subscribe { handle, .. } => Frame::Subscribed { handle, timeout_ms: 1_000 },
            other => panic!("{other:?}"),
        };
        peer.send(&answer).await;
    }
    let (producer, consumer) = within(opening).await.unwrap();
    producer.unwrap();
    consumer.unwrap();
}
