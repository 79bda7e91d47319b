//! Where nodes are announced and found: registries, or an etcd in their place; and DNS names, by which they are
//! found alone.

use std::{fmt, sync::Arc};

use ltq_core::Address;
#[cfg(feature = "etcd")]
use ltq_discovery::etcd::{Etcd, EtcdBuilder, EtcdError};
use ltq_discovery::{Discovery, DnsNames, DnsNamesError, StaticList, registry::Registries};
#[cfg(feature = "etcd")]
use ltq_transport::Transports;
use thiserror::Error;

/// What the addresses of `--registry` name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Registries, at addresses such as nodes have.
    Registries,
    /// Members of one etcd, at `etcd://` and `etcds://` addresses.
    Etcd(EtcdPlace),
    /// DNS names, at `dns://`, `dns+tls://` and `dns+quic://` addresses.
    Names(Names),
}

/// Names that stand for nodes, each as the address that all of its nodes have: `tcp://NAME:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names(Vec<String>);

impl Names {
    /// How the nodes behind them are reached.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// What finds them, by the operating system. Nobody is asked yet.
    pub(crate) fn discovery(&self) -> Result<DnsNames, DnsNamesError> {
        DnsNames::new(self.addresses())
    }
}

/// Where in which etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EtcdPlace {
    /// `tcp://HOST:PORT`, or by TLS `tls://HOST:PORT`.
    pub(crate) endpoints: Vec<String>,
    /// What the keys begin with, unless it is the usual.
    pub(crate) prefix: Option<String>,
}

/// Why they name neither.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// Some are registries, some members of an etcd, some DNS names.
    #[error(
        "{0:?} and {1:?}: registries, an etcd and DNS names cannot be named beside each other; choose one"
    )]
    Mixed(String, String),
    /// Nothing can be announced there.
    #[error("{0}: DNS names are for finding nodes; a node is announced at registries or an etcd")]
    NotAnnounced(String),
    /// The members are of different places.
    #[error("{0:?} and {1:?} are different places; members of one etcd are named with one prefix")]
    Prefixes(String, String),
    /// One is no address.
    #[error(
        "{0:?} is no etcd; it looks like etcd://HOST:PORT/PREFIX, and by TLS etcds://HOST:PORT/PREFIX"
    )]
    Address(String),
    /// The program knows no etcd.
    #[error("{0:?}: this program was built without etcd (the feature etcd)")]
    NotBuilt(String),
    /// The program knows no TLS.
    #[error("{0:?}: this program was built without TLS (the feature tls)")]
    NoTls(String),
}

impl EtcdPlace {
    /// Whether some of it is reached by TLS.
    #[cfg(all(feature = "etcd", feature = "tls"))]
    pub(crate) fn is_secure(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.starts_with("tls://"))
    }
}

impl fmt::Display for EtcdPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.prefix.as_deref().unwrap_or(PREFIX);
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let (scheme, host) = endpoint.split_once("://").unwrap_or(("tcp", endpoint));
            let scheme = if scheme == "tls" { "etcds" } else { "etcd" };
            write!(f, "{comma}{scheme}://{host}{prefix}")?;
        }
        Ok(())
    }
}

impl Place {
    /// What these addresses name, where there are any.
    ///
    /// # Errors
    /// [`PlaceError`]. Whether registries' addresses are any is not asked here.
    pub(crate) fn of(addresses: &[impl AsRef<str>]) -> Result<Self, PlaceError> {
        let mut place: Option<EtcdPlace> = None;
        let mut names = Vec::new();
        // Of each address whether it is a name, and whether it is of an etcd.
        let kind = |address| (name(address).is_some(), etcd(address).is_some());
        let mut first = None;
        for address in addresses.iter().map(|address| address.as_ref().trim()) {
            let first = *first.get_or_insert(address);
            if kind(first) != kind(address) {
                return Err(PlaceError::Mixed(first.to_owned(), address.to_owned()));
            }
            if let Some(name) = name(address) {
                names.push(name);
                continue;
            }
            let Some((scheme, rest)) = etcd(address) else { continue };
            if !cfg!(feature = "etcd") {
                return Err(PlaceError::NotBuilt(address.to_owned()));
            }
            if scheme == "tls" && !cfg!(feature = "tls") {
                return Err(PlaceError::NoTls(address.to_owned()));
            }
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let endpoint = format!("{scheme}://{host}");
            if host.is_empty() || endpoint.parse::<Address>().is_err() {
                return Err(PlaceError::Address(address.to_owned()));
            }
            let path = path.trim_end_matches('/');
            let prefix = (!path.is_empty()).then(|| path.to_owned());
            let place = place
                .get_or_insert_with(|| EtcdPlace { endpoints: Vec::new(), prefix: prefix.clone() });
            if place.prefix != prefix {
                let of = |prefix: Option<String>| prefix.unwrap_or_else(|| PREFIX.to_owned());
                return Err(PlaceError::Prefixes(of(place.prefix.clone()), of(prefix)));
            }
            place.endpoints.push(endpoint);
        }
        match place {
            Some(place) => Ok(Self::Etcd(place)),
            None if names.is_empty() => Ok(Self::Registries),
            None => Ok(Self::Names(Names(names))),
        }
    }
}

/// The address that the nodes behind a DNS name have.
fn name(address: &str) -> Option<String> {
    let schemes = [("dns://", "tcp"), ("dns+tls://", "tls"), ("dns+quic://", "quic")];
    let mut named = schemes.iter().filter_map(|(prefix, scheme)| {
        let rest = address.strip_prefix(prefix)?;
        Some(format!("{scheme}://{rest}"))
    });
    named.next()
}

/// The scheme of its transport and what follows, of an address of an etcd.
fn etcd(address: &str) -> Option<(&'static str, &str)> {
    let plain = address.strip_prefix("etcd://").map(|rest| ("tcp", rest));
    plain.or_else(|| address.strip_prefix("etcds://").map(|rest| ("tls", rest)))
}

/// An etcd that is set up and not checked yet. `transports` reach its members; over TLS they name no protocol.
#[cfg(feature = "etcd")]
pub(crate) fn etcd_at(
    place: &EtcdPlace,
    transports: Transports,
    user: Option<(&str, &str)>,
) -> EtcdBuilder {
    let mut builder = Etcd::builder(transports);
    for endpoint in &place.endpoints {
        builder = builder.endpoint(endpoint);
    }
    if let Some(prefix) = &place.prefix {
        builder = builder.prefix(prefix);
    }
    match user {
        Some((name, password)) => builder.user(name, password),
        None => builder,
    }
}

/// Where a node is announced.
#[derive(Clone, Debug)]
pub(crate) enum Lookup {
    Registries(Registries),
    #[cfg(feature = "etcd")]
    Etcd {
        etcd: Etcd,
        place: EtcdPlace,
    },
}

impl Lookup {
    pub(crate) fn discovery(&self) -> Arc<dyn Discovery> {
        match self {
            Self::Registries(registries) => Arc::new(registries.clone()),
            #[cfg(feature = "etcd")]
            Self::Etcd { etcd, .. } => Arc::new(etcd.clone()),
        }
    }

    /// Each registry, or the etcd, and whether it has the node.
    pub(crate) fn announced(&self) -> Vec<(String, bool)> {
        match self {
            Self::Registries(registries) => {
                let all = registries.announced();
                all.map(|(address, has)| (address.to_string(), has)).collect()
            }
            #[cfg(feature = "etcd")]
            Self::Etcd { etcd, place } => vec![(place.to_string(), etcd.is_announced())],
        }
    }
}

/// Checks what can be checked of registries' addresses, or of an etcd, without asking anybody.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn check(addresses: &[String]) -> Result<Place, String> {
    let place = Place::of(addresses).map_err(|error| error.to_string())?;
    match &place {
        Place::Registries => {
            addresses.join(",").parse::<StaticList>().map_err(|error| error.to_string())?;
        }
        Place::Names(names) => {
            names.discovery().map_err(|error| error.to_string())?;
        }
        #[cfg(feature = "etcd")]
        Place::Etcd(place) => {
            let built = etcd_at(place, Transports::new(), None).build();
            built.map_err(|error: EtcdError| error.to_string())?;
        }
        #[cfg(not(feature = "etcd"))]
        Place::Etcd(_) => {}
    }
    Ok(place)
}

/// What the keys begin with where nothing is said.
const PREFIX: &str = "/ltq";

#[cfg(all(test, feature = "etcd", feature = "tls"))]
mod tests {
    use super::*;

    #[test]
    fn an_etcd_is_told_from_registries() {
        assert_eq!(Place::of(&["tcp://r1:1", "r2:2"]).unwrap(), Place::Registries);
        let many = Place::of(&["etcd://a:2379/shop/ltq/", " etcds://b:1/shop/ltq"]).unwrap();
        let Place::Etcd(etcd) = many else { panic!("no etcd") };
        assert_eq!(etcd.endpoints, ["tcp://a:2379", "tls://b:1"]);
        assert_eq!(etcd.prefix.as_deref(), Some("/shop/ltq"));
        assert!(etcd.is_secure());
        assert_eq!(etcd.to_string(), "etcd://a:2379/shop/ltq,etcds://b:1/shop/ltq");
        let Place::Etcd(etcd) = Place::of(&["etcd://a:2379"]).unwrap() else { panic!("no etcd") };
        assert_eq!((&etcd.prefix, etcd.is_secure()), (&None, false));
        assert_eq!(etcd.to_string(), "etcd://a:2379/ltq");
    }

    #[test]
    fn names_are_told_from_registries_and_an_etcd() {
        let all = ["dns://ltq.example:7440", " dns+tls://a:1", "dns+quic://[::1]:2"];
        let Place::Names(names) = Place::of(&all).unwrap() else { panic!("no names") };
        let addresses: Vec<_> = names.addresses().collect();
        assert_eq!(addresses, ["tcp://ltq.example:7440", "tls://a:1", "quic://[::1]:2"]);
        names.discovery().unwrap();
    }

    #[test]
    fn what_is_neither_is_said() {
        let check = |all: &[&str]| {
            let all: Vec<_> = all.iter().map(ToString::to_string).collect();
            check(&all).unwrap_err()
        };
        for [one, other] in [
            ["etcd://a:1", "tcp://r:1"],
            ["dns://a:1", "tcp://r:1"],
            ["tcp://r:1", "dns+tls://a:1"],
            ["dns://a:1", "etcd://e:1"],
        ] {
            let said = check(&[one, one, other]);
            assert!(said.contains("beside each other"), "{said}");
            assert!(said.contains(one) && said.contains(other), "{said}");
        }
        assert!(check(&["dns://a:1", "dns://a:1"]).contains("twice"));
        assert!(check(&["dns://a"]).contains("names no host and port"));
        assert!(check(&["dns://a:1/x"]).contains("names no host and port"));
        assert!(check(&["etcd://a:1/x", "etcd://b:1/y"]).contains("different places"));
        assert!(check(&["etcd://a:1/x", "etcd://b:1"]).contains("\"/x\" and \"/ltq\""));
        assert!(check(&["etcd:///x"]).contains("is no etcd"));
        assert!(check(&["etcd://a:1", "etcd://a:1"]).contains("twice"));
        assert!(check(&["etcd://a:1/a b"]).contains("prefix"));
        assert!(check(&["tcp://r:1", "tcp://r:1"]).contains("twice"));
    }
}
