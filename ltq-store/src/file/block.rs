//! A block of a segment: some 128 KiB of consecutive records.
//!
//! ```text
//! byte  0  magic        u32  "LTQb"
//!       4  runs         u32  stretches of records that share a time
//!       8  first        u64  offset of the first record
//!      16  count        u32  records
//!      20  payload_len  u32
//!      24  time_max     u64  the latest time of any record
//!      32  base         u32  see `ltq_core::Records`
//!      36  meta_crc     u32  CRC-32C of runs and table
//!      40  zero         u32
//!      44  header_crc   u32  of the bytes before, seeded with the file and the position
//!      48  runs              runs times { records: u32, time: u64 }
//!          table             count times { end: u32, crc: u32 }
//!          payload           the encoded messages
//!          zeros             up to a multiple of 8
//! ```
//!
//! A damaged payload costs the records whose checksums are wrong; damage before it the block.

use bytes::{Buf, BufMut, Bytes};
use ltq_core::{Offset, RecordBatch, Records, RecordsBuilder, TABLE_ENTRY_BYTES, Timestamp};

use super::{entry::padded, format::Salt};

/// Bytes of a block's header.
pub(super) const BLOCK_HEADER_BYTES: usize = 48;
/// A block is closed once it has so many bytes: enough that reading it is mostly transfer, and
/// that its place in an index costs next to nothing.
pub(super) const BLOCK_BYTES: usize = 128 << 10;
const RUN_BYTES: usize = 12;
const MAGIC: u32 = u32::from_le_bytes(*b"LTQb");

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    runs: u32,
    pub(super) first: Offset,
    pub(super) count: u32,
    payload_len: u32,
    pub(super) time_max: Timestamp,
    base: u32,
    meta_crc: u32,
}

impl BlockHeader {
    pub(super) fn decode(salt: Salt, position: u64, bytes: &[u8]) -> Option<Self> {
        let (content, mut crc) =
            bytes.get(..BLOCK_HEADER_BYTES)?.split_at_checked(BLOCK_HEADER_BYTES - 4)?;
        let mut from = content;
        if from.get_u32_le() != MAGIC || crc.get_u32_le() != salt.checksum(position, content) {
            return None;
        }
        let runs = from.get_u32_le();
        let first = Offset(from.get_u64_le());
        let (count, payload_len) = (from.get_u32_le(), from.get_u32_le());
        let time_max = Timestamp(from.get_u64_le());
        let (base, meta_crc) = (from.get_u32_le(), from.get_u32_le());
        Some(Self { runs, first, count, payload_len, time_max, base, meta_crc })
    }

    fn encode(&self, salt: Salt, position: u64, into: &mut [u8]) {
        let Some((content, mut crc)) = into.split_at_mut_checked(BLOCK_HEADER_BYTES - 4) else {
            return;
        };
        let mut to = &mut *content;
        to.put_u32_le(MAGIC);
        to.put_u32_le(self.runs);
        to.put_u64_le(self.first.0);
        to.put_u32_le(self.count);
        to.put_u32_le(self.payload_len);
        to.put_u64_le(self.time_max.0);
        to.put_u32_le(self.base);
        to.put_u32_le(self.meta_crc);
        to.put_u32_le(0);
        crc.put_u32_le(salt.checksum(position, content));
    }

    /// The offset behind the last record.
    pub(super) const fn end(&self) -> Offset {
        self.first.plus(self.count as u64)
    }

    /// Bytes of the whole block.
    pub(super) const fn block_bytes(&self) -> u64 {
        padded(self.payload_at() + self.payload_len as u64)
    }

    /// Where the payload begins.
    pub(super) const fn payload_at(&self) -> u64 {
        let meta = self.runs as u64 * RUN_BYTES as u64 + self.count as u64 * TABLE_BYTES;
        BLOCK_HEADER_BYTES as u64 + meta
    }
}

/// A block, read back.
#[derive(Debug)]
pub(super) struct Block {
    first: Offset,
    records: Records,
    /// Up to which record a time holds, and which.
    runs: Vec<(usize, Timestamp)>,
}

impl Block {
    /// Takes the bytes of a whole block apart. Records are not checked.
    pub(super) fn decode(header: &BlockHeader, block: &Bytes) -> Option<Self> {
        let table_at = BLOCK_HEADER_BYTES + header.runs as usize * RUN_BYTES;
        let payload_at = header.payload_at() as usize;
        let end = payload_at + header.payload_len as usize;
        if crc32c::crc32c(block.get(BLOCK_HEADER_BYTES..payload_at)?) != header.meta_crc {
            return None;
        }
        let mut run_bytes = block.get(BLOCK_HEADER_BYTES..table_at)?;
        let mut runs = Vec::with_capacity(header.runs as usize);
        let mut until = 0;
        while run_bytes.has_remaining() {
            until += run_bytes.get_u32_le() as usize;
            runs.push((until, Timestamp(run_bytes.get_u64_le())));
        }
        if until != header.count as usize || block.len() < end {
            return None;
        }
        let (table, payload) = (block.slice(table_at..payload_at), block.slice(payload_at..end));
        let records = Records::from_parts(header.base, table, payload).ok()?;
        Some(Self { first: header.first, records, runs })
    }

    pub(super) const fn records(&self) -> &Records {
        &self.records
    }

    /// The records of a range, by their place in the block, as batches of one time each.
    pub(super) fn batches(
        &self,
        range: std::ops::Range<usize>,
    ) -> impl Iterator<Item = RecordBatch> + '_ {
        let mut start = range.start;
        self.runs.iter().filter_map(move |&(until, time)| {
            let end = until.min(range.end);
            if end <= start {
                return None;
            }
            let records = self.records.slice(start..end);
            let first = self.first.plus(start as u64);
            start = end;
            Some(RecordBatch { first, time, records })
        })
    }
}

/// Collects records into a block.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    first: Offset,
    records: RecordsBuilder,
    runs: Vec<(u32, Timestamp)>,
}

impl BlockBuilder {
    /// Takes as many of the records as still fit, at least one. They follow those before.
    pub(super) fn take(&mut self, batch: &mut RecordBatch) {
        if self.is_empty() {
            self.first = batch.first;
        }
        let left = BLOCK_BYTES.saturating_sub(self.records.byte_len());
        let count = batch.records.fitting(0, usize::MAX, left);
        self.records.extend(&batch.records.slice(0..count));
        match self.runs.last_mut() {
            Some((run, time)) if *time == batch.time => *run += count as u32,
            _ => self.runs.push((count as u32, batch.time)),
        }
        *batch = batch.slice(batch.first.plus(count as u64), batch.end());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.count() == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.records.byte_len() >= BLOCK_BYTES
    }

    /// The offset of the first record.
    pub(super) const fn first(&self) -> Offset {
        self.first
    }

    /// The offset behind the last record.
    pub(super) fn end(&self) -> Offset {
        self.first.plus(self.records.count() as u64)
    }

    /// The block, for that position; the builder is empty afterwards.
    pub(super) fn finish(&mut self, salt: Salt, position: u64) -> (BlockHeader, Vec<u8>) {
        let records = self.records.finish();
        let runs = std::mem::take(&mut self.runs);
        let mut header = BlockHeader {
            runs: runs.len() as u32,
            first: self.first,
            count: records.count() as u32,
            payload_len: records.payload().len() as u32,
            time_max: runs.iter().map(|&(_, time)| time).max().unwrap_or_default(),
            base: records.base(),
            meta_crc: 0,
        };
        let mut bytes = Vec::with_capacity(header.block_bytes() as usize);
        bytes.resize(BLOCK_HEADER_BYTES, 0);
        for (count, time) in runs {
            bytes.put_u32_le(count);
            bytes.put_u64_le(time.0);
        }
        bytes.put_slice(records.table());
        header.meta_crc = crc32c::crc32c(bytes.get(BLOCK_HEADER_BYTES..).unwrap_or_default());
        bytes.put_slice(records.payload());
        bytes.resize(header.block_bytes() as usize, 0);
        header.encode(salt, position, &mut bytes);
        (header, bytes)
    }
}

const TABLE_BYTES: u64 = TABLE_ENTRY_BYTES as u64;
