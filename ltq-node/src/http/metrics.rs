//! `GET /metrics`: the node's figures as Prometheus text (version 0.0.4).

use std::{
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use ltq_core::{
    Broker, BrokerCounters, ChannelStats, LogName, NodeStats, Offset, ReadLimits, Store,
    SystemClock, TopicStats, WallClock as _,
};
use tokio::time::timeout;

use super::{
    Answers, Api,
    error::ApiError,
    exposition::{figure, head, labels, listening, process, reloads},
};
use crate::{
    lookup::Lookup,
    watched_store::{BUCKETS, WatchedStore},
};

/// All of it within the time of a request: where there are too many topics for that, whoever collects figures hears
/// so, and keeps no request waiting behind the last one.
pub(super) async fn show(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let within = api.request_timeout;
    timeout(within, scrape(&api)).await.map_err(|_| {
        let detail = format!("the figures could not be gathered within {within:?}");
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "too_slow", detail)
    })
}

async fn scrape(api: &Api) -> Response {
    let stats = api.broker.stats().await;
    let counters = api.broker.counters();
    let scrape = Scrape { stats: &stats, counters, series_max: api.metrics_series_max };
    let mut text = scrape.encode();
    let store = api.broker.store();
    ages(&mut text, store, &scrape).await;
    commits(&mut text, store);
    for own in store.figures() {
        figure(&mut text, own.name, own.help, own.value);
    }
    in_force(&mut text, api);
    limits(&mut text, &api.broker);
    reloads(&mut text, api.reloader.reloads(), api.reloader.has_failed());
    listening(&mut text, &api.listening);
    announced(&mut text, api.lookup.as_ref());
    let help = "Open HTTP connections, of which there is a limit.";
    figure(&mut text, "ltq_http_connections", help, api.places.taken());
    let name = "ltq_http_connections_refused_by_address_total";
    let help = "HTTP connections closed because their address had its share.";
    figure(&mut text, name, help, api.places.refused());
    let name = "ltq_http_connections_gave_way_total";
    let help = "HTTP connections without a request closed to make room for others.";
    figure(&mut text, name, help, api.places.gave_way());
    let help = "Bytes of HTTP request bodies that are held, of which there is a limit.";
    figure(&mut text, "ltq_http_body_bytes", help, api.bodies.held());
    let name = "ltq_http_bodies_refused_by_address_total";
    let help = "HTTP requests refused because the bodies of their address had its part.";
    figure(&mut text, name, help, api.bodies.refused_by_address());
    answers(&mut text, &api.answers);
    process(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// A figure of each `T`: its name, its help, and how to get it. A name that ends in `_total` is a
/// counter, any other a gauge.
type Figure<T> = (&'static str, &'static str, fn(&T) -> u64);

const NODE: &[Figure<NodeStats>] = &[
    ("ltq_uptime_seconds", "Seconds since the node started.", |s| s.uptime_seconds),
    ("ltq_connections", "Open connections.", |s| s.connections),
    ("ltq_topics", "Topics.", |s| s.topics.len() as u64),
    ("ltq_channels", "Channels of all topics.", |s| all_channels(s).count() as u64),
    ("ltq_waiting_messages", "Messages that wait for delivery, over all channels.", |s| {
        all_channels(s).map(|channel| channel.waiting).sum()
    }),
    ("ltq_in_flight_messages", "Messages delivered and not settled, over all channels.", |s| {
        all_channels(s).map(|channel| channel.in_flight).sum()
    }),
    ("ltq_draining", "1 while the node takes in nothing more, to stop.", |s| {
        u64::from(s.is_draining)
    }),
    (
        "ltq_held_up_topics",
        "Topics that cannot be handed over behind a message that no node takes.",
        |s| s.held_up.len() as u64,
    ),
    ("ltq_store_healthy", "1 while the store takes commits.", |s| {
        u64::from(s.store_failure.is_none())
    }),
    ("ltq_store_commits_total", "Commits of the store.", |s| s.store.commits),
    ("ltq_store_syncs_total", "Syncs of the store's device.", |s| s.store.syncs),
    ("ltq_store_written_bytes_total", "Bytes written to files.", |s| s.store.bytes_written),
    (
        "ltq_store_rewritten_bytes_total",
        "Bytes written anew to give back what was acked between them.",
        |s| s.store.bytes_rewritten,
    ),
    ("ltq_store_memory_bytes", "Bytes that the store keeps in memory.", |s| s.store.memory_bytes),
    ("ltq_store_disk_bytes", "Bytes that the store's files take.", |s| s.store.disk_bytes),
    ("ltq_store_damaged_records_total", "Records found damaged.", |s| s.store.damaged_records),
];

const BROKER: &[Figure<BrokerCounters>] = &[
    ("ltq_connections_accepted_total", "Connections taken in.", |c| c.connections_accepted),
    ("ltq_connections_refused_total", "Connections refused because there were too many.", |c| {
        c.connections_refused
    }),
    (
        "ltq_connections_refused_by_address_total",
        "Connections refused because their address had too many.",
        |c| c.connections_refused_by_address,
    ),
    (
        "ltq_connections_refused_greeting_total",
        "Connections refused because too many had said no hello.",
        |c| c.connections_refused_greeting,
    ),
    (
        "ltq_connections_refused_by_rate_total",
        "Connections refused because too many came from their address in a short time.",
        |c| c.connections_refused_by_rate,
    ),
    (
        "ltq_connections_crowded_out_total",
        "Connections that gave way to others before they had said hello.",
        |c| c.connections_crowded_out,
    ),
    ("ltq_streams_failed_total", "Streams that ended by a refusal or a cut.", |c| c.streams_failed),
    (
        "ltq_streams_flooding_total",
        "Streams ended, or not begun, for frames that bring nothing and ends of what was not used.",
        |c| c.streams_flooding,
    ),
    ("ltq_streams_revoked_total", "Streams ended because their token or identity went.", |c| {
        c.streams_revoked
    }),
    ("ltq_hellos_denied_total", "Hellos and HTTP requests not let in.", |c| c.hellos_denied),
    (
        "ltq_hellos_locked_out_total",
        "Those whose address had brought too many wrong tokens.",
        |c| c.hellos_locked_out,
    ),
    ("ltq_requests_forbidden_total", "Requests whose peer lacked the permission.", |c| {
        c.requests_forbidden
    }),
    (
        "ltq_topics_refused_by_address_total",
        "Topics not made by use because their address had made too many.",
        |c| c.topics_refused_by_address,
    ),
    (
        "ltq_addresses_forgotten_total",
        "Addresses of which what they did wrong or made was forgotten for want of room.",
        |c| c.addresses_forgotten,
    ),
    (
        "ltq_connections_given_up_total",
        "Connections ended for streams that failed before any hello was accepted.",
        |c| c.connections_given_up,
    ),
];

/// What has no figures of its own.
struct LeftOut {
    topics: u64,
    channels: u64,
}

const LEFT_OUT: &[Figure<LeftOut>] = &[
    ("ltq_topics_left_out", "Topics beyond metrics_series_max, not shown one by one.", |l| {
        l.topics
    }),
    ("ltq_channels_left_out", "Channels beyond metrics_series_max, not shown one by one.", |l| {
        l.channels
    }),
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
    ("ltq_topic_kept_bytes", "About how many bytes of messages are kept, encoded.", |t| t.bytes),
    ("ltq_topic_paused", "1 while delivery is stopped.", |t| u64::from(t.paused)),
];

const CHANNEL: &[Figure<ChannelStats>] = &[
    ("ltq_channel_waiting_messages", "Messages that wait for delivery.", |c| c.waiting),
    ("ltq_channel_delayed_messages", "Messages given back with a delay not over.", |c| c.delayed),
    ("ltq_channel_in_flight_messages", "Messages delivered and not settled.", |c| c.in_flight),
    ("ltq_channel_acked_messages", "Messages acked since the channel was made.", |c| c.acked),
    ("ltq_channel_damaged_messages", "Messages that could not be read back.", |c| c.damaged),
    (
        "ltq_channel_dropped_messages",
        "Messages that a limit removed before they were acked.",
        |c| c.dropped,
    ),
    ("ltq_channel_deliveries_total", "Deliveries since the node started.", |c| c.delivered),
    ("ltq_channel_redeliveries_total", "Those that were not a message's first.", |c| c.redelivered),
    ("ltq_channel_requeues_total", "Messages given back by consumers.", |c| c.requeued),
    ("ltq_channel_timeouts_total", "Deliveries whose time ran out.", |c| c.timed_out),
    ("ltq_channel_stale_settlements_total", "Settlements that came too late.", |c| c.stale),
    ("ltq_channel_floor_offset", "Everything below this offset is acked.", |c| c.floor.0),
    ("ltq_channel_consumers", "Consumers.", |c| c.consumers),
    ("ltq_channel_paused", "1 while delivery is stopped.", |c| u64::from(c.paused)),
];

/// What the text is made from.
struct Scrape<'a> {
    stats: &'a NodeStats,
    counters: BrokerCounters,
    /// The most topics, and channels, with figures of their own.
    series_max: usize,
}

/// A topic or channel with its labels.
type Labelled<'a, T> = Vec<(String, &'a T)>;

impl<'a> Scrape<'a> {
    fn topics(&self) -> Labelled<'a, TopicStats> {
        let topics = self.stats.topics.iter().take(self.series_max);
        topics.map(|topic| (labels(&[("topic", topic.topic.as_str())]), topic)).collect()
    }

    /// Channels with the topic of each.
    fn channels(&self) -> Vec<(&'a TopicStats, &'a ChannelStats)> {
        let topics = self.stats.topics.iter();
        let channels =
            topics.flat_map(|topic| topic.channels.iter().map(move |channel| (topic, channel)));
        channels.take(self.series_max).collect()
    }

    fn encode(&self) -> String {
        let mut text = String::new();
        head(&mut text, "ltq_info", "1, with the node's version.");
        let version = labels(&[("version", &self.stats.version)]);
        let _ = writeln!(text, "ltq_info{version} 1");
        figures(&mut text, NODE, &[(String::new(), self.stats)]);
        figures(&mut text, BROKER, &[(String::new(), &self.counters)]);
        let (topics, channels) = (self.topics(), self.channels());
        let left_out = LeftOut {
            topics: (self.stats.topics.len() - topics.len()) as u64,
            channels: all_channels(self.stats).count() as u64 - channels.len() as u64,
        };
        figures(&mut text, LEFT_OUT, &[(String::new(), &left_out)]);
        figures(&mut text, TOPIC, &topics);
        let channels: Labelled<'_, ChannelStats> = channels
            .into_iter()
            .map(|(topic, channel)| (channel_labels(topic, channel), channel))
            .collect();
        figures(&mut text, CHANNEL, &channels);
        text
    }
}

fn channel_labels(topic: &TopicStats, channel: &ChannelStats) -> String {
    labels(&[("topic", topic.topic.as_str()), ("channel", channel.channel.as_str())])
}

fn all_channels(stats: &NodeStats) -> impl Iterator<Item = &ChannelStats> {
    stats.topics.iter().flat_map(|topic| &topic.channels)
}

/// How old the oldest message is that a channel has not acked: where its floor is, as far as the
/// store can be asked.
async fn ages(text: &mut String, store: &WatchedStore, scrape: &Scrape<'_>) {
    let name = "ltq_channel_oldest_unacked_seconds";
    let now = SystemClock.now();
    let mut begun = false;
    let mut last: Option<(&str, Offset, f64)> = None;
    for (topic, channel) in scrape.channels() {
        let name_of = topic.topic.as_str();
        let age = match last {
            _ if channel.floor >= topic.end => 0.0,
            // Channels of a topic are often at one place.
            Some((of, floor, age)) if of == name_of && floor == channel.floor => age,
            _ => {
                let limits = ReadLimits { records: 1, bytes: 1 };
                let read = store.read(&LogName::new(name_of), channel.floor, limits).await;
                // What is gone or damaged meanwhile has no age.
                let Some(time) = read.ok().and_then(|batches| Some(batches.first()?.time)) else {
                    continue;
                };
                let age = now.0.saturating_sub(time.0) as f64 / 1000.0;
                last = Some((name_of, channel.floor, age));
                age
            }
        };
        if !std::mem::replace(&mut begun, true) {
            head(text, name, "Age of the oldest message that is not acked; 0 without one.");
        }
        let _ = writeln!(text, "{name}{} {age}", channel_labels(topic, channel));
    }
}

/// The store's commits: how long they took, and why some were not done.
fn commits(text: &mut String, store: &WatchedStore) {
    let name = "ltq_store_commit_seconds";
    let help = "How long commits took, by the durability that was asked for.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
    for times in store.commit_times() {
        let durability = times.durability.to_string();
        for (at, count) in times.no_longer.iter().enumerate() {
            let limit = BUCKETS
                .get(at)
                .map_or_else(|| "+Inf".to_owned(), |micros| (*micros as f64 / 1e6).to_string());
            let labels = labels(&[("durability", &durability), ("le", &limit)]);
            let _ = writeln!(text, "{name}_bucket{labels} {count}");
        }
        let labels = labels(&[("durability", &durability)]);
        let count = times.no_longer.last().unwrap_or(&0);
        let _ = writeln!(text, "{name}_sum{labels} {}", times.seconds);
        let _ = writeln!(text, "{name}_count{labels} {count}");
    }
    let name = "ltq_store_commits_refused_total";
    head(
        text,
        name,
        "Commits that were not done: no room (full), no descriptors (short), a failed device, closed, other.",
    );
    for (reason, count) in store.refused() {
        let _ = writeln!(text, "{name}{} {count}", labels(&[("reason", reason)]));
    }
    let full = u64::from(store.full().is_some());
    figure(text, "ltq_store_full", "1 while there is no room for messages.", full);
    if let Some(free) = store.device_free_bytes() {
        let help = "Bytes free on the device of the data directory.";
        figure(text, "ltq_store_device_free_bytes", help, free);
    }
}

/// Limits that may be lower than they were set, where the process may have too few descriptors.
fn in_force(text: &mut String, api: &Api) {
    let help = "Connections that there may be: fewer than set where there are too few descriptors.";
    figure(text, "ltq_connections_max", help, api.broker.settings().connections_max);
    let help = "The same of HTTP connections.";
    figure(text, "ltq_http_connections_max", help, api.places.all());
}

/// Which registries have the node.
fn announced(text: &mut String, lookup: Option<&Lookup>) {
    let Some(lookup) = lookup else { return };
    let name = "ltq_registry_announced";
    head(text, name, "1 while a registry, or etcd, has this node, as far as the node knows.");
    for (address, has) in lookup.announced() {
        let labels = labels(&[("registry", &address)]);
        let _ = writeln!(text, "{name}{labels} {}", u64::from(has));
    }
}

fn answers(text: &mut String, answers: &Answers) {
    let name = "ltq_http_answers_total";
    head(text, name, "Answers to HTTP requests, by the hundred of their status.");
    for (class, count) in Answers::CLASSES.iter().zip(&answers.0) {
        let count = count.load(Ordering::Relaxed);
        let _ = writeln!(text, "{name}{} {count}", labels(&[("status", class)]));
    }
}

/// What peers hold of the limits, and how often they met one.
fn limits<S: Store>(text: &mut String, broker: &Broker<S>) {
    let used = broker.in_use();
    figure(text, "ltq_streams", "Streams that are served.", used.streams);
    let help = "Connections on which no hello was accepted so far, of which there is a limit.";
    figure(text, "ltq_connections_greeting", help, used.greeting);
    let help = "Bytes of publishes that are not answered, of which there is a limit.";
    figure(text, "ltq_publish_bytes", help, used.publish_bytes);
    let help = "Bytes of half-read frames, of which there is a limit.";
    figure(text, "ltq_partial_bytes", help, used.partial_bytes);
    let help = "Bytes of answers that peers have not read";
    figure(text, "ltq_answer_bytes", help, used.answer_bytes);
    let help = "Bytes of deliveries that wait to be sent, of which there is a limit.";
    figure(text, "ltq_delivery_bytes", help, used.delivery_bytes);
    let help = "Subscriptions and open producers of all connections, of which there is a limit.";
    figure(text, "ltq_handles", help, used.handles);
    let name = "ltq_refusals_total";
    head(text, name, "Refusals that peers were told over their streams, by code.");
    for (code, count) in broker.refusals() {
        let _ = writeln!(text, "{name}{} {count}", labels(&[("code", code.as_str())]));
    }
    let name = "ltq_held_back_total";
    head(
        text,
        name,
        "Times that a peer was made to wait at a limit beyond which nothing is refused.",
    );
    for (limit, count) in broker.held_back() {
        let _ = writeln!(text, "{name}{} {count}", labels(&[("limit", limit)]));
    }
    let name = "ltq_limits_reached_total";
    head(text, name, "Of those with the code limit_reached, how many each limit caused.");
    for (limit, count) in broker.limits_reached() {
        let _ = writeln!(text, "{name}{} {count}", labels(&[("limit", limit.as_str())]));
    }
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_given_once_and_keep_the_rule() {
        let mut seen = HashSet::new();
        let names = NODE.iter().map(|f| f.0).chain(BROKER.iter().map(|f| f.0));
        let names = names.chain(LEFT_OUT.iter().map(|f| f.0));
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
        let text = Scrape { stats: &stats, counters, series_max: 10 }.encode();
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
