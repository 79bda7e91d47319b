//! Looks through all files of a store that nobody has open, and mends what can be mended.

mod journal;
mod repair;
mod report;
mod salvage;
mod segment;
mod unreadable;

use std::{collections::BTreeSet, io, path::Path, path::PathBuf, sync::Arc};

use ltq_core::{LogName, Offset, StoreError};

pub(super) use self::unreadable::ReadsAround;
use super::{
    FileStore,
    checkpoint::{CHECKPOINT_NAMES, Snapshot},
    filesystem::{FileSystem, OpenMode, StoreFile, read_up_to},
    format::{FileHeader, HEADER_BYTES, Kind, StoreId},
    identity,
    journal::JournalDir,
    log::{Hole, Log},
    options::FileStoreOptions,
    recovery,
    segments::{SegmentDir, SegmentKey},
    state::State,
};

pub use self::report::{
    CheckProgress, CheckReport, CheckedFile, Damage, FileKind, KnownLoss, Loss, Repair,
};

impl FileStore {
    /// Reads every file of the store in a directory, verifies every checksum and that everything
    /// that refers to something finds it, and writes nothing at all. Blocks.
    ///
    /// Of the options it uses the directory and the file system. While it runs no other process
    /// can open the store. `progress` is told how far it is, several times for each MiB. Memory:
    /// the values, and a few blocks.
    ///
    /// # Errors
    /// [`StoreError::Open`] when there is no store or another process has it open, and
    /// [`StoreError::Io`] when the operating system refuses to read. What is damaged is no error:
    /// it is in the report.
    pub fn check(
        options: &FileStoreOptions,
        mut progress: impl FnMut(CheckProgress<'_>),
    ) -> Result<CheckReport, StoreError> {
        let (options, unreadable) = ReadsAround::within(options);
        let Checked { mut report, .. } = Checker::new(&options, &mut progress)?.run()?;
        unreadable.tell(&mut report, &options.dir);
        Ok(report)
    }

    /// Checks a store and, if something is wrong with it, mends it. Copies of the files that are
    /// damaged are set aside first, in a folder of that name in the store's directory; nothing of
    /// them is deleted. A store that does not open, because journal files are missing, cut or
    /// foreign or no copy of the checkpoint is whole, is made to open with what is left. Without a
    /// checkpoint the logs are found again by their segments, under the names that the journal
    /// tells, else as `recovered-ID`, with what had been given up of them and not yet removed; of
    /// the values only those come back that the journal tells. The store then holds all that is whole, knows which records are lost
    /// ([`CheckReport::known_losses`]), and opens; the next check finds nothing. A crash on the way
    /// leaves a store that holds as much, to be repaired again. Blocks.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); [`StoreError::Invalid`] when `set_aside` is no plain name
    /// or there is something of that name; [`StoreError::Open`] when the store is beyond repair:
    /// nothing of it tells any more which one it is, or a file is of another format.
    pub fn repair(
        options: &FileStoreOptions,
        set_aside: &str,
        mut progress: impl FnMut(CheckProgress<'_>),
    ) -> Result<Repair, StoreError> {
        repair::run(options, set_aside, &mut progress)
    }
}

/// A check that is done.
struct Checked {
    report: CheckReport,
    /// Which store it is, if that is known.
    store: Option<StoreId>,
    /// What keeps others out, if the store has a file for that.
    lock: Option<Arc<dyn StoreFile>>,
}

/// A check under way.
struct Checker<'a> {
    options: &'a FileStoreOptions,
    files: Arc<dyn FileSystem>,
    /// Held until the end.
    lock: Option<Arc<dyn StoreFile>>,
    progress: &'a mut dyn FnMut(CheckProgress<'_>),
    done: u64,
    total: u64,
    report: CheckReport,
}

impl<'a> Checker<'a> {
    fn new(
        options: &'a FileStoreOptions,
        progress: &'a mut dyn FnMut(CheckProgress<'_>),
    ) -> Result<Self, StoreError> {
        let lock = identity::lock_read_only(&*options.file_system, &options.dir)?;
        Ok(Self::locked(options, progress, lock))
    }

    /// Of a store that is locked.
    fn locked(
        options: &'a FileStoreOptions,
        progress: &'a mut dyn FnMut(CheckProgress<'_>),
        lock: Option<Arc<dyn StoreFile>>,
    ) -> Self {
        let files = Arc::clone(&options.file_system);
        let report = CheckReport::default();
        Self { options, files, lock, progress, done: 0, total: 0, report }
    }

    fn run(mut self) -> Result<Checked, StoreError> {
        let dir = &self.options.dir;
        self.total = self.all_bytes()?;
        let store = self.identity()?;
        let Some(store) = store else {
            return Ok(Checked { report: self.report, store, lock: self.lock });
        };
        let journal = JournalDir::new(Arc::clone(&self.files), dir, store);
        let segments = SegmentDir::new(Arc::clone(&self.files), dir, store);
        match self.content(store, &journal, &segments) {
            Ok(()) => (),
            Err(refused @ StoreError::Open { .. }) => self.report.refused = Some(refused),
            Err(error) => return Err(error),
        }
        Ok(Checked { report: self.report, store: Some(store), lock: self.lock })
    }

    fn content(
        &mut self,
        store: StoreId,
        journal: &JournalDir,
        segments: &SegmentDir,
    ) -> Result<(), StoreError> {
        let dir = &self.options.dir;
        let (snapshot, whole) = self.checkpoints(store)?;
        let numbers = journal.numbers().map_err(|error| self.failed(journal.dir(), &error))?;
        let (spare, needed) = numbers.split_at(numbers.partition_point(|&it| it < snapshot.file));
        for &number in spare {
            self.superfluous(&journal.path(number))?;
        }
        let walked = recovery::open_journal(&*self.files, journal, &snapshot, needed)?;
        recovery::check_journal(dir, &snapshot, &walked, whole)?;
        let listed = segments.list().map_err(|error| self.failed(segments.dir(), &error))?;
        recovery::check_segments(dir, &snapshot, &walked, &listed)?;
        let mut state = self.journal(walked, segments, snapshot)?;
        let unknown = recovery::judge_segments(segments, &mut state)
            .map_err(|error| self.failed(segments.dir(), &error))?;
        self.logs(&state, segments)?;
        self.rest(segments, &unknown)?;
        self.report.damage = settle(std::mem::take(&mut self.report.damage), &state);
        let kept = |log: &Log| {
            let kept = log.discarded.outside(log.bounds.first..log.bounds.end);
            kept.map(|kept| kept.end.since(kept.start)).sum::<u64>()
        };
        let all: u64 = state.logs.values().map(kept).sum();
        let known = self.report.known_losses.iter().map(|lost| lost.until.since(lost.from));
        let known: u64 = known.sum();
        self.report.records = all.saturating_sub(known + self.report.lost_records());
        let mut logs = state.logs();
        logs.sort_unstable_by(|a, b| a.log.cmp(&b.log));
        self.report.logs = logs;
        self.report.values = state.values(b"");
        Ok(())
    }

    /// Both copies of the identity. Where neither is whole, the other files tell which store it is.
    fn identity(&mut self) -> Result<Option<StoreId>, StoreError> {
        let path = self.options.dir.join(identity::IDENTITY);
        let bytes = match self.read_whole(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(self.failed(&path, &error)),
        };
        let whole = bytes.as_deref().unwrap_or_default();
        let mut found = None;
        for at in identity::COPIES_AT {
            let copy = whole.get(at as usize..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>());
            match copy.map(FileHeader::decode) {
                Some(Ok(header)) if header.kind == Kind::Identity => {
                    found.get_or_insert(header.store);
                }
                Some(Err(super::format::HeaderError::Other(version))) => {
                    return Err(identity::other_format(&self.options.dir, version));
                }
                _ if bytes.is_none() => (),
                _ => self.damage(&path, at, "a copy of the identity is damaged", Loss::Nothing),
            }
        }
        match bytes {
            Some(bytes) => {
                let end = identity::COPIES_AT[1] as usize + HEADER_BYTES;
                let between = bytes.get(HEADER_BYTES..identity::COPIES_AT[1] as usize);
                self.zeros(&path, HEADER_BYTES as u64, between.unwrap_or_default());
                if bytes.len() > end {
                    self.damage(&path, end as u64, "the file is too long", Loss::Nothing);
                }
                self.file(&path, FileKind::Identity, bytes.len() as u64, bytes.len() as u64);
            }
            None => self.damage(&path, 0, "the file is missing", Loss::Nothing),
        }
        if found.is_none() {
            found = self.store_of_others()?;
        }
        if found.is_none() {
            let why = "it is no store, or nothing of it tells any more which";
            let refused = identity::refuse(&self.options.dir, why);
            if self.report.files.is_empty() {
                return Err(refused);
            }
            self.report.refused = Some(refused);
        }
        Ok(found)
    }

    /// Which store the checkpoints belong to.
    fn store_of_others(&self) -> Result<Option<StoreId>, StoreError> {
        for name in CHECKPOINT_NAMES {
            let path = self.options.dir.join(name);
            let header = match self.files.open(&path, OpenMode::Read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => FileHeader::read(&*file.map_err(|error| self.failed(&path, &error))?),
            };
            if let Ok(header) = header {
                return Ok(Some(header.store));
            }
        }
        Ok(None)
    }

    /// The newest checkpoint, and whether all of them are whole.
    fn checkpoints(&mut self, store: StoreId) -> Result<(Snapshot, bool), StoreError> {
        let dir = self.options.dir.clone();
        let loaded = super::checkpoint::load(&*self.files, &dir, store)
            .map_err(|error| self.failed(&dir, &error))?;
        let (mut present, mut missing) = (false, None);
        for name in CHECKPOINT_NAMES {
            let path = dir.join(name);
            match self.size(&path)? {
                Some(bytes) => {
                    self.file(&path, FileKind::Checkpoint, bytes, bytes);
                    self.advance(&path, bytes);
                    present = true;
                }
                None => missing = Some(path),
            }
        }
        for (path, what) in loaded.damaged.iter() {
            self.damage(path, 0, &format!("a copy of the checkpoint: {what}"), Loss::Nothing);
        }
        // A crash within the first checkpoint leaves one.
        let first = loaded.snapshot.as_ref().is_some_and(|snapshot| snapshot.number == 1);
        if let Some(path) = missing.filter(|_| present && !first) {
            self.damage(&path, 0, "a copy of the checkpoint is missing", Loss::Nothing);
        }
        let (snapshot, whole, _) = recovery::load_checkpoint(&*self.files, &dir, store)?;
        Ok((snapshot, whole))
    }

    /// The segments and what was told before to be lost.
    fn logs(&mut self, state: &State, segments: &SegmentDir) -> Result<(), StoreError> {
        let mut logs: Vec<_> = state.logs.iter().collect();
        logs.sort_unstable_by_key(|(name, _)| *name);
        for (name, log) in logs {
            let mut expected = log.bounds.first;
            for segment in &log.segments {
                let from = expected.max(log.bounds.first);
                self.gap(name, log, from, segment.first, "no file holds them");
                self.segment(name, log, segment, segments)?;
                expected = expected.max(segment.end);
            }
            // What comes behind was in the journal, which told what of it is missing.
            self.gap(name, log, expected, log.spilled_end, "no file holds them");
        }
        Ok(())
    }

    /// Tells of records that should be there, except for those that are known to be missing.
    fn gap(&mut self, name: &LogName, log: &Log, from: Offset, until: Offset, what: &str) {
        for (from, until) in unexplained(log, from, until) {
            let loss = Loss::Records { log: name.clone(), from, until };
            self.report.damage.push(Damage {
                file: "segments".to_owned(),
                position: 0,
                what: what.to_owned(),
                loss,
            });
        }
    }

    /// What lies around.
    fn rest(
        &mut self,
        segments: &SegmentDir,
        unknown: &BTreeSet<SegmentKey>,
    ) -> Result<(), StoreError> {
        for &key in unknown {
            self.superfluous(&segments.path(key))?;
        }
        let dir = self.options.dir.clone();
        for name in [super::checkpoint::CHECKPOINT_TEMPORARY, identity::IDENTITY_TEMPORARY] {
            if self.size(&dir.join(name))?.is_some() {
                self.superfluous(&dir.join(name))?;
            }
        }
        Ok(())
    }

    fn superfluous(&mut self, path: &Path) -> Result<(), StoreError> {
        let bytes = self.size(path)?.unwrap_or(0);
        self.file(path, FileKind::Superfluous, bytes, 0);
        self.advance(path, bytes);
        Ok(())
    }

    fn file(&mut self, path: &Path, kind: FileKind, bytes: u64, checked: u64) {
        let path = self.relative(path);
        self.report.files.push(CheckedFile { path, kind, bytes, checked: checked.min(bytes) });
    }

    fn damage(&mut self, path: &Path, position: u64, what: &str, loss: Loss) {
        let file = self.relative(path);
        self.report.damage.push(Damage { file, position, what: what.to_owned(), loss });
    }

    /// Tells where bytes that nothing should have written are not zero.
    fn zeros(&mut self, path: &Path, position: u64, bytes: &[u8]) {
        if let Some(at) = bytes.iter().position(|&byte| byte != 0) {
            let what = "bytes that hold nothing are not zero";
            self.damage(path, position + at as u64, what, Loss::Nothing);
        }
    }

    fn advance(&mut self, path: &Path, bytes: u64) {
        self.done = (self.done + bytes).min(self.total);
        let file = self.relative(path);
        (self.progress)(CheckProgress { done: self.done, total: self.total, file: &file });
    }

    fn relative(&self, path: &Path) -> String {
        let below = path.strip_prefix(&self.options.dir).unwrap_or(path);
        below.display().to_string()
    }

    fn failed(&self, path: &Path, error: &io::Error) -> StoreError {
        let doing = format!("reading {}", path.display());
        StoreError::Io { doing, cause: error.to_string() }
    }

    fn size(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        let size = self.files.open(path, OpenMode::Read).and_then(|file| file.size());
        match size {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            size => size.map(Some).map_err(|error| self.failed(path, &error)),
        }
    }

    /// Of a file that is known to be small.
    fn read_whole(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.files.open(path, OpenMode::Read)?;
        let mut bytes = vec![0; file.size()?.min(SMALL_FILE_BYTES_MAX) as usize];
        let read = read_up_to(&*file, &mut bytes, 0)?;
        bytes.truncate(read);
        self.advance(path, read as u64);
        Ok(bytes)
    }

    fn all_bytes(&self) -> Result<u64, StoreError> {
        let dir = &self.options.dir;
        let mut paths: Vec<PathBuf> = vec![dir.join(identity::IDENTITY)];
        paths.extend(CHECKPOINT_NAMES.map(|name| dir.join(name)));
        for sub in [identity::JOURNAL, identity::SEGMENTS].map(|sub| dir.join(sub)) {
            match self.files.list(&sub) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                names => {
                    let names = names.map_err(|error| self.failed(&sub, &error))?;
                    paths.extend(names.iter().map(|name| sub.join(name)));
                }
            }
        }
        paths.iter().try_fold(0, |sum, path| Ok(sum + self.size(path)?.unwrap_or(0)))
    }
}

/// What damage costs, now that it is known what of a log is still wanted.
fn settle(damage: Vec<Damage>, state: &State) -> Vec<Damage> {
    let wanted = |damage: Damage| {
        let Loss::Records { log, from, until } = &damage.loss else { return vec![damage] };
        let found = state.logs.get(log);
        let kept: Vec<_> = found.map_or_else(Vec::new, |found| {
            let bounds = found.bounds;
            found.discarded.outside((*from).max(bounds.first)..(*until).min(bounds.end)).collect()
        });
        if kept.is_empty() {
            return vec![Damage { loss: Loss::Nothing, ..damage }];
        }
        let part = |kept: std::ops::Range<Offset>| {
            let loss = Loss::Records { log: log.clone(), from: kept.start, until: kept.end };
            Damage { loss, ..damage.clone() }
        };
        kept.into_iter().map(part).collect()
    };
    damage.into_iter().flat_map(wanted).collect()
}

/// The parts of a stretch that a log holds and that are not known to be lost.
fn unexplained(log: &Log, from: Offset, until: Offset) -> Vec<(Offset, Offset)> {
    let known: Vec<_> = log.holes.iter().map(|hole| (hole.from, hole.until)).collect();
    let kept = log.discarded.outside(from.max(log.bounds.first)..until.min(log.bounds.end));
    kept.flat_map(|kept| without(kept.start, kept.end, &known)).collect()
}

/// The parts of a stretch that lie in none of the others, which are ordered by their beginnings.
fn without(from: Offset, until: Offset, others: &[(Offset, Offset)]) -> Vec<(Offset, Offset)> {
    let (mut at, mut left) = (from, Vec::new());
    for &(start, end) in others {
        if start > at {
            left.push((at, start.min(until)));
        }
        at = at.max(end);
        if at >= until {
            break;
        }
    }
    left.push((at, until));
    left.retain(|(from, until)| from < until);
    left
}

/// A loss that the store knows of.
fn known(name: &LogName, hole: &Hole) -> KnownLoss {
    KnownLoss {
        log: name.clone(),
        from: hole.from,
        until: hole.until,
        file: hole.file.as_ref().to_owned(),
        position: hole.position,
        what: hole.what.as_ref().to_owned(),
    }
}

/// Many times what such a file has.
const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;
