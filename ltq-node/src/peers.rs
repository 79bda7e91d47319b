//! How a node reaches registries and other nodes.

use std::path::Path;

#[cfg(feature = "tls")]
use ltq_transport::{ClientTrust, Fingerprint, Pem, Tls, TrustError};
use ltq_transport::{Tcp, Transports, Unix};
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
    let proof = Proof { tls_ca, tls_fingerprint, ..Proof::default() };
    proof.transports()
}

/// By what others are trusted, and by what they may trust the node.
#[derive(Clone, Copy, Default)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "it is for TLS alone"))]
pub(crate) struct Proof<'a> {
    pub(crate) tls_ca: Option<&'a Path>,
    pub(crate) tls_fingerprint: Option<&'a str>,
    /// With its key.
    pub(crate) certificate: Option<(&'a Path, &'a Path)>,
    /// Those who are reached are none of LTQ's.
    pub(crate) is_foreign: bool,
}

impl Proof<'_> {
    /// TCP, Unix sockets, and TLS where it is said who is trusted.
    pub(crate) fn transports(self) -> Result<Transports, PeersError> {
        let transports = Transports::new().with(Tcp::default()).with(Unix::default());
        #[cfg(feature = "tls")]
        {
            let trust = match (self.tls_ca, self.tls_fingerprint) {
                (Some(authorities), _) => Some(ClientTrust::authorities(Pem::file(authorities))?),
                (None, Some(text)) => Some(ClientTrust::fingerprint(text.parse::<Fingerprint>()?)?),
                (None, None) => None,
            };
            if let Some(mut trust) = trust {
                if let Some((certificate, key)) = self.certificate {
                    trust = trust.with_certificate(Pem::file(certificate), Pem::file(key))?;
                }
                let tls = Tls::default().trusting(trust);
                let tls = if self.is_foreign { tls.without_protocol() } else { tls };
                return Ok(transports.with(tls));
            }
        }
        Ok(transports)
    }
}
