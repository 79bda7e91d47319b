//! The node over HTTP: publishing, health, metrics.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200 when it takes messages; 503 and why when it stops, its store has failed or is full |
//! | `GET /metrics` | figures as Prometheus text |
//! | `POST /pub?topic=T[&durability=D][&key=K]` | publishes the body as one message |
//! | `POST /mpub?topic=T[&durability=D]` | publishes each line of the body, all or none |
//! | `POST /mpub?topic=T&binary=true[&durability=D]` | the same of messages that each follow their length, a little-endian `u32` |
//!
//! Where the node has a token, all but the first two want it as `Authorization: Bearer TOKEN`.
//! An error is `{"code": "...", "detail": "..."}`. A 4xx, a 503 and a 507 mean that nothing
//! happened; a 500 or 504 that it may have.

mod body;
mod error;
mod idle;
mod metrics;
mod publish;
mod publishers;
mod server;
mod stall;
#[cfg(test)]
mod tests;

use std::{
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
use ltq_core::{Durability, Records, Refusal, RefusalCode, Store, TopicName, model::SequenceRange};
use subtle::ConstantTimeEq;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::{debug, info};

use crate::NodeBroker;
use body::{BodyBudget, HeldBody};
use error::ApiError;
use publishers::Publishers;

pub use server::HttpServer;

/// The bounds of the HTTP server.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// The most connections at a time. A further one takes the place of the one that has had no
    /// request for longest; while all have one, it waits.
    pub connections_max: usize,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// Bytes of request bodies held at one time.
    pub body_bytes_total_max: u64,
    /// The most topics, and channels, with figures of their own in `/metrics`.
    pub metrics_series_max: usize,
}

struct Api {
    broker: NodeBroker,
    publishers: Publishers,
    bodies: BodyBudget,
    request_timeout: Duration,
    metrics_series_max: usize,
    answers: Answers,
    /// Whether the node is on its way out.
    stopping: watch::Receiver<bool>,
}

/// The routes. `stopping` tells when the node is on its way out.
pub fn router(
    broker: NodeBroker,
    options: &HttpOptions,
    stopping: watch::Receiver<bool>,
) -> Router {
    let api = Arc::new(Api {
        publishers: Publishers::new(broker.clone()),
        broker,
        bodies: BodyBudget::new(options.body_bytes_total_max),
        request_timeout: options.request_timeout,
        metrics_series_max: options.metrics_series_max,
        answers: Answers::default(),
        stopping,
    });
    let closed = Router::new()
        .route("/pub", post(publish::publish_one))
        .route("/mpub", post(publish::publish_many))
        .route("/metrics", get(metrics::show))
        .layer(middleware::from_fn_with_state(api.clone(), authorize));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .merge(closed)
        .fallback(no_such_page)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(api.clone(), count))
        .with_state(api)
}

async fn ready(State(api): State<Arc<Api>>) -> Result<&'static str, ApiError> {
    if *api.stopping.borrow() {
        return Err(ApiError::refused(RefusalCode::Stopping, "the node is stopping"));
    }
    let store = api.broker.store();
    if let Err(error) = store.health() {
        return Err(ApiError::refused(RefusalCode::StoreFailed, error.to_string()));
    }
    match store.full() {
        None => Ok("ready\n"),
        // Trying again is what a probe does, so it is told to, unlike one who publishes.
        Some(why) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Err(ApiError::new(status, RefusalCode::StoreFull.as_str(), why))
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
    if status == StatusCode::UNAUTHORIZED {
        info!(%method, path, code, "an HTTP request was refused");
    } else if status.is_client_error() || status.is_server_error() {
        debug!(%method, path, status = status.as_u16(), code, "an HTTP request was refused");
    }
    answer
}

async fn authorize(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let Some(token) = &api.broker.settings().token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let given = given.and_then(|value| {
        let (scheme, secret) = value.split_at_checked(b"bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(secret)
    });
    match given {
        Some(given) if given.ct_eq(token.as_bytes()).into() => next.run(request).await,
        given => {
            let detail = match given {
                Some(_) => "the token is not right",
                None => "this node wants its token as \"Authorization: Bearer TOKEN\"",
            };
            ApiError::refused(RefusalCode::Unauthorized, detail).into_response()
        }
    }
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
    /// When a request that begins now has to be done.
    fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    async fn read(&self, deadline: Instant, body: Body, max: u64) -> Result<HeldBody, ApiError> {
        timeout_at(deadline, self.bodies.read(body, max)).await.unwrap_or_else(|_| {
            let within = self.request_timeout;
            let detail = format!("the body did not arrive within {within:?}");
            Err(ApiError::refused(RefusalCode::PeerTimeout, detail))
        })
    }

    async fn publish(
        &self,
        deadline: Instant,
        topic: &TopicName,
        durability: Option<Durability>,
        records: Records,
    ) -> Result<(Vec<SequenceRange>, Durability), ApiError> {
        let publish = self.publishers.publish(topic, durability, records);
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
