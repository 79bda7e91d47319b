//! The first words of a stream.

use std::time::Duration;

use super::settings::BrokerSettings;
use crate::{
    Refusal, RefusalCode,
    protocol::{Features, Hello, InstanceId, PROTOCOL_MAJOR, PROTOCOL_MINOR, PeerLimits, Welcome},
};

/// Whether a client speaks the protocol.
pub(super) fn check_version(hello: &Hello) -> Result<(), Refusal> {
    if hello.major != PROTOCOL_MAJOR {
        let detail = format!(
            "this node speaks version {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}, the client {}.{}",
            hello.major, hello.minor
        );
        return Err(Refusal::new(RefusalCode::VersionUnsupported, detail));
    }
    if hello.client.len() > CLIENT_BYTES_MAX {
        let detail = format!(
            "the client's name has {} bytes; the limit is {CLIENT_BYTES_MAX}",
            hello.client.len()
        );
        return Err(Refusal::new(RefusalCode::OutOfRange, detail));
    }
    Ok(())
}

/// Whether a client that may come in can read what it is sent, and how often it wants to hear
/// something.
pub(super) fn check_limits(hello: &Hello, settings: &BrokerSettings) -> Result<Duration, Refusal> {
    let run = u32::try_from(settings.model.run_bytes_max).unwrap_or(u32::MAX);
    let largest = settings.message_bytes_max.max(run);
    let least = largest.saturating_add(BrokerSettings::FRAME_OVERHEAD);
    if hello.frame_bytes_max < least {
        let detail = format!(
            "the client reads frames of up to {} bytes; this node sends up to {least}",
            hello.frame_bytes_max
        );
        return Err(Refusal::new(RefusalCode::OutOfRange, detail));
    }
    if hello.heartbeat_ms == 0 {
        return Ok(settings.heartbeat);
    }
    let wished = Duration::from_millis(hello.heartbeat_ms.into());
    Ok(wished.clamp(HEARTBEAT_MIN.min(settings.heartbeat), settings.heartbeat))
}

/// What a client that may come in is told.
pub(super) fn welcome(
    settings: &BrokerSettings,
    instance: InstanceId,
    heartbeat: Duration,
) -> Welcome {
    Welcome {
        major: PROTOCOL_MAJOR,
        // Ours is the lowest there is, so that a client of any minor version may use it.
        minor: PROTOCOL_MINOR,
        features: Features(0),
        node: settings.node.clone(),
        instance,
        limits: PeerLimits {
            frame_bytes_max: settings.frame_bytes_max,
            message_bytes_max: settings.message_bytes_max,
            credit_max: settings.model.credit_max,
            subscriptions_max: settings.subscriptions_max,
            producers_max: settings.producers_max,
            publish_bytes_max: settings.publish_bytes_max,
        },
        heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX),
    }
}

/// The shortest heartbeat that a client may ask for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// The longest client name in a hello.
const CLIENT_BYTES_MAX: usize = 256;
