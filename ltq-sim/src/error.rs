//! What cannot be played.

use ltq_core::SettingsError;
use thiserror::Error;

/// A simulation that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// A broker refuses these settings.
    #[error("settings that no broker takes: {0}")]
    Settings(#[from] SettingsError),
    /// A transport's scheme, which clients are to be told in an address, cannot stand in one.
    #[error(
        "a transport's scheme cannot be {0:?}: it is one word of letters, digits, '+', '-' and '.'"
    )]
    Scheme(String),
}
