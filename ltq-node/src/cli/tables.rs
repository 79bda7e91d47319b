//! Figures as tables for people.

use std::{fmt::Write as _, time::Duration};

use comfy_table::{Cell, CellAlignment, Table, presets};
use ltq_client::{ChannelStats, Keep, NodeStats, Retention, TopicStats};
use ltq_discovery::NodeSet;

use crate::node_json;

/// A node, a line for each channel of each topic.
pub(super) fn node(stats: &NodeStats) -> String {
    let uptime = humantime::format_duration(Duration::from_secs(stats.uptime_seconds));
    let store = &stats.store;
    let health = stats.store_failure.as_deref().map_or_else(
        || "takes messages".to_owned(),
        |failure| format!("TAKES NO MESSAGES: {failure}"),
    );
    let mut lines = vec![
        format!("ltq-node {}, up {uptime}, {} connections", stats.version, stats.connections),
        format!(
            "store {health}; {} in memory, {} on disk, {} commits, {} syncs, {} damaged records",
            bytes(store.memory_bytes),
            bytes(store.disk_bytes),
            store.commits,
            store.syncs,
            store.damaged_records
        ),
    ];
    if stats.is_draining {
        lines.push("draining: takes in nothing more".to_owned());
    }
    lines.extend(stats.held_up.iter().map(|it| format!("not handed over: {it}")));
    if !stats.topics.is_empty() {
        lines.push(String::new());
        lines.push(channels(&stats.topics));
    }
    lines.join("\n")
}

/// A line for each node.
pub(super) fn nodes(nodes: &NodeSet) -> String {
    let names = ["node", "state", "addresses", "topics", "channels", "load", "version"];
    let mut table = plain(names.iter());
    for node in nodes.iter() {
        let suspected = if node.is_suspected() { ", suspected" } else { "" };
        let addresses: Vec<_> = node.addresses().iter().map(ToString::to_string).collect();
        let counts = node.topics().map(|topics| {
            [topics.len(), topics.iter().map(|(_, channels)| channels.len()).sum()]
                .map(|count| count.to_string())
        });
        let [topics, channels] = counts.unwrap_or_else(|| ["-"; 2].map(str::to_owned));
        table.add_row([
            node.id().to_string(),
            format!("{}{suspected}", node_json::state(node)),
            addresses.join(" "),
            topics,
            channels,
            node.load().0.to_string(),
            node.version().unwrap_or("-").to_owned(),
        ]);
    }
    for at in 3..6 {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    text(&table)
}

/// A topic's figures, and a line for each of its channels.
pub(super) fn topic(stats: &TopicStats) -> String {
    let mut table = facts(&[
        ("topic", stats.topic.to_string()),
        ("durability", stats.settings.durability.to_string()),
        ("keeps", keeps(&stats.settings.retention)),
        ("state", state(stats.paused).to_owned()),
        (
            "messages kept",
            format!("{} (about {})", stats.end.since(stats.first), bytes(stats.bytes)),
        ),
        ("first offset", stats.first.to_string()),
        ("next offset", stats.end.to_string()),
        ("published", format!("{} ({})", stats.published, bytes(stats.published_bytes))),
        ("repeats", stats.duplicates.to_string()),
        ("refused", stats.refused.to_string()),
        ("producers", format!("{} open, {} known", stats.producers, stats.producers_known)),
    ]);
    if !stats.channels.is_empty() {
        table.push_str("\n\n");
        table.push_str(&channels(std::slice::from_ref(stats)));
    }
    table
}

/// A channel's figures.
pub(super) fn channel(stats: &ChannelStats) -> String {
    facts(&[
        ("channel", stats.channel.to_string()),
        ("state", state(stats.paused).to_owned()),
        ("started at", stats.start.to_string()),
        ("done below", stats.floor.to_string()),
        ("waiting", stats.waiting.to_string()),
        ("delayed", stats.delayed.to_string()),
        ("in flight", stats.in_flight.to_string()),
        ("acked", stats.acked.to_string()),
        ("damaged", stats.damaged.to_string()),
        ("dropped", stats.dropped.to_string()),
        ("delivered", format!("{} ({} again)", stats.delivered, stats.redelivered)),
        ("requeued", stats.requeued.to_string()),
        ("timed out", stats.timed_out.to_string()),
        ("answered too late", stats.stale.to_string()),
        ("consumers", stats.consumers.to_string()),
    ])
}

fn channels(topics: &[TopicStats]) -> String {
    const FIGURES: [&str; 9] = [
        "waiting",
        "delayed",
        "in flight",
        "acked",
        "dropped",
        "damaged",
        "redelivered",
        "timed out",
        "consumers",
    ];
    let mut table = plain(["topic", "next offset", "channel", "state"].iter().chain(&FIGURES));
    for topic in topics {
        let head = |channel: &str, paused| {
            let paused = state(topic.paused || paused);
            [topic.topic.to_string(), topic.end.to_string(), channel.to_owned(), paused.to_owned()]
        };
        if topic.channels.is_empty() {
            table.add_row(head("-", false).into_iter().chain(FIGURES.map(|_| "-".to_owned())));
        }
        for c in &topic.channels {
            let figures = [
                c.waiting,
                c.delayed,
                c.in_flight,
                c.acked,
                c.dropped,
                c.damaged,
                c.redelivered,
                c.timed_out,
                c.consumers,
            ];
            let figures = figures.map(|figure| figure.to_string());
            table.add_row(head(c.channel.as_str(), c.paused).into_iter().chain(figures));
        }
    }
    for at in (4..4 + FIGURES.len()).chain([1]) {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    text(&table)
}

fn plain<'a>(header: impl Iterator<Item = &'a &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.map(|name| Cell::new(name.to_uppercase())));
    table
}

fn facts(facts: &[(&str, String)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in facts {
        table.add_row([*name, value]);
    }
    text(&table)
}

/// Without the blanks at the ends of lines.
fn text(table: &Table) -> String {
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn keeps(retention: &Retention) -> String {
    let mut words = match retention.keep {
        Keep::Unacked => "what is not acked".to_owned(),
        Keep::All => "all".to_owned(),
    };
    if let Some(age) = retention.age_max {
        let _ = write!(words, ", for {}", humantime::format_duration(age));
    }
    if let Some(size) = retention.bytes_max {
        let _ = write!(words, ", up to {}", bytes(size));
    }
    words
}

const fn state(paused: bool) -> &'static str {
    if paused { "paused" } else { "running" }
}

fn bytes(count: u64) -> String {
    if count < 10_000 {
        return format!("{count} bytes");
    }
    bytesize::ByteSize(count).display().iec().to_string()
}
