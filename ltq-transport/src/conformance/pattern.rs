//! Bytes that say where they belong.

/// An endless row of bytes in which no stretch of a few bytes comes twice within any length that
/// matters: a byte that was lost, doubled, swapped or made up shows at its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pattern {
    seed: u64,
}

impl Pattern {
    pub(super) const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Bytes from `start` on.
    pub(super) fn bytes(self, start: u64, length: usize) -> Vec<u8> {
        let skipped = usize::try_from(start % 8).unwrap_or_default();
        let mut bytes = Vec::with_capacity(skipped + length + 8);
        let mut word = start / 8;
        while bytes.len() < skipped + length {
            bytes.extend_from_slice(&mix(self.seed ^ mix(word)).to_le_bytes());
            word += 1;
        }
        bytes.truncate(skipped + length);
        bytes.drain(..skipped);
        bytes
    }

    /// The place of the first byte that does not belong where it is.
    pub(super) fn first_wrong(self, start: u64, bytes: &[u8]) -> Option<u64> {
        let right = self.bytes(start, bytes.len());
        if right == bytes {
            return None;
        }
        let wrong = right.iter().zip(bytes).position(|(right, byte)| right != byte);
        wrong.map(|index| start + index as u64)
    }
}

/// Sizes at random, the same ones for the same seed.
#[derive(Debug)]
pub(super) struct Sizes {
    state: u64,
}

impl Sizes {
    pub(super) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A size from 1 to `max`, small ones as likely as large ones.
    pub(super) fn next(&mut self, max: usize) -> usize {
        self.state = self.state.wrapping_add(1);
        let random = mix(self.state);
        let scale = max.checked_ilog2().unwrap_or(0) + 1;
        let ceiling = 1_usize << (random % u64::from(scale) + 1);
        let size = usize::try_from(random >> 32).unwrap_or_default() % ceiling + 1;
        size.min(max)
    }
}

/// Steele, Lea and Flood's splitmix64 finalizer: every bit of the input moves every bit of the
/// output.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_doubled_or_swapped_byte_shows() {
        let pattern = Pattern::new(7);
        let right = pattern.bytes(3, 100);
        assert_eq!(pattern.first_wrong(3, &right), None);
        assert_eq!(pattern.bytes(13, 90), right[10..]);
        let mut lost = right.clone();
        lost.remove(20);
        assert!(pattern.first_wrong(3, &lost).is_some());
        let mut swapped = right.clone();
        swapped.swap(50, 51);
        assert_eq!(pattern.first_wrong(3, &swapped), Some(53));
        assert!(Pattern::new(8).first_wrong(3, &right).is_some());
    }

    #[test]
    fn sizes_stay_within_their_bounds_and_reach_both() {
        let mut sizes = Sizes::new(1);
        let drawn: Vec<_> = (0..10_000).map(|_| sizes.next(1000)).collect();
        assert!(drawn.iter().all(|size| (1..=1000).contains(size)));
        assert!(drawn.contains(&1) && drawn.contains(&1000));
        assert_eq!(sizes.next(1), 1);
    }
}
