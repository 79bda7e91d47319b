//! `ltq-node check`.

use std::{path::Path, time::SystemTime};

use indicatif::ProgressBar;
use ltq_core::{LogName, Offset, Store as _, StoreError, model::audit};
use ltq_store::{CheckProgress, CheckReport, Damage, FileStore, FileStoreOptions, Loss, Repair};

use super::{
    CheckArgs, ToolError, bar,
    cursor::{Cursor, Piece},
    mend,
    report::{Checked, Mended},
    stores, writing,
};
use crate::{config::StoreKind, output};

pub(super) async fn run(args: CheckArgs) -> Result<(), ToolError> {
    let dir = &args.data_dir;
    stores::refuse_unfinished(dir)?;
    let kind = stores::kind(args.store.as_deref(), dir)?;
    let mut checked = match kind {
        StoreKind::File => check(dir).await?,
        StoreKind::RocksDb | StoreKind::Memory => read_all(kind, dir).await?,
    };
    if args.repair && !checked.is_clean() {
        if kind != StoreKind::File {
            show(&args, &checked)?;
            let words = "it is not mended in its place; ltq-node migrate --leave-out-damaged copies \
                         what is whole to a new store";
            return Err(ToolError::Failed(words.to_owned()));
        }
        let folder = unused_folder(dir, SystemTime::now());
        let repaired = match repair(dir, folder.clone()).await {
            Err(error) if checked.report.refused.is_some() => {
                show(&args, &checked)?;
                return Err(ToolError::Failed(format!("it is beyond repair: {error}")));
            }
            repaired => repaired?,
        };
        if checked.report.refused.is_some() {
            // Now it can be told what is in it.
            checked = check(dir).await?;
            checked.report.damage = repaired.report.damage;
        }
        let set_aside = repaired.set_aside;
        mend::values(dir, &folder, &checked.misfits).await?;
        let again = check(dir).await?;
        checked.mended = Some(Mended { folder, set_aside, clean: again.is_clean() });
    }
    show(&args, &checked)?;
    match &checked.mended {
        Some(mended) if !mended.clean => {
            Err(ToolError::Failed("it is still not whole; check it again".to_owned()))
        }
        None if !checked.is_clean() => Err(ToolError::Failed(checked.summary())),
        _ => Ok(()),
    }
}

fn show(args: &CheckArgs, checked: &Checked) -> Result<(), ToolError> {
    if args.json {
        output::line(checked.json(&args.data_dir)).map_err(writing)
    } else {
        output::line(checked.words(&args.data_dir)).map_err(writing)
    }
}

async fn check(dir: &Path) -> Result<Checked, ToolError> {
    let report =
        blocking(dir, "checking", |options, progress| FileStore::check(&options, progress)).await?;
    let misfits =
        if report.refused.is_none() { audit(&report.logs, &report.values) } else { Vec::new() };
    Ok(Checked { report, misfits, mended: None })
}

/// A store that does not check itself: everything that it holds is read.
async fn read_all(kind: StoreKind, dir: &Path) -> Result<Checked, ToolError> {
    let mut report = CheckReport::default();
    let store = stores::open_source(kind, dir).await?;
    (report.logs, report.values) = (store.logs()?, store.values(b"")?);
    let total = report.logs.iter().map(|info| info.bounds.end.since(info.bounds.first)).sum();
    let bar = bar::messages(total, "checking");
    for info in &report.logs {
        let mut cursor = Cursor::new(&*store, &info.log, info.bounds);
        let mut at = info.bounds.first;
        while let Some(piece) = cursor.next().await? {
            let end = match piece {
                Piece::Batch(batch) => {
                    report.records += batch.records.count() as u64;
                    batch.end()
                }
                Piece::Discarded(until) => until,
                Piece::Damaged(until, error) => {
                    report.damage.push(damage(&info.log, at, until, error));
                    until
                }
            };
            bar.inc(end.since(at));
            at = end;
        }
    }
    bar.finish_and_clear();
    store.close().await?;
    let misfits = audit(&report.logs, &report.values);
    Ok(Checked { report, misfits, mended: None })
}

fn damage(log: &LogName, from: Offset, until: Offset, error: StoreError) -> Damage {
    let loss = Loss::Records { log: log.clone(), from, until };
    match error {
        StoreError::Damaged { file, position, what, .. } => Damage { file, position, what, loss },
        error => Damage { file: String::new(), position: 0, what: error.to_string(), loss },
    }
}

async fn repair(dir: &Path, folder: String) -> Result<Repair, ToolError> {
    let repaired = blocking(dir, "mending", move |options, progress| {
        FileStore::repair(&options, &folder, progress)
    });
    repaired.await
}

/// Does something with the files that takes its time, with a bar.
async fn blocking<T: Send + 'static>(
    dir: &Path,
    doing: &'static str,
    work: impl FnOnce(
        FileStoreOptions,
        &mut dyn FnMut(CheckProgress<'_>),
    ) -> Result<T, ltq_core::StoreError>
    + Send
    + 'static,
) -> Result<T, ToolError> {
    let options = FileStoreOptions::new(dir);
    let bar = bar::bytes(0, doing);
    let shown: ProgressBar = bar.clone();
    let done = tokio::task::spawn_blocking(move || {
        work(options, &mut |progress| {
            shown.set_length(progress.total);
            shown.set_position(progress.done);
        })
    });
    let done = done.await.map_err(|error| ToolError::Failed(error.to_string()));
    bar.finish_and_clear();
    Ok(done??)
}

/// The name of a folder for what is set aside now.
fn folder(now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now).to_string();
    format!("damaged-{}", time.replace(['-', ':'], ""))
}

/// The same, and another one when a repair has just made that.
fn unused_folder(dir: &Path, now: SystemTime) -> String {
    let folder = folder(now);
    let others = (2..).map(|number| format!("{folder}-{number}"));
    let mut all = std::iter::once(folder.clone()).chain(others);
    all.find(|folder| !dir.join(folder).exists()).unwrap_or(folder)
}

/// Whether a report of files says that all is well.
pub(super) const fn is_clean(report: &CheckReport) -> bool {
    report.damage.is_empty() && report.refused.is_none()
}

#[cfg(test)]
mod tests {
    use ltq_core::{Durability, LogOptions, Message, Records, Timestamp, WriteBatch};

    use super::*;

    /// As for a store that does not check itself.
    #[tokio::test]
    async fn promise_8_what_is_damaged_is_found_by_reading_everything() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogName::new("no/topic");
        let store = FileStore::open(FileStoreOptions::new(dir.path())).await.unwrap();
        let mut batch = WriteBatch::new();
        batch.create_log(log.clone(), LogOptions::default());
        let bodies = (0..100).map(|at| Message::new(format!("message-{at:03}")));
        let records = Records::encode(&bodies.collect::<Vec<_>>());
        batch.append(log.clone(), Offset(0), Timestamp(1), records);
        batch.discard(log.clone(), Offset(10), Offset(20));
        store.commit(batch, Durability::Disk).await.unwrap();
        store.close().await.unwrap();
        let kind = stores::kind(None, dir.path()).unwrap();
        assert_eq!(kind, StoreKind::File);
        let checked = read_all(kind, dir.path()).await.unwrap();
        assert!(checked.is_clean() && checked.report.records == 90, "{:?}", checked.report);

        let files = ["journal", "segments"].map(|part| std::fs::read_dir(dir.path().join(part)));
        for file in files.into_iter().flat_map(|files| files.unwrap()) {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let text = b"message-057";
            if let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
                bytes[at] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
        }
        let checked = read_all(kind, dir.path()).await.unwrap();
        let loss = Loss::Records { log, from: Offset(57), until: Offset(58) };
        assert_eq!(checked.report.damage.len(), 1, "{:?}", checked.report);
        assert_eq!((&checked.report.damage[0].loss, checked.report.records), (&loss, 89));
        assert_eq!(checked.summary(), "1 place is damaged, 1 message is lost");

        std::fs::write(dir.path().join("rocksdb-identity"), "").unwrap();
        assert_eq!(stores::kind(None, dir.path()).unwrap(), StoreKind::RocksDb);
        assert_eq!(stores::kind(Some("file"), dir.path()).unwrap(), StoreKind::File);
    }

    #[test]
    fn the_folder_is_named_for_the_time() {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_790_000_000);
        assert_eq!(folder(time), "damaged-20260921T141320Z");
        let dir = tempfile::tempdir().unwrap();
        for name in ["damaged-20260921T141320Z", "damaged-20260921T141320Z-2"] {
            assert_eq!(unused_folder(dir.path(), time), name);
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(unused_folder(dir.path(), time), "damaged-20260921T141320Z-3");
    }
}
