use std::time::Duration;

use ltq_client::{Client, ConnectError, ConnectionState, RefusalCode, RequestError};
use ltq_core::{
    Refusal,
    protocol::{Frame, Welcome},
};
use ltq_transport::InProcess;
use tokio::time::Instant;

use crate::fake::{Fake, welcome, within};

#[tokio::test]
async fn the_hello_says_who_comes_and_with_what() {
    let mut fake = Fake::start().await;
    let builder = fake.builder().name("loader").token("secret");
    let (_client, peer) = fake.connect(builder).await;
    let hello = peer.hello.unwrap();
    assert_eq!((hello.major, hello.minor), (1, 0));
    assert_eq!((&*hello.client, hello.token.as_deref()), ("loader", Some("secret")));
    assert_eq!((hello.frame_bytes_max, hello.heartbeat_ms), (8 << 20, 0));
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_is_given_up_after_three_of_the_heartbeats_that_were_asked_for() {
    for (asked, told) in [(2_000, 2_000), (1, 100)] {
        let mut fake = Fake::start().await;
        let builder = fake.builder().heartbeat(Duration::from_millis(asked));
        let (result, mut peer) = tokio::join!(builder.connect(), async {
            let mut peer = fake.accept().await;
            let Some(Frame::Hello(hello)) = peer.recv_any().await else { panic!("no hello") };
            assert_eq!(hello.heartbeat_ms, told);
            peer.send(&Frame::Welcome(Welcome { heartbeat_ms: told, ..welcome() })).await;
            peer
        });
        let client = result.unwrap();
        let (began, mut state) = (Instant::now(), client.state());
        within(state.wait_for(|state| !matches!(state, ConnectionState::Connected { .. })))
            .await
            .unwrap();
        let (took, least) = (began.elapsed(), Duration::from_millis(u64::from(told) * 3));
        assert!(took >= least && took < least * 2, "{took:?}");
        assert!(matches!(peer.recv_any().await, Some(Frame::Ping { .. })), "it asked first");
    }
}

#[tokio::test]
async fn a_refused_hello_is_told_with_its_reason() {
    let mut fake = Fake::start().await;
    let (result, _peer) = tokio::join!(fake.builder().connect(), async {
        let mut peer = fake.accept().await;
        peer.recv().await;
        let refusal = Refusal::new(RefusalCode::Unauthorized, "the token is not right");
        peer.send(&Frame::Goodbye { refusal }).await;
        peer
    });
    let Err(ConnectError::Refused { refusal, .. }) = result else { panic!("{result:?}") };
    assert_eq!(refusal.code, RefusalCode::Unauthorized);
}

/// Takes the next connection, and refuses its hello.
async fn refuse(fake: &mut Fake, code: RefusalCode) {
    let mut peer = fake.accept().await;
    assert!(matches!(peer.recv_any().await, Some(Frame::Hello(_))));
    peer.send(&Frame::Goodbye { refusal: Refusal::new(code, "by the test") }).await;
}

/// What connecting comes to where each server always refuses with its code, how often each was asked, and how long
/// it took.
async fn refused_by<const N: usize>(
    codes: [RefusalCode; N],
) -> (ConnectError, [usize; N], Duration) {
    let (namespace, names) = (InProcess::new(), ["first", "second", "third"]);
    let mut builder = Client::builder().connect_timeout(Duration::from_secs(4));
    let (mut servers, mut asked) = (Vec::new(), [0; N]);
    for (name, code) in names.into_iter().zip(codes) {
        let fake = Fake::at(&namespace, name).await;
        builder = builder.server(&fake.address).transports(fake.transports.clone());
        servers.push((fake, code));
    }
    let begun = Instant::now();
    let refusing = futures::future::join_all(servers.iter_mut().zip(&mut asked).map(
        async |((fake, code), asked)| loop {
            let mut peer = fake.next().await;
            *asked += 1;
            assert!(matches!(peer.recv_any().await, Some(Frame::Hello(_))));
            peer.send(&Frame::Goodbye { refusal: Refusal::new(*code, "by the test") }).await;
        },
    ));
    let error = tokio::select! {
        result = builder.connect() => result.expect_err("nobody lets it in"),
        _ = refusing => unreachable!("it has no end"),
    };
    (error, asked, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn promise_15_a_first_connect_comes_in_when_what_it_was_refused_for_has_passed() {
    let mut fake = Fake::start().await;
    let (result, peer) = tokio::join!(fake.builder().connect(), async {
        for code in [RefusalCode::LimitReached, RefusalCode::Flooding, RefusalCode::LimitReached] {
            refuse(&mut fake, code).await;
        }
        // One that is full may have no words left.
        drop(fake.accept().await);
        fake.welcome().await
    });
    assert!(result.unwrap().state().borrow().is_connected());
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn promise_15_a_first_connect_that_is_refused_to_the_end_of_its_time_names_the_refusal() {
    let (error, [asked], took) = refused_by([RefusalCode::LimitReached]).await;
    let ConnectError::Refused { refusal, .. } = &error else { panic!("{error:?}") };
    assert!(error.may_pass() && refusal.code == RefusalCode::LimitReached, "{error}");
    // The last wait, of up to a second, would have been too long.
    assert!(took >= Duration::from_secs(3) && took <= Duration::from_secs(4), "{took:?}");
    assert!((6..=14).contains(&asked), "{asked} times in {took:?}");
    // Whoever is not wanted at all is told so at once.
    for code in
        [RefusalCode::Unauthorized, RefusalCode::VersionUnsupported, RefusalCode::OutOfRange]
    {
        let (error, asked, took) = refused_by([code]).await;
        assert_eq!((asked, took, error.may_pass()), ([1], Duration::ZERO, false), "{error}");
    }
    // A token that is wrong at one server is not tried there again and again.
    for codes in [
        [RefusalCode::LimitReached, RefusalCode::Unauthorized],
        [RefusalCode::Unauthorized, RefusalCode::LimitReached],
    ] {
        let (error, asked, took) = refused_by(codes).await;
        assert_eq!((asked, took), ([1, 1], Duration::ZERO), "{error}");
    }
    // One of several that may take it is enough.
    let (error, asked, took) =
        refused_by([RefusalCode::LimitReached, RefusalCode::OutOfRange]).await;
    assert!(asked[0] == asked[1] && asked[0] >= 6, "{asked:?} {error}");
    assert!(took >= Duration::from_secs(3) && took <= Duration::from_secs(4), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn promise_15_a_first_connect_has_no_more_time_for_being_refused_at_first() {
    let mut fake = Fake::start().await;
    let begun = Instant::now();
    let builder = fake.builder().connect_timeout(Duration::from_secs(2));
    let (result, _silent) = tokio::join!(builder.connect(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        refuse(&mut fake, RefusalCode::LimitReached).await;
        fake.accept().await
    });
    let Err(ConnectError::Refused { refusal, .. }) = &result else { panic!("{result:?}") };
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert_eq!(begun.elapsed().as_millis() / 10, 200, "one timeout for both");
    // Nobody goes on with it.
    assert!(fake.no_more().await);
}

#[tokio::test(start_paused = true)]
async fn a_first_connect_ends_with_the_first_refusal_that_does_not_pass() {
    let mut fake = Fake::start().await;
    let (result, ()) = tokio::join!(fake.builder().connect(), async {
        refuse(&mut fake, RefusalCode::LimitReached).await;
        refuse(&mut fake, RefusalCode::OutOfRange).await;
    });
    let Err(ConnectError::Refused { refusal, .. }) = &result else { panic!("{result:?}") };
    assert_eq!(refusal.code, RefusalCode::OutOfRange);
    assert!(fake.no_more().await);
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_token_is_taken_back_asks_seldom_and_at_once_with_another() {
    let mut fake = Fake::start().await;
    let (client, peer) = fake.connect(fake.builder().token("old")).await;
    drop(peer);
    let mut state = client.state();
    let (mut asked, start) = (0, Instant::now());
    while start.elapsed() < Duration::from_secs(300) {
        let mut peer = fake.accept().await;
        let Some(Frame::Hello(hello)) = peer.recv_any().await else { panic!("no hello") };
        assert_eq!(hello.token.as_deref(), Some("old"));
        let refusal = Refusal::new(RefusalCode::Unauthorized, "a valid token is needed");
        peer.send(&Frame::Goodbye { refusal }).await;
        asked += 1;
        let is_told = |state: &ConnectionState| match state {
            ConnectionState::Disconnected {
                error: ConnectError::Refused { .. }, retry_in, ..
            } => {
                assert!((15..=30).contains(&retry_in.as_secs()), "{retry_in:?}");
                true
            }
            _ => false,
        };
        within(state.wait_for(is_told)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(14)).await;
    }
    assert!((10..=21).contains(&asked), "{asked}");
    let since = Instant::now();
    client.set_token(Some("new".to_owned()));
    let peer = fake.welcome().await;
    assert_eq!(peer.hello.as_ref().unwrap().token.as_deref(), Some("new"));
    assert!(since.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn every_server_is_tried_before_connecting_fails() {
    let namespace = InProcess::new();
    let mut fake = Fake::at(&namespace, "third").await;
    let builder = Client::builder()
        .server("in-process://first")
        .server("in-process://second")
        .server(&fake.address)
        .transports(fake.transports.clone());
    let (client, _peer) = fake.connect(builder).await;
    assert!(client.state().borrow().is_connected());

    let none = Client::builder().server("in-process://first").transports(fake.transports.clone());
    let error = within(none.connect()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Transport { .. }), "{error}");
}

#[tokio::test]
async fn addresses_that_are_none_are_told_at_once() {
    assert!(matches!(Client::builder().connect().await, Err(ConnectError::NoServer)));
    assert!(matches!(Client::connect("tcp://").await, Err(ConnectError::Address(_))));
    let error = Client::connect("pigeon://x").await.unwrap_err().to_string();
    assert!(error.contains("pigeon") && error.contains("tcp"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn promise_15_a_broker_that_does_not_answer_the_hello_times_out() {
    let mut fake = Fake::start().await;
    let builder = fake.builder().connect_timeout(Duration::from_secs(2));
    let start = Instant::now();
    let (result, _peer) = tokio::join!(builder.connect(), fake.accept());
    assert!(matches!(result, Err(ConnectError::TimedOut { .. })), "{result:?}");
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn a_welcome_that_cannot_be_is_refused() {
    for spoil in 0..3 {
        let mut fake = Fake::start().await;
        let (result, _peer) = tokio::join!(fake.builder().connect(), async {
            let mut peer = fake.accept().await;
            let mut wrong = welcome();
            match spoil {
                0 => wrong.major = 2,
                1 => wrong.limits.frame_bytes_max = 100,
                _ => {
                    peer.send(&Frame::Pong { nonce: 1 }).await;
                    return peer;
                }
            }
            peer.greet(wrong).await;
            peer
        });
        assert!(matches!(result, Err(ConnectError::Protocol { .. })), "{spoil}: {result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_background_a_client_waits_for_a_broker_that_comes_later() {
    let namespace = InProcess::new();
    let transports = ltq_transport::Transports::new().with(namespace.clone());
    let client = Client::builder()
        .server("in-process://later")
        .transports(transports)
        .request_timeout(Duration::from_secs(30))
        .connect_in_background()
        .unwrap();
    let mut state = client.state();
    state.wait_for(|s| matches!(s, ConnectionState::Disconnected { .. })).await.unwrap();
    let opening = tokio::spawn({
        let client = client.clone();
        async move { client.producer("orders").await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut fake = Fake::at(&namespace, "later").await;
    let mut peer = fake.welcome().await;
    peer.open_producer(1, 0).await;
    opening.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn promise_15_requests_without_a_connection_end_by_their_deadline() {
    let client = Client::builder()
        .server("in-process://nowhere")
        .transports(ltq_transport::Transports::new().with(InProcess::new()))
        .request_timeout(Duration::from_secs(2))
        .connect_in_background()
        .unwrap();
    let start = Instant::now();
    let admin = client.admin();
    let (producer, consumer, topics) = tokio::join!(
        client.producer("orders"),
        client.consumer("orders", "billing"),
        admin.list_topics()
    );
    assert_eq!(start.elapsed().as_secs(), 2);
    let timed_out = |error: &RequestError| matches!(error, RequestError::TimedOut { .. });
    assert!(timed_out(&producer.unwrap_err()));
    assert!(timed_out(&consumer.unwrap_err()));
    assert!(timed_out(&topics.unwrap_err()));
}

#[tokio::test(start_paused = true)]
async fn attempts_to_connect_thin_out() {
    let client = Client::builder()
        .server("in-process://nowhere")
        .transports(ltq_transport::Transports::new().with(InProcess::new()))
        .connect_in_background()
        .unwrap();
    let mut state = client.state();
    let mut waits = Vec::new();
    while waits.len() < 12 {
        state.changed().await.unwrap();
        if let ConnectionState::Disconnected { retry_in, attempt, .. } = &*state.borrow_and_update()
        {
            assert_eq!(*attempt as usize, waits.len() + 1);
            waits.push(*retry_in);
        }
    }
    assert!(waits[0] <= Duration::from_millis(50));
    assert!(waits[11] >= Duration::from_millis(2_500) && waits[11] <= Duration::from_secs(5));
}

#[tokio::test]
async fn nothing_that_is_printed_for_debugging_shows_the_token() {
    let mut fake = Fake::start().await;
    let builder = fake.builder().token("hush-hush");
    let mut text = format!("{builder:?}");
    let (client, _peer) = fake.connect(builder).await;
    let producer = client.producer_builder("orders");
    let consumer = client.consumer_builder("orders", "c");
    text += &format!("{client:?} {:?} {producer:?} {consumer:?}", client.admin());
    text += &format!("{:?}", client.state());
    assert!(!text.contains("hush"), "{text}");
}
