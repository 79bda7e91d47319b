//! A transport whose every poll of a stream is a point at which its process may be killed.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::BytesMut;
use ltq_core::{
    Address, Connection, Listener, Peer, RecvStream, SendStream, Stream, Transport, TransportError,
};

use crate::points::{Point, Points};

/// One that does what the inner one does.
pub(crate) struct Counted<T> {
    inner: T,
    points: Points,
}

impl<T> Counted<T> {
    pub(crate) const fn new(inner: T, points: Points) -> Self {
        Self { inner, points }
    }

    fn of<U>(&self, inner: U) -> Counted<U> {
        Counted { inner, points: self.points.clone() }
    }

    fn stream(&self, Stream { send, recv }: Stream) -> Stream {
        Stream { send: Box::new(self.of(send)), recv: Box::new(self.of(recv)) }
    }
}

#[async_trait]
impl Transport for Counted<Arc<dyn Transport>> {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        Ok(Box::new(self.of(self.inner.listen(address).await?)))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        Ok(Box::new(self.of(self.inner.connect(address).await?)))
    }
}

#[async_trait]
impl Listener for Counted<Box<dyn Listener>> {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        let connection = self.inner.accept().await?;
        Ok(Box::new(self.of(connection)))
    }

    fn local_address(&self) -> Address {
        self.inner.local_address()
    }
}

#[async_trait]
impl Connection for Counted<Box<dyn Connection>> {
    fn multiplexed(&self) -> bool {
        self.inner.multiplexed()
    }

    fn peer(&self) -> &Peer {
        self.inner.peer()
    }

    fn welcomed(&self) {
        self.inner.welcomed();
    }

    async fn open_stream(&self) -> Result<Stream, TransportError> {
        Ok(self.stream(self.inner.open_stream().await?))
    }

    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        Ok(self.inner.accept_stream().await?.map(|stream| self.stream(stream)))
    }
}

impl RecvStream for Counted<Box<dyn RecvStream>> {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        self.points.pass(Point::Other);
        self.inner.poll_recv(context, buffer, max)
    }
}

impl SendStream for Counted<Box<dyn SendStream>> {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.points.pass(Point::Other);
        self.inner.poll_send(context, bytes)
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.points.pass(Point::Other);
        self.inner.poll_finish(context)
    }
}
