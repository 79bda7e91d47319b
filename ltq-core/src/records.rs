//! Encoded messages in bulk: the bytes that the producer writes, the store keeps and the consumer
//! reads, sliced but never rewritten on the way.
//!
//! ```text
//! table    count times { end: u32, crc: u32 }     little-endian
//! payload  the encoded messages, one after another
//! ```
//!
//! `end` is where the message ends, counted from where the payload began when it was encoded, so
//! that finding the n-th message is one look at the table, and a slice of a batch is a slice of
//! the table and one of the payload. `crc` is CRC-32C (RFC 3720, appendix B.4) of the encoded
//! message.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::{Message, MessageError, Offset, Timestamp};

/// Bytes of the table for each record.
pub const TABLE_ENTRY_BYTES: usize = 8;

/// Consecutive encoded messages, not yet given a place in a log. Cheap to clone and to slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// What the first record's start counts as in `table`.
    base: u32,
    table: Bytes,
    payload: Bytes,
}

/// Why bytes are not [`Records`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordsError {
    /// The table is not a whole number of entries.
    #[error("the record table has {0} bytes, which is no multiple of {TABLE_ENTRY_BYTES}")]
    TableLength(usize),
    /// The table's ends go backwards, or do not close with the payload's.
    #[error(
        "record {index} of the table ends at {end}, outside the {payload} bytes that there are"
    )]
    End {
        /// Which record, from 0.
        index: usize,
        /// The end it claims, relative to the payload.
        end: u64,
        /// The payload's length.
        payload: usize,
    },
    /// A record's bytes do not have the checksum that came with them.
    #[error("record {index} is damaged: its checksum is {found:08x}, not {expected:08x}")]
    Checksum {
        /// Which record, from 0.
        index: usize,
        /// The checksum in the table.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
}

impl Records {
    /// Puts together what was taken apart by [`base`](Self::base), [`table`](Self::table) and
    /// [`payload`](Self::payload), checking that the table fits the payload. Checksums are left
    /// to [`verify`](Self::verify).
    ///
    /// # Errors
    /// [`RecordsError::TableLength`] or [`RecordsError::End`].
    pub fn from_parts(base: u32, table: Bytes, payload: Bytes) -> Result<Self, RecordsError> {
        if !table.len().is_multiple_of(TABLE_ENTRY_BYTES) {
            return Err(RecordsError::TableLength(table.len()));
        }
        let mut last = base;
        for (index, entry) in table.chunks_exact(TABLE_ENTRY_BYTES).enumerate() {
            let (end, _) = read_entry(entry);
            let relative = u64::from(end).wrapping_sub(u64::from(base));
            if end < last || relative > payload.len() as u64 {
                return Err(RecordsError::End { index, end: relative, payload: payload.len() });
            }
            last = end;
        }
        let closed = u64::from(last) - u64::from(base);
        if closed != payload.len() as u64 {
            let index = (table.len() / TABLE_ENTRY_BYTES).saturating_sub(1);
            return Err(RecordsError::End { index, end: closed, payload: payload.len() });
        }
        Ok(Self { base, table, payload })
    }

    /// Encodes these messages.
    #[must_use]
    pub fn encode<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Self {
        let mut builder = RecordsBuilder::new();
        for message in messages {
            builder.push(message);
        }
        builder.finish()
    }

    /// How many records there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.len() / TABLE_ENTRY_BYTES
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Bytes of table and payload together: what they cost in memory, on disk and on the wire.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.table.len() + self.payload.len()
    }

    /// What the first record's start counts as in the table.
    #[must_use]
    pub const fn base(&self) -> u32 {
        self.base
    }

    /// The table's bytes.
    #[must_use]
    pub const fn table(&self) -> &Bytes {
        &self.table
    }

    /// The encoded messages' bytes.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The same in memory of their own, which keeps nothing else alive.
    #[must_use]
    pub fn copied(&self) -> Self {
        let (table, payload) = (&self.table, &self.payload);
        Self {
            base: self.base,
            table: Bytes::copy_from_slice(table),
            payload: Bytes::copy_from_slice(payload),
        }
    }

    /// The size of the largest record's encoded bytes; 0 when empty.
    #[must_use]
    pub fn largest(&self) -> usize {
        let mut last = self.base;
        let mut largest = 0;
        for entry in self.table.chunks_exact(TABLE_ENTRY_BYTES) {
            let (end, _) = read_entry(entry);
            largest = largest.max(end.saturating_sub(last));
            last = end;
        }
        largest as usize
    }

    /// Checks every record's checksum.
    ///
    /// # Errors
    /// [`RecordsError::Checksum`] for the first one that is wrong.
    pub fn verify(&self) -> Result<(), RecordsError> {
        let mut rest: &[u8] = &self.payload;
        let mut last = self.base;
        for (index, entry) in self.table.chunks_exact(TABLE_ENTRY_BYTES).enumerate() {
            let (end, expected) = read_entry(entry);
            let (bytes, after) = rest.split_at(end.saturating_sub(last) as usize);
            let found = crc32c::crc32c(bytes);
            if found != expected {
                return Err(RecordsError::Checksum { index, expected, found });
            }
            rest = after;
            last = end;
        }
        Ok(())
    }

    /// The encoded bytes of one record, or `None` past the end.
    #[must_use]
    pub fn encoded(&self, index: usize) -> Option<Bytes> {
        if index >= self.count() {
            return None;
        }
        Some(self.payload.slice(self.position(index)..self.position(index + 1)))
    }

    /// The checksum that came with one record, or `None` past the end.
    #[must_use]
    pub fn checksum(&self, index: usize) -> Option<u32> {
        let start = index.checked_mul(TABLE_ENTRY_BYTES)?;
        let entry = self.table.get(start..start + TABLE_ENTRY_BYTES)?;
        Some(read_entry(entry).1)
    }

    /// One message, or `None` past the end. Its key, headers and body share these bytes.
    ///
    /// # Errors
    /// [`MessageError`] when its producer encoded its key and headers wrongly.
    #[must_use]
    pub fn message(&self, index: usize) -> Option<Result<Message, MessageError>> {
        self.encoded(index).map(Message::decode)
    }

    /// All messages in order.
    pub fn messages(&self) -> impl Iterator<Item = Result<Message, MessageError>> + '_ {
        (0..self.count()).filter_map(|index| self.message(index))
    }

    /// Some of the records, sharing these bytes. The range is cut to what there is.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.count());
        let start = range.start.min(end);
        if start == 0 && end == self.count() {
            return self.clone();
        }
        let (from, to) = (self.position(start), self.position(end));
        Self {
            base: self.base.saturating_add(from as u32),
            table: self.table.slice(start * TABLE_ENTRY_BYTES..end * TABLE_ENTRY_BYTES),
            payload: self.payload.slice(from..to),
        }
    }

    /// How many records from `start` on fit in `records` and `bytes`; at least one when there is
    /// one and `records` is not 0, so that a record larger than `bytes` can move at all.
    #[must_use]
    pub fn fitting(&self, start: usize, records: usize, bytes: usize) -> usize {
        let end = self.count().min(start.saturating_add(records));
        if start >= end {
            return 0;
        }
        let cost =
            |to: usize| self.position(to) - self.position(start) + (to - start) * TABLE_ENTRY_BYTES;
        if cost(end) <= bytes {
            return end - start;
        }
        let (mut fits, mut too_many) = (start, end);
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            if cost(middle) <= bytes {
                fits = middle;
            } else {
                too_many = middle;
            }
        }
        (fits - start).max(1)
    }

    /// Where record `index` starts in the payload; its end for `index == count`.
    fn position(&self, index: usize) -> usize {
        if index == 0 {
            return 0;
        }
        let start = (index - 1) * TABLE_ENTRY_BYTES;
        let end = match self.table.get(start..start + TABLE_ENTRY_BYTES) {
            Some(entry) => read_entry(entry).0,
            None => return self.payload.len(),
        };
        end.saturating_sub(self.base) as usize
    }
}

/// Collects messages, or records that are already encoded, into one [`Records`].
#[derive(Debug, Default)]
pub struct RecordsBuilder {
    table: BytesMut,
    payload: BytesMut,
}

impl RecordsBuilder {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one with room for so many records and payload bytes.
    #[must_use]
    pub fn with_capacity(records: usize, payload_bytes: usize) -> Self {
        Self {
            table: BytesMut::with_capacity(records * TABLE_ENTRY_BYTES),
            payload: BytesMut::with_capacity(payload_bytes),
        }
    }

    /// Encodes one more message. The caller bounds the whole below 4 GiB.
    pub fn push(&mut self, message: &Message) {
        self.push_with(message, None);
    }

    /// The same, with one more header behind those of the message.
    pub fn push_with_header(&mut self, message: &Message, name: &str, value: &[u8]) {
        self.push_with(message, Some((name, value)));
    }

    fn push_with(&mut self, message: &Message, header: Option<(&str, &[u8])>) {
        let start = self.payload.len();
        message.encode(header, &mut self.payload);
        let crc = crc32c::crc32c(self.payload.get(start..).unwrap_or_default());
        self.table.put_u32_le(self.payload.len() as u32);
        self.table.put_u32_le(crc);
    }

    /// Copies records in; their checksums travel along. The caller bounds the whole below 4 GiB.
    pub fn extend(&mut self, records: &Records) {
        let shift = (self.payload.len() as u32).wrapping_sub(records.base);
        self.table.reserve(records.table.len());
        for entry in records.table.chunks_exact(TABLE_ENTRY_BYTES) {
            let (end, crc) = read_entry(entry);
            self.table.put_u64_le(u64::from(end.wrapping_add(shift)) | u64::from(crc) << 32);
        }
        self.payload.extend_from_slice(&records.payload);
    }

    /// How many records so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.len() / TABLE_ENTRY_BYTES
    }

    /// Bytes of table and payload so far.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.table.len() + self.payload.len()
    }

    /// The records; the builder is empty afterwards and may be used again.
    #[must_use]
    pub fn finish(&mut self) -> Records {
        Records {
            base: 0,
            table: self.table.split().freeze(),
            payload: self.payload.split().freeze(),
        }
    }
}

/// Consecutive records in their place in a log, stored together at one time. Cheap to clone and
/// to slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBatch {
    /// The offset of the first record.
    pub first: Offset,
    /// When the node took them in.
    pub time: Timestamp,
    /// The records themselves.
    pub records: Records,
}

impl RecordBatch {
    /// The offset after the last record.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.first.plus(self.records.count() as u64)
    }

    /// The part from `from` (inclusive) to `to` (exclusive), cut to what there is.
    #[must_use]
    pub fn slice(&self, from: Offset, to: Offset) -> Self {
        let start = from.since(self.first).min(self.records.count() as u64);
        let end = to.since(self.first).min(self.records.count() as u64).max(start);
        Self {
            first: self.first.plus(start),
            time: self.time,
            records: self.records.slice(start as usize..end as usize),
        }
    }
}

fn read_entry(mut entry: &[u8]) -> (u32, u32) {
    let both = entry.get_u64_le();
    (both as u32, (both >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize) -> (Vec<Message>, Records) {
        let messages: Vec<_> = (0..count).map(|i| Message::new(vec![i as u8; i * 3])).collect();
        let records = Records::encode(&messages);
        (messages, records)
    }

    #[test]
    fn slices_hold_the_same_messages() {
        let (messages, records) = some(9);
        records.verify().unwrap();
        for start in 0..=9 {
            for end in start..=9 {
                let slice = records.slice(start..end);
                slice.verify().unwrap();
                let parts = Records::from_parts(
                    slice.base(),
                    slice.table().clone(),
                    slice.payload().clone(),
                )
                .unwrap();
                let back: Vec<_> = parts.messages().map(Result::unwrap).collect();
                assert_eq!(back, messages[start..end]);
            }
        }
        assert_eq!(records.largest(), 25);
    }

    #[test]
    fn a_builder_joins_slices() {
        let (messages, records) = some(9);
        let mut builder = RecordsBuilder::new();
        builder.extend(&records.slice(4..9));
        builder.push(&messages[0]);
        builder.extend(&records.slice(0..2));
        let joined = builder.finish();
        joined.verify().unwrap();
        let back: Vec<_> = joined.messages().map(Result::unwrap).collect();
        assert_eq!(back[..5], messages[4..9]);
        assert_eq!(back[5], messages[0]);
        assert_eq!(back[6..], messages[..2]);
        assert_eq!(builder.count(), 0);
    }

    #[test]
    fn fitting_is_the_largest_prefix_but_never_nothing() {
        let (_, records) = some(9);
        for start in 0..9 {
            for bytes in 0..300 {
                let fits = records.fitting(start, 100, bytes);
                assert!(fits >= 1);
                let cost = |n: usize| records.slice(start..start + n).byte_len();
                assert!(fits == 1 || cost(fits) <= bytes);
                assert!(start + fits == 9 || cost(fits + 1) > bytes);
            }
        }
        assert_eq!(records.fitting(9, 1, 100), 0);
        assert_eq!(records.fitting(0, 0, 100), 0);
        assert_eq!(records.fitting(2, 3, 10_000), 3);
    }

    #[test]
    fn bad_tables_and_flipped_bits_are_found() {
        let (_, records) = some(4);
        let table = records.table().clone();
        let payload = records.payload().clone();
        assert!(Records::from_parts(0, table.slice(1..), payload.clone()).is_err());
        assert!(Records::from_parts(1, table.clone(), payload.clone()).is_err());
        assert!(Records::from_parts(0, table.clone(), payload.slice(1..)).is_err());
        assert!(Records::from_parts(0, Bytes::new(), payload.slice(..1)).is_err());
        for bit in 0..(table.len() + payload.len()) * 8 {
            let (mut t, mut p) = (table.to_vec(), payload.to_vec());
            if bit / 8 < t.len() {
                t[bit / 8] ^= 1 << (bit % 8);
            } else {
                p[bit / 8 - table.len()] ^= 1 << (bit % 8);
            }
            let parsed = Records::from_parts(0, t.into(), p.into());
            assert!(parsed.and_then(|records| records.verify()).is_err(), "bit {bit}");
        }
    }
}
