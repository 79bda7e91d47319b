//! Who may come in, and what they may do: the tables `[[tokens]]` and `[[identities]]`.

use std::{collections::HashSet, fmt, str::FromStr};

use ltq_core::{NAME_BYTES_MAX, Permissions, ProducerName, TOKEN_BYTES_MAX, TopicPattern};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

use super::{Config, ConfigError, listening};

/// A token and what it permits: one table `[[tokens]]`. Made by `ltq-node token`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    /// Whose it is, for logs: 1 to 64 of `[A-Za-z0-9._-]`.
    pub name: String,
    /// The SHA-256 of the token.
    pub sha256: TokenHash,
    /// Topics to publish to. Default: none.
    #[serde(default)]
    pub publish: Vec<TopicPattern>,
    /// Topics to consume from. Default: none.
    #[serde(default)]
    pub consume: Vec<TopicPattern>,
    /// Topics to administer; `*` is for the node's figures too. Default: none.
    #[serde(default)]
    pub administer: Vec<TopicPattern>,
}

/// An identity that a peer proves by its transport, and what it permits: one table
/// `[[identities]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySettings {
    /// As the transport says it: `uid:1000` of a user that comes over a Unix socket, say.
    pub identity: String,
    /// Topics to publish to. Default: none.
    #[serde(default)]
    pub publish: Vec<TopicPattern>,
    /// Topics to consume from. Default: none.
    #[serde(default)]
    pub consume: Vec<TopicPattern>,
    /// Topics to administer; `*` is for the node's figures too. Default: none.
    #[serde(default)]
    pub administer: Vec<TopicPattern>,
}

impl TokenSettings {
    /// What it permits.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        let Self { publish, consume, administer, .. } = self.clone();
        Permissions { publish, consume, administer }
    }
}

impl IdentitySettings {
    /// What it permits.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        let Self { publish, consume, administer, .. } = self.clone();
        Permissions { publish, consume, administer }
    }
}

/// The SHA-256 of a token, written as 64 hexadecimal digits.
///
/// A plain hash, not one made slow for passwords: a token is 256 bits of chance, of which no
/// dictionary holds any part and which nobody can try through, however fast a try is. A slow hash
/// would make nothing safer, and would be work that anybody could make the node do.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// Of this token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenHash {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            // Not shown: it may be the token itself, by mistake.
            "what was given is no SHA-256: write its 64 hexadecimal digits, as ltq-node token \
             prints them"
                .to_owned()
        };
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            if digits.starts_with('+') {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Checks the tokens and identities, each and together.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let bad = |key: &str, value: &str, rule: String| {
        let (key, value) = (key.to_owned(), value.to_owned());
        Err(ConfigError::Value { key, value, rule })
    };
    let mut hashes = HashSet::new();
    if let Some(token) = &config.token {
        if !(1..=TOKEN_BYTES_MAX).contains(&token.0.len()) {
            return bad("token", "what was given", "it must have 1 to 1,024 bytes".to_owned());
        }
        if token.0.len() < REACHED_TOKEN_BYTES_MIN && listening::is_reached(config) {
            let rule = format!(
                "others than this machine reach the node, and could guess it: at least \
                 {REACHED_TOKEN_BYTES_MIN} bytes, such as those that ltq-node token makes"
            );
            return bad("token", "what was given", rule);
        }
        hashes.insert(TokenHash::of(&token.0));
    }
    for (key, count) in [("tokens", config.tokens.len()), ("identities", config.identities.len())] {
        if count > GRANTS_MAX {
            return bad(key, &count.to_string(), format!("at most {GRANTS_MAX} of them"));
        }
    }
    let mut names = HashSet::new();
    for token in &config.tokens {
        // The rule for names of producers is the one for short plain names.
        if ProducerName::new(&token.name).is_err() {
            let rule = format!("1 to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-'");
            return bad("tokens.name", &token.name, rule);
        }
        if !names.insert(&token.name) {
            return bad("tokens.name", &token.name, "another token has that name".to_owned());
        }
        if !hashes.insert(token.sha256) {
            let rule = "another token has that hash; each is one token".to_owned();
            return bad("tokens.sha256", &token.sha256.to_string(), rule);
        }
    }
    let mut names = HashSet::new();
    for identity in &config.identities {
        let name = &identity.identity;
        if !(1..=IDENTITY_BYTES_MAX).contains(&name.len()) {
            let rule = format!("1 to {IDENTITY_BYTES_MAX} bytes");
            return bad("identities.identity", name, rule);
        }
        if !names.insert(name) {
            return bad("identities.identity", name, "it is there twice".to_owned());
        }
    }
    Ok(())
}

/// What nobody guesses who is not on this machine, and is turned away after some wrong ones, even if it is no chance.
const REACHED_TOKEN_BYTES_MIN: usize = 16;
/// More would be another kind of system; all tokens are compared at each hello.
const GRANTS_MAX: usize = 1_000;
const IDENTITY_BYTES_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard() {
        // The example of FIPS 180-2.
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(TokenHash::of("abc").to_string(), hash);
        assert_eq!(hash.to_uppercase().parse(), Ok(TokenHash::of("abc")));
        for bad in ["", "ba78", &format!("{hash}0"), &hash.replace('b', "x"), &"+1".repeat(32)] {
            let error = bad.parse::<TokenHash>().unwrap_err();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
    }
}
