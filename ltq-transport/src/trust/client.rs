//! What a side that connects trusts and proves.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, OtherError,
    PeerIncompatible, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use thiserror::Error;

use super::{
    ALPN, Fingerprint, Pem, TrustError, VERSIONS, pem::Loaded, provider, reload::Reloaded,
    server::roots,
};

/// Which servers a client of TLS or QUIC trusts, and what it proves to them.
///
/// A server is trusted for an authority that has signed its certificate, or because its
/// certificate is a known one. There is no way to trust whoever comes, and what the operating
/// system trusts does not matter. Files are read again when they change, as for
/// [`ServerTrust`](super::ServerTrust).
///
/// Cheap to clone; clones are the same.
///
/// ```
/// # #[cfg(feature = "self-signed")] {
/// use ltq_transport::{ClientTrust, self_signed};
///
/// let development = self_signed(&["localhost"])?;
/// let trust = ClientTrust::fingerprint(development.fingerprint)?;
/// # let _ = trust; }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ClientTrust {
    made: Arc<Reloaded<Made>>,
    servers: Servers,
}

#[derive(Clone, Debug)]
enum Servers {
    SignedBy(Pem),
    Known(Fingerprint),
}

pub(crate) struct Made {
    #[cfg(feature = "tls")]
    pub(crate) tls: Arc<ClientConfig>,
    #[cfg(feature = "quic")]
    pub(crate) quic: Arc<quinn::crypto::rustls::QuicClientConfig>,
}

impl ClientTrust {
    /// Trusts servers whose certificate one of these authorities has signed for the host that the
    /// address names, and that has not expired.
    ///
    /// # Errors
    /// [`TrustError`] when they cannot be read or used.
    pub fn authorities(authorities: Pem) -> Result<Self, TrustError> {
        Self::of(Servers::SignedBy(authorities), None)
    }

    /// Trusts the one server that has this certificate and its key, whatever host, dates and
    /// authority stand in it: who names the fingerprint vouches for it.
    ///
    /// # Errors
    /// None that input could cause.
    pub fn fingerprint(fingerprint: Fingerprint) -> Result<Self, TrustError> {
        Self::of(Servers::Known(fingerprint), None)
    }

    /// Proves with this certificate who it is, to servers that ask
    /// ([`ServerTrust::mutual`](super::ServerTrust::mutual)).
    ///
    /// # Errors
    /// [`TrustError`] when they cannot be read or used.
    pub fn with_certificate(self, certificate: Pem, key: Pem) -> Result<Self, TrustError> {
        Self::of(self.servers, Some([certificate, key]))
    }

    fn of(servers: Servers, own: Option<[Pem; 2]>) -> Result<Self, TrustError> {
        let mut sources: Vec<_> = own.into_iter().flatten().collect();
        let own = !sources.is_empty();
        let known = match &servers {
            Servers::Known(fingerprint) => Some(*fingerprint),
            Servers::SignedBy(authorities) => {
                sources.push(authorities.clone());
                None
            }
        };
        let make = move |loaded: &[Loaded]| {
            let (own, authorities) = loaded.split_at(if own { 2 } else { 0 });
            make(own, authorities.first(), known)
        };
        let made = Arc::new(Reloaded::new(sources, Box::new(make))?);
        Ok(Self { made, servers })
    }

    pub(crate) fn newest(&self) -> Arc<Made> {
        self.made.newest()
    }

    /// Who a server proved to be that was connected to by this name.
    pub(crate) fn proved(&self, host: &str) -> String {
        match &self.servers {
            Servers::SignedBy(_) => host.to_owned(),
            Servers::Known(fingerprint) => fingerprint.to_string(),
        }
    }
}

impl fmt::Debug for ClientTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTrust").field("servers", &self.servers).finish_non_exhaustive()
    }
}

fn make(
    own: &[Loaded],
    authorities: Option<&Loaded>,
    known: Option<Fingerprint>,
) -> Result<Made, TrustError> {
    let place = own.first().or(authorities).map_or_else(String::new, |loaded| loaded.place.clone());
    let unusable = |error: &dyn fmt::Display| TrustError::Unusable {
        place: place.clone(),
        why: error.to_string(),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(|error| unusable(&error))?;
    let builder = match (authorities, known) {
        (Some(authorities), _) => builder.with_root_certificates(roots(authorities)?),
        (None, Some(known)) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { known, provider: provider() })),
        (None, None) => return Err(unusable(&"nobody is trusted")),
    };
    let mut config = match own {
        [certificate, key, ..] => builder
            .with_client_auth_cert(certificate.certificates()?, key.key()?)
            .map_err(|error| unusable(&error))?,
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    Ok(Made {
        #[cfg(feature = "quic")]
        quic: Arc::new(
            Arc::clone(&config)
                .try_into()
                .map_err(|error: quinn::crypto::rustls::NoInitialCipherSuite| unusable(&error))?,
        ),
        #[cfg(feature = "tls")]
        tls: config,
    })
}

/// A server has another certificate than the one that is trusted.
#[derive(Debug, Error)]
#[error("the server's certificate is {found}, and the one that is trusted {known}")]
struct AnotherCertificate {
    found: Fingerprint,
    known: Fingerprint,
}

/// Takes one certificate and no other. That the peer has its key is checked as ever.
#[derive(Debug)]
struct Pinned {
    known: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let found = Fingerprint::of_der(end_entity);
        if found == self.known {
            return Ok(ServerCertVerified::assertion());
        }
        let other = Arc::new(AnotherCertificate { found, known: self.known });
        Err(TlsError::InvalidCertificate(CertificateError::Other(OtherError(other))))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
