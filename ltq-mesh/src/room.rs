//! Room for messages that all peers have in common.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many bytes, of which each message takes what it has and [`MESSAGE_BYTES`] more.
#[derive(Debug)]
pub(crate) struct Room {
    semaphore: Arc<Semaphore>,
    bytes: u32,
}

/// What a message has of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    _permit: OwnedSemaphorePermit,
}

impl Room {
    pub(crate) fn new(bytes: usize) -> Self {
        let semaphore = Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)));
        Self { semaphore, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) }
    }

    /// Waits until there is room for a message of so many bytes. `None` once it is closed. Cancel safe.
    pub(crate) async fn take(&self, bytes: usize) -> Option<Taken> {
        let permit = self.semaphore.clone().acquire_many_owned(self.share(bytes)).await.ok()?;
        Some(Taken { _permit: permit })
    }

    /// Takes it if it is there.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Taken> {
        let permit = self.semaphore.clone().try_acquire_many_owned(self.share(bytes)).ok()?;
        Some(Taken { _permit: permit })
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        self.semaphore.close();
    }

    /// The largest message fits, alone.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(MESSAGE_BYTES).min(self.bytes)
    }
}

/// What is kept of a message beside its body, and more.
const MESSAGE_BYTES: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_messages_take_no_more_than_there_is_and_the_largest_fits_alone() {
        let room = Room::new(1_000);
        let taken: Vec<_> = (0..9).map_while(|_| room.try_take(100)).collect();
        assert_eq!(taken.len(), 2, "each takes 356");
        assert!(room.try_take(33).is_none() && room.try_take(32).is_some());
        drop(taken);
        let large = room.try_take(1_000);
        assert!(large.is_some() && room.try_take(0).is_none());
    }
}
