//! Mends a store: sets damaged files aside, keeps what is whole, and notes what is lost.
//!
//! The whole records of a damaged segment go into a new file beside it; then one checkpoint names
//! that file and the records that are lost, and only then the old file goes. So a crash at any point
//! leaves neither more nor less than there was, apart from what is damaged.

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use ltq_core::{LogName, StoreError};

use super::{
    super::{
        engine::Engine,
        filesystem::{FileSystem, OpenMode, read_up_to},
        identity,
        journal::JournalDir,
        keeper::Keeping,
        log::{Hole, Segment},
        options::FileStoreOptions,
        recovery,
        segments::{SegmentDir, SegmentWriter},
    },
    CheckProgress, CheckReport, Checked, Checker, Loss, ReadsAround, Repair,
    salvage::{Salvage, Salvaged},
    segment::{Part, walk},
    unexplained,
};

/// See [`FileStore::repair`](super::super::FileStore::repair).
pub(super) fn run(
    options: &FileStoreOptions,
    set_aside: &str,
    progress: &mut dyn FnMut(CheckProgress<'_>),
) -> Result<Repair, StoreError> {
    options.check()?;
    let device = &*options.file_system;
    let (options, unreadable) = &ReadsAround::within(options);
    let files = Arc::clone(&options.file_system);
    let dir = &options.dir;
    let Checked { mut report, store, mut lock } = Checker::new(options, progress)?.run()?;
    unreadable.tell(&mut report, dir);
    if report.is_clean() {
        return Ok(Repair { report, set_aside: Vec::new() });
    }
    let Some(store) = store else {
        let unknown = || identity::refuse(dir, "nothing of it tells any more which store it is");
        return Err(report.refused.unwrap_or_else(unknown));
    };
    let folder = new_folder(&*files, dir, set_aside)?;
    let mut salvaged = Salvaged::default();
    if report.refused.is_some() {
        let journal = JournalDir::new(Arc::clone(&files), dir, store);
        let segments = SegmentDir::new(Arc::clone(&files), dir, store);
        let (journal, segments, folder) = (&journal, &segments, &folder);
        let done = Salvaged::default();
        salvaged = Salvage { files: &*files, dir, folder, store, journal, segments, done }.run()?;
        Checked { report, lock, .. } = Checker::locked(options, progress, lock).run()?;
        if let Some(refused) = report.refused {
            return Err(refused);
        }
        unreadable.tell(&mut report, dir);
    }
    let damaged: BTreeSet<&str> = report.damage.iter().map(|damage| damage.file.as_str()).collect();
    let damaged = report.files.iter().filter(|file| damaged.contains(file.path.as_str()));
    let damaged: Vec<String> = damaged.map(|file| file.path.clone()).collect();
    for path in damaged.iter().filter(|path| !salvaged.set_aside.contains(*path)) {
        copy(&*files, &dir.join(path), &folder.join(path)).map_err(|error| StoreError::Io {
            doing: format!("setting {path} aside in {}", folder.display()),
            cause: error.to_string(),
        })?;
    }
    // Before anything is added to a sector that could not be read back.
    unreadable.overwrite(device).map_err(|error| StoreError::Io {
        doing: format!("writing over what cannot be read in {}", dir.display()),
        cause: error.to_string(),
    })?;
    if report.damage.iter().any(|damage| damage.file == identity::IDENTITY) {
        identity::write(&*files, dir, store).map_err(|error| StoreError::Io {
            doing: format!("writing the identity of {}", dir.display()),
            cause: error.to_string(),
        })?;
    }
    let engine = match lock {
        Some(lock) => recovery::open_locked(options.clone(), store, lock)?,
        // Without the file nobody could be kept out, until now.
        None => recovery::open(options.clone())?,
    };
    let mended = mend(&engine, &report);
    engine.begin_closing();
    let closed = engine.finish_closing();
    mended.and(closed)?;
    report.damage.splice(0..0, salvaged.damage);
    let set_aside = salvaged.set_aside.into_iter().chain(damaged).collect::<BTreeSet<_>>();
    Ok(Repair { report, set_aside: set_aside.into_iter().collect() })
}

fn new_folder(files: &dyn FileSystem, dir: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let invalid = |why: &str| Err(StoreError::Invalid(format!("the folder {name:?} {why}")));
    if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
        return invalid("is no plain name");
    }
    let failed = |error: io::Error| StoreError::Io {
        doing: format!("making {name} in {}", dir.display()),
        cause: error.to_string(),
    };
    if files.list(dir).map_err(failed)?.iter().any(|there| there == name) {
        return invalid("is there already");
    }
    let folder = dir.join(name);
    for sub in ["", identity::JOURNAL, identity::SEGMENTS] {
        files.create_dir_all(&folder.join(sub)).map_err(failed)?;
    }
    files.sync_dir(dir).and_then(|()| files.sync_dir(&folder)).map_err(failed)?;
    Ok(folder)
}

/// Copies a file, durably.
pub(super) fn copy(files: &dyn FileSystem, from: &Path, to: &Path) -> io::Result<()> {
    let source = files.open(from, OpenMode::Read)?;
    let target = files.open(to, OpenMode::Create)?;
    let mut bytes = vec![0; COPY_BYTES];
    let mut position = 0;
    loop {
        let read = read_up_to(&*source, &mut bytes, position)?;
        let part = bytes.get(..read).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        // What is no more than room takes none where it is kept.
        if part.iter().any(|&byte| byte != 0) {
            target.write_all_at(&[IoSlice::new(part)], position)?;
        }
        position += read as u64;
    }
    target.set_len(position)?;
    target.sync()?;
    to.parent().map_or(Ok(()), |parent| files.sync_dir(parent))
}

/// Makes the files say what is there and what is lost.
fn mend(engine: &Engine, report: &CheckReport) -> Result<(), StoreError> {
    let mut keeping = engine.keeping.lock();
    let damaged: BTreeSet<&str> = report.damage.iter().map(|damage| damage.file.as_str()).collect();
    note_losses(engine, report);
    // The damaged parts of the journal, and of the checkpoint before, are not needed after this;
    // and nothing is added to a segment any more while it is written anew.
    engine.checkpoint(&mut keeping, false)?;
    let logs: Vec<(LogName, u64, Vec<Segment>)> = {
        let state = engine.state.read();
        let logs = state.logs.iter();
        logs.map(|(name, log)| (name.clone(), log.id, log.segments.clone())).collect()
    };
    for (name, log, segments) in logs {
        for segment in segments {
            let path = keeping.segments.path(segment.key(log));
            let below = path.strip_prefix(&engine.options.dir).unwrap_or(&path);
            if damaged.contains(below.display().to_string().as_str()) {
                replace(engine, &mut keeping, &name, log, &segment)?;
            }
        }
    }
    Ok(())
}

/// Notes the records that are lost, as a damaged journal makes the opening do.
fn note_losses(engine: &Engine, report: &CheckReport) {
    let mut state = engine.state.write();
    for damage in &report.damage {
        let Loss::Records { log, from, until } = &damage.loss else { continue };
        let Some(found) = state.logs.get_mut(log) else { continue };
        let file: Arc<str> = Arc::from(engine.options.dir.join(&damage.file).display().to_string());
        for (from, until) in unexplained(found, *from, *until) {
            let (file, what) = (Arc::clone(&file), Arc::from(damage.what.as_str()));
            found.holes.push(Hole { from, until, file, position: damage.position, what });
        }
        found.holes.sort_unstable_by_key(|hole| hole.from);
    }
}

/// Writes the records of a segment that are whole anew, and gives up the old file.
fn replace(
    engine: &Engine,
    keeping: &mut Keeping,
    name: &LogName,
    log: u64,
    old: &Segment,
) -> Result<(), StoreError> {
    let key = old.key(log);
    let path = keeping.segments.path(key);
    let failed = |error: io::Error| StoreError::Io {
        doing: format!("writing {} anew", path.display()),
        cause: error.to_string(),
    };
    let new = match keeping.segments.open(key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        file => {
            let file = file.map_err(failed)?;
            let salt = keeping.segments.salt(key);
            let rewrite = old.rewrite.saturating_add(1);
            let mut writer = SegmentWriter::rewriting(&keeping.segments, log, rewrite);
            walk(&file, salt, old, &mut |part| match part {
                Part::Good(batch) => writer.push(batch),
                _ => Ok(()),
            })
            .map_err(failed)?;
            writer.finish().map_err(failed)?;
            writer.into_segments()
        }
    };
    keeping.dirty.extend(new.iter().map(|segment| segment.key(log)));
    {
        let mut state = engine.state.write();
        state.change_log(log, name, |found| {
            if let Some(at) = found.segments.iter().position(|it| it.key(log) == key) {
                found.segments.splice(at..=at, new);
            }
        });
        state.remove_later(log, std::slice::from_ref(old), 0);
    }
    engine.handles.forget(key);
    // Closing the store removes the old file, which nothing names any more after this.
    engine.checkpoint(keeping, false)
}

const COPY_BYTES: usize = 1 << 20;
