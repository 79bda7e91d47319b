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
    delivery::{Delivery, Received, Token, requeue},
};
use crate::{Backoff, ClusterConsumeError, ClusterConsumer, ConsumeError, connection::deadline};

/// A consumer, of one node or of a cluster, that runs a handler for each message: a future, to be awaited.
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
pub struct ForEach<H> {
    source: Source,
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

/// Where the messages come from: one node, or all of a cluster.
#[derive(Debug)]
pub(crate) enum Source {
    One(Box<Consumer>),
    Many(ClusterConsumer),
}

impl Source {
    async fn next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        match self {
            Self::One(consumer) => consumer.next().await,
            Self::Many(consumer) => Some(match consumer.next().await? {
                Ok(delivery) => Ok(delivery.into_delivery()),
                Err(ClusterConsumeError::Node { error, .. }) => Err(error),
                Err(ClusterConsumeError::Refused { refusal, .. }) => {
                    Err(ConsumeError::Ended(refusal))
                }
            }),
        }
    }

    fn touch_waiting(&mut self) {
        match self {
            Self::One(consumer) => consumer.touch_waiting(),
            Self::Many(consumer) => consumer.touch_waiting(),
        }
    }

    fn timeout(&self) -> Duration {
        match self {
            Self::One(consumer) => consumer.timeout(),
            Self::Many(consumer) => consumer.shortest_timeout(),
        }
    }

    fn entropy(&self) -> Arc<dyn Entropy> {
        match self {
            Self::One(consumer) => consumer.shared.hub.config.entropy.clone(),
            Self::Many(consumer) => consumer.entropy(),
        }
    }

    async fn close(self) {
        let lost = match self {
            Self::One(consumer) => consumer.close().await.err().map(|error| error.to_string()),
            Self::Many(consumer) => consumer.close().await.err().map(|error| error.to_string()),
        };
        if let Some(error) = lost {
            warn!(error, "the last answers may be lost");
        }
    }
}

impl<H> ForEach<H> {
    pub(crate) fn new(source: Source, concurrency: usize, handler: H) -> Self {
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

impl<H> fmt::Debug for ForEach<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForEach")
            .field("source", &self.source)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl<H, F, E> IntoFuture for ForEach<H>
where
    H: FnMut(Received) -> F + Send + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: fmt::Display + 'static,
{
    type Output = Result<ForEachSummary, ConsumeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(run(self))
    }
}

async fn run<H, F, E>(this: ForEach<H>) -> Result<ForEachSummary, ConsumeError>
where
    H: FnMut(Received) -> F,
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
                    Some(Ok(delivery)) => {
                        if running.is_empty() {
                            touch_at = deadline(Instant::now(), touch_interval(&source));
                        }
                        let (received, token) = delivery.split();
                        let attempt = received.attempt;
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
    source.close().await;
    ended.map(|()| running.summary)
}

/// Three touches in a delivery's time: one may be late, and one lost.
fn touch_interval(source: &Source) -> Duration {
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
