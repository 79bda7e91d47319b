//! How the node is drained: `[drain]`.

use std::{path::PathBuf, time::Duration};

use ltq_core::DrainOptions;
use ltq_discovery::StaticList;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError,
    settings::Config,
    units::{Period, Token},
};
use crate::peers::secure;

/// What becomes of the backlog of a node that is to end: the table `[drain]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainSettings {
    /// Whether SIGTERM and Ctrl-C drain the node before it stops; a second one stops it then. Default: false.
    pub on_signal: bool,
    /// How long a drain may take before the node stops with what is left, which it keeps. Default: 5 min.
    pub timeout: Period,
    /// The addresses of the nodes to which the backlog is forwarded. Default: none, so that consumers have
    /// to finish it.
    pub hand_over_to: Vec<String>,
    /// What those nodes are shown. Default: the node's own `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The file of the authorities by which nodes at `tls://` and `quic://` addresses are trusted, as PEM. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// The fingerprint of the certificate that they have. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<String>,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            on_signal: false,
            timeout: Period(Duration::from_secs(300)),
            hand_over_to: Vec::new(),
            token: None,
            tls_ca: None,
            tls_fingerprint: None,
        }
    }
}

impl Config {
    /// What nodes to which the backlog is handed over are shown.
    #[must_use]
    pub fn drain_token(&self) -> Option<&Token> {
        self.drain.token.as_ref().or(self.token.as_ref())
    }
}

/// Checks that the node can be drained as it is told.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let of = &config.drain;
    let bad = |key: &str, value: &str, rule: &str| {
        let (key, value, rule) = (key.to_owned(), value.to_owned(), rule.to_owned());
        Err(ConfigError::Value { key, value, rule })
    };
    if of.tls_ca.is_some() && of.tls_fingerprint.is_some() {
        let shown = of.tls_fingerprint.as_deref().unwrap_or_default();
        return bad("drain.tls_fingerprint", shown, "drain.tls_ca is there too; choose one");
    }
    if of.hand_over_to.is_empty() {
        return Ok(());
    }
    let shown = of.hand_over_to.join(", ");
    if let Err(error) = of.hand_over_to.join(",").parse::<StaticList>() {
        return bad("drain.hand_over_to", &shown, &error.to_string());
    }
    if of.hand_over_to.len() > DrainOptions::HAND_OVER_TO_MAX {
        let rule = format!("{} addresses at most", DrainOptions::HAND_OVER_TO_MAX);
        return bad("drain.hand_over_to", &shown, &rule);
    }
    for text in &of.hand_over_to {
        if text.len() > DrainOptions::ADDRESS_BYTES_MAX {
            let rule = format!("an address has {} bytes at most", DrainOptions::ADDRESS_BYTES_MAX);
            return bad("drain.hand_over_to", text, &rule);
        }
        if let Err(rule) = can_be_reached(text, of) {
            return bad("drain.hand_over_to", text, rule);
        }
    }
    Ok(())
}

/// Whether a node at this address can be handed a backlog, by what is set.
pub(crate) fn can_be_reached(text: &str, of: &DrainSettings) -> Result<(), &'static str> {
    match text.split_once("://").map_or("tcp", |(scheme, _)| scheme) {
        "tcp" | "unix" => Ok(()),
        scheme => match secure(scheme) {
            Some(true) if of.tls_ca.is_none() && of.tls_fingerprint.is_none() => {
                Err("say by what it is trusted: drain.tls_ca or drain.tls_fingerprint")
            }
            Some(true) => Ok(()),
            Some(false) => Err("this ltq-node was built without it"),
            None => Err(
                "a node is handed a backlog at tcp://HOST:PORT, tls://HOST:PORT, quic://HOST:PORT or \
                 unix:///PATH",
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_could_not_be_handed_over_is_refused() {
        type Change = fn(&mut DrainSettings);
        let config = |change: Change| {
            let mut config = Config::default();
            change(&mut config.drain);
            config
        };
        check(&config(|_| {})).unwrap();
        check(&config(|of| of.hand_over_to = vec!["tcp://n2:1".to_owned(), "n3:1".to_owned()]))
            .unwrap();
        check(&config(|of| {
            of.hand_over_to =
                ["quic://n2:1", "tls://n3:1", "unix:///run/n4"].map(str::to_owned).into();
            of.tls_fingerprint = Some("aa".to_owned());
        }))
        .unwrap();
        let cases: [(Change, &str); 5] = [
            (|of| of.hand_over_to = vec!["tcp://a:1".to_owned(); 2], "twice"),
            (|of| of.hand_over_to = vec!["http://a:1".to_owned()], "handed a backlog at"),
            (|of| of.hand_over_to = vec!["tls://a:1".to_owned()], "trusted"),
            (|of| of.hand_over_to = vec!["quic://a:1".to_owned()], "trusted"),
            (
                |of| {
                    of.tls_ca = Some(PathBuf::new());
                    of.tls_fingerprint = Some(String::new());
                },
                "choose one",
            ),
        ];
        for (change, why) in cases {
            let error = check(&config(change)).expect_err(why).to_string();
            assert!(error.contains(why), "{error} is not {why}");
        }
    }
}
