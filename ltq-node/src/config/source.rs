//! Where settings came from, so that they can be looked at again.

use std::{ffi::OsString, path::PathBuf};

use super::{
    Config, ConfigError,
    layers::{self, Settings},
};

/// The flags and variables of a process, by which its configuration is read, and read again when
/// the file has changed.
#[derive(Clone, Debug)]
pub struct ConfigSource<S: Settings = Config> {
    flags: S::Flags,
    variables: Vec<(OsString, OsString)>,
}

impl<S: Settings> ConfigSource<S> {
    /// Of these flags and variables, such as those of [`std::env::vars_os`].
    pub fn new(flags: S::Flags, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self { flags, variables: variables.into_iter().collect() }
    }

    /// Reads the configuration as it is now.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the setting at fault.
    pub fn load(&self) -> Result<S, ConfigError> {
        layers::load(&self.flags, self.variables.iter().cloned())
    }

    /// The file, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        let variable = layers::variable::<S>("config");
        let named = || {
            let (_, path) = self.variables.iter().find(|(name, _)| *name == *variable)?;
            Some(path.into())
        };
        S::file(&self.flags).map(Into::into).or_else(named)
    }
}

/// The settings that differ and that a running process does not take over: all but tokens and
/// identities.
pub(crate) fn fixed_differences<S: Settings>(before: &S, after: &S) -> Vec<String> {
    let differs = |key: &String| {
        !CHANGEABLE.contains(&key.as_str())
            && layers::shown(before, key) != layers::shown(after, key)
    };
    layers::known_keys::<S>().into_iter().filter(differs).collect()
}

/// What a running process takes over when its file changes.
const CHANGEABLE: [&str; 3] = ["token", "tokens", "identities"];
