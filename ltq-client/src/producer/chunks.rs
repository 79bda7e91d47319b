//! The encoded messages of a producer that are not answered yet, found by position.

use std::{collections::VecDeque, ops::Range};

use ltq_core::{Message, Records, RecordsBuilder};

/// Messages by position: the n-th that the producer ever took is at position n, whatever its
/// sequence will be.
///
/// Messages that come one by one gather in an open chunk, which is closed when it is to be sent;
/// batches are chunks of their own.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    closed: VecDeque<Chunk>,
    open: RecordsBuilder,
    /// The position of the first message in `open`.
    open_at: u64,
}

#[derive(Debug)]
struct Chunk {
    position: u64,
    records: Records,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.position + self.records.count() as u64
    }
}

impl Chunks {
    /// The position after the last message.
    pub(super) fn end(&self) -> u64 {
        self.open_at + self.open.count() as u64
    }

    /// The first position in the open chunk; `None` when it is empty.
    pub(super) fn open(&self) -> Option<u64> {
        (self.open.count() > 0).then_some(self.open_at)
    }

    /// Adds a message to the open chunk.
    pub(super) fn push(&mut self, message: &Message) {
        self.open.push(message);
        if self.open.byte_len() >= CHUNK_BYTES {
            self.close();
        }
    }

    /// Adds messages that are encoded already.
    pub(super) fn push_records(&mut self, records: Records) {
        if records.is_empty() {
            return;
        }
        self.close();
        let position = self.open_at;
        self.open_at += records.count() as u64;
        self.closed.push_back(Chunk { position, records });
    }

    /// Closes the open chunk, so that it can be sent.
    pub(super) fn close(&mut self) {
        if self.open.count() > 0 {
            let records = self.open.finish();
            let position = self.open_at;
            self.open_at += records.count() as u64;
            self.closed.push_back(Chunk { position, records });
        }
    }

    /// Messages from `position` up to `end` (exclusive) or the end of their chunk, whichever comes
    /// first; `None` when the position is in no closed chunk.
    pub(super) fn get(&self, position: u64, end: u64) -> Option<Records> {
        let index = self.closed.partition_point(|chunk| chunk.end() <= position);
        let chunk = self.closed.get(index)?;
        let start = position.checked_sub(chunk.position)?;
        let end = end.min(chunk.end()).checked_sub(chunk.position)?;
        Some(chunk.records.slice(start as usize..end as usize)).filter(|r| !r.is_empty())
    }

    /// All messages of a range; `None` when some are in no closed chunk.
    pub(super) fn copy(&self, mut range: Range<u64>) -> Option<Vec<Records>> {
        let mut parts = Vec::new();
        while range.start < range.end {
            let part = self.get(range.start, range.end)?;
            range.start += part.count() as u64;
            parts.push(part);
        }
        Some(parts)
    }

    /// Forgets the chunks that lie wholly before `position`.
    pub(super) fn release(&mut self, position: u64) {
        while self.closed.front().is_some_and(|chunk| chunk.end() <= position) {
            self.closed.pop_front();
        }
    }
}

/// Where the open chunk is closed unasked: large enough that a frame's header and a system call
/// cost little of it, small enough that the broker starts on the first while the next is filled.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(records: &Records) -> Vec<Vec<u8>> {
        records.messages().map(|m| m.unwrap().body.to_vec()).collect()
    }

    #[test]
    fn messages_are_found_by_position() {
        let mut chunks = Chunks::default();
        chunks.push(&Message::new("a"));
        chunks.push(&Message::new("b"));
        assert_eq!(chunks.get(0, 9), None, "the open chunk is not to be sent");
        assert_eq!(chunks.open(), Some(0));
        chunks.push_records(Records::encode(&[Message::new("c"), Message::new("d")]));
        chunks.push(&Message::new("e"));
        chunks.close();
        assert_eq!(chunks.end(), 5);
        assert_eq!(bodies(&chunks.get(0, 9).unwrap()), [b"a", b"b"]);
        assert_eq!(bodies(&chunks.get(1, 9).unwrap()), [b"b"]);
        assert_eq!(bodies(&chunks.get(2, 3).unwrap()), [b"c"]);
        assert_eq!(bodies(&chunks.get(4, 9).unwrap()), [b"e"]);
        assert_eq!(chunks.get(5, 9), None);
        chunks.release(3);
        assert_eq!(chunks.get(1, 9), None);
        assert_eq!(bodies(&chunks.get(2, 9).unwrap()), [b"c", b"d"]);
    }

    #[test]
    fn a_full_chunk_closes_itself() {
        let mut chunks = Chunks::default();
        chunks.push(&Message::new(vec![0; CHUNK_BYTES]));
        assert_eq!(chunks.open(), None);
        assert_eq!(chunks.get(0, 9).unwrap().count(), 1);
    }
}
