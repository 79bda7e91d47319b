//! Streams of one connection on which nobody has said who he is.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{holds::Hold, shared::Shared};
use crate::{Connection, Grant};

/// Bounds what a connection of many streams costs before and beside its accepted hellos: each stream
/// is a session, with a task and a buffer, and opening one costs its peer next to nothing.
///
/// A client opens one stream, and more when that one was welcomed; so a connection that nobody has
/// been welcomed on has few, and is given up after as many as failed.
pub(super) struct Strangers {
    connection: Arc<dyn Connection>,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    /// Somebody waits for room, and is counted.
    held_back: AtomicBool,
    welcomed: watch::Sender<bool>,
    /// What was granted first.
    grant: OnceLock<Grant>,
    failed: AtomicUsize,
}

impl Strangers {
    pub(super) fn new(connection: Arc<dyn Connection>, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            connection,
            room: Arc::new(Semaphore::new(shared.settings.unknown_streams_max)),
            held_back: AtomicBool::new(false),
            shared: shared.clone(),
            welcomed: watch::channel(false).0,
            grant: OnceLock::new(),
            failed: AtomicUsize::new(0),
        })
    }

    /// Waits until one more stream may be there without a hello. Cancel safe.
    pub(super) async fn room(&self) -> Room {
        if self.room.available_permits() == 0 && !self.held_back.swap(true, Ordering::AcqRel) {
            self.shared.holds.count(match self.are_known() {
                true => Hold::OpeningStreams,
                false => Hold::UnknownStreams,
            });
        }
        // It is never closed; if it were, there would be no bound to keep.
        let room = self.room.clone().acquire_owned().await.ok();
        self.held_back.store(false, Ordering::Release);
        Room(room)
    }

    /// A stream is there.
    pub(super) fn meet(self: &Arc<Self>, room: Room) -> Stranger {
        Stranger { of: self.clone(), room: Some(room) }
    }

    /// Whether a hello was accepted on any of the streams.
    pub(super) fn are_known(&self) -> bool {
        *self.welcomed.borrow()
    }

    /// Waits until one was. Cancel safe.
    pub(super) async fn known(&self) {
        // The sender is here: it cannot be gone.
        let _ = self.welcomed.subscribe().wait_for(|welcomed| *welcomed).await;
    }

    /// Whether so many streams ended without an accepted hello, and none with one, that the
    /// connection is not worth more of them.
    pub(super) fn are_hopeless(&self) -> bool {
        let max = FAILURES_OF_ONE * self.shared.settings.unknown_streams_max;
        !self.are_known() && self.failed.load(Ordering::Acquire) >= max
    }
}

/// Room for one stream without a hello.
#[derive(Debug)]
pub(super) struct Room(#[expect(dead_code, reason = "held")] Option<OwnedSemaphorePermit>);

/// A stream on which no hello was accepted so far; dropped, none ever was.
pub(super) struct Stranger {
    of: Arc<Strangers>,
    room: Option<Room>,
}

impl Stranger {
    /// What was granted on another stream of its connection before.
    pub(super) fn known(&self) -> Option<&Grant> {
        self.of.grant.get()
    }

    /// Its hello is accepted.
    pub(super) fn welcome(mut self, grant: &Grant) {
        self.room = None;
        self.of.grant.get_or_init(|| grant.clone());
        if !self.of.welcomed.send_replace(true) {
            let settings = &self.of.shared.settings;
            let more = settings.opening_streams_max.saturating_sub(settings.unknown_streams_max);
            self.of.room.add_permits(more);
            self.of.connection.welcomed();
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        if self.room.is_some() {
            self.of.failed.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Streams that may fail before the first one that does not, for each that may be there without a hello.
const FAILURES_OF_ONE: usize = 2;

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use futures::FutureExt;

    use super::*;
    use crate::broker::testing;
    use crate::{Address, Peer, Permissions, Stream, TransportError};

    struct Told(AtomicUsize, Peer);

    #[async_trait]
    impl Connection for Told {
        fn multiplexed(&self) -> bool {
            true
        }
        fn peer(&self) -> &Peer {
            &self.1
        }
        fn welcomed(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        async fn open_stream(&self) -> Result<Stream, TransportError> {
            Err(TransportError::Closed)
        }
        async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
            Ok(None)
        }
    }

    fn strangers() -> (Arc<Strangers>, Arc<Told>) {
        let peer = Peer { address: Address::new("t", "peer"), identity: None };
        let connection = Arc::new(Told(AtomicUsize::new(0), peer));
        let (shared, _) = testing::shared(true);
        (Strangers::new(connection.clone(), &shared), connection)
    }

    fn grant() -> Grant {
        Grant::new("somebody", Permissions::all())
    }

    fn enter(strangers: &Arc<Strangers>) -> Option<Stranger> {
        strangers.room().now_or_never().map(|room| strangers.meet(room))
    }

    #[test]
    fn promise_10_few_streams_may_be_without_a_hello_and_more_once_one_was_welcomed() {
        let (strangers, connection) = strangers();
        let mut there: Vec<_> = std::iter::from_fn(|| enter(&strangers)).collect();
        assert_eq!(there.len(), 4);
        assert!(!strangers.are_known());
        there.pop().unwrap().welcome(&grant());
        assert!(strangers.are_known());
        there.extend(std::iter::from_fn(|| enter(&strangers)));
        assert_eq!(there.len(), 64);
        there.pop().unwrap().welcome(&grant());
        assert_eq!(connection.0.load(Ordering::Relaxed), 1, "it was told, once");
        assert!(enter(&strangers).is_some());
    }

    #[test]
    fn promise_10_a_connection_of_failures_is_hopeless_and_one_that_was_welcomed_never_is() {
        let (hopeless, _) = strangers();
        for _ in 0..8 {
            assert!(!hopeless.are_hopeless());
            drop(enter(&hopeless).unwrap());
        }
        assert!(hopeless.are_hopeless());
        let (strangers, _) = strangers();
        enter(&strangers).unwrap().welcome(&grant());
        for _ in 0..80 {
            drop(enter(&strangers).unwrap());
        }
        assert!(!strangers.are_hopeless());
    }
}
