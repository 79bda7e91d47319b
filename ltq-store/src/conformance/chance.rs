//! Chance under a seed, and what is made of it.

use std::ops::Range;

use bytes::Bytes;
use ltq_core::{Message, Records};

/// The same numbers for the same seed, on every machine.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number: SplitMix64, a counter run through a mixing function.
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of a range that is not empty.
    pub(super) const fn of(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// Whether something of this probability in percent happens.
    pub(super) const fn percent(&mut self, percent: u64) -> bool {
        self.of(0..100) < percent
    }

    pub(super) fn bytes(&mut self, len: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes.into()
    }

    /// A message whose body has `len` bytes; some have a key, some headers too.
    pub(super) fn message(&mut self, len: usize) -> Message {
        let body = self.bytes(len);
        let message = Message::new(body);
        match self.of(0..4) {
            0 => message.with_key(self.bytes(5)),
            1 => message.with_key("").with_header("trace", self.bytes(16)),
            _ => message,
        }
    }

    /// `count` records with bodies of `len` bytes.
    pub(super) fn records(&mut self, count: usize, len: usize) -> Records {
        let messages: Vec<_> = (0..count).map(|_| self.message(len)).collect();
        Records::encode(&messages)
    }
}
