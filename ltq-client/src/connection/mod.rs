//! The connection under all producers and consumers: one task that dials, reads, writes and keeps
//! time, and what the handles share with it.
//!
//! Everything goes over one stream of the connection. Handles know nothing of that: they say that
//! they are ready and are asked for frames.

mod dial;
mod dispatch;
mod driver;
mod hub;
mod link;
mod request;
mod timer;

pub(crate) use driver::{Driver, DriverTask};
pub(crate) use hub::{Command, Config, Hub, Lease, Ready};
pub(crate) use request::{AdminCall, Opening, Request};

use std::time::Duration;

use tokio::time::Instant;

/// The moment `after` from `now`, cut to what a clock can hold.
pub(crate) fn deadline(now: Instant, after: Duration) -> Instant {
    now.checked_add(after.min(FAR)).unwrap_or(now)
}

/// Thirty years.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);
