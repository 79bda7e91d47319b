//! `ltq-node migrate`.

mod copy;

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use self::copy::{compare, copy, records, survey};
use super::{MigrateArgs, ToolError, bar, stores};
use crate::output;

pub(super) async fn run(args: MigrateArgs) -> Result<(), ToolError> {
    let (from, to) = (stores::named(&args.from)?, stores::named(&args.to)?);
    stores::require_built(to)?;
    require_empty(&args.target_dir)?;
    let source = stores::open_source(from, &args.data_dir).await?;
    let damaged = survey(&*source).await?;
    if !damaged.is_empty() {
        for damage in &damaged {
            output::note(format_args!("ltq-node: {damage}"));
        }
        if !args.leave_out_damaged {
            let words = "there are messages that cannot be read; --leave-out-damaged migrates the \
                         others";
            return Err(ToolError::Failed(words.to_owned()));
        }
    }

    // Where nothing takes it for a store until it is one.
    let unfinished = args.target_dir.join(stores::UNFINISHED);
    fs::create_dir_all(&unfinished).map_err(|source| making(&unfinished, source))?;
    let target = stores::open_target(to, &unfinished).await?;
    let total = records(&source.logs()?);
    let progress = bar::messages(total, "copying");
    let copied = copy(&*source, &*target, &progress).await;
    let closed = target.close().await;
    copied?;
    closed?;
    progress.finish_and_clear();

    // As a node will find it.
    let target = stores::open_target(to, &unfinished).await?;
    let progress = bar::messages(total, "comparing");
    let result = compare(&*source, &*target, &progress).await;
    progress.finish_and_clear();
    let closed = target.close().await;
    let logs = match source.logs()?.len() {
        1 => "1 topic".to_owned(),
        logs => format!("{logs} topics"),
    };
    source.close().await?;
    result?;
    closed?;
    complete(&unfinished, &args.target_dir).map_err(|source| making(&args.target_dir, source))?;
    let messages = if total == 1 { "1 message" } else { &format!("{total} messages") };
    output::note(format_args!(
        "{messages} of {logs} are in {}, the same as in {}{}",
        args.target_dir.display(),
        args.data_dir.display(),
        if damaged.is_empty() { "" } else { ", but for those that cannot be read" }
    ));
    Ok(())
}

/// Puts a store that is whole where it belongs. What tells that a directory is a store goes last.
fn complete(from: &Path, to: &Path) -> io::Result<()> {
    let entries = fs::read_dir(from)?.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names = entries.collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable_by_key(|name| stores::IDENTITIES.iter().any(|identity| name == identity));
    let sync = |dir: &Path| File::open(dir).and_then(|dir| dir.sync_all());
    for name in names {
        sync(to)?;
        fs::rename(from.join(&name), to.join(&name))?;
    }
    sync(to)?;
    fs::remove_dir(from)?;
    sync(to)
}

fn making(dir: &Path, source: io::Error) -> ToolError {
    ToolError::Io { doing: format!("making the store in {}", dir.display()), source }
}

fn require_empty(dir: &Path) -> Result<(), ToolError> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ToolError::Io { doing: format!("reading {}", dir.display()), source }),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(ToolError::Failed(format!(
                "{} is not empty, and a migration makes a new store; what one that did not complete \
                 left there may be removed",
                dir.display()
            ))),
        },
    }
}
