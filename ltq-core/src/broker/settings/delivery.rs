//! Limits of delivery.

use super::{BrokerSettings, SettingsError, rule};

impl BrokerSettings {
    /// Checks the limits of delivery: one of 0 would be a broker that stands still.
    pub(super) fn check_model(&self) -> Result<(), SettingsError> {
        let model = &self.model;
        let count = |value: usize| value as u64;
        for (setting, value, max) in [
            ("model.credit_max.messages", model.credit_max.messages, u64::MAX),
            ("model.credit_max.bytes", model.credit_max.bytes, u64::MAX),
            ("model.channels_max", count(model.channels_max), u64::MAX),
            ("model.consumers_max", count(model.consumers_max), u64::MAX),
            ("model.producers_known_max", count(model.producers_known_max), u64::MAX),
            ("model.channel_runs_max", count(model.channel_runs_max), u64::MAX),
            ("model.ack_commit_rate", model.ack_commit_rate, u64::MAX),
            ("model.run_messages_max", count(model.run_messages_max), RUN_MESSAGES_CEILING),
            ("model.run_bytes_max", count(model.run_bytes_max), RUN_BYTES_CEILING),
            ("model.load_bytes", count(model.load_bytes), u64::MAX),
            ("model.window_bytes", count(model.window_bytes), u64::MAX),
            ("model.commit_bytes_max", count(model.commit_bytes_max), COMMIT_BYTES_CEILING),
            ("model.commit_publishes_max", count(model.commit_publishes_max), u64::MAX),
        ] {
            rule(
                (1..=max).contains(&value),
                setting,
                &value,
                match max {
                    u64::MAX => "it must be at least 1".to_owned(),
                    max => format!("1 to {max}"),
                },
            )?;
        }
        let (timeout, longest) = (model.delivery_timeout, model.delivery_timeout_max);
        rule(
            !timeout.is_zero() && timeout <= longest,
            "model.delivery_timeout",
            &format!("{timeout:?}"),
            format!("more than 0 and at most model.delivery_timeout_max, {longest:?}"),
        )
    }
}

/// A run and its table stay far below what a table's ends can count.
const RUN_BYTES_CEILING: u64 = 256 << 20;
/// The same, with 8 bytes of table for each message.
const RUN_MESSAGES_CEILING: u64 = 1 << 20;
/// Beyond it the records of one commit could not be one stretch of memory.
const COMMIT_BYTES_CEILING: u64 = 1 << 30;
