//! A node's configuration: defaults, then a TOML file, then `LTQ_*` variables, then flags.

mod choice;
mod discovery;
mod drain;
mod exempt;
mod flags;
mod grants;
mod keys;
pub(crate) mod layers;
mod limits;
mod listening;
mod ranges;
mod settings;
mod source;
mod suggest;
#[cfg(test)]
mod tests;
mod units;

use std::fmt::Write as _;

use thiserror::Error;

pub use choice::{
    CongestionChoice, DurabilityChoice, KeepChoice, LogFormat, LogLevel, StartChoice, StoreKind,
};
pub use discovery::DiscoverySettings;
pub use drain::DrainSettings;
pub(crate) use drain::can_be_reached;
pub use exempt::ExemptAddresses;
pub use flags::{Flags, Instead};
pub use grants::{IdentitySettings, TokenHash, TokenSettings};
pub use layers::Settings;
pub use limits::Limits;
pub use listening::{QuicSettings, TlsSettings};
pub(crate) use ranges::within;
pub use settings::{
    Config, Delivery, FileStoreSettings, HTTP_OFF, MemoryStoreSettings, RetentionSettings,
    RocksDbStoreSettings,
};
pub use source::ConfigSource;
pub(crate) use source::fixed_differences;
pub use units::{ByteSize, FileMode, Period, Token};

use layers::Layer;

/// Checks what nodes and registries have in common: where they listen, and whom they let in.
pub(crate) fn check_shared(config: &Config) -> Result<(), ConfigError> {
    listening::check(config)?;
    ranges::check_secure(config)?;
    if let Some(http) = config.http_address() {
        listening::check_host_port(config, "http", http, http)?;
    }
    grants::check(config)
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read: {cause}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's words.
        cause: String,
    },
    /// It is not TOML.
    #[error("{origin} is not TOML: {error}")]
    Syntax {
        /// The file.
        origin: String,
        /// What is wrong and where.
        error: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting {key:?}{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// Where it stands.
        origin: String,
        /// Its name.
        key: String,
        /// The setting with the most similar name.
        nearest: Option<String>,
    },
    /// There is no such variable.
    #[error("there is no variable {name}{}", did_you_mean(nearest.as_deref()))]
    UnknownVariable {
        /// Its name.
        name: String,
        /// The variable with the most similar name.
        nearest: Option<String>,
    },
    /// A variable is not text.
    #[error("the variable {name} is not valid UTF-8")]
    NotText {
        /// Its name.
        name: String,
    },
    /// A value is not of the kind that its setting takes.
    #[error("{origin}: {key}: {error}")]
    Unreadable {
        /// Where it stands.
        origin: String,
        /// The setting.
        key: String,
        /// What is wrong.
        error: String,
    },
    /// A setting below `[file_store]` is out of its range.
    #[error("file_store: {0}")]
    FileStore(String),
    /// A setting below `[rocksdb_store]` is out of its range.
    #[error("rocksdb_store: {0}")]
    RocksDbStore(String),
    /// A value is out of its range, or does not go with another.
    #[error("{key} cannot be {}: {rule}", if value.is_empty() { "empty" } else { value })]
    Value {
        /// The setting.
        key: String,
        /// Its value.
        value: String,
        /// The rule that it breaks, and the nearest value that does not.
        rule: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; the nearest is {nearest:?}"))
}

impl Config {
    /// Reads the configuration from all its sources: the flags' `--config` (or `LTQ_CONFIG` among
    /// `variables`), `variables` such as those of [`std::env::vars_os`], and `flags`.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the setting at fault.
    pub fn load(
        flags: &Flags,
        variables: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Self, ConfigError> {
        layers::load(flags, variables)
    }

    /// Reads the configuration from the text of a file alone. Errors call it `origin`.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the setting at fault, and shows no value of a line that is no TOML.
    pub fn from_text(origin: &str, text: &str) -> Result<Self, ConfigError> {
        let config: Self = layers::merge(&[Layer::from_text(origin, text)?])?;
        config.check()?;
        Ok(config)
    }

    /// The configuration as a TOML file that says the same. Of `tokens` there are only hashes. The
    /// plain `token` and those for registries and other nodes are left out, since what is
    /// printed is easily passed on; a line says whether there is one.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::from("# The effective configuration of ltq-node.\n");
        if self.token.is_some() {
            text.push_str("# A token is set; it is not shown here.\n");
        }
        let durability = match self.durability() {
            ltq_core::Durability::Disk => DurabilityChoice::Disk,
            ltq_core::Durability::Os => DurabilityChoice::Os,
            ltq_core::Durability::Memory => DurabilityChoice::Memory,
        };
        let discovery = DiscoverySettings { token: None, ..self.discovery.clone() };
        let drain = DrainSettings { token: None, ..self.drain.clone() };
        let durability = Some(durability);
        let shown = Self { token: None, durability, discovery, drain, ..self.clone() };
        match toml::to_string(&shown) {
            Ok(body) => text.push_str(&body),
            // A path that is not text has no place in a TOML file.
            Err(error) => {
                let _ = writeln!(text, "# It cannot be written as TOML: {error}");
            }
        }
        text
    }
}
