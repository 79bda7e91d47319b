//! What the streams of one connection share.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{budget::Budget, outbox::Outbox};

/// Counts over all streams of a connection. A peer opens a stream for next to nothing, so that no
/// limit on what it costs the node may be multiplied by their number.
#[derive(Debug)]
pub(super) struct Together {
    /// Deliveries that wait for any session of the broker.
    delivered: Arc<Budget>,
    /// Those that wait for sessions of this connection.
    delivery_bytes: AtomicUsize,
    /// Streams that were given nothing because others of the connection had something waiting.
    waiting: Mutex<Vec<Weak<Outbox>>>,
    /// Memory of short frames that are there in part.
    half_read_bytes: AtomicUsize,
    futile: Mutex<Futile>,
}

/// Frames that brought nothing since a moment. The clock is looked at once for as many of them as are
/// allowed in a second.
#[derive(Debug, Default)]
struct Futile {
    count: u32,
    began: Option<Instant>,
}

impl Together {
    pub(super) fn new(delivered: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            delivered,
            delivery_bytes: AtomicUsize::new(0),
            waiting: Mutex::default(),
            half_read_bytes: AtomicUsize::new(0),
            futile: Mutex::default(),
        })
    }

    /// Whether all sessions together have more waiting than they should.
    pub(super) fn is_crowded(&self) -> bool {
        self.delivered.is_full()
    }

    /// Whether a stream that `own` bytes wait for is to get nothing more for now. One that nothing
    /// waits for hears of it when that has changed; others see it themselves.
    pub(super) fn must_wait(&self, stream: &Arc<Outbox>, own: usize) -> bool {
        if !self.is_crowded() || self.delivery_bytes.load(SeqCst) == 0 {
            return false;
        }
        if own > 0 {
            return true;
        }
        let (mut waiting, stream) = (self.waiting.lock(), Arc::downgrade(stream));
        if !waiting.iter().any(|known| known.ptr_eq(&stream)) {
            waiting.push(stream);
        }
        drop(waiting);
        // Who took the last bytes away meanwhile may have looked at the list before.
        self.delivery_bytes.load(SeqCst) > 0
    }

    /// Deliveries are let in.
    pub(super) fn take(&self, bytes: usize) {
        self.delivery_bytes.fetch_add(bytes, SeqCst);
        self.delivered.take(bytes);
    }

    /// What waits for one stream has become less or more.
    pub(super) fn change(&self, before: usize, after: usize) {
        if after >= before {
            self.take(after - before);
        } else {
            self.delivery_bytes.fetch_sub(before - after, SeqCst);
            self.delivered.give_back(before - after);
        }
    }

    /// Lets streams go on that waited, if there is room now.
    pub(super) fn relieve(&self) {
        if self.delivery_bytes.load(SeqCst) > 0 && self.is_crowded() {
            return;
        }
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for stream in waiting.iter().filter_map(Weak::upgrade) {
            stream.release_held();
        }
    }

    /// One stream's short frame takes so much memory now instead of so much before. Says whether all
    /// of them together are free still.
    pub(super) fn half_read(&self, before: usize, after: usize) -> bool {
        if before == 0 && after == 0 {
            return true;
        }
        let all = if after >= before {
            self.half_read_bytes.fetch_add(after - before, SeqCst) + (after - before)
        } else {
            self.half_read_bytes.fetch_sub(before - after, SeqCst) - (before - after)
        };
        all <= HALF_READ_BYTES_FREE
    }
}

impl Together {
    /// A frame brought nothing. Says whether more than `max` on all streams did within a second.
    pub(super) fn futile(&self, max: u32) -> bool {
        let mut futile = self.futile.lock();
        let began = *futile.began.get_or_insert_with(Instant::now);
        futile.count = futile.count.saturating_add(1);
        if futile.count <= max {
            return false;
        }
        if began.elapsed() < WINDOW {
            return true;
        }
        *futile = Futile { count: 1, began: Some(Instant::now()) };
        false
    }
}

const WINDOW: Duration = Duration::from_secs(1);
/// Memory that half-read short frames of one connection may take without being counted against the
/// broker's limit: as much as the largest read.
const HALF_READ_BYTES_FREE: usize = 256 << 10;

#[cfg(test)]
#[path = "together_tests.rs"]
mod tests;
