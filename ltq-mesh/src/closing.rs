//! What a mesh that is closed has left undone.

use std::collections::BTreeMap;

use crate::MeshName;

/// What of the messages to one peer is not known to be in its inbox. Each `send` of them was told so itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// They were never sent, and are not there.
    pub not_sent: u64,
    /// They were sent and not answered, and may be there; those of calls that had timed out or were dropped
    /// before are among them.
    pub unanswered: u64,
}

impl Undelivered {
    pub(crate) const fn count(&mut self, was_sent: bool) {
        match was_sent {
            true => self.unanswered += 1,
            false => self.not_sent += 1,
        }
    }
}

/// What [`Mesh::close`](crate::Mesh::close) has left undone: nothing, for each peer that is not named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloseReport {
    peers: BTreeMap<MeshName, Undelivered>,
}

impl CloseReport {
    pub(crate) const fn new(peers: BTreeMap<MeshName, Undelivered>) -> Self {
        Self { peers }
    }

    /// Whether everything that was to be sent is known to be stored, or refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The peers to which something was left, in the order of their names.
    #[must_use]
    pub const fn peers(&self) -> &BTreeMap<MeshName, Undelivered> {
        &self.peers
    }

    /// One peer.
    #[must_use]
    pub fn peer(&self, name: &str) -> Undelivered {
        self.peers.get(name).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ltq_store::MemoryStore;
    use ltq_transport::{InProcess, Transports};
    use tokio::time::{Instant, sleep, timeout};

    use crate::Mesh;

    /// A mesh of which one task takes a second over its last words.
    async fn lingering() -> Mesh {
        let mesh = Mesh::builder("one")
            .transports(Transports::new().with(InProcess::new()))
            .peer("two", ["in-process://two"])
            .start(MemoryStore::new(64 << 20))
            .await
            .expect("a mesh");
        mesh.shared().spawn(sleep(Duration::from_secs(1)));
        mesh
    }

    #[tokio::test(start_paused = true)]
    async fn promise_11_all_who_close_at_once_return_when_it_is_closed_and_are_told_the_same() {
        let mesh = lingering().await;
        let began = Instant::now();
        let close = || async {
            let report = mesh.close().await.expect("it closes");
            (report, began.elapsed() >= Duration::from_secs(1))
        };
        let (first, second, third) = tokio::join!(close(), close(), close());
        assert!(first.1 && second.1 && third.1, "all of its tasks have ended");
        assert_eq!((&first.0, &first.0), (&second.0, &third.0));
        // Once it is closed nobody is waited for.
        let at = Instant::now();
        assert_eq!(mesh.close().await.expect("it is closed"), first.0);
        assert_eq!(at.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn promise_11_who_goes_on_with_a_close_that_was_given_up_waits_for_its_end_too() {
        let mesh = lingering().await;
        let began = Instant::now();
        timeout(Duration::from_millis(300), mesh.close()).await.expect_err("it is not closed yet");
        mesh.close().await.expect("it closes");
        assert!(began.elapsed() >= Duration::from_secs(1), "its tasks have ended");
    }
}
