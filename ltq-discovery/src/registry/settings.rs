//! What can be set on a registry.

use std::time::Duration;

use thiserror::Error;

/// When a registry doubts that a node is there, and what it takes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrySettings {
    /// How often a node is to be heard of. Nodes are told, and keep to it. 100 ms to 1 h; default 1 s.
    pub heartbeat: Duration,
    /// How many beats a node misses until it is suspected; at least 2, so that one which is late costs
    /// nothing. Default 2.
    pub suspected_after: u32,
    /// How many it misses until it is forgotten; more than `suspected_after`. Default 30.
    pub forgotten_after: u32,
    /// The most nodes. Default 10,000.
    pub nodes_max: usize,
    /// The most topics of all nodes together, each counted at each of its nodes. Default 10,000,000. With
    /// `channels_max` it bounds what a [server](crate::registry::RegistryServer) holds of announcements that have not
    /// come whole: one address as many topics and channels as both allow, and all together a third more.
    pub topics_max: usize,
    /// The most channels of all nodes together, counted the same. Default 10,000,000.
    pub channels_max: usize,
    /// The most watchers. Default 100,000. A [server](crate::registry::RegistryServer) gives one address three
    /// quarters of them at most.
    pub watchers_max: usize,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            suspected_after: 2,
            forgotten_after: 30,
            nodes_max: 10_000,
            topics_max: 10_000_000,
            channels_max: 10_000_000,
            watchers_max: 100_000,
        }
    }
}

/// A setting is out of its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{setting} is {value}; {allowed} is allowed")]
pub struct RegistrySettingsError {
    /// Which one.
    pub setting: &'static str,
    /// What it is.
    pub value: String,
    /// What it may be.
    pub allowed: String,
}

impl RegistrySettings {
    /// Whether all of it is within bounds.
    ///
    /// # Errors
    /// The first setting that is not.
    pub fn check(&self) -> Result<(), RegistrySettingsError> {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(3_600));
        if !(least..=most).contains(&self.heartbeat) {
            return bad("heartbeat", &self.heartbeat, format!("{least:?} to {most:?}"));
        }
        if self.suspected_after < 2 {
            return bad("suspected_after", &self.suspected_after, "at least 2".to_owned());
        }
        if self.forgotten_after <= self.suspected_after || self.forgotten_after > BEATS_MAX {
            let allowed = format!("more than {} and at most {BEATS_MAX}", self.suspected_after);
            return bad("forgotten_after", &self.forgotten_after, allowed);
        }
        let counts = [
            ("nodes_max", self.nodes_max),
            ("topics_max", self.topics_max),
            ("channels_max", self.channels_max),
            ("watchers_max", self.watchers_max),
        ];
        match counts.into_iter().find(|(_, count)| *count == 0) {
            Some((setting, count)) => bad(setting, &count, "at least 1".to_owned()),
            None => Ok(()),
        }
    }

    /// How long after its last beat a node is suspected: half a beat more than it may miss, as beats
    /// are late now and then.
    pub(super) fn suspected_behind(&self) -> Duration {
        self.heartbeat * self.suspected_after + self.heartbeat / 2
    }

    /// How long after its last beat a node is forgotten.
    pub(super) fn forgotten_behind(&self) -> Duration {
        self.heartbeat * self.forgotten_after + self.heartbeat / 2
    }
}

fn bad(
    setting: &'static str,
    value: &dyn std::fmt::Debug,
    allowed: String,
) -> Result<(), RegistrySettingsError> {
    Err(RegistrySettingsError { setting, value: format!("{value:?}"), allowed })
}

/// A day of beats of a second.
const BEATS_MAX: u32 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_bounds_are_named() {
        let usual = RegistrySettings::default;
        assert_eq!(usual().check(), Ok(()));
        let millis = Duration::from_millis;
        for (settings, why) in [
            (RegistrySettings { heartbeat: millis(99), ..usual() }, "heartbeat is 99ms"),
            (RegistrySettings { heartbeat: millis(3_600_001), ..usual() }, "to 3600s is allowed"),
            (RegistrySettings { suspected_after: 1, ..usual() }, "suspected_after is 1"),
            (RegistrySettings { forgotten_after: 2, ..usual() }, "more than 2"),
            (RegistrySettings { forgotten_after: 86_401, ..usual() }, "at most 86400"),
            (RegistrySettings { nodes_max: 0, ..usual() }, "nodes_max is 0"),
            (RegistrySettings { topics_max: 0, ..usual() }, "topics_max is 0"),
            (RegistrySettings { channels_max: 0, ..usual() }, "channels_max is 0"),
            (RegistrySettings { watchers_max: 0, ..usual() }, "watchers_max is 0"),
        ] {
            let error = settings.check().expect_err(why).to_string();
            assert!(error.contains(why), "{error} is not {why}");
        }
    }
}
