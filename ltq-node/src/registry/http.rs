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

use std::{fmt::Write as _, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use ltq_core::{Access as _, Action, RefusalCode, TopicName};
use ltq_discovery::{Interest, registry::RegistryServer};
use serde::Deserialize;
use tokio::sync::watch;

use super::RegistryConfig;
use crate::{
    access::NodeAccess,
    http::{
        Places,
        error::ApiError,
        exposition::{figure, head, labels, listening, process, reloads},
        peer_of, token_of,
    },
    listening::ListenFigures,
    node_json,
    reload::Reloader,
};

/// What is shown.
pub(super) struct Shown {
    pub(super) server: RegistryServer,
    pub(super) access: Arc<NodeAccess>,
    pub(super) reloader: Arc<Reloader<RegistryConfig>>,
    pub(super) listening: Arc<ListenFigures>,
    pub(super) places: Places,
    pub(super) stopping: watch::Receiver<bool>,
}

/// The routes.
pub(super) fn router(shown: Shown, is_public: bool) -> Router {
    let shown = Arc::new(shown);
    let inside = Router::new().route("/metrics", get(metrics)).route("/nodes", get(nodes));
    let inside = match is_public {
        true => inside,
        false => inside.layer(middleware::from_fn_with_state(shown.clone(), administer)),
    };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .merge(inside)
        .fallback(no_such_page)
        .with_state(shown)
}

async fn ready(State(shown): State<Arc<Shown>>) -> Result<&'static str, ApiError> {
    match *shown.stopping.borrow() {
        true => Err(ApiError::refused(RefusalCode::Stopping, "the registry is stopping")),
        false => Ok("ready\n"),
    }
}

async fn administer(State(shown): State<Arc<Shown>>, request: Request, next: Next) -> Response {
    let token = token_of(&request);
    let permitted = match shown.access.admit(&peer_of(&request), token.as_deref()) {
        Ok(grant) if grant.permits(Action::Administer, None) => Ok(()),
        Ok(_) => Err((RefusalCode::Forbidden, "the permission is missing: administer on *")),
        Err(_) => Err((RefusalCode::Unauthorized, "a valid token is needed")),
    };
    match permitted {
        Ok(()) => next.run(request).await,
        Err((code, why)) => ApiError::refused(code, why).into_response(),
    }
}

async fn no_such_page() -> ApiError {
    let detail = "there are /nodes, /healthz, /readyz and /metrics";
    ApiError::new(StatusCode::NOT_FOUND, "no_such_page", detail)
}

#[derive(Deserialize)]
struct Of {
    topic: Option<String>,
}

async fn nodes(State(shown): State<Arc<Shown>>, of: Query<Of>) -> Result<Response, ApiError> {
    let interest = match &of.topic {
        None => Interest::Everything,
        Some(topic) => Interest::Topic(TopicName::new(topic).map_err(|error| {
            ApiError::refused(RefusalCode::Malformed, format!("the topic: {error}"))
        })?),
    };
    // Taken along, which costs little, and written down where no node and no watcher waits for it.
    let nodes: Vec<_> = shown.server.look(|registry| registry.nodes().cloned().collect());
    let seen = nodes.iter().filter_map(|node| interest.view(node));
    let seen: Vec<_> = seen.map(|node| node_json::of(&node)).collect();
    Ok(Json(seen).into_response())
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    let mut text = String::new();
    let name = "ltq_info";
    head(&mut text, name, "The version that runs.");
    let labels = labels(&[("version", env!("CARGO_PKG_VERSION"))]);
    let _ = writeln!(text, "{name}{labels} 1");
    let counts = shown.server.look(|registry| registry.counts());
    let figures = shown.server.figures();
    for (name, help, value) in [
        ("ltq_registry_nodes", "Nodes that are known.", counts.nodes as u64),
        ("ltq_registry_suspected_nodes", "Of those, which missed beats.", counts.suspected as u64),
        ("ltq_registry_topics", "Topics, each counted at each of its nodes.", counts.topics as u64),
        ("ltq_registry_channels", "Channels, counted the same.", counts.channels as u64),
        ("ltq_registry_watchers", "Those who are told of changes.", counts.watchers as u64),
        ("ltq_connections", "Open connections.", shown.server.connections() as u64),
        ("ltq_connections_accepted_total", "Connections taken in.", figures.accepted),
        (
            "ltq_connections_refused_total",
            "Connections turned away, there being too many.",
            figures.refused,
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
        ("ltq_http_connections", "Open HTTP connections.", shown.places.taken() as u64),
        ("ltq_registry_announcements_total", "Announcements of whole nodes.", figures.announced),
        (
            "ltq_registry_announcements_refused_total",
            "Those that were not taken in.",
            figures.not_taken,
        ),
        ("ltq_registry_changes_total", "Changes of nodes that were told by them.", figures.changes),
        ("ltq_registry_heartbeats_total", "Beats of nodes.", figures.heartbeats),
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
        figure(&mut text, name, help, value);
    }
    reloads(&mut text, shown.reloader.reloads(), shown.reloader.has_failed());
    listening(&mut text, &shown.listening);
    process(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
