//! Checks a segment, block by block and record by record.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use ltq_core::{LogName, Offset, RecordBatch, StoreError};

use super::{
    super::{
        block::{Block, BlockHeader},
        filesystem::{StoreFile, read_up_to},
        format::{FileHeader, HEADER_BYTES, Salt},
        index,
        log::{Log, Segment},
        segments::SegmentDir,
    },
    Checker, FileKind, Loss,
    journal::bad_records,
    unexplained,
};

/// What stands in a segment.
pub(super) enum Part<'a> {
    /// Records that are whole.
    Good(RecordBatch),
    /// Records that are not, and where.
    Lost(Range<Offset>, u64, &'a str),
    /// Something that costs nothing.
    Harmless(u64, &'a str),
    /// A block, and where it ends.
    Block(u64),
    /// So far it was looked at.
    Reached(u64),
}

impl Checker<'_> {
    pub(super) fn segment(
        &mut self,
        name: &LogName,
        log: &Log,
        segment: &Segment,
        segments: &SegmentDir,
    ) -> Result<(), StoreError> {
        let key = segment.key(log.id);
        let path = segments.path(key);
        let records = |from, until| Loss::Records { log: name.clone(), from, until };
        let file = match segments.open(key) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for (from, until) in unexplained(log, segment.first, segment.end) {
                    self.damage(&path, 0, "the file is missing", records(from, until));
                }
                return Ok(());
            }
            file => file.map_err(|error| self.failed(&path, &error))?,
        };
        let bytes = file.size().map_err(|error| self.failed(&path, &error))?;
        let header = FileHeader::read(&*file);
        if header.ok() != Some(segments.header(key)) {
            self.damage(&path, 0, "the file's header is damaged", Loss::Nothing);
        }
        let mut reached = 0;
        let salt = segments.salt(key);
        let walked = walk(&file, salt, segment, &mut |part| {
            match part {
                Part::Good(_) | Part::Block(_) => (),
                Part::Lost(range, position, what) => {
                    let lost = unexplained(log, range.start, range.end);
                    if lost.is_empty() && !is_gap(what) {
                        self.damage(&path, position, what, Loss::Nothing);
                    }
                    for (from, until) in lost {
                        self.damage(&path, position, what, records(from, until));
                    }
                }
                Part::Harmless(position, what) => {
                    self.damage(&path, position, what, Loss::Nothing);
                }
                Part::Reached(position) => {
                    self.advance(&path, position - reached);
                    reached = position;
                }
            }
            Ok(())
        });
        walked.map_err(|error| self.failed(&path, &error))?;
        self.file(&path, FileKind::Segment, bytes, segment.bytes);
        self.advance(&path, bytes.saturating_sub(reached));
        Ok(())
    }
}

/// Whether records are just not there, which is no damage where they are known to be lost.
fn is_gap(what: &str) -> bool {
    what == GAP
}

/// Goes through a segment from its beginning.
pub(super) fn walk(
    file: &Arc<dyn StoreFile>,
    salt: Salt,
    segment: &Segment,
    visit: &mut dyn FnMut(Part<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let next_block = |from| index::next_block(&**file, salt, from, segment.bytes);
    let first_of = |next: Option<(u64, BlockHeader)>| next.map_or(segment.end, |it| it.1.first);
    let mut position = HEADER_BYTES as u64;
    let mut expected = segment.first;
    while position < segment.bytes {
        let next = next_block(position)?;
        let start = next.as_ref().map_or(segment.bytes, |next| next.0);
        if start > position {
            let until = first_of(next);
            visit(Part::Lost(expected..until, position, "both headers of a block are damaged"))?;
            (position, expected) = (start, until.max(expected));
        }
        if let Some((_, header)) = next {
            let end = position + header.block_bytes();
            if end <= segment.bytes {
                visit(Part::Block(end))?;
            }
            if let Some((block, bytes)) = load(file, salt, &header, position, segment)? {
                expected = look_at(&block, &bytes, position, expected, visit)?;
            } else {
                let until = first_of(next_block(end)?);
                visit(Part::Lost(expected..until, position, BEYOND_REPAIR))?;
                expected = until.max(expected);
            }
            position = end;
        }
        visit(Part::Reached(position.min(segment.bytes)))?;
    }
    if expected < segment.end {
        visit(Part::Lost(expected..segment.end, position, GAP))?;
    }
    Ok(())
}

/// A block and its bytes; `None` when it is damaged beyond repair, or does not end in the segment.
/// What a file that was cut lacks is zeros.
fn load(
    file: &Arc<dyn StoreFile>,
    salt: Salt,
    header: &BlockHeader,
    position: u64,
    segment: &Segment,
) -> io::Result<Option<(Block, Bytes)>> {
    if position + header.block_bytes() > segment.bytes {
        return Ok(None);
    }
    let mut bytes = vec![0; header.block_bytes() as usize];
    read_up_to(&**file, &mut bytes, position)?;
    let bytes = Bytes::from(bytes);
    Ok(Block::decode(salt, position, &bytes).map(|block| (block, bytes)))
}

/// Goes through a block. Returns where it ends.
fn look_at(
    block: &Block,
    bytes: &Bytes,
    position: u64,
    expected: Offset,
    visit: &mut dyn FnMut(Part<'_>) -> io::Result<()>,
) -> io::Result<Offset> {
    let (header, records) = (block.header(), block.records());
    for (at, what) in block.faults(bytes) {
        visit(Part::Harmless(position + at, what))?;
    }
    let bad = bad_records(records);
    let mut bad = bad.iter().peekable();
    let (mut place, mut expected) = (0, expected);
    for batch in block.batches(header.first..Offset(u64::MAX)) {
        if batch.first > expected {
            visit(Part::Lost(expected..batch.first, position, GAP))?;
        }
        let places = place..place + batch.records.count();
        let offset = |at: usize| batch.first.plus((at - places.start) as u64);
        let mut next = places.start;
        while let Some(part) = bad.peek().filter(|part| part.start < places.end) {
            let (from, until) = (part.start.max(next), part.end.min(places.end));
            if next < from {
                visit(Part::Good(batch.slice(offset(next), offset(from))))?;
            }
            let before = records.slice(0..from).payload().len() as u64;
            let what = "the checksum of a record is wrong";
            let at = position + header.payload_at() + before;
            visit(Part::Lost(offset(from)..offset(until), at, what))?;
            next = until;
            if part.end > places.end {
                break;
            }
            bad.next();
        }
        if next < places.end {
            visit(Part::Good(batch.slice(offset(next), batch.end())))?;
        }
        (place, expected) = (places.end, batch.end());
    }
    Ok(expected)
}

const GAP: &str = "records are missing";
const BEYOND_REPAIR: &str =
    "what stands around the records of a block is damaged beyond repair, or the file was cut";
