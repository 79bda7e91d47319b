//! The segment files: named, made, written and removed.
//!
//! A file holds blocks of one log, in order, behind its header. Nothing in a checkpoint refers to
//! what was not synced, so that whatever lies behind is cut and written again.

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use ltq_core::{Offset, RecordBatch, Timestamp};

use super::{
    block::BlockBuilder,
    filesystem::{FileSystem, OpenMode, StoreFile},
    format::{FileHeader, HEADER_BYTES, Kind, Salt, StoreId},
    index::SegmentIndex,
    log::Segment,
    reserve::is_short,
};

/// Which segment: its log's id, its first offset, and how often its records were written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SegmentKey {
    pub(super) log: u64,
    pub(super) first: Offset,
    pub(super) rewrite: u32,
}

/// The segment files of a store.
#[derive(Clone, Debug)]
pub(super) struct SegmentDir {
    files: Arc<dyn FileSystem>,
    dir: PathBuf,
    store: StoreId,
}

impl SegmentDir {
    pub(super) fn new(files: Arc<dyn FileSystem>, store_dir: &Path, store: StoreId) -> Self {
        Self { files, dir: store_dir.join("segments"), store }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, key: SegmentKey) -> PathBuf {
        let SegmentKey { log, first, rewrite } = key;
        self.dir.join(format!("{log:016x}-{:016x}-{rewrite:08x}.segment", first.0))
    }

    pub(super) fn salt(&self, key: SegmentKey) -> Salt {
        Salt::new(self.store, Kind::Segment, key.log, key.first.0).rewritten(key.rewrite)
    }

    /// What the file of a segment begins with.
    pub(super) const fn header(&self, key: SegmentKey) -> FileHeader {
        let SegmentKey { log, first, rewrite } = key;
        let header = FileHeader::new(Kind::Segment, self.store);
        FileHeader { number: log, first: first.0, rewrite, ..header }
    }

    /// All segment files that there are.
    pub(super) fn list(&self) -> io::Result<Vec<SegmentKey>> {
        let names = match self.files.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        let key = |name: &String| {
            let (log, rest) = name.strip_suffix(".segment")?.split_once('-')?;
            let (first, rewrite) = rest.split_once('-')?;
            let number = |digits: &str, len: usize| {
                u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == len)
            };
            let rewrite = u32::try_from(number(rewrite, 8)?).ok()?;
            Some(SegmentKey { log: number(log, 16)?, first: Offset(number(first, 16)?), rewrite })
        };
        Ok(names.iter().filter_map(key).collect())
    }

    pub(super) fn open(&self, key: SegmentKey) -> io::Result<Arc<dyn StoreFile>> {
        self.files.open(&self.path(key), OpenMode::Read)
    }

    pub(super) fn remove(&self, key: SegmentKey) -> io::Result<()> {
        self.files.remove(&self.path(key))
    }

    /// Makes what was written to these segments durable.
    pub(super) fn sync(&self, keys: &BTreeSet<SegmentKey>) -> io::Result<u64> {
        let mut syncs = 0;
        let mut left = keys.iter().peekable();
        while left.peek().is_some() {
            let mut files = Vec::new();
            while files.len() < OPEN_TO_SYNC_MAX
                && let Some(&&key) = left.peek()
            {
                match self.files.open(&self.path(key), OpenMode::Write) {
                    Ok(file) => files.push(file),
                    // It was truncated away meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    // Synced and closed, those that are open make room for it.
                    Err(error) if is_short(&error) && !files.is_empty() => break,
                    Err(error) => return Err(error),
                }
                left.next();
            }
            self.files.sync_files(&files)?;
            syncs += files.len() as u64;
        }
        if !keys.is_empty() {
            self.files.sync_dir(&self.dir)?;
        }
        Ok(syncs)
    }
}

/// So many segments are open at a time to be synced.
const OPEN_TO_SYNC_MAX: usize = 128;

/// Writes records of one log, behind its last segment or in new ones.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    dir: SegmentDir,
    log: u64,
    /// How often the records were written anew.
    rewrite: u32,
    segment_bytes: u64,
    open: Option<(Arc<dyn StoreFile>, Segment)>,
    block: BlockBuilder,
    done: Vec<Segment>,
    pub(super) bytes_written: u64,
}

impl SegmentWriter {
    /// `last` is the log's last segment, its index known, to go on with where that is possible.
    pub(super) fn new(
        dir: &SegmentDir,
        log: u64,
        segment_bytes: u64,
        last: Option<Segment>,
    ) -> io::Result<Self> {
        let mut writer = Self { segment_bytes, ..Self::rewriting(dir, log, 0) };
        if let Some(last) = last.filter(|last| last.bytes < segment_bytes && last.index.is_some()) {
            writer.rewrite = last.rewrite;
            match dir.files.open(&dir.path(last.key(log)), OpenMode::Write) {
                Ok(file) => {
                    file.set_len(last.bytes)?;
                    writer.open = Some((file, last));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                Err(error) => return Err(error),
            }
        }
        Ok(writer)
    }

    /// Writes all into one new segment of records that were in others before.
    pub(super) fn rewriting(dir: &SegmentDir, log: u64, rewrite: u32) -> Self {
        Self {
            dir: dir.clone(),
            log,
            rewrite,
            segment_bytes: u64::MAX,
            open: None,
            block: BlockBuilder::default(),
            done: Vec::new(),
            bytes_written: 0,
        }
    }

    /// Makes what was written so far durable, apart from the name.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.open.as_ref().map_or(Ok(()), |(file, _)| file.sync())
    }

    /// Removes what was written, which nobody knows of.
    pub(super) fn abandon(self) {
        let (dir, log) = (self.dir.clone(), self.log);
        for segment in self.into_segments() {
            if let Err(error) = dir.remove(segment.key(log)) {
                tracing::warn!(%error, log, "half a segment could not be removed");
            }
        }
    }

    /// Adds records behind those before; there may be a gap.
    pub(super) fn push(&mut self, mut batch: RecordBatch) -> io::Result<()> {
        if !self.block.reaches(batch.first) {
            self.write_block()?;
        }
        while !batch.records.is_empty() {
            self.block.take(&mut batch);
            if self.block.is_full() || !batch.records.is_empty() {
                self.write_block()?;
            }
        }
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.block.is_empty() { Ok(()) } else { self.write_block() }
    }

    /// The segments that were written to, in order, as far as that succeeded.
    pub(super) fn into_segments(self) -> Vec<Segment> {
        let open = self.open.map(|(_, segment)| segment);
        self.done.into_iter().chain(open).collect()
    }

    fn write_block(&mut self) -> io::Result<()> {
        let first = self.block.first();
        let full = |segment: &Segment| segment.bytes >= self.segment_bytes;
        if let Some((_, full)) = self.open.take_if(|(_, segment)| full(segment)) {
            self.done.push(full);
            self.rewrite = 0;
        }
        let (file, mut segment) = match self.open.take() {
            Some(open) => open,
            None => self.create(first)?,
        };
        let salt = self.dir.salt(segment.key(self.log));
        let end = self.block.end();
        let (header, bytes) = self.block.finish(salt, segment.bytes);
        if let Err(error) = file.write_all_at(&[IoSlice::new(&bytes)], segment.bytes) {
            // Half a block is in nobody's way, but it takes space that may be short.
            if segment.end == segment.first {
                let _ = self.dir.remove(segment.key(self.log));
            } else {
                let _ = file.set_len(segment.bytes);
                self.done.push(segment);
            }
            return Err(error);
        }
        let mut index = segment.index.take().unwrap_or_default();
        Arc::make_mut(&mut index).push(segment.bytes, &header);
        segment.index = Some(index);
        segment.bytes += bytes.len() as u64;
        segment.end = end;
        segment.time_max = segment.time_max.max(header.time_max);
        self.bytes_written += bytes.len() as u64;
        self.open = Some((file, segment));
        Ok(())
    }

    fn create(&self, first: Offset) -> io::Result<(Arc<dyn StoreFile>, Segment)> {
        let key = SegmentKey { log: self.log, first, rewrite: self.rewrite };
        let rewrite = self.rewrite;
        let path = self.dir.path(key);
        let file = self.dir.files.open(&path, OpenMode::Create)?;
        file.set_len(0)?;
        let header = self.dir.header(key);
        file.write_all_at(&[IoSlice::new(&header.encode())], 0)?;
        let segment = Segment {
            first,
            end: first,
            rewrite,
            bytes: HEADER_BYTES as u64,
            time_max: Timestamp(0),
            index: Some(Arc::new(SegmentIndex::default())),
        };
        Ok((file, segment))
    }
}
