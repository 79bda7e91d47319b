//! What the connection is doing, for whoever wants to watch.

use std::time::Duration;

use ltq_core::{Address, protocol::InstanceId};

use crate::ConnectError;

/// What the connection is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionState {
    /// It is being made.
    Connecting {
        /// To where.
        address: Address,
        /// One more than the attempts that failed, and connections that did not last, in a row.
        attempt: u32,
    },
    /// It is up.
    Connected {
        /// To where.
        address: Address,
        /// The broker's name.
        node: String,
        /// Which broker it is, for as long as that runs.
        instance: InstanceId,
    },
    /// It is up, and the broker is about to end it: it takes nothing new, and still answers what it
    /// was asked before.
    Leaving {
        /// To where.
        address: Address,
        /// The broker's name.
        node: String,
        /// Which broker it is, for as long as that runs.
        instance: InstanceId,
    },
    /// It is down; another attempt follows.
    Disconnected {
        /// Attempts that failed, and connections that did not last, in a row.
        attempt: u32,
        /// Why.
        error: ConnectError,
        /// How long until the next attempt.
        retry_in: Duration,
    },
    /// It is down for good: the client was closed or dropped, or could not connect at first.
    Closed,
}

impl ConnectionState {
    /// Whether it is up.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. } | Self::Leaving { .. })
    }

    /// Which broker it is up to; `None` while it is not up.
    #[must_use]
    pub const fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::Connected { instance, .. } | Self::Leaving { instance, .. } => Some(*instance),
            _ => None,
        }
    }

    /// Whether the last thing known of it is that it is not up: it was lost, or could not be made.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        match self {
            Self::Connecting { attempt, .. } => *attempt > 1,
            Self::Disconnected { .. } | Self::Closed => true,
            Self::Connected { .. } | Self::Leaving { .. } => false,
        }
    }
}
