//! How a lane comes to be: the first with the connection, the others when somebody is to use them.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use futures::future::BoxFuture;
use ltq_core::{
    Connection, RecvStream, SendStream, Stream, TransportError,
    protocol::{Decoder, InstanceId, PeerLimits, Welcome, WriteQueue},
};
use tokio::time::Instant;

use super::{Lane, Lost, Path, own, timing::heartbeat};
use crate::connection::{
    deadline,
    dial::{check, hello},
    hub::Config,
    place::LaneNumber,
    waking::LaneWaker,
};

/// A stream that is being opened.
pub(super) type Opening = BoxFuture<'static, Result<Stream, TransportError>>;

/// What the first lane is made of.
pub(in crate::connection) struct First {
    pub(in crate::connection) send: Box<dyn SendStream>,
    pub(in crate::connection) recv: Box<dyn RecvStream>,
    /// What came behind the welcome.
    pub(in crate::connection) input: BytesMut,
    pub(in crate::connection) decoder: Decoder,
}

impl Lane {
    /// The stream on which the broker has said its welcome already.
    pub(in crate::connection) fn first(
        from: First,
        welcome: &Welcome,
        waker: Option<LaneWaker>,
        now: Instant,
    ) -> Self {
        let path = Path::Open { send: from.send, recv: from.recv };
        let limits = welcome.limits;
        let mut lane = Self::new(LaneNumber::FIRST, path, from.decoder, limits, waker, now);
        lane.input = from.input;
        lane.heartbeat = heartbeat(welcome.heartbeat_ms);
        lane
    }

    /// A further stream, with its hello written. What is written behind it does not wait for the
    /// welcome; until that is there the limits of another lane's hold.
    pub(in crate::connection) fn open(
        number: LaneNumber,
        connection: &Arc<dyn Connection>,
        config: &Config,
        limits: PeerLimits,
        waker: LaneWaker,
        now: Instant,
    ) -> Self {
        let connection = connection.clone();
        let path = Path::Opening(Box::pin(async move { connection.open_stream().await }));
        let decoder = Decoder::new(config.frame_bytes_max);
        let mut lane = Self::new(number, path, decoder, limits, Some(waker), now);
        lane.welcome_by = Some(deadline(now, config.connect_timeout));
        lane.write(&hello(config));
        lane
    }

    fn new(
        number: LaneNumber,
        path: Path,
        decoder: Decoder,
        limits: PeerLimits,
        waker: Option<LaneWaker>,
        now: Instant,
    ) -> Self {
        Self {
            number,
            path,
            waker,
            is_due: false,
            input: BytesMut::new(),
            decoder,
            output: WriteQueue::new(),
            limits,
            heartbeat: heartbeat(0),
            welcome_by: None,
            last_received: now,
            last_sent: now,
            partial_since: None,
            nonce: 0,
            publish_bytes: 0,
            gathered: 0,
            handles: 0,
            ready_producers: VecDeque::new(),
            ready_consumers: VecDeque::new(),
            finishing: None,
        }
    }

    /// Ready once the stream is there.
    pub(in crate::connection) fn poll_open(
        &mut self,
        context: &Context<'_>,
    ) -> Poll<Result<(), Lost>> {
        let Path::Opening(opening) = &mut self.path else { return Poll::Ready(Ok(())) };
        let mut context = own(self.waker.as_ref(), context);
        match opening.as_mut().poll(&mut context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(Lost::Stream(error))),
            Poll::Ready(Ok(Stream { send, recv })) => {
                self.path = Path::Open { send, recv };
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Whether the next frame has to be the welcome.
    pub(in crate::connection) const fn awaits_welcome(&self) -> bool {
        self.welcome_by.is_some()
    }

    /// The broker's welcome on a further stream, by the node of this name and no other instance of it.
    pub(in crate::connection) fn handle_welcome(
        &mut self,
        welcome: &Welcome,
        node: &str,
        instance: InstanceId,
    ) -> Result<(), Lost> {
        let is_same = welcome.node == node && welcome.instance == instance;
        if check(welcome).is_some() || !is_same {
            return Err(Lost::Violation("a further stream's welcome is another's"));
        }
        self.welcome_by = None;
        self.heartbeat = heartbeat(welcome.heartbeat_ms);
        self.limits = welcome.limits;
        Ok(())
    }
}
