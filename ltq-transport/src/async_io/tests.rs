use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufWriter, DuplexStream, duplex},
    time::timeout,
};

use super::*;

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.expect("within the deadline")
}

/// A stream over a writer that keeps what it can to itself until it is flushed.
fn buffered(pipe: usize) -> (Stream, DuplexStream) {
    let (near, far) = duplex(pipe);
    let (reader, writer) = tokio::io::split(near);
    (from_async_io(reader, BufWriter::with_capacity(1 << 20, writer)), far)
}

async fn send(stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
    within(poll_fn(|cx| stream.send.poll_send(cx, &[IoSlice::new(&[]), IoSlice::new(bytes)]))).await
}

#[tokio::test]
async fn what_was_taken_leaves_though_nothing_more_is_sent() {
    let (mut stream, mut far) = buffered(16);
    assert_eq!(send(&mut stream, &[7; 100_000]).await.unwrap(), 100_000);
    let mut received = vec![0; 100_000];
    within(far.read_exact(&mut received)).await.unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn a_send_waits_while_the_one_before_is_under_way() {
    let (mut stream, mut far) = buffered(16);
    send(&mut stream, &[1; 1000]).await.unwrap();
    let mut context = Context::from_waker(Waker::noop());
    assert!(stream.send.poll_send(&mut context, &[IoSlice::new(b"x")]).is_pending());
    assert!(stream.send.poll_finish(&mut context).is_pending());
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.map(|_| all.len())
    });
    send(&mut stream, &[2; 1000]).await.unwrap();
    within(poll_fn(|cx| stream.send.poll_finish(cx))).await.unwrap();
    assert_eq!(within(reader).await.unwrap().unwrap(), 2000);
    assert_eq!(send(&mut stream, b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn receiving_takes_up_to_max_and_nothing_while_pending() {
    let (mut stream, mut far) = buffered(16);
    let mut buffer = BytesMut::new();
    let mut context = Context::from_waker(Waker::noop());
    assert!(stream.recv.poll_recv(&mut context, &mut buffer, 9).is_pending());
    assert_eq!(buffer.capacity(), 0);
    far.write_all(b"abc").await.unwrap();
    for expected in [2, 1] {
        let received = within(poll_fn(|cx| stream.recv.poll_recv(cx, &mut buffer, 2))).await;
        assert_eq!(received.unwrap(), expected);
    }
    assert_eq!(&buffer[..], b"abc");
    drop(far);
    let end = within(poll_fn(|cx| stream.recv.poll_recv(cx, &mut buffer, 2))).await;
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn dropping_it_drops_the_writer_though_a_flush_is_under_way() {
    let (mut stream, mut far) = buffered(16);
    send(&mut stream, &[1; 1000]).await.unwrap();
    drop(stream);
    let mut all = Vec::new();
    within(far.read_to_end(&mut all)).await.unwrap();
    assert!(all.len() < 1000);
}

#[tokio::test]
async fn a_failure_is_told_again() {
    let (mut stream, far) = buffered(16);
    drop(far);
    while send(&mut stream, b"x").await.is_ok() {}
    assert!(send(&mut stream, b"x").await.is_err());
    assert!(within(poll_fn(|cx| stream.send.poll_finish(cx))).await.is_err());
}
