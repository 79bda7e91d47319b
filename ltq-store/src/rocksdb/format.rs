//! What stands in RocksDB, byte by byte.
//!
//! Each log has a number, which no other log has had before it. In keys, numbers and offsets are
//! big-endian, so that they stand in order; in values everything is little-endian.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `default` | `next_log_id` | the number of the next log: u64 |
//! | `logs` | the log's name | number u64, first offset u64, end u64, bytes that its records take u64, 1 if durable u8 |
//! | `records` | number u64, first offset u64 | a *piece*: records of one append of a durable log |
//! | `loose` | the same | the same of logs that are not durable; written without the write-ahead log |
//! | `times` | number u64, time u64 | an offset u64: all records before it are earlier than that time |
//! | `discards` | number u64, offset u64 | until u64: the records in between were discarded |
//! | `values` | the key | the value |
//!
//! An append becomes pieces of at most [`PIECE_BYTES`], or of one record:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | the time of the append, milliseconds since 1970: u64 |
//! | 4 | what the first record's start counts as in the table: u32 |
//! | 4 | how many records there are: u32 |
//! | 4 | CRC-32C of the first offset (u64), the 16 bytes above, and the table: u32 |
//! | 8 each | the table of the records |
//! | the rest | their payload, each record under its own CRC-32C in the table |
//!
//! A log's entry is rewritten with each append and truncation, in the same batch; that of a log
//! which is not durable only when it is made, and when the store is closed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ltq_core::{LogOptions, Offset, RecordBatch, Records, TABLE_ENTRY_BYTES, Timestamp};

/// The version of all this. A store of a newer one is refused.
pub(super) const VERSION: u32 = 1;
/// The key of the next log's number.
pub(super) const NEXT_LOG_ID: &[u8] = b"next_log_id";
/// Pieces are not made larger: what one read wants of a piece, it reads whole.
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// No piece has more records: each has an entry in its table.
pub(super) const PIECE_RECORDS_MAX: u64 = (PIECE_BYTES / TABLE_ENTRY_BYTES) as u64;
const ENTRY_BYTES: usize = 33;
const PIECE_HEADER_BYTES: usize = 20;

/// Where a log is at, as its entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogEntry {
    pub(super) id: u64,
    pub(super) first: Offset,
    pub(super) end: Offset,
    /// About how many bytes its records take.
    pub(super) bytes: u64,
    pub(super) options: LogOptions,
}

impl LogEntry {
    pub(super) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let mut rest = &mut bytes[..];
        rest.put_u64_le(self.id);
        rest.put_u64_le(self.first.0);
        rest.put_u64_le(self.end.0);
        rest.put_u64_le(self.bytes);
        rest.put_u8(u8::from(self.options.durable));
        bytes
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() != ENTRY_BYTES {
            return None;
        }
        let (id, first, end) = (bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le());
        let taken = bytes.get_u64_le();
        let durable = match bytes.get_u8() {
            0 => false,
            1 => true,
            _ => return None,
        };
        (first <= end).then_some(Self {
            id,
            first: Offset(first),
            end: Offset(end),
            bytes: taken,
            options: LogOptions { durable },
        })
    }
}

/// A key of a log's number and an offset or time.
pub(super) fn key(id: u64, place: u64) -> [u8; 16] {
    (u128::from(id) << 64 | u128::from(place)).to_be_bytes()
}

/// The number and the offset or time of a key.
pub(super) fn parse_key(key: &[u8]) -> Option<(u64, u64)> {
    let both = u128::from_be_bytes(key.try_into().ok()?);
    Some(((both >> 64) as u64, both as u64))
}

pub(super) fn parse_u64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// Records of one append, encoded once: RocksDB copies these bytes, and memory keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) batch: RecordBatch,
    pub(super) value: Bytes,
}

impl Piece {
    fn new(first: Offset, time: Timestamp, records: &Records) -> Self {
        let (table, payload) = (records.table(), records.payload());
        let mut value = BytesMut::with_capacity(PIECE_HEADER_BYTES + records.byte_len());
        value.put_u64_le(time.0);
        value.put_u32_le(records.base());
        value.put_u32_le((table.len() / TABLE_ENTRY_BYTES) as u32);
        let crc = header_crc(first, &value, table);
        value.put_u32_le(crc);
        value.put_slice(table);
        value.put_slice(payload);
        let value = value.freeze();
        let payload_at = PIECE_HEADER_BYTES + table.len();
        let (table, payload) =
            (value.slice(PIECE_HEADER_BYTES..payload_at), value.slice(payload_at..));
        // The copy has the table of the original, which fitted its payload.
        let records = Records::from_parts(records.base(), table, payload).unwrap_or_default();
        Self { batch: RecordBatch { first, time, records }, value }
    }

    /// Cuts records into pieces.
    pub(super) fn cut(first: Offset, time: Timestamp, records: &Records) -> Vec<Self> {
        let (mut pieces, mut start) = (Vec::new(), 0);
        while start < records.count() {
            let count = records.fitting(start, usize::MAX, PIECE_BYTES).max(1);
            let part = records.slice(start..start + count);
            pieces.push(Self::new(first.plus(start as u64), time, &part));
            start += count;
        }
        pieces
    }

    /// Reads back a piece. The checksums of the records themselves are left to their reader.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(first: Offset, value: &Bytes) -> Result<RecordBatch, String> {
        let (time, base, table_end) = Self::decode_header(first, value)?;
        let (table, payload) =
            (value.slice(PIECE_HEADER_BYTES..table_end), value.slice(table_end..));
        let records = Records::from_parts(base, table, payload).map_err(|it| it.to_string())?;
        Ok(RecordBatch { first, time, records })
    }

    /// When the records of a piece were appended, and how many they are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn time_of(first: Offset, value: &[u8]) -> Result<(Timestamp, u64), String> {
        let (time, _, table_end) = Self::decode_header(first, value)?;
        Ok((time, ((table_end - PIECE_HEADER_BYTES) / TABLE_ENTRY_BYTES) as u64))
    }

    fn decode_header(first: Offset, value: &[u8]) -> Result<(Timestamp, u32, usize), String> {
        let short = || format!("it has {} bytes, too few for what it is", value.len());
        let mut header = value.get(..PIECE_HEADER_BYTES).ok_or_else(short)?;
        let (head, _) = header.split_at(PIECE_HEADER_BYTES - 4);
        let (time, base, count) = (header.get_u64_le(), header.get_u32_le(), header.get_u32_le());
        let expected = header.get_u32_le();
        let table_end = (count as usize)
            .checked_mul(TABLE_ENTRY_BYTES)
            .and_then(|len| len.checked_add(PIECE_HEADER_BYTES))
            .ok_or_else(short)?;
        let table = value.get(PIECE_HEADER_BYTES..table_end).ok_or_else(short)?;
        let found = header_crc(first, head, table);
        if found != expected || count == 0 {
            return Err(format!("its checksum is {found:08x}, not {expected:08x}"));
        }
        Ok((Timestamp(time), base, table_end))
    }
}

fn header_crc(first: Offset, head: &[u8], table: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&first.0.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, head), table)
}

#[cfg(test)]
mod tests {
    use ltq_core::Message;

    use super::*;

    fn some(count: usize, len: usize) -> Records {
        let messages: Vec<_> = (0..count).map(|i| Message::new(vec![i as u8; len])).collect();
        Records::encode(&messages)
    }

    #[test]
    fn pieces_hold_what_was_cut() {
        for (count, len, most) in [(1, 10, 1), (1, 200_000, 1), (10, 40_000, 10), (5_000, 100, 9)] {
            let records = some(count, len).slice(0..count);
            let pieces = Piece::cut(Offset(7), Timestamp(3), &records);
            assert!(pieces.len() <= most, "{} pieces", pieces.len());
            let mut next = Offset(7);
            for piece in &pieces {
                let decoded = Piece::decode(piece.batch.first, &piece.value).unwrap();
                assert_eq!(decoded, piece.batch);
                decoded.records.verify().unwrap();
                assert_eq!((decoded.first, decoded.time), (next, Timestamp(3)));
                let time = Piece::time_of(next, &piece.value).unwrap();
                assert_eq!(time, (Timestamp(3), decoded.records.count() as u64));
                next = decoded.end();
            }
            assert_eq!(next, Offset(7 + count as u64));
        }
    }

    #[test]
    fn promise_8_a_flipped_bit_anywhere_in_a_piece_is_found() {
        let records = some(5, 20).slice(1..4);
        let piece = Piece::cut(Offset(3), Timestamp(9), &records).remove(0);
        for bit in 0..piece.value.len() * 8 {
            let mut value = piece.value.to_vec();
            value[bit / 8] ^= 1 << (bit % 8);
            let read = Piece::decode(Offset(3), &value.into());
            assert!(read.is_err() || read.unwrap().records.verify().is_err(), "bit {bit}");
        }
        assert!(Piece::decode(Offset(4), &piece.value).is_err());
        for len in 0..piece.value.len() {
            let read = Piece::decode(Offset(3), &piece.value.slice(..len));
            assert!(read.is_err(), "cut to {len}");
        }
    }

    #[test]
    fn entries_and_keys_come_back() {
        let options = LogOptions { durable: false };
        let (first, end) = (Offset(5), Offset(u64::MAX));
        let entry = LogEntry { id: 3, first, end, bytes: 8, options };
        assert_eq!(LogEntry::decode(&entry.encode()), Some(entry));
        assert_eq!(LogEntry::decode(&entry.encode()[1..]), None);
        assert_eq!(parse_key(&key(7, u64::MAX)), Some((7, u64::MAX)));
        assert!(key(7, u64::MAX) < key(8, 0));
        assert_eq!(parse_key(b"short"), None);
    }
}
