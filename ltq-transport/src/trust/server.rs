//! What a side that listens proves and asks for.

use std::{fmt, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
};

use super::{
    ALPN, Pem, TrustError, VERSIONS, dates,
    pem::{Loaded, REVOCATIONS},
    provider,
    reload::{Reloaded, Reloads},
};

/// What a listener of TLS or QUIC proves to its clients, and what it asks of them.
///
/// TLS 1.3 and nothing older. When one of the files changes, it is read again at the next
/// handshake, at most once a second; connections that are there stay as they are. What cannot be
/// used (a certificate whose key is not there yet, say) leaves the one before in use and is
/// logged. Nothing is resumed: each connection verifies certificates anew.
///
/// Cheap to clone; clones are the same.
///
/// ```
/// # #[cfg(feature = "self-signed")] {
/// use ltq_transport::{Pem, ServerTrust, self_signed};
///
/// let development = self_signed(&["localhost"])?;
/// let trust = ServerTrust::new(
///     Pem::text(development.certificate),
///     Pem::text(development.key),
/// )?;
/// # let _ = trust; }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ServerTrust {
    made: Arc<Reloaded<Made>>,
    mutual: bool,
}

pub(crate) struct Made {
    expires: Option<u64>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Arc<ServerConfig>,
    #[cfg(feature = "quic")]
    pub(crate) quic: Arc<quinn::crypto::rustls::QuicServerConfig>,
    /// What only the holder of the key can know, the same one after a restart.
    #[cfg(feature = "quic")]
    pub(crate) secret: [u8; 32],
}

impl ServerTrust {
    /// A certificate, with those that lead from it to its authority behind it, and its key (PKCS
    /// #8, SEC1 or PKCS #1). Any client may come, and proves nothing.
    ///
    /// # Errors
    /// [`TrustError`] when they cannot be read or used.
    pub fn new(certificate: Pem, key: Pem) -> Result<Self, TrustError> {
        Self::of(vec![certificate, key])
    }

    /// As [`new`](Self::new), and asks each client for a certificate that one of these authorities
    /// has signed: without one no connection comes about. Who the client is stands in
    /// [`Peer::identity`](ltq_core::Peer::identity): its subject's first common name, or else its
    /// first alternative name, or else the certificate's [`Fingerprint`](super::Fingerprint). A
    /// name is passed over that is longer than 256 bytes, holds control characters, or begins with
    /// `uid:` or `sha256:`, which are identities of other kinds.
    ///
    /// A client that is refused may learn of it only when it first receives.
    ///
    /// # Errors
    /// [`TrustError`] when they cannot be read or used.
    pub fn mutual(certificate: Pem, key: Pem, authorities: Pem) -> Result<Self, TrustError> {
        Self::of(vec![certificate, key, authorities])
    }

    /// As [`mutual`](Self::mutual), and refuses clients whose certificate, or one that leads from it to its
    /// authority, one of these lists (CRLs, as PEM) has revoked. There has to be a list of each authority that
    /// signs clients' certificates, those in between among them: of which there is none, no certificate counts.
    /// A list is good for as long as it is there, whenever it says that the next one comes. Like the others the
    /// file is read again when it changes; connections that are there stay.
    ///
    /// # Errors
    /// [`TrustError`] when they cannot be read or used.
    pub fn mutual_unless_revoked(
        certificate: Pem,
        key: Pem,
        authorities: Pem,
        revocations: Pem,
    ) -> Result<Self, TrustError> {
        Self::of(vec![certificate, key, authorities, revocations])
    }

    fn of(sources: Vec<Pem>) -> Result<Self, TrustError> {
        let mutual = sources.len() > 2;
        let made = Reloaded::new(sources, Box::new(make))?;
        Ok(Self { made: Arc::new(made), mutual })
    }

    /// How often its files had changed and were read again.
    #[must_use]
    pub fn reloads(&self) -> Reloads {
        self.made.reloads()
    }

    /// Until when the certificate is good that is in use, in seconds since 1970; `None` where it does
    /// not say that in a way that can be read. Of a chain it is the first one's, the server's own.
    #[must_use]
    pub fn expires(&self) -> Option<u64> {
        self.made.newest().expires
    }

    pub(crate) fn newest(&self) -> Arc<Made> {
        self.made.newest()
    }
}

impl fmt::Debug for ServerTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTrust").field("mutual", &self.mutual).finish_non_exhaustive()
    }
}

fn make(loaded: &[Loaded]) -> Result<Made, TrustError> {
    let (certificate, key, clients) = match loaded {
        [certificate, key] => (certificate, key, None),
        [certificate, key, authorities] => (certificate, key, Some((authorities, None))),
        [certificate, key, authorities, revocations, ..] => {
            (certificate, key, Some((authorities, Some(revocations))))
        }
        _ => return Err(TrustError::Unusable { place: String::new(), why: "none given".into() }),
    };
    let unusable = |error: &dyn fmt::Display| TrustError::Unusable {
        place: certificate.place.clone(),
        why: error.to_string(),
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(|error| unusable(&error))?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some((authorities, revocations)) => {
            let roots = Arc::new(roots(authorities)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = match revocations {
                None => verifier,
                Some(revocations) => verifier.with_crls(revocations.revocations()?),
            };
            let verifier = verifier.build().map_err(|error| match (&error, revocations) {
                (VerifierBuilderError::InvalidCrl(_), Some(it)) => {
                    it.malformed(REVOCATIONS, &error)
                }
                _ => authorities.malformed("authority", &error),
            })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key_der = key.key()?;
    #[cfg(feature = "quic")]
    let secret = {
        let mac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key_der.secret_der());
        let tag = ring::hmac::sign(&mac, b"ltq quic stateless reset");
        <[u8; 32]>::try_from(tag.as_ref()).map_err(|error| unusable(&error))?
    };
    let chain = certificate.certificates()?;
    let expires = chain.first().and_then(|first| dates::expires(first));
    let mut config = builder.with_single_cert(chain, key_der).map_err(|error| unusable(&error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // No tickets. A client that never reads them would reset the connection by closing it, and
    // take back what it had finished; and who was let in once would not be verified again.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    let config = Arc::new(config);
    Ok(Made {
        expires,
        #[cfg(feature = "quic")]
        quic: Arc::new(
            Arc::clone(&config)
                .try_into()
                .map_err(|error: quinn::crypto::rustls::NoInitialCipherSuite| unusable(&error))?,
        ),
        #[cfg(feature = "quic")]
        secret,
        #[cfg(feature = "tls")]
        tls: config,
    })
}

/// The authorities in a file, at least one.
pub(super) fn roots(authorities: &Loaded) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities.certificates()? {
        roots.add(certificate).map_err(|error| authorities.malformed("authority", &error))?;
    }
    Ok(roots)
}
