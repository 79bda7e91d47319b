//! Which request to open a producer is the later one.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use ltq_core::{Entropy, Seat};

/// By what a broker tells the requests of one program apart that were overtaken on their way: a request that is left
/// in a lost connection may come behind the one that was sent over the next, and would fence it.
#[derive(Debug, Default)]
pub(crate) struct ProducerSeat {
    number: OnceLock<[u8; 16]>,
    asked: AtomicU64,
}

impl ProducerSeat {
    /// For a further request, which counts as later than all before.
    pub(crate) fn next(&self, entropy: &dyn Entropy) -> Seat {
        let number = self.number.get_or_init(|| {
            let mut number = [0; 16];
            number[..8].copy_from_slice(&entropy.next().to_le_bytes());
            number[8..].copy_from_slice(&entropy.next().to_le_bytes());
            number
        });
        let turn = self.asked.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        Seat { number: *number, turn }
    }
}
