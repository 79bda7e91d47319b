//! A block of a segment: some 144 KiB of records, in order.
//!
//! ```text
//! byte  0  magic        u32  "LTQb"
//!       4  runs         u32  stretches of records that share a time
//!       8  first        u64  offset of the first record
//!      16  count        u32  records
//!      20  payload_len  u32
//!      24  time_max     u64  the latest time of any record
//!      32  base         u32  see `ltq_core::Records`
//!      36  meta_crc     u32  CRC-32C of runs, gaps and table
//!      40  gaps         u32  places between records where offsets are left out
//!      44  header_crc   u32  of the bytes before, seeded with the file and the position
//!      48  runs              runs times { records: u32, time: u64 }
//!          gaps              gaps times { before: u32, offsets: u32 }: before which record of the
//!                            block how many offsets are left out
//!          table             count times { end: u32, crc: u32 }
//!          payload           the encoded messages
//!          zeros             up to a multiple of 8
//!          parity            of runs, gaps and table: see `parity`; at most 512 bytes
//!          header            again, with the magic "LTQB", its checksum for its own position
//! ```
//!
//! A damaged payload costs the records whose checksums are wrong. Damage around it costs nothing
//! as long as it stays within a sector: the other header is whole then, and the parity restores the
//! rest. A sector that reaches into both headers holds all the records between.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};
use ltq_core::{Offset, RecordBatch, Records, RecordsBuilder, TABLE_ENTRY_BYTES, Timestamp};

use super::{
    entry::padded,
    format::Salt,
    parity::{parity_len, parity_of, restore},
};

/// Bytes of a block's header.
pub(super) const BLOCK_HEADER_BYTES: usize = 48;
/// A block is closed once it has so many bytes: enough that reading it is mostly transfer, that its
/// place in an index costs next to nothing, and that what stands around its records makes up less
/// than 0.5 % of it.
pub(super) const BLOCK_BYTES: usize = 144 << 10;
/// What stands around the records of a block, without runs and gaps, at most.
pub(super) const AROUND_BYTES_MAX: u64 = 2 * BLOCK_HEADER_BYTES as u64 + parity_len(1 << 20) + 8;
const RUN_BYTES: usize = 12;
const GAP_BYTES: usize = 8;
const MAGIC: u32 = u32::from_le_bytes(*b"LTQb");
const MAGIC_BEHIND: u32 = u32::from_le_bytes(*b"LTQB");

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
    gaps: u32,
}

impl BlockHeader {
    /// The header that stands at `position` of the file of that salt, before or behind its block,
    /// and where that begins; `None` when these bytes are none.
    pub(super) fn decode(salt: Salt, position: u64, bytes: &[u8]) -> Option<(Self, u64)> {
        let (content, mut crc) =
            bytes.get(..BLOCK_HEADER_BYTES)?.split_at_checked(BLOCK_HEADER_BYTES - 4)?;
        let mut from = content;
        let magic = from.get_u32_le();
        if (magic != MAGIC && magic != MAGIC_BEHIND)
            || crc.get_u32_le() != salt.checksum(position, content)
        {
            return None;
        }
        let runs = from.get_u32_le();
        let first = Offset(from.get_u64_le());
        let (count, payload_len) = (from.get_u32_le(), from.get_u32_le());
        let time_max = Timestamp(from.get_u64_le());
        let (base, meta_crc) = (from.get_u32_le(), from.get_u32_le());
        let gaps = from.get_u32_le();
        let header = Self { runs, first, count, payload_len, time_max, base, meta_crc, gaps };
        let start = if magic == MAGIC {
            position
        } else {
            (position + BLOCK_HEADER_BYTES as u64).checked_sub(header.block_bytes())?
        };
        Some((header, start))
    }

    /// Writes the header before and behind a block that stands at that position.
    fn encode(&self, salt: Salt, position: u64, block: &mut [u8]) {
        let behind = block.len().saturating_sub(BLOCK_HEADER_BYTES);
        self.encode_one(MAGIC, salt, position, block);
        let block = block.get_mut(behind..).unwrap_or_default();
        self.encode_one(MAGIC_BEHIND, salt, position + behind as u64, block);
    }

    fn encode_one(&self, magic: u32, salt: Salt, position: u64, into: &mut [u8]) {
        let Some((content, mut crc)) = into.split_at_mut_checked(BLOCK_HEADER_BYTES - 4) else {
            return;
        };
        let mut to = &mut *content;
        to.put_u32_le(magic);
        to.put_u32_le(self.runs);
        to.put_u64_le(self.first.0);
        to.put_u32_le(self.count);
        to.put_u32_le(self.payload_len);
        to.put_u64_le(self.time_max.0);
        to.put_u32_le(self.base);
        to.put_u32_le(self.meta_crc);
        to.put_u32_le(self.gaps);
        crc.put_u32_le(salt.checksum(position, content));
    }

    /// Bytes of the whole block.
    pub(super) const fn block_bytes(&self) -> u64 {
        self.parity_at() + parity_len(self.meta_len()) + BLOCK_HEADER_BYTES as u64
    }

    /// Where the payload begins.
    pub(super) const fn payload_at(&self) -> u64 {
        BLOCK_HEADER_BYTES as u64 + self.meta_len()
    }

    /// Bytes of the encoded messages.
    pub(super) const fn payload_len(&self) -> u64 {
        self.payload_len as u64
    }

    /// Where the parity begins.
    pub(super) const fn parity_at(&self) -> u64 {
        padded(self.payload_at() + self.payload_len())
    }

    /// Bytes of runs, gaps and table.
    const fn meta_len(&self) -> u64 {
        self.runs as u64 * RUN_BYTES as u64
            + self.gaps as u64 * GAP_BYTES as u64
            + self.count as u64 * TABLE_BYTES
    }
}

/// What a block says of its records: which they are, and how large. It is read without them.
#[derive(Debug)]
pub(super) struct BlockMeta {
    /// In order, as few as times and gaps allow.
    pieces: Vec<Piece>,
    table: Bytes,
    base: u32,
}

/// Records in a row that share a time.
#[derive(Clone, Debug)]
struct Piece {
    first: Offset,
    /// Which of the block's they are.
    places: Range<usize>,
    time: Timestamp,
}

impl Piece {
    fn end(&self) -> Offset {
        self.first.plus(self.places.len() as u64)
    }

    /// Those of a range of offsets.
    fn within(&self, range: &Range<Offset>) -> Option<Self> {
        let (first, end) = (self.first.max(range.start), self.end().min(range.end));
        let start = self.places.start + first.since(self.first) as usize;
        let places = start..start + end.since(first) as usize;
        (first < end).then_some(Self { first, places, time: self.time })
    }
}

impl BlockMeta {
    /// Takes the beginning of a block, up to its payload or further, apart. `None` when any of it
    /// is damaged.
    pub(super) fn decode_front(salt: Salt, position: u64, front: &Bytes) -> Option<Self> {
        let (header, _) = BlockHeader::decode(salt, position, front)?;
        let payload_at = header.payload_at() as usize;
        let meta = front.get(BLOCK_HEADER_BYTES..payload_at)?;
        Self::decode(&header, &front.slice_ref(meta))
    }

    /// Takes runs, gaps and table apart. `None` when they are damaged.
    fn decode(header: &BlockHeader, bytes: &Bytes) -> Option<Self> {
        let gaps_at = header.runs as usize * RUN_BYTES;
        let table_at = gaps_at + header.gaps as usize * GAP_BYTES;
        if crc32c::crc32c(bytes) != header.meta_crc {
            return None;
        }
        let mut runs = bytes.get(..gaps_at)?;
        let mut gaps = bytes.get(gaps_at..table_at)?;
        let mut next_gap =
            || gaps.has_remaining().then(|| (gaps.get_u32_le() as usize, gaps.get_u32_le()));
        let mut gap = next_gap();
        let (mut pieces, mut at, mut next) = (Vec::new(), 0, header.first);
        while runs.has_remaining() {
            let until = at + runs.get_u32_le() as usize;
            let time = Timestamp(runs.get_u64_le());
            while at < until {
                if let Some((_, offsets)) = gap.take_if(|gap| gap.0 == at) {
                    next = Offset(next.0.checked_add(u64::from(offsets))?);
                    gap = next_gap();
                }
                let end = gap.map_or(until, |(before, _)| before.min(until));
                if end <= at {
                    return None;
                }
                pieces.push(Piece { first: next, places: at..end, time });
                next = Offset(next.0.checked_add((end - at) as u64)?);
                at = end;
            }
        }
        let base = header.base;
        let all = at == header.count as usize && gap.is_none() && table_at <= bytes.len();
        all.then(|| Self { pieces, table: bytes.slice(table_at..), base })
    }

    /// How many bytes the records of some ranges of offsets take, table included, and how many
    /// more to say when they were appended and what is left out between them.
    pub(super) fn bytes_in(&self, ranges: &[Range<Offset>]) -> (u64, u64) {
        let end_of = |place: usize| {
            let entry = self.table.get(place * TABLE_ENTRY_BYTES..).unwrap_or_default();
            entry.first_chunk().map_or(self.base, |end| u32::from_le_bytes(*end))
        };
        let (mut records, mut more) = (0, 0);
        let (mut last_time, mut next) = (None, None);
        let mut ranges = ranges.iter().peekable();
        for piece in &self.pieces {
            while ranges.next_if(|range| range.end <= piece.first).is_some() {}
            let mut here = ranges.clone().take_while(|range| range.start < piece.end());
            while let Some(part) = here.next().and_then(|range| piece.within(range)) {
                let start = part.places.start.checked_sub(1).map_or(self.base, end_of);
                let end = part.places.end.checked_sub(1).map_or(self.base, end_of);
                let payload = u64::from(end.wrapping_sub(start));
                records += payload + part.places.len() as u64 * TABLE_BYTES;
                more += if last_time == Some(part.time) { 0 } else { RUN_BYTES as u64 };
                more += if next == Some(part.first) { 0 } else { GAP_BYTES as u64 };
                (last_time, next) = (Some(part.time), Some(part.end()));
            }
        }
        (records, more)
    }
}

/// A block, read back.
#[derive(Debug)]
pub(super) struct Block {
    header: BlockHeader,
    meta: BlockMeta,
    records: Records,
    faults: Faults,
}

/// What around the records of a block is not as it was written. It costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Faults {
    header: bool,
    table: bool,
    second_header: bool,
}

impl Block {
    /// Takes the bytes of a whole block apart, which stand at that position, and restores what
    /// stands around its records. `None` when too much of that is damaged. Records are not checked.
    pub(super) fn decode(salt: Salt, position: u64, block: &Bytes) -> Option<Self> {
        let behind = block.len().checked_sub(BLOCK_HEADER_BYTES)?;
        let header_at = |at: usize| {
            let found = BlockHeader::decode(salt, position + at as u64, block.get(at..)?);
            let ours = |it: &BlockHeader, start: u64| {
                start == position && it.block_bytes() == block.len() as u64
            };
            found.filter(|(header, start)| ours(header, *start)).map(|(header, _)| header)
        };
        let (front, back) = (header_at(0), header_at(behind));
        let mut faults =
            Faults { header: front.is_none(), second_header: back.is_none(), table: false };
        let header = front.or(back)?;
        let (payload_at, parity_at) = (header.payload_at() as usize, header.parity_at() as usize);
        let payload = block.slice(payload_at..payload_at + header.payload_len as usize);
        let mut bytes = block.slice(BLOCK_HEADER_BYTES..payload_at);
        let is_whole = |bytes: &[u8]| crc32c::crc32c(bytes) == header.meta_crc;
        if !is_whole(&bytes) {
            let mut restored = bytes.to_vec();
            let parity = block.get(parity_at..behind)?;
            let stands_at = position + BLOCK_HEADER_BYTES as u64;
            faults.table = restore(&mut restored, parity, stands_at, is_whole);
            bytes = Bytes::from(restored);
        }
        let meta = BlockMeta::decode(&header, &bytes)?;
        let records = Records::from_parts(header.base, meta.table.clone(), payload).ok()?;
        Some(Self { header, meta, records, faults })
    }

    pub(super) const fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// What it says of its records, without them.
    pub(super) fn into_meta(self) -> BlockMeta {
        self.meta
    }

    /// Whether something around its records is damaged, as far as that shows without looking at
    /// what is not needed.
    pub(super) fn is_restored(&self) -> bool {
        self.faults != Faults::default()
    }

    /// What around its records is damaged, and where in the block, whose bytes these are.
    pub(super) fn faults(&self, block: &[u8]) -> Vec<(u64, &'static str)> {
        let (payload_at, parity_at) = (self.header.payload_at(), self.header.parity_at());
        let behind = self.header.block_bytes() - BLOCK_HEADER_BYTES as u64;
        let part = |from: u64, until: u64| block.get(from as usize..until as usize);
        let fill = part(payload_at + self.header.payload_len(), parity_at).unwrap_or_default();
        let meta = part(BLOCK_HEADER_BYTES as u64, payload_at).unwrap_or_default();
        let parity = part(parity_at, behind).unwrap_or_default();
        let wrong_parity = !self.faults.table && parity_of(meta) != parity;
        let all = [
            (self.faults.header, 0, "the header of a block is damaged"),
            (self.faults.table, BLOCK_HEADER_BYTES as u64, "the table of a block is damaged"),
            (
                fill.iter().any(|&byte| byte != 0),
                parity_at - fill.len() as u64,
                "bytes that hold nothing are not zero",
            ),
            (wrong_parity, parity_at, "the parity of a block's table is damaged"),
            (self.faults.second_header, behind, "the second header of a block is damaged"),
        ];
        all.into_iter().filter(|it| it.0).map(|(_, at, what)| (at, what)).collect()
    }

    pub(super) const fn records(&self) -> &Records {
        &self.records
    }

    /// Which of its records has this offset.
    pub(super) fn place_of(&self, offset: Offset) -> Option<usize> {
        let at = self.meta.pieces.partition_point(|piece| piece.end() <= offset);
        let piece = self.meta.pieces.get(at).filter(|piece| piece.first <= offset)?;
        Some(piece.places.start + offset.since(piece.first) as usize)
    }

    /// The offset of a record by its place; behind the last one, where the block ends.
    pub(super) fn offset_of(&self, place: usize) -> Offset {
        let at = self.meta.pieces.partition_point(|piece| piece.places.end <= place);
        match self.meta.pieces.get(at) {
            Some(piece) => piece.first.plus(place.saturating_sub(piece.places.start) as u64),
            None => self.meta.pieces.last().map_or(Offset::ZERO, Piece::end),
        }
    }

    /// The records of a range of offsets, as batches of one time each.
    pub(super) fn batches(&self, range: Range<Offset>) -> impl Iterator<Item = RecordBatch> + '_ {
        let start = self.meta.pieces.partition_point(|piece| piece.end() <= range.start);
        let pieces = self.meta.pieces.get(start..).unwrap_or_default();
        pieces.iter().map_while(move |piece| {
            let Piece { first, places, time } = piece.within(&range)?;
            Some(RecordBatch { first, time, records: self.records.slice(places) })
        })
    }
}

/// Collects records into a block.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    first: Offset,
    end: Offset,
    records: RecordsBuilder,
    runs: Vec<(u32, Timestamp)>,
    gaps: Vec<(u32, u32)>,
}

impl BlockBuilder {
    /// Whether records that begin at an offset can be in one block with those so far.
    pub(super) fn reaches(&self, first: Offset) -> bool {
        self.is_empty() || first.since(self.end) <= u64::from(u32::MAX)
    }

    /// Takes as many of the records as still fit, at least one. They lie behind those before,
    /// within reach.
    pub(super) fn take(&mut self, batch: &mut RecordBatch) {
        if self.is_empty() {
            self.first = batch.first;
        } else if self.end != batch.first {
            let offsets = batch.first.since(self.end) as u32;
            self.gaps.push((self.records.count() as u32, offsets));
        }
        let left = BLOCK_BYTES.saturating_sub(self.records.byte_len());
        let count = batch.records.fitting(0, usize::MAX, left);
        self.records.extend(&batch.records.slice(0..count));
        match self.runs.last_mut() {
            Some((run, time)) if *time == batch.time => *run += count as u32,
            _ => self.runs.push((count as u32, batch.time)),
        }
        self.end = batch.first.plus(count as u64);
        *batch = batch.slice(self.end, batch.end());
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
    pub(super) const fn end(&self) -> Offset {
        self.end
    }

    /// The block, for that position; the builder is empty afterwards.
    pub(super) fn finish(&mut self, salt: Salt, position: u64) -> (BlockHeader, Vec<u8>) {
        let records = self.records.finish();
        let (runs, gaps) = (std::mem::take(&mut self.runs), std::mem::take(&mut self.gaps));
        let mut header = BlockHeader {
            runs: runs.len() as u32,
            first: self.first,
            count: records.count() as u32,
            payload_len: records.payload().len() as u32,
            time_max: runs.iter().map(|&(_, time)| time).max().unwrap_or_default(),
            base: records.base(),
            meta_crc: 0,
            gaps: gaps.len() as u32,
        };
        let mut bytes = Vec::with_capacity(header.block_bytes() as usize);
        bytes.resize(BLOCK_HEADER_BYTES, 0);
        for (count, time) in runs {
            bytes.put_u32_le(count);
            bytes.put_u64_le(time.0);
        }
        for (before, offsets) in gaps {
            bytes.put_u32_le(before);
            bytes.put_u32_le(offsets);
        }
        bytes.put_slice(records.table());
        let meta = bytes.get(BLOCK_HEADER_BYTES..).unwrap_or_default();
        header.meta_crc = crc32c::crc32c(meta);
        let parity = parity_of(meta);
        bytes.put_slice(records.payload());
        bytes.resize(header.parity_at() as usize, 0);
        bytes.put_slice(&parity);
        bytes.resize(header.block_bytes() as usize, 0);
        header.encode(salt, position, &mut bytes);
        (header, bytes)
    }
}

const TABLE_BYTES: u64 = TABLE_ENTRY_BYTES as u64;
