//! The files of the journal: made ahead, filled in order, used again.
//!
//! A file is written with zeros over its whole length before the first entry goes into it, so that
//! making an entry durable changes bytes and no metadata: that sync is markedly faster.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    filesystem::{FileSystem, OpenMode, StoreFile},
    format::{FileHeader, Kind, Salt, StoreId},
};

/// Where the first entry of a file stands: in a page of its own, so that writing entries never
/// touches the header.
pub(super) const ENTRIES_AT: u64 = 4096;

/// A file of the journal, open for writing.
#[derive(Clone, Debug)]
pub(super) struct JournalFile {
    pub(super) number: u64,
    /// How long it is, header included.
    pub(super) bytes: u64,
    pub(super) file: Arc<dyn StoreFile>,
    pub(super) salt: Salt,
}

impl JournalFile {
    /// Of a store that is only read: it has no room, and refuses to be written.
    pub(super) fn none(salt: Salt) -> Self {
        Self { number: 0, bytes: 0, file: Arc::new(NoFile), salt }
    }
}

/// Stands for a file where there is none.
#[derive(Debug)]
struct NoFile;

impl StoreFile for NoFile {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }
    fn write_all_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn size(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn try_lock(&self) -> io::Result<bool> {
        Ok(false)
    }
}

/// What the first entry of a journal file follows on.
#[derive(Clone, Copy, Debug)]
pub(super) enum GoesOn {
    /// It has this sequence, whatever else the files before hold.
    At(u64),
    /// The last one of the file of this number.
    Behind(u64),
}

/// Makes and removes journal files. It knows nothing of what is in them.
#[derive(Debug)]
pub(super) struct JournalDir {
    files: Arc<dyn FileSystem>,
    dir: PathBuf,
    store: StoreId,
}

impl JournalDir {
    pub(super) fn new(files: Arc<dyn FileSystem>, store_dir: &Path, store: StoreId) -> Self {
        Self { files, dir: store_dir.join("journal"), store }
    }

    pub(super) const fn store(&self) -> StoreId {
        self.store
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016x}.journal"))
    }

    /// The numbers of all journal files, in order.
    pub(super) fn numbers(&self) -> io::Result<Vec<u64>> {
        let names = match self.files.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        let number = |name: &String| {
            let digits = name.strip_suffix(".journal").filter(|digits| digits.len() == 16)?;
            u64::from_str_radix(digits, 16).ok()
        };
        let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(super) fn salt(&self, number: u64) -> Salt {
        Salt::new(self.store, Kind::Journal, number, 0)
    }

    /// Makes a file of this length, durably, and ready for entries. It gets its name when it is
    /// whole, so that one that is shorter than it says was cut.
    pub(super) fn create(
        &self,
        number: u64,
        goes_on: GoesOn,
        bytes: u64,
    ) -> io::Result<JournalFile> {
        let made = self.fill(number, goes_on, bytes);
        if made.is_err() {
            // What is left of it is in nobody's way, but it takes space that was short already.
            self.remove_unfinished();
        }
        made
    }

    /// Removes what was being made at a crash.
    pub(super) fn remove_unfinished(&self) {
        let _ = self.files.remove(&self.dir.join(UNFINISHED));
    }

    fn fill(&self, number: u64, goes_on: GoesOn, bytes: u64) -> io::Result<JournalFile> {
        let path = self.dir.join(UNFINISHED);
        let file = self.files.open(&path, OpenMode::Create)?;
        file.set_len(0)?;
        let zeros = vec![0; ZEROS_BYTES.min(bytes) as usize];
        let mut position = 0;
        while position < bytes {
            let part = (bytes - position).min(zeros.len() as u64) as usize;
            file.write_all_at(&[IoSlice::new(zeros.get(..part).unwrap_or(&zeros))], position)?;
            position += part as u64;
        }
        self.begin(&*file, number, goes_on, bytes)?;
        self.files.rename(&path, &self.path(number))?;
        self.files.sync_dir(&self.dir)?;
        Ok(JournalFile { number, bytes, file, salt: self.salt(number) })
    }

    /// Makes a file that nothing needs any more, durably, into a new one. Its old entries are
    /// none under the new number.
    pub(super) fn recycle(
        &self,
        file: Arc<dyn StoreFile>,
        old: u64,
        number: u64,
        goes_on: GoesOn,
        bytes: u64,
    ) -> io::Result<JournalFile> {
        // In this order a crash leaves an old file with a strange header, which is ignored, and
        // never a new one that is not what its name says.
        self.begin(&*file, number, goes_on, bytes)?;
        self.files.rename(&self.path(old), &self.path(number))?;
        self.files.sync_dir(&self.dir)?;
        Ok(JournalFile { number, bytes, file, salt: self.salt(number) })
    }

    fn begin(
        &self,
        file: &dyn StoreFile,
        number: u64,
        goes_on: GoesOn,
        bytes: u64,
    ) -> io::Result<()> {
        let (first, behind) = match goes_on {
            GoesOn::At(first) => (first, 0),
            GoesOn::Behind(before) => (0, u32::try_from(number - before).unwrap_or(0)),
        };
        let header = FileHeader { behind, ..FileHeader::new(Kind::Journal, self.store) };
        let header = FileHeader { number, first, bytes, ..header };
        file.write_all_at(&[IoSlice::new(&header.encode())], 0)?;
        file.sync()
    }

    pub(super) fn open_to_write(&self, number: u64) -> io::Result<Arc<dyn StoreFile>> {
        self.files.open(&self.path(number), OpenMode::Write)
    }

    pub(super) fn remove(&self, number: u64) -> io::Result<()> {
        self.files.remove(&self.path(number))
    }
}

/// The name of a file that is being made.
const UNFINISHED: &str = "new";
const ZEROS_BYTES: u64 = 1 << 20;
