//! What the way from one host to another does, besides the weather.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What the way from one host of a [`SimulatedNetwork`](super::SimulatedNetwork) to another does, besides
/// the [`Weather`](super::Weather), which is everybody's. By default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// How much longer everything is under way; 0.
    pub delay: Duration,
    /// Whether nothing gets through; no. Nobody is told: what was sent meanwhile arrives when the way is
    /// there again, as a system sends again what nobody has acknowledged, and who connects is answered
    /// then. That an end is gone is not known beyond the cut either.
    pub is_cut: bool,
}

/// Of those ways that are not as they are by default.
#[derive(Default)]
pub(super) struct Routes {
    of: Mutex<BTreeMap<String, BTreeMap<String, Route>>>,
    changed: Notify,
}

impl Routes {
    pub(super) fn of(&self, from: &str, to: &str) -> Route {
        let of = self.of.lock();
        of.get(from).and_then(|ways| ways.get(to)).copied().unwrap_or_default()
    }

    pub(super) fn is_cut(&self, from: &str, to: &str) -> bool {
        self.of(from, to).is_cut
    }

    /// From now on these are the only ones that do anything.
    pub(super) fn set(&self, routes: impl IntoIterator<Item = (String, String, Route)>) {
        let mut of = self.of.lock();
        of.clear();
        for (from, to, route) in routes {
            of.entry(from).or_default().insert(to, route);
        }
        drop(of);
        self.changed.notify_waiters();
    }

    /// Waits until none of these is cut. Cancel safe.
    pub(super) async fn open(&self, ways: &[[&str; 2]]) {
        loop {
            let changed = self.changed.notified();
            if !ways.iter().any(|[from, to]| self.is_cut(from, to)) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io, io::IoSlice, sync::Arc};

    use bytes::BytesMut;
    use ltq_core::{Connection, Listener, Stream, SystemEntropy, Transport};
    use tokio::time::{Instant, timeout};

    use super::{super::SimulatedNetwork, *};

    const SECOND: Duration = Duration::from_secs(1);

    fn cut(from: &str, to: &str) -> (String, String, Route) {
        (from.to_owned(), to.to_owned(), Route { is_cut: true, ..Route::default() })
    }

    async fn listening() -> (SimulatedNetwork, Box<dyn Listener>) {
        let network = SimulatedNetwork::new(Arc::new(SystemEntropy));
        let listener = network.host("b").listen(&"sim://b".parse().unwrap()).await.unwrap();
        (network, listener)
    }

    async fn connected() -> (SimulatedNetwork, [Stream; 2], [Box<dyn Connection>; 2]) {
        let (network, mut listener) = listening().await;
        let near = network.host("a").connect(&"sim://b".parse().unwrap()).await.unwrap();
        let far = listener.accept().await.unwrap();
        let streams =
            [near.open_stream().await.unwrap(), far.accept_stream().await.unwrap().unwrap()];
        (network, streams, [near, far])
    }

    async fn send(stream: &mut Stream) -> io::Result<usize> {
        poll_fn(|context| stream.send.poll_send(context, &[IoSlice::new(b"x")])).await
    }

    async fn receive(stream: &mut Stream) -> io::Result<usize> {
        let mut buffer = BytesMut::new();
        poll_fn(|context| stream.recv.poll_recv(context, &mut buffer, 1)).await
    }

    #[tokio::test(start_paused = true)]
    async fn one_way_is_cut_and_the_other_is_not_and_what_was_sent_comes_later() {
        let (network, [mut near, mut far], _ends) = connected().await;
        network.set_routes([cut("a", "b")]);
        send(&mut near).await.unwrap();
        assert!(timeout(SECOND, receive(&mut far)).await.is_err());
        send(&mut far).await.unwrap();
        assert_eq!(receive(&mut near).await.unwrap(), 1);
        let healed = async {
            tokio::time::sleep(SECOND).await;
            network.set_routes([]);
        };
        let (received, ()) = tokio::join!(receive(&mut far), healed);
        assert_eq!(received.unwrap(), 1, "whoever waits is woken");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_hears_beyond_a_cut_that_the_other_end_is_gone() {
        let (network, [mut near, far], _ends) = connected().await;
        network.set_routes([cut("b", "a")]);
        drop(far);
        send(&mut near).await.unwrap();
        assert!(timeout(SECOND, receive(&mut near)).await.is_err());
        network.set_routes([]);
        assert!(receive(&mut near).await.is_err());
        assert!(send(&mut near).await.is_err());

        let (network, [mut near, _far], _ends) = connected().await;
        network.set_routes([cut("b", "a")]);
        network.cut("b", false);
        assert!(timeout(SECOND, receive(&mut near)).await.is_err());
        network.set_routes([]);
        assert!(timeout(SECOND, receive(&mut near)).await.is_err(), "who is not told never is");
    }

    #[tokio::test(start_paused = true)]
    async fn who_connects_over_a_cut_is_answered_when_it_is_over() {
        for (from, to) in [("a", "b"), ("b", "a")] {
            let (network, _listener) = listening().await;
            network.set_routes([cut(from, to)]);
            let (host, address) = (network.host("a"), "sim://b".parse().unwrap());
            assert!(timeout(SECOND, host.connect(&address)).await.is_err());
            let healed = async {
                tokio::time::sleep(SECOND).await;
                network.set_routes([]);
            };
            let (connected, ()) = tokio::join!(host.connect(&address), healed);
            connected.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_way_takes_its_time_in_one_direction() {
        let (network, [mut near, mut far], _ends) = connected().await;
        let slow = Route { delay: SECOND, ..Route::default() };
        network.set_routes([("a".to_owned(), "b".to_owned(), slow)]);
        let began = Instant::now();
        send(&mut far).await.unwrap();
        receive(&mut near).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        send(&mut near).await.unwrap();
        receive(&mut far).await.unwrap();
        assert_eq!(began.elapsed(), SECOND);
    }
}
