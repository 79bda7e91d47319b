//! Opens a store: whose files they are, what the last checkpoint and the journal say, and a new
//! journal file to go on with.
//!
//! Nothing is written before it is clear that the store is to be opened.

use std::{
    collections::{BTreeSet, HashSet},
    io::{self, IoSlice},
    path::Path,
    sync::{Arc, OnceLock, atomic::AtomicBool, atomic::AtomicU64},
};

use ltq_core::StoreError;
use parking_lot::{Mutex, RwLock};

use super::{
    buffers::Buffers,
    check::ReadsAround,
    checkpoint::{self, Snapshot},
    commit::Writing,
    engine::{Counters, Engine},
    filesystem::{FileSystem, OpenMode, StoreFile, is_full},
    format::{FileHeader, HeaderError, Kind, StoreId},
    front::{Front, Sealed},
    identity::{self, other_format, refuse},
    journal::{ENTRIES_AT, GoesOn, JournalDir, JournalFile},
    keeper::Keeping,
    log::Log,
    options::{FileStoreOptions, Simulation},
    pace::Pace,
    planned::Planned,
    reader::Handles,
    replay::Replay,
    reserve::Reserve,
    rewrite::Rewriting,
    segments::{SegmentDir, SegmentKey},
    signal::Signal,
    state::State,
    supply::{FIRST_FILE_BYTES, LEAST_FILE_BYTES},
    walk::{Walk, WalkedFile},
};

/// Opens the store.
pub(super) fn open(options: FileStoreOptions) -> Result<Engine, StoreError> {
    options.check()?;
    let new = options.simulation.as_ref().map_or_else(StoreId::random, Simulation::store_id);
    let (store, lock) = identity::open(&*options.file_system, &options.dir, new)?;
    open_locked(options, store, lock)
}

/// Opens a store whose lock is held.
pub(super) fn open_locked(
    options: FileStoreOptions,
    store: StoreId,
    lock: Arc<dyn StoreFile>,
) -> Result<Engine, StoreError> {
    let dir = options.dir.clone();
    let reserve = Arc::new(Reserve::new(Arc::clone(&options.file_system), &dir));
    let files: Arc<dyn FileSystem> = reserve.clone();
    let journal = JournalDir::new(Arc::clone(&files), &dir, store);
    let segments = SegmentDir::new(Arc::clone(&files), &dir, store);
    let failed = |doing: &str, error: &io::Error| {
        if is_full(error) {
            return refuse(&dir, &format!("its device is full ({doing} failed); make room there"));
        }
        let doing = format!("{doing} in {}", dir.display());
        StoreError::Io { doing, cause: error.to_string() }
    };

    let Found { snapshot, checkpoint_bytes, numbers, walked, listed } =
        find(&*files, &dir, &journal, &segments)?;
    let made = [journal.dir(), segments.dir()].into_iter();
    made.into_iter()
        .try_for_each(|sub| files.create_dir_all(sub))
        .map_err(|error| failed("making directories", &error))?;
    // What is read may be in the operating system's memory only, the checkpoint's name too, and is
    // built upon from now on.
    files.sync_dir(&dir).map_err(|error| failed("syncing the directory", &error))?;
    for file in &walked {
        journal
            .open_to_write(file.number)
            .and_then(|file| file.sync())
            .map_err(|error| failed("syncing the journal", &error))?;
    }
    // On a full device this is the room to go on with.
    journal.remove_unfinished();
    for &number in numbers.iter().take_while(|&&number| number < snapshot.file) {
        if let Err(error) = journal.remove(number) {
            tracing::warn!(%error, number, "a superfluous journal file could not be removed");
        }
    }
    let (mut checkpoint, mut replay_from) = (snapshot.number, (snapshot.file, snapshot.sequence));
    let before = snapshot.sequence - 1;
    let mut sealed: Vec<_> = walked
        .iter()
        .map(|file| Sealed { number: file.number, bytes: file.bytes, last_sequence: before })
        .collect();
    let mut walk = Walk::new(walked, snapshot.sequence).keep_doubtful();
    let mut replay = Replay::new(&options, &segments, snapshot);
    // What came after the checkpoint is in the journal, and written again if memory asks for it.
    remove_segments(&segments, unknown_segments(listed, &replay.state));
    while let Some(step) = walk.step().map_err(|error| failed("reading the journal", &error))? {
        let at = walk.file();
        replay.step(step).map_err(|error| failed("moving records to segments", &error))?;
        for file in sealed.iter_mut().skip(at) {
            file.last_sequence = walk.expected() - 1;
        }
    }
    rewrite_end(&journal, &walk).map_err(|error| failed("writing the journal's end", &error))?;
    let last = walk.expected() - 1;
    tracing::debug!(dir = %dir.display(), last, clean = replay.stopped, "replayed the journal");
    let Replay { mut state, next_log_id, dirty, damaged_records, .. } = replay;

    let orphans = judge_segments(&segments, &mut state)
        .map_err(|error| failed("listing the segments", &error))?;
    remove_segments(&segments, orphans);
    let next_file = numbers.last().map_or(1, |last| last + 1);
    let current = first_file(&journal, next_file, last + 1, options.journal_file_bytes)
        .map_err(|error| failed("making a journal file", &error))?;
    let mut checkpoint_bytes = checkpoint_bytes;
    if checkpoint == 0 && last == 0 {
        // From now on a journal that is not there is one that was lost.
        (checkpoint, replay_from) = (1, (current.number, 1));
        let (file, sequence) = replay_from;
        let (number, newest) = (checkpoint, file);
        let nothing =
            Snapshot { number, file, newest, sequence, next_log_id: 1, ..Snapshot::default() };
        checkpoint_bytes = checkpoint::write(&*files, &dir, store, &nothing)
            .map_err(|error| failed("writing a checkpoint", &error))?;
    }
    let keeping = Keeping {
        segments,
        dirty,
        spare: Vec::new(),
        next_file: next_file + 1,
        checkpoint,
        replay: replay_from,
        rewriting: Rewriting::default(),
    };
    Ok(engine(
        options,
        Parts {
            store,
            reserve,
            journal,
            lock: Some(lock),
            state,
            next_log_id,
            damaged_records,
            checkpoint_bytes,
            current,
            sealed,
            last,
            keeping,
            read_only: false,
        },
    ))
}

/// Reads a store as [`open`] does, writes nothing, and takes no commits.
pub(super) fn open_read_only(options: &FileStoreOptions) -> Result<Engine, StoreError> {
    // The tails hold what the journal holds: there is nowhere to move it to.
    let options = ReadsAround::within(options).0.tail_bytes(u64::MAX);
    options.check()?;
    let dir = options.dir.clone();
    let reserve = Arc::new(Reserve::new(Arc::clone(&options.file_system), &dir));
    let files: Arc<dyn FileSystem> = reserve.clone();
    let (store, lock) = identity::open_read_only(&*files, &dir)?;
    let journal = JournalDir::new(Arc::clone(&files), &dir, store);
    let segments = SegmentDir::new(Arc::clone(&files), &dir, store);
    let failed = |error: io::Error| StoreError::Io {
        doing: format!("reading {}", dir.display()),
        cause: error.to_string(),
    };
    let found = find(&*files, &dir, &journal, &segments)?;
    let keeping = Keeping {
        segments: segments.clone(),
        dirty: BTreeSet::new(),
        spare: Vec::new(),
        next_file: 0,
        checkpoint: found.snapshot.number,
        replay: (found.snapshot.file, found.snapshot.sequence),
        rewriting: Rewriting::default(),
    };
    let checkpoint_bytes = found.checkpoint_bytes;
    let before = found.snapshot.sequence - 1;
    let sealed = |file: &WalkedFile| Sealed {
        number: file.number,
        bytes: file.bytes,
        last_sequence: before,
    };
    let sealed = found.walked.iter().map(sealed).collect();
    let mut walk = Walk::new(found.walked, found.snapshot.sequence);
    let mut replay = Replay::new(&options, &segments, found.snapshot);
    while let Some(step) = walk.step().map_err(failed)? {
        replay.step(step).map_err(failed)?;
    }
    let last = walk.expected() - 1;
    let Replay { mut state, next_log_id, damaged_records, .. } = replay;
    judge_segments(&segments, &mut state).map_err(failed)?;
    let current = JournalFile::none(journal.salt(0));
    Ok(engine(
        options,
        Parts {
            store,
            reserve,
            journal,
            lock,
            state,
            next_log_id,
            damaged_records,
            checkpoint_bytes,
            current,
            sealed,
            last,
            keeping,
            read_only: true,
        },
    ))
}

/// What there is of a store, before anything is written.
struct Found {
    snapshot: Snapshot,
    checkpoint_bytes: u64,
    /// Of all journal files.
    numbers: Vec<u64>,
    /// Those that are needed.
    walked: Vec<WalkedFile>,
    listed: Vec<SegmentKey>,
}

fn find(
    files: &dyn FileSystem,
    dir: &Path,
    journal: &JournalDir,
    segments: &SegmentDir,
) -> Result<Found, StoreError> {
    let failed = |doing: &str, error: &io::Error| StoreError::Io {
        doing: format!("{doing} in {}", dir.display()),
        cause: error.to_string(),
    };
    let (snapshot, whole, checkpoint_bytes) = load_checkpoint(files, dir, journal.store())?;
    let numbers = journal.numbers().map_err(|error| failed("listing the journal", &error))?;
    let needed = numbers.get(numbers.partition_point(|&it| it < snapshot.file)..);
    let walked = open_journal(files, journal, &snapshot, needed.unwrap_or_default())?;
    check_journal(dir, &snapshot, &walked, whole)?;
    let listed = segments.list().map_err(|error| failed("listing the segments", &error))?;
    check_segments(dir, &snapshot, &walked, &listed)?;
    Ok(Found { snapshot, checkpoint_bytes, numbers, walked, listed })
}

/// What a store is made of once its files are read.
struct Parts {
    store: StoreId,
    reserve: Arc<Reserve>,
    journal: JournalDir,
    lock: Option<Arc<dyn StoreFile>>,
    state: State,
    next_log_id: u64,
    damaged_records: u64,
    checkpoint_bytes: u64,
    current: JournalFile,
    sealed: Vec<Sealed>,
    /// The journal's last entry.
    last: u64,
    keeping: Keeping,
    read_only: bool,
}

fn engine(options: FileStoreOptions, parts: Parts) -> Engine {
    let Parts { store, reserve, journal, lock, state, next_log_id, damaged_records, .. } = parts;
    let logs = state.logs.iter();
    let logs = logs.map(|(name, log)| (name.clone(), log.id, log.options, log.bounds.end));
    let planned = Planned::new(logs, next_log_id);
    let volatile = AtomicBool::new(planned.has_volatile());
    let mut front = Front::new(planned, parts.current, parts.last);
    parts.sealed.into_iter().for_each(|file| front.push_sealed(file));
    let failed = OnceLock::new();
    if parts.read_only {
        let cause = failed.get_or_init(|| "it was opened for reading only".to_owned());
        front.stopped = Some(StoreError::Failed(cause.clone()));
    }
    let counters = Counters {
        damaged_records: AtomicU64::new(damaged_records),
        checkpoint_bytes: AtomicU64::new(parts.checkpoint_bytes),
        tail_cost: AtomicU64::new(state.tail_cost()),
        values_cost: AtomicU64::new(state.values_cost()),
        segment_bytes: AtomicU64::new(state.segment_bytes()),
        volatile,
        ..Counters::default()
    };
    Engine {
        files: reserve.clone(),
        store,
        journal,
        buffers: Buffers::new(options.spare_buffer_bytes()),
        front: Mutex::new(front),
        state: RwLock::new(state),
        showing: Mutex::default(),
        writing: Mutex::new(Writing::default()),
        syncing: Mutex::default(),
        sync_pace: Pace::default(),
        written: AtomicU64::new(parts.last),
        synced: AtomicU64::new(parts.last),
        handles: Handles::new(parts.keeping.segments.clone(), Arc::clone(&reserve)),
        reserve,
        keeping: Mutex::new(parts.keeping),
        failed,
        closed: AtomicBool::new(false),
        read_only: parts.read_only,
        lock: Mutex::new(lock),
        timed: AtomicBool::new(false),
        device_short: AtomicBool::new(false),
        commit_signal: Signal::default(),
        keep_signal: Signal::default(),
        counters,
        options,
    }
}

pub(super) fn load_checkpoint(
    files: &dyn FileSystem,
    dir: &Path,
    store: StoreId,
) -> Result<(Snapshot, bool, u64), StoreError> {
    let loaded = checkpoint::load(files, dir, store)
        .map_err(|error| refuse(dir, &format!("reading its checkpoint failed: {error}")))?;
    if let Some((path, why)) = loaded.refused {
        return Err(refuse(&path, &why));
    }
    for (path, what) in &loaded.damaged {
        tracing::error!(path = %path.display(), what, "a checkpoint is damaged");
    }
    // Without one the journal tells everything from the beginning.
    let snapshot = loaded.snapshot.unwrap_or_else(|| Snapshot {
        file: 1,
        sequence: 1,
        next_log_id: 1,
        ..Snapshot::default()
    });
    Ok((snapshot, loaded.damaged.is_empty(), loaded.bytes))
}

pub(super) fn open_journal(
    files: &dyn FileSystem,
    journal: &JournalDir,
    snapshot: &Snapshot,
    numbers: &[u64],
) -> Result<Vec<WalkedFile>, StoreError> {
    let mut walked = Vec::with_capacity(numbers.len());
    // Files that must be there if they are not older than the checkpoint asks for.
    let mut before = BTreeSet::from([snapshot.newest]);
    for &number in numbers {
        let path = journal.path(number);
        if number == u64::MAX {
            return Err(refuse(&path, "no store gives a journal file that number; put it away"));
        }
        let failed = |error: io::Error| refuse(&path, &format!("reading it failed: {error}"));
        let file = files.open(&path, OpenMode::Read).map_err(failed)?;
        let bytes = file.size().map_err(failed)?;
        let header = FileHeader::read(&*file);
        let least = header.as_ref().map_or(ENTRIES_AT, |header| header.bytes);
        if let Ok(header) = &header
            && header.store == journal.store()
        {
            before.insert(number.saturating_sub(u64::from(header.behind)));
        }
        let first = match header {
            Ok(header) if header.store != journal.store() => {
                return Err(refuse(&path, "it belongs to another store"));
            }
            Ok(header) if header.kind != Kind::Journal || header.number != number => {
                return Err(refuse(&path, "it is another file of the store; put it back"));
            }
            Ok(header) => Some(header.first).filter(|&first| first > 0),
            Err(HeaderError::Other(version)) => return Err(other_format(&path, version)),
            // What is in it tells.
            Err(HeaderError::Damaged) => None,
        };
        if bytes < least {
            return Err(refuse(
                &path,
                &format!("it was cut: it has {bytes} bytes and should have {least} or more"),
            ));
        }
        // What a file has beyond what it says was never written by a store.
        let bytes = if header.is_ok() { least } else { bytes };
        let name = Arc::from(path.display().to_string());
        let salt = journal.salt(number);
        let mut file = WalkedFile { number, name, file, bytes, salt, first };
        if file.first.is_none() {
            file.first = file.peek().map_err(failed)?;
        }
        walked.push(file);
    }
    let is_missing = |number: &u64| *number >= snapshot.file && !numbers.contains(number);
    match before.into_iter().find(is_missing) {
        Some(number) if snapshot.number == 0 => Err(refuse(
            &journal.path(number),
            "it is missing, and no copy of the checkpoint is whole to begin with instead of it; \
             restore a backup, or have a repair find what is left",
        )),
        Some(number) => Err(refuse(&journal.path(number), "it is missing")),
        None => Ok(walked),
    }
}

/// Refuses a journal that cannot go on where the checkpoint ends.
pub(super) fn check_journal(
    dir: &Path,
    snapshot: &Snapshot,
    walked: &[WalkedFile],
    whole: bool,
) -> Result<(), StoreError> {
    let first = walked.iter().filter_map(|file| file.first).min();
    let behind = first.is_some_and(|first| first > snapshot.sequence);
    // A damaged checkpoint beside an older one may have allowed parts of the journal to go.
    if (snapshot.number == 0 || !whole) && (behind || (snapshot.number == 0 && !whole)) {
        return Err(refuse(
            dir,
            "its files \"checkpoint-0\" and \"checkpoint-1\" are missing or damaged; restore a \
             backup, or have a repair find what is left",
        ));
    }
    Ok(())
}

/// Refuses segments that neither a checkpoint nor the journal can tell anything of: they are not
/// left over from a crash, but all that is left of a store.
pub(super) fn check_segments(
    dir: &Path,
    snapshot: &Snapshot,
    walked: &[WalkedFile],
    listed: &[SegmentKey],
) -> Result<(), StoreError> {
    let from_the_start = walked.first().is_some_and(|file| file.first == Some(snapshot.sequence));
    if snapshot.number == 0 && !listed.is_empty() && !from_the_start {
        return Err(refuse(dir, "its checkpoint and the beginning of its journal are missing"));
    }
    Ok(())
}

/// Writes the entries at the journal's end once more, and syncs them. A sync that failed before the
/// store was opened may have left them to be read and not on the device, and a sync now would not
/// tell; and of one that a power cut tore, this mends the copy that is torn.
fn rewrite_end(journal: &JournalDir, walk: &Walk) -> io::Result<()> {
    let mut written: Option<(u64, Arc<dyn StoreFile>)> = None;
    for (number, position, bytes) in walk.doubtful() {
        let file = match written.take() {
            Some((same, file)) if same == number => file,
            before => {
                before.map_or(Ok(()), |(_, file)| file.sync())?;
                journal.open_to_write(number)?
            }
        };
        file.write_all_at(&[IoSlice::new(&bytes)], position)?;
        written = Some((number, file));
    }
    written.map_or(Ok(()), |(_, file)| file.sync())
}

/// The file to go on with, small as most stores stay small; smaller still on a full device, where
/// truncations and acks must get in so that there is room again.
fn first_file(
    journal: &JournalDir,
    number: u64,
    first: u64,
    bytes_max: u64,
) -> io::Result<JournalFile> {
    let made = journal.create(number, GoesOn::At(first), FIRST_FILE_BYTES.min(bytes_max));
    match made {
        Err(error) if is_full(&error) => {
            journal.create(number, GoesOn::At(first), LEAST_FILE_BYTES)
        }
        made => made,
    }
}

/// The segment files, of those that there are, of which no log knows.
pub(super) fn unknown_segments(listed: Vec<SegmentKey>, state: &State) -> BTreeSet<SegmentKey> {
    let mut unknown: BTreeSet<_> = listed.into_iter().collect();
    for log in state.logs.values() {
        for segment in &log.segments {
            unknown.remove(&segment.key(log.id));
        }
    }
    unknown
}

fn remove_segments(segments: &SegmentDir, gone: BTreeSet<SegmentKey>) {
    for key in gone {
        if let Err(error) = segments.remove(key) {
            tracing::warn!(%error, "a superfluous segment could not be removed");
        }
    }
}

/// Compares the segments with the files that there are. Returns the files that belong to nothing.
pub(super) fn judge_segments(
    segments: &SegmentDir,
    state: &mut State,
) -> io::Result<BTreeSet<SegmentKey>> {
    let listed = segments.list()?;
    let present: HashSet<_> = listed.iter().copied().collect();
    let mut restored = Vec::new();
    for (name, log) in &mut state.logs {
        let id = log.id;
        let missing = log.segments.iter().filter(|it| !present.contains(&it.key(id)));
        for missing in missing {
            if log.options.durable {
                tracing::error!(log = %name, first = %missing.first, end = %missing.end,
                    "a segment is missing");
            } else {
                // Given up since the checkpoint; of such a log the journal does not tell.
                restored.push((name.clone(), id, missing.first..missing.end));
            }
        }
    }
    for (name, id, lost) in restored {
        state.change_log(id, &name, |log: &mut Log| {
            let oldest = log.segments.first().is_some_and(|first| first.first == lost.start);
            if oldest { log.truncate(lost.end) } else { log.discard(lost.start, lost.end) }
        });
    }
    let logs: Vec<_> = state.logs.iter().map(|(name, log)| (name.clone(), log.id)).collect();
    for (name, id) in logs {
        // Of a log that is not durable the checkpoint may know more than came back.
        state.change_log(id, &name, |log| log.discarded.drop_from(log.bounds.end));
    }
    state.count_segments();
    Ok(unknown_segments(listed, state))
}

impl WalkedFile {
    /// The sequence of the entry with which it begins, if that is whole.
    fn peek(&self) -> io::Result<Option<u64>> {
        let mut bytes = [0; super::entry::ENTRY_HEADER_BYTES];
        let read = super::filesystem::read_up_to(&*self.file, &mut bytes, ENTRIES_AT)?;
        let header = bytes.get(..read).unwrap_or_default();
        let header = super::entry::EntryHeader::decode(self.salt, ENTRIES_AT, header);
        Ok(header.map(|(header, _)| header.sequence))
    }
}
