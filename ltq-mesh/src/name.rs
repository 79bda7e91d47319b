//! What a program is called in a mesh.

use std::{borrow::Borrow, fmt, str::FromStr};

use ltq_core::{NameError, ProducerName};
use thiserror::Error;

/// The name of a program in a mesh: 1 to 64 of `[A-Za-z0-9._-]`. Cheap to clone.
///
/// It is also the name under which what the program sends is numbered in the inboxes of others, which is
/// why it keeps the rule of [`ProducerName`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MeshName(ProducerName);

/// A text that is no [`MeshName`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is no name in a mesh: {why}")]
pub struct MeshNameError {
    /// The text.
    pub text: String,
    /// Which rule it breaks.
    pub why: NameError,
}

impl MeshName {
    /// Checks `text` and makes a name of it.
    ///
    /// # Errors
    /// A [`MeshNameError`] that says which rule was broken.
    pub fn new(text: &str) -> Result<Self, MeshNameError> {
        match ProducerName::new(text) {
            Ok(name) => Ok(Self(name)),
            Err(why) => {
                // A text of any length ends up in logs.
                let text = text.chars().take(TEXT_CHARS_MAX).collect();
                Err(MeshNameError { text, why })
            }
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whose messages they are, in an inbox.
    pub(crate) const fn producer(&self) -> &ProducerName {
        &self.0
    }
}

impl fmt::Display for MeshName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for MeshName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for MeshName {
    type Err = MeshNameError;
    fn from_str(text: &str) -> Result<Self, MeshNameError> {
        Self::new(text)
    }
}

impl Borrow<str> for MeshName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for MeshName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for MeshName {
    fn eq(&self, text: &str) -> bool {
        self.as_str() == text
    }
}

impl PartialEq<&str> for MeshName {
    fn eq(&self, text: &&str) -> bool {
        self.as_str() == *text
    }
}

/// What an error repeats of a text that is too long.
const TEXT_CHARS_MAX: usize = 80;
