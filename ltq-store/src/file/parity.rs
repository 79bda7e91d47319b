//! Undoes damage to a few neighbouring bytes: those of one sector, at most.
//!
//! The bytes are cut into rows of the parity's length, and the parity is all rows combined by
//! exclusive or. So damage that is no longer than a row can be taken back once it is known where it
//! is. That is tried, sector by sector, until a checksum says that it was found.

use super::entry::padded;

/// What a disk loses at once. Sectors are aligned within a file.
const SECTOR_BYTES: usize = 512;

/// How long the parity of so many bytes is: as long as a sector, or as they are if that is less.
pub(super) const fn parity_len(len: u64) -> u64 {
    let all = padded(len);
    if all < SECTOR_BYTES as u64 { all } else { SECTOR_BYTES as u64 }
}

/// The parity of some bytes.
pub(super) fn parity_of(bytes: &[u8]) -> Vec<u8> {
    let mut parity = vec![0; parity_len(bytes.len() as u64) as usize];
    combine(&mut parity, bytes);
    parity
}

/// Makes bytes that stand at `position` of a file what they were when this was their parity, if no
/// more than one sector of them is damaged. `is_whole` tells by a checksum whether they are it; it
/// is asked once for each sector. Otherwise they are left as they are. Tells whether it was done.
pub(super) fn restore(
    bytes: &mut [u8],
    parity: &[u8],
    position: u64,
    is_whole: impl Fn(&[u8]) -> bool,
) -> bool {
    let mut difference = parity_of(bytes);
    if difference.len() != parity.len() {
        return false;
    }
    combine(&mut difference, parity);
    let mut from = 0;
    while from < bytes.len() {
        let in_sector = (position + from as u64) % SECTOR_BYTES as u64;
        let until = (from + SECTOR_BYTES - in_sector as usize).min(bytes.len());
        apply(bytes, &difference, from, until);
        if is_whole(bytes) {
            return true;
        }
        apply(bytes, &difference, from, until);
        from = until;
    }
    false
}

/// Combines rows into one.
fn combine(row: &mut [u8], bytes: &[u8]) {
    for part in bytes.chunks(row.len().max(1)) {
        row.iter_mut().zip(part).for_each(|(into, byte)| *into ^= byte);
    }
}

/// Changes a stretch of bytes, not longer than a row, by what its columns lack. Done twice, it
/// changes nothing.
fn apply(bytes: &mut [u8], difference: &[u8], from: usize, until: usize) {
    let columns = difference.iter().cycle().skip(from % difference.len().max(1));
    let stretch = bytes.get_mut(from..until).unwrap_or_default();
    stretch.iter_mut().zip(columns).for_each(|(byte, lacks)| *byte ^= lacks);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn every_sector_of_any_length_comes_back_wherever_it_stands() {
        for len in [1, 7, 8, 20, 500, 511, 512, 513, 1_100, 4_000] {
            let whole = bytes(len);
            let parity = parity_of(&whole);
            assert_eq!(parity.len() as u64, parity_len(len as u64));
            for position in [48, 512, 700, 1_016] {
                let mut from = 0;
                while from < len {
                    let until = (from + SECTOR_BYTES - (position + from) % SECTOR_BYTES).min(len);
                    for fill in [0x00, 0xff, 0x5a] {
                        let mut damaged = whole.clone();
                        damaged[from..until].fill(fill);
                        let done =
                            restore(&mut damaged, &parity, position as u64, |it| it == whole);
                        assert!(done && damaged == whole, "{from} to {until} of {len}");
                    }
                    from = until;
                }
            }
        }
    }

    #[test]
    fn what_is_damaged_in_two_sectors_is_left_as_it_is() {
        let whole = bytes(1_500);
        let parity = parity_of(&whole);
        let mut damaged = whole.clone();
        damaged[3] ^= 1;
        damaged[1_400] ^= 1;
        let before = damaged.clone();
        assert!(!restore(&mut damaged, &parity, 0, |it| it == whole));
        assert_eq!(damaged, before);
        assert!(!restore(&mut damaged, &parity[1..], 0, |_| true));
        assert!(!restore(&mut [], &[], 0, |_| true));
    }
}
