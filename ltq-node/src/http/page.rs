//! What a program beside the node shows over HTTP: health, figures, and a listing of what it has to do with.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200 when it does its work; 503 and why when it does not, or stops |
//! | `GET /metrics` | figures as Prometheus text |
//! | its listing | JSON |
//!
//! Where it asks for tokens, the last two want one that administers `*` as `Authorization: Bearer TOKEN`,
//! unless they were made public.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use ltq_core::{Access as _, Action, Networks, RefusalCode};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    HttpListener, HttpOptions, HttpServer, Places,
    error::ApiError,
    exposition::{figure, head, labels, process},
    foreign, peer_of, token_of,
};
use crate::access::NodeAccess;

/// What such a program shows.
pub(crate) trait Shown: Send + Sync + 'static {
    /// What it is, in words.
    const WHAT: &'static str;
    /// The path of its listing.
    const LISTING: &'static str;

    /// Why it does not do its work at present, if it does not.
    fn ready(&self) -> Result<(), ApiError>;

    /// Appends its figures.
    fn figures(&self, text: &mut String);
}

/// Within which bounds, and to whom, it is shown.
pub(crate) struct PageOptions {
    pub(crate) access: Arc<NodeAccess>,
    /// Whether figures and listing are for everybody.
    pub(crate) is_public: bool,
    pub(crate) connections_max: usize,
    pub(crate) request_timeout: Duration,
    /// Whose connections no limit by address counts.
    pub(crate) exempt_addresses: Networks,
    /// Tells when the program is on its way out.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// What the requests share.
struct Page<S> {
    shown: Arc<S>,
    access: Arc<NodeAccess>,
    places: Places,
    at_loopback: bool,
    stopping: watch::Receiver<bool>,
}

/// Serves until the program stops. Returns where.
pub(crate) fn serve<S: Shown>(
    listener: HttpListener,
    shown: S,
    listing: MethodRouter<Arc<S>>,
    options: PageOptions,
) -> (SocketAddr, JoinHandle<()>) {
    let PageOptions {
        access,
        is_public,
        connections_max,
        request_timeout,
        exempt_addresses,
        stopping,
    } = options;
    let http = HttpOptions {
        connections_max,
        connections_per_address_max: None,
        request_timeout,
        metrics_public: is_public,
        // No request has a body, and there are no series by topic.
        body_bytes_total_max: 0,
        body_bytes_per_address_max: None,
        metrics_series_max: 0,
        exempt_addresses,
        at_loopback: listener.local().ip().is_loopback(),
    };
    let places = Places::new(&http);
    let (shown, ended) = (Arc::new(shown), stopping.clone());
    let at_loopback = http.at_loopback;
    let page = Page { shown, access, places: places.clone(), at_loopback, stopping };
    let local = listener.local();
    let server = HttpServer::new(listener, router(page, listing, is_public), places, &http);
    (local, tokio::spawn(server.run(ended)))
}

fn router<S: Shown>(page: Page<S>, listing: MethodRouter<Arc<S>>, is_public: bool) -> Router {
    let page = Arc::new(page);
    let listing = Router::new().route(S::LISTING, listing).with_state(page.shown.clone());
    let inside = Router::new().route("/metrics", get(metrics::<S>)).merge(listing);
    let inside = match is_public {
        true => inside,
        false => inside.layer(middleware::from_fn_with_state(page.clone(), administer::<S>)),
    };
    let inside = inside.layer(middleware::from_fn_with_state(page.clone(), keep_pages_out::<S>));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::<S>))
        .merge(inside)
        .fallback(no_such_page::<S>)
        .with_state(page)
}

async fn ready<S: Shown>(State(page): State<Arc<Page<S>>>) -> Result<&'static str, ApiError> {
    if *page.stopping.borrow() {
        let detail = format!("the {} is stopping", S::WHAT);
        return Err(ApiError::refused(RefusalCode::Stopping, detail));
    }
    page.shown.ready().map(|()| "ready\n")
}

/// Refuses what a web page may have had sent, where that would be let in without a token.
async fn keep_pages_out<S: Shown>(
    State(page): State<Arc<Page<S>>>,
    request: Request,
    next: Next,
) -> Response {
    if !page.access.asks()
        && let Err(foreign) = foreign::check(&request, page.at_loopback)
    {
        return foreign.into_response();
    }
    next.run(request).await
}

async fn administer<S: Shown>(
    State(page): State<Arc<Page<S>>>,
    request: Request,
    next: Next,
) -> Response {
    let token = token_of(&request);
    let permitted = match page.access.admit(&peer_of(&request), token.as_deref()) {
        Ok(grant) if grant.permits(Action::Administer, None) => Ok(()),
        Ok(_) => Err((RefusalCode::Forbidden, "the permission is missing: administer on *")),
        Err(_) => Err((RefusalCode::Unauthorized, "a valid token is needed")),
    };
    match permitted {
        Ok(()) => next.run(request).await,
        Err((code, why)) => ApiError::refused(code, why).into_response(),
    }
}

async fn no_such_page<S: Shown>() -> ApiError {
    let detail = format!("there are {}, /healthz, /readyz and /metrics", S::LISTING);
    ApiError::new(StatusCode::NOT_FOUND, "no_such_page", detail)
}

async fn metrics<S: Shown>(State(page): State<Arc<Page<S>>>) -> Response {
    let mut text = String::new();
    head(&mut text, "ltq_info", "The version that runs.");
    let version = labels(&[("version", env!("CARGO_PKG_VERSION"))]);
    let _ = writeln!(text, "ltq_info{version} 1");
    page.shown.figures(&mut text);
    let open = page.places.taken();
    figure(&mut text, "ltq_http_connections", "Open HTTP connections.", open);
    let name = "ltq_http_connections_refused_by_address_total";
    let help = "HTTP connections closed because their address had its share.";
    figure(&mut text, name, help, page.places.refused());
    process(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::config::Config;

    struct Held;

    impl Shown for Held {
        const WHAT: &'static str = "program";
        const LISTING: &'static str = "/all";

        fn ready(&self) -> Result<(), ApiError> {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "held", "for a test"))
        }

        fn figures(&self, _: &mut String) {}
    }

    #[tokio::test]
    async fn who_stops_is_not_ready_whatever_else_is_the_matter() {
        let (stop, stopping) = watch::channel(false);
        let http = HttpOptions {
            connections_max: 1,
            connections_per_address_max: None,
            request_timeout: Duration::from_secs(1),
            metrics_public: true,
            body_bytes_total_max: 0,
            body_bytes_per_address_max: None,
            metrics_series_max: 0,
            exempt_addresses: Networks::default(),
            at_loopback: true,
        };
        let page = Arc::new(Page {
            shown: Arc::new(Held),
            access: Arc::new(NodeAccess::new(&Config::default())),
            places: Places::new(&http),
            at_loopback: true,
            stopping,
        });
        let said = async || ready(State(page.clone())).await.unwrap_err();
        assert_eq!(said().await.code(), "held");
        stop.send_replace(true);
        let error = said().await;
        assert_eq!((error.code(), error.status), ("stopping", StatusCode::SERVICE_UNAVAILABLE));
    }

    /// The status that a request is answered with.
    async fn status(at: SocketAddr, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn promise_10_a_program_that_asks_nobody_for_a_token_shows_web_pages_nothing() {
        let (_stop, stopping) = watch::channel(false);
        let start = async |config: &Config| {
            let again = Duration::from_secs(1);
            let listener = HttpListener::bind("127.0.0.1:0", again, Arc::default()).await.unwrap();
            let options = PageOptions {
                access: Arc::new(NodeAccess::new(config)),
                is_public: true,
                connections_max: 10,
                exempt_addresses: Networks::default(),
                request_timeout: Duration::from_secs(60),
                stopping: stopping.clone(),
            };
            serve(listener, Held, get(|| async { "all\n" }), options).0
        };
        let open = start(&Config::default()).await;
        let token = Some("sixteen bytes, 1".into());
        let asks = start(&Config { token, ..Config::default() }).await;
        let (own, evil) = ("host: localhost:7451\r\n", "host: evil.example\r\n");
        let page = format!("{own}origin: http://evil.example\r\n");
        for path in ["/metrics", "/all"] {
            assert_eq!(status(open, path, own).await, "200", "{path}");
            assert_eq!(status(open, path, evil).await, "403", "{path}");
            assert_eq!(status(open, path, &page).await, "403", "{path}");
            // What everybody is shown where others need a token is no secret.
            assert_eq!(status(asks, path, &page).await, "200", "{path}");
        }
        assert_eq!(status(open, "/healthz", evil).await, "200", "a probe knows no names");
    }
}
