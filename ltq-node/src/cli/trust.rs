//! Whom the command line trusts at `tls://` and `quic://` addresses, and what it proves.

use std::{collections::BTreeSet, path::PathBuf};
#[cfg(feature = "quic")]
use std::{sync::Arc, time::Duration};

use clap::Args;
#[cfg(feature = "tls")]
use ltq_transport::Tls;
use ltq_transport::{ClientTrust, Fingerprint, Pem, Tcp, Transports, TrustError, Unix};
#[cfg(feature = "quic")]
use ltq_transport::{Quic, QuicOptions};

#[cfg(feature = "quic")]
use parking_lot::Mutex;

use super::CliError;
#[cfg(feature = "quic")]
use crate::config::CongestionChoice;

/// Whom to trust, and what to prove, at `tls://` and `quic://` addresses.
#[derive(Clone, Debug, Args)]
pub struct TlsArgs {
    /// Trusts the node at a tls:// or quic:// address if one of the authorities in this PEM file has
    /// signed its certificate for the host that the address names.
    #[arg(
        id = "tls_ca",
        long = "tls-ca",
        global = true,
        help_heading = "Connection",
        value_name = "FILE",
        env = "LTQ_TLS_CA"
    )]
    pub authorities: Option<PathBuf>,
    /// Trusts the node whose certificate has this SHA-256, as ltq-node --dev-tls prints it, whatever
    /// else stands in the certificate.
    #[arg(
        id = "tls_fingerprint",
        long = "tls-fingerprint",
        global = true,
        help_heading = "Connection",
        value_name = "HEX",
        env = "LTQ_TLS_FINGERPRINT"
    )]
    pub fingerprint: Option<String>,
    /// Proves who this is with the certificate in this PEM file, to nodes that ask for one.
    #[arg(
        id = "tls_cert",
        long = "tls-cert",
        global = true,
        help_heading = "Connection",
        value_name = "FILE",
        env = "LTQ_TLS_CLIENT_CERT"
    )]
    pub certificate: Option<PathBuf>,
    /// The key of that certificate is in this PEM file.
    #[arg(
        id = "tls_key",
        long = "tls-key",
        global = true,
        help_heading = "Connection",
        value_name = "FILE",
        env = "LTQ_TLS_CLIENT_KEY"
    )]
    pub key: Option<PathBuf>,
    /// By what this side of a quic:// connection judges how fast the path takes what it sends: bbr
    /// goes by what arrives, cubic by what is lost.
    #[cfg(feature = "quic")]
    #[arg(
        id = "quic_congestion",
        long = "quic-congestion",
        global = true,
        help_heading = "Connection",
        value_name = "CONTROL",
        env = "LTQ_QUIC_CONGESTION",
        default_value = "bbr"
    )]
    pub congestion: CongestionChoice,
    /// What connections were made by, to be waited for at the end.
    #[cfg(feature = "quic")]
    #[arg(skip)]
    used: Arc<Mutex<Vec<Quic>>>,
}

impl TlsArgs {
    /// What connects to these servers; `None` where none takes a certificate.
    ///
    /// # Errors
    /// [`CliError::Usage`] when nobody is trusted, or a file cannot be used.
    pub(crate) fn transports<'s>(
        &self,
        servers: impl Iterator<Item = &'s str>,
    ) -> Result<Option<Transports>, CliError> {
        let (mut schemes, mut transports) = (BTreeSet::new(), None);
        for server in servers {
            let Some((scheme, _)) = server.split_once("://") else { continue };
            if !schemes.insert(scheme) {
                continue;
            }
            // Those that need no word of the user may stand beside it.
            let plain = || Transports::new().with(Tcp::default()).with(Unix::default());
            match scheme {
                #[cfg(feature = "tls")]
                "tls" => {
                    let tls = Tls::default().trusting(self.trust(server)?);
                    transports = Some(transports.unwrap_or_else(plain).with(tls));
                }
                #[cfg(feature = "quic")]
                "quic" => {
                    let options = QuicOptions {
                        congestion: self.congestion.into(),
                        ..QuicOptions::default()
                    };
                    let quic = Quic::new(options).trusting(self.trust(server)?);
                    self.used.lock().push(quic.clone());
                    transports = Some(transports.unwrap_or_else(plain).with(quic));
                }
                _ => {}
            }
        }
        Ok(transports)
    }

    /// What connects to nodes at whatever addresses, as far as it is said whom to trust there.
    ///
    /// # Errors
    /// As for [`transports`](Self::transports).
    pub(crate) fn every_transport(&self) -> Result<Transports, CliError> {
        let says_whom = self.authorities.is_some() || self.fingerprint.is_some();
        let nodes = ["tls://node", "quic://node"].into_iter().filter(|_| says_whom);
        let plain = || Transports::new().with(Tcp::default()).with(Unix::default());
        Ok(self.transports(nodes)?.unwrap_or_else(plain))
    }

    /// What connects to a server that is none of LTQ's, by TCP or TLS.
    ///
    /// # Errors
    /// As for [`transports`](Self::transports).
    #[cfg(all(feature = "tls", feature = "etcd"))]
    pub(crate) fn foreign(&self, server: &str) -> Result<Transports, CliError> {
        let tls = Tls::default().trusting(self.trust(server)?).without_protocol();
        Ok(Transports::new().with(Tcp::default()).with(tls))
    }

    /// Waits, for a second at most, until nodes know of connections that were closed.
    #[cfg(feature = "quic")]
    pub(crate) async fn settled(&self) {
        let used = std::mem::take(&mut *self.used.lock());
        let all = async {
            for quic in used {
                quic.settled().await;
            }
        };
        let _late = tokio::time::timeout(Duration::from_secs(1), all).await;
    }

    fn trust(&self, server: &str) -> Result<ClientTrust, CliError> {
        let unusable = |error: TrustError| CliError::Usage(error.to_string());
        let trust = match (&self.authorities, &self.fingerprint) {
            (Some(authorities), None) => ClientTrust::authorities(Pem::file(authorities)),
            (None, Some(fingerprint)) => {
                fingerprint.parse::<Fingerprint>().and_then(ClientTrust::fingerprint)
            }
            (None, None) => {
                return Err(CliError::Usage(format!(
                    "it is not said whom to trust at {server}: name the file of the authority that \
                     signed its certificate with --tls-ca FILE, or the certificate itself with \
                     --tls-fingerprint HEX"
                )));
            }
            (Some(_), Some(_)) => {
                return Err(CliError::Usage(
                    "name either --tls-ca or --tls-fingerprint, not both (LTQ_TLS_CA and \
                     LTQ_TLS_FINGERPRINT count too)"
                        .to_owned(),
                ));
            }
        };
        let trust = trust.map_err(unusable)?;
        match (&self.certificate, &self.key) {
            (None, None) => Ok(trust),
            (Some(certificate), Some(key)) => {
                trust.with_certificate(Pem::file(certificate), Pem::file(key)).map_err(unusable)
            }
            _ => Err(CliError::Usage(
                "a certificate and its key go together: --tls-cert FILE --tls-key FILE".to_owned(),
            )),
        }
    }
}
