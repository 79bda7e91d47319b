//! Where a node announces itself, and as what: `registry`, `advertise` and `[discovery]`.

use std::path::PathBuf;

use ltq_core::Address;
use ltq_discovery::{NodeId, StaticList};
use serde::{Deserialize, Serialize};

use super::{ConfigError, settings::Config, units::Token};

/// How registries are talked to: the table `[discovery]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoverySettings {
    /// What registries are shown. Default: the node's own `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The file of the authorities by which registries at `tls://` addresses are trusted, as PEM. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// The fingerprint of the certificate that they have. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<String>,
}

impl Config {
    /// What registries are shown.
    #[must_use]
    pub fn registry_token(&self) -> Option<&Token> {
        self.discovery.token.as_ref().or(self.token.as_ref())
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
    if let Err(error) = config.registry.join(",").parse::<StaticList>() {
        return bad("registry", &config.registry.join(", "), &error.to_string());
    }
    for text in &config.registry {
        match text.split_once("://").map_or("tcp", |(scheme, _)| scheme) {
            "tcp" => {}
            "tls" if cfg!(feature = "tls") => {
                let of = &config.discovery;
                if of.tls_ca.is_none() && of.tls_fingerprint.is_none() {
                    let rule = "say by what it is trusted: discovery.tls_ca or \
                                discovery.tls_fingerprint";
                    return bad("registry", text, rule);
                }
            }
            _ => {
                return bad(
                    "registry",
                    text,
                    "a registry is at tcp://HOST:PORT or tls://HOST:PORT",
                );
            }
        }
    }
    if config.discovery.tls_ca.is_some() && config.discovery.tls_fingerprint.is_some() {
        let shown = config.discovery.tls_fingerprint.as_deref().unwrap_or_default();
        return bad(
            "discovery.tls_fingerprint",
            shown,
            "discovery.tls_ca is there too; choose one",
        );
    }
    if let Err(error) = NodeId::new(&config.node) {
        return bad("node", &config.node, &error.to_string());
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
            (config(|c| c.advertise = vec!["://".to_owned()]), "is no address"),
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
