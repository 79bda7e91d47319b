//! Handshakes that nobody else has to wait for.

use std::{collections::VecDeque, fmt::Display, future::pending, net::SocketAddr, time::Duration};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

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
}

impl<T: Send + 'static> Handshakes<T> {
    pub(crate) fn new(max: usize, patience: Duration) -> Self {
        Self { tasks: JoinSet::new(), under_way: VecDeque::new(), max: max.max(1), patience }
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
    pub(crate) fn start<E: Display>(
        &mut self,
        peer: SocketAddr,
        handshake: impl Future<Output = Result<T, E>> + Send + 'static,
    ) {
        self.under_way.retain(|(_, task)| !task.is_finished());
        if self.under_way.len() >= self.max
            && let Some((_, oldest)) = self.under_way.pop_front()
        {
            tracing::debug!(max = self.max, "many handshakes; the oldest is given up");
            oldest.abort();
        }
        let patience = self.patience;
        let task = self.tasks.spawn(async move {
            match timeout(patience, handshake).await {
                Ok(Ok(done)) => return Some(done),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a handshake failed"),
                Err(_) => tracing::debug!(%peer, ?patience, "a handshake took too long"),
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
        let mut handshakes = Handshakes::new(3, Duration::from_secs(1000));
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
        for dropped in given_up.drain(..4) {
            assert!(dropped.await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_ends_makes_room_at_once_and_who_waits_to_be_taken_keeps_it() {
        let mut handshakes = Handshakes::new(2, Duration::from_secs(1000));
        let _silent = start_silent(&mut handshakes);
        handshakes.start(peer(), async { Ok::<u8, Infallible>(7) });
        assert!(handshakes.room_at() > Instant::now());
        assert_eq!(handshakes.next().await, Some(7));
        assert!(handshakes.room_at() <= Instant::now());
        handshakes.start(peer(), async { Err::<u8, _>("no") });
        assert_eq!(handshakes.next().await, None);
        assert!(!handshakes.are_many());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_too_long_ends() {
        let mut handshakes = Handshakes::new(10, Duration::from_secs(5));
        let dropped = start_silent(&mut handshakes);
        let start = Instant::now();
        assert_eq!(handshakes.next().await, None);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert!(dropped.await.is_err());
    }
}
