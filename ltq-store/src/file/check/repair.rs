//! Mends a store: sets damaged files aside, keeps what is whole, and notes what is lost.
//!
//! For each damaged segment a new file with its whole records is written beside it, and then in
//! this order: a checkpoint names the lost records and allows for either file; the new file takes
//! the place of the old one; a checkpoint names the new one. So a crash at any point leaves
//! neither more nor less than there was, apart from what is damaged.

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use ltq_core::{LogName, StoreError, Timestamp};

use super::{
    super::{
        block::BlockBuilder,
        engine::Engine,
        filesystem::{FileSystem, OpenMode, StoreFile, read_up_to},
        format::HEADER_BYTES,
        identity,
        keeper::Keeping,
        log::{Hole, Segment},
        options::FileStoreOptions,
        recovery,
    },
    CheckProgress, CheckReport, Checked, Checker, Loss, Repair,
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
    let files = Arc::clone(&options.file_system);
    let dir = &options.dir;
    let Checked { report, store, lock } = Checker::new(options, progress)?.run()?;
    if report.is_clean() {
        return Ok(Repair { report, set_aside: Vec::new() });
    }
    if let Some(refused) = report.refused {
        return Err(refused);
    }
    let Some(store) = store else {
        return Err(identity::refuse(dir, "nothing of it tells any more which store it is"));
    };
    let folder = new_folder(&*files, dir, set_aside)?;
    let damaged: BTreeSet<&str> = report.damage.iter().map(|damage| damage.file.as_str()).collect();
    let damaged = report.files.iter().filter(|file| damaged.contains(file.path.as_str()));
    let damaged: Vec<String> = damaged.map(|file| file.path.clone()).collect();
    for path in &damaged {
        copy(&*files, &dir.join(path), &folder.join(path)).map_err(|error| StoreError::Io {
            doing: format!("setting {path} aside in {}", folder.display()),
            cause: error.to_string(),
        })?;
    }
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
    let mended = mend(&engine, &report, &folder);
    engine.begin_closing();
    let closed = engine.finish_closing();
    mended.and(closed)?;
    Ok(Repair { report, set_aside: damaged })
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
fn copy(files: &dyn FileSystem, from: &Path, to: &Path) -> io::Result<()> {
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
        target.write_all_at(&[IoSlice::new(part)], position)?;
        position += read as u64;
    }
    target.sync()?;
    to.parent().map_or(Ok(()), |parent| files.sync_dir(parent))
}

/// Makes the files say what is there and what is lost.
fn mend(engine: &Engine, report: &CheckReport, folder: &Path) -> Result<(), StoreError> {
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
            let path = keeping.segments.path((log, segment.first));
            let below = path.strip_prefix(&engine.options.dir).unwrap_or(&path);
            if damaged.contains(below.display().to_string().as_str()) {
                replace(engine, &mut keeping, &name, log, &segment, folder)?;
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

fn replace(
    engine: &Engine,
    keeping: &mut Keeping,
    name: &LogName,
    log: u64,
    old: &Segment,
    folder: &Path,
) -> Result<(), StoreError> {
    let key = (log, old.first);
    let path = keeping.segments.path(key);
    let failed = |error: io::Error| StoreError::Io {
        doing: format!("writing {} anew", path.display()),
        cause: error.to_string(),
    };
    let temporary = folder.join("being-mended");
    let new = match keeping.segments.open(key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        file => {
            let file = file.map_err(failed)?;
            let whole = write_whole(engine, keeping, log, old, &file, &temporary);
            // Its name must not come back by itself once it has another.
            engine.files.sync_dir(folder).map_err(failed)?;
            whole.map_err(failed)?
        }
    };
    let set = |segment: Option<Segment>| {
        let mut state = engine.state.write();
        state.change_log(log, name, |found| {
            match found.segments.iter().position(|it| it.first == old.first).zip(segment) {
                Some((at, new)) => found.segments.splice(at..=at, [new]).for_each(drop),
                None => found.segments.retain(|it| it.first != old.first),
            }
        });
        state.count_segments();
    };
    let Some(new) = new else {
        set(None);
        engine.checkpoint(keeping, false)?;
        return match keeping.segments.remove(key) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        };
    };
    set(Some(Segment { bytes: new.bytes.max(old.bytes), ..new.clone() }));
    engine.checkpoint(keeping, false)?;
    engine.handles.forget(key);
    engine.files.rename(&temporary, &path).map_err(failed)?;
    engine.files.sync_dir(keeping.segments.dir()).map_err(failed)?;
    set(Some(new));
    engine.checkpoint(keeping, false)
}

/// Writes the records of a segment that are whole. `None` when there are none.
fn write_whole(
    engine: &Engine,
    keeping: &Keeping,
    log: u64,
    old: &Segment,
    file: &Arc<dyn StoreFile>,
    to: &Path,
) -> io::Result<Option<Segment>> {
    let key = (log, old.first);
    let salt = keeping.segments.salt(key);
    let target = engine.files.open(to, OpenMode::Create)?;
    target.set_len(0)?;
    target.write_all_at(&[IoSlice::new(&keeping.segments.header(key).encode())], 0)?;
    let mut position = HEADER_BYTES as u64;
    let mut time_max = Timestamp(0);
    let mut block = BlockBuilder::default();
    let mut flush = |block: &mut BlockBuilder| -> io::Result<()> {
        if !block.is_empty() {
            let (header, bytes) = block.finish(salt, position);
            target.write_all_at(&[IoSlice::new(&bytes)], position)?;
            position += bytes.len() as u64;
            time_max = time_max.max(header.time_max);
        }
        Ok(())
    };
    walk(file, salt, old, &mut |part| {
        let Part::Good(mut batch) = part else { return Ok(()) };
        if block.end() != batch.first {
            flush(&mut block)?;
        }
        while !batch.records.is_empty() {
            block.take(&mut batch);
            if block.is_full() || !batch.records.is_empty() {
                flush(&mut block)?;
            }
        }
        Ok(())
    })?;
    flush(&mut block)?;
    target.sync()?;
    let (first, end) = (old.first, old.end);
    let whole = Segment { first, end, bytes: position, time_max, index: None };
    Ok((position > HEADER_BYTES as u64).then_some(whole))
}

const COPY_BYTES: usize = 1 << 20;
