//! `ltq-node check`.

use std::{path::Path, time::SystemTime};

use indicatif::ProgressBar;
use ltq_core::model::audit;
use ltq_store::{CheckProgress, CheckReport, FileStore, FileStoreOptions};

use super::{
    CheckArgs, ToolError, bar, mend,
    report::{Checked, Mended},
    writing,
};
use crate::output;

pub(super) async fn run(args: CheckArgs) -> Result<(), ToolError> {
    let dir = &args.data_dir;
    let mut checked = check(dir).await?;
    if args.repair && !checked.is_clean() {
        if let Some(refused) = &checked.report.refused {
            let refused = refused.clone();
            show(&args, &checked)?;
            return Err(ToolError::Failed(format!("it is beyond repair: {refused}")));
        }
        let folder = folder(SystemTime::now());
        let set_aside = repair(dir, folder.clone()).await?;
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

async fn repair(dir: &Path, folder: String) -> Result<Vec<String>, ToolError> {
    let repaired = blocking(dir, "mending", move |options, progress| {
        FileStore::repair(&options, &folder, progress)
    });
    Ok(repaired.await?.set_aside)
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

/// Whether a report of files says that all is well.
pub(super) const fn is_clean(report: &CheckReport) -> bool {
    report.damage.is_empty() && report.refused.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_named_for_the_time() {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_790_000_000);
        assert_eq!(folder(time), "damaged-20260921T141320Z");
    }
}
