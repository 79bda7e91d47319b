//! What a QUIC connection can be made to hold.

use std::time::Duration;

use futures::FutureExt as _;
use ltq_core::{Connection, Stream, Transport};
use ltq_transport::{Quic, QuicOptions};

use crate::support::{Authority, Kind, echo, meet, open, send, within};

#[tokio::test]
async fn promise_9_a_quic_client_that_is_not_welcomed_can_fill_little_memory() {
    let authority = Authority::new();
    let kind = Kind::Quic;
    let mut listener = kind.server(authority.server()).listen(&kind.here()).await.unwrap();
    let (near, far) = meet(&*kind.client(authority.client()), &mut listener).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(near.open_stream().await.unwrap());
    }
    // What nobody reads, over all streams, until no more is taken.
    let mut taken = 0;
    for stream in &mut streams {
        let sent = within(send(stream, &[7; 30_000])).now_or_never();
        taken += if matches!(sent, Some(Ok(()))) { 30_000 } else { 0 };
    }
    assert_eq!(taken, 60_000);
    far.welcomed();
    let mut stream = near.open_stream().await.unwrap();
    within(send(&mut stream, &[7; 1_000_000])).await.unwrap();
}

/// Sends pieces over streams that nobody reads until no more is taken, and says how much was.
async fn fill(connection: &dyn Connection, streams: usize, piece: usize) -> usize {
    let (mut all, mut taken) = (Vec::new(), 0);
    for _ in 0..streams {
        let mut stream = connection.open_stream().await.unwrap();
        while matches!(send(&mut stream, &vec![7; piece]).now_or_never(), Some(Ok(()))) {
            taken += piece;
        }
        all.push(stream);
        // So many sends in one go are all that tokio allows.
        tokio::task::yield_now().await;
    }
    taken
}

#[tokio::test]
async fn promise_9_a_welcomed_quic_client_fills_its_windows_and_no_more() {
    let authority = Authority::new();
    let options = QuicOptions {
        stream_window: 100_000,
        connection_window: 250_000,
        send_window: 70_000,
        windows_bytes_max: 1 << 30,
        ..QuicOptions::default()
    };
    let server = Quic::new(options).serving(authority.server());
    let mut listener = server.listen(&Kind::Quic.here()).await.unwrap();
    let (near, far) = meet(&*Kind::Quic.client(authority.client()), &mut listener).await;
    far.welcomed();
    far.welcomed();
    // Two and a half times what is received, and 32 KiB for each of 16 streams.
    assert_eq!(server.window_bytes(), 625_000 + 70_000 + 16 * (32 << 10));
    // Its windows get to know of the welcome with the next packet.
    open(&*near, &*far, b"hello").await;
    let taken = fill(&*near, 5, 10_000).await;
    assert!((220_000..=250_000).contains(&taken), "{taken}");
    drop((near, far));
    within(server.settled()).await;
    assert_eq!(server.window_bytes(), 0);
}

#[test]
fn promise_9_what_a_quic_client_does_not_acknowledge_fills_the_send_window_and_no_more() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (authority, here, elsewhere) = (Authority::new(), runtime(), runtime());
    let options = QuicOptions { send_window: 70_000, ..QuicOptions::default() };
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
    far.welcomed();
    let taken = here.block_on(fill(&*far, 3, 1_000));
    assert_eq!(taken, 70_000);
    drop(near);
}

#[tokio::test]
async fn promise_9_quic_connections_share_what_windows_may_come_to() {
    let authority = Authority::new();
    let options = QuicOptions { windows_bytes_max: 8 << 20, ..QuicOptions::default() };
    let server = Quic::new(options).serving(authority.server());
    let mut listener = server.listen(&Kind::Quic.here()).await.unwrap();
    let client = Kind::Quic.client(authority.client());
    let mut there = Vec::new();
    for _ in 0..40 {
        let (near, far) = meet(&*client, &mut listener).await;
        assert!(server.window_bytes() <= 8 << 20);
        far.welcomed();
        open(&*near, &*far, b"hello").await;
        there.push((near, far));
    }
    assert_eq!(server.window_bytes(), 8 << 20);
    // The first has an eighth of it, and the last what everybody has.
    let first = fill(&*there[0].0, 9, 2_000).await;
    let last = fill(&*there[39].0, 4, 2_000).await;
    assert!(
        (990_000..=1 << 20).contains(&first) && (50_000..=64 << 10).contains(&last),
        "{first}, {last}"
    );
}

/// Opens streams and says a byte on each, until the peer allows no more for now.
async fn open_all(connection: &dyn Connection) -> Vec<Stream> {
    let mut streams = Vec::new();
    while let Ok(opened) = tokio::time::timeout(QUIET, connection.open_stream()).await {
        let mut stream = opened.unwrap();
        send(&mut stream, b"!").await.unwrap();
        streams.push(stream);
    }
    streams
}

async fn accept(connection: &dyn Connection) -> Stream {
    within(connection.accept_stream()).await.unwrap().unwrap()
}

#[tokio::test]
async fn promise_9_a_quic_client_has_few_streams_that_nobody_accepted() {
    let authority = Authority::new();
    let options = QuicOptions {
        streams_max: 20,
        unwelcomed_streams_max: 3,
        unaccepted_streams_max: 5,
        ..QuicOptions::default()
    };
    let server = Quic::new(options).serving(authority.server());
    let mut listener = server.listen(&Kind::Quic.here()).await.unwrap();
    let (near, far) = meet(&*Kind::Quic.client(authority.client()), &mut listener).await;
    let mut there = open_all(&*near).await;
    assert_eq!(there.len(), 3, "before it is welcomed");
    // Accepting some brings none before that either.
    let mut accepted = vec![accept(&*far).await, accept(&*far).await];
    assert_eq!(open_all(&*near).await.len(), 0, "before it is welcomed");
    far.welcomed();
    let before = server.window_bytes();
    there.extend(open_all(&*near).await);
    assert_eq!(there.len(), 2 + 5, "once it is");
    for _ in 2..7 {
        accepted.push(accept(&*far).await);
    }
    assert_eq!(server.window_bytes(), before + 5 * (32 << 10));
    there.extend(open_all(&*near).await);
    assert_eq!(there.len(), 7 + 5, "and those are accepted");
    for _ in 7..12 {
        accepted.push(accept(&*far).await);
    }
    there.extend(open_all(&*near).await);
    for _ in 12..17 {
        accepted.push(accept(&*far).await);
    }
    there.extend(open_all(&*near).await);
    assert_eq!(there.len(), 20, "in all");
    // Those that end make room for as many that are accepted, and leave few of the others.
    for (near, far) in there[..17].iter_mut().zip(&mut accepted) {
        within(async {
            let (one, other) = tokio::join!(finish(near), finish(far));
            one.unwrap();
            other.unwrap();
        })
        .await;
    }
    there.drain(..17);
    accepted.clear();
    there.extend(open_all(&*near).await);
    assert!((5..=6).contains(&there.len()), "{} that nobody accepted", there.len());
    let used = server.window_bytes();
    assert!(used <= before, "{used} bytes, and {before} with two streams");
}

async fn finish(stream: &mut Stream) -> std::io::Result<()> {
    std::future::poll_fn(|context| stream.send.poll_finish(context)).await
}

/// Though it fills all that it may, with windows as small as they get.
#[tokio::test]
async fn promise_10_quic_streams_that_nobody_reads_stop_no_other_where_windows_are_narrow() {
    let authority = Authority::new();
    for (windows_bytes_max, unread) in [(1, 3), (8 << 20, 3), (512 << 20, 15)] {
        let options = QuicOptions { windows_bytes_max, ..QuicOptions::default() };
        let server = Quic::new(options).serving(authority.server());
        let mut listener = server.listen(&Kind::Quic.here()).await.unwrap();
        let (near, far) = meet(&*Kind::Quic.client(authority.client()), &mut listener).await;
        far.welcomed();
        let (mut here, mut there) = open(&*near, &*far, b"hello").await;
        let mut stalled = Vec::new();
        for _ in 0..unread {
            let (mut filled, left) = open(&*near, &*far, b"hello").await;
            // Until the last byte that it takes for now.
            while let Ok(sent) = tokio::time::timeout(QUIET, send(&mut filled, &[7; 1_000])).await {
                sent.unwrap();
            }
            stalled.push((filled, left));
        }
        echo(&mut here, &mut there, &[1; 200_000]).await;
        drop(stalled);
    }
}

/// A client that is one too many proves that its address is its own, and then waits for one that has had its
/// time: both are counted.
#[tokio::test]
async fn promise_10_quic_clients_that_meet_many_others_are_counted() {
    let authority = Authority::new();
    for attempt in 0.. {
        assert!(attempt < 10, "this machine is too busy");
        let options = QuicOptions { handshakes_max: 1, ..QuicOptions::default() };
        let server = Quic::new(options).serving(authority.server());
        let mut listener = server.listen(&Kind::Quic.here()).await.unwrap();
        let address = listener.local_address();
        let silent = Kind::Quic.client(authority.client());
        let elsewhere = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Its first packet leaves, and then it says nothing more.
        let elsewhere = std::thread::spawn(move || {
            elsewhere.block_on(async {
                let mut connecting = silent.connect(&address);
                for _ in 0..10 {
                    assert!(futures::poll!(connecting.as_mut()).is_pending());
                    tokio::task::yield_now().await;
                }
                std::mem::forget(connecting);
            });
            elsewhere.shutdown_background();
        });
        elsewhere.join().unwrap();
        let (near, far) = meet(&*Kind::Quic.client(authority.client()), &mut listener).await;
        open(&*near, &*far, b"served").await;
        let failures = server.handshake_failures();
        assert!(failures.retried > 0, "{failures:?}");
        if failures.ignored > 0 {
            break;
        }
    }
}

/// For what waits.
const QUIET: Duration = Duration::from_millis(300);
