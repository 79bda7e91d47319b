//! One side of a bridge: where its nodes are, how they are reached, and what they are shown.

use std::{fmt, path::PathBuf, sync::Arc};

use ltq_client::{Client, ClientBuilder};
use ltq_core::Address;
#[cfg(feature = "etcd")]
use ltq_discovery::etcd::EtcdError;
use ltq_discovery::{
    Discovery, DnsNamesError, StaticList, StaticListError,
    registry::{Registries, RegistriesError},
};
#[cfg(feature = "quic")]
use ltq_transport::Quic;
#[cfg(feature = "tls")]
use ltq_transport::Tls;
#[cfg(any(feature = "tls", feature = "quic"))]
use ltq_transport::{ClientTrust, Fingerprint, Pem, TrustError};
use ltq_transport::{Tcp, Transports, Unix};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Site;
use crate::{
    config::{ConfigError, Token},
    lookup::{self, EtcdPlace, Place, PlaceError},
};

/// One side: the table `[from]` or `[to]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SideSettings {
    /// The addresses of its nodes, each that of another one. Default: none.
    pub servers: Vec<String>,
    /// The registries that know its nodes, or in their place the members of an etcd, or DNS names. Default: none.
    pub registries: Vec<String>,
    /// What the site is called. Default: from its first address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
    /// What nodes and registries are shown. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// As whom the bridge reads an etcd. Default: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_user: Option<String>,
    /// With which password. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_password: Option<Token>,
    /// The file of the authorities by which it is trusted at `tls://` and `quic://` addresses, as PEM.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// The fingerprint of the certificate that it has. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<String>,
    /// The file of the certificate that the bridge proves itself with, as PEM. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// The file of that certificate's key, as PEM. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
}

/// Why a side cannot be talked to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SideError {
    /// Its servers are none.
    #[error("the servers of {of:?}: {source}")]
    Servers {
        /// Which side: `from` or `to`.
        of: &'static str,
        /// Why.
        source: StaticListError,
    },
    /// Its registries are none.
    #[error("the registries of {of:?}: {source}")]
    Registries {
        /// Which side.
        of: &'static str,
        /// Why.
        source: RegistriesError,
    },
    /// Its names are none.
    #[error("the names of {of:?}: {source}")]
    Names {
        /// Which side.
        of: &'static str,
        /// Why.
        source: DnsNamesError,
    },
    /// They name neither registries nor an etcd.
    #[error("the registries of {of:?}: {source}")]
    Place {
        /// Which side.
        of: &'static str,
        /// Why.
        source: PlaceError,
    },
    /// Its etcd is none.
    #[cfg(feature = "etcd")]
    #[error("the etcd of {of:?}: {source}")]
    Etcd {
        /// Which side.
        of: &'static str,
        /// Why.
        source: EtcdError,
    },
    /// Whom to trust there, or what to prove, cannot be read.
    #[cfg(any(feature = "tls", feature = "quic"))]
    #[error("trusting {of:?}: {source}")]
    Trust {
        /// Which side.
        of: &'static str,
        /// Why.
        source: TrustError,
    },
}

/// How a side is talked to.
pub(super) struct Side {
    /// Without servers.
    pub(super) client: ClientBuilder,
    pub(super) discovery: Arc<dyn Discovery>,
    #[cfg(feature = "quic")]
    quic: Option<Quic>,
}

impl SideSettings {
    /// What it is called: as it is told, or from its first address.
    #[must_use]
    pub fn site_name(&self) -> Site {
        let first = || self.registries.first().or_else(|| self.servers.first());
        let of_address = || Site::of_address(first().map_or("", String::as_str));
        self.site.clone().unwrap_or_else(of_address)
    }

    /// Checks what can be checked without reading a file. `of` is the table's name.
    pub(super) fn check(&self, of: &str) -> Result<(), ConfigError> {
        let bad = |key: &str, value: &str, rule: &str| {
            let (key, value) = (format!("{of}.{key}"), value.to_owned());
            Err(ConfigError::Value { key, value, rule: rule.to_owned() })
        };
        match (&*self.servers, &*self.registries) {
            ([], []) => {
                let rule = format!(
                    "name at least one node with --{of} tcp://HOST:PORT, or a registry \
                                    that knows nodes with --{of}-registry tcp://HOST:PORT"
                );
                return bad("servers", "[]", &rule);
            }
            ([_, ..], [_, ..]) => {
                let rule = format!("{of}.servers is there too; choose one of them");
                return bad("registries", &self.registries.join(", "), &rule);
            }
            _ => {}
        }
        for (key, list) in [("servers", &self.servers), ("registries", &self.registries)] {
            if list.len() > ADDRESSES_MAX {
                return bad(key, &format!("a list of {}", list.len()), "name at most 256");
            }
            if list.is_empty() {
                continue;
            }
            let checked = match key {
                "registries" => lookup::check(list).map(drop),
                _ => list.join(",").parse::<StaticList>().map(drop).map_err(|it| it.to_string()),
            };
            if let Err(error) = checked {
                return bad(key, &list.join(", "), &error);
            }
            for text in list {
                self.check_address(text, key).or_else(|rule| bad(key, text, rule))?;
            }
        }
        if let Some(user) = &self.etcd_user {
            if self.etcd_password.is_none() {
                return bad("etcd_user", user, "it takes its etcd_password, too");
            }
            if !matches!(Place::of(&self.registries), Ok(Place::Etcd(_))) {
                return bad("etcd_user", user, "it is for an etcd, and none is named");
            }
        } else if self.etcd_password.is_some() {
            return bad("etcd_password", "what is set", "it takes its etcd_user, too");
        }
        match (&self.tls_ca, &self.tls_fingerprint) {
            (Some(_), Some(text)) => {
                return bad("tls_fingerprint", text, "its tls_ca is there too; choose one");
            }
            #[cfg(any(feature = "tls", feature = "quic"))]
            (_, Some(text)) => {
                if let Err(error) = text.parse::<Fingerprint>() {
                    return bad("tls_fingerprint", text, &error.to_string());
                }
            }
            _ => {}
        }
        let shown = |path: &PathBuf| path.display().to_string();
        match (&self.tls_certificate, &self.tls_key) {
            (Some(path), None) => bad("tls_certificate", &shown(path), "it takes its tls_key, too"),
            (None, Some(path)) => bad("tls_key", &shown(path), "it takes its tls_certificate, too"),
            (Some(path), Some(_)) if self.tls_ca.is_none() && self.tls_fingerprint.is_none() => {
                let rule = "say by what the other side is trusted: tls_ca or tls_fingerprint";
                bad("tls_certificate", &shown(path), rule)
            }
            _ => Ok(()),
        }
    }

    fn check_address(&self, text: &str, key: &str) -> Result<(), &'static str> {
        let scheme = text.split_once("://").map_or("tcp", |(scheme, _)| scheme);
        let is_trusted = self.tls_ca.is_some() || self.tls_fingerprint.is_some();
        match scheme {
            "tcp" | "unix" => Ok(()),
            "etcd" | "dns" if key == "registries" => Ok(()),
            "dns+tls" if key == "registries" && cfg!(feature = "tls") && is_trusted => Ok(()),
            "dns+quic" if key == "registries" && cfg!(feature = "quic") && is_trusted => Ok(()),
            "dns+tls" if key == "registries" && cfg!(feature = "tls") => Err(TRUST_RULE),
            "dns+quic" if key == "registries" && cfg!(feature = "quic") => Err(TRUST_RULE),
            "etcds" if key == "registries" && is_trusted => Ok(()),
            "etcds" if key == "registries" => Err(TRUST_RULE),
            "tls" if cfg!(feature = "tls") && is_trusted => Ok(()),
            "quic" if cfg!(feature = "quic") && is_trusted => Ok(()),
            "tls" if cfg!(feature = "tls") => Err(TRUST_RULE),
            "quic" if cfg!(feature = "quic") => Err(TRUST_RULE),
            "tls" | "quic" => Err("this ltq-node was built without it"),
            _ => Err(
                "write it as tcp://HOST:PORT, tls://HOST:PORT, quic://HOST:PORT or unix:///PATH",
            ),
        }
    }
}

impl Side {
    /// Of settings that were checked; `of` is the table's name, and `name` what the bridge calls itself
    /// there.
    pub(super) fn new(
        settings: &SideSettings,
        of: &'static str,
        name: &str,
    ) -> Result<Self, SideError> {
        let transports = Transports::new().with(Tcp::default()).with(Unix::default());
        #[cfg(feature = "quic")]
        let mut quic = None;
        #[cfg(any(feature = "tls", feature = "quic"))]
        let trusted = trust(settings).map_err(|source| SideError::Trust { of, source })?;
        #[cfg(any(feature = "tls", feature = "quic"))]
        let transports = match trusted.clone() {
            None => transports,
            Some(trust) => {
                #[cfg(feature = "tls")]
                let transports = transports.with(Tls::default().trusting(trust.clone()));
                #[cfg(feature = "quic")]
                let transports = {
                    let over_quic = Quic::default().trusting(trust);
                    quic = Some(over_quic.clone());
                    transports.with(over_quic)
                };
                transports
            }
        };
        let discovery: Arc<dyn Discovery> = match &*settings.registries {
            [] => {
                let addresses = settings.servers.iter().map(|text| text.trim().parse::<Address>());
                let list = addresses
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(StaticListError::from)
                    .and_then(StaticList::of_addresses);
                Arc::new(list.map_err(|source| SideError::Servers { of, source })?)
            }
            addresses => {
                match Place::of(addresses).map_err(|source| SideError::Place { of, source })? {
                    Place::Registries => {
                        let mut builder = Registries::builder(transports.clone());
                        for address in addresses {
                            builder = builder.registry(address.trim());
                        }
                        if let Some(token) = &settings.token {
                            builder = builder.token(&*token.0);
                        }
                        let built = builder.build();
                        Arc::new(built.map_err(|source| SideError::Registries { of, source })?)
                    }
                    Place::Names(names) => {
                        let found = names.discovery();
                        Arc::new(found.map_err(|source| SideError::Names { of, source })?)
                    }
                    Place::Etcd(place) => {
                        let to_etcd = Transports::new().with(Tcp::default());
                        // An etcd speaks a protocol of its own.
                        #[cfg(feature = "tls")]
                        let to_etcd = match trusted {
                            Some(trust) => {
                                to_etcd.with(Tls::default().trusting(trust).without_protocol())
                            }
                            None => to_etcd,
                        };
                        etcd(&place, to_etcd, settings, of)?
                    }
                }
            }
        };
        let version = env!("CARGO_PKG_VERSION");
        let mut client =
            Client::builder().name(format!("ltq-bridge/{version} {name}")).transports(transports);
        if let Some(token) = &settings.token {
            client = client.token(&*token.0);
        }
        Ok(Self {
            client,
            discovery,
            #[cfg(feature = "quic")]
            quic,
        })
    }

    /// Waits until nodes know of connections that were closed.
    #[cfg(feature = "quic")]
    pub(super) async fn settled(&self) {
        if let Some(quic) = &self.quic {
            quic.settled().await;
        }
    }

    /// Waits until nodes know of connections that were closed.
    #[cfg(not(feature = "quic"))]
    #[allow(clippy::unused_async, reason = "with quic it waits")]
    pub(super) async fn settled(&self) {}
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side").field("client", &self.client).finish_non_exhaustive()
    }
}

/// The etcd that knows a side's nodes.
#[cfg(feature = "etcd")]
fn etcd(
    place: &EtcdPlace,
    transports: Transports,
    settings: &SideSettings,
    of: &'static str,
) -> Result<Arc<dyn Discovery>, SideError> {
    let password = settings.etcd_password.as_ref().map(|password| &*password.0);
    let user = settings.etcd_user.as_deref().zip(password);
    let built = lookup::etcd_at(place, transports, user).build();
    Ok(Arc::new(built.map_err(|source| SideError::Etcd { of, source })?))
}

#[cfg(not(feature = "etcd"))]
fn etcd(
    place: &EtcdPlace,
    _: Transports,
    _: &SideSettings,
    of: &'static str,
) -> Result<Arc<dyn Discovery>, SideError> {
    Err(SideError::Place { of, source: PlaceError::NotBuilt(place.to_string()) })
}

#[cfg(any(feature = "tls", feature = "quic"))]
fn trust(settings: &SideSettings) -> Result<Option<ClientTrust>, TrustError> {
    let trust = match (&settings.tls_ca, &settings.tls_fingerprint) {
        (Some(authorities), _) => ClientTrust::authorities(Pem::file(authorities))?,
        (None, Some(text)) => ClientTrust::fingerprint(text.parse::<Fingerprint>()?)?,
        (None, None) => return Ok(None),
    };
    match (&settings.tls_certificate, &settings.tls_key) {
        (Some(certificate), Some(key)) => {
            trust.with_certificate(Pem::file(certificate), Pem::file(key)).map(Some)
        }
        _ => Ok(Some(trust)),
    }
}

/// How many addresses a side may name. A cluster of more has registries.
const ADDRESSES_MAX: usize = 256;

const TRUST_RULE: &str = "say by what it is trusted: tls_ca or tls_fingerprint of the same table";
