//! How a cluster is set up.

use std::{fmt, sync::Arc};

use ltq_discovery::{Discovery, registry::Registries};

use super::{Cluster, ClusterError, Members};
use crate::ClientBuilder;

/// Sets a cluster up: [`Cluster::builder`].
#[derive(Clone, Default)]
#[must_use = "nothing happens before `connect`"]
pub struct ClusterBuilder {
    discovery: Option<Arc<dyn Discovery>>,
    registries: Vec<String>,
    client: ClientBuilder,
}

impl ClusterBuilder {
    /// Asks the registry at this address which nodes there are; further calls add further registries, of
    /// which what they tell is merged. They are reached by the transports of the
    /// [client](Self::client), and shown its token. Not beside [`discovery`](Self::discovery).
    pub fn registry(mut self, address: impl Into<String>) -> Self {
        self.registries.push(address.into());
        self
    }

    /// What tells which nodes there are: a [`StaticList`](ltq_discovery::StaticList), the
    /// [`Registries`](ltq_discovery::registry::Registries), or a scheme of one's own. It has to be
    /// given, or a [`registry`](Self::registry).
    pub fn discovery(self, discovery: impl Discovery) -> Self {
        self.discovery_arc(Arc::new(discovery))
    }

    /// The same with one that is shared already.
    pub fn discovery_arc(mut self, discovery: Arc<dyn Discovery>) -> Self {
        self.discovery = Some(discovery);
        self
    }

    /// How each node is talked to: transports, trust, token, timeouts, chance. It must name no server.
    /// Default: [`ClientBuilder::default`].
    pub fn client(mut self, client: ClientBuilder) -> Self {
        self.client = client;
        self
    }

    /// Waits until the discovery scheme has told which nodes there are, be it none, for as long as the
    /// [connect timeout](ClientBuilder::connect_timeout). No node is connected to before it is used.
    ///
    /// # Cancellation
    /// Dropping it gives the attempt up.
    ///
    /// # Errors
    /// [`ClusterError::NoDiscovery`], [`ClusterError::TwoDiscoveries`], [`ClusterError::Registries`],
    /// [`ClusterError::ServerNamed`], [`ClusterError::NoWord`].
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled.
    pub async fn connect(self) -> Result<Cluster, ClusterError> {
        let discovery: Arc<dyn Discovery> = match self.discovery {
            Some(_) if !self.registries.is_empty() => return Err(ClusterError::TwoDiscoveries),
            Some(discovery) => discovery,
            None if self.registries.is_empty() => return Err(ClusterError::NoDiscovery),
            None => {
                let mut registries = Registries::builder(self.client.get_transports().clone())
                    .connect_timeout(self.client.get_connect_timeout())
                    .patience(self.client.get_connect_timeout())
                    .entropy(self.client.get_entropy().clone());
                for address in self.registries {
                    registries = registries.registry(address);
                }
                if let Some(token) = self.client.get_token() {
                    registries = registries.token(token);
                }
                Arc::new(registries.build()?)
            }
        };
        if self.client.has_servers() {
            return Err(ClusterError::ServerNamed);
        }
        let members = Members::follow(discovery, self.client).await?;
        Ok(Cluster::new(Arc::new(members)))
    }
}

impl fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBuilder").field("client", &self.client).finish_non_exhaustive()
    }
}
