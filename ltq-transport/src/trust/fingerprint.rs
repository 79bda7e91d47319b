//! The name of one certificate.

use std::{fmt, str::FromStr};

use rustls::pki_types::CertificateDer;

use super::{Pem, TrustError};

/// The SHA-256 of a certificate (of its DER form): names this one and no other.
///
/// It is written as `sha256:` and 64 hexadecimal digits; read with colons between them too, as
/// `openssl x509 -fingerprint -sha256` prints it, and without the prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of the first certificate in a file or text.
    ///
    /// # Errors
    /// [`TrustError`] when there is none.
    pub fn of(certificate: &Pem) -> Result<Self, TrustError> {
        let loaded = certificate.read()?;
        let certificates = loaded.certificates()?;
        let first = certificates.first();
        first.map(Self::of_der).ok_or_else(|| loaded.malformed("certificate", &"it is empty"))
    }

    pub(crate) fn of_der(certificate: &CertificateDer<'_>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        let mut bytes = [0; 32];
        for (byte, of_digest) in bytes.iter_mut().zip(digest.as_ref()) {
            *byte = *of_digest;
        }
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Self, TrustError> {
        let wrong = || TrustError::Fingerprint(text.chars().take(100).collect());
        let digits = text.strip_prefix(PREFIX).unwrap_or(text);
        let mut nibbles = digits.chars().filter(|c| *c != ':').map(|c| c.to_digit(16));
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            let (Some(Some(high)), Some(Some(low))) = (nibbles.next(), nibbles.next()) else {
                return Err(wrong());
            };
            *byte = u8::try_from(high << 4 | low).map_err(|_| wrong())?;
        }
        if nibbles.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

pub(super) const PREFIX: &str = "sha256:";
