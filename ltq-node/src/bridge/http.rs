//! A bridge over HTTP: health, metrics, and what is forwarded.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200 while everything is forwarded; 503 and why when a topic is held, left out or waits, when no node of the destination can be reached, and when it stops |
//! | `GET /metrics` | figures as Prometheus text |
//! | `GET /routes` | the routes as JSON, each with its figures and its topics |
//!
//! Where there is a token, the last two want it as `Authorization: Bearer TOKEN`, unless they were made
//! public.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use ltq_core::{SystemClock, Timestamp, WallClock as _};
use ltq_discovery::NodeId;
use serde::Serialize;

use super::{
    RouteCounts, Status, TopicFigures, TopicOnNode,
    sight::{LeftOut, Reach},
    source::Plan,
};
use crate::{
    http::{
        error::ApiError,
        exposition::{figure, head, labels, reopened},
        page::Shown,
    },
    listening::ListenFigures,
};

/// What is looked at.
pub(super) struct Looked {
    pub(super) name: String,
    pub(super) plan: Arc<Plan>,
    pub(super) listening: Arc<ListenFigures>,
}

impl Shown for Looked {
    const WHAT: &'static str = "bridge";
    const LISTING: &'static str = "/routes";

    fn ready(&self) -> Result<(), ApiError> {
        let plan = &self.plan;
        let not_yet = |code, detail: String| {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, detail))
        };
        let (held, waiting): (Vec<_>, Vec<_>) = {
            let troubled = plan.board.all().into_iter().filter_map(in_trouble);
            troubled.partition(|(code, _)| *code == "held")
        };
        // What is held or left out takes somebody; what waits goes on by itself.
        if let Some((code, first)) = held.first() {
            return not_yet(code, format!("{} topics: {first}", held.len()));
        }
        if let LeftOut { count, one: Some(one) } = plan.sight.left_out() {
            let detail = format!(
                "{count} topics are not forwarded, being more than limits.topics_max; {one} is one"
            );
            return not_yet("left_out", detail);
        }
        let Some(nodes) = plan.sight.nodes() else {
            return not_yet("waiting", "the nodes of the source are not known yet".to_owned());
        };
        if nodes.is_empty() {
            return not_yet("waiting", "the source has no nodes".to_owned());
        }
        if let Some((node, Some(why))) = nodes.iter().find(|(_, trouble)| trouble.is_some()) {
            return not_yet("waiting", format!("node {node} of the source: {why}"));
        }
        if let Some(why) = Reach::of(&plan.destination).trouble() {
            return not_yet("waiting", why);
        }
        match waiting.first() {
            None => Ok(()),
            Some((code, first)) => not_yet(code, format!("{} topics: {first}", waiting.len())),
        }
    }

    fn figures(&self, text: &mut String) {
        self.write_figures(text);
        reopened(text, &self.listening);
    }
}

fn in_trouble(
    ((node, topic), _, figures): (TopicOnNode, usize, Arc<TopicFigures>),
) -> Option<(&'static str, String)> {
    let (status, _) = figures.status();
    let why = status.why()?;
    Some((status.word(), format!("{topic} of node {node}: {why}")))
}

/// What is forwarded.
#[derive(Serialize)]
pub(super) struct Page {
    name: String,
    from_site: String,
    to_site: String,
    /// Nodes of the source, each with what is the matter with it.
    nodes: BTreeMap<String, Option<String>>,
    /// Nodes of the destination, the same.
    to_nodes: BTreeMap<String, Option<String>>,
    /// Topics for which there is no place.
    left_out: usize,
    routes: Vec<RouteJson>,
}

#[derive(Serialize)]
struct RouteJson {
    name: String,
    channel: String,
    counts: RouteCounts,
    topics: Vec<TopicJson>,
}

#[derive(Serialize)]
struct TopicJson {
    node: String,
    topic: String,
    to: String,
    status: &'static str,
    why: Option<String>,
    for_seconds: u64,
    unconfirmed: u64,
    backlog: Option<u64>,
    reached_ms: Option<u64>,
}

pub(super) async fn routes(State(looked): State<Arc<Looked>>) -> Json<Page> {
    let plan = &looked.plan;
    let mut routes: Vec<_> = plan
        .routes
        .iter()
        .map(|(route, figures)| RouteJson {
            name: route.name.clone(),
            channel: route.channel.to_string(),
            counts: figures.counts(),
            topics: Vec::new(),
        })
        .collect();
    for ((node, topic), number, figures) in plan.board.all() {
        let (status, since) = figures.status();
        if let Some(route) = routes.get_mut(number) {
            route.topics.push(TopicJson {
                node: node.to_string(),
                topic: topic.to_string(),
                to: figures.to.to_string(),
                status: status.word(),
                why: status.why().map(str::to_owned),
                for_seconds: since.elapsed().as_secs(),
                unconfirmed: figures.unconfirmed(),
                backlog: figures.backlog(),
                reached_ms: figures.reached().map(|time| time.0),
            });
        }
    }
    let shown = |nodes: BTreeMap<NodeId, Option<String>>| {
        nodes.into_iter().map(|(node, trouble)| (node.to_string(), trouble)).collect()
    };
    Json(Page {
        name: looked.name.clone(),
        from_site: plan.sites.from.to_string(),
        to_site: plan.sites.to.to_string(),
        nodes: shown(plan.sight.nodes().unwrap_or_default()),
        to_nodes: shown(Reach::of(&plan.destination).nodes),
        left_out: plan.sight.left_out().count,
        routes,
    })
}

/// Of a route's topics, at one moment.
#[derive(Default)]
struct Sums {
    by_status: [u64; 4],
    unconfirmed: u64,
    backlog: u64,
    lag_ms: u64,
}

impl Sums {
    const WORDS: [&str; 4] = ["starting", "forwarding", "waiting", "held"];

    fn add(&mut self, figures: &TopicFigures, now: Timestamp) {
        let of = match figures.status().0 {
            Status::Starting => 0,
            Status::Forwarding => 1,
            Status::Waiting(_) => 2,
            Status::Held(_) => 3,
        };
        if let Some(count) = self.by_status.get_mut(of) {
            *count += 1;
        }
        let backlog = figures.backlog().unwrap_or_default();
        self.unconfirmed += figures.unconfirmed();
        self.backlog += backlog;
        // Nothing is late where nothing waits.
        if figures.unconfirmed().max(backlog) > 0
            && let Some(reached) = figures.reached()
        {
            self.lag_ms = self.lag_ms.max(now.0.saturating_sub(reached.0));
        }
    }
}

impl Looked {
    fn write_figures(&self, text: &mut String) {
        let plan = &self.plan;
        let now = SystemClock.now();
        let mut sums: Vec<Sums> = plan.routes.iter().map(|_| Sums::default()).collect();
        let topics = plan.board.all();
        for (_, number, figures) in &topics {
            if let Some(sums) = sums.get_mut(*number) {
                sums.add(figures, now);
            }
        }
        let nodes = plan.sight.nodes().unwrap_or_default().len();
        let reach = Reach::of(&plan.destination);
        for (name, help, value) in [
            ("ltq_bridge_nodes", "Nodes of the source that are known.", nodes as u64),
            (
                "ltq_bridge_topics",
                "Topics, each counted at each of its nodes.",
                topics.len() as u64,
            ),
            (
                "ltq_bridge_topics_ending",
                "Topics whose forwarder has ended while what it sent is not answered.",
                plan.budget.ending(),
            ),
            (
                "ltq_bridge_topics_refused_total",
                "Times that a topic was not forwarded, there being too many.",
                plan.sight.times_left_out(),
            ),
            (
                "ltq_bridge_topics_left_out",
                "Topics that are not forwarded, there being too many.",
                plan.sight.left_out().count as u64,
            ),
            (
                "ltq_bridge_destination_nodes",
                "Nodes of the destination that are known.",
                reach.nodes.len() as u64,
            ),
            (
                "ltq_bridge_destination_nodes_connected",
                "Those of them that can be reached.",
                reach.connected() as u64,
            ),
        ] {
            figure(text, name, help, value);
        }
        let counts: Vec<_> =
            plan.routes.iter().map(|(route, it)| (&*route.name, it.counts())).collect();
        for (name, help, of) in COUNTS {
            head(text, name, help);
            for (route, counts) in &counts {
                let _ = writeln!(text, "{name}{} {}", labels(&[("route", route)]), of(counts));
            }
        }
        let name = "ltq_bridge_skipped_total";
        head(text, name, "Messages that were acked and not forwarded, by route and reason.");
        for (route, counts) in &counts {
            for (reason, count) in [
                ("loop", counts.skipped_loop),
                ("hops", counts.skipped_hops),
                ("filter", counts.skipped_filter),
                ("refused", counts.skipped_refused),
                ("repeat", counts.skipped_repeat),
            ] {
                let labels = labels(&[("route", route), ("reason", reason)]);
                let _ = writeln!(text, "{name}{labels} {count}");
            }
        }
        let name = "ltq_bridge_route_topics";
        head(text, name, "Topics of a route, by what they are doing.");
        for ((route, _), sums) in counts.iter().zip(&sums) {
            for (status, count) in Sums::WORDS.iter().zip(sums.by_status) {
                let labels = labels(&[("route", route), ("status", status)]);
                let _ = writeln!(text, "{name}{labels} {count}");
            }
        }
        for (name, help, of) in SUMS {
            head(text, name, help);
            for ((route, _), sums) in counts.iter().zip(&sums) {
                let _ = writeln!(text, "{name}{} {}", labels(&[("route", route)]), of(sums));
            }
        }
    }
}

/// A figure's name, what it is, and how it is read.
type Figure<T> = (&'static str, &'static str, fn(&T) -> f64);

const COUNTS: [Figure<RouteCounts>; 8] = [
    ("ltq_bridge_forwarded_total", "Messages that the destination has stored.", |it| {
        it.forwarded as f64
    }),
    ("ltq_bridge_forwarded_bytes_total", "The bytes of their bodies.", |it| {
        it.forwarded_bytes as f64
    }),
    ("ltq_bridge_parked_total", "Messages that were refused for good and moved aside.", |it| {
        it.parked as f64
    }),
    ("ltq_bridge_refusals_total", "Times that a message was refused for good.", |it| {
        it.refusals as f64
    }),
    ("ltq_bridge_failures_total", "Times that something failed and was tried again.", |it| {
        it.failures as f64
    }),
    ("ltq_bridge_garbled_origins_total", "Messages whose origin could not be read.", |it| {
        it.garbled_origins as f64
    }),
    (
        "ltq_bridge_late_acks_total",
        "Acks that came too late: such messages may come again.",
        |it| it.late_acks as f64,
    ),
    ("ltq_bridge_unreadable_total", "Messages that came damaged or cannot be read.", |it| {
        it.unreadable as f64
    }),
];

const SUMS: [Figure<Sums>; 3] = [
    ("ltq_bridge_unconfirmed", "Messages that were taken and are not stored yet.", |it| {
        it.unconfirmed as f64
    }),
    ("ltq_bridge_backlog", "Messages at the source that are not acked, where it tells.", |it| {
        it.backlog as f64
    }),
    (
        "ltq_bridge_lag_seconds",
        "How long ago the source took in what was forwarded last, where more waits; the longest.",
        |it| it.lag_ms as f64 / 1_000.0,
    ),
];
