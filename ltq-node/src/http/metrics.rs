//! `GET /metrics`: the node's figures as Prometheus text (version 0.0.4).

use std::{fmt::Write as _, sync::Arc};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use ltq_core::{BrokerCounters, ChannelStats, NodeStats, TopicStats};

use super::Api;

pub(super) async fn show(State(api): State<Arc<Api>>) -> Response {
    let stats = api.broker.stats().await;
    let text = encode(&stats, api.broker.counters());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// A figure of each `T`: its name, its help, and how to get it. A name that ends in `_total` is a
/// counter, any other a gauge.
type Figure<T> = (&'static str, &'static str, fn(&T) -> u64);

const NODE: &[Figure<NodeStats>] = &[
    ("ltq_uptime_seconds", "Seconds since the node started.", |s| s.uptime_seconds),
    ("ltq_connections", "Open connections.", |s| s.connections),
    ("ltq_topics", "Topics.", |s| s.topics.len() as u64),
    ("ltq_store_healthy", "1 while the store takes commits.", |s| {
        u64::from(s.store_failure.is_none())
    }),
    ("ltq_store_commits_total", "Commits of the store.", |s| s.store.commits),
    ("ltq_store_syncs_total", "Syncs of the store's device.", |s| s.store.syncs),
    ("ltq_store_written_bytes_total", "Bytes written to files.", |s| s.store.bytes_written),
    ("ltq_store_memory_bytes", "Bytes that the store keeps in memory.", |s| s.store.memory_bytes),
    ("ltq_store_disk_bytes", "Bytes that the store's files take.", |s| s.store.disk_bytes),
    ("ltq_store_damaged_records_total", "Records found damaged.", |s| s.store.damaged_records),
];

const BROKER: &[Figure<BrokerCounters>] = &[
    ("ltq_connections_accepted_total", "Connections taken in.", |c| c.connections_accepted),
    ("ltq_connections_refused_total", "Connections closed because there were too many.", |c| {
        c.connections_refused
    }),
    ("ltq_streams_failed_total", "Streams that ended by a refusal or a cut.", |c| c.streams_failed),
];

const TOPIC: &[Figure<TopicStats>] = &[
    ("ltq_topic_published_messages_total", "Messages stored since the node started.", |t| {
        t.published
    }),
    ("ltq_topic_published_bytes_total", "Their bytes, encoded.", |t| t.published_bytes),
    ("ltq_topic_duplicate_messages_total", "Messages found to be repeats, and not stored.", |t| {
        t.duplicates
    }),
    ("ltq_topic_refused_messages_total", "Messages refused.", |t| t.refused),
    ("ltq_topic_producers", "Open producers.", |t| t.producers),
    ("ltq_topic_producers_known", "Producer names remembered.", |t| t.producers_known),
    ("ltq_topic_first_offset", "The oldest message's offset.", |t| t.first.0),
    ("ltq_topic_end_offset", "The offset that the next message will have.", |t| t.end.0),
    ("ltq_topic_paused", "1 while delivery is stopped.", |t| u64::from(t.paused)),
];

const CHANNEL: &[Figure<ChannelStats>] = &[
    ("ltq_channel_waiting_messages", "Messages that wait for delivery.", |c| c.waiting),
    ("ltq_channel_delayed_messages", "Messages given back with a delay not over.", |c| c.delayed),
    ("ltq_channel_in_flight_messages", "Messages delivered and not settled.", |c| c.in_flight),
    ("ltq_channel_acked_messages", "Messages acked since the channel was made.", |c| c.acked),
    ("ltq_channel_damaged_messages", "Messages that could not be read back.", |c| c.damaged),
    ("ltq_channel_deliveries_total", "Deliveries since the node started.", |c| c.delivered),
    ("ltq_channel_redeliveries_total", "Those that were not a message's first.", |c| c.redelivered),
    ("ltq_channel_requeues_total", "Messages given back by consumers.", |c| c.requeued),
    ("ltq_channel_timeouts_total", "Deliveries whose time ran out.", |c| c.timed_out),
    ("ltq_channel_stale_settlements_total", "Settlements that came too late.", |c| c.stale),
    ("ltq_channel_floor_offset", "Everything below this offset is acked.", |c| c.floor.0),
    ("ltq_channel_consumers", "Consumers.", |c| c.consumers),
    ("ltq_channel_paused", "1 while delivery is stopped.", |c| u64::from(c.paused)),
];

fn encode(stats: &NodeStats, counters: BrokerCounters) -> String {
    let channels = stats.topics.iter().flat_map(|topic| {
        topic.channels.iter().map(move |channel| {
            (
                labels(&[("topic", topic.topic.as_str()), ("channel", channel.channel.as_str())]),
                channel,
            )
        })
    });
    let channels: Vec<_> = channels.collect();
    let topics =
        stats.topics.iter().map(|topic| (labels(&[("topic", topic.topic.as_str())]), topic));
    let topics: Vec<_> = topics.collect();

    let mut text = String::new();
    head(&mut text, "ltq_info", "1, with the node's version.");
    let version = labels(&[("version", &stats.version)]);
    let _ = writeln!(text, "ltq_info{version} 1");
    figures(&mut text, NODE, &[(String::new(), stats)]);
    figures(&mut text, BROKER, &[(String::new(), &counters)]);
    figures(&mut text, TOPIC, &topics);
    figures(&mut text, CHANNEL, &channels);
    text
}

fn figures<T>(text: &mut String, figures: &[Figure<T>], of: &[(String, &T)]) {
    for (name, help, get) in figures {
        if of.is_empty() {
            continue;
        }
        head(text, name, help);
        for (labels, value) in of {
            let _ = writeln!(text, "{name}{labels} {}", get(value));
        }
    }
}

fn head(text: &mut String, name: &str, help: &str) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(labels(&[("a", "x\\y\"z\n")]), r#"{a="x\\y\"z\n"}"#);
        assert_eq!(labels(&[("a", "1"), ("b", "#")]), r##"{a="1",b="#"}"##);
    }

    #[test]
    fn names_are_given_once_and_keep_the_rule() {
        let mut seen = HashSet::new();
        let names = NODE.iter().map(|f| f.0).chain(BROKER.iter().map(|f| f.0));
        let names = names.chain(TOPIC.iter().map(|f| f.0)).chain(CHANNEL.iter().map(|f| f.0));
        for name in names {
            assert!(name.starts_with("ltq_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert!(seen.insert(name), "{name} twice");
        }
    }

    #[test]
    fn a_node_without_topics_says_what_it_has() {
        let stats = NodeStats {
            version: "1.2.3".to_owned(),
            store_failure: Some("broken".to_owned()),
            ..NodeStats::default()
        };
        let counters = BrokerCounters { connections_accepted: 7, ..BrokerCounters::default() };
        let text = encode(&stats, counters);
        for line in [
            "# TYPE ltq_info gauge",
            "ltq_info{version=\"1.2.3\"} 1",
            "ltq_store_healthy 0",
            "# TYPE ltq_connections_accepted_total counter",
            "ltq_connections_accepted_total 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("ltq_topic_published"), "{text}");
    }
}
