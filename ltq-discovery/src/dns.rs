//! Nodes behind DNS names.

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use ltq_core::{Address, AddressError};
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{Announced, Discovery, DiscoveryError, Interest, NodeId, NodeInfo, NodeSet, Watch};

/// Finds nodes by names that resolve to several addresses, one node at each, such as a headless service of
/// Kubernetes has: `tcp://ltq.example:7440`.
///
/// The names are resolved by the operating system, when a watch begins and every ten seconds then, or as often
/// as [set](Self::every). A node's id is its address; which topics it has is not known, so that it may have
/// any. While a name cannot be resolved, its nodes stay as they were. Announcing does nothing and says so, by
/// [`Announced::NotTaken`].
///
/// Nodes are told of by their addresses and not by the name: at `tls://` and `quic://` addresses a client has to
/// trust them by fingerprint, or by certificates that are made out for addresses.
#[derive(Clone)]
pub struct DnsNames {
    names: Arc<[Name]>,
    resolver: Arc<dyn Resolve>,
    every: Duration,
}

/// One name: all nodes behind it have its scheme and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    scheme: String,
    host: String,
    port: u16,
}

/// Why names are none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DnsNamesError {
    /// There is none.
    #[error("no name is given")]
    None,
    /// A text is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// An address has no host and port.
    #[error("{0} names no host and port; it looks like tcp://HOST:PORT")]
    NoPort(Address),
    /// A name is there twice.
    #[error("{0} is there twice")]
    Twice(Address),
}

/// What turns names into addresses.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// The addresses that a host's name stands for; that of an address is the address itself. Cancel safe.
    ///
    /// # Errors
    /// The resolver's.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// Resolves names as the operating system does, by `getaddrinfo`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // The port is of no matter to it.
        let found = tokio::net::lookup_host((host, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

impl DnsNames {
    /// Names with the scheme and port of the nodes behind them: `tcp://ltq.example:7440`.
    ///
    /// # Errors
    /// [`DnsNamesError`].
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, DnsNamesError> {
        let mut known: Vec<Name> = Vec::new();
        for text in names {
            let address: Address = text.parse()?;
            let Some((host, port)) = address.rest().rsplit_once(':') else {
                return Err(DnsNamesError::NoPort(address));
            };
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let (scheme, Ok(port)) = (address.scheme().to_owned(), port.parse()) else {
                return Err(DnsNamesError::NoPort(address));
            };
            if host.is_empty() {
                return Err(DnsNamesError::NoPort(address));
            }
            let name = Name { scheme, host, port };
            if known.contains(&name) {
                return Err(DnsNamesError::Twice(address));
            }
            known.push(name);
        }
        if known.is_empty() {
            return Err(DnsNamesError::None);
        }
        Ok(Self { names: known.into(), resolver: Arc::new(SystemResolver), every: EVERY })
    }

    /// How often names are resolved again; at least 100 ms. Default 10 s.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every.max(EVERY_MIN);
        self
    }

    /// What resolves them. Default: [`SystemResolver`].
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }
}

impl std::fmt::Debug for DnsNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsNames").field("names", &self.names).finish_non_exhaustive()
    }
}

#[async_trait]
impl Discovery for DnsNames {
    async fn announce(&self, _: NodeInfo) -> Result<Announced, DiscoveryError> {
        Ok(Announced::NotTaken("clients resolve the names of nodes"))
    }

    /// # Errors
    /// [`DiscoveryError::Unreachable`] when none of the names can be resolved.
    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        let mut resolving = Resolving {
            of: self.clone(),
            interest: interest.of_mere_addresses(),
            found: vec![BTreeSet::new(); self.names.len()],
            given: None,
            next: Instant::now(),
            is_lost: false,
        };
        resolving.look().await?;
        Ok(Box::new(resolving))
    }
}

struct Resolving {
    of: DnsNames,
    interest: Interest,
    /// What each name stood for when it was resolved last.
    found: Vec<BTreeSet<IpAddr>>,
    given: Option<NodeSet>,
    /// When to look again.
    next: Instant,
    /// No name could be resolved, and the caller knows.
    is_lost: bool,
}

impl Resolving {
    /// Resolves all names; those that cannot be stay as they were.
    ///
    /// # Errors
    /// None could be.
    async fn look(&mut self) -> Result<(), DiscoveryError> {
        let (mut any, mut why) = (false, None);
        let mut found = self.found.clone();
        for (name, found) in self.of.names.iter().zip(&mut found) {
            let resolved = match timeout(PATIENCE, self.of.resolver.resolve(&name.host)).await {
                Ok(Ok(addresses)) if addresses.is_empty() => {
                    Err(io::Error::new(io::ErrorKind::NotFound, "it stands for no address"))
                }
                Ok(resolved) => resolved,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            };
            match resolved {
                Ok(addresses) => {
                    any = true;
                    *found = addresses.into_iter().collect();
                }
                Err(error) => why = Some((name.host.clone(), error)),
            }
        }
        self.found = found;
        self.next = Instant::now() + self.of.every;
        match why {
            Some((host, error)) if !any => Err(DiscoveryError::Unreachable {
                backend: format!("the name {host}"),
                source: error.into(),
            }),
            _ => Ok(()),
        }
    }

    fn nodes(&self) -> NodeSet {
        let mut nodes = Vec::new();
        for (name, found) in self.of.names.iter().zip(&self.found) {
            for ip in found {
                let at = std::net::SocketAddr::new(*ip, name.port);
                let address = Address::new(&name.scheme, at.to_string());
                // An address that was read has a scheme that is one, and is short.
                let Ok(id) = NodeId::new(&address.to_string()) else { continue };
                nodes.extend(NodeInfo::new(id, [address]));
            }
        }
        nodes.iter().filter_map(|node| self.interest.view(node)).collect()
    }
}

#[async_trait]
impl Watch for Resolving {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        loop {
            let nodes = self.nodes();
            if self.given.as_ref() != Some(&nodes) {
                self.given = Some(nodes.clone());
                return Ok(nodes);
            }
            sleep_until(self.next).await;
            match self.look().await {
                Ok(()) => self.is_lost = false,
                Err(error) if !std::mem::replace(&mut self.is_lost, true) => return Err(error),
                Err(_) => {}
            }
        }
    }
}

/// How often names are resolved again.
const EVERY: Duration = Duration::from_secs(10);
const EVERY_MIN: Duration = Duration::from_millis(100);
/// How long a resolver may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;

    use super::*;

    /// Names as they are written down.
    #[derive(Clone, Default)]
    struct Book(Arc<Mutex<BTreeMap<String, Vec<&'static str>>>>);

    impl Book {
        fn write(&self, host: &str, addresses: &[&'static str]) {
            self.0.lock().insert(host.to_owned(), addresses.to_vec());
        }
    }

    #[async_trait]
    impl Resolve for Book {
        async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            let book = self.0.lock();
            let found = book.get(host).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            Ok(found.iter().map(|text| text.parse().unwrap()).collect())
        }
    }

    fn ids(nodes: &NodeSet) -> Vec<String> {
        nodes.iter().map(|node| node.id().to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_followed_and_their_nodes_stay_while_they_cannot_be_resolved() {
        let book = Book::default();
        let names = DnsNames::new(["tcp://one:7440", "quic://two:1"]).unwrap();
        let names = names.resolver(book.clone());
        let error = names.watch(&Interest::Nodes).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, DiscoveryError::Unreachable { .. }), "{error}");
        book.write("one", &["10.0.0.2", "10.0.0.1", "10.0.0.1"]);
        book.write("two", &["fd00::1"]);
        let mut watch = names.watch(&Interest::Nodes).await.unwrap();
        let all = ["quic://[fd00::1]:1", "tcp://10.0.0.1:7440", "tcp://10.0.0.2:7440"];
        assert_eq!(ids(&watch.changed().await.unwrap()), all);
        book.write("one", &["10.0.0.2", "10.0.0.3"]);
        let began = Instant::now();
        let now = ["quic://[fd00::1]:1", "tcp://10.0.0.2:7440", "tcp://10.0.0.3:7440"];
        assert_eq!(ids(&watch.changed().await.unwrap()), now);
        assert_eq!(began.elapsed(), EVERY);
        // One that is gone keeps its nodes while the other is there, and that is no loss of sight.
        book.0.lock().remove("two");
        book.write("one", &["10.0.0.2"]);
        assert_eq!(ids(&watch.changed().await.unwrap()), now[..2]);
        // None can be resolved: told once, and nothing is taken away.
        book.0.lock().clear();
        assert!(watch.changed().await.is_err());
        assert!(timeout(EVERY * 5, watch.changed()).await.is_err());
        book.write("two", &["fd00::2"]);
        assert_eq!(
            ids(&watch.changed().await.unwrap()),
            ["quic://[fd00::2]:1", "tcp://10.0.0.2:7440"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_stands_for_no_address_takes_no_node_away() {
        let book = Book::default();
        book.write("one", &["10.0.0.1"]);
        let names = DnsNames::new(["tcp://one:7440"]).unwrap().resolver(book.clone());
        let mut watch = names.watch(&Interest::Nodes).await.unwrap();
        assert_eq!(ids(&watch.changed().await.unwrap()), ["tcp://10.0.0.1:7440"]);
        book.write("one", &[]);
        let error = watch.changed().await.unwrap_err().to_string();
        assert!(error.contains("it stands for no address"), "{error}");
        assert!(timeout(EVERY * 5, watch.changed()).await.is_err());
    }

    /// Answers for one name, and never for others.
    struct Deaf;

    #[async_trait]
    impl Resolve for Deaf {
        async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            match host {
                "one" => Ok(vec!["10.0.0.1".parse().unwrap()]),
                _ => std::future::pending().await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_never_resolved_holds_the_others_up_for_five_seconds() {
        let names = DnsNames::new(["tcp://two:7440", "tcp://one:7440"]).unwrap().resolver(Deaf);
        let began = Instant::now();
        let mut watch = names.watch(&Interest::Nodes).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert_eq!(ids(&watch.changed().await.unwrap()), ["tcp://10.0.0.1:7440"]);
    }

    #[tokio::test]
    async fn programs_of_a_mesh_are_found_by_names_and_no_name_is_resolved_without_a_pause() {
        let book = Book::default();
        book.write("one", &["10.0.0.1"]);
        let names = DnsNames::new(["tcp://one:7440"]).unwrap().resolver(book);
        let mut watch = names.watch(&Interest::Mesh("shop".to_owned())).await.unwrap();
        assert_eq!(ids(&watch.changed().await.unwrap()), ["tcp://10.0.0.1:7440"]);
        assert_eq!(names.every(Duration::ZERO).every, Duration::from_millis(100));
    }

    #[tokio::test]
    async fn the_operating_system_knows_this_machine() {
        let names = DnsNames::new(["tcp://localhost:7440", "tcp://[::1]:7441"]).unwrap();
        let mut watch = names.watch(&Interest::Everything).await.unwrap();
        let nodes = watch.changed().await.unwrap();
        assert!(nodes.iter().all(|node| node.topics().is_none()) && nodes.len() >= 2, "{nodes:?}");
        let one = NodeInfo::new("n".parse().unwrap(), ["tcp://n:1".parse().unwrap()]).unwrap();
        let announced = names.announce(one).await.unwrap();
        assert!(matches!(announced, Announced::NotTaken(why) if why.contains("names")));
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_reason() {
        assert_eq!(DnsNames::new([]).map(|_| ()), Err(DnsNamesError::None));
        for (names, why) in [
            (&["tcp://a"][..], "names no host and port"),
            (&["tcp://a:99999"], "names no host and port"),
            (&["tcp://:1"], "names no host and port"),
            (&["://a:1"], "is no address"),
            (&["tcp://a:1", "a:1"], "there twice"),
        ] {
            let error = DnsNames::new(names.iter().copied()).expect_err(why).to_string();
            assert!(error.contains(why), "{names:?}: {error}");
        }
    }
}
