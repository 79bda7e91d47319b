//! Makes a store of which files are missing, cut or foreign one that opens again, with all that is
//! left of it: what an opening refuses to decide by itself, a repair does.
//!
//! A journal file that is gone is made anew, empty, and one that was cut is filled up: what is
//! missing is told as any other damage is then. Where no copy of the checkpoint is whole, its place
//! takes one that is made from the segments, which tell what they hold, and from the journal, which
//! tells which log is called what. Everything that is changed or removed is set aside first.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use ltq_core::{LogName, LogOptions, Offset, StoreError, Timestamp};

use super::{
    super::{
        change::Change,
        checkpoint::{self, CHECKPOINT_NAMES, LogSnapshot, Snapshot},
        entry::Told,
        filesystem::{FileSystem, OpenMode},
        format::{FileHeader, HEADER_BYTES, HeaderError, Kind, StoreId},
        identity,
        journal::{ENTRIES_AT, GoesOn, JournalDir},
        log::{Log, Segment},
        recovery,
        segments::{SegmentDir, SegmentKey},
        supply::LEAST_FILE_BYTES,
        walk::{Step, Walk},
    },
    Damage, Loss,
    segment::{Part, walk},
};

/// What was done so that the store opens.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    /// What was wrong.
    pub(super) damage: Vec<Damage>,
    /// Copies of these, by their paths below the store's directory, are in the folder.
    pub(super) set_aside: BTreeSet<String>,
}

/// A store that is made to open.
pub(super) struct Salvage<'a> {
    pub(super) files: &'a dyn FileSystem,
    pub(super) dir: &'a Path,
    /// Where copies go.
    pub(super) folder: &'a Path,
    pub(super) store: StoreId,
    pub(super) journal: &'a JournalDir,
    pub(super) segments: &'a SegmentDir,
    pub(super) done: Salvaged,
}

impl Salvage<'_> {
    /// Does it all.
    ///
    /// # Errors
    /// [`StoreError::Open`] for files of another format, and [`StoreError::Io`].
    pub(super) fn run(mut self) -> Result<Salvaged, StoreError> {
        let snapshot = self.checkpoint()?;
        self.journal_files(&snapshot)?;
        Ok(self.done)
    }

    /// The checkpoint to begin with, made if there is none.
    fn checkpoint(&mut self) -> Result<Snapshot, StoreError> {
        let mut newest = 1;
        for name in CHECKPOINT_NAMES {
            let path = self.dir.join(name);
            let header = match self.files.open(&path, OpenMode::Read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&path, &error)),
                Ok(file) => FileHeader::read(&*file),
            };
            match header {
                Err(HeaderError::Other(version)) => {
                    return Err(identity::other_format(&path, version));
                }
                Ok(header) if header.kind == Kind::Checkpoint && header.store == self.store => {
                    newest = newest.max(header.number);
                }
                Err(HeaderError::Damaged) => (),
                Ok(_) => self.give_up(&path, "it is no checkpoint of this store")?,
            }
        }
        let (snapshot, whole, _) = recovery::load_checkpoint(self.files, self.dir, self.store)?;
        let numbers = self.numbers()?;
        let first = numbers.first().copied().unwrap_or(u64::MAX);
        // One that is older than another that is damaged may ask for journal files that were
        // given up since.
        let outdated = !whole && !numbers.contains(&snapshot.file);
        if snapshot.number > 0 && !outdated {
            return Ok(snapshot);
        }
        if snapshot.number == 0 && whole && first == 1 && self.keys()?.is_empty() {
            // A store in the making: the journal tells everything from the beginning.
            return Ok(snapshot);
        }
        for name in CHECKPOINT_NAMES {
            self.set_aside(&self.dir.join(name))?;
        }
        let made = self.rebuild(newest.max(snapshot.number) + 1)?;
        let what = "no copy is whole; the logs were found again by what their segments and the \
                    journal tell, and values as far as the journal tells them";
        self.damage(&self.dir.join(CHECKPOINT_NAMES[0]), what);
        checkpoint::write(self.files, self.dir, self.store, &made)
            .map_err(|error| failed(self.dir, &error))?;
        Ok(made)
    }

    /// Sees to it that there is every journal file that should be, and that none of them is cut.
    fn journal_files(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let mut before = BTreeSet::from([snapshot.newest]);
        let mut there = BTreeSet::new();
        for number in self.numbers()? {
            let path = self.journal.path(number);
            if number < snapshot.file {
                continue;
            }
            let fail = |error: io::Error| failed(&path, &error);
            let file = match self.files.open(&path, OpenMode::Write) {
                // A link to what is not there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.files.remove(&path).map_err(fail)?;
                    before.insert(number);
                    continue;
                }
                file => file.map_err(fail)?,
            };
            let header = FileHeader::read(&*file);
            let least = match header {
                Err(HeaderError::Other(version)) => {
                    return Err(identity::other_format(&path, version));
                }
                Err(HeaderError::Damaged) if number < u64::MAX => ENTRIES_AT,
                Ok(header)
                    if header.store == self.store
                        && header.kind == Kind::Journal
                        && header.number == number =>
                {
                    before.insert(number.saturating_sub(u64::from(header.behind)));
                    header.bytes
                }
                _ => {
                    drop(file);
                    self.give_up(&path, "it is no file of this store's journal, or another one")?;
                    // What should be in its place is made.
                    if number < u64::MAX {
                        before.insert(number);
                    }
                    continue;
                }
            };
            there.insert(number);
            if file.size().map_err(fail)? < least {
                self.set_aside(&path)?;
                self.damage(&path, "the file was cut; what was behind it is lost");
                file.set_len(least).and_then(|()| file.sync()).map_err(fail)?;
            }
        }
        self.files
            .create_dir_all(self.journal.dir())
            .map_err(|error| failed(self.journal.dir(), &error))?;
        for &number in before.iter().filter(|&&it| it >= snapshot.file && !there.contains(&it)) {
            let path = self.journal.path(number);
            self.journal
                .create(number, GoesOn::Behind(number), LEAST_FILE_BYTES)
                .map_err(|error| failed(&path, &error))?;
            let what = "the file was missing; what it held is lost, but for what is in segments";
            self.damage(&path, what);
        }
        Ok(())
    }

    /// A checkpoint from what the segments and the journal tell.
    fn rebuild(&mut self, number: u64) -> Result<Snapshot, StoreError> {
        let numbers = self.numbers()?;
        let file = numbers.first().copied().unwrap_or(1);
        let newest = numbers.last().copied().unwrap_or(0);
        let all = Snapshot { file, newest, ..Snapshot::default() };
        self.journal_files(&all)?;
        let numbers = self.numbers()?;
        let walked = recovery::open_journal(self.files, self.journal, &all, &numbers)?;
        let fail = |error: io::Error| failed(self.journal.dir(), &error);
        let sequence = Walk::first_sequence(&walked).map_err(fail)?.unwrap_or(1);
        let mut told = Names::default();
        let mut walk = Walk::new(walked, sequence);
        while let Some(step) = walk.step().map_err(fail)? {
            if let Step::Entry { content, .. } = step {
                content.changes.iter().for_each(|change| told.learn(change));
            }
        }
        let mut by_log: BTreeMap<u64, Vec<SegmentKey>> = BTreeMap::new();
        for key in self.keys()? {
            by_log.entry(key.log).or_default().push(key);
        }
        let mut ids: BTreeSet<u64> = by_log.keys().copied().collect();
        ids.extend(told.logs.keys());
        let next_log_id = ids.last().map_or(1, |last| last.saturating_add(1));
        let (mut logs, mut taken) = (Vec::new(), BTreeSet::new());
        // The newest of a name is the one that was not deleted.
        for &id in ids.iter().rev() {
            let known = told.logs.get(&id);
            let name = known.map(|known| known.name.clone());
            let name = name.unwrap_or_else(|| LogName::new(format!("recovered-{id}")));
            let keys = by_log.remove(&id).unwrap_or_default();
            if !taken.insert(name.clone()) {
                self.unwanted(&keys)?;
                continue;
            }
            let options = known.map_or_else(LogOptions::default, |known| known.options);
            let segments = self.segments_of(&keys)?;
            let first = segments.first().map(|segment| segment.first);
            let first = first.or_else(|| known.map(|known| known.first)).unwrap_or_default();
            let mut log = Log::new(id, options, first);
            log.spilled_end = segments.last().map_or(first, |segment| segment.end);
            log.segments = segments;
            logs.push(LogSnapshot::of(&name, &log));
        }
        let values = Vec::new();
        Ok(Snapshot { number, file, newest, sequence, applied: 0, next_log_id, logs, values })
    }

    /// The segments of a log that hold most of it, in order and without overlaps; the others are
    /// set aside.
    fn segments_of(&mut self, keys: &[SegmentKey]) -> Result<Vec<Segment>, StoreError> {
        let mut found = Vec::new();
        for &key in keys {
            found.extend(self.segment(key)?);
        }
        // Of one that was written anew and those that it was to replace, it is taken if it was done:
        // it is written in order.
        found.sort_unstable_by_key(|it| it.rewrite);
        let mut chosen: Vec<Segment> = Vec::new();
        for segment in found {
            let overlaps = |it: &Segment| it.first < segment.end && segment.first < it.end;
            let reached = chosen.iter().filter(|it| overlaps(it)).map(|it| it.end).max();
            if reached.is_none_or(|reached| reached <= segment.end) {
                chosen.retain(|it| !overlaps(it));
                chosen.push(segment);
            }
        }
        chosen.sort_unstable_by_key(|it| it.first);
        let used = |key: &&SegmentKey| !chosen.iter().any(|it| it.key(key.log) == **key);
        let unused: Vec<_> = keys.iter().filter(used).copied().collect();
        self.unwanted(&unused)?;
        Ok(chosen)
    }

    /// What a file holds; `None` when that is nothing.
    fn segment(&self, key: SegmentKey) -> Result<Option<Segment>, StoreError> {
        let path = self.segments.path(key);
        let fail = |error: io::Error| failed(&path, &error);
        let file = self.segments.open(key).map_err(fail)?;
        let bytes = file.size().map_err(fail)?;
        let SegmentKey { first, rewrite, .. } = key;
        let mut segment =
            Segment { first, end: first, rewrite, bytes, time_max: Timestamp(0), index: None };
        // Its last block is the last of which a header is whole.
        let (mut end, mut held, mut time_max) = (first, HEADER_BYTES as u64, Timestamp(0));
        walk(&file, self.segments.salt(key), &segment, &mut |part| {
            match part {
                Part::Good(batch) => {
                    end = end.max(batch.end());
                    time_max = time_max.max(batch.time);
                }
                Part::Lost(range, ..) => end = end.max(range.end),
                Part::Block(behind) => held = held.max(behind),
                Part::Harmless(..) | Part::Reached(_) => (),
            }
            Ok(())
        })
        .map_err(fail)?;
        (segment.end, segment.bytes, segment.time_max) = (end, held, time_max);
        Ok((end > first).then_some(segment))
    }

    fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        self.journal.numbers().map_err(|error| failed(self.journal.dir(), &error))
    }

    fn keys(&self) -> Result<Vec<SegmentKey>, StoreError> {
        self.segments.list().map_err(|error| failed(self.segments.dir(), &error))
    }

    fn unwanted(&mut self, keys: &[SegmentKey]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|&key| self.set_aside(&self.segments.path(key)))
    }

    /// Sets a file aside and removes it.
    fn give_up(&mut self, path: &Path, what: &str) -> Result<(), StoreError> {
        self.set_aside(path)?;
        self.files.remove(path).map_err(|error| failed(path, &error))?;
        self.damage(path, what);
        Ok(())
    }

    fn set_aside(&mut self, path: &Path) -> Result<(), StoreError> {
        let below = path.strip_prefix(self.dir).unwrap_or(path);
        match super::repair::copy(self.files, path, &self.folder.join(below)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            copied => {
                copied.map_err(|error| failed(path, &error))?;
                self.done.set_aside.insert(below.display().to_string());
            }
        }
        Ok(())
    }

    fn damage(&mut self, path: &Path, what: &str) {
        let file = path.strip_prefix(self.dir).unwrap_or(path).display().to_string();
        let what = what.to_owned();
        self.done.damage.push(Damage { file, position: 0, what, loss: Loss::Unknown });
    }
}

/// What the journal tells of logs.
#[derive(Debug, Default)]
struct Names {
    logs: BTreeMap<u64, Known>,
}

#[derive(Debug)]
struct Known {
    name: LogName,
    options: LogOptions,
    /// The lowest offset that is told of.
    first: Offset,
}

impl Names {
    fn learn(&mut self, told: &Told) {
        let default = LogOptions::default();
        let (id, log, first, options) = match told {
            Told::Change(Change::Create { id, log, options, first }) => (id, log, first, *options),
            Told::Change(Change::Append { id, log, at, .. })
            | Told::LostRecords { id, log, at, .. } => (id, log, at, default),
            Told::Change(Change::Truncate { id, log, before, .. }) => (id, log, before, default),
            Told::Change(Change::Discard { id, log, from, .. }) => (id, log, from, default),
            Told::Change(Change::Delete { .. } | Change::Put { .. } | Change::Remove { .. })
            | Told::LostValue => return,
        };
        let known = || Known { name: log.clone(), options, first: *first };
        self.logs.entry(*id).or_insert_with(known);
    }
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    let doing = format!("mending {}", path.display());
    StoreError::Io { doing, cause: error.to_string() }
}
