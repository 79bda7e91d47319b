use bytes::Bytes;

/// A message's body: who published it as which, and filler that follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Body {
    /// The producer.
    pub producer: usize,
    /// Its message, from 1.
    pub number: u64,
}

impl Body {
    /// The bytes of this body.
    #[must_use]
    pub fn bytes(self) -> Bytes {
        let mut bytes = format!("{} {} ", self.producer, self.number).into_bytes();
        let mut state = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.producer as u64;
        let length = bytes.len() + (state >> 40) as usize % 400;
        while bytes.len() < length {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.push((state >> 56) as u8);
        }
        bytes.into()
    }

    /// Reads a body back; `None` when it is not exactly what was published under its numbers.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.splitn(3, |byte| *byte == b' ');
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
        let body = Self { producer: usize::try_from(number()?).ok()?, number: number()? };
        (body.bytes() == bytes).then_some(body)
    }
}
