//! One run of one case: its deadlines, its connections and how it stops.

pub(super) use ltq_core::conformance::{CaseResult, Stop, ensure, fail, poll_once, skip, worked};
use ltq_core::{Address, Connection, Listener, Stream, TransportError};
use tokio::time::{Instant, timeout};

use super::{
    Harness,
    ends::{End, Receiver, Sender},
    pattern::{Pattern, Sizes},
};

#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) harness: Harness,
    /// Tells the bytes of this stream from those of others.
    stream: u64,
}

/// Two ends of one connection, and the listener that took it in.
pub(super) struct Link {
    pub(super) listener: Box<dyn Listener>,
    /// The side that connected.
    pub(super) near: Box<dyn Connection>,
    /// The side that accepted.
    pub(super) far: Box<dyn Connection>,
}

impl Trial {
    pub(super) const fn new(harness: Harness) -> Self {
        Self { harness, stream: 0 }
    }

    /// The same, with bytes of its own for the streams that it makes.
    pub(super) fn numbered(&self, stream: u64) -> Self {
        Self { harness: self.harness.clone(), stream: stream + 1 }
    }

    pub(super) const fn sizes(&self) -> Sizes {
        Sizes::new(self.harness.seed)
    }

    /// Waits for `what`, but not for ever.
    pub(super) async fn within<T>(
        &self,
        what: &str,
        future: impl Future<Output = T>,
    ) -> CaseResult<T> {
        let (patience, since) = (self.harness.patience, Instant::now());
        match timeout(patience, future).await {
            // At the end it is asked once more: what comes only then woke nobody.
            Ok(outcome) if since.elapsed() < patience => Ok(outcome),
            _ => fail(format!("waited {patience:?} in vain for {what}")),
        }
    }

    pub(super) async fn listen(&self) -> CaseResult<Box<dyn Listener>> {
        let address = (self.harness.listen_address)();
        let listening = self.harness.transport.listen(&address);
        let listening = self.within("listen", listening).await?;
        worked(&format!("listening on {address}"), listening)
    }

    pub(super) async fn try_connect(
        &self,
        address: &Address,
    ) -> CaseResult<Result<Box<dyn Connection>, TransportError>> {
        self.within("connect", self.harness.transport.connect(address)).await
    }

    pub(super) async fn connect(&self, address: &Address) -> CaseResult<Box<dyn Connection>> {
        worked("connecting", self.try_connect(address).await?)
    }

    pub(super) async fn accept(
        &self,
        listener: &mut Box<dyn Listener>,
    ) -> CaseResult<Box<dyn Connection>> {
        let connection = worked("accepting", self.within("accept", listener.accept()).await?)?;
        // What is tried is how it carries those who may use it.
        connection.welcomed();
        Ok(connection)
    }

    /// A connection. Both sides work at it at once: a handshake may need both.
    pub(super) async fn link(&self) -> CaseResult<Link> {
        let mut listener = self.listen().await?;
        let (near, far) = self.meet(&mut listener).await?;
        Ok(Link { listener, near, far })
    }

    /// One more connection to a listener.
    pub(super) async fn meet(
        &self,
        listener: &mut Box<dyn Listener>,
    ) -> CaseResult<(Box<dyn Connection>, Box<dyn Connection>)> {
        let address = listener.local_address();
        futures::try_join!(self.connect(&address), self.accept(listener))
    }

    pub(super) async fn open(&self, connection: &dyn Connection) -> CaseResult<Stream> {
        let opening = self.within("open_stream", connection.open_stream()).await?;
        worked("opening a stream", opening)
    }

    pub(super) async fn accept_stream(&self, connection: &dyn Connection) -> CaseResult<Stream> {
        let accepting = self.within("accept_stream", connection.accept_stream()).await?;
        match worked("accepting a stream", accepting)? {
            Some(stream) => Ok(stream),
            None => fail("accept_stream said that no stream can come, but one was opened"),
        }
    }

    /// A stream of the connection, the side that opened it first. It has carried some bytes
    /// already: without any a peer need not notice it.
    pub(super) fn stream<'a>(
        &'a self,
        link: &'a Link,
    ) -> impl Future<Output = CaseResult<(End, End)>> + 'a {
        self.stream_between(&*link.near, &*link.far)
    }

    pub(super) async fn stream_between(
        &self,
        near: &dyn Connection,
        far: &dyn Connection,
    ) -> CaseResult<(End, End)> {
        let mut near = self.near_end(self.open(near).await?);
        near.send.send(GREETING_BYTES).await?;
        let mut far = self.far_end(self.accept_stream(far).await?);
        far.recv.receive_exactly(GREETING_BYTES).await?;
        Ok((near, far))
    }

    /// The end of the side that opened, whose bytes the far end knows how to check.
    pub(super) fn near_end(&self, stream: Stream) -> End {
        self.end(stream, 0, 1)
    }

    pub(super) fn far_end(&self, stream: Stream) -> End {
        self.end(stream, 1, 0)
    }

    fn end(&self, stream: Stream, sends: u64, receives: u64) -> End {
        let seed = self.harness.seed.wrapping_add(self.stream).wrapping_mul(2);
        let pattern = |direction| Pattern::new(seed.wrapping_add(direction));
        End {
            send: Sender::new(self.clone(), stream.send, pattern(sends)),
            recv: Receiver::new(self.clone(), stream.recv, pattern(receives)),
        }
    }
}

/// For [`worked`], of a task that a case spawned.
pub(super) const A_TASK: &str = "a task of the case";
/// Enough to be noticed.
const GREETING_BYTES: usize = 8;
