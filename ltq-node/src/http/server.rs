//! Accepting HTTP connections, within bounds of number and time.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, http::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ltq_core::{Address, Peer, TransportError};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, watch},
    task::JoinSet,
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    HttpListener, HttpOptions,
    idle::{IdleConnections, Place},
    places::{Places, Share},
    stall::StallLimited,
};

/// Serves routes on a listener until it is told to stop.
pub(crate) struct HttpServer {
    listener: HttpListener,
    router: Router,
    request_timeout: Duration,
    room: Room,
    not_accepted: u64,
}

/// Who has a place, and who of them would not miss it.
struct Room {
    places: Places,
    idle: IdleConnections,
}

impl HttpServer {
    /// A server that does nothing before it is [run](Self::run).
    pub(crate) fn new(
        listener: HttpListener,
        router: Router,
        places: Places,
        options: &HttpOptions,
    ) -> Self {
        Self {
            listener,
            router,
            request_timeout: options.request_timeout,
            room: Room { places, idle: IdleConnections::default() },
            not_accepted: 0,
        }
    }

    /// Serves until `stop` becomes true or its sender is gone, then lets the requests under way
    /// come to their end, which they do within the time that each of them has.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        // Accepted, and without a place yet.
        let mut waiting: Option<(TcpStream, Share)> = None;
        loop {
            tokio::select! {
                () = told(&mut stop) => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.listener.accept(), if waiting.is_none() => match accepted {
                    Ok((stream, address)) => waiting = self.room.share(stream, address),
                    Err(error) => self.pause(&error, &mut stop).await,
                },
                room = self.room.place(), if waiting.is_some() => {
                    let (Some((stream, share)), Some(room)) = (waiting.take(), room) else { continue };
                    let place = Arc::new(self.room.idle.enter(share.of()));
                    let (router, stop) = (self.router.clone(), stop.clone());
                    connections.spawn(serve(
                        stream, (room, share), place, router, self.request_timeout, stop,
                    ));
                }
            }
        }
        while connections.join_next().await.is_some() {}
    }

    /// Lets an error pass, but for a stop: while descriptors are short it goes on for as long as they are.
    async fn pause(&mut self, error: &TransportError, stop: &mut watch::Receiver<bool>) {
        self.not_accepted += 1;
        if self.not_accepted.is_power_of_two() {
            let count = self.not_accepted;
            warn!(%error, count, "an HTTP connection could not be accepted");
        }
        let _over = timeout(PAUSE_AFTER_ERROR, told(stop)).await;
    }
}

impl Room {
    /// A connection of an address that has not its share yet.
    fn share(&self, stream: TcpStream, address: SocketAddr) -> Option<(TcpStream, Share)> {
        let share = self.places.share(address.ip(), |of| self.idle.give_up_one_of(of));
        if share.is_none() {
            debug!(%address, "as many HTTP connections of an address as allowed");
        }
        share.map(|share| (stream, share))
    }

    /// A place for one more. Cancel safe.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Some(room) = self.places.take() {
                return Some(room);
            }
            // Those who say nothing must not keep others out: a probe of health least of all.
            let made = self.places.made(self.idle.give_up_one());
            debug!(limit = self.places.all(), made, "as many HTTP connections as allowed");
            if let Some(room) = self.places.take_within(LOOK_AGAIN).await {
                return Some(room);
            }
        }
    }
}

/// Waits until `stop` becomes true. Cancel safe.
async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody can tell any more, which is the end as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve(
    stream: TcpStream,
    room: (OwnedSemaphorePermit, Share),
    place: Arc<Place>,
    router: Router,
    request_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY could not be set on an HTTP connection");
    }
    // One that is gone already needs no address.
    let address = stream.peer_addr().map_or_else(|_| "gone".to_owned(), |it| it.to_string());
    let peer = Peer { address: Address::new("http", address), identity: None };
    let io = TokioIo::new(StallLimited::new(stream, request_timeout));
    let service = {
        let (place, router) = (place.clone(), TowerToHyperService::new(router));
        service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let taken = place.begin();
            let (place, answer) = (place.clone(), taken.then(|| router.call(request)));
            async move {
                let Some(answer) = answer else { return Err(GivenUp) };
                let Ok(answer) = answer.await;
                place.end();
                Ok(answer)
            }
        })
    };
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(request_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(io, service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = place.given_up() => {
            debug!("an HTTP connection without a request makes room for another");
            connection.as_mut().graceful_shutdown();
            // What it was answered may still be on its way out.
            match place.served() {
                true => timeout(LAST_WORDS, connection).await.unwrap_or(Ok(())),
                false => Ok(()),
            }
        }
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an HTTP connection ended by an error");
    }
    drop(room);
}

/// The connection was chosen to make room at the moment when its request came. Nothing of it was
/// carried out: the client may send it again.
#[derive(Debug, thiserror::Error)]
#[error("given up for another connection")]
struct GivenUp;

/// How long a new connection waits for a place before it looks for one that is idle again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a connection that makes room for another has to send the rest of its last answer.
const LAST_WORDS: Duration = Duration::from_millis(20);
/// Without a pause a lack of descriptors would be tried again as fast as the machine can.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// The longest request line and headers, and how much of a body is read at once.
const HEAD_BYTES_MAX: usize = 64 << 10;
