//! Handshakes that nobody else has to wait for.

use std::{
    collections::VecDeque,
    fmt::Display,
    future::pending,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

/// How many handshakes of clients came to nothing, by why, over all listeners of a transport and its
/// clones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeFailures {
    /// One side did not take the other: no certificate that counts, or not this protocol.
    pub refused: u64,
    /// The client went away, or the path to it was cut.
    pub lost: u64,
    /// It was not done within the handshake's time.
    pub timed_out: u64,
    /// There were too many at once, and it was the oldest.
    pub crowded_out: u64,
}

/// [`HandshakeFailures`] while they are counted.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    refused: AtomicU64,
    lost: AtomicU64,
    timed_out: AtomicU64,
    crowded_out: AtomicU64,
}

impl Failures {
    pub(crate) fn now(&self) -> HandshakeFailures {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        HandshakeFailures {
            refused: count(&self.refused),
            lost: count(&self.lost),
            timed_out: count(&self.timed_out),
            crowded_out: count(&self.crowded_out),
        }
    }
}

/// What a handshake that failed says of itself.
pub(crate) trait Failed: Display {
    /// Whether one side did not take the other, and it was not the path.
    fn is_refusal(&self) -> bool;
}

impl Failed for io::Error {
    fn is_refusal(&self) -> bool {
        // As which TLS's own errors come.
        self.kind() == io::ErrorKind::InvalidData
    }
}

/// Handshakes under way, each in a task of its own and with a deadline, and those that have ended
/// well and wait to be taken. There are never more than `max` of both together. Beyond it the
/// oldest is given up, once it has had [`GRACE`]: who is silent must not keep out those that mean
/// it, and a crowd of those must not keep itself out.
///
/// Dropping it gives all of them up.
pub(crate) struct Handshakes<T> {
    tasks: JoinSet<Option<T>>,
    /// Oldest first; some have ended.
    under_way: VecDeque<(Instant, AbortHandle)>,
    max: usize,
    patience: Duration,
    failures: Arc<Failures>,
}

impl<T: Send + 'static> Handshakes<T> {
    pub(crate) fn new(max: usize, patience: Duration, failures: Arc<Failures>) -> Self {
        let (tasks, under_way) = (JoinSet::new(), VecDeque::new());
        Self { tasks, under_way, max: max.max(1), patience, failures }
    }

    /// Whether the next one costs an older one its place.
    pub(crate) fn are_many(&self) -> bool {
        self.tasks.len() >= self.max
    }

    /// When one more may be started, if none of those that are there ends before.
    pub(crate) fn room_at(&mut self) -> Instant {
        while self.under_way.front().is_some_and(|(_, oldest)| oldest.is_finished()) {
            self.under_way.pop_front();
        }
        match self.under_way.front() {
            Some((started, _)) if self.are_many() => *started + GRACE,
            _ => Instant::now(),
        }
    }

    /// Starts one; there must be room.
    pub(crate) fn start<E: Failed>(
        &mut self,
        peer: SocketAddr,
        handshake: impl Future<Output = Result<T, E>> + Send + 'static,
    ) {
        self.under_way.retain(|(_, task)| !task.is_finished());
        if self.under_way.len() >= self.max
            && let Some((_, oldest)) = self.under_way.pop_front()
        {
            tracing::debug!(max = self.max, "many handshakes; the oldest is given up");
            self.failures.crowded_out.fetch_add(1, Ordering::Relaxed);
            oldest.abort();
        }
        let (patience, failures) = (self.patience, self.failures.clone());
        let task = self.tasks.spawn(async move {
            match timeout(patience, handshake).await {
                Ok(Ok(done)) => return Some(done),
                Ok(Err(error)) => {
                    let why = if error.is_refusal() { &failures.refused } else { &failures.lost };
                    why.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%peer, %error, "a handshake failed");
                }
                Err(_) => {
                    failures.timed_out.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%peer, ?patience, "a handshake took too long");
                }
            }
            None
        });
        self.under_way.push_back((Instant::now(), task));
    }

    /// Waits for the next that ends, for ever while there is none; `None` when it came to nothing.
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<T> {
        match self.tasks.join_next().await {
            Some(ended) => ended.ok().flatten(),
            None => pending().await,
        }
    }
}

/// What a handshake has before it may have to give way: three times the way around the earth and
/// back.
const GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::{sync::oneshot, time::sleep_until};

    use super::*;

    impl Failed for Infallible {
        fn is_refusal(&self) -> bool {
            match *self {}
        }
    }

    fn handshakes(max: usize, seconds: u64) -> Handshakes<u8> {
        Handshakes::new(max, Duration::from_secs(seconds), Arc::default())
    }

    fn peer() -> SocketAddr {
        ([127, 0, 0, 1], 1).into()
    }

    /// Starts one that says nothing; the other side of what it returns goes when it is given up.
    fn start_silent(handshakes: &mut Handshakes<u8>) -> oneshot::Receiver<()> {
        let (held, dropped) = oneshot::channel::<()>();
        handshakes.start(peer(), async move {
            let _held = held;
            pending::<Result<u8, Infallible>>().await
        });
        dropped
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_silent_peers_give_way_to_one_that_means_it_after_their_grace() {
        let mut handshakes = handshakes(3, 1000);
        let start = Instant::now();
        let mut given_up = Vec::new();
        for _ in 0..6 {
            sleep_until(handshakes.room_at()).await;
            given_up.push(start_silent(&mut handshakes));
            // So that a handshake that was given up is gone.
            tokio::task::yield_now().await;
        }
        assert!(handshakes.are_many());
        sleep_until(handshakes.room_at()).await;
        handshakes.start(peer(), async { Ok::<u8, Infallible>(7) });
        while handshakes.next().await != Some(7) {}
        assert_eq!(start.elapsed(), 2 * GRACE);
        let failures = HandshakeFailures { crowded_out: 4, ..Default::default() };
        assert_eq!(handshakes.failures.now(), failures);
        for dropped in given_up.drain(..4) {
            assert!(dropped.await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_ends_makes_room_at_once_and_who_waits_to_be_taken_keeps_it() {
        let mut handshakes = handshakes(2, 1000);
        let _silent = start_silent(&mut handshakes);
        handshakes.start(peer(), async { Ok::<u8, Infallible>(7) });
        assert!(handshakes.room_at() > Instant::now());
        assert_eq!(handshakes.next().await, Some(7));
        assert!(handshakes.room_at() <= Instant::now());
        for kind in [io::ErrorKind::InvalidData, io::ErrorKind::ConnectionReset] {
            handshakes.start(peer(), async move { Err::<u8, _>(io::Error::from(kind)) });
            assert_eq!(handshakes.next().await, None);
        }
        assert!(!handshakes.are_many());
        let failures = HandshakeFailures { refused: 1, lost: 1, ..Default::default() };
        assert_eq!(handshakes.failures.now(), failures);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_too_long_ends() {
        let mut handshakes = handshakes(10, 5);
        let dropped = start_silent(&mut handshakes);
        let start = Instant::now();
        assert_eq!(handshakes.next().await, None);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        let failures = HandshakeFailures { timed_out: 1, ..Default::default() };
        assert_eq!(handshakes.failures.now(), failures);
        assert!(dropped.await.is_err());
    }
}
