//! A registry over HTTP: health, metrics, and the nodes that there are.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200 when it takes announcements; 503 when it stops |
//! | `GET /metrics` | figures as Prometheus text |
//! | `GET /nodes[?topic=T]` | the nodes as JSON, with a topic those that have it, or may |
//!
//! Where the registry asks for tokens, the last two want one that administers `*` as `Authorization: Bearer
//! TOKEN`, unless they were made public.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use ltq_core::{RefusalCode, TopicName};
use ltq_discovery::{Interest, registry::RegistryServer};
use serde::Deserialize;

use super::RegistryConfig;
use crate::{
    http::{
        error::ApiError,
        exposition::{figure, listening, reloads},
        page::Shown,
    },
    listening::ListenFigures,
    node_json,
    reload::Reloader,
};

/// What is shown.
pub(super) struct Looked {
    pub(super) server: RegistryServer,
    pub(super) reloader: Arc<Reloader<RegistryConfig>>,
    pub(super) listening: Arc<ListenFigures>,
    /// What is in force.
    pub(super) connections_max: usize,
    pub(super) http_connections_max: usize,
}

#[derive(Deserialize)]
pub(super) struct Of {
    topic: Option<String>,
}

pub(super) async fn nodes(
    State(looked): State<Arc<Looked>>,
    of: Query<Of>,
) -> Result<Response, ApiError> {
    let interest = match &of.topic {
        None => Interest::Everything,
        Some(topic) => Interest::Topic(TopicName::new(topic).map_err(|error| {
            ApiError::refused(RefusalCode::Malformed, format!("the topic: {error}"))
        })?),
    };
    // Taken along, which costs little, and written down where no node and no watcher waits for it.
    let nodes: Vec<_> = looked.server.look(|registry| registry.nodes().cloned().collect());
    let seen = nodes.iter().filter_map(|node| interest.view(node));
    let seen: Vec<_> = seen.map(|node| node_json::of(&node)).collect();
    Ok(Json(seen).into_response())
}

impl Shown for Looked {
    const WHAT: &'static str = "registry";
    const LISTING: &'static str = "/nodes";

    fn ready(&self) -> Result<(), ApiError> {
        Ok(())
    }

    fn figures(&self, text: &mut String) {
        let counts = self.server.look(|registry| registry.counts());
        let figures = self.server.figures();
        let came = figures.entrance;
        for (name, help, value) in [
            ("ltq_registry_nodes", "Nodes that are known.", counts.nodes as u64),
            (
                "ltq_registry_suspected_nodes",
                "Of those, which missed beats.",
                counts.suspected as u64,
            ),
            (
                "ltq_registry_topics",
                "Topics, each counted at each of its nodes.",
                counts.topics as u64,
            ),
            ("ltq_registry_channels", "Channels, counted the same.", counts.channels as u64),
            ("ltq_registry_watchers", "Those who are told of changes.", counts.watchers as u64),
            ("ltq_connections", "Open connections.", self.server.connections() as u64),
            ("ltq_connections_accepted_total", "Connections taken in.", came.accepted),
            (
                "ltq_connections_greeting",
                "Connections on which no hello was accepted so far, of which there is a limit.",
                came.greeting,
            ),
            (
                "ltq_connections_refused_total",
                "Connections refused because there were too many.",
                came.refused,
            ),
            (
                "ltq_connections_refused_by_address_total",
                "Connections refused because their address had too many.",
                came.refused_by_address,
            ),
            (
                "ltq_connections_refused_greeting_total",
                "Connections refused because too many had said no hello.",
                came.refused_greeting,
            ),
            (
                "ltq_connections_refused_by_rate_total",
                "Connections refused because too many came from their address in a short time.",
                came.refused_by_rate,
            ),
            (
                "ltq_connections_crowded_out_total",
                "Connections that gave way to others before they had said hello.",
                came.crowded_out,
            ),
            (
                "ltq_connections_max",
                "Connections that there may be: fewer than set where there are too few descriptors.",
                self.connections_max as u64,
            ),
            (
                "ltq_http_connections_max",
                "The same of HTTP connections.",
                self.http_connections_max as u64,
            ),
            (
                "ltq_hellos_denied_total",
                "Peers turned away for their token or identity.",
                figures.denied,
            ),
            (
                "ltq_registry_flooding_total",
                "Connections ended because they sent too many frames.",
                figures.flooding,
            ),
            (
                "ltq_registry_announcements_total",
                "Announcements of whole nodes.",
                figures.announced,
            ),
            (
                "ltq_registry_announcements_refused_total",
                "Those that were not taken in.",
                figures.not_taken,
            ),
            (
                "ltq_registry_changes_total",
                "Changes of nodes that were told by them.",
                figures.changes,
            ),
            ("ltq_registry_heartbeats_total", "Beats of nodes.", figures.heartbeats),
            (
                "ltq_registry_forgotten_total",
                "Nodes that were forgotten, as nothing was heard of them for too long.",
                figures.forgotten,
            ),
            (
                "ltq_registry_told_total",
                "Nodes that watchers were told of, each time counted.",
                figures.told,
            ),
            (
                "ltq_registry_untold_total",
                "Nodes that watchers were not told of, as they fit no frame, each time counted.",
                figures.untold,
            ),
        ] {
            figure(text, name, help, value);
        }
        reloads(text, self.reloader.reloads(), self.reloader.has_failed());
        listening(text, &self.listening);
    }
}
