//! `ltq-node registry`: where nodes announce themselves, and clients find them.

mod config;
mod flags;
mod http;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc};

use axum::routing::get;
use ltq_core::{Address, Listener as _, SystemEntropy, TransportError};
use ltq_discovery::registry::{RegistryServer, RegistrySettingsError};
use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Duration, timeout},
};
use tracing::{error, info, warn};

use crate::{
    access::NodeAccess,
    config::{ConfigSource, Settings as _},
    descriptors,
    http::page::{self, PageOptions},
    listening::{CertificateError, Wires},
    node::{io_kind, reachable, taken},
    output,
    reload::Reloader,
    signals::Signals,
};

pub use config::{RegistryConfig, RegistryLimits};
pub use flags::RegistryFlags;

/// Why a registry did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It cannot listen.
    #[error("{source}{}", taken(io_kind(source), "--listen"))]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: TransportError,
    },
    /// Its certificates cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// It cannot serve HTTP.
    #[error("serving HTTP on {address} failed: {source}{}", taken(Some(source.kind()), "--http"))]
    Http {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A setting cannot be.
    #[error(transparent)]
    Settings(#[from] RegistrySettingsError),
    /// The operating system does not say when to stop.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

/// A running registry.
#[derive(Debug)]
pub struct RegistryNode {
    server: RegistryServer,
    wires: Wires,
    listening: Vec<Address>,
    http: Option<(SocketAddr, JoinHandle<()>)>,
    serving: JoinSet<()>,
    stopping: watch::Sender<bool>,
    reloader: Arc<Reloader<RegistryConfig>>,
}

impl RegistryNode {
    /// Starts a registry, which knows nobody yet. Needs a tokio runtime.
    ///
    /// # Errors
    /// A [`RegistryError`]; then nothing is left running.
    pub async fn start(asked: &RegistryConfig) -> Result<Self, RegistryError> {
        asked.as_node().warn_of_bare_tokens();
        let config = &*descriptors::fitted(asked, descriptors::limit());
        let shared = config.as_node();
        let wires = Wires::new(&shared)?;
        let mut listeners = Vec::with_capacity(config.listen.len());
        for text in &config.listen {
            let failed = |source| RegistryError::Listen { address: text.clone(), source };
            let address: Address = text.parse().map_err(|_| {
                let why = "it is no address".to_owned();
                failed(TransportError::Address { address: Address::new("", text.clone()), why })
            })?;
            listeners.push(wires.listen(&address).await.map_err(failed)?);
        }
        let http = match config.http_address() {
            None => None,
            Some(address) => {
                let failed = |source| RegistryError::Http { address: address.to_owned(), source };
                Some(wires.listen_http(address).await.map_err(failed)?)
            }
        };
        let access = Arc::new(NodeAccess::new(&shared));
        let settings = config.server_settings(access.clone());
        let server = RegistryServer::new(settings, &SystemEntropy)?;
        let reloader = Arc::new(Reloader::new(asked.clone(), access.clone()));
        let (stopping, _) = watch::channel(false);
        let mut serving = JoinSet::new();
        let running = server.clone();
        serving.spawn(async move { running.run().await });
        let listening = listeners.iter().map(|listener| listener.local_address()).collect();
        for listener in listeners {
            let server = server.clone();
            serving.spawn(async move {
                let address = listener.local_address();
                if let Err(error) = server.serve(Box::new(listener)).await {
                    error!(%address, %error, "no longer listening");
                }
            });
        }
        let http = http.map(|listener| {
            let options = PageOptions {
                access,
                is_public: config.metrics_public,
                connections_max: config.limits.http_connections_max,
                request_timeout: config.limits.http_request_timeout.0,
                exempt_addresses: config.limits.exempt_addresses.networks(),
                stopping: stopping.subscribe(),
            };
            let (server, reloader) = (server.clone(), reloader.clone());
            let listening = wires.figures().clone();
            let looked = http::Looked {
                server,
                reloader,
                listening,
                connections_max: config.limits.connections_max,
                http_connections_max: config.limits.http_connections_max,
            };
            page::serve(listener, looked, get(http::nodes), options)
        });
        Ok(Self { server, wires, listening, http, serving, stopping, reloader })
    }

    /// What it knows.
    #[must_use]
    pub const fn server(&self) -> &RegistryServer {
        &self.server
    }

    /// Where it listens, with the ports that it really got.
    #[must_use]
    pub fn listening(&self) -> &[Address] {
        &self.listening
    }

    /// Where it serves HTTP.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(address, _)| *address)
    }

    /// One line that says where everything is, and how a node is announced.
    #[must_use]
    pub fn banner(&self) -> String {
        let listening: Vec<_> = self.listening.iter().map(Address::to_string).collect();
        let http = match self.http() {
            Some(address) => format!("HTTP on http://{address}"),
            None => "no HTTP".to_owned(),
        };
        let first = self.listening.first().map(reachable).unwrap_or_default();
        format!(
            "ltq-node {} is a registry and listens on {}, {http}; announce a node with: ltq-node \
             --registry {first}",
            env!("CARGO_PKG_VERSION"),
            listening.join(" and "),
        )
    }

    /// Stops: tells all who are connected, and ends. Nodes and clients go on with what they know, and with
    /// other registries.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        self.server.stop();
        let said = async {
            while self.server.connections() > 0 {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            if let Some((_, http)) = &mut self.http {
                let _ended = http.await;
            }
        };
        if timeout(STOP_TIMEOUT, said).await.is_err() {
            warn!(connections = self.server.connections(), "connections are cut off");
        }
        if let Some((_, http)) = &self.http {
            http.abort();
        }
        self.serving.shutdown().await;
        self.wires.settled().await;
    }
}

/// Runs a registry until SIGTERM or Ctrl-C. SIGHUP, or a change of the file that `source` names, has it read
/// tokens and identities again.
///
/// # Errors
/// A [`RegistryError`].
pub async fn run(
    config: &RegistryConfig,
    source: ConfigSource<RegistryConfig>,
) -> Result<(), RegistryError> {
    let mut signals = Signals::new().map_err(RegistryError::Signals)?;
    let hangup = signal(SignalKind::hangup()).map_err(RegistryError::Signals)?;
    descriptors::raise_limit();
    let registry = RegistryNode::start(config).await?;
    // Nobody has to read it.
    let _ = output::line(registry.banner());
    let watching = tokio::spawn(registry.reloader.clone().watch(source, hangup));
    let signal = signals.next().await;
    watching.abort();
    info!(signal, "stopping; a second signal ends at once");
    tokio::select! {
        () = registry.stop() => info!("stopped"),
        signal = signals.next() => {
            error!(signal, "ended at once by a second signal");
            std::process::exit(1);
        }
    }
    Ok(())
}

/// Where a registry listens when it is not told, and `ltq nodes` looks for one.
pub const DEFAULT_REGISTRY: &str = "tcp://127.0.0.1:7450";

/// How long goodbyes may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is looked whether they were said.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
