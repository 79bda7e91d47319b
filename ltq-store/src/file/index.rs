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
    /// Bytes of the whole block, and of what stands before its records.
    pub(super) bytes: u64,
    pub(super) meta_bytes: u64,
    /// The latest time of any record in it.
    pub(super) time_max: Timestamp,
}

/// The blocks of a segment, in order. Those whose headers are damaged are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentIndex {
    blocks: Vec<BlockAt>,
}

impl SegmentIndex {
    /// Finds the blocks in the first `bytes` of a segment. Behind a damaged header it goes on with
    /// the next one that is whole.
    pub(super) fn scan(file: &dyn StoreFile, salt: Salt, bytes: u64) -> io::Result<Self> {
        let mut index = Self::default();
        let mut position = HEADER_BYTES as u64;
        let mut header = [0; BLOCK_HEADER_BYTES];
        while position < bytes {
            let read = read_up_to(file, &mut header, position)?;
            let found = BlockHeader::decode(salt, position, header.get(..read).unwrap_or_default());
            let (at, found) = match found {
                Some(found) => (position, found),
                None => match search(file, salt, position + 8, bytes)? {
                    Some(next) => next,
                    None => break,
                },
            };
            index.push(at, &found);
            position = at + found.block_bytes();
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

/// The first block header at or behind a position.
pub(super) fn search(
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
            Some((position, BlockHeader::decode(salt, position, header)?))
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
