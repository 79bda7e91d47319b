//! How a node reaches registries and other nodes.

use std::path::Path;

#[cfg(feature = "tls")]
use ltq_transport::{ClientTrust, Fingerprint, Pem, Tls, TrustError};
use ltq_transport::{Tcp, Transports};
use thiserror::Error;

/// Why they cannot be reached as is set.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PeersError {
    /// Whom to trust at `tls://` addresses cannot be read.
    #[cfg(feature = "tls")]
    #[error("trusting others: {0}")]
    Trust(#[from] TrustError),
}

/// TCP, and TLS where it is said who is trusted.
pub(crate) fn transports(
    tls_ca: Option<&Path>,
    tls_fingerprint: Option<&str>,
) -> Result<Transports, PeersError> {
    let transports = Transports::new().with(Tcp::default());
    #[cfg(feature = "tls")]
    {
        let trust = match (tls_ca, tls_fingerprint) {
            (Some(authorities), _) => Some(ClientTrust::authorities(Pem::file(authorities))?),
            (None, Some(text)) => Some(ClientTrust::fingerprint(text.parse::<Fingerprint>()?)?),
            (None, None) => None,
        };
        if let Some(trust) = trust {
            return Ok(transports.with(Tls::default().trusting(trust)));
        }
    }
    #[cfg(not(feature = "tls"))]
    let _ = (tls_ca, tls_fingerprint);
    Ok(transports)
}
