//! Connections that break in the middle of everything.

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::BytesMut;
use futures::{StreamExt, stream::FuturesOrdered};
use ltq_client::{Client, Message};
use ltq_core::{
    Address, Connection, Listener, Peer, RecvStream, SendStream, Stream, Transport, TransportError,
};
use ltq_transport::{InProcess, Transports};

use super::namespace;
use crate::node::{Node, within};

/// An in-process transport whose connections are cut after some bytes, each after more.
#[derive(Clone)]
struct Fragile {
    inner: InProcess,
    connections: Arc<AtomicU64>,
    seed: u64,
}

/// Bytes until the cut, in both directions together.
type Fuse = Arc<AtomicI64>;

struct FragileConnection(Box<dyn Connection>, Fuse);
struct FragileSend(Box<dyn SendStream>, Fuse);
struct FragileRecv(Box<dyn RecvStream>, Fuse);

#[async_trait]
impl Transport for Fragile {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        self.inner.listen(address).await
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let chance = (number.wrapping_add(self.seed)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        // Later ones last longer, so that the test ends.
        let bytes = 300 + chance % (2_000 * number);
        let fuse = Arc::new(AtomicI64::new(bytes as i64));
        let connection = self.inner.connect(address).await?;
        Ok(Box::new(FragileConnection(connection, fuse)))
    }
}

#[async_trait]
impl Connection for FragileConnection {
    fn multiplexed(&self) -> bool {
        self.0.multiplexed()
    }
    fn peer(&self) -> &Peer {
        self.0.peer()
    }
    async fn open_stream(&self) -> Result<Stream, TransportError> {
        let Stream { send, recv } = self.0.open_stream().await?;
        Ok(Stream {
            send: Box::new(FragileSend(send, self.1.clone())),
            recv: Box::new(FragileRecv(recv, self.1.clone())),
        })
    }
    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        self.0.accept_stream().await
    }
}

fn burn(fuse: &Fuse, bytes: usize) {
    fuse.fetch_sub(bytes as i64, Ordering::Relaxed);
}

fn intact(fuse: &Fuse) -> io::Result<usize> {
    match usize::try_from(fuse.load(Ordering::Relaxed)) {
        Ok(left @ 1..) => Ok(left),
        _ => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

impl SendStream for FragileSend {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let left = intact(&self.1)?;
        let first = bytes.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        let cut = &first[..first.len().min(left)];
        let sent = self.0.poll_send(context, &[IoSlice::new(cut)]);
        if let Poll::Ready(Ok(sent)) = &sent {
            burn(&self.1, *sent);
        }
        sent
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_finish(context)
    }
}

impl RecvStream for FragileRecv {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let left = intact(&self.1)?;
        let received = self.0.poll_recv(context, buffer, max.min(left));
        if let Poll::Ready(Ok(received)) = &received {
            burn(&self.1, *received);
        }
        received
    }
}

async fn fragile(seed: u64) -> (Node, Client, Client, Arc<AtomicU64>) {
    let inner = namespace();
    let node = Node::at(inner.clone(), "in-process://node").await;
    let connections = Arc::new(AtomicU64::new(0));
    let transport = Fragile { inner, connections: connections.clone(), seed };
    let builder = node.builder().transports(Transports::new().with(transport));
    let steady = node.client().await;
    // The first attempts may be cut in the hello.
    (node, builder.connect_in_background().unwrap(), steady, connections)
}

#[tokio::test]
async fn promise_6_whatever_breaks_every_message_is_stored_once_and_in_order() {
    for seed in 0..20 {
        let (_node, client, steady, connections) = fragile(seed).await;
        let producer = within(client.producer("orders")).await.unwrap();
        const COUNT: u64 = 3_000;
        let mut pending = FuturesOrdered::new();
        for n in 0..COUNT {
            pending.push_back(within(producer.enqueue(Message::new(n.to_string()))).await.unwrap());
        }
        let mut n = 0;
        while let Some(receipt) = within(pending.next()).await {
            let receipt = receipt.unwrap();
            assert_eq!(receipt.sequence, n + 1, "seed {seed}");
            assert!(receipt.offset.is_none_or(|offset| offset.0 == n), "seed {seed}: {receipt:?}");
            n += 1;
        }
        assert_eq!(n, COUNT);
        let mut consumer = within(steady.consumer("orders", "check")).await.unwrap();
        let mut next = 0;
        while next < COUNT {
            let batch = within(consumer.next_batch(1_000)).await.unwrap().unwrap();
            for received in batch.iter() {
                assert_eq!(received.unwrap().message.body, next.to_string(), "seed {seed}");
                next += 1;
            }
            batch.ack_all().unwrap();
        }
        let shown = within(steady.admin().show_topic("orders")).await.unwrap();
        assert_eq!(shown.end.0, COUNT, "seed {seed}");
        assert!(connections.load(Ordering::Relaxed) > 3, "seed {seed}: nothing broke");
    }
}

#[tokio::test]
async fn promise_2_whatever_breaks_every_message_is_delivered_until_it_is_acked() {
    for seed in 0..20 {
        let (_node, client, steady, connections) = fragile(seed).await;
        const COUNT: u64 = 2_000;
        let producer = within(steady.producer("orders")).await.unwrap();
        let messages: Vec<_> = (0..COUNT).map(|n| Message::new(n.to_string())).collect();
        within(producer.send_batch(&messages)).await.unwrap();
        let builder = client.consumer_builder("orders", "c").credit(50, 1 << 20);
        let mut consumer = within(builder.open()).await.unwrap();
        let consuming = tokio::spawn(async move {
            let mut acked = BTreeSet::new();
            while let Some(delivery) = consumer.next().await {
                let delivery = delivery.unwrap();
                let offset = delivery.offset().0;
                assert_eq!(delivery.message.body, offset.to_string());
                // What is confirmed is never seen again.
                assert!(!acked.contains(&offset), "seed {seed}: {offset} was acked");
                if offset % 10 != 0 {
                    let _void = delivery.ack();
                } else if delivery.ack_confirmed().await.is_ok() {
                    acked.insert(offset);
                }
            }
        });
        let admin = steady.admin();
        within(async {
            while admin.show_topic("orders").await.unwrap().channels[0].acked < COUNT {
                assert!(!consuming.is_finished(), "seed {seed}");
            }
        })
        .await;
        let _unsure = within(client.close()).await;
        within(consuming).await.unwrap();
        let shown = within(steady.admin().show_topic("orders")).await.unwrap();
        assert_eq!(shown.channels[0].acked, COUNT, "seed {seed}");
        assert!(connections.load(Ordering::Relaxed) > 3, "seed {seed}: nothing broke");
    }
}
