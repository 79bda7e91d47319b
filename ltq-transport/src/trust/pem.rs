//! Certificates and keys as PEM.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::PathBuf,
    time::SystemTime,
};

use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use super::TrustError;

/// Where certificates or a key are: PEM text, up to 1 MiB, in a file or at hand.
///
/// A file is read again when it changes, see [`ServerTrust`](super::ServerTrust).
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In this file.
    File(PathBuf),
    /// The text itself.
    Text(String),
}

impl Pem {
    /// In a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }

    /// The text itself.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn place(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Text(_) => "the text that was given".to_owned(),
        }
    }

    /// How the file looks from outside; `None` for a text, and where there is no file.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let Self::File(path) = self else { return None };
        let metadata = std::fs::metadata(path).ok()?;
        #[cfg(unix)]
        let number = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let number = 0;
        Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), number })
    }

    pub(super) fn read(&self) -> Result<Loaded, TrustError> {
        let too_large = || TrustError::TooLarge { place: self.place(), max: BYTES_MAX };
        let bytes = match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::File(path) => {
                let read = || -> io::Result<Vec<u8>> {
                    let mut bytes = Vec::new();
                    File::open(path)?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
                    Ok(bytes)
                };
                read().map_err(|source| TrustError::Read { file: self.place(), source })?
            }
        };
        if bytes.len() as u64 > BYTES_MAX {
            return Err(too_large());
        }
        Ok(Loaded { place: self.place(), bytes })
    }
}

impl fmt::Debug for Pem {
    /// Without the text: it may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.debug_tuple("Text").finish_non_exhaustive(),
        }
    }
}

/// Two that differ are of different contents; the same one twice is almost surely of the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// Tells a file that was put in another's place within the clock's grain.
    number: u64,
}

/// What was read.
pub(super) struct Loaded {
    pub(super) place: String,
    bytes: Vec<u8>,
}

impl Loaded {
    /// All certificates, at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TrustError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match found {
            Ok(found) if found.is_empty() => {
                Err(self.malformed("certificate", &pem::Error::NoItemsFound))
            }
            Ok(found) => Ok(found),
            Err(error) => Err(self.malformed("certificate", &error)),
        }
    }

    /// All lists of revoked certificates, at least one.
    pub(super) fn revocations(
        &self,
    ) -> Result<Vec<CertificateRevocationListDer<'static>>, TrustError> {
        let found: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(&self.bytes).collect();
        match found {
            Ok(found) if found.is_empty() => {
                Err(self.malformed(REVOCATIONS, &pem::Error::NoItemsFound))
            }
            Ok(found) => Ok(found),
            Err(error) => Err(self.malformed(REVOCATIONS, &error)),
        }
    }

    /// The first private key.
    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, TrustError> {
        PrivateKeyDer::from_pem_slice(&self.bytes)
            .map_err(|error| self.malformed("private key", &error))
    }

    pub(super) fn malformed(&self, what: &'static str, why: &dyn fmt::Display) -> TrustError {
        TrustError::Malformed { place: self.place.clone(), what, why: why.to_string() }
    }
}

/// What a list of revoked certificates is called where it is of no use.
pub(super) const REVOCATIONS: &str = "list of revoked certificates";
/// A thousand certificates fit.
const BYTES_MAX: u64 = 1 << 20;
