//! `ltq-node dump`.

use std::io::{self, BufWriter, Write};

use ltq_core::{Message, Offset, ReadLimits, Store, StoreError, model::keys};
use serde_json::to_writer;

use super::{DumpArgs, ToolError, bar, stores, writing};
use crate::{output, record_json::Shown};

pub(super) async fn run(args: DumpArgs) -> Result<(), ToolError> {
    let kind = stores::kind(args.store.as_deref(), &args.data_dir)?;
    let store = stores::open_source(kind, &args.data_dir).await?;
    let missing = print(&*store, &args).await;
    store.close().await?;
    match missing? {
        0 => Ok(()),
        1 => Err(ToolError::Failed("1 message could not be read".to_owned())),
        missing => Err(ToolError::Failed(format!("{missing} messages could not be read"))),
    }
}

/// Returns how many messages could not be read.
async fn print(store: &dyn Store, args: &DumpArgs) -> Result<u64, ToolError> {
    let log = keys::log_name(&args.topic);
    let bounds = store.bounds(&log).map_err(|error| match error {
        StoreError::NoSuchLog(_) => ToolError::Failed(format!("there is no topic {}", args.topic)),
        error => error.into(),
    })?;
    let mut next = args.from.map_or(bounds.first, Offset).max(bounds.first);
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut missing = 0;
    let bar = bar::messages(bounds.end.since(next).min(left), "printing");
    let mut out = BufWriter::with_capacity(OUT_BYTES, io::stdout());
    while next < bounds.end && left > 0 {
        let records = usize::try_from(left).unwrap_or(usize::MAX);
        let limits = ReadLimits { records, bytes: READ_BYTES };
        let batches = match store.read(&log, next, limits).await {
            Ok(batches) => batches,
            Err(StoreError::Discarded { until, .. }) => {
                bar.inc(until.since(next));
                next = until;
                continue;
            }
            Err(error @ StoreError::Damaged { .. }) => {
                let StoreError::Damaged { until, .. } = &error else { continue };
                bar.suspend(|| output::note(format_args!("ltq-node: {error}")));
                bar.inc(until.since(next));
                missing += until.since(next);
                next = *until;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if batches.is_empty() {
            break;
        }
        for batch in batches {
            for (index, message) in batch.records.messages().enumerate() {
                let offset = batch.first.plus(index as u64);
                match message {
                    Ok(message) => {
                        let message: &Message = &message;
                        let shown = Shown { offset, time: batch.time, attempt: None, message };
                        to_writer(&mut out, &shown).map_err(|error| writing(error.into()))?;
                        out.write_all(b"\n").map_err(writing)?;
                    }
                    Err(error) => {
                        let topic = &args.topic;
                        bar.suspend(|| {
                            output::note(format_args!(
                                "ltq-node: topic {topic}, {offset}: {error}"
                            ));
                        });
                        missing += 1;
                    }
                }
            }
            let count = batch.records.count() as u64;
            bar.inc(count);
            left -= count.min(left);
            next = batch.end();
        }
    }
    out.flush().map_err(writing)?;
    bar.finish_and_clear();
    Ok(missing)
}

const READ_BYTES: usize = 1 << 20;
const OUT_BYTES: usize = 256 << 10;
