//! Where a node listens: its transports, their certificates, and listeners that come back.

#[cfg(any(feature = "tls", feature = "quic"))]
mod dev_certificate;
mod figures;
mod reopened;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use ltq_core::{Address, TransportError};
#[cfg(feature = "quic")]
use ltq_transport::Quic;
#[cfg(feature = "tls")]
use ltq_transport::Tls;
#[cfg(any(feature = "tls", feature = "quic"))]
use ltq_transport::{Pem, ServerTrust};
use ltq_transport::{Tcp, Transports, Unix, UnixOptions};
use thiserror::Error;
#[cfg(any(feature = "tls", feature = "quic"))]
use tracing::info;

use crate::{config::Config, http::HttpListener};

#[cfg(any(feature = "tls", feature = "quic"))]
use dev_certificate::DevCertificate;
pub(crate) use figures::ListenFigures;
use reopened::ByTransport;
pub(crate) use reopened::{Opens, Reopened};

/// Why a node's certificates cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file does not hold what it should.
    #[cfg(any(feature = "tls", feature = "quic"))]
    #[error(transparent)]
    Trust(#[from] ltq_transport::TrustError),
    /// The one for development is damaged.
    #[cfg(any(feature = "tls", feature = "quic"))]
    #[error("{0}; remove the file and another one is made, with another fingerprint")]
    Kept(ltq_transport::TrustError),
    /// The one for development cannot be kept.
    #[error("keeping a certificate in {file} failed: {source}")]
    Keep {
        /// Where.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a node listens by.
#[derive(Debug)]
pub(crate) struct Wires {
    transports: Transports,
    #[cfg(any(feature = "tls", feature = "quic"))]
    dev: Option<DevCertificate>,
    retry: Duration,
    figures: Arc<ListenFigures>,
}

impl Wires {
    /// What the configuration asks for. It reads certificates, or makes the one for development, which
    /// [`keep`](Self::keep) keeps.
    pub(crate) fn new(config: &Config) -> Result<Self, CertificateError> {
        let unix = Unix::new(UnixOptions { mode: config.unix_mode.0, ..UnixOptions::default() });
        let transports = Transports::new().with(Tcp::default()).with(unix);
        #[cfg(any(feature = "tls", feature = "quic"))]
        let (trust, dev) = trust(config)?;
        #[cfg(feature = "tls")]
        let tls = match &trust {
            Some(trust) => Tls::new(config.tls_options()).serving(trust.clone()),
            None => Tls::new(config.tls_options()),
        };
        #[cfg(feature = "tls")]
        let transports = transports.with(tls.clone());
        #[cfg(feature = "quic")]
        let quic = match &trust {
            Some(trust) => Quic::new(config.quic_options()).serving(trust.clone()),
            None => Quic::new(config.quic_options()),
        };
        #[cfg(feature = "quic")]
        let transports = transports.with(quic.clone());
        let figures = ListenFigures {
            #[cfg(feature = "tls")]
            tls,
            #[cfg(feature = "quic")]
            quic,
            #[cfg(any(feature = "tls", feature = "quic"))]
            trust,
            ..ListenFigures::default()
        };
        Ok(Self {
            transports,
            #[cfg(any(feature = "tls", feature = "quic"))]
            dev,
            retry: config.listen_retry.0,
            figures: Arc::new(figures),
        })
    }

    /// Listens, and does so again when that ends by itself.
    pub(crate) async fn listen(&self, address: &Address) -> Result<Reopened, TransportError> {
        let transport = ByTransport(Arc::new(self.transports.clone()));
        let listener = Reopened::open(transport, address, self.retry, self.figures.clone()).await?;
        // One that nobody connects to has a figure, too.
        self.figures.count(listener.address().scheme(), 0);
        Ok(listener)
    }

    /// Listens for HTTP, and does so again when that ends by itself.
    pub(crate) async fn listen_http(&self, address: &str) -> io::Result<HttpListener> {
        HttpListener::bind(address, self.retry, self.figures.clone()).await
    }

    /// Keeps what was made, once the data directory is this node's.
    pub(crate) fn keep(&self) -> Result<(), CertificateError> {
        #[cfg(any(feature = "tls", feature = "quic"))]
        if let Some(dev) = &self.dev {
            dev.keep()?;
        }
        Ok(())
    }

    /// What listeners count.
    pub(crate) const fn figures(&self) -> &Arc<ListenFigures> {
        &self.figures
    }

    /// How a client is told, on the command line, to trust the certificate for development.
    #[cfg(any(feature = "tls", feature = "quic"))]
    pub(crate) fn dev_flag(&self) -> Option<String> {
        let dev = self.dev.as_ref()?;
        Some(format!("--tls-fingerprint {}", dev.fingerprint))
    }

    /// There is no certificate.
    #[cfg(not(any(feature = "tls", feature = "quic")))]
    pub(crate) const fn dev_flag(&self) -> Option<String> {
        None
    }

    /// Waits, for a second at most, until the peers of connections that were closed know of it.
    pub(crate) async fn settled(&self) {
        #[cfg(feature = "quic")]
        let _late = tokio::time::timeout(SETTLE_MAX, self.figures.quic.settled()).await;
    }
}

/// What the node proves, and what of it it made itself.
#[cfg(any(feature = "tls", feature = "quic"))]
fn trust(
    config: &Config,
) -> Result<(Option<ServerTrust>, Option<DevCertificate>), CertificateError> {
    let tls = &config.tls;
    let (certificate, key, dev) = match (&tls.certificate, &tls.key) {
        _ if config.dev_tls => {
            let dev = DevCertificate::of(&config.data_dir, &config.listen)?;
            (dev.pem.clone(), dev.pem.clone(), Some(dev))
        }
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (Pem::file(certificate), Pem::file(key));
            info!(?certificate, "a certificate is in use, and looked at again as handshakes come");
            (certificate, key, None)
        }
        _ => return Ok((None, None)),
    };
    let trust = match (&tls.client_authorities, &tls.client_revocations) {
        (None, _) => ServerTrust::new(certificate, key)?,
        (Some(authorities), None) => ServerTrust::mutual(certificate, key, Pem::file(authorities))?,
        (Some(authorities), Some(revocations)) => {
            let (authorities, revocations) = (Pem::file(authorities), Pem::file(revocations));
            ServerTrust::mutual_unless_revoked(certificate, key, authorities, revocations)?
        }
    };
    Ok((Some(trust), dev))
}

/// Some round trips around the earth; what a peer misses by it, it learns by its idle timeout.
#[cfg(feature = "quic")]
const SETTLE_MAX: Duration = Duration::from_secs(1);
