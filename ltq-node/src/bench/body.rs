//! Bodies that can be verified: who published what, and whether each byte is as it was.
//!
//! ```text
//! producer u32 · check u32 · sequence u64 · due u64 (ns)     little-endian
//! filler   the same for all messages of a size
//! ```

use bytes::{Bytes, BytesMut};
use ltq_client::{ID_HEADER, Message};

/// The bytes in front of the filler; the smallest body.
pub(super) const HEAD_BYTES: usize = 24;

/// What a body says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) producer: u32,
    /// From 0 for each producer.
    pub(super) sequence: u64,
    /// When the message was due, in nanoseconds on the run's clock.
    pub(super) due: u64,
}

/// Makes and verifies the bodies of one size.
#[derive(Clone, Debug)]
pub(super) struct Bodies {
    /// A batch of bodies, their heads empty.
    template: Bytes,
    size: usize,
    marks: Marks,
}

/// What messages have beside their bodies.
#[derive(Clone, Debug)]
enum Marks {
    /// Nothing: they go to one node.
    Nothing,
    /// They go to a cluster, whose producers give each an id: the keys that they may have.
    OfCluster(Vec<Bytes>),
    /// Whatever an earlier run may have given them, which is not known.
    OfAny,
}

impl Bodies {
    /// Of bodies with `size` bytes (at least [`HEAD_BYTES`]), made up to `batch` at a time.
    pub(super) fn new(size: usize, batch: usize) -> Self {
        let mut one = vec![0; size];
        for (at, byte) in one.iter_mut().enumerate().skip(HEAD_BYTES) {
            // No short period, so that a shifted body does not look like a whole one.
            let at = (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            *byte = at.to_le_bytes().last().copied().unwrap_or_default();
        }
        Self { template: one.repeat(batch).into(), size, marks: Marks::Nothing }
    }

    /// The same, published to a cluster under one of these keys, or under none where there is none.
    pub(super) fn of_cluster(self, keys: usize) -> Self {
        let keys = (0..keys).map(|key| format!("{KEY}{key}").into());
        Self { marks: Marks::OfCluster(keys.collect()), ..self }
    }

    /// The same, published by an earlier run to one node or to a cluster, under whatever keys.
    pub(super) fn of_any(self) -> Self {
        Self { marks: Marks::OfAny, ..self }
    }

    /// Gives messages that are published together their key, the next in turn after so many calls.
    pub(super) fn set_key(&self, messages: &mut [Message], calls: usize) {
        let Marks::OfCluster(keys) = &self.marks else { return };
        let Some(key) = keys.get(calls % keys.len().max(1)) else { return };
        messages.iter_mut().for_each(|message| message.key = Some(key.clone()));
    }

    /// Replaces `into` by messages of one producer, in one piece of memory. `due` gives the time
    /// of each sequence.
    pub(super) fn fill(
        &self,
        into: &mut Vec<Message>,
        producer: u32,
        sequences: std::ops::Range<u64>,
        due: impl Fn(u64) -> u64,
    ) {
        let count = usize::try_from(sequences.end - sequences.start).unwrap_or(0);
        let bytes = (count * self.size).min(self.template.len());
        let mut bodies = BytesMut::from(self.template.get(..bytes).unwrap_or_default());
        for (body, sequence) in bodies.chunks_exact_mut(self.size).zip(sequences) {
            let head = Head { producer, sequence, due: due(sequence) };
            if let Some(place) = body.first_chunk_mut::<HEAD_BYTES>() {
                *place = encode(head);
            }
        }
        let mut bodies = bodies.freeze();
        into.clear();
        while bodies.len() >= self.size {
            into.push(Message::new(bodies.split_to(self.size)));
        }
    }

    /// Reads a body back; says what is wrong with one that is not as it was made.
    pub(super) fn verify(&self, message: &Message) -> Result<Head, String> {
        let body = &*message.body;
        self.verify_marks(message)?;
        let Some((head, filler)) = body.split_first_chunk::<HEAD_BYTES>() else {
            return Err(format!("it has {} bytes, not {}", body.len(), self.size));
        };
        let decoded = decode(head);
        if encode(decoded) != *head {
            return Err(format!("its head is damaged: {head:02x?}"));
        }
        if self.template.get(HEAD_BYTES..self.size) != Some(filler) {
            let Head { producer, sequence, .. } = decoded;
            let words = format!("message {sequence} of producer {producer}: its filler is damaged");
            return Err(words);
        }
        Ok(decoded)
    }

    /// Whether a message's key and headers are among those that it may have.
    fn verify_marks(&self, message: &Message) -> Result<(), String> {
        if let Some(key) = &message.key {
            let is_ours = match &self.marks {
                Marks::Nothing => false,
                Marks::OfCluster(keys) => keys.contains(key),
                Marks::OfAny => is_key(key),
            };
            if !is_ours {
                return Err(format!("it has the key {}, which nobody gave it", key.escape_ascii()));
            }
        }
        let has_id = !matches!(self.marks, Marks::Nothing);
        let odd = message.headers.iter().find(|(name, _)| !(has_id && *name == ID_HEADER));
        match odd {
            Some((name, _)) => Err(format!("it has the header {name:?}, which nobody gave it")),
            None => Ok(()),
        }
    }
}

/// Whether a run gives messages such keys.
fn is_key(key: &[u8]) -> bool {
    let number = key.strip_prefix(KEY.as_bytes()).unwrap_or_default();
    !number.is_empty() && number.iter().all(u8::is_ascii_digit)
}

fn encode(head: Head) -> [u8; HEAD_BYTES] {
    let first = u64::from(head.producer) | u64::from(check(head)) << 32;
    let mut bytes = [0; HEAD_BYTES];
    let (words, _) = bytes.as_chunks_mut();
    for (place, word) in words.iter_mut().zip([first, head.sequence, head.due]) {
        *place = word.to_le_bytes();
    }
    bytes
}

fn decode(bytes: &[u8; HEAD_BYTES]) -> Head {
    let mut words = [0; 3];
    for (word, place) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*place);
    }
    let [first, sequence, due] = words;
    Head { producer: first as u32, sequence, due }
}

/// Mixes all of a head, so that no part of it can change alone.
const fn check(head: Head) -> u32 {
    let mixed = (head.sequence ^ (head.producer as u64) << 32)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .rotate_left(29)
        .wrapping_add(head.due)
        .wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (mixed >> 32) as u32
}

/// What the keys of a run begin with; a number follows.
const KEY: &str = "key-";

#[cfg(test)]
mod tests {
    use super::*;

    fn made(size: usize) -> (Bodies, Vec<Message>) {
        let bodies = Bodies::new(size, 4);
        let mut messages = Vec::new();
        bodies.fill(&mut messages, 0xdead_beef, 7..10, |sequence| sequence * 1000);
        (bodies, messages)
    }

    #[test]
    fn bodies_say_who_they_are() {
        for size in [HEAD_BYTES, 100, 1000] {
            let (bodies, messages) = made(size);
            assert_eq!(messages.len(), 3);
            for (sequence, message) in (7..).zip(&messages) {
                assert_eq!(message.body.len(), size);
                let head = Head { producer: 0xdead_beef, sequence, due: sequence * 1000 };
                assert_eq!(bodies.verify(message), Ok(head));
            }
        }
    }

    #[test]
    fn a_change_of_any_byte_is_noticed() {
        let (bodies, messages) = made(60);
        for at in 0..60 {
            let mut body = messages[0].body.to_vec();
            body[at] ^= 1;
            assert!(bodies.verify(&Message::new(body)).is_err(), "byte {at}");
        }
        assert!(bodies.verify(&Message::new(messages[0].body.slice(..59))).is_err());
        assert!(bodies.verify(&Message::new(messages[0].body.slice(..5))).is_err());
        assert!(bodies.verify(&messages[0].clone().with_key("k")).is_err());
        assert!(bodies.verify(&messages[0].clone().with_header(ID_HEADER, "1")).is_err());
    }

    #[test]
    fn in_a_cluster_messages_have_ids_and_the_keys_that_they_were_given() {
        let (bodies, mut messages) = made(100);
        let bodies = bodies.of_cluster(2);
        let keys = (0..3).map(|calls| {
            bodies.set_key(&mut messages, calls);
            messages
                .iter_mut()
                .for_each(|it| it.headers = [(ID_HEADER, "p-1")].into_iter().collect());
            assert!(messages.iter().all(|message| bodies.verify(message).is_ok()));
            messages[0].key.clone().unwrap()
        });
        assert_eq!(keys.collect::<Vec<_>>(), ["key-0", "key-1", "key-0"]);
        let odd = bodies.verify(&messages[0].clone().with_key("key-2")).unwrap_err();
        assert!(odd.contains("key-2"), "{odd}");
        let odd = bodies.verify(&messages[0].clone().with_header("h", "1")).unwrap_err();
        assert!(odd.contains("\"h\""), "{odd}");
        let unkeyed = Bodies::new(100, 3).of_cluster(0);
        assert!(unkeyed.verify(&messages[0]).is_err());
    }
    #[test]
    fn what_an_earlier_run_published_has_whatever_key_or_id_that_run_gave_it() {
        let (bodies, messages) = made(100);
        let bodies = bodies.of_any();
        let plain = &messages[0];
        for taken in [
            plain.clone(),
            plain.clone().with_key("key-17"),
            plain.clone().with_header(ID_HEADER, "p-1"),
            plain.clone().with_key("key-0").with_header(ID_HEADER, "p-1"),
        ] {
            assert!(bodies.verify(&taken).is_ok(), "{taken:?}");
        }
        for (odd, name) in [
            (plain.clone().with_key("key-"), "key-"),
            (plain.clone().with_key("key-x"), "key-x"),
            (plain.clone().with_header("h", "1"), "\"h\""),
        ] {
            let error = bodies.verify(&odd).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }
}
