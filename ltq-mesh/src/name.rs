//! What a program is called in a mesh.

use std::{borrow::Borrow, fmt, str::FromStr};

use ltq_core::{NameError, ProducerName};
use thiserror::Error;

/// The name of a program in a mesh: 1 to 64 of `[A-Za-z0-9._-]`. Cheap to clone.
///
/// What the program sends is counted in the inboxes of others under a name that begins so, which is why it
/// keeps the rule of [`ProducerName`].
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

    /// Under what an inbox counts the messages of one process of this name. Another process of the
    /// name is counted by itself, so that neither takes what the other has sent for its own.
    pub(crate) fn producer(&self, instance: u64) -> Result<ProducerName, NameError> {
        let name = self.as_str();
        let name = name.get(..PRODUCER_BYTES_MAX).unwrap_or(name);
        ProducerName::new(&format!("{name}.{instance:016x}"))
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

/// What a producer's name has of it, beside an instance of 16 digits and a dot.
const PRODUCER_BYTES_MAX: usize = 47;
/// What an error repeats of a text that is too long.
const TEXT_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_of_a_name_is_counted_by_itself_however_long_the_name() {
        for text in ["a".to_owned(), "x".repeat(64)] {
            let name = MeshName::new(&text).expect("a name");
            let [one, two] = [1, u64::MAX].map(|instance| name.producer(instance).expect("a name"));
            assert_ne!(one, two);
            assert!(one.as_str().starts_with(&text[..text.len().min(47)]), "{one}");
        }
    }

    #[test]
    fn a_text_that_is_no_name_is_told_with_its_rule() {
        let error = MeshName::new(&"y".repeat(1_000)).expect_err("too long").to_string();
        assert!(error.contains("1000 bytes") && error.len() < 300, "{error}");
    }
}
