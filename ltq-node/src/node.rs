//! A node: a store, a broker over it, its listeners and its HTTP server.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use ltq_core::{
    Address, AdminRequest, Broker, BrokerError, BrokerSettings, DrainOptions, Environment,
    Listener as _, Store, StoreError, TransportError,
};
use ltq_store::{FileReserve, FileStore, MemoryStore};
use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout_at},
};
use tracing::{error, info, warn};

use crate::{
    NodeBroker,
    access::NodeAccess,
    announcer::Announcer,
    config::{Config, ConfigSource, StoreKind},
    descriptors,
    drain::Drain,
    http::{self, HttpOptions, HttpServer},
    listening::Wires,
    output,
    reload::Reloader,
    signals::Signals,
    tools,
    watched_store::{Figure, Figures, Files, WatchedStore},
};

pub use crate::{announcer::AnnouncerError, listening::CertificateError};

/// Why a node did not start, or did not stop as it should.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NodeError {
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
    /// It cannot be announced to registries.
    #[error(transparent)]
    Announcer(#[from] AnnouncerError),
    /// It cannot serve HTTP.
    #[error("serving HTTP on {address} failed: {source}{}", taken(Some(source.kind()), "--http"))]
    Http {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error("cannot open the store: {0}")]
    Store(#[from] StoreError),
    /// The broker did not start, or did not stop in time.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The operating system does not say when to stop.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

pub(crate) fn io_kind(error: &TransportError) -> Option<io::ErrorKind> {
    match error {
        TransportError::Io { source, .. } => Some(source.kind()),
        _ => None,
    }
}

/// What to do about an address that is taken, in words that follow the error's.
pub(crate) fn taken(kind: Option<io::ErrorKind>, flag: &str) -> String {
    if kind != Some(io::ErrorKind::AddrInUse) {
        return String::new();
    }
    format!("; a node may be running there already: stop it, or choose another place with {flag}")
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    broker: NodeBroker,
    wires: Wires,
    listening: Vec<Address>,
    http: Option<(SocketAddr, JoinHandle<()>)>,
    announcer: Option<Announcer>,
    config: Arc<Config>,
    serving: JoinSet<()>,
    stopping: watch::Sender<bool>,
    /// Where the messages are, for people.
    kept: String,
    needs_token: bool,
    stop_timeout: Duration,
    reloader: Arc<Reloader>,
}

impl Node {
    /// Starts a node. Needs a tokio runtime.
    ///
    /// # Errors
    /// A [`NodeError`]; then nothing is left running.
    pub async fn start(config: &Config) -> Result<Self, NodeError> {
        let asked = config;
        let config = &*descriptors::fitted(asked, descriptors::limit());
        // What is quick to fail comes first, so that a port in use is known at once.
        let wires = Wires::new(config)?;
        let mut listeners = Vec::with_capacity(config.listen.len());
        for text in &config.listen {
            let failed = |source| NodeError::Listen { address: text.clone(), source };
            let address: Address = text.parse().map_err(|_| {
                let why = "it is no address".to_owned();
                failed(TransportError::Address { address: Address::new("", text.clone()), why })
            })?;
            listeners.push(wires.listen(&address).await.map_err(failed)?);
        }
        let http = match config.http_address() {
            None => None,
            Some(address) => {
                let failed = |source| NodeError::Http { address: address.to_owned(), source };
                Some(wires.listen_http(address).await.map_err(failed)?)
            }
        };

        let (store, figures) = open_store(config).await?;
        let reserve_bytes = match config.store {
            StoreKind::Memory => None,
            StoreKind::File => Some(config.file_store.reserve_bytes.0),
            StoreKind::RocksDb => Some(config.rocksdb_store.reserve_bytes.0),
        };
        let files = reserve_bytes
            .map(|reserve_bytes| Files { dir: config.data_dir.clone(), reserve_bytes });
        let watched = WatchedStore::new(store.clone(), files).with_figures(figures);
        let access = Arc::new(NodeAccess::new(config));
        let settings = BrokerSettings { access: access.clone(), ..config.broker_settings() };
        let broker = match Broker::start(watched, settings, Environment::system()).await {
            Ok(broker) => broker,
            Err(failure) => {
                if let Err(error) = store.close().await {
                    warn!(%error, "the store did not close cleanly");
                }
                return Err(failure.into());
            }
        };
        // Without a store of its own the directory may become somebody else's, who wants it empty.
        if config.store != StoreKind::Memory
            && let Err(error) = wires.keep()
        {
            let _failed = broker.stop(config.stop_timeout.0).await;
            return Err(error.into());
        }
        let reloader = Arc::new(Reloader::new(asked.clone(), access));

        config.warn_of_bare_tokens();
        let (stopping, _) = watch::channel(false);
        let mut serving = JoinSet::new();
        let listening: Vec<_> = listeners.iter().map(|listener| listener.local_address()).collect();
        for listener in listeners {
            let broker = broker.clone();
            serving.spawn(async move {
                let address = listener.local_address();
                if let Err(error) = broker.serve(Box::new(listener)).await {
                    error!(%address, %error, "no longer listening");
                }
            });
        }
        // What is served can be found.
        let announcer = match Announcer::start(config, &broker, &listening) {
            Ok(announcer) => announcer,
            Err(error) => {
                let _failed = broker.stop(config.stop_timeout.0).await;
                return Err(error.into());
            }
        };
        let http = http.map(|listener| {
            let local = listener.local();
            let options = HttpOptions {
                connections_max: config.limits.http_connections_max,
                connections_per_address_max: config.limits.http_connections_per_address_max,
                request_timeout: config.limits.http_request_timeout.0,
                body_bytes_total_max: config.limits.http_body_bytes_total_max.0,
                body_bytes_per_address_max: config
                    .limits
                    .http_body_bytes_per_address_max
                    .map(|it| it.0),
                metrics_series_max: config.limits.metrics_series_max,
                metrics_public: config.metrics_public,
                exempt_addresses: config.limits.exempt_addresses.networks(),
                at_loopback: local.ip().is_loopback(),
            };
            let told = stopping.subscribe();
            let (broker, figures) = (broker.clone(), wires.figures().clone());
            let places = http::Places::new(&options);
            let lookup = announcer.as_ref().map(|it| it.lookup().clone());
            let router = http::router(
                broker,
                reloader.clone(),
                figures,
                lookup,
                places.clone(),
                &options,
                told,
            );
            let server = HttpServer::new(listener, router, places, &options);
            (local, tokio::spawn(server.run(stopping.subscribe())))
        });
        Ok(Self {
            broker,
            wires,
            listening,
            http,
            announcer,
            config: Arc::new(config.clone()),
            serving,
            stopping,
            kept: kept(config),
            needs_token: !config.tokens.is_empty() || config.token.is_some(),
            stop_timeout: config.stop_timeout.0,
            reloader,
        })
    }

    /// The broker.
    #[must_use]
    pub const fn broker(&self) -> &NodeBroker {
        &self.broker
    }

    /// What takes a configuration over while the node runs.
    #[must_use]
    pub const fn reloader(&self) -> &Arc<Reloader> {
        &self.reloader
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

    /// One line that says where everything is, and what to try first.
    #[must_use]
    pub fn banner(&self) -> String {
        let listening: Vec<_> = self.listening.iter().map(Address::to_string).collect();
        let http = match self.http() {
            Some(address) => format!("HTTP on http://{address}"),
            None => "no HTTP".to_owned(),
        };
        // The first is what whoever wrote the list thinks of first.
        let server = self.listening.first().and_then(|address| {
            let reachable = reachable(address);
            let trust = match (address.scheme(), self.wires.dev_flag()) {
                ("tls" | "quic", Some(flag)) => format!("{flag} "),
                ("tls" | "quic", None) => "--tls-ca FILE ".to_owned(),
                _ => String::new(),
            };
            (reachable != DEFAULT_SERVER).then(|| format!("--server {reachable} {trust}"))
        });
        let token = if self.needs_token { " (with a token in LTQ_TOKEN)" } else { "" };
        format!(
            "ltq-node {} listens on {}, {http}, {}; try: ltq {}pub hello \"first message\"{token}",
            env!("CARGO_PKG_VERSION"),
            listening.join(" and "),
            self.kept,
            server.unwrap_or_default(),
        )
    }

    /// A line for clients of a node that made its certificate itself: how to trust it.
    #[must_use]
    pub fn trust_line(&self) -> Option<String> {
        let flag = self.wires.dev_flag()?;
        Some(format!("its certificate is for development; clients trust it by {flag}"))
    }

    /// Drains the node when an operator wants it ([`AdminRequest::Drain`], over the wire or by
    /// [`Broker::admin`]), and resolves when that is over: then it is to be [stopped](Self::stop). From this
    /// call on such requests are taken; where the future is dropped, nobody drains the node any more.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        let state = self.announcer.as_ref().map(|it| it.state().clone());
        Drain::new(&self.broker, self.config.clone(), state).over()
    }

    /// Stops cleanly, within the time that the configuration gives.
    ///
    /// # Errors
    /// [`NodeError::Broker`] when not everything came to rest, or the store could not make
    /// everything durable.
    pub async fn stop(mut self) -> Result<(), NodeError> {
        let deadline = Instant::now() + self.stop_timeout;
        self.stopping.send_replace(true);
        if let Some(announcer) = self.announcer.take() {
            announcer.withdraw().await;
        }
        let stopped = self.broker.stop(self.stop_timeout).await;
        // Requests are answered by now, as done or as refused; what does not read its answer is
        // cut off.
        if let Some((_, mut http)) = self.http.take()
            && timeout_at(deadline, &mut http).await.is_err()
        {
            warn!("HTTP connections are cut off");
            http.abort();
        }
        self.serving.shutdown().await;
        self.wires.settled().await;
        Ok(stopped?)
    }
}

/// Runs a node until SIGTERM or Ctrl-C, and stops it cleanly. A second signal ends the process at
/// once with exit code 1. SIGHUP, or a change of the file that `source` names, has the node read
/// tokens and identities again.
///
/// # Errors
/// A [`NodeError`].
pub async fn run(config: &Config, source: ConfigSource) -> Result<(), NodeError> {
    // Before anything is opened, so that a signal during the start is not missed.
    let mut signals = Signals::new().map_err(NodeError::Signals)?;
    let hangup = signal(SignalKind::hangup()).map_err(NodeError::Signals)?;
    descriptors::raise_limit();
    let node = tokio::select! {
        node = Node::start(config) => node?,
        signal = signals.next() => {
            info!(signal, "told to stop before it had started");
            return Ok(());
        }
    };
    // Nobody has to read it.
    let _ = output::line(node.banner());
    if let Some(line) = node.trust_line() {
        let _ = output::line(line);
    }
    let watching = tokio::spawn(node.reloader.clone().watch(source, hangup));
    let why = until_over(&node, &mut signals).await;
    watching.abort();
    info!(why, deadline = ?node.stop_timeout, "stopping; a further signal ends at once");
    tokio::select! {
        stopped = node.stop() => {
            if stopped.is_ok() {
                info!("stopped cleanly");
            }
            stopped
        }
        signal = signals.next() => {
            error!(signal, "ended at once by a further signal");
            std::process::exit(1);
        }
    }
}

/// Waits until the node is to stop: by a signal, or because it is drained. A signal that has it drain is
/// followed by another one that stops it.
async fn until_over(node: &Node, signals: &mut Signals) -> &'static str {
    let (broker, mut by_signal) = (node.broker.clone(), node.config.drain.on_signal);
    let wishes = broker.drain_wishes();
    let mut drained = pin!(node.drained());
    loop {
        tokio::select! {
            signal = signals.next() => {
                if !std::mem::take(&mut by_signal) || wishes.wanted().is_some() {
                    return signal;
                }
                info!(signal, "draining before the stop; a further signal stops now");
                let options = DrainOptions::default();
                if let Err(refusal) = broker.admin(AdminRequest::Drain { options }).await {
                    error!(%refusal, "cannot be drained");
                    return signal;
                }
            }
            () = &mut drained => return "drained",
        }
    }
}

/// Opens the store, and says where figures of its own come from.
async fn open_store(config: &Config) -> Result<(Arc<dyn Store>, Option<Figures>), StoreError> {
    if config.store != StoreKind::Memory {
        tools::refuse_unfinished(&config.data_dir)?;
    }
    let (store, figures): (Arc<dyn Store>, Option<Figures>) = match config.store {
        StoreKind::Memory => (Arc::new(MemoryStore::new(config.memory_store.bytes_max.0)), None),
        StoreKind::File => open_file_store(config).await?,
        StoreKind::RocksDb => open_rocksdb(config).await?,
    };
    Ok((store, figures))
}

async fn open_file_store(config: &Config) -> Result<(Arc<dyn Store>, Option<Figures>), StoreError> {
    let store = Arc::new(FileStore::open(config.file_store_options()).await?);
    let told = store.clone();
    let figures: Figures = Arc::new(move || file_figures(told.reserve()));
    Ok((store, Some(figures)))
}

fn file_figures(reserve: FileReserve) -> Vec<Figure> {
    let FileReserve { spare, shortages, is_short, .. } = reserve;
    let figure = |name, help, value| Figure { name, help, value };
    vec![
        figure(
            "ltq_file_store_short",
            "1 while the store can open no file, for want of descriptors or memory.",
            u64::from(is_short),
        ),
        figure(
            "ltq_file_store_shortages_total",
            "Files that the store could not open for want of descriptors or memory.",
            shortages,
        ),
        figure(
            "ltq_file_store_spare_descriptors",
            "Descriptors that the store keeps for when there are no others.",
            spare,
        ),
    ]
}

#[cfg(feature = "rocksdb")]
async fn open_rocksdb(config: &Config) -> Result<(Arc<dyn Store>, Option<Figures>), StoreError> {
    let store = Arc::new(ltq_store::RocksDbStore::open(config.rocksdb_store_options()).await?);
    let told = store.clone();
    let figure =
        |it: ltq_store::RocksDbFigure| Figure { name: it.name, help: it.help, value: it.value };
    let figures: Figures = Arc::new(move || told.figures().into_iter().map(figure).collect());
    Ok((store, Some(figures)))
}

#[cfg(not(feature = "rocksdb"))]
async fn open_rocksdb(_: &Config) -> Result<(Arc<dyn Store>, Option<Figures>), StoreError> {
    Err(StoreError::Invalid("this ltq-node was built without the feature rocksdb".to_owned()))
}

fn kept(config: &Config) -> String {
    let durability = config.durability();
    match config.store {
        StoreKind::Memory => "keeps messages in memory only".to_owned(),
        StoreKind::File | StoreKind::RocksDb => {
            let path = std::path::absolute(&config.data_dir);
            let path = path.as_ref().unwrap_or(&config.data_dir);
            format!("keeps messages in {} (durability {durability})", path.display())
        }
    }
}

/// The address as a client on this machine uses it.
pub(crate) fn reachable(address: &Address) -> String {
    match address.rest().parse::<SocketAddr>() {
        Ok(SocketAddr::V4(v4)) if v4.ip().is_unspecified() => {
            format!("{}://{}:{}", address.scheme(), Ipv4Addr::LOCALHOST, v4.port())
        }
        Ok(SocketAddr::V6(v6)) if v6.ip().is_unspecified() => {
            format!("{}://[{}]:{}", address.scheme(), Ipv6Addr::LOCALHOST, v6.port())
        }
        _ => address.to_string(),
    }
}

/// Where `ltq` looks for a node when it is not told.
pub const DEFAULT_SERVER: &str = "tcp://127.0.0.1:7440";
