//! How a node reaches registries and other nodes.

use std::path::Path;

#[cfg(feature = "quic")]
use ltq_transport::Quic;
#[cfg(feature = "tls")]
use ltq_transport::Tls;
#[cfg(any(feature = "tls", feature = "quic"))]
use ltq_transport::{ClientTrust, Fingerprint, Pem, TrustError};
use ltq_transport::{Tcp, Transports, Unix};
use thiserror::Error;

/// Why they cannot be reached as is set.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PeersError {
    /// Whom to trust at `tls://` and `quic://` addresses cannot be read.
    #[cfg(any(feature = "tls", feature = "quic"))]
    #[error("trusting others: {0}")]
    Trust(#[from] TrustError),
}

/// By what others are trusted, and by what they may trust the node.
#[derive(Clone, Copy, Default)]
#[cfg_attr(
    not(any(feature = "tls", feature = "quic")),
    allow(dead_code, reason = "it is for TLS and QUIC alone")
)]
pub(crate) struct Proof<'a> {
    pub(crate) tls_ca: Option<&'a Path>,
    pub(crate) tls_fingerprint: Option<&'a str>,
    /// With its key.
    pub(crate) certificate: Option<(&'a Path, &'a Path)>,
    /// Those who are reached are none of LTQ's.
    pub(crate) is_foreign: bool,
}

/// How others are reached, and what is to be waited for before the process ends.
#[derive(Clone, Debug)]
pub(crate) struct Ways {
    pub(crate) transports: Transports,
    #[cfg(feature = "quic")]
    quic: Option<Quic>,
}

impl Proof<'_> {
    /// TCP, Unix sockets, and TLS and QUIC where it is said who is trusted.
    pub(crate) fn ways(self) -> Result<Ways, PeersError> {
        let transports = Transports::new().with(Tcp::default()).with(Unix::default());
        #[cfg(any(feature = "tls", feature = "quic"))]
        if let Some(trust) = self.trust()? {
            #[cfg(feature = "tls")]
            let transports = {
                let tls = Tls::default().trusting(trust.clone());
                transports.with(if self.is_foreign { tls.without_protocol() } else { tls })
            };
            #[cfg(feature = "quic")]
            if !self.is_foreign {
                let quic = Quic::default().trusting(trust);
                let transports = transports.with(quic.clone());
                return Ok(Ways { transports, quic: Some(quic) });
            }
            return Ok(Ways::of(transports));
        }
        Ok(Ways::of(transports))
    }

    #[cfg(any(feature = "tls", feature = "quic"))]
    fn trust(&self) -> Result<Option<ClientTrust>, PeersError> {
        let trust = match (self.tls_ca, self.tls_fingerprint) {
            (Some(authorities), _) => ClientTrust::authorities(Pem::file(authorities))?,
            (None, Some(text)) => ClientTrust::fingerprint(text.parse::<Fingerprint>()?)?,
            (None, None) => return Ok(None),
        };
        Ok(Some(match self.certificate {
            Some((certificate, key)) => {
                trust.with_certificate(Pem::file(certificate), Pem::file(key))?
            }
            None => trust,
        }))
    }
}

impl Ways {
    const fn of(transports: Transports) -> Self {
        Self {
            transports,
            #[cfg(feature = "quic")]
            quic: None,
        }
    }

    /// Waits until those at `quic://` addresses know of connections that were closed. It waits for connections
    /// that are in use, too: the caller sets a deadline.
    #[cfg_attr(not(feature = "quic"), allow(clippy::unused_async, reason = "with quic it waits"))]
    pub(crate) async fn settled(&self) {
        #[cfg(feature = "quic")]
        if let Some(quic) = &self.quic {
            quic.settled().await;
        }
    }
}

/// Whether this program has the transport of a secure scheme, which asks for trust. `None` for another scheme.
pub(crate) fn secure(scheme: &str) -> Option<bool> {
    match scheme {
        "tls" => Some(cfg!(feature = "tls")),
        "quic" => Some(cfg!(feature = "quic")),
        _ => None,
    }
}
