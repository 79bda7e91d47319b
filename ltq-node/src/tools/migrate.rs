//! `ltq-node migrate`.

mod copy;

use std::{fs, io, path::Path};

use ltq_core::{Durability, WriteBatch};

use self::copy::{compare, copy, records, survey};
use super::{MigrateArgs, ToolError, bar, stores};
use crate::output;

pub(super) async fn run(args: MigrateArgs) -> Result<(), ToolError> {
    let (from, to) = (stores::named(&args.from)?, stores::named(&args.to)?);
    require_empty(&args.target_dir)?;
    let source = stores::open_source(from, &args.data_dir).await?;
    stores::refuse_unfinished(&*source, &args.data_dir)?;
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

    let target = stores::open_target(to, &args.target_dir).await?;
    let total = records(&source.logs()?);
    let progress = bar::messages(total, "copying");
    let copied = copy(&*source, &*target, &progress).await;
    let closed = target.close().await;
    copied?;
    closed?;
    progress.finish_and_clear();

    // As a node will find it.
    let target = stores::open_target(to, &args.target_dir).await?;
    let progress = bar::messages(total, "comparing");
    let mut result = compare(&*source, &*target, &progress).await;
    progress.finish_and_clear();
    if result.is_ok() {
        let mut complete = WriteBatch::new();
        complete.delete(stores::UNFINISHED);
        result = target.commit(complete, Durability::Disk).await.map(|_| ()).map_err(Into::into);
    }
    let closed = target.close().await;
    let logs = match source.logs()?.len() {
        1 => "1 topic".to_owned(),
        logs => format!("{logs} topics"),
    };
    source.close().await?;
    result?;
    closed?;
    let messages = if total == 1 { "1 message" } else { &format!("{total} messages") };
    output::note(format_args!(
        "{messages} of {logs} are in {}, the same as in {}{}",
        args.target_dir.display(),
        args.data_dir.display(),
        if damaged.is_empty() { "" } else { ", but for those that cannot be read" }
    ));
    Ok(())
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
