//! By what a message's repeats can be told.

use std::io::Write as _;

use ltq_core::{NAME_BYTES_MAX, ProducerName};

/// The name of a cluster's producer, `-`, and the number of a message: what is in
/// [`ID_HEADER`](super::ID_HEADER). Each message has one: it takes no memory of its own, and no formatting.
pub(super) struct Id {
    bytes: [u8; ID_BYTES_MAX],
    len: usize,
}

impl Id {
    pub(super) fn new(name: &ProducerName, number: u64) -> Self {
        let mut digits = [b'0'; DIGITS_MAX];
        let (mut left, mut first) = (number, DIGITS_MAX);
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            (left, first) = (left / 10, first - 1);
            if left == 0 {
                break;
            }
        }
        let mut bytes = [0; ID_BYTES_MAX];
        let mut rest = &mut bytes[..];
        for part in [name.as_str().as_bytes(), b"-", digits.get(first..).unwrap_or_default()] {
            // There is room for the longest of each.
            let _ = rest.write_all(part);
        }
        let len = ID_BYTES_MAX - rest.len();
        Self { bytes, len }
    }
}

impl AsRef<[u8]> for Id {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

const DIGITS_MAX: usize = 20;
const ID_BYTES_MAX: usize = NAME_BYTES_MAX + 1 + DIGITS_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_name_and_the_number_however_long_they_are() {
        for name in ["a", "7f3a-9c", &"n".repeat(NAME_BYTES_MAX)] {
            let name = ProducerName::new(name).unwrap();
            for number in [0, 7, 10, 99, 1_234_567_890, u64::MAX] {
                let id = Id::new(&name, number);
                assert_eq!(id.as_ref(), format!("{name}-{number}").as_bytes());
            }
        }
    }
}
