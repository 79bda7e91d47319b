//! Where the blocks of a segment are. Derived from the segment's block headers alone.

use std::io;

use ltq_core::{Offset, Timestamp};

use super::{
    block::{BLOCK_HEADER_BYTES, BlockHeader},
    filesystem::{StoreFile, read_up_to},
    format::{HEADER_BYTES, Salt},
};

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockAt {
    pub(super) first: Offset,
    pub(super) position: u64,
    /// How many records are in it.
    pub(super) count: u32,
    /// Bytes of the whole block, of what stands before its records, and of those.
    pub(super) bytes: u64,
    pub(super) meta_bytes: u64,
    pub(super) payload_bytes: u64,
    /// The latest time of any record in it.
    pub(super) time_max: Timestamp,
}

/// The blocks of a segment, in order. Those of which both headers are damaged are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentIndex {
    blocks: Vec<BlockAt>,
}

impl SegmentIndex {
    /// Finds the blocks in the first `bytes` of a segment, each by either of its headers. Behind a
    /// block with none it goes on with the next one that has one.
    pub(super) fn scan(file: &dyn StoreFile, salt: Salt, bytes: u64) -> io::Result<Self> {
        let mut index = Self::default();
        let mut position = HEADER_BYTES as u64;
        while let Some((at, header)) = next_block(file, salt, position, bytes)? {
            index.push(at, &header);
            position = at + header.block_bytes();
        }
        Ok(index)
    }

    pub(super) fn push(&mut self, position: u64, header: &BlockHeader) {
        self.blocks.push(BlockAt {
            first: header.first,
            position,
            count: header.count,
            bytes: header.block_bytes(),
            meta_bytes: header.payload_at(),
            payload_bytes: header.payload_len(),
            time_max: header.time_max,
        });
    }

    /// All blocks, in order, each with the offset before which its records end.
    pub(super) fn blocks(&self, end: Offset) -> impl Iterator<Item = (BlockAt, Offset)> + '_ {
        let ends = self.blocks.iter().skip(1).map(|next| next.first).chain([end]);
        self.blocks.iter().copied().zip(ends)
    }

    /// The last block that begins at or before an offset, and the one after it.
    pub(super) fn find(&self, offset: Offset) -> (Option<BlockAt>, Option<BlockAt>) {
        let after = self.blocks.partition_point(|block| block.first <= offset);
        let block = after.checked_sub(1).and_then(|at| self.blocks.get(at));
        (block.copied(), self.blocks.get(after).copied())
    }

    /// The blocks from that of an offset on which hold a record of `time` or later.
    pub(super) fn late(&self, from: Offset, time: Timestamp) -> impl Iterator<Item = BlockAt> + '_ {
        let start = self.blocks.partition_point(|block| block.first <= from).saturating_sub(1);
        let rest = self.blocks.get(start..).unwrap_or_default();
        rest.iter().filter(move |block| block.time_max >= time).copied()
    }
}

/// The first block, of the first `bytes` of a segment, that begins at a position or behind it and
/// has one of its headers, and where it begins.
pub(super) fn next_block(
    file: &dyn StoreFile,
    salt: Salt,
    from: u64,
    bytes: u64,
) -> io::Result<Option<(u64, BlockHeader)>> {
    let mut header = [0; BLOCK_HEADER_BYTES];
    if from + BLOCK_HEADER_BYTES as u64 > bytes {
        return Ok(None);
    }
    let read = read_up_to(file, &mut header, from)?;
    let found = BlockHeader::decode(salt, from, header.get(..read).unwrap_or_default());
    match found.filter(|(_, begins)| *begins == from) {
        Some((header, _)) => Ok(Some((from, header))),
        None => search(file, salt, from, bytes),
    }
}

/// The first block at or behind a position of which a header is whole, and where it begins.
fn search(
    file: &dyn StoreFile,
    salt: Salt,
    from: u64,
    bytes: u64,
) -> io::Result<Option<(u64, BlockHeader)>> {
    let mut window = vec![0; WINDOW_BYTES];
    let mut start = from;
    while start < bytes {
        let read = read_up_to(file, &mut window, start)?;
        let read = read.min((bytes - start) as usize);
        let found = (0..read.saturating_sub(BLOCK_HEADER_BYTES - 1)).step_by(8).find_map(|at| {
            let position = start + at as u64;
            let header = window.get(at..at + BLOCK_HEADER_BYTES)?;
            let (header, begins) = BlockHeader::decode(salt, position, header)?;
            (begins >= from).then_some((begins, header))
        });
        if found.is_some() || read < WINDOW_BYTES {
            return Ok(found);
        }
        // Windows overlap by a header that may lie across their border.
        start += (WINDOW_BYTES - BLOCK_HEADER_BYTES) as u64;
    }
    Ok(None)
}

/// A multiple of 8, so that the windows stay aligned as blocks are.
const WINDOW_BYTES: usize = 256 << 10;
