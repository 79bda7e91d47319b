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

use ltq_core::{Arrivals, Networks, Origin};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

/// How many handshakes of clients came to nothing, for then at least, by why, over all listeners of a transport and its
/// clones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeFailures {
    /// One side did not take the other: no certificate that counts, or not this protocol.
    pub refused: u64,
    /// The client went away, or the path to it was cut.
    pub lost: u64,
    /// It was not done within the handshake's time.
    pub timed_out: u64,
    /// There were too many at once, in all or from one address, and it was the oldest of them or had to
    /// wait for one.
    pub crowded_out: u64,
    /// There were too many at once, and it was asked to prove first that its address is its own. QUIC only.
    pub retried: u64,
    /// There were too many at once, none of which had had its time, and it was not answered, so that it tries again by
    /// itself. QUIC only; each try is one.
    pub ignored: u64,
    /// More began from its address than may in such a time.
    pub too_fast: u64,
}

/// [`HandshakeFailures`] while they are counted.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    refused: AtomicU64,
    lost: AtomicU64,
    timed_out: AtomicU64,
    crowded_out: AtomicU64,
    retried: AtomicU64,
    ignored: AtomicU64,
    too_fast: AtomicU64,
}

impl Failures {
    #[cfg(feature = "quic")]
    pub(crate) fn count_retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(feature = "quic")]
    pub(crate) fn count_ignored(&self) {
        self.ignored.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failed(&self, peer: SocketAddr, error: &impl Failed) {
        let why = if error.is_refusal() { &self.refused } else { &self.lost };
        why.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%peer, %error, "a handshake failed");
    }

    pub(crate) fn now(&self) -> HandshakeFailures {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        HandshakeFailures {
            refused: count(&self.refused),
            lost: count(&self.lost),
            timed_out: count(&self.timed_out),
            crowded_out: count(&self.crowded_out),
            retried: count(&self.retried),
            ignored: count(&self.ignored),
            too_fast: count(&self.too_fast),
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
/// Those of one [`Origin`] are a part of that at most, so that one host's silent ones keep out
/// nobody else: beyond it they take each other's places, in the same way. Those of a whole
/// [site](Origin::site) have four times that part. How many begin from there in a time is bounded too, since each costs
/// a millisecond of a processor however soon it ends.
///
/// Dropping it gives all of them up.
pub(crate) struct Handshakes<T> {
    tasks: JoinSet<Option<T>>,
    /// Oldest first; some have ended.
    under_way: VecDeque<UnderWay>,
    max: usize,
    /// How many of one origin there may be.
    share: usize,
    arrivals: Arrivals,
    patience: Duration,
    failures: Arc<Failures>,
}

/// What bounds the handshakes of a listener.
pub(crate) struct Bounds {
    pub(crate) max: usize,
    /// Of one origin; a quarter where it is not said.
    pub(crate) share: Option<usize>,
    pub(crate) patience: Duration,
    pub(crate) per_second: u32,
    /// Of so many addresses is remembered how many handshakes they began, and of so many sites.
    pub(crate) known: usize,
    pub(crate) exempt: Networks,
}

struct UnderWay {
    started: Instant,
    from: Option<Origin>,
    task: AbortHandle,
}

impl UnderWay {
    /// Whether it comes from that origin, or that site.
    fn is_of(&self, scope: Option<Origin>) -> bool {
        scope.is_some() && (self.from == scope || self.from.and_then(Origin::site) == scope)
    }
}

impl<T: Send + 'static> Handshakes<T> {
    pub(crate) fn new(bounds: Bounds, failures: Arc<Failures>) -> Self {
        let Bounds { max, share, patience, per_second, known, exempt } = bounds;
        let (tasks, under_way, max) = (JoinSet::new(), VecDeque::new(), max.max(1));
        let share = share.map_or_else(|| max.div_ceil(4), |share| share.max(1));
        let arrivals = Arrivals::new(per_second.max(1), known.max(1), exempt);
        Self { tasks, under_way, max, share, arrivals, patience, failures }
    }

    /// Whether the next one costs an older one its place.
    pub(crate) fn are_many(&self) -> bool {
        self.tasks.len() >= self.max
    }

    /// Whether the next one from there costs an older one from there its place, or so many came from there that who
    /// comes has to prove first that it is there.
    #[cfg(any(feature = "quic", test))]
    pub(crate) fn are_many_of(&self, peer: SocketAddr) -> bool {
        let from = self.arrivals.origin_of_ip(peer.ip());
        self.crowd(from).is_some() || self.arrivals.are_many(from)
    }

    /// Whether one more from there may begin. It is counted if it may, and as one that failed if not.
    pub(crate) fn may_begin(&self, peer: SocketAddr) -> bool {
        let may = self.arrivals.take(self.arrivals.origin_of_ip(peer.ip()));
        if !may {
            tracing::debug!(%peer, "too many handshakes of its address in a short time");
            self.failures.too_fast.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    /// The origin, or the site, from which there are as many as there may be.
    fn crowd(&self, from: Option<Origin>) -> Option<Origin> {
        let origin = from?;
        let of_site = Origin::share_of_site(self.share, self.max);
        let is_full = |scope: Option<Origin>, max: usize| {
            let same = |it: &&UnderWay| it.is_of(scope) && !it.task.is_finished();
            scope.filter(|_| self.under_way.iter().filter(same).count() >= max)
        };
        is_full(from, self.share).or_else(|| is_full(origin.site(), of_site))
    }

    /// When one more may be started, if none of those that are there ends before and it comes from
    /// where few of them do.
    pub(crate) fn room_at(&mut self) -> Instant {
        while self.under_way.front().is_some_and(|oldest| oldest.task.is_finished()) {
            self.under_way.pop_front();
        }
        match self.under_way.front() {
            Some(oldest) if self.are_many() => oldest.started + GRACE,
            _ => Instant::now(),
        }
    }

    /// When one more from there may be started, if none of those that are there ends before.
    pub(crate) fn room_at_for(&mut self, peer: SocketAddr) -> Instant {
        self.under_way.retain(|it| !it.task.is_finished());
        let Some(crowd) = self.crowd(self.arrivals.origin_of_ip(peer.ip())) else {
            return self.room_at();
        };
        let oldest = self.under_way.iter().find(|it| it.is_of(Some(crowd)));
        oldest.map_or_else(Instant::now, |oldest| oldest.started + GRACE)
    }

    /// Starts one, or gives it up at once where [`room_at_for`](Self::room_at_for) says that there is
    /// no room.
    pub(crate) fn start<E: Failed>(
        &mut self,
        peer: SocketAddr,
        handshake: impl Future<Output = Result<T, E>> + Send + 'static,
    ) {
        let from = self.arrivals.origin_of_ip(peer.ip());
        let has_room = self.room_at_for(peer) <= Instant::now();
        let place = match self.crowd(from) {
            Some(crowd) => self.under_way.iter().position(|it| it.is_of(Some(crowd))),
            None => (self.under_way.len() >= self.max).then_some(0),
        };
        if !has_room || place.is_some() {
            tracing::debug!(%peer, max = self.max, "many handshakes; one is given up");
            self.failures.crowded_out.fetch_add(1, Ordering::Relaxed);
        }
        if !has_room {
            return;
        }
        if let Some(oldest) = place.and_then(|place| self.under_way.remove(place)) {
            oldest.task.abort();
        }
        let (patience, failures) = (self.patience, self.failures.clone());
        let task = self.tasks.spawn(async move {
            match timeout(patience, handshake).await {
                Ok(Ok(done)) => return Some(done),
                Ok(Err(error)) => failures.count_failed(peer, &error),
                Err(_) => {
                    failures.timed_out.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%peer, ?patience, "a handshake took too long");
                }
            }
            None
        });
        self.under_way.push_back(UnderWay { started: Instant::now(), from, task });
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
        Handshakes::new(bounds(max, Duration::from_secs(seconds)), Arc::default())
    }

    fn bounds(max: usize, patience: Duration) -> Bounds {
        Bounds {
            max,
            share: None,
            patience,
            per_second: 200,
            known: 64,
            exempt: Networks::default(),
        }
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
    async fn promise_10_silent_peers_of_one_address_take_each_others_places_and_nobody_elses() {
        let mut handshakes = handshakes(16, 1000);
        let silent = SocketAddr::from(([192, 0, 2, 1], 1));
        let held = |handshakes: &mut Handshakes<u8>| {
            let (held, dropped) = oneshot::channel::<()>();
            handshakes.start(silent, async move {
                let _held = held;
                pending::<Result<u8, Infallible>>().await
            });
            dropped
        };
        let mut there: Vec<_> = (0..4).map(|_| held(&mut handshakes)).collect();
        assert!(handshakes.are_many_of(silent));
        let refused = held(&mut handshakes);
        assert!(refused.await.is_err(), "the others have not had their time");
        let other = SocketAddr::from(([192, 0, 2, 2], 1));
        assert!(!handshakes.are_many_of(other) && !handshakes.are_many());
        assert!(handshakes.room_at_for(other) <= Instant::now());
        handshakes.start(other, async { Ok::<u8, Infallible>(7) });
        assert_eq!(handshakes.next().await, Some(7));
        sleep_until(handshakes.room_at_for(silent)).await;
        there.push(held(&mut handshakes));
        assert!(there.remove(0).await.is_err(), "the oldest gave way");
        let failures = HandshakeFailures { crowded_out: 2, ..Default::default() };
        assert_eq!(handshakes.failures.now(), failures);
        // All programs of this machine share an address.
        for _ in 0..8 {
            start_silent(&mut handshakes);
        }
        assert!(!handshakes.are_many_of(peer()));
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_how_many_places_one_address_has_can_be_set() {
        let patience = Duration::from_secs(1000);
        let bounds = Bounds { share: Some(7), ..bounds(16, patience) };
        let mut handshakes = Handshakes::<u8>::new(bounds, Arc::default());
        let silent = SocketAddr::from(([192, 0, 2, 1], 1));
        for count in 0..7 {
            assert!(!handshakes.are_many_of(silent), "{count}");
            handshakes.start(silent, pending::<Result<u8, Infallible>>());
        }
        assert!(handshakes.are_many_of(silent) && !handshakes.are_many());
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_all_networks_of_a_site_have_four_shares_of_the_places() {
        let patience = Duration::from_secs(1000);
        let bounds = Bounds { share: Some(2), ..bounds(16, patience) };
        let mut handshakes = Handshakes::<u8>::new(bounds, Arc::default());
        let nth = |n: u16| SocketAddr::from(([0x2001, 0xdb8, 1, n, 0, 0, 0, 1], 1));
        for n in 0..8 {
            assert!(!handshakes.are_many_of(nth(n)), "{n}");
            handshakes.start(nth(n), pending::<Result<u8, Infallible>>());
        }
        assert!(handshakes.are_many_of(nth(8)) && !handshakes.are_many());
        let other_site = SocketAddr::from(([0x2001, 0xdb8, 2, 0, 0, 0, 0, 1], 1));
        assert!(!handshakes.are_many_of(other_site));
        sleep_until(handshakes.room_at_for(nth(8))).await;
        handshakes.start(nth(8), async { Ok::<u8, Infallible>(7) });
        while handshakes.next().await != Some(7) {}
        assert_eq!(handshakes.failures.now().crowded_out, 1, "the oldest of the site gave way");
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_an_address_begins_so_many_handshakes_in_a_second_and_may_come_again() {
        let patience = Duration::from_secs(1000);
        let exempt = ["198.51.100.0/24".parse().unwrap()].into_iter().collect();
        let bounds = Bounds { per_second: 2, exempt, ..bounds(16, patience) };
        let handshakes = Handshakes::<u8>::new(bounds, Arc::default());
        let of = |ip: [u8; 4]| SocketAddr::from((ip, 1));
        let begun = |ip| (0..100).filter(|_| handshakes.may_begin(of(ip))).count();
        let hasty = [192, 0, 2, 1];
        assert!(!handshakes.are_many_of(of(hasty)));
        assert_eq!(begun(hasty), 20);
        assert!(handshakes.are_many_of(of(hasty)), "it has to prove first that it is there");
        assert_eq!(
            [begun([192, 0, 2, 2]), begun([127, 0, 0, 1]), begun([198, 51, 100, 7])],
            [20, 100, 100]
        );
        sleep_until(Instant::now() + Duration::from_secs(1)).await;
        assert_eq!(begun(hasty), 2);
        assert_eq!(handshakes.failures.now().too_fast, 80 + 80 + 98);
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
