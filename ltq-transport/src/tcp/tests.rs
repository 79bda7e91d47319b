use std::{
    future::poll_fn,
    io::{IoSlice, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use bytes::BytesMut;
use ltq_core::Stream;
use tokio::time::timeout;

use super::*;

const WAIT: Duration = Duration::from_secs(10);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(WAIT, future).await.expect("within the deadline")
}

async fn send(stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
    within(poll_fn(|cx| stream.send.poll_send(cx, &[IoSlice::new(bytes)]))).await
}

async fn recv(stream: &mut Stream, buffer: &mut BytesMut) -> io::Result<usize> {
    within(poll_fn(|cx| stream.recv.poll_recv(cx, buffer, 64 << 10))).await
}

async fn listen(address: &str) -> Box<dyn Listener> {
    Tcp::default().listen(&address.parse().unwrap()).await.unwrap()
}

/// A port that nobody listens on, and nobody else can get while the socket lives.
fn silent() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// The near side as a stream, the far side as a plain socket.
async fn linked() -> (Stream, std::net::TcpStream) {
    let far = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = within(Tcp::default().connect(&address_of(SCHEME, far.local_addr().unwrap()))).await;
    let (far, _) = far.accept().unwrap();
    (near.unwrap().open_stream().await.unwrap(), far)
}

#[tokio::test]
async fn a_port_asked_for_as_0_is_filled_in_over_ipv4_ipv6_and_names() {
    for (asked, prefix) in [
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:"),
        ("tcp://[::1]:0", "tcp://[::1]:"),
        ("tcp://localhost:0", "tcp://"),
    ] {
        let mut listener = listen(asked).await;
        let local = listener.local_address();
        assert!(local.to_string().starts_with(prefix), "{local}");
        assert!(!local.rest().ends_with(":0"));
        let near = within(Tcp::default().connect(&local)).await.unwrap();
        let far = within(listener.accept()).await.unwrap();
        assert_eq!(near.peer().address, local);
        assert_eq!(far.peer().address.scheme(), "tcp");
        assert!(!near.multiplexed());
    }
}

#[tokio::test]
async fn all_addresses_of_a_name_are_tried() {
    let listener = listen("tcp://127.0.0.1:0").await;
    let port = HostPort::of(&listener.local_address(), SCHEME).unwrap().port;
    let (_held, silent) = silent();
    let candidates = vec![
        silent,
        SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port),
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
    ];
    let (_, met) = within(first_of(candidates, attempt)).await.unwrap();
    assert!(met.is_ipv4());
    let none = within(first_of(vec![], attempt)).await.unwrap_err();
    assert_eq!(none.kind(), io::ErrorKind::NotFound);
    let refused = within(first_of(vec![silent, silent], attempt)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn sockets_are_set_up_on_both_sides() {
    let options = TcpOptions::default();
    let asked = "tcp://127.0.0.1:0".parse().unwrap();
    let sockets = Sockets::listen(SCHEME, &options, &asked).await.unwrap();
    let _near = within(Tcp::default().connect(&sockets.local_address())).await.unwrap();
    let (far, _) = within(sockets.next()).await.unwrap();
    let socket = SockRef::from(&far);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
}

#[tokio::test]
async fn a_value_that_the_system_refuses_fails_at_listening() {
    let keepalive = Keepalive { idle: Duration::ZERO, ..Keepalive::default() };
    let tcp = Tcp::new(TcpOptions { keepalive: Some(keepalive), ..TcpOptions::default() });
    let error = tcp.listen(&"tcp://127.0.0.1:0".parse().unwrap()).await.err().unwrap();
    assert!(error.to_string().starts_with("listening on tcp://127.0.0.1:0 failed"), "{error}");
}

#[tokio::test]
async fn errors_say_what_was_being_done() {
    let taken = listen("tcp://127.0.0.1:0").await;
    let address = taken.local_address();
    let error = Tcp::default().listen(&address).await.err().unwrap().to_string();
    assert!(error.starts_with(&format!("listening on {address} failed: ")), "{error}");
    let (_held, silent) = silent();
    let address = address_of(SCHEME, silent);
    let error = within(Tcp::default().connect(&address)).await.err().unwrap().to_string();
    assert!(error.starts_with(&format!("connecting to {address} failed: ")), "{error}");
    let nowhere: Address = "tcp://no-such-host.invalid:1".parse().unwrap();
    let error = within(Tcp::default().connect(&nowhere)).await.err().unwrap().to_string();
    assert!(error.starts_with(&format!("looking up the host of {nowhere} failed: ")), "{error}");
    let zero: Address = "tcp://127.0.0.1:0".parse().unwrap();
    let error = within(Tcp::default().connect(&zero)).await.err().unwrap();
    assert!(matches!(error, TransportError::Address { .. }), "{error}");
}

#[tokio::test]
async fn a_reset_that_the_sending_half_learns_of_is_no_orderly_end_to_the_receiving_one() {
    let (mut near, far) = linked().await;
    SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
    drop(far);
    while send(&mut near, b"x").await.is_ok() {}
    for _ in 0..3 {
        assert!(send(&mut near, b"x").await.is_err());
        assert!(recv(&mut near, &mut BytesMut::new()).await.is_err());
        assert!(poll_fn(|cx| near.send.poll_finish(cx)).await.is_err());
    }
}

#[tokio::test]
async fn what_arrived_before_a_reset_is_received_and_then_the_error() {
    let (mut near, mut far) = linked().await;
    far.write_all(b"last words").unwrap();
    // Left unread on the far side, this makes its closing a reset.
    send(&mut near, b"unread").await.unwrap();
    far.peek(&mut [0]).unwrap();
    drop(far);
    let mut buffer = BytesMut::new();
    while recv(&mut near, &mut buffer).await.is_ok_and(|received| received > 0) {}
    assert_eq!(&buffer[..], b"last words");
    assert!(recv(&mut near, &mut buffer).await.is_err());
    assert!(recv(&mut near, &mut buffer).await.is_err());
}

#[tokio::test]
async fn half_a_stream_ends_the_peers_reading_and_goes_on_reading() {
    let (mut near, mut far) = linked().await;
    send(&mut near, b"question").await.unwrap();
    drop(near.send);
    let mut question = String::new();
    far.read_to_string(&mut question).unwrap();
    far.write_all(b"answer").unwrap();
    drop(far);
    let mut buffer = BytesMut::new();
    while within(poll_fn(|cx| near.recv.poll_recv(cx, &mut buffer, 9))).await.unwrap() > 0 {}
    assert_eq!((&*question, &buffer[..]), ("question", &b"answer"[..]));
}

#[tokio::test]
async fn one_receive_takes_much_when_there_is_much() {
    let (mut near, mut far) = linked().await;
    let writer = std::thread::spawn(move || far.write_all(&vec![1; 16 << 20]).unwrap());
    let mut most = 0;
    loop {
        let received = poll_fn(|cx| near.recv.poll_recv(cx, &mut BytesMut::new(), 1 << 20));
        match within(received).await.unwrap() {
            0 => break,
            bytes => most = most.max(bytes),
        }
    }
    writer.join().unwrap();
    assert!((64 << 10..=256 << 10).contains(&most), "{most}");
}
