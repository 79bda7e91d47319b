//! A running bridge: [`Bridge`].

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::routing::get;
use ltq_client::{Cluster, ClusterError};
use ltq_core::Networks;
use thiserror::Error;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};
use tracing::{debug, error, info};

use super::{
    Board, BridgeConfig, Brokers, Memories, Names, Order, RouteFigures, SideError,
    at_once::AtOnce,
    http::{self, Looked},
    side::Side,
    sight::Sight,
    source::{Plan, follow},
};
use crate::{
    access::NodeAccess,
    config::{ConfigError, Settings as _},
    descriptors,
    http::{
        HttpListener,
        page::{self, PageOptions},
    },
    listening::ListenFigures,
    node::taken,
    output,
    signals::Signals,
};

/// Why a bridge did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// A side cannot be talked to.
    #[error(transparent)]
    Side(#[from] SideError),
    /// The destination cannot be talked to.
    #[error("the destination: {0}")]
    Destination(#[from] ClusterError),
    /// A setting cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It cannot serve HTTP.
    #[error("serving HTTP on {address} failed: {source}{}", taken(Some(source.kind()), "--http"))]
    Http {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The operating system does not say when to stop.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

/// A running bridge.
#[derive(Debug)]
pub struct Bridge {
    plan: Arc<Plan>,
    sides: [Side; 2],
    following: JoinHandle<()>,
    http: Option<(SocketAddr, JoinHandle<()>)>,
    stopping: watch::Sender<bool>,
}

impl Bridge {
    /// Starts a bridge. It does not wait for nodes of either side: it may start before them. Needs a tokio
    /// runtime.
    ///
    /// # Cancellation
    /// Dropped before its end nothing is left running.
    ///
    /// # Errors
    /// A [`BridgeError`]; then nothing is left running.
    pub async fn start(config: &BridgeConfig) -> Result<Self, BridgeError> {
        config.as_node().warn_of_bare_tokens();
        let routes = config.all_routes()?;
        let from = Side::new(&config.from, "from", &config.name)?;
        let to = Side::new(&config.to, "to", &config.name)?;
        let listening = Arc::<ListenFigures>::default();
        let http = match config.http_address() {
            None => None,
            Some(address) => {
                let failed = |source| BridgeError::Http { address: address.to_owned(), source };
                let listener = HttpListener::bind(address, LISTEN_RETRY, listening.clone()).await;
                Some(listener.map_err(failed)?)
            }
        };
        let nodes = AtOnce::new(to.discovery.clone());
        let destination =
            Cluster::builder().discovery(nodes).client(to.client.clone()).connect().await?;
        let is_one_node = config.to.servers.len() == 1;
        let plan = Arc::new(Plan {
            routes: routes.into_iter().map(|it| (it, Arc::<RouteFigures>::default())).collect(),
            sites: config.sites(),
            destination,
            order: match is_one_node {
                true => Order::Waiting,
                false => Order::Moving(config.failover_after.0),
            },
            failover_after: config.failover_after.0,
            client: from.client.clone(),
            refresh: config.refresh.0,
            stop_timeout: config.stop_timeout.0,
            budget: config.budget(),
            places: Arc::new(Semaphore::new(config.limits.topics_max)),
            board: Board::default(),
            sight: Sight::default(),
            names: Names::default(),
            brokers: Brokers::default(),
            memories: Memories::default(),
        });
        let (stopping, stopped) = watch::channel(false);
        let following = tokio::spawn(follow(plan.clone(), from.discovery.clone(), stopped.clone()));
        let http = http.map(|listener| {
            let options = PageOptions {
                access: Arc::new(NodeAccess::new(&config.as_node())),
                is_public: config.metrics_public,
                connections_max: config.limits.http_connections_max,
                request_timeout: config.limits.http_request_timeout.0,
                exempt_addresses: Networks::default(),
                stopping: stopped,
            };
            let looked = Looked { name: config.name.clone(), plan: plan.clone(), listening };
            page::serve(listener, looked, get(http::routes), options)
        });
        Ok(Self { plan, sides: [from, to], following, http, stopping })
    }

    /// What is forwarded at present.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.plan.board
    }

    /// Where it serves HTTP.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(address, _)| *address)
    }

    /// One line that says what it does.
    #[must_use]
    pub fn banner(&self, config: &BridgeConfig) -> String {
        let http = match self.http() {
            Some(address) => format!("HTTP on http://{address}"),
            None => "no HTTP".to_owned(),
        };
        let sites = &self.plan.sites;
        format!(
            "ltq-node {} is the bridge {} from site {} to site {}, {http}",
            env!("CARGO_PKG_VERSION"),
            config.name,
            sites.from,
            sites.to,
        )
    }

    /// Stops in order: takes nothing more, waits for what is under way to be confirmed and acked as long as
    /// it may, and gives back the rest.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        if let Err(error) = (&mut self.following).await {
            error!(%error, "the bridge has failed");
        }
        // Everything of it is answered, or given back.
        if timeout(CLOSE_MAX, self.plan.destination.clone().close()).await.is_err() {
            debug!("closed without the last word of the destination");
        }
        if let Some((_, http)) = &mut self.http
            && timeout(CLOSE_MAX, &mut *http).await.is_err()
        {
            http.abort();
        }
        let settled = futures::future::join_all(self.sides.iter().map(Side::settled));
        let _late = timeout(CLOSE_MAX, settled).await;
    }
}

/// Runs a bridge until SIGTERM or Ctrl-C.
///
/// # Errors
/// A [`BridgeError`].
pub async fn run(config: &BridgeConfig) -> Result<(), BridgeError> {
    let mut signals = Signals::new().map_err(BridgeError::Signals)?;
    descriptors::raise_limit();
    let bridge = tokio::select! {
        bridge = Bridge::start(config) => bridge?,
        signal = signals.next() => {
            info!(signal, "stopped before it had begun");
            return Ok(());
        }
    };
    // Nobody has to read it.
    let _ = output::line(bridge.banner(config));
    let signal = signals.next().await;
    info!(signal, "stopping; a second signal ends at once");
    tokio::select! {
        () = bridge.stop() => info!("stopped"),
        signal = signals.next() => {
            error!(signal, "ended at once by a second signal");
            std::process::exit(1);
        }
    }
    Ok(())
}

/// How soon a socket for HTTP that has failed is opened again, and how often that is tried.
const LISTEN_RETRY: Duration = Duration::from_secs(1);
/// What each part of the end may take, beside what is under way.
const CLOSE_MAX: Duration = Duration::from_secs(2);
