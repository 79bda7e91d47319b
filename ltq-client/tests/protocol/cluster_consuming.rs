//! What a cluster's consumer asks of which node, and what it makes of what becomes of it.

use std::time::Duration;

use ltq_client::{
    Backoff, Client, Cluster, ClusterConsumeError, ClusterConsumer, ClusterConsumerBuilder,
    ClusterError, Credit, NodeInfo, RefusalCode, SubscriptionState,
};
use ltq_core::{Refusal, Seat, protocol::Frame};
use ltq_transport::{InProcess, Transports};
use tokio::time::Instant;

use crate::{
    board::{Board, node},
    fake::{Fake, Peer, within},
};

/// Two nodes that do as they are told.
struct Pair {
    cluster: Cluster,
    a: Fake,
    b: Fake,
}

/// A subscription as a node sees it.
struct Subscribed {
    peer: Peer,
    handle: u32,
}

impl Pair {
    async fn new() -> Self {
        let namespace = InProcess::new();
        let board = Board::new([node("a"), node("b")]);
        let client = Client::builder()
            .transports(Transports::new().with(namespace.clone()))
            .backoff(Backoff::new(Duration::from_millis(20), Duration::from_millis(20)));
        let builder = Cluster::builder().discovery(board).client(client);
        let cluster = within(builder.connect()).await.unwrap();
        let (a, b) = (Fake::at(&namespace, "a").await, Fake::at(&namespace, "b").await);
        Self { cluster, a, b }
    }

    fn builder(&self) -> ClusterConsumerBuilder {
        self.cluster.consumer_builder("orders", "billing").credit(10, 10_000)
    }

    /// A consumer that is subscribed at both, each with half of the credit.
    async fn open(&mut self) -> (ClusterConsumer, Subscribed, Subscribed) {
        let builder = self.builder();
        let both = async { tokio::join!(subscribe(&mut self.a), subscribe(&mut self.b)) };
        let (consumer, (mut a, mut b)) = tokio::join!(builder.open(), both);
        // Whoever was there first had all of it at first.
        let mut granted = [0, 0];
        while granted != [5, 5] {
            tokio::select! {
                total = a.credit() => {
                    if total.messages < granted[0] {
                        a.credited(total).await;
                    }
                    granted[0] = total.messages;
                }
                total = b.credit() => {
                    if total.messages < granted[1] {
                        b.credited(total).await;
                    }
                    granted[1] = total.messages;
                }
            }
            assert!(granted[0] + granted[1] <= 10, "{granted:?} are out of 10");
        }
        (consumer.unwrap(), a, b)
    }
}

async fn asked(peer: &mut Peer) -> u32 {
    asked_with_seat(peer).await.0
}

async fn asked_with_seat(peer: &mut Peer) -> (u32, Seat) {
    let Frame::Subscribe { handle, topic, channel, credit, seat, .. } = peer.recv().await else {
        panic!("no subscription")
    };
    assert_eq!((topic.as_str(), channel.as_str()), ("orders", "billing"));
    assert_eq!(credit, Credit::default(), "nothing is granted before it is known to be free");
    (handle, seat.expect("a seat"))
}

async fn subscribe(fake: &mut Fake) -> Subscribed {
    let mut peer = fake.welcome().await;
    let handle = asked(&mut peer).await;
    peer.send(&Frame::Subscribed { handle, timeout_ms: 60_000 }).await;
    Subscribed { peer, handle }
}

fn refusal(code: RefusalCode) -> Refusal {
    Refusal::new(code, "for a test")
}

async fn refuse(peer: &mut Peer, code: RefusalCode) {
    let handle = asked(peer).await;
    peer.send(&Frame::SubscribeRefused { handle, refusal: refusal(code) }).await;
}

impl Subscribed {
    /// The next total of credit; settlements may come between.
    async fn credit(&mut self) -> Credit {
        loop {
            match self.peer.recv().await {
                Frame::Credit { total, .. } => return total,
                Frame::Settle { .. } => {}
                other => panic!("{other:?} is no credit"),
            }
        }
    }

    async fn credited(&mut self, total: Credit) {
        self.peer.send(&Frame::Credited { handle: self.handle, total }).await;
    }

    async fn deliver(&mut self, first_tag: u64, bodies: &[&str]) {
        self.peer.deliver(self.handle, first_tag, 1, bodies).await;
    }
}

fn id(name: &str) -> ltq_client::NodeId {
    name.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn promise_9_a_node_that_delivers_more_than_it_may_is_cut_and_the_others_go_on() {
    let mut pair = Pair::new().await;
    let (mut consumer, mut a, mut b) = pair.open().await;
    a.deliver(1, &["1", "2", "3", "4", "5", "6"]).await;
    a.peer.ended().await;
    b.deliver(1, &["x"]).await;
    let delivery = within(consumer.next()).await.unwrap().unwrap();
    assert_eq!((delivery.node(), &delivery.message.body[..]), (&id("b"), &b"x"[..]));
    assert_eq!(consumer.figures().nodes[&id("a")].credit.unsettled, Credit::default());
    // It is subscribed at again, and has its share of what there is.
    let mut a = subscribe(&mut pair.a).await;
    let total = b.credit().await;
    if total.messages < 10 {
        // What the lost one had was the other's for a moment, or was not yet.
        b.credited(total.at_least(Credit { messages: 1, bytes: 100 })).await;
    }
    drop(b);
    let again = async { while a.credit().await.messages < 5 {} };
    within(again).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_refuses_holds_up_no_other_and_is_asked_again_seldom() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let Pair { a: fake_a, b: fake_b, .. } = &mut pair;
    let refusing = async {
        let mut peer = fake_a.welcome().await;
        refuse(&mut peer, RefusalCode::Forbidden).await;
        peer
    };
    let both = async { tokio::join!(refusing, subscribe(fake_b)) };
    let (consumer, (mut a, mut b)) = tokio::join!(builder.open(), both);
    let mut consumer = consumer.unwrap();
    assert_eq!(b.credit().await.messages, 10, "it has all of the credit");
    b.deliver(1, &["x"]).await;
    within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
    let state = consumer.figures().nodes[&id("a")].state.clone();
    assert_eq!(state, SubscriptionState::Refused(refusal(RefusalCode::Forbidden)));
    let began = Instant::now();
    // The fake gives up after 20 s, which may be too early.
    loop {
        match a.recv_any().await {
            Some(Frame::Subscribe { handle, .. }) => {
                let refusal = refusal(RefusalCode::Forbidden);
                a.send(&Frame::SubscribeRefused { handle, refusal }).await;
                break;
            }
            Some(Frame::Ping { nonce }) => {
                a.send(&Frame::Pong { nonce }).await;
                b.peer.send(&Frame::Ping { nonce: 1 }).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(began.elapsed() >= Duration::from_secs(15), "{:?}", began.elapsed());
    // When nobody is left that lets it, it is over.
    let refusal = Some(refusal(RefusalCode::Forbidden));
    b.peer.send(&Frame::SubscriptionClosed { handle: b.handle, refusal }).await;
    let error = within(consumer.next()).await.unwrap().unwrap_err();
    assert!(error.is_end() && error.to_string().contains("and so does every other"), "{error}");
    assert!(matches!(error, ClusterConsumeError::Refused { .. }), "{error}");
    assert!(within(consumer.next()).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_every_node_refuses_is_not_opened() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let Pair { a, b, .. } = &mut pair;
    let refusing = async |fake: &mut Fake| {
        let mut peer = fake.welcome().await;
        refuse(&mut peer, RefusalCode::Forbidden).await;
        peer
    };
    let both = async { tokio::join!(refusing(a), refusing(b)) };
    let (consumer, _peers) = tokio::join!(builder.open(), both);
    let error = consumer.unwrap_err();
    assert!(matches!(error, ClusterError::NotConsumed(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_may_pass_is_asked_about_again_soon() {
    let mut pair = Pair::new().await;
    let builder = pair.builder();
    let Pair { a, b, .. } = &mut pair;
    let refusing = async {
        let mut peer = a.welcome().await;
        for code in [RefusalCode::LimitReached, RefusalCode::NoSuchTopic] {
            refuse(&mut peer, code).await;
        }
        let handle = asked(&mut peer).await;
        peer.send(&Frame::Subscribed { handle, timeout_ms: 60_000 }).await;
        Subscribed { peer, handle }
    };
    let both = async { tokio::join!(refusing, subscribe(b)) };
    let began = Instant::now();
    let (consumer, (mut a, mut b)) = tokio::join!(builder.open(), both);
    assert!(began.elapsed() <= Duration::from_secs(1));
    let mut consumer = consumer.unwrap();
    let total = b.credit().await;
    assert_eq!(total.messages, 10);
    let less = b.credit().await;
    assert_eq!(less.messages, 5, "half of it is for the one that came later");
    b.credited(less).await;
    assert_eq!(a.credit().await.messages, 5);
    a.deliver(1, &["x"]).await;
    assert_eq!(within(consumer.next()).await.unwrap().unwrap().node(), &id("a"));
    assert_eq!(consumer.figures().nodes[&id("a")].state, SubscriptionState::Subscribed);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_give_credit_back_is_subscribed_at_anew_where_others_need_it() {
    let mut pair = Pair::new().await;
    let (mut consumer, mut a, mut b) = pair.open().await;
    // What they have for joining is over.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    b.deliver(1, &["1", "2", "3", "4", "5"]).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(within(consumer.next()).await.unwrap().unwrap());
    }
    let less = a.credit().await;
    assert_eq!(less.messages, 1, "it keeps what it needs to say that it has something");
    // It says nothing, so that the other has to do with what it has.
    let Frame::Unsubscribe { handle } = a.peer.recv().await else { panic!() };
    assert_eq!(handle, a.handle);
    let waited = began.elapsed();
    assert!(
        waited >= Duration::from_secs(3) && waited < Duration::from_millis(3_100),
        "{waited:?}"
    );
    let total = b.credit().await;
    assert!((9..=10).contains(&total.messages), "{total:?}");
    // The other way round nobody would need it.
    let (again, seat) = asked_with_seat(&mut a.peer).await;
    assert_ne!(again, a.handle);
    assert!(seat.turn >> 32 == 2, "in the place of the one before: {seat:?}");
    assert_eq!(consumer.figures().nodes[&id("a")].state, SubscriptionState::Waiting);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_slow_to_give_credit_back_and_delivers_meanwhile_is_waited_for() {
    let mut pair = Pair::new().await;
    let (mut consumer, mut a, mut b) = pair.open().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    b.deliver(1, &["1", "2", "3", "4", "5"]).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(within(consumer.next()).await.unwrap().unwrap());
    }
    let less = a.credit().await;
    for tag in 1..=3 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        a.deliver(tag, &["late"]).await;
        held.push(within(consumer.next()).await.unwrap().unwrap());
    }
    a.credited(less.at_least(Credit { messages: 3, bytes: 0 })).await;
    // It has used up all that it was left, so that it may have half of the whole.
    assert_eq!(a.credit().await.messages, 5);
    assert!(held.iter().all(|delivery| delivery.touch().is_ok()), "nothing is void");
}

/// A node that has two addresses at most, one after the other.
struct Moving {
    namespace: InProcess,
    board: Board,
    cluster: Cluster,
}

impl Moving {
    async fn new() -> (Self, Fake) {
        let namespace = InProcess::new();
        let board = Board::new([node("a")]);
        let client = Client::builder().transports(Transports::new().with(namespace.clone()));
        let builder = Cluster::builder().discovery(board.clone()).client(client);
        let cluster = within(builder.connect()).await.unwrap();
        let a = Fake::at(&namespace, "a").await;
        (Self { namespace, board, cluster }, a)
    }

    async fn move_to(&self, address: &str) -> Fake {
        let fake = Fake::at(&self.namespace, address).await;
        let address = format!("in-process://{address}").parse().unwrap();
        self.board.put(&NodeInfo::new("a".parse().unwrap(), [address]).unwrap());
        fake
    }
}

async fn seated(fake: &mut Fake) -> (Subscribed, Seat) {
    let mut peer = fake.welcome().await;
    let (handle, seat) = asked_with_seat(&mut peer).await;
    peer.send(&Frame::Subscribed { handle, timeout_ms: 60_000 }).await;
    (Subscribed { peer, handle }, seat)
}

/// The broker may not have found out that the connection is gone.
#[tokio::test(start_paused = true)]
async fn a_lost_subscription_is_taken_over_where_its_node_is_found_again() {
    let (moving, mut a) = Moving::new().await;
    let builder = moving.cluster.consumer_builder("orders", "billing");
    let (consumer, (lost, seat)) = tokio::join!(builder.open(), seated(&mut a));
    let mut consumer = consumer.unwrap();
    drop((lost, a));
    let unsubscribed = async {
        while consumer.figures().nodes[&id("a")].state == SubscriptionState::Subscribed {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(unsubscribed).await;
    let mut elsewhere = moving.move_to("elsewhere").await;
    let (mut subscribed, again) = within(seated(&mut elsewhere)).await;
    assert!(again.number == seat.number && again.turn > seat.turn, "{again:?} after {seat:?}");
    assert!(subscribed.credit().await.messages > 0);
    subscribed.deliver(1, &["x"]).await;
    within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
}

/// What it got can still be answered there.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_left_in_peace_is_not_ended_by_the_one_that_follows_it() {
    let (moving, mut a) = Moving::new().await;
    let builder = moving.cluster.consumer_builder("orders", "billing");
    let (consumer, (mut before, seat)) = tokio::join!(builder.open(), seated(&mut a));
    let mut consumer = consumer.unwrap();
    assert!(before.credit().await.messages > 0);
    before.deliver(1, &["x"]).await;
    let held = within(consumer.next()).await.unwrap().unwrap();
    let mut elsewhere = moving.move_to("elsewhere").await;
    let (_after, other) = within(seated(&mut elsewhere)).await;
    assert_ne!(other.number, seat.number);
    held.ack().unwrap();
    let settled = async { while !matches!(before.peer.recv().await, Frame::Settle { .. }) {} };
    within(settled).await;
}

/// It is missed for a moment, by a registry that was started anew, say.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_back_before_it_was_left_goes_on_as_it_was() {
    let (moving, mut a) = Moving::new().await;
    let builder = moving.cluster.consumer_builder("orders", "billing").credit(10, 10_000);
    let (consumer, (mut sub, seat)) = tokio::join!(builder.open(), seated(&mut a));
    let mut consumer = consumer.unwrap();
    assert_eq!(sub.credit().await.messages, 10);
    sub.deliver(1, &["1", "2"]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(within(consumer.next()).await.unwrap().unwrap());
    }
    moving.board.withdraw("a");
    let less = sub.credit().await;
    assert_eq!(less.messages, 2, "nothing more is to come");
    sub.credited(less).await;
    let state = || consumer.figures().nodes[&id("a")].state.clone();
    assert_eq!(state(), SubscriptionState::Leaving);
    moving.board.put(&node("a"));
    assert_eq!(sub.credit().await.messages, 10, "as before");
    assert_eq!(state(), SubscriptionState::Subscribed);
    held.into_iter().for_each(|delivery| delivery.ack().unwrap());
    sub.deliver(3, &["3"]).await;
    within(consumer.next()).await.unwrap().unwrap().ack().unwrap();
    // It is the same one still: when its connection is lost it comes back itself.
    drop(sub);
    let (mut sub, again) = within(seated(&mut a)).await;
    assert_eq!((again.number, again.turn), (seat.number, seat.turn + 1));
    // Whatever follows it there takes its place over.
    let refusal = Some(refusal(RefusalCode::NoSuchTopic));
    sub.peer.send(&Frame::SubscriptionClosed { handle: sub.handle, refusal }).await;
    let next = async {
        loop {
            match sub.peer.recv().await {
                Frame::Subscribe { seat, .. } => break seat.expect("a seat"),
                Frame::Credit { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let next = within(next).await;
    assert_eq!((next.number, next.turn >> 32), (seat.number, 2));
}
