//! Room for messages that are not answered.

use tokio::{
    sync::{Semaphore, SemaphorePermit, TryAcquireError},
    time::{Instant, timeout_at},
};

/// Room in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// What is free of a window. One producer has it for itself; all those of a cluster's producer share one.
#[derive(Debug)]
pub(crate) struct Rooms {
    window: Room,
    messages: Semaphore,
    bytes: Semaphore,
}

/// Room that a call has and has not used yet.
pub(crate) struct Permits<'a> {
    room: Room,
    permits: [SemaphorePermit<'a>; 2],
}

impl Permits<'_> {
    /// It is used from now on, until it is given back.
    pub(crate) fn keep(self) -> Room {
        self.permits.into_iter().for_each(SemaphorePermit::forget);
        self.room
    }
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// It was not free in time.
    Late,
    /// Nothing more is taken.
    Closed,
}

impl Rooms {
    pub(crate) fn new(window: Room) -> Self {
        Self {
            messages: Semaphore::new(window.messages),
            bytes: Semaphore::new(window.bytes),
            window,
        }
    }

    /// The whole window.
    pub(crate) const fn window(&self) -> Room {
        self.window
    }

    /// How many messages have room now.
    pub(crate) fn used(&self) -> usize {
        self.window.messages.saturating_sub(self.messages.available_permits())
    }

    /// Waits for room, in turn with everybody else who does. Who wants more than there is gets all.
    pub(crate) async fn take(
        &self,
        deadline: Instant,
        messages: usize,
        bytes: usize,
    ) -> Result<Permits<'_>, NoRoom> {
        let window = self.window;
        let room = Room { messages: messages.min(window.messages), bytes: bytes.min(window.bytes) };
        let messages = permit(&self.messages, deadline, room.messages).await?;
        let bytes = permit(&self.bytes, deadline, room.bytes).await?;
        Ok(Permits { room, permits: [messages, bytes] })
    }

    pub(crate) fn give_back(&self, room: Room) {
        self.messages.add_permits(room.messages);
        self.bytes.add_permits(room.bytes);
    }

    /// Nobody gets any from now on.
    pub(crate) fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }
}

async fn permit(
    free: &Semaphore,
    deadline: Instant,
    count: usize,
) -> Result<SemaphorePermit<'_>, NoRoom> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    match free.try_acquire_many(count) {
        Ok(permit) => Ok(permit),
        Err(TryAcquireError::Closed) => Err(NoRoom::Closed),
        Err(TryAcquireError::NoPermits) => {
            match timeout_at(deadline, free.acquire_many(count)).await {
                Ok(Ok(permit)) => Ok(permit),
                Ok(Err(_)) => Err(NoRoom::Closed),
                Err(_) => Err(NoRoom::Late),
            }
        }
    }
}
