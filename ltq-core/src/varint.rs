//! Numbers in as many bytes as they need, as postcard writes them: seven bits a byte, the lowest first.

use bytes::{BufMut, BytesMut};

/// The most bytes of a length that LTQ writes: none is beyond 4 GiB.
pub(crate) const LEN_BYTES_MAX: usize = 5;

pub(crate) fn put_len(into: &mut BytesMut, len: usize) {
    let mut value = len as u32;
    while value >= 0x80 {
        into.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

/// A length, and so many bytes.
pub(crate) fn put_bytes(into: &mut BytesMut, bytes: &[u8]) {
    put_len(into, bytes.len());
    into.extend_from_slice(bytes);
}

/// How many bytes [`put_bytes`] writes.
pub(crate) const fn bytes_len(bytes: &[u8]) -> usize {
    len_of(bytes.len()) + bytes.len()
}

/// How many bytes [`put_len`] writes.
pub(crate) const fn len_of(len: usize) -> usize {
    let bits = usize::BITS - len.leading_zeros();
    if bits == 0 { 1 } else { bits.div_ceil(7) as usize }
}

/// Takes a length that one of LTQ's own parts begins with: at most five bytes, below 4 GiB.
pub(crate) fn take_len(from: &mut &[u8]) -> Option<usize> {
    usize::try_from(u32::try_from(take(from, LEN_BYTES_MAX)?).ok()?).ok()
}

/// Takes a number of which postcard takes 64 bits.
pub(crate) fn take_u64(from: &mut &[u8]) -> Option<u64> {
    take(from, U64_BYTES_MAX)
}

/// Takes a length, and so many bytes.
pub(crate) fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_u64(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(bytes)
}

fn take(from: &mut &[u8], bytes_max: usize) -> Option<u64> {
    // Nearly all are of one byte.
    if let Some((&byte, rest)) = from.split_first()
        && byte < 0x80
    {
        *from = rest;
        return Some(byte.into());
    }
    let mut value = 0_u64;
    for (at, &byte) in from.iter().take(bytes_max).enumerate() {
        let bits = u64::from(byte & 0x7f);
        let shifted = bits << (7 * at);
        // What the last byte has beyond the 64th bit is no number's.
        if shifted >> (7 * at) != bits {
            return None;
        }
        value |= shifted;
        if byte & 0x80 == 0 {
            *from = from.get(at + 1..)?;
            return Some(value);
        }
    }
    None
}

const U64_BYTES_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        assert_eq!([0, 1, 127, 128, 16_383, 16_384].map(len_of), [1, 1, 1, 2, 2, 3]);
        for len in [0, 1, 127, 128, 16_383, 16_384, u32::MAX as usize] {
            let mut bytes = BytesMut::new();
            put_len(&mut bytes, len);
            assert_eq!(bytes.len(), len_of(len));
            let mut rest = &bytes[..];
            assert_eq!((take_len(&mut rest), rest.len()), (Some(len), 0));
        }
        let too_many = [0xff, 0xff, 0xff, 0xff, 0x1f];
        assert_eq!(take_len(&mut &too_many[..]), None);
        assert_eq!(take_u64(&mut &too_many[..]), Some(0x1_ffff_ffff));
        assert_eq!(take_len(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0][..]), None);
    }

    proptest! {
        #[test]
        fn numbers_are_what_postcard_takes_for_them(
            mut bytes in prop::collection::vec(prop_oneof![0x7f_u8..=0x81, any::<u8>()], 0..12),
            is_long in any::<bool>(),
        ) {
            if is_long {
                bytes.iter_mut().take(9).for_each(|byte| *byte |= 0x80);
            }
            let mut rest = &bytes[..];
            let taken = take_u64(&mut rest).map(|value| (value, rest));
            prop_assert_eq!(taken, postcard::take_from_bytes::<u64>(&bytes).ok());
        }
    }
}
