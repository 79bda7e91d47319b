//! What can be set on a mesh.

use std::time::Duration;

use ltq_core::{BrokerSettings, Durability};
use thiserror::Error;

/// Times and limits of a mesh. Made with [`Default`] and changed field by field.
#[derive(Clone, Debug)]
pub struct MeshSettings {
    /// How long after a connection was lost, or an attempt failed, the next one is made; half of it to all of
    /// it, as chance will have it, so that programs that lost each other at one instant do not come back
    /// at one. 10 ms to 1 h; default 1 s.
    pub reconnect_interval: Duration,
    /// How long after an address could not be listened on, or a listener failed, it is tried again. 10 ms to
    /// 1 h; default 1 s.
    pub listen_retry_interval: Duration,
    /// After so long without a byte from a peer its connection is cut. It is asked for a sign of life after
    /// each third of it, so that only one who is gone or hangs says nothing. 100 ms to 1 h; default 15 s.
    pub read_timeout: Duration,
    /// After so long in which a peer takes nothing of what waits to be sent to it, its connection is cut.
    /// 100 ms to 1 h; default 15 s.
    pub write_timeout: Duration,
    /// How long a connection may take until both have said who they are, connecting included. 100 ms to
    /// 1 h; default 5 s.
    pub hello_timeout: Duration,
    /// How long [`Mesh::send`](crate::Mesh::send) waits at most until the message is in the other's
    /// inbox, and how long the other's handler may think about it. 10 ms to 1 h; default 10 s.
    pub acknowledgement_timeout: Duration,
    /// The most bytes of a message, of those that are sent and those that are taken. 1 byte to 64 MiB;
    /// default 1 MiB.
    pub message_bytes_max: usize,
    /// The most messages that may be on their way to one peer and not acknowledged, and from one peer and not
    /// stored; who sends more waits. 1 to 65,536; default 1,024.
    pub unacknowledged_messages_max: usize,
    /// The same in bytes. At least `message_bytes_max`, at most 1 GiB; default 8 MiB.
    pub unacknowledged_bytes_max: usize,
    /// The same in bytes for all peers together, once for what is on its way to them and once for what has
    /// come from them, each message counting 256 bytes more than its body. Beyond it `send` waits for room,
    /// and what comes is refused as [`InboxFull`](crate::SendError::InboxFull). Up to half of what is for those on
    /// their way belongs to the peers, as much to each of `peers_max`, and is there whatever others hold. At least
    /// `unacknowledged_bytes_max`, at most 64 GiB; default 256 MiB.
    pub unacknowledged_bytes_total_max: usize,
    /// The most peers: configured, discovered, and such as call. 1 to 100,000; default 1,000.
    pub peers_max: usize,
    /// The most connections that have not said who they are, in all; a quarter of it from one
    /// address, the loopback address aside, or over Unix sockets from one user. 4 to 65,536; default 256.
    pub callers_max: usize,
    /// The embedded broker's own, which bound the inbox: how durable a message is before it is
    /// acknowledged (and no more than its store can do), how long an inbox's reader may take over one, and
    /// more. What it allows for a message is raised to fit `message_bytes_max`, and the producers that the
    /// inbox remembers (`model.producers_known_max`) to four for each of `peers_max`.
    pub broker: BrokerSettings,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            reconnect_interval: Duration::from_secs(1),
            listen_retry_interval: Duration::from_secs(1),
            read_timeout: Duration::from_secs(15),
            write_timeout: Duration::from_secs(15),
            hello_timeout: Duration::from_secs(5),
            acknowledgement_timeout: Duration::from_secs(10),
            message_bytes_max: 1 << 20,
            unacknowledged_messages_max: 1_024,
            unacknowledged_bytes_max: 8 << 20,
            unacknowledged_bytes_total_max: 256 << 20,
            peers_max: 1_000,
            callers_max: 256,
            broker: BrokerSettings::default(),
        }
    }
}

/// A setting is out of its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{setting} is {value}; {allowed} is allowed")]
pub struct SettingsError {
    /// Which one.
    pub setting: &'static str,
    /// What it is.
    pub value: String,
    /// What it may be.
    pub allowed: String,
}

impl MeshSettings {
    /// Whether all of it is within bounds. What the broker's own are is checked by the broker.
    ///
    /// # Errors
    /// The first setting that is not.
    pub fn check(&self) -> Result<(), SettingsError> {
        let short = Duration::from_millis(10);
        let long = Duration::from_millis(100);
        for (setting, least, value) in [
            ("reconnect_interval", short, self.reconnect_interval),
            ("listen_retry_interval", short, self.listen_retry_interval),
            ("read_timeout", long, self.read_timeout),
            ("write_timeout", long, self.write_timeout),
            ("hello_timeout", long, self.hello_timeout),
            ("acknowledgement_timeout", short, self.acknowledgement_timeout),
        ] {
            if !(least..=HOUR).contains(&value) {
                let allowed = format!("{least:?} to {HOUR:?}");
                return Err(SettingsError { setting, value: format!("{value:?}"), allowed });
            }
        }
        let (least_bytes, least_total) = (self.message_bytes_max, self.unacknowledged_bytes_max);
        for (setting, least, most, value) in [
            ("message_bytes_max", 1, 64 << 20, self.message_bytes_max),
            ("unacknowledged_messages_max", 1, 65_536, self.unacknowledged_messages_max),
            ("unacknowledged_bytes_max", least_bytes, 1 << 30, self.unacknowledged_bytes_max),
            (
                "unacknowledged_bytes_total_max",
                least_total,
                TOTAL_BYTES_MAX,
                self.unacknowledged_bytes_total_max,
            ),
            ("peers_max", 1, 100_000, self.peers_max),
            ("callers_max", 4, 65_536, self.callers_max),
        ] {
            if !(least..=most).contains(&value) {
                let allowed = format!("{least} to {most}");
                return Err(SettingsError { setting, value: value.to_string(), allowed });
            }
        }
        Ok(())
    }

    /// The broker's settings, with room for the largest message and what is stored beside it.
    pub(crate) fn broker(&self, name: &str, reach: Durability) -> BrokerSettings {
        let mut broker = self.broker.clone();
        broker.topic.durability = broker.topic.durability.min(reach);
        (broker.auto_create_topics, broker.auto_create_channels) = (true, true);
        name.clone_into(&mut broker.node);
        let message = u32::try_from(self.message_bytes_max).unwrap_or(u32::MAX);
        let message = message.saturating_add(RECORD_OVERHEAD);
        broker.message_bytes_max = broker.message_bytes_max.max(message);
        let frame = broker.message_bytes_max.saturating_add(FRAME_OVERHEAD);
        broker.frame_bytes_max = broker.frame_bytes_max.max(frame);
        broker.publish_bytes_max = broker.publish_bytes_max.max(broker.frame_bytes_max.into());
        let known = self.peers_max.saturating_mul(PROCESSES_KNOWN);
        broker.model.producers_known_max = broker.model.producers_known_max.max(known);
        broker
    }
}

/// 64 GiB, or what can be counted.
const TOTAL_BYTES_MAX: usize = if usize::BITS < 64 { usize::MAX >> 3 } else { 64 << 30 };
/// What is counted of a peer's messages is by process: so many processes of each are remembered, those
/// that are connected among them.
const PROCESSES_KNOWN: usize = 4;
const HOUR: Duration = Duration::from_secs(3_600);
/// A record has its sender's name of 64 bytes beside the body, and some lengths.
const RECORD_OVERHEAD: u32 = 256;
/// What a broker asks for in a frame beside its message, and more.
const FRAME_OVERHEAD: u32 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_bounds_are_named() {
        let usual = MeshSettings::default;
        assert_eq!(usual().check(), Ok(()));
        let millis = Duration::from_millis;
        for (settings, why) in [
            (
                MeshSettings { reconnect_interval: millis(9), ..usual() },
                "reconnect_interval is 9ms",
            ),
            (
                MeshSettings { listen_retry_interval: millis(9), ..usual() },
                "listen_retry_interval is",
            ),
            (MeshSettings { read_timeout: millis(99), ..usual() }, "read_timeout is 99ms"),
            (MeshSettings { write_timeout: HOUR + millis(1), ..usual() }, "to 3600s is allowed"),
            (MeshSettings { hello_timeout: millis(99), ..usual() }, "hello_timeout is 99ms"),
            (
                MeshSettings { acknowledgement_timeout: millis(9), ..usual() },
                "acknowledgement_timeout",
            ),
            (MeshSettings { message_bytes_max: 0, ..usual() }, "message_bytes_max is 0"),
            (MeshSettings { message_bytes_max: (64 << 20) + 1, ..usual() }, "1 to 67108864"),
            (MeshSettings { unacknowledged_messages_max: 0, ..usual() }, "messages_max is 0"),
            (MeshSettings { unacknowledged_bytes_max: 1_000, ..usual() }, "1048576 to"),
            (
                MeshSettings { unacknowledged_bytes_total_max: 1_000, ..usual() },
                "unacknowledged_bytes_total_max is 1000; 8388608 to",
            ),
            (MeshSettings { peers_max: 0, ..usual() }, "peers_max is 0"),
            (MeshSettings { callers_max: 3, ..usual() }, "callers_max is 3"),
        ] {
            let error = settings.check().expect_err(why).to_string();
            assert!(error.contains(why), "{error} is not {why}");
        }
    }

    #[test]
    fn the_broker_has_room_for_the_largest_message() {
        for message_bytes_max in [1, 1 << 20, 64 << 20] {
            let bytes = message_bytes_max;
            let settings = MeshSettings {
                message_bytes_max,
                unacknowledged_bytes_max: bytes.max(8 << 20),
                ..MeshSettings::default()
            };
            let broker = settings.broker("a", Durability::Disk);
            assert_eq!(broker.check(), Ok(()));
            assert!(broker.message_bytes_max as usize > bytes);
        }
    }

    #[test]
    fn the_inbox_remembers_more_senders_than_there_may_be_peers() {
        for peers_max in [1, 1_000, 2_501, 100_000] {
            let settings = MeshSettings { peers_max, ..MeshSettings::default() };
            let broker = settings.broker("a", Durability::Disk);
            assert_eq!(broker.check(), Ok(()));
            assert_eq!(broker.model.producers_known_max, 10_000.max(4 * peers_max));
        }
    }
}
