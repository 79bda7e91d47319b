//! The ranges of those settings that are the node's and the model's own; the broker checks its.

use std::{fmt::Display, time::Duration};

use ltq_core::Retention;

use super::{
    ConfigError, StoreKind, layers,
    settings::{Config, JOURNAL_BY_FRAME},
    units::{ByteSize, Period},
};

/// Checks the range of each.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let (limits, delivery) = (&config.limits, &config.delivery);
    let period = |millis| Period(Duration::from_millis(millis));
    let (ten_millis, tenth) = (period(10), period(100));
    let (hour, day, year) = (period(HOUR_MS), period(24 * HOUR_MS), period(365 * 24 * HOUR_MS));

    within("stop_timeout", config.stop_timeout, tenth, hour)?;
    within("drain.timeout", config.drain.timeout, tenth, day)?;
    within("listen_retry", config.listen_retry, ten_millis, hour)?;
    within("limits.hello_timeout", limits.hello_timeout, tenth, hour)?;
    within("limits.heartbeat", limits.heartbeat, tenth, hour)?;
    within("limits.stall_timeout", limits.stall_timeout, tenth, hour)?;
    within("limits.lockout_max", limits.lockout_max, period(1_000), day)?;
    within("limits.addresses_known_max", limits.addresses_known_max, 1, COUNT_MAX)?;
    let per_second = limits.connections_per_second_max as usize;
    within("limits.connections_per_second_max", per_second, 1, COUNT_MAX)?;
    for (key, max) in [
        ("limits.greeting_connections_max", limits.greeting_connections_max),
        (
            "limits.greeting_connections_per_address_max",
            limits.greeting_connections_per_address_max,
        ),
    ] {
        if let Some(max) = max {
            within(key, max, 1, COUNT_MAX)?;
        }
    }
    within("limits.requests_max", limits.requests_max as usize, 1, COUNT_MAX)?;
    within("limits.surveys_max", limits.surveys_max, 1, COUNT_MAX)?;
    within("limits.topic_lists_max", limits.topic_lists_max, 1, COUNT_MAX)?;
    within("limits.slow_read_stalls", limits.slow_read_stalls, 1, 10_000)?;
    within("limits.handles_total_max", limits.handles_total_max, 1, COUNT_MAX)?;
    if let Some(max) = limits.handles_per_address_max {
        within("limits.handles_per_address_max", max, 1, COUNT_MAX)?;
    }
    within("limits.inbox_entries_max", limits.inbox_entries_max, 1, COUNT_MAX)?;
    let (least, most) = (limits.unknown_streams_max, 1_000_000);
    within("limits.unknown_streams_max", least, 1, most)?;
    within("limits.opening_streams_max", limits.opening_streams_max, least, most)?;
    let (least, most) = (ByteSize(4 << 10), ByteSize(1 << 30));
    within("limits.answer_bytes_max", limits.answer_bytes_max, least, most)?;
    within("limits.delivery_bytes_max", limits.delivery_bytes_max, least, most)?;
    within("limits.partial_bytes_free", limits.partial_bytes_free, ByteSize(16 << 10), most)?;
    within("limits.http_request_timeout", limits.http_request_timeout, tenth, hour)?;
    within("limits.http_connections_max", limits.http_connections_max, 1, COUNT_MAX)?;
    if let Some(max) = limits.http_connections_per_address_max {
        within("limits.http_connections_per_address_max", max, 1, COUNT_MAX)?;
    }
    within("limits.metrics_series_max", limits.metrics_series_max, 1, COUNT_MAX)?;
    within("limits.channels_max", limits.channels_max, 1, COUNT_MAX)?;
    within("limits.consumers_max", limits.consumers_max, 1, COUNT_MAX)?;
    within("limits.producers_known_max", limits.producers_known_max, 1, COUNT_MAX)?;

    within("delivery.timeout_max", delivery.timeout_max, ten_millis, day)?;
    within("delivery.timeout", delivery.timeout, ten_millis, delivery.timeout_max)?;
    within("delivery.requeue_delay_max", delivery.requeue_delay_max, period(0), year)?;
    within("delivery.credit_messages_max", delivery.credit_messages_max, 1, 1 << 20)?;
    let bytes = delivery.credit_bytes_max;
    within("delivery.credit_bytes_max", bytes, ByteSize(1), ByteSize(1 << 30))?;
    within("delivery.channel_runs_max", delivery.channel_runs_max, 1_000, 10_000_000)?;
    within(
        "delivery.ack_commit_interval",
        delivery.ack_commit_interval,
        period(1),
        period(10_000),
    )?;

    if let Some(age) = config.retention.age_max {
        within("retention.age_max", age, Period(Retention::AGE_MIN), Period(Retention::AGE_MAX))?;
    }
    if let Some(bytes) = config.retention.bytes_max {
        within("retention.bytes_max", bytes, ByteSize(Retention::BYTES_MIN), BYTES_MAX)?;
    }

    let files = &config.file_store;
    let (least, kib) = (ByteSize(64 << 10), |kib: u64| ByteSize(kib << 10));
    within("file_store.tail_bytes", files.tail_bytes, least, BYTES_MAX)?;
    // Four journal files of the least size.
    within("file_store.journal_bytes_max", files.journal_bytes_max, kib(256), kib(16 << 20))?;
    within("file_store.segment_bytes", files.segment_bytes, least, kib(64 << 20))?;
    within("file_store.reserve_bytes", files.reserve_bytes, ByteSize(0), kib(1 << 30))?;
    within("file_store.os_sync_interval", files.os_sync_interval, period(1), hour)?;
    within("file_store.caller_sync_max", files.caller_sync_max, period(0), period(1_000))?;

    let rocksdb = &config.rocksdb_store;
    within("rocksdb_store.tail_bytes", rocksdb.tail_bytes, kib(4 << 10), BYTES_MAX)?;
    within("rocksdb_store.reserve_bytes", rocksdb.reserve_bytes, ByteSize(0), kib(1 << 30))?;
    within("rocksdb_store.os_sync_interval", rocksdb.os_sync_interval, period(1), hour)?;

    within("memory_store.bytes_max", config.memory_store.bytes_max, ByteSize(1 << 20), BYTES_MAX)
}

/// Checks those that depend on others, once each is known to be in its own range.
pub(super) fn check_together(config: &Config) -> Result<(), ConfigError> {
    let least = config.limits.frame_bytes_max.max(config.limits.message_bytes_max);
    let bytes = config.limits.http_body_bytes_total_max;
    within("limits.http_body_bytes_total_max", bytes, least, BYTES_MAX)?;
    if let Some(part) = config.limits.http_body_bytes_per_address_max {
        within("limits.http_body_bytes_per_address_max", part, least, BYTES_MAX)?;
    }
    frames_fit_the_journal(config)
}

/// What fits into a frame has to fit into a commit, or it is refused however empty the store is.
fn frames_fit_the_journal(config: &Config) -> Result<(), ConfigError> {
    let (frame, journal) = (config.limits.frame_bytes_max, config.file_store.journal_bytes_max);
    let most = ByteSize(journal.0 / JOURNAL_BY_FRAME);
    if config.store != StoreKind::File || frame <= most {
        return Ok(());
    }
    let least = ByteSize(frame.0.saturating_mul(JOURNAL_BY_FRAME));
    let rule = format!(
        "it goes into a journal of file_store.journal_bytes_max, {journal}, {JOURNAL_BY_FRAME} times; \
         make it at most {most}, or the journal at least {least}"
    );
    Err(ConfigError::Value {
        key: "limits.frame_bytes_max".to_owned(),
        value: frame.to_string(),
        rule,
    })
}

/// What is set up of handshakes and of QUIC, by nodes and by others that listen.
pub(super) fn check_secure(config: &Config) -> Result<(), ConfigError> {
    let period = |millis| Period(Duration::from_millis(millis));
    let (tenth, hour) = (period(100), period(HOUR_MS));
    within("tls.handshake_timeout", config.tls.handshake_timeout, tenth, hour)?;
    within("tls.handshakes_max", config.tls.handshakes_max, 1, COUNT_MAX)?;
    if let Some(max) = config.tls.handshakes_per_address_max {
        within("tls.handshakes_per_address_max", max, 1, COUNT_MAX)?;
    }
    let (quic, least, most) = (&config.quic, ByteSize(64 << 10), ByteSize(1 << 30));
    within("quic.idle_timeout", quic.idle_timeout, period(1_000), hour)?;
    if let Some(pause) = quic.keep_alive {
        // One that is lost must not be the end.
        within("quic.keep_alive", pause, tenth, Period(quic.idle_timeout.0 / 2))?;
    }
    within("quic.stream_window", quic.stream_window, least, most)?;
    within("quic.connection_window", quic.connection_window, least, most)?;
    within("quic.send_window", quic.send_window, least, most)?;
    let (least, most) = (ByteSize(1 << 20), ByteSize(1 << 40));
    if let Some(max) = quic.windows_bytes_per_address_max {
        within("quic.windows_bytes_per_address_max", max, least, most)?;
    }
    within("quic.windows_bytes_max", quic.windows_bytes_max, least, most)
}

/// The key of a broker's setting.
pub(super) fn key_of(setting: &str) -> String {
    let keys = layers::known_keys::<Config>();
    let ends_so = |key: &&String| key.rsplit('.').next() == Some(setting);
    keys.iter().find(ends_so).cloned().unwrap_or_else(|| setting.to_owned())
}

/// Checks the range of one setting.
pub(crate) fn within<T: PartialOrd + Display + Copy>(
    key: &str,
    value: T,
    min: T,
    max: T,
) -> Result<(), ConfigError> {
    let nearest = match () {
        () if value < min => &min,
        () if value > max => &max,
        () => return Ok(()),
    };
    Err(ConfigError::Value {
        key: key.to_owned(),
        value: value.to_string(),
        rule: format!("it must be from {min} to {max}; the nearest is {nearest}"),
    })
}

const HOUR_MS: u64 = 60 * 60 * 1000;
/// More than any machine serves; it keeps sums of limits from overflowing.
const COUNT_MAX: usize = 10_000_000;
/// As much as any machine has.
const BYTES_MAX: ByteSize = ByteSize(1 << 44);
