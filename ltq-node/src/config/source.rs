//! Where a configuration came from, so that it can be looked at again.

use std::{ffi::OsString, path::PathBuf};

use super::{Config, ConfigError, Flags, layers};

/// The flags and variables of a process, by which its configuration is read, and read again when
/// the file has changed.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    flags: Flags,
    variables: Vec<(OsString, OsString)>,
}

impl ConfigSource {
    /// Of these flags and variables, such as those of [`std::env::vars_os`].
    pub fn new(flags: Flags, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self { flags, variables: variables.into_iter().collect() }
    }

    /// Reads the configuration as it is now.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the setting at fault.
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.flags, self.variables.iter().cloned())
    }

    /// The file, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        let named = || {
            let (_, path) = self.variables.iter().find(|(name, _)| name == "LTQ_CONFIG")?;
            Some(path.into())
        };
        self.flags.config.clone().or_else(named)
    }
}

/// The settings that differ and that a running node does not take over: all but tokens and
/// identities.
pub(crate) fn fixed_differences(before: &Config, after: &Config) -> Vec<&'static str> {
    let differs = |key: &&'static str| {
        !CHANGEABLE.contains(key) && layers::shown(before, key) != layers::shown(after, key)
    };
    layers::known_keys().iter().map(String::as_str).filter(differs).collect()
}

/// What a running node takes over when its file changes.
const CHANGEABLE: [&str; 3] = ["token", "tokens", "identities"];
