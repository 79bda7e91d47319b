//! Running a handler for each message.

use std::{
    collections::HashMap,
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use ltq_core::{Entropy, Verdict, process::inherit};
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::{debug, error, warn};

use super::{
    Consumer,
    delivery::{Received, Token, requeue},
};
use crate::{
    Backoff, ClusterConsumeError, ClusterConsumer, ClusterReceived, ConsumeError,
    connection::deadline,
};

/// A consumer, of one node or of a cluster, that runs a handler for each message: a future, to be awaited. A
/// handler is given what came, as [`Received`] or as [`ClusterReceived`].
///
/// Each message is handled in a task of its own, so that handlers run in parallel where the
/// runtime has several threads. Returned `Ok` acks it. An error, or a panic, gives it back with a
/// delay that doubles with every attempt. While handlers run, their deliveries and those that wait
/// behind them are touched, so that a handler may take as long as it likes; put a timeout around it
/// where it might hang. Where handlers are slow, ask for [credit](crate::ConsumerBuilder::credit)
/// for a few times `concurrency`: what waits here is kept from the channel's other consumers.
///
/// It ends when it is [stopped](StopHandle::stop), when the client is closed, or when the broker
/// ends the subscription. Stopping waits for the handlers that run, and then for the broker to
/// have handled their answers. Dropping it aborts the handlers that run at their next await, and
/// gives their messages back.
#[must_use = "it does nothing before it is awaited"]
pub struct ForEach<H, C = Consumer> {
    source: C,
    concurrency: usize,
    handler: H,
    backoff: Backoff,
    stop: Arc<watch::Sender<bool>>,
}

/// What came of running a handler, in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForEachSummary {
    /// Handled and acked.
    pub acked: u64,
    /// Given back because the handler returned an error.
    pub failed: u64,
    /// Given back because the handler panicked.
    pub panicked: u64,
    /// Answered too late: the connection had been lost while the handler ran. They are handled
    /// again.
    pub stale: u64,
    /// Damaged or unreadable, and given back.
    pub unreadable: u64,
}

/// Stops a [`ForEach`] from elsewhere. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StopHandle {
    stop: Arc<watch::Sender<bool>>,
}

impl StopHandle {
    /// Takes no new message; those that are being handled are finished. Calling it again, or after
    /// the end, is harmless.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// What a handler is told of a message, the duty to answer for it, and which attempt it is; or what a stream says else.
type Next<R> = Option<Result<(R, Token, u32), ConsumeError>>;

/// Where the messages come from: one node, or all of a cluster.
pub(super) trait Source: fmt::Debug + Send + 'static {
    /// What a handler is told of a message.
    type Received;

    /// The next one, and the duty to answer for it.
    fn next(&mut self) -> impl Future<Output = Next<Self::Received>> + Send;

    /// Asks for more time for everything that came and was not taken.
    fn touch_waiting(&mut self);

    /// How long a delivery may take.
    fn timeout(&self) -> Duration;

    fn entropy(&self) -> Arc<dyn Entropy>;

    /// Ends it; what went wrong, in words.
    fn close(self) -> impl Future<Output = Result<(), String>> + Send;
}

impl Source for Consumer {
    type Received = Received;

    async fn next(&mut self) -> Next<Received> {
        Some(Self::next(self).await?.map(|delivery| {
            let (received, token) = delivery.split();
            let attempt = received.attempt;
            (received, token, attempt)
        }))
    }

    fn touch_waiting(&mut self) {
        Self::touch_waiting(self);
    }

    fn timeout(&self) -> Duration {
        Self::timeout(self)
    }

    fn entropy(&self) -> Arc<dyn Entropy> {
        self.shared.hub.config.entropy.clone()
    }

    async fn close(self) -> Result<(), String> {
        Self::close(self).await.map_err(|error| error.to_string())
    }
}

impl Source for ClusterConsumer {
    type Received = ClusterReceived;

    async fn next(&mut self) -> Next<ClusterReceived> {
        Some(match Self::next(self).await? {
            Ok(delivery) => {
                let node = delivery.node().clone();
                let (received, token) = delivery.into_delivery().split();
                let attempt = received.attempt;
                Ok((ClusterReceived { node, received }, token, attempt))
            }
            Err(ClusterConsumeError::Node { error, .. }) => Err(error),
            Err(ClusterConsumeError::Refused { refusal, .. }) => Err(ConsumeError::Ended(refusal)),
        })
    }

    fn touch_waiting(&mut self) {
        Self::touch_waiting(self);
    }

    fn timeout(&self) -> Duration {
        self.shortest_timeout()
    }

    fn entropy(&self) -> Arc<dyn Entropy> {
        Self::entropy(self)
    }

    async fn close(self) -> Result<(), String> {
        Self::close(self).await.map_err(|error| error.to_string())
    }
}

impl<H, C> ForEach<H, C> {
    pub(crate) fn new(source: C, concurrency: usize, handler: H) -> Self {
        Self {
            source,
            concurrency,
            handler,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(60)),
            stop: Arc::new(watch::Sender::new(false)),
        }
    }

    /// How long a message waits after its handler failed, by the number of its attempts. Default:
    /// from 200 ms, doubling to 60 s.
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// A handle to stop it with.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle { stop: self.stop.clone() }
    }
}

impl<H, C: fmt::Debug> fmt::Debug for ForEach<H, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForEach")
            .field("source", &self.source)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl<H, C, F, E> IntoFuture for ForEach<H, C>
where
    C: Source,
    H: FnMut(C::Received) -> F + Send + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: fmt::Display + 'static,
{
    type Output = Result<ForEachSummary, ConsumeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(run(self))
    }
}

async fn run<H, C, F, E>(this: ForEach<H, C>) -> Result<ForEachSummary, ConsumeError>
where
    C: Source,
    H: FnMut(C::Received) -> F,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: fmt::Display + 'static,
{
    let ForEach { mut source, concurrency, mut handler, backoff, stop } = this;
    let mut stopped = stop.subscribe();
    let entropy = source.entropy();
    let mut running = Running::new(backoff, entropy);
    let mut touch_at = deadline(Instant::now(), touch_interval(&source));
    let mut ended = Ok(());
    let mut takes_more = true;
    while takes_more || !running.is_empty() {
        tokio::select! {
            // Deliveries last: those that are done make room, and time does not wait.
            biased;
            _ = stopped.wait_for(|stop| *stop), if takes_more => takes_more = false,
            () = sleep_until(touch_at), if !running.is_empty() => {
                running.touch();
                if takes_more {
                    source.touch_waiting();
                }
                touch_at = deadline(Instant::now(), touch_interval(&source));
            }
            Some(done) = running.tasks.join_next_with_id() => running.handle_done(done),
            delivery = source.next(), if takes_more && running.tasks.len() < concurrency => {
                match delivery {
                    None => takes_more = false,
                    Some(Ok((received, token, attempt))) => {
                        if running.is_empty() {
                            touch_at = deadline(Instant::now(), touch_interval(&source));
                        }
                        let handling = handler(received);
                        let handling = async move { handling.await.map_err(|e| e.to_string()) };
                        running.start(handling, token, attempt);
                    }
                    Some(Err(error)) if error.is_end() => {
                        takes_more = false;
                        ended = Err(error);
                    }
                    Some(Err(error)) => {
                        error!(%error, "a message cannot be handled");
                        running.summary.unreadable += 1;
                    }
                }
            }
        }
    }
    if let Err(error) = source.close().await {
        warn!(error, "the last answers may be lost");
    }
    ended.map(|()| running.summary)
}

/// Three touches in a delivery's time: one may be late, and one lost.
fn touch_interval(source: &impl Source) -> Duration {
    (source.timeout() / 3).max(Duration::from_millis(1))
}

/// The handlers that run.
struct Running {
    tasks: JoinSet<Result<(), String>>,
    tokens: HashMap<Id, (Token, u32)>,
    backoff: Backoff,
    entropy: Arc<dyn Entropy>,
    summary: ForEachSummary,
}

impl Running {
    fn new(backoff: Backoff, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            tasks: JoinSet::new(),
            tokens: HashMap::new(),
            backoff,
            entropy,
            summary: ForEachSummary::default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    fn start(
        &mut self,
        handling: impl Future<Output = Result<(), String>> + Send + 'static,
        token: Token,
        attempt: u32,
    ) {
        let task = self.tasks.spawn(inherit(handling));
        self.tokens.insert(task.id(), (token, attempt));
    }

    fn touch(&self) {
        for (token, _) in self.tokens.values() {
            // A void delivery is found out about when its handler is done.
            let _void = token.touch();
        }
    }

    fn handle_done(&mut self, done: Result<(Id, Result<(), String>), JoinError>) {
        let id = match &done {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some((token, attempt)) = self.tokens.remove(&id) else { return };
        let verdict = match done {
            Ok((_, Ok(()))) => Verdict::Ack,
            Ok((_, Err(error))) => {
                debug!(error, attempt, "a handler failed");
                self.summary.failed += 1;
                requeue(self.backoff.wait(attempt, self.entropy.next()))
            }
            Err(error) => {
                error!(%error, attempt, "a handler panicked");
                self.summary.panicked += 1;
                requeue(self.backoff.wait(attempt, self.entropy.next()))
            }
        };
        match token.settle(verdict) {
            Err(_) => self.summary.stale += 1,
            Ok(()) if verdict == Verdict::Ack => self.summary.acked += 1,
            Ok(()) => {}
        }
    }
}
