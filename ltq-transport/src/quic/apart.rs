//! Datagrams that came together, one by one.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{BATCH_SIZE, RecvMeta, Transmit},
};

/// A socket that hands out each datagram by itself.
///
/// The kernel joins datagrams of one sender (GRO), and quinn puts what came together into one piece of
/// memory, which lives as long as one byte of it is of use: a byte that nobody reads would keep 64 KiB. So
/// each is copied out, and still they come from the kernel by one call.
pub(super) struct Apart {
    socket: Arc<dyn AsyncUdpSocket>,
    received: Mutex<Received>,
}

impl Apart {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>) -> Arc<Self> {
        // What cannot be joined comes alone as it is.
        let joined = socket.max_receive_segments() > 1;
        let bytes = if joined { JOINED_BYTES_MAX } else { DATAGRAM_BYTES_MAX };
        let received = Received {
            buffers: vec![0; bytes * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
            count: 0,
            next: 0,
            offset: 0,
        };
        Arc::new(Self { socket, received: Mutex::new(received) })
    }
}

/// What was received together and not handed out so far.
struct Received {
    buffers: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    /// How many there are, which of them is next, and from where on.
    count: usize,
    next: usize,
    offset: usize,
}

impl Received {
    fn poll_fill(
        &mut self,
        socket: &dyn AsyncUdpSocket,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.buffers.len() / BATCH_SIZE;
        let mut chunks = self.buffers.chunks_mut(size.max(1));
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        (self.next, self.offset, self.count) = (0, 0, 0);
        self.count = ready!(socket.poll_recv(context, &mut buffers, &mut self.metas))?;
        Poll::Ready(Ok(()))
    }

    /// The next datagram, and what is known of it.
    fn next(&mut self) -> Option<(&[u8], RecvMeta)> {
        let size = self.buffers.len() / BATCH_SIZE;
        while self.next < self.count {
            let meta = *self.metas.get(self.next)?;
            let left = meta.len.min(size).saturating_sub(self.offset);
            if left == 0 {
                (self.next, self.offset) = (self.next + 1, 0);
                continue;
            }
            let length = left.min(meta.stride.max(1));
            let from = self.next * size + self.offset;
            self.offset += length;
            let datagram = self.buffers.get(from..from + length)?;
            return Some((datagram, RecvMeta { len: length, stride: length, ..meta }));
        }
        None
    }
}

impl AsyncUdpSocket for Apart {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut received = self.received.lock();
        loop {
            let mut count = 0;
            for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()) {
                let Some((datagram, about)) = received.next() else { break };
                // A longer one than quinn has room for is none of its own: it cannot be made sense of.
                let length = datagram.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..length), datagram.get(..length)) {
                    to.copy_from_slice(from);
                }
                *meta = RecvMeta { len: length, stride: length, ..about };
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            ready!(received.poll_fill(&*self.socket, context))?;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl fmt::Debug for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apart").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// What the kernel joins at most.
const JOINED_BYTES_MAX: usize = 64 << 10;
/// More than any packet of QUIC has on its way.
const DATAGRAM_BYTES_MAX: usize = 2 << 10;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::task::noop_waker;

    use super::*;

    /// What one read brings: of each message the bytes, and how many are one datagram.
    type Read = Vec<(Vec<u8>, usize)>;

    #[derive(Debug)]
    struct Joined(Mutex<VecDeque<Read>>);

    impl AsyncUdpSocket for Joined {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nothing is sent")
        }

        fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            buffers: &mut [IoSliceMut<'_>],
            metas: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            let Some(messages) = self.0.lock().pop_front() else { return Poll::Pending };
            for (nth, (bytes, stride)) in messages.iter().enumerate() {
                buffers[nth][..bytes.len()].copy_from_slice(bytes);
                let addr = ([127, 0, 0, 1], nth as u16).into();
                metas[nth] =
                    RecvMeta { addr, len: bytes.len(), stride: *stride, ecn: None, dst_ip: None };
            }
            Poll::Ready(Ok(messages.len()))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 1).into())
        }

        fn max_receive_segments(&self) -> usize {
            64
        }
    }

    /// What is handed out, so many at a time: the sender's port and the bytes.
    fn handed_out(reads: Vec<Vec<(Vec<u8>, usize)>>, at_once: usize) -> Vec<(u16, usize, Vec<u8>)> {
        let apart = Apart::new(Arc::new(Joined(Mutex::new(reads.into()))));
        assert_eq!(apart.max_receive_segments(), 1);
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let mut all = Vec::new();
        let mut memory = vec![vec![0; 1_472]; at_once];
        loop {
            let mut buffers: Vec<_> =
                memory.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let mut metas = vec![RecvMeta::default(); at_once];
            match apart.poll_recv(&mut context, &mut buffers, &mut metas) {
                Poll::Ready(received) => {
                    let received = received.unwrap();
                    assert!((1..=at_once).contains(&received));
                    for (buffer, meta) in buffers.iter().zip(&metas).take(received) {
                        all.push((meta.addr.port(), meta.stride, buffer[..meta.len].to_vec()));
                    }
                }
                Poll::Pending => return all,
            }
        }
    }

    #[test]
    fn promise_9_datagrams_that_came_together_are_handed_out_one_by_one() {
        let joined: Vec<u8> = (0..=255).cycle().take(50_000).collect();
        for at_once in [1, 3, BATCH_SIZE] {
            let reads = vec![
                vec![(joined.clone(), 1_200), (vec![1, 2, 3], 3)],
                // An empty one is nothing.
                vec![(Vec::new(), 0)],
                vec![(vec![9; 1_000], 400), (vec![8; 64 << 10], 1_024)],
                // Longer than what QUIC would send: cut off.
                vec![(vec![7; 2_000], 2_000)],
            ];
            let mut expected = Vec::new();
            expected.extend(joined.chunks(1_200).map(|it| (0, it.len(), it.to_vec())));
            expected.push((1, 3, vec![1, 2, 3]));
            expected.extend([400, 400, 200].map(|length| (0, length, vec![9; length])));
            expected.extend((0..64).map(|_| (1, 1_024, vec![8; 1_024])));
            expected.push((0, 1_472, vec![7; 1_472]));
            assert_eq!(handed_out(reads, at_once), expected);
        }
    }
}
