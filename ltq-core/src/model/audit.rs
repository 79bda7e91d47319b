//! Whether what a store keeps of topics fits together, without running any of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use super::{
    keys::{self, Key},
    marks::{Marks, MarksState},
    settings::ModelSettings,
    state::{self, ProducerState, TopicState},
};
use crate::{Durability, LogInfo, Now, TopicName, TopicSettings};

/// A value that does not fit the rest of its store, or that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Its key.
    pub key: Bytes,
    /// What the key names.
    pub subject: Key,
    /// The value as it is; `None` when it is missing.
    pub value: Option<Bytes>,
    /// What is wrong.
    pub what: String,
    /// What to put in its place so that a broker starts and loses the least; `None` when it is to
    /// be deleted.
    pub mended: Option<Bytes>,
}

/// Compares a store's logs with its values: each topic has a log and settings, each channel and
/// producer a topic, every value can be read, and no channel is further on than its log. Logs and
/// values that are not named as a broker's are another program's, and left alone.
///
/// Both are taken whole, as [`Store::logs`](crate::Store::logs) and
/// [`Store::values`](crate::Store::values) return them. The answer is ordered by key.
#[must_use]
pub fn audit(logs: &[LogInfo], values: &[(Bytes, Bytes)]) -> Vec<Misfit> {
    let named = logs.iter().map(|info| (TopicName::new(info.log.as_str()), info));
    let logs: BTreeMap<TopicName, &LogInfo> =
        named.filter_map(|(name, info)| Some((name.ok()?, info))).collect();
    let mut misfits = Vec::new();
    let mut with_settings = BTreeSet::new();
    for (key, value) in values {
        let Some(subject) = keys::parse(key) else { continue };
        if let Key::Topic(topic) = &subject {
            with_settings.insert(topic.clone());
        }
        let (what, mended) = match logs.get(subject.topic()) {
            None => ("its topic has no log".to_owned(), None),
            Some(log) => match judge(&subject, key, value, log) {
                None => continue,
                Some(wrong) => wrong,
            },
        };
        let (key, value) = (key.clone(), Some(value.clone()));
        misfits.push(Misfit { key, subject, value, what, mended });
    }
    for (topic, log) in logs {
        if !with_settings.contains(&topic) {
            misfits.push(Misfit {
                key: keys::topic_key(&topic),
                subject: Key::Topic(topic),
                value: None,
                what: "a log has no topic settings".to_owned(),
                mended: Some(likely_settings(log)),
            });
        }
    }
    misfits.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    misfits
}

/// What is wrong with a value, and what would be right.
fn judge(
    subject: &Key,
    key: &[u8],
    value: &[u8],
    log: &LogInfo,
) -> Option<(String, Option<Bytes>)> {
    match subject {
        Key::Topic(_) => {
            let error = state::decode::<TopicState>(key, value).err()?;
            Some((error.to_string(), Some(likely_settings(log))))
        }
        // Without them the topic's first message is taken for as old as the next start.
        Key::Marks(_) => match state::decode::<MarksState>(key, value) {
            Ok(marks) => {
                let why = Marks::restore(&marks, log.bounds, Now::default()).err()?;
                Some((format!("its marks contradict themselves: {why}"), None))
            }
            Err(error) => Some((error.to_string(), None)),
        },
        Key::Producer(..) => {
            let error = state::decode::<ProducerState>(key, value).err()?;
            Some((error.to_string(), None))
        }
        Key::Channel(_, channel) => {
            // No delay is cut short by looking at it.
            let settings =
                ModelSettings { requeue_delay_max: Duration::MAX, ..ModelSettings::default() };
            let (bounds, now) = (log.bounds, Now::default());
            let decoded =
                state::decode_channel(channel.clone(), key, value, bounds, &settings, now);
            let channel = match decoded {
                Ok(channel) => channel,
                Err(error) => return Some((error.to_string(), None)),
            };
            let end = state::channel_end(key, value).ok()?;
            if end <= bounds.end {
                return None;
            }
            let what = format!("it goes on to offset {end}, and its log ends at {}", bounds.end);
            Some((what, Some(state::encode_channel(&channel, now))))
        }
    }
}

/// The settings of a topic of which only the log is known.
fn likely_settings(log: &LogInfo) -> Bytes {
    let durability = if log.options.durable { Durability::Disk } else { Durability::Memory };
    let settings = TopicSettings { durability, ..TopicSettings::default() };
    state::encode(&TopicState { settings, paused: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bounds, ChannelName, LogOptions, Offset, ProducerName};

    fn log(end: u64) -> LogInfo {
        LogInfo {
            log: keys::log_name(&topic()),
            options: LogOptions::default(),
            bounds: Bounds { first: Offset(2), end: Offset(end) },
        }
    }

    fn topic() -> TopicName {
        TopicName::new("orders").unwrap()
    }

    fn channel_key() -> Bytes {
        keys::channel_key(&topic(), &ChannelName::new("mail").unwrap())
    }

    /// A topic's settings and a channel that is done up to `floor`.
    fn values(floor: u64) -> Vec<(Bytes, Bytes)> {
        let settings = TopicSettings::default();
        let mut channel =
            super::super::channel::Channel::new(ChannelName::new("mail").unwrap(), Offset(1));
        channel.floor = Offset(floor);
        vec![
            (channel_key(), state::encode_channel(&channel, Now::default())),
            (Bytes::from("mine/own"), Bytes::from("value")),
            (keys::topic_key(&topic()), state::encode(&TopicState { settings, paused: true })),
        ]
    }

    #[test]
    fn what_fits_together_is_left_alone() {
        assert_eq!(audit(&[log(9)], &values(9)), []);
        assert_eq!(audit(&[], &[]), []);
        // Another program's log.
        let other = LogInfo { log: crate::LogName::new("a/b"), ..log(9) };
        assert_eq!(audit(&[log(9), other], &values(4)), []);
    }

    #[test]
    fn a_channel_beyond_its_log_is_brought_back_to_its_end() {
        let misfits = audit(&[log(9)], &values(12));
        let [Misfit { key, what, mended: Some(mended), .. }] = &misfits[..] else {
            panic!("{misfits:?}");
        };
        assert_eq!(key, &channel_key());
        assert!(what.contains("12") && what.contains('9'), "{what}");
        let mut again = values(9);
        assert_eq!(mended, &again[0].1);
        again[0].1 = mended.clone();
        assert_eq!(audit(&[log(9)], &again), []);
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_topic() {
        let producer = ProducerName::new("loader").unwrap();
        for (key, mends) in [
            (channel_key(), false),
            (keys::producer_key(&topic(), &producer), false),
            (keys::marks_key(&topic()), false),
            (keys::topic_key(&topic()), true),
        ] {
            for value in [&b""[..], b"\x01", b"\x63abc"] {
                let mut values = values(4);
                values.retain(|(other, _)| *other != key);
                values.push((key.clone(), Bytes::from_static(value)));
                let misfits = audit(&[log(9)], &values);
                let [misfit] = &misfits[..] else { panic!("{key:?} {value:?}: {misfits:?}") };
                assert_eq!((&misfit.key, misfit.mended.is_some()), (&key, mends));
                assert_eq!(misfit.subject.topic(), &topic());
            }
        }
    }

    #[test]
    fn a_topic_without_a_log_or_without_settings_is_found() {
        let misfits = audit(&[], &values(4));
        assert_eq!(misfits.len(), 2);
        assert!(misfits.iter().all(|misfit| misfit.mended.is_none()), "{misfits:?}");
        let mut values = values(4);
        values.pop();
        let misfits = audit(&[log(9)], &values);
        let [Misfit { key, value: None, mended: Some(mended), .. }] = &misfits[..] else {
            panic!("{misfits:?}");
        };
        values.push((key.clone(), mended.clone()));
        assert_eq!(audit(&[log(9)], &values), []);
    }
}
