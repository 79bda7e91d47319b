//! What a lane does because time passes.

use std::time::Duration;

use bytes::BytesMut;
use ltq_core::protocol::Frame;
use tokio::time::Instant;

use super::{Lane, Lost};
use crate::connection::deadline;

impl Lane {
    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(in crate::connection) fn next_timeout(&self) -> Instant {
        if let Some(finishing) = &self.finishing {
            return finishing.by;
        }
        if let Some(by) = self.welcome_by {
            return by;
        }
        let silent = deadline(self.last_received, self.heartbeat * SILENT_HEARTBEATS);
        let ping = deadline(self.last_sent, self.heartbeat);
        let ping = self.output.is_empty().then_some(ping);
        let stalled = self.partial_since.map(|since| since + FRAME_WAIT);
        ping.into_iter().chain(stalled).fold(silent, Instant::min)
    }

    /// Says something when nothing was said for long, and gives up when nothing was heard. Returns
    /// whether there is something to send.
    pub(in crate::connection) fn handle_timeout(
        &mut self,
        now: Instant,
        connect_timeout: Duration,
    ) -> Result<bool, Lost> {
        if let Some(finishing) = &self.finishing {
            return if now < finishing.by { Ok(false) } else { Err(Lost::Closed) };
        }
        if let Some(by) = self.welcome_by {
            return if now < by { Ok(false) } else { Err(Lost::Unanswered(connect_timeout)) };
        }
        let heartbeat = self.heartbeat;
        let silent = now.saturating_duration_since(self.last_received);
        if silent >= heartbeat * SILENT_HEARTBEATS {
            return Err(Lost::Silent(silent));
        }
        if self.partial_since.is_some_and(|since| now >= since + FRAME_WAIT) {
            return Err(Lost::Stalled);
        }
        if self.output.is_empty() && now >= deadline(self.last_sent, heartbeat) {
            self.output.shrink();
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            self.ping(now);
            return Ok(true);
        }
        Ok(false)
    }

    /// Asks for a sign of life.
    pub(in crate::connection) fn ping(&mut self, now: Instant) {
        self.nonce += 1;
        self.write(&Frame::Ping { nonce: self.nonce });
        self.last_sent = now;
    }

    /// Whether the broker said anything on it, its welcome included, since then.
    pub(in crate::connection) fn was_heard_since(&self, then: Instant) -> bool {
        self.welcome_by.is_none() && self.last_received >= then
    }
}

/// How often to say something on a stream whose broker asks for this.
pub(super) fn heartbeat(asked_ms: u32) -> Duration {
    match Duration::from_millis(u64::from(asked_ms)) {
        Duration::ZERO => HEARTBEAT_MAX,
        asked => asked.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX),
    }
}

/// Either side is given up after so many heartbeats without a byte.
const SILENT_HEARTBEATS: u32 = 3;
/// How long a frame may take from its first byte to its last: the largest one at 1 Mbit/s. A broker
/// that says a byte now and then is not silent, and no use.
pub(super) const FRAME_WAIT: Duration = Duration::from_secs(60);
/// However often a broker asks for it, more is no use.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// However seldom: a broker that is gone without a word is to be found out within three of these.
const HEARTBEAT_MAX: Duration = Duration::from_secs(30);
