//! Accepting HTTP connections, within bounds of number and time.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};
use tracing::{debug, warn};

use super::{HttpOptions, stall::StallLimited};

/// Serves routes on a listener until it is told to stop.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    router: Router,
    request_timeout: Duration,
    connections_max: usize,
    room: Arc<Semaphore>,
}

impl HttpServer {
    /// A server that does nothing before it is [run](Self::run).
    #[must_use]
    pub fn new(listener: TcpListener, router: Router, options: &HttpOptions) -> Self {
        Self {
            listener,
            router,
            request_timeout: options.request_timeout,
            connections_max: options.connections_max,
            room: Arc::new(Semaphore::new(options.connections_max)),
        }
    }

    /// Serves until `stop` becomes true or its sender is gone, then lets the requests under way
    /// come to their end, which they do within the time that each of them has.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = told(&mut stop) => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.accept() => {
                    let Some((stream, room)) = accepted else { continue };
                    connections.spawn(serve(
                        stream, room, self.router.clone(), self.request_timeout, stop.clone(),
                    ));
                }
            }
        }
        while connections.join_next().await.is_some() {}
    }

    /// The next connection, once there is room for it. Cancel safe.
    async fn accept(&self) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        if self.room.available_permits() == 0 {
            debug!(limit = self.connections_max, "as many HTTP connections as allowed");
        }
        let room = self.room.clone().acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, _)) => Some((stream, room)),
            Err(error) => {
                warn!(%error, "an HTTP connection could not be accepted");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                None
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
    room: OwnedSemaphorePermit,
    router: Router,
    request_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY could not be set on an HTTP connection");
    }
    let io = TokioIo::new(StallLimited::new(stream, request_timeout));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(request_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(io, TowerToHyperService::new(router))
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
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

/// Without a pause a lack of descriptors would be tried again as fast as the machine can.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// The longest request line and headers, and how much of a body is read at once.
const HEAD_BYTES_MAX: usize = 64 << 10;
