//! The node over HTTP: publishing, health, metrics.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200 when it takes messages; 503 and a code when it stops, its store has failed or is full, and why for who administers |
//! | `GET /metrics` | figures as Prometheus text |
//! | `POST /pub?topic=T[&durability=D][&key=K]` | publishes the body as one message |
//! | `POST /mpub?topic=T[&durability=D]` | publishes each line of the body, all or none |
//! | `POST /mpub?topic=T&binary=true[&durability=D]` | the same of messages that each follow their length, a little-endian `u32` |
//!
//! Where the node asks for tokens, all but the first two want one as `Authorization: Bearer TOKEN`,
//! which permits to publish to the topic; `/metrics` is for who may administer all topics, unless
//! it was made public.
//! An error is `{"code": "...", "detail": "..."}`. A 4xx, a 503 and a 507 mean that nothing
//! happened; a 500 or 504 that it may have.

mod body;
pub(crate) mod error;
pub(crate) mod exposition;
mod foreign;
mod idle;
mod listener;
mod metrics;
pub(crate) mod page;
mod places;
mod publish;
mod publishers;
mod server;
mod stall;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ltq_core::{
    Action, Address, Durability, Grant, Networks, Peer, Records, Refusal, RefusalCode, Store,
    TopicName, model::SequenceRange,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::debug;

use crate::{NodeBroker, listening::ListenFigures, lookup::Lookup, reload::Reloader};
use body::{BodyBudget, HeldBody};
use error::ApiError;
use publishers::Publishers;

pub(crate) use listener::HttpListener;
pub use places::Places;
pub(crate) use server::HttpServer;

/// The bounds of the HTTP server.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// The most connections at a time. A further one takes the place of the one that has had no
    /// request for longest; while all have one, it waits.
    pub connections_max: usize,
    /// How many of them one address other than this machine's has at most; a further one of it takes the place of its
    /// own that is idle for longest, and is closed at once while all of them have a request. `None`: three quarters.
    pub connections_per_address_max: Option<usize>,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// Bytes of request bodies held at one time.
    pub body_bytes_total_max: u64,
    /// How many of them are of one address other than this machine's. `None`: a quarter. At least the largest body
    /// that is read, and of an IPv6 /48 four times as much, but three quarters at most.
    pub body_bytes_per_address_max: Option<u64>,
    /// The most topics, and channels, with figures of their own in `/metrics`.
    pub metrics_series_max: usize,
    /// Whether `/metrics` is for everybody.
    pub metrics_public: bool,
    /// Addresses that have no part of their own, such as those of a proxy.
    pub exempt_addresses: Networks,
    /// Whether it is served at a loopback address: then a `Host` that others may have is refused where nobody is asked
    /// for a token.
    pub at_loopback: bool,
}

struct Api {
    broker: NodeBroker,
    reloader: Arc<Reloader>,
    listening: Arc<ListenFigures>,
    lookup: Option<Lookup>,
    publishers: Publishers,
    bodies: BodyBudget,
    places: Places,
    request_timeout: Duration,
    metrics_series_max: usize,
    at_loopback: bool,
    answers: Answers,
    /// Whether the node is on its way out.
    stopping: watch::Receiver<bool>,
}

/// The routes. `stopping` tells when the node is on its way out.
pub(crate) fn router(
    broker: NodeBroker,
    reloader: Arc<Reloader>,
    listening: Arc<ListenFigures>,
    lookup: Option<Lookup>,
    places: Places,
    options: &HttpOptions,
    stopping: watch::Receiver<bool>,
) -> Router {
    // A message in a body of its own, or as many as fit into a frame.
    let settings = broker.settings();
    let largest = settings.frame_bytes_max.max(settings.message_bytes_max).into();
    let api = Arc::new(Api {
        publishers: Publishers::new(broker.clone()),
        broker,
        reloader,
        listening,
        lookup,
        places,
        bodies: BodyBudget::new(options, largest),
        request_timeout: options.request_timeout,
        metrics_series_max: options.metrics_series_max,
        at_loopback: options.at_loopback,
        answers: Answers::default(),
        stopping,
    });
    let closed = Router::new()
        .route("/pub", post(publish::publish_one))
        .route("/mpub", post(publish::publish_many))
        .layer(middleware::from_fn_with_state(api.clone(), authorize))
        .layer(middleware::from_fn_with_state(api.clone(), keep_pages_out));
    let metrics = Router::new().route("/metrics", get(metrics::show));
    let metrics = match options.metrics_public {
        true => metrics,
        false => metrics
            .layer(middleware::from_fn_with_state(api.clone(), administer))
            .layer(middleware::from_fn_with_state(api.clone(), authorize)),
    };
    let metrics = metrics.layer(middleware::from_fn_with_state(api.clone(), keep_pages_out));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .merge(closed)
        .merge(metrics)
        .fallback(no_such_page)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(api.clone(), count))
        .with_state(api)
}

/// Whether the node takes messages. Anybody may ask; the store's own words are for who administers.
async fn ready(State(api): State<Arc<Api>>, request: Request) -> Result<&'static str, ApiError> {
    if *api.stopping.borrow() {
        return Err(ApiError::refused(RefusalCode::Stopping, "the node is stopping"));
    }
    if api.broker.is_draining() {
        return Err(ApiError::refused(RefusalCode::Draining, "the node is draining"));
    }
    let store = api.broker.store();
    if let Err(error) = store.health() {
        let said = "the store takes nothing any more; the log says why";
        let said = if api.may_know(&request) { error.to_string() } else { said.to_owned() };
        return Err(ApiError::refused(RefusalCode::StoreFailed, said));
    }
    match store.full() {
        None => Ok("ready\n"),
        // Trying again is what a probe does, so it is told to, unlike one who publishes.
        Some(why) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let said = "the store has no room for now; who administers is told of what";
            let said = if api.may_know(&request) { why } else { said.to_owned() };
            Err(ApiError::new(status, RefusalCode::StoreFull.as_str(), said))
        }
    }
}

/// Answers by the hundred of their status.
#[derive(Debug, Default)]
struct Answers([AtomicU64; 3]);

impl Answers {
    const CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];
}

/// Counts the answer, and logs one that is no success.
async fn count(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = next.run(request).await;
    let status = answer.status();
    let [good, refused, failed] = &api.answers.0;
    match status.as_u16() {
        ..400 => good,
        400..500 => refused,
        500.. => failed,
    }
    .fetch_add(1, Ordering::Relaxed);
    let code = answer.extensions().get::<error::Code>().map_or("", |code| code.0);
    if status.is_client_error() || status.is_server_error() {
        debug!(%method, path, status = status.as_u16(), code, "an HTTP request was refused");
    }
    answer
}

/// Refuses what a web page may have had sent, where that would be let in without a token.
async fn keep_pages_out(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    if !api.reloader.asks()
        && let Err(foreign) = foreign::check(&request, api.at_loopback)
    {
        return foreign.into_response();
    }
    next.run(request).await
}

/// Lets a request in that brings a token, as the broker lets in a hello, and passes on what it may
/// do.
async fn authorize(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let given = token_of(&request).map(Cow::into_owned);
    let peer = peer_of(&request);
    match api.broker.admit(&peer, given.as_deref()) {
        Ok(grant) => {
            request.extensions_mut().insert(grant);
            request.extensions_mut().insert(peer);
            next.run(request).await
        }
        Err(refusal) => ApiError::from(refusal).into_response(),
    }
}

/// Lets a request through that asks for what is about the whole node.
async fn administer(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let permitted = match request.extensions().get::<Grant>() {
        Some(grant) => api.broker.permit(grant, Action::Administer, None),
        None => Err(Refusal::new(RefusalCode::Internal, "nobody was let in")),
    };
    match permitted {
        Ok(()) => next.run(request).await,
        Err(refusal) => ApiError::from(refusal).into_response(),
    }
}

/// The token that a request brings, if it brings one.
pub(crate) fn token_of(request: &Request) -> Option<Cow<'_, str>> {
    let value = request.headers().get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, secret) = value.split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| String::from_utf8_lossy(secret))
}

/// Who asks. The server notes it with each request.
pub(crate) fn peer_of(request: &Request) -> Peer {
    let noted = request.extensions().get::<Peer>().cloned();
    noted.unwrap_or_else(|| Peer { address: Address::new("http", "unknown"), identity: None })
}

async fn no_such_page(uri: Uri) -> ApiError {
    let detail = format!(
        "there is no {}; there are /pub, /mpub, /healthz, /readyz and /metrics",
        uri.path()
    );
    ApiError::new(StatusCode::NOT_FOUND, "no_such_page", detail)
}

async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    let detail = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "no_such_method", detail)
}

impl Api {
    /// Whether who asks administers the whole node: by the token that the request brings, or as everybody does
    /// where none is asked for. A probe without a token is no attempt to get in, and not counted as one.
    fn may_know(&self, request: &Request) -> bool {
        let given = token_of(request);
        if given.is_none() && self.reloader.asks() {
            return false;
        }
        let grant = self.broker.admit(&peer_of(request), given.as_deref());
        grant.is_ok_and(|grant| self.broker.permit(&grant, Action::Administer, None).is_ok())
    }

    /// When a request that begins now has to be done.
    fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    async fn read(
        &self,
        deadline: Instant,
        peer: &Peer,
        body: Body,
        max: u64,
    ) -> Result<HeldBody, ApiError> {
        timeout_at(deadline, self.bodies.read(peer, body, max)).await.unwrap_or_else(|_| {
            let within = self.request_timeout;
            let detail = format!("the body did not arrive within {within:?}");
            Err(ApiError::refused(RefusalCode::PeerTimeout, detail))
        })
    }

    async fn publish(
        &self,
        deadline: Instant,
        peer: &Peer,
        topic: &TopicName,
        durability: Option<Durability>,
        records: Records,
    ) -> Result<(Vec<SequenceRange>, Durability), ApiError> {
        let publish = self.publishers.publish(peer, topic, durability, records);
        let Ok(confirmed) = timeout_at(deadline, publish).await else {
            let within = self.request_timeout;
            let detail = format!("no confirm within {within:?}; it may be stored all the same");
            let refusal = Refusal::new(RefusalCode::OutcomeUnknown, detail);
            return Err(ApiError {
                status: StatusCode::GATEWAY_TIMEOUT,
                ..ApiError::from(refusal)
            });
        };
        Ok(confirmed?)
    }
}
