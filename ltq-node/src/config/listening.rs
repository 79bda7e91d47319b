//! Where a node listens, and what it proves there: `listen`, `dev_tls`, `[tls]` and `[quic]`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ltq_core::Address;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError,
    choice::CongestionChoice,
    settings::Config,
    units::{ByteSize, Period},
};

/// Certificates, for `tls://` and `quic://` addresses: the table `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// The file of the certificate, with those that lead to its authority behind it, as PEM.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The file of its key, as PEM. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The file of the authorities one of which has to have signed the certificate that each client
    /// brings, as PEM. Default: none, and clients bring no certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_authorities: Option<PathBuf>,
    /// The file of the lists of certificates that those authorities have revoked, as PEM. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_revocations: Option<PathBuf>,
    /// How long a client's handshake may take, over TLS and over QUIC. Default: 5 s.
    pub handshake_timeout: Period,
    /// How many handshakes each `tls://` and `quic://` address has under way at a time. Default: 256.
    pub handshakes_max: usize,
    /// How many of them one address has. Default: a quarter of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes_per_address_max: Option<usize>,
}

/// Connections over QUIC: the table `[quic]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuicSettings {
    /// After how long a silence a connection is lost; the client's own counts where it is shorter.
    /// Default: 15 s.
    pub idle_timeout: Period,
    /// How often the node shows that it is there on a connection that has nothing to say. Default: 4 s, and
    /// a third of `idle_timeout` where that is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<Period>,
    /// What a stream takes in before it is read. Default: 1 MiB.
    pub stream_window: ByteSize,
    /// What all streams of a connection take in before they are read. Default: 16 MiB.
    pub connection_window: ByteSize,
    /// What a connection may have sent and not been acknowledged. Default: 16 MiB.
    pub send_window: ByteSize,
    /// What the windows of all connections come to. Default: 512 MiB.
    pub windows_bytes_max: ByteSize,
    /// What of it one address has. Default: a quarter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows_bytes_per_address_max: Option<ByteSize>,
    /// By what the node judges how fast the path takes what it sends. Default: BBR.
    pub congestion: CongestionChoice,
    /// Whether the kernel cuts up what is sent into packets, where it can. Default: yes.
    pub segmentation_offload: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        let handshake_timeout = Period(Duration::from_secs(5));
        Self {
            certificate: None,
            key: None,
            client_authorities: None,
            client_revocations: None,
            handshake_timeout,
            handshakes_max: 256,
            handshakes_per_address_max: None,
        }
    }
}

impl Default for QuicSettings {
    fn default() -> Self {
        Self {
            idle_timeout: Period(Duration::from_secs(15)),
            keep_alive: None,
            stream_window: ByteSize(1 << 20),
            connection_window: ByteSize(16 << 20),
            send_window: ByteSize(16 << 20),
            windows_bytes_max: ByteSize(512 << 20),
            windows_bytes_per_address_max: None,
            congestion: CongestionChoice::Bbr,
            segmentation_offload: true,
        }
    }
}

impl Config {
    /// What of this is for connections over TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls_options(&self) -> ltq_transport::TlsOptions {
        ltq_transport::TlsOptions {
            handshake_timeout: self.tls.handshake_timeout.0,
            handshakes_max: self.tls.handshakes_max,
            handshakes_per_address_max: self.tls.handshakes_per_address_max,
            handshakes_per_second_max: self.limits.connections_per_second_max,
            addresses_known_max: self.limits.addresses_known_max,
            exempt_addresses: self.limits.exempt_addresses.networks(),
            ..ltq_transport::TlsOptions::default()
        }
    }

    /// What of this is for connections over QUIC.
    #[cfg(feature = "quic")]
    #[must_use]
    pub fn quic_options(&self) -> ltq_transport::QuicOptions {
        let window = |size: ByteSize| u32::try_from(size.0).unwrap_or(u32::MAX);
        let streams = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let usual = ltq_transport::QuicOptions::default();
        let idle_timeout = self.quic.idle_timeout.0;
        ltq_transport::QuicOptions {
            idle_timeout,
            // Some may be lost before the connection is.
            keep_alive: match self.quic.keep_alive {
                Some(pause) => Some(pause.0),
                None => usual.keep_alive.map(|pause| pause.min(idle_timeout / 3)),
            },
            // The broker would take in no more at once.
            streams_max: streams(self.limits.streams_max),
            unwelcomed_streams_max: streams(self.limits.unknown_streams_max),
            unaccepted_streams_max: usual.unaccepted_streams_max,
            stream_window: window(self.quic.stream_window),
            connection_window: window(self.quic.connection_window),
            send_window: window(self.quic.send_window),
            windows_bytes_max: self.quic.windows_bytes_max.0,
            windows_bytes_per_address_max: self.quic.windows_bytes_per_address_max.map(|it| it.0),
            congestion: self.quic.congestion.into(),
            segmentation_offload: self.quic.segmentation_offload,
            handshake_timeout: self.tls.handshake_timeout.0,
            handshakes_max: self.tls.handshakes_max,
            handshakes_per_address_max: self.tls.handshakes_per_address_max,
            handshakes_per_second_max: self.limits.connections_per_second_max,
            addresses_known_max: self.limits.addresses_known_max,
            exempt_addresses: self.limits.exempt_addresses.networks(),
        }
    }

    /// The addresses that take a certificate.
    fn secure(&self) -> impl Iterator<Item = &String> {
        let secure = |text: &&String| text.starts_with("tls://") || text.starts_with("quic://");
        self.listen.iter().filter(secure)
    }
}

/// Checks each address, and that those that take a certificate have one.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    if config.listen.is_empty() {
        let rule = "name at least one address, such as \"tcp://127.0.0.1:7440\"";
        return bad("listen", "[]", rule);
    }
    for text in &config.listen {
        let address: Address = match text.parse() {
            Ok(address) => address,
            Err(error) => return bad("listen", text, &error.to_string()),
        };
        match address.scheme() {
            "tcp" => check_host_port(config, "listen", text, address.rest())?,
            "tls" if cfg!(feature = "tls") => {
                check_host_port(config, "listen", text, address.rest())?;
            }
            "quic" if cfg!(feature = "quic") => {
                check_host_port(config, "listen", text, address.rest())?;
            }
            scheme @ ("tls" | "quic") => {
                let rule = format!(
                    "this ltq-node was built without it; build one with the feature {scheme}"
                );
                return bad("listen", text, &rule);
            }
            "unix" if address.rest().starts_with('/') => check_unix(config)?,
            _ => {
                let rule = "this node listens on tcp://HOST:PORT, tls://HOST:PORT, \
                            quic://HOST:PORT, and on unix:///PATH with a path from the root";
                return bad("listen", text, rule);
            }
        }
    }
    check_certificate(config)
}

/// A socket's file keeps out everybody but the user that the node runs as, unless it is told otherwise.
fn check_unix(config: &Config) -> Result<(), ConfigError> {
    let mode = config.unix_mode;
    if mode.is_shared() && !config.authenticates() && !config.allow_unauthenticated {
        return bad(
            "unix_mode",
            &mode.to_string(),
            "without a token or identities every user whom it lets connect could read and publish; \
             name them in [[identities]], leave it at 600, or say allow_unauthenticated = true",
        );
    }
    Ok(())
}

fn check_certificate(config: &Config) -> Result<(), ConfigError> {
    let secure = config.secure().next();
    let shown = |path: &PathBuf| path.display().to_string();
    match (&config.tls.certificate, &config.tls.key, config.dev_tls, secure) {
        (None, None, true, None) => {
            bad("dev_tls", "true", "listen names no tls:// or quic:// address that would use it")
        }
        (certificate, key, true, _) if certificate.is_some() || key.is_some() => {
            bad("dev_tls", "true", "tls.certificate is there already; leave one of them out")
        }
        (None, None, false, Some(address)) => bad(
            "listen",
            address,
            "it takes a certificate: name one with tls.certificate and tls.key \
             (--tls-certificate FILE --tls-key FILE), or have one made for development (--dev-tls)",
        ),
        (Some(certificate), None, _, Some(_)) => {
            bad("tls.certificate", &shown(certificate), "it takes its key, tls.key, too")
        }
        (None, Some(key), _, Some(_)) => {
            bad("tls.key", &shown(key), "it takes its certificate, tls.certificate, too")
        }
        (.., Some(_)) => check_revocations(&config.tls),
        _ => Ok(()),
    }
}

fn check_revocations(tls: &TlsSettings) -> Result<(), ConfigError> {
    match (&tls.client_authorities, &tls.client_revocations) {
        (None, Some(lists)) => bad(
            "tls.client_revocations",
            &lists.display().to_string(),
            "it takes the authorities that have revoked them, tls.client_authorities, too",
        ),
        _ => Ok(()),
    }
}

/// Checks that an address is `HOST:PORT`, and that it is not open to everyone by oversight.
pub(super) fn check_host_port(
    config: &Config,
    key: &str,
    text: &str,
    rest: &str,
) -> Result<(), ConfigError> {
    let Some((host, port)) = rest.rsplit_once(':') else {
        return bad(key, text, "write it as HOST:PORT, such as 127.0.0.1:7441");
    };
    if port.parse::<u16>().is_err() {
        return bad(key, text, "the port is a number from 0 (any free one) to 65535");
    }
    if host.is_empty() {
        let rule = "name the host; 127.0.0.1 is this machine only, 0.0.0.0 is every interface";
        return bad(key, text, rule);
    }
    if !config.authenticates() && !config.allow_unauthenticated && !is_loopback(host) {
        return bad(
            key,
            text,
            "without a token everyone who reaches it could read and publish; make one with \
             ltq-node token, listen on 127.0.0.1, or say allow_unauthenticated = true",
        );
    }
    Ok(())
}

fn bad(key: &str, value: &str, rule: &str) -> Result<(), ConfigError> {
    let (key, value, rule) = (key.to_owned(), value.to_owned(), rule.to_owned());
    Err(ConfigError::Value { key, value, rule })
}

/// Whether others than this machine reach it, by whatever it listens on.
pub(super) fn is_reached(config: &Config) -> bool {
    let mut listening = config.listen.iter().map(|text| text.as_str()).chain(config.http_address());
    listening.any(is_far)
}

impl Config {
    /// Where tokens come in that others could read on their way: neither encrypted nor of this machine only.
    #[must_use]
    pub fn bare_for_tokens(&self) -> Vec<String> {
        if self.token.is_none() && self.tokens.is_empty() {
            return Vec::new();
        }
        let listen = self.listen.iter().filter(|text| text.starts_with("tcp://")).cloned();
        let http = self.http_address().map(|address| format!("http://{address}"));
        listen.chain(http).filter(|text| is_far(text)).collect()
    }

    /// Says so, once for each.
    pub(crate) fn warn_of_bare_tokens(&self) {
        for address in self.bare_for_tokens() {
            tracing::warn!(
                address,
                "tokens come in there unencrypted, for whoever is on the way to read: listen on tls:// or quic:// \
                 instead, or where only this machine or a proxy that encrypts gets"
            );
        }
    }
}

/// Whether others than this machine get to an address, with a scheme or without.
fn is_far(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    !text.starts_with("unix:") && rest.rsplit_once(':').is_some_and(|(host, _)| !is_loopback(host))
}

/// Whether only this machine can reach the host. A name other than `localhost` may mean anything.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
