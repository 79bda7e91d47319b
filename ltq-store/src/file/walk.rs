//! Reads the journal's entries in order, and tells damage from an end that was never synced.

use std::{collections::VecDeque, io, ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    entry::{Content, ENTRY_HEADER_BYTES, EntryHeader, decode_content, restored},
    filesystem::{StoreFile, read_up_to},
    format::Salt,
    journal::ENTRIES_AT,
};

/// A journal file that is read.
#[derive(Debug)]
pub(super) struct WalkedFile {
    pub(super) number: u64,
    /// For messages.
    pub(super) name: Arc<str>,
    pub(super) file: Arc<dyn StoreFile>,
    pub(super) bytes: u64,
    pub(super) salt: Salt,
    /// The sequence of its first entry, as far as that can be told.
    pub(super) first: Option<u64>,
}

/// What comes next in a journal.
#[derive(Debug)]
pub(super) enum Step {
    /// An entry, possibly damaged.
    Entry {
        /// The number of its file, and where it stands there.
        file: u64,
        name: Arc<str>,
        position: u64,
        header: EntryHeader,
        content: Content,
    },
    /// Entries that were synced and cannot be found.
    Lost { name: Arc<str>, position: u64, entries: Range<u64> },
}

/// Goes through the entries of some files.
#[derive(Debug)]
pub(super) struct Walk {
    files: Vec<WalkedFile>,
    /// Where the next entry should be.
    at: usize,
    position: u64,
    expected: u64,
    window: Window,
    doubtful: Option<VecDeque<Doubtful>>,
}

/// A whole entry of which nothing that was read so far tells that it was synced.
#[derive(Debug)]
struct Doubtful {
    found: Found,
    /// What stands behind its header.
    content: Bytes,
}

/// A valid header.
#[derive(Clone, Copy, Debug)]
struct Found {
    at: usize,
    position: u64,
    header: EntryHeader,
}

impl Walk {
    /// The sequence of the first entry of which a header is whole, whichever it is.
    pub(super) fn first_sequence(files: &[WalkedFile]) -> io::Result<Option<u64>> {
        let mut window = Window::default();
        for file in files {
            if let Some((_, header)) = window.find(file, ENTRIES_AT, |_| true)? {
                return Ok(Some(header.sequence));
            }
        }
        Ok(None)
    }

    /// From the entry `first` on, which stands in the first of the files.
    pub(super) fn new(files: Vec<WalkedFile>, first: u64) -> Self {
        let window = Window::default();
        Self { files, at: 0, position: ENTRIES_AT, expected: first, window, doubtful: None }
    }

    /// Keeps the entries at the end of which nothing tells that they were synced, for
    /// [`doubtful`](Self::doubtful): what was written between two syncs, about.
    pub(super) fn keep_doubtful(mut self) -> Self {
        self.doubtful = Some(VecDeque::new());
        self
    }

    /// The whole entries at the end of which nothing told that they were synced: the numbers of
    /// their files, their positions and their bytes.
    pub(super) fn doubtful(&self) -> impl Iterator<Item = (u64, u64, Vec<u8>)> + '_ {
        self.doubtful.iter().flatten().filter_map(|Doubtful { found, content }| {
            let file = self.files.get(found.at)?;
            let bytes = restored(&found.header, file.salt, found.position, content)?;
            Some((file.number, found.position, bytes))
        })
    }

    /// The sequence that the next entry should have.
    pub(super) const fn expected(&self) -> u64 {
        self.expected
    }

    /// Which of the files it has come to.
    pub(super) const fn file(&self) -> usize {
        self.at
    }

    /// The next entry; `None` at the end, and where what follows was never known to be synced.
    pub(super) fn step(&mut self) -> io::Result<Option<Step>> {
        let (at, position) = (self.at, self.position);
        let Some(found) = self.find(at, position, self.expected)? else { return Ok(None) };
        if found.header.sequence > self.expected {
            let entries = self.expected..found.header.sequence;
            if !self.is_proven(found, entries.start)? {
                return Ok(None);
            }
            let name = self.name(at);
            self.expected = found.header.sequence;
            (self.at, self.position) = (found.at, found.position);
            return Ok(Some(Step::Lost { name, position, entries }));
        }
        let bytes = self.content(&found)?;
        let content = decode_content(&found.header, &bytes);
        (self.at, self.position) = (found.at, found.position + found.header.entry_bytes());
        if content.damage.is_some() {
            let next = self.find(self.at, self.position, self.expected + 1)?;
            let proven = match next {
                Some(next) => self.is_proven(next, self.expected)?,
                None => false,
            };
            if !proven {
                return Ok(None);
            }
        }
        self.expected += 1;
        if let Some(doubtful) = &mut self.doubtful {
            let synced = found.header.synced;
            let proven = doubtful.partition_point(|it| it.found.header.sequence <= synced);
            doubtful.drain(..proven);
            if content.damage.is_none() {
                doubtful.push_back(Doubtful { found, content: bytes });
            }
        }
        let Found { at, position, header } = found;
        let file = self.files.get(at).map_or(0, |file| file.number);
        let name = self.name(at);
        Ok(Some(Step::Entry { file, name, position, header, content }))
    }

    fn name(&self, at: usize) -> Arc<str> {
        self.files.get(at).map_or_else(|| Arc::from("journal"), |file| Arc::clone(&file.name))
    }

    /// Whether that entry, or any behind it, tells that `sequence` had been synced.
    fn is_proven(&mut self, mut from: Found, sequence: u64) -> io::Result<bool> {
        loop {
            if from.header.synced >= sequence {
                return Ok(true);
            }
            let position = from.position + from.header.entry_bytes();
            match self.find(from.at, position, from.header.sequence + 1)? {
                Some(next) => from = next,
                None => return Ok(false),
            }
        }
    }

    /// The first header at or behind a place that is of an entry `least` or a later one.
    fn find(&mut self, at: usize, position: u64, least: u64) -> io::Result<Option<Found>> {
        let mut position = position;
        for at in at..self.files.len() {
            // From there on the next file holds what counts.
            let limit = self.files.get(at + 1..).unwrap_or_default();
            let limit = limit.iter().filter_map(|file| file.first).min().unwrap_or(u64::MAX);
            if least < limit
                && let Some(file) = self.files.get(at)
            {
                let found = self.window.find(file, position, |header| {
                    header.sequence >= least && header.sequence < limit
                })?;
                if let Some((position, header)) = found {
                    return Ok(Some(Found { at, position, header }));
                }
            }
            position = ENTRIES_AT;
        }
        Ok(None)
    }

    /// What stands behind an entry's header.
    fn content(&self, found: &Found) -> io::Result<Bytes> {
        let Some(file) = self.files.get(found.at) else { return Ok(Bytes::new()) };
        let start = found.position + ENTRY_HEADER_BYTES as u64;
        let end = (found.position + found.header.entry_bytes()).min(file.bytes);
        let mut bytes = vec![0; end.saturating_sub(start) as usize];
        let read = read_up_to(&*file.file, &mut bytes, start)?;
        bytes.truncate(read);
        Ok(Bytes::from(bytes))
    }
}

/// A part of a file in memory.
#[derive(Debug, Default)]
struct Window {
    file: u64,
    position: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The first header in a file, from a position on, that will do.
    fn find(
        &mut self,
        file: &WalkedFile,
        from: u64,
        will_do: impl Fn(&EntryHeader) -> bool,
    ) -> io::Result<Option<(u64, EntryHeader)>> {
        let mut position = from;
        while position + ENTRY_HEADER_BYTES as u64 <= file.bytes {
            let bytes = self.at(file, position)?;
            let last = bytes.len().saturating_sub(ENTRY_HEADER_BYTES - 1);
            if last == 0 {
                break;
            }
            for at in (0..last).step_by(8) {
                let header = bytes.get(at..).unwrap_or_default();
                let place = position + at as u64;
                let found = EntryHeader::decode(file.salt, place, header);
                if let Some((header, start)) = found.filter(|(header, _)| will_do(header)) {
                    return Ok(Some((start, header)));
                }
            }
            position += last.next_multiple_of(8) as u64;
        }
        Ok(None)
    }

    /// The bytes from a position on: those of at least a header, except at the file's end.
    fn at(&mut self, file: &WalkedFile, position: u64) -> io::Result<&[u8]> {
        let start = position.checked_sub(self.position).filter(|_| self.file == file.number);
        let held =
            start.is_some_and(|start| start as usize + ENTRY_HEADER_BYTES <= self.bytes.len());
        if !held {
            self.bytes.resize(WINDOW_BYTES, 0);
            (self.file, self.position) = (file.number, position);
            let read = read_up_to(&*file.file, &mut self.bytes, position)?;
            self.bytes.truncate(read);
            return Ok(&self.bytes);
        }
        Ok(self.bytes.get(start.unwrap_or(0) as usize..).unwrap_or_default())
    }
}

/// A multiple of 8. Small entries come out of one read.
const WINDOW_BYTES: usize = 256 << 10;
