//! Certificates for development.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::{Fingerprint, TrustError};

/// A certificate that nobody but its holder vouches for, and its key. See [`self_signed`].
#[derive(Clone)]
pub struct SelfSigned {
    /// The certificate as PEM.
    pub certificate: String,
    /// Its key as PEM (PKCS #8). Whoever has it can pose as the server.
    pub key: String,
    /// What clients are given, so that they trust this one.
    pub fingerprint: Fingerprint,
}

impl fmt::Debug for SelfSigned {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprint = &self.fingerprint;
        f.debug_struct("SelfSigned").field("fingerprint", fingerprint).finish_non_exhaustive()
    }
}

/// Makes a certificate for these names (DNS names and IP addresses, at least one) and its key: for development,
/// and for few nodes whose clients know them by fingerprint. The key is new at each call (ECDSA on
/// P-256). The certificate does not expire within any time that matters: the fingerprint is
/// what is trusted, and it goes with the key.
///
/// ```
/// let development = ltq_transport::self_signed(&["localhost", "127.0.0.1"])?;
/// assert!(development.fingerprint.to_string().starts_with("sha256:"));
/// # Ok::<(), ltq_transport::TrustError>(())
/// ```
///
/// # Errors
/// [`TrustError::Name`] for a name that cannot stand in a certificate.
pub fn self_signed(names: &[&str]) -> Result<SelfSigned, TrustError> {
    let refused = |error: &dyn fmt::Display| TrustError::Name {
        name: names.join(", "),
        why: error.to_string(),
    };
    let first = names.first().ok_or_else(|| refused(&"it needs a name"))?;
    let all: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut asked = CertificateParams::new(all).map_err(|error| refused(&error))?;
    asked.distinguished_name = DistinguishedName::new();
    asked.distinguished_name.push(DnType::CommonName, *first);
    let key = KeyPair::generate().map_err(|error| refused(&error))?;
    let made = asked.self_signed(&key).map_err(|error| refused(&error))?;
    Ok(SelfSigned {
        certificate: made.pem(),
        key: key.serialize_pem(),
        fingerprint: Fingerprint::of_der(made.der()),
    })
}
