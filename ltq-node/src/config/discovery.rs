//! Where a node announces itself, and as what: `registry`, `advertise` and `[discovery]`.

use std::path::PathBuf;

use ltq_core::Address;
use ltq_discovery::NodeId;
use serde::{Deserialize, Serialize};

use super::{ConfigError, settings::Config, units::Token};
use crate::{
    lookup::{self, Place, PlaceError},
    peers::secure,
};

/// How registries are talked to: the table `[discovery]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoverySettings {
    /// What registries are shown. Default: the node's own `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The file of the authorities by which registries at `tls://` and `quic://` addresses are trusted, as PEM. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// The fingerprint of the certificate that they have. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<String>,
    /// The file of the certificate by which the node proves who it is to them, as PEM. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// The file of its key, as PEM. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// As whom it writes to an etcd. Default: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_user: Option<String>,
    /// That user's password. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_password: Option<Token>,
}

impl Config {
    /// What registries are shown.
    #[must_use]
    pub fn registry_token(&self) -> Option<&Token> {
        self.discovery.token.as_ref().or(self.token.as_ref())
    }

    /// As whom the node writes to an etcd, with which password.
    #[cfg(feature = "etcd")]
    pub(crate) fn etcd_user(&self) -> Option<(&str, &str)> {
        let of = &self.discovery;
        Some((of.etcd_user.as_deref()?, &*of.etcd_password.as_ref()?.0))
    }

    /// The addresses that the node is announced with: those that it is told, or else where it listens.
    #[must_use]
    pub fn advertised(&self, listening: &[Address]) -> Vec<Address> {
        let told: Vec<_> = self.advertise.iter().filter_map(|text| text.parse().ok()).collect();
        if !told.is_empty() {
            return told;
        }
        listening.iter().filter(|address| address.scheme() != "unix").cloned().collect()
    }

    /// Which node it is to registries: its name, or where it has none of its own the first address that
    /// it is announced with.
    #[must_use]
    pub fn node_id(&self, advertised: &[Address]) -> Option<NodeId> {
        let name = match advertised.first() {
            Some(address) if self.node == Self::default().node => address.to_string(),
            _ => self.node.clone(),
        };
        NodeId::new(&name).ok()
    }
}

/// Checks that the node can be announced, if it is to be.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    for address in &config.advertise {
        if let Err(error) = address.parse::<Address>() {
            return bad("advertise", address, &error.to_string());
        }
    }
    if config.registry.is_empty() {
        return Ok(());
    }
    let place = match lookup::check(&config.registry) {
        Ok(place) => place,
        Err(why) => return bad("registry", &config.registry.join(", "), &why),
    };
    if let Place::Names(_) = place {
        let why = PlaceError::NotAnnounced(config.registry.join(", "));
        return bad("registry", &config.registry.join(", "), &why.to_string());
    }
    let of = &config.discovery;
    for text in &config.registry {
        let is_trusted = of.tls_ca.is_some() || of.tls_fingerprint.is_some();
        match text.split_once("://").map_or("tcp", |(scheme, _)| scheme) {
            "tcp" | "unix" | "etcd" => {}
            scheme => match secure(if scheme == "etcds" { "tls" } else { scheme }) {
                Some(true) if is_trusted => {}
                Some(true) => {
                    let rule = "say by what it is trusted: discovery.tls_ca or \
                                discovery.tls_fingerprint";
                    return bad("registry", text, rule);
                }
                Some(false) => return bad("registry", text, "this ltq-node was built without it"),
                None => {
                    return bad(
                        "registry",
                        text,
                        "a registry is at tcp://HOST:PORT, tls://HOST:PORT, quic://HOST:PORT or \
                         unix:///PATH, an etcd at etcd://HOST:PORT/PREFIX or \
                         etcds://HOST:PORT/PREFIX",
                    );
                }
            },
        }
    }
    check_proof(of, &place)?;
    if config.discovery.tls_ca.is_some() && config.discovery.tls_fingerprint.is_some() {
        let shown = config.discovery.tls_fingerprint.as_deref().unwrap_or_default();
        return bad(
            "discovery.tls_fingerprint",
            shown,
            "discovery.tls_ca is there too; choose one",
        );
    }
    match NodeId::new(&config.node) {
        Err(error) => return bad("node", &config.node, &error.to_string()),
        Ok(id) if id.program().is_some() => {
            return bad(
                "node",
                &config.node,
                "mesh:NAME/PROGRAM is a program of a mesh, and no broker",
            );
        }
        Ok(_) => {}
    }
    if !config.advertise.is_empty() {
        return Ok(());
    }
    let of_use = |text: &&String| !text.starts_with("unix://");
    if config.listen.iter().find(of_use).is_none() {
        let rule = "clients elsewhere cannot reach a Unix socket; name an address with advertise";
        return bad("registry", &config.registry.join(", "), rule);
    }
    for text in config.listen.iter().filter(of_use) {
        if is_everywhere(text) {
            let rule = "clients cannot connect to an address that stands for all of this machine; name \
                        the one by which they reach it with advertise (--advertise tcp://HOST:PORT)";
            return bad("listen", text, rule);
        }
    }
    Ok(())
}

/// Checks by what the node proves who it is.
fn check_proof(of: &DiscoverySettings, place: &Place) -> Result<(), ConfigError> {
    let shown = |path: &Option<PathBuf>| {
        path.as_ref().map_or_else(String::new, |path| path.display().to_string())
    };
    let together = "a certificate and its key go together";
    match (&of.tls_certificate, &of.tls_key) {
        (Some(_), None) => {
            return bad("discovery.tls_certificate", &shown(&of.tls_certificate), together);
        }
        (None, Some(_)) => return bad("discovery.tls_key", &shown(&of.tls_key), together),
        _ => {}
    }
    let user = of.etcd_user.as_deref().unwrap_or_default();
    if of.etcd_user.is_some() != of.etcd_password.is_some() {
        let rule = "a user and a password go together: discovery.etcd_user and \
                    discovery.etcd_password";
        return bad("discovery.etcd_user", user, rule);
    }
    if of.etcd_user.is_some() && *place == Place::Registries {
        let rule = "registries know no users, but tokens: discovery.token";
        return bad("discovery.etcd_user", user, rule);
    }
    Ok(())
}

/// Whether an address names no host, but all addresses of one.
fn is_everywhere(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified())
}

fn bad(key: &str, value: &str, rule: &str) -> Result<(), ConfigError> {
    let (key, value, rule) = (key.to_owned(), value.to_owned(), rule.to_owned());
    Err(ConfigError::Value { key, value, rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config { registry: vec!["tcp://r1:7450".to_owned()], ..Config::default() };
        change(&mut config);
        config
    }

    #[test]
    fn a_node_that_could_not_be_reached_or_told_apart_is_refused() {
        check(&config(|_| {})).unwrap();
        check(&config(|config| {
            config.registry = vec!["etcd://e:2379/shop".to_owned()];
            config.discovery.etcd_user = Some("ltq".to_owned());
            config.discovery.etcd_password = Some("secret".into());
        }))
        .unwrap();
        check(&config(|config| {
            config.registry = ["quic://r2:1", "tls://r3:1"].map(str::to_owned).into();
            config.discovery.tls_ca = Some("ca.pem".into());
        }))
        .unwrap();
        check(&Config { listen: vec!["tcp://0.0.0.0:1".to_owned()], ..Config::default() }).unwrap();
        let wide = |config: &mut Config| config.listen = vec!["tcp://[::]:7440".to_owned()];
        check(&config(|config| {
            wide(config);
            config.advertise = vec!["tcp://10.0.0.1:7440".to_owned()];
        }))
        .unwrap();
        for (bad, why) in [
            (config(wide), "stands for all of this machine"),
            (config(|c| c.listen = vec!["unix:///run/ltq".to_owned()]), "Unix socket"),
            (config(|c| c.node = "two words".to_owned()), "white space"),
            (config(|c| c.registry.push("tcp://r1:7450".to_owned())), "twice"),
            (config(|c| c.registry.push("http://r1".to_owned())), "a registry is at"),
            (config(|c| c.registry.push("tls://r2:1".to_owned())), "trusted"),
            (config(|c| c.registry.push("quic://r2:1".to_owned())), "trusted"),
            (config(|c| c.advertise = vec!["://".to_owned()]), "is no address"),
            (config(|c| c.registry.push("etcd://e:2379".to_owned())), "beside each other"),
            (config(|c| c.registry = vec!["etcds://e:1/x".to_owned()]), "trusted"),
            (config(|c| c.registry = vec!["etcd:///x".to_owned()]), "is no etcd"),
            (config(|c| c.registry = vec!["dns://n:1".to_owned()]), "for finding nodes"),
            (config(|c| c.discovery.tls_key = Some("key.pem".into())), "go together"),
            (config(|c| c.discovery.etcd_user = Some("ltq".to_owned())), "go together"),
            (
                config(|c| {
                    c.discovery.etcd_user = Some("ltq".to_owned());
                    c.discovery.etcd_password = Some("secret".into());
                }),
                "registries know no users",
            ),
        ] {
            let error = check(&bad).expect_err(why).to_string();
            assert!(error.contains(why), "{error} is not {why}");
        }
    }

    #[test]
    fn a_node_without_a_name_of_its_own_is_called_by_its_address() {
        let listening = ["unix:///run/ltq", "tcp://a:1", "tls://a:2"].map(|it| it.parse().unwrap());
        let plain = Config::default();
        let advertised = plain.advertised(&listening);
        assert_eq!(advertised, listening[1..]);
        assert_eq!(plain.node_id(&advertised).unwrap().as_str(), "tcp://a:1");
        let named = Config { node: "n1".to_owned(), ..Config::default() };
        assert_eq!(named.node_id(&advertised).unwrap().as_str(), "n1");
        let told = config(|config| config.advertise = vec!["tcp://b:9".to_owned()]);
        assert_eq!(told.advertised(&listening), ["tcp://b:9".parse().unwrap()]);
    }
}
