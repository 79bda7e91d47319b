//! The connection under all producers and consumers: one task that dials, reads, writes and keeps
//! time, and what the handles share with it.
//!
//! Where a connection carries many streams, each subscription has one of its own, each topic that is
//! published to has another, and operators' requests have the first: they are its lanes. Where it
//! carries one, everything goes over that. Handles know nothing of it: they say that they are ready
//! and are asked for frames.

mod dial;
mod dispatch;
mod driver;
mod hub;
mod lane;
mod link;
mod place;
mod request;
mod timer;
mod waking;

pub(crate) use driver::{Driver, DriverTask};
pub(crate) use hub::{Command, Config, Hub, Lease, Ready};
pub(crate) use place::Place;
pub(crate) use request::{AdminCall, Opening, Request};

use std::time::Duration;

use tokio::time::Instant;

/// The moment `after` from `now`, cut to what a clock can hold.
pub(crate) fn deadline(now: Instant, after: Duration) -> Instant {
    now.checked_add(after.min(FAR)).unwrap_or(now)
}

/// Thirty years.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);
