//! Checks a segment, block by block and record by record.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use ltq_core::{LogName, Offset, RecordBatch, StoreError};

use super::{
    super::{
        block::{BLOCK_HEADER_BYTES, Block, BlockHeader},
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
        let key = (log.id, segment.first);
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
                Part::Good(_) => (),
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
    let mut position = HEADER_BYTES as u64;
    let mut expected = segment.first;
    while position < segment.bytes {
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        let read = read_up_to(&**file, &mut bytes, position)?;
        let header = BlockHeader::decode(salt, position, bytes.get(..read).unwrap_or_default());
        let Some(header) = header else {
            let next = index::search(&**file, salt, position + 8, segment.bytes)?;
            let (at, until) =
                next.map_or((segment.bytes, segment.end), |(at, header)| (at, header.first));
            let what = "the header of a block is damaged";
            visit(Part::Lost(expected..until, position, what))?;
            (position, expected) = (at, until.max(expected));
            visit(Part::Reached(position))?;
            continue;
        };
        if header.first > expected {
            visit(Part::Lost(expected..header.first, position, GAP))?;
        }
        block(file, &header, position, segment, visit)?;
        expected = header.end().max(expected);
        position += header.block_bytes();
        visit(Part::Reached(position.min(segment.bytes)))?;
    }
    if expected < segment.end {
        visit(Part::Lost(expected..segment.end, position, GAP))?;
    }
    Ok(())
}

fn block(
    file: &Arc<dyn StoreFile>,
    header: &BlockHeader,
    position: u64,
    segment: &Segment,
    visit: &mut dyn FnMut(Part<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let all = header.first..header.end();
    if position + header.block_bytes() > segment.bytes {
        return visit(Part::Lost(all, position, "a block goes on behind the end of the file"));
    }
    let mut bytes = vec![0; header.block_bytes() as usize];
    let read = read_up_to(&**file, &mut bytes, position)?;
    bytes.truncate(read);
    let bytes = Bytes::from(bytes);
    let Some(block) = Block::decode(header, &bytes) else {
        let what = "the table of a block is damaged, or the file too short";
        return visit(Part::Lost(all, position + BLOCK_HEADER_BYTES as u64, what));
    };
    let records = block.records();
    let end = header.payload_at() + records.payload().len() as u64;
    let fill = bytes.get(end as usize..).unwrap_or_default();
    if fill.iter().any(|&byte| byte != 0) {
        visit(Part::Harmless(position + end, "bytes that hold nothing are not zero"))?;
    }
    let mut next = 0;
    for bad in bad_records(records) {
        for good in block.batches(next..bad.start) {
            visit(Part::Good(good))?;
        }
        let at = |index: usize| header.first.plus(index as u64);
        let before = records.slice(0..bad.start).payload().len() as u64;
        let place = position + header.payload_at() + before;
        let what = "the checksum of a record is wrong";
        visit(Part::Lost(at(bad.start)..at(bad.end), place, what))?;
        next = bad.end;
    }
    for good in block.batches(next..records.count()) {
        visit(Part::Good(good))?;
    }
    Ok(())
}

const GAP: &str = "records are missing";
