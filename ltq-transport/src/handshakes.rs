//! Handshakes that nobody else has to wait for.

use std::{collections::VecDeque, fmt::Display, future::pending, net::SocketAddr, time::Duration};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::timeout,
};

/// Handshakes under way, each in a task of its own and with a deadline, and those that have ended
/// well and wait to be taken. There are never more than `max` of both together: beyond it the
/// oldest that is under way is given up, since peers that mean it are done within moments.
///
/// Dropping it gives all of them up.
pub(crate) struct Handshakes<T> {
    tasks: JoinSet<Option<T>>,
    /// Oldest first; some have ended.
    handles: VecDeque<AbortHandle>,
    max: usize,
    patience: Duration,
}

impl<T: Send + 'static> Handshakes<T> {
    pub(crate) fn new(max: usize, patience: Duration) -> Self {
        Self { tasks: JoinSet::new(), handles: VecDeque::new(), max: max.max(1), patience }
    }

    /// Whether the next one costs an older one its place.
    pub(crate) fn are_many(&self) -> bool {
        self.tasks.len() >= self.max
    }

    /// Starts one.
    pub(crate) fn start<E: Display>(
        &mut self,
        peer: SocketAddr,
        handshake: impl Future<Output = Result<T, E>> + Send + 'static,
    ) {
        if self.handles.len() >= self.max {
            self.handles.retain(|handle| !handle.is_finished());
        }
        if self.handles.len() >= self.max
            && let Some(oldest) = self.handles.pop_front()
        {
            tracing::debug!(max = self.max, "too many handshakes; the oldest is given up");
            oldest.abort();
        }
        let patience = self.patience;
        self.handles.push_back(self.tasks.spawn(async move {
            match timeout(patience, handshake).await {
                Ok(Ok(done)) => return Some(done),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a handshake failed"),
                Err(_) => tracing::debug!(%peer, ?patience, "a handshake took too long"),
            }
            None
        }));
    }

    /// Waits for the next that has ended well; for ever while there is none. Cancel safe.
    pub(crate) async fn next(&mut self) -> T {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Some(done))) => return done,
                Some(_) => {}
                None => pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::sync::oneshot;

    use super::*;

    fn peer() -> SocketAddr {
        ([127, 0, 0, 1], 1).into()
    }

    #[tokio::test]
    async fn promise_10_silent_peers_take_no_place_from_one_that_means_it() {
        let mut handshakes = Handshakes::new(3, Duration::from_secs(1000));
        let mut given_up = Vec::new();
        for _ in 0..100 {
            let (held, dropped) = oneshot::channel::<()>();
            given_up.push(dropped);
            handshakes.start(peer(), async move {
                let _held = held;
                pending::<Result<u8, Infallible>>().await
            });
        }
        assert!(handshakes.are_many());
        handshakes.start(peer(), async { Ok::<u8, Infallible>(7) });
        assert_eq!(timeout(Duration::from_secs(10), handshakes.next()).await, Ok(7));
        // All but two were dropped with what they held.
        for dropped in given_up.drain(..98) {
            assert!(timeout(Duration::from_secs(10), dropped).await.unwrap().is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_too_long_ends_and_one_that_fails_is_passed_over() {
        let mut handshakes = Handshakes::new(10, Duration::from_secs(5));
        let (held, dropped) = oneshot::channel::<()>();
        handshakes.start(peer(), async move {
            let _held = held;
            pending::<Result<u8, Infallible>>().await
        });
        handshakes.start(peer(), async { Err::<u8, _>("no") });
        assert!(timeout(Duration::from_secs(6), handshakes.next()).await.is_err());
        assert!(dropped.await.is_err());
        assert!(!handshakes.are_many());
    }
}
