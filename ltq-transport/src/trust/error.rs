//! What can be wrong with certificates and keys.

use std::io;

use thiserror::Error;

/// Why certificates or keys cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A file could not be read.
    #[error("reading {file} failed: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A file or text holds more than any certificates or keys need.
    #[error("{place} holds more than {max} bytes")]
    TooLarge {
        /// The file, or what the text is.
        place: String,
        /// The limit.
        max: u64,
    },
    /// A file or text does not hold what it should.
    #[error("{place} holds no {what} that can be used: {why}")]
    Malformed {
        /// The file, or what the text is.
        place: String,
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Each by itself can be read, but not used together: the key is not the certificate's, say.
    #[error("the certificate and key of {place} cannot be used: {why}")]
    Unusable {
        /// Where the certificate is from.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A text that is no fingerprint.
    #[error("{0:?} is no fingerprint; it looks like sha256: and 64 hexadecimal digits")]
    Fingerprint(String),
    /// A name that cannot stand in a certificate.
    #[error("no certificate can be made for {name:?}: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}
