//! What is measured: a server, or a broker inside this process.

use std::{sync::Arc, time::Duration};

use ltq_client::{Client, ClientBuilder};
use ltq_core::{Address, Broker, BrokerSettings, Environment, Store, TopicSettings, Transport};
use ltq_store::{FileStore, FileStoreOptions, MemoryStore};
use ltq_transport::{InProcess, Transports};
use tokio::task::JoinHandle;

use super::args::BenchArgs;
use crate::{
    NodeBroker,
    cli::{self, CliError, ServerArgs, ends::Ends},
    watched_store::WatchedStore,
};

/// What is measured.
pub(super) enum Target {
    Server(Box<ServerArgs>),
    InProcess(Box<Embedded>),
    Cluster(Box<Clustered>),
}

/// The nodes that registries tell of.
pub(super) struct Clustered {
    server: ServerArgs,
    registries: Vec<String>,
    name: String,
}

/// A broker inside this process.
pub(super) struct Embedded {
    server: ServerArgs,
    broker: NodeBroker,
    transports: Transports,
    serving: JoinHandle<()>,
}

impl Target {
    pub(super) async fn new(server: &ServerArgs, args: &BenchArgs) -> Result<Self, CliError> {
        if !args.registry.is_empty() {
            let (server, registries) = (server.clone(), args.registry.clone());
            let name = registries.join(",");
            return Ok(Self::Cluster(Box::new(Clustered { server, registries, name })));
        }
        if !args.in_process {
            return Ok(Self::Server(Box::new(server.clone())));
        }
        let failed = |error: &dyn std::fmt::Display| {
            CliError::Failed(format!("the broker in this process did not start: {error}"))
        };
        let store: Arc<dyn Store> = match &args.data_dir {
            None => Arc::new(MemoryStore::new(MEMORY_BYTES)),
            Some(dir) => {
                let options = FileStoreOptions::new(dir);
                Arc::new(FileStore::open(options).await.map_err(|error| failed(&error))?)
            }
        };
        Self::over(store, server).await
    }

    /// A broker in this process over a store.
    pub(super) async fn over(store: Arc<dyn Store>, server: &ServerArgs) -> Result<Self, CliError> {
        let failed = |error: &dyn std::fmt::Display| {
            CliError::Failed(format!("the broker in this process did not start: {error}"))
        };
        let durability = store.durability_max();
        let settings = BrokerSettings {
            topic: TopicSettings { durability, ..TopicSettings::default() },
            ..BrokerSettings::default()
        };
        let broker = Broker::start(WatchedStore::new(store, None), settings, Environment::system())
            .await
            .map_err(|error| failed(&error))?;
        let transports = Transports::new().with(InProcess::new());
        let address = Address::new("in-process", "bench");
        let listener = transports.listen(&address).await.map_err(|error| failed(&error))?;
        let serving = tokio::spawn({
            let broker = broker.clone();
            async move {
                // It ends when the broker stops; a failure shows where clients try to connect.
                let _ = broker.serve(listener).await;
            }
        });
        let server = ServerArgs { server: address.to_string(), ..server.clone() };
        Ok(Self::InProcess(Box::new(Embedded { server, broker, transports, serving })))
    }

    /// A client of its own: of the node, or of all nodes.
    pub(super) async fn ends(&self) -> Result<Ends, CliError> {
        match self {
            Self::Cluster(cluster) => Ends::connect(&cluster.server, &cluster.registries).await,
            _ => Ok(Ends::Node(self.connect().await?)),
        }
    }

    /// How many nodes there are.
    pub(super) async fn nodes(&self) -> Result<usize, CliError> {
        let Self::Cluster(_) = self else { return Ok(1) };
        let ends = self.ends().await?;
        let nodes = match &ends {
            Ends::Cluster(cluster) => cluster.nodes().len(),
            Ends::Node(_) => 1,
        };
        ends.close().await?;
        match nodes {
            0 => Err(CliError::Failed(format!("{} tells of no node", self.name()))),
            nodes => Ok(nodes),
        }
    }

    /// Whether it is several nodes, of which each message may go to any.
    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// A connection of its own to the one node that it is.
    pub(super) async fn connect(&self) -> Result<Client, CliError> {
        cli::attempts(self.timeout(), async |time| {
            Ok(self.builder()?.connect_timeout(time).connect().await?)
        })
        .await
    }

    fn builder(&self) -> Result<ClientBuilder, CliError> {
        match self {
            Self::Server(server) => cli::builder(server),
            Self::Cluster(cluster) => cli::builder(&cluster.server),
            Self::InProcess(embedded) => {
                Ok(cli::builder(&embedded.server)?.transports(embedded.transports.clone()))
            }
        }
    }

    /// For people: where it is.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Server(server) => &server.server,
            Self::InProcess(_) => "in process",
            Self::Cluster(cluster) => &cluster.name,
        }
    }

    /// How long anything may take.
    pub(super) const fn timeout(&self) -> Duration {
        match self {
            Self::Server(server) => server.timeout,
            Self::InProcess(embedded) => embedded.server.timeout,
            Self::Cluster(cluster) => cluster.server.timeout,
        }
    }

    /// Ends what was started.
    pub(super) async fn close(self) -> Result<(), CliError> {
        let Self::InProcess(embedded) = self else { return Ok(()) };
        let stopped = embedded.broker.stop(embedded.server.timeout).await;
        embedded.serving.abort();
        stopped.map_err(|error| {
            CliError::Failed(format!("the broker in this process did not stop: {error}"))
        })
    }
}

/// Beyond it publishes are refused: a run in memory that goes on for long needs a consumer.
const MEMORY_BYTES: u64 = 4 << 30;
