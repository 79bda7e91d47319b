//! What a session's peer did and did not do, and for how long.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Refusal, RefusalCode};

/// Looked at once in a while, so that it costs next to nothing while everything is well: what
/// happens between two looks is noted without the time wherever that is exact enough.
#[derive(Debug)]
pub(super) struct Watch {
    /// Something was received since the last tick.
    received: bool,
    attention: Attention,
    heard: Instant,
    frame_began: Option<Instant>,
    write_stuck: Option<Instant>,
    pings: u64,
}

/// Whether the session would read what its peer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attention {
    Reading,
    /// It waits for its turn among those that are in the middle of long frames. The time for the
    /// frame goes on: a crowd of peers that began frames and send no more must not last.
    Crowded,
    /// The node, or the peer's own reading, is behind with what was read before.
    Behind,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            received: false,
            attention: Attention::Reading,
            heard: Instant::now(),
            frame_began: None,
            write_stuck: None,
            pings: 0,
        }
    }

    /// Whether the session is going to read.
    pub(super) fn attend(&mut self, attention: Attention) {
        if self.attention == attention {
            return;
        }
        let before = std::mem::replace(&mut self.attention, attention);
        if attention == Attention::Reading {
            // Nobody could be heard meanwhile.
            self.heard = Instant::now();
        }
        if before == Attention::Behind && self.frame_began.is_some() {
            self.frame_began = Some(Instant::now());
        }
    }

    /// Something was received; afterwards there were whole frames or not, and bytes left of one
    /// that is not whole.
    pub(super) fn received(&mut self, frames: bool, left: bool) {
        self.received = true;
        if !left {
            self.frame_began = None;
        } else if frames || self.frame_began.is_none() {
            self.frame_began = Some(Instant::now());
        }
    }

    /// The peer took something of what is sent to it.
    pub(super) fn sent(&mut self) {
        self.write_stuck = None;
    }

    /// It takes nothing more for now.
    pub(super) fn blocked(&mut self) {
        self.write_stuck.get_or_insert_with(Instant::now);
    }

    /// A heartbeat has passed, or less. Says with which number the peer is to be pinged: at every
    /// tick, so that this side says something within each heartbeat, whatever else it says.
    ///
    /// # Errors
    /// [`RefusalCode::PeerTimeout`].
    pub(super) fn tick(&mut self, heartbeat: Duration, stall: Duration) -> Result<u64, Refusal> {
        let timeout = |detail: String| Err(Refusal::new(RefusalCode::PeerTimeout, detail));
        let now = Instant::now();
        let stalled = |since: Option<Instant>| since.is_some_and(|since| now - since >= stall);
        if stalled(self.frame_began) && self.attention != Attention::Behind {
            return timeout(format!("a frame was not complete after {stall:?}"));
        }
        if stalled(self.write_stuck) {
            return timeout(format!("the peer read nothing for {stall:?}"));
        }
        if std::mem::take(&mut self.received) {
            self.heard = now;
        }
        let silence = heartbeat * SILENT_HEARTBEATS_MAX;
        if now - self.heard >= silence && self.attention == Attention::Reading {
            return timeout(format!("nothing was heard for {silence:?}"));
        }
        self.pings += 1;
        Ok(self.pings)
    }
}

/// Heartbeats after which a silent peer is given up.
const SILENT_HEARTBEATS_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_secs(10);
    const STALL: Duration = Duration::from_secs(30);

    /// Lets so many heartbeats pass and says what the last tick said.
    async fn pass(watch: &mut Watch, heartbeats: u32) -> Result<u64, String> {
        let mut last = Ok(0);
        for _ in 0..heartbeats {
            tokio::time::advance(HEARTBEAT).await;
            last = watch.tick(HEARTBEAT, STALL).map_err(|refusal| refusal.detail);
        }
        last
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up_and_one_that_says_anything_is_not() {
        let mut watch = Watch::new();
        for round in 1..10 {
            watch.received(true, false);
            assert_eq!(pass(&mut watch, 1).await, Ok(round));
        }
        assert_eq!(pass(&mut watch, 2).await, Ok(11));
        let detail = pass(&mut watch, 1).await.unwrap_err();
        assert!(detail.contains("nothing was heard for 30s"), "{detail}");
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_a_peer_is_not_blamed_while_the_node_is_behind() {
        for attention in [Attention::Behind, Attention::Crowded] {
            let mut watch = Watch::new();
            watch.attend(attention);
            assert!(pass(&mut watch, 100).await.is_ok());
            watch.attend(Attention::Reading);
            assert!(pass(&mut watch, 2).await.is_ok(), "it has three heartbeats from now");
            assert!(pass(&mut watch, 1).await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_frame_lasts_as_long_as_the_stall_timeout() {
        let mut watch = Watch::new();
        watch.received(true, true);
        assert!(pass(&mut watch, 2).await.is_ok());
        // More of it changes nothing; only the next frame has time of its own.
        watch.received(false, true);
        let detail = pass(&mut watch, 1).await.unwrap_err();
        assert!(detail.contains("a frame was not complete"), "{detail}");
        watch.received(true, true);
        assert!(pass(&mut watch, 2).await.is_ok());
        watch.received(true, false);
        assert!(pass(&mut watch, 2).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_for_half_a_frame_stands_still_while_the_node_is_behind_but_not_in_a_crowd() {
        let mut watch = Watch::new();
        watch.received(true, true);
        watch.attend(Attention::Behind);
        assert!(pass(&mut watch, 100).await.is_ok());
        watch.attend(Attention::Reading);
        assert!(pass(&mut watch, 2).await.is_ok());
        watch.attend(Attention::Crowded);
        assert!(pass(&mut watch, 1).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_given_up_and_a_slow_one_is_not() {
        let mut watch = Watch::new();
        watch.attend(Attention::Behind);
        for _ in 0..10 {
            watch.blocked();
            assert!(pass(&mut watch, 2).await.is_ok());
            watch.blocked();
            watch.sent();
        }
        watch.blocked();
        let detail = pass(&mut watch, 3).await.unwrap_err();
        assert!(detail.contains("read nothing"), "{detail}");
    }
}
