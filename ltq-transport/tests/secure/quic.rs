//! What only QUIC does: windows, idle connections, addresses that change, and runtimes.

use std::time::Duration;

use futures::FutureExt as _;
use ltq_transport::QuicOptions;

use super::*;

#[test]
fn promise_10_quic_clients_that_go_silent_hold_nobody_up() {
    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }
    let authority = Authority::new();
    let options = QuicOptions {
        handshake_timeout: std::time::Duration::from_secs(1000),
        handshakes_max: 4,
        ..QuicOptions::default()
    };
    let here = runtime();
    let server = Quic::new(options).serving(authority.server());
    let mut listener = here.block_on(server.listen(&Kind::Quic.here())).unwrap();
    let address = listener.local_address();
    for _ in 0..20 {
        // Its first packet leaves, and then there is nobody any more who could say a word.
        let elsewhere = runtime();
        let client = Kind::Quic.client(authority.client());
        elsewhere.block_on(async {
            let mut connecting = client.connect(&address);
            for _ in 0..10 {
                assert!(futures::poll!(connecting.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
            std::mem::forget(connecting);
        });
        elsewhere.shutdown_background();
    }
    here.block_on(async {
        let client = Kind::Quic.client(authority.client());
        let (near, far) = meet(&*client, &mut listener).await;
        open(&*near, &*far, b"served").await;
    });
}

#[test]
fn promise_10_a_quic_client_that_is_silent_is_lost_after_the_idle_timeout() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (authority, here, elsewhere) = (Authority::new(), runtime(), runtime());
    let idle_timeout = Duration::from_millis(300);
    let options = QuicOptions { idle_timeout, ..QuicOptions::default() };
    let server = Quic::new(options).serving(authority.server());
    let mut listener = here.block_on(server.listen(&Kind::Quic.here())).unwrap();
    let address = listener.local_address();
    let accepting = std::thread::spawn(move || {
        let far = here.block_on(listener.accept()).unwrap();
        (here, far, listener)
    });
    let client = Kind::Quic.client(authority.client());
    let near = elsewhere.block_on(client.connect(&address)).unwrap();
    let (here, far, _listener) = accepting.join().unwrap();
    // Nothing of the client goes on while nobody runs it.
    let lost = here.block_on(within(far.accept_stream())).map(|_| ()).unwrap_err();
    assert!(lost.to_string().contains("timed out"), "{lost}");
    drop(near);
}

#[tokio::test]
async fn a_quic_connection_without_anything_to_say_is_kept_alive() {
    let authority = Authority::new();
    let idle_timeout = Duration::from_millis(400);
    let keep_alive = Some(Duration::from_millis(100));
    let options = QuicOptions { idle_timeout, keep_alive, ..QuicOptions::default() };
    let server = Quic::new(options.clone()).serving(authority.server());
    let mut listener = server.listen(&Kind::Quic.here()).await.unwrap();
    // One side is enough, and without any it would be lost.
    let silent = QuicOptions { keep_alive: None, ..options };
    let client = Quic::new(silent).trusting(authority.client());
    let (near, far) = meet(&client, &mut listener).await;
    let ended = tokio::time::timeout(4 * idle_timeout, far.accept_stream()).await;
    assert!(ended.is_err(), "it ended: {:?}", ended.map(|it| it.map(|_| ())));
    open(&*near, &*far, b"still there").await;
}

#[tokio::test]
async fn a_quic_connection_goes_on_from_another_address() {
    let authority = Authority::new();
    let mut listener =
        Kind::Quic.server(authority.server()).listen(&Kind::Quic.here()).await.unwrap();
    let client = Quic::default().trusting(authority.client());
    let (near, far) = meet(&client, &mut listener).await;
    let (mut near_stream, mut far_stream) = open(&*near, &*far, b"before").await;
    for _ in 0..3 {
        client.rebind().unwrap();
        echo(&mut near_stream, &mut far_stream, &[7; 100_000]).await;
    }
    open(&*near, &*far, b"another stream").await;
}

#[test]
fn a_quic_transport_outlives_the_runtime_that_it_was_first_used_on() {
    let authority = Authority::new();
    let serving = tokio::runtime::Runtime::new().unwrap();
    let server = Kind::Quic.server(authority.server());
    let mut listener = serving.block_on(server.listen(&Kind::Quic.here())).unwrap();
    let client = Kind::Quic.client(authority.client());
    for _ in 0..2 {
        let here = tokio::runtime::Runtime::new().unwrap();
        let address = listener.local_address();
        let (near, far) = std::thread::scope(|scope| {
            let accepting = scope.spawn(|| serving.block_on(within(listener.accept())));
            let near = here.block_on(within(client.connect(&address)));
            (near.unwrap(), accepting.join().unwrap().unwrap())
        });
        here.block_on(open(&*near, &*far, b"served"));
        drop((near, far));
    }
}

#[test]
fn clients_learn_at_once_that_a_quic_server_was_killed_and_started_again() {
    let authority = Authority::new();
    let trust = authority.server();
    let options = || QuicOptions {
        idle_timeout: std::time::Duration::from_secs(1000),
        keep_alive: None,
        ..QuicOptions::default()
    };
    let server = || Quic::new(options()).serving(trust.clone());
    let killed = tokio::runtime::Runtime::new().unwrap();
    let here = tokio::runtime::Runtime::new().unwrap();
    let mut listener = killed.block_on(server().listen(&Kind::Quic.here())).unwrap();
    let address = listener.local_address();
    let accepting = killed.spawn(async move {
        let far = listener.accept().await.unwrap();
        let mut stream = far.accept_stream().await.unwrap().unwrap();
        assert_eq!(&recv(&mut stream).await.unwrap()[..], b"hello");
        (listener, far, stream)
    });
    let client = Quic::new(options()).trusting(authority.client());
    here.block_on(async {
        let near = within(client.connect(&address)).await.unwrap();
        let mut stream = within(near.open_stream()).await.unwrap();
        send(&mut stream, b"hello").await.unwrap();
        let held = within(accepting).await.unwrap();
        // Once its tasks are gone nothing can be sent for it any more.
        let patience = std::time::Duration::from_secs(20);
        tokio::task::spawn_blocking(move || killed.shutdown_timeout(patience)).await.unwrap();
        drop(held);
        let _again = within(async {
            loop {
                match server().listen(&address).await {
                    Ok(listener) => break listener,
                    // Its sockets are closed when its tasks are gone.
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        })
        .await;
        send(&mut stream, b"are you there?").await.unwrap();
        let lost = within(recv(&mut stream)).await.unwrap_err();
        assert!(lost.to_string().contains("lost"), "{lost}");
    });
}

#[test]
fn promise_11_clients_learn_at_once_that_a_quic_server_stopped_with_its_runtime() {
    let authority = Authority::new();
    let (ready, at) = std::sync::mpsc::channel();
    let server = authority.server();
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let quic = Quic::default().serving(server);
            let mut listener = quic.listen(&Kind::Quic.here()).await.unwrap();
            ready.send(listener.local_address()).unwrap();
            let connection = within(listener.accept()).await.unwrap();
            // As a process ends: everything is dropped, and its runtime with it.
            drop((connection, listener));
            within(quic.settled()).await;
        });
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Kind::Quic.client(authority.client());
        let near = within(client.connect(&at.recv().unwrap())).await.unwrap();
        let learnt = tokio::time::timeout(Duration::from_secs(10), near.accept_stream()).await;
        // Not by the idle timeout, which is longer, and not as a loss.
        assert!(learnt.expect("word of it").unwrap().is_none());
    });
    serving.join().unwrap();
}

#[tokio::test]
async fn a_quic_transport_is_settled_once_no_connection_is_left_and_not_before() {
    let authority = Authority::new();
    let (server, client) = (Quic::default(), Quic::default());
    let (server, client) =
        (server.serving(authority.server()), client.trusting(authority.client()));
    within(async { tokio::join!(server.settled(), client.settled()) }).await;
    let mut listener = server.listen(&Kind::Quic.here()).await.unwrap();
    let (near, far) = meet(&client, &mut listener).await;
    drop(listener);
    for quic in [&server, &client] {
        assert!(quic.settled().now_or_never().is_none());
    }
    drop((near, far));
    within(async { tokio::join!(server.settled(), client.settled()) }).await;
}
