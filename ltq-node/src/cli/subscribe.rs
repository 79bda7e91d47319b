//! `ltq sub`.

use std::io::{self, BufWriter, Write};

use ltq_client::SettleError;

use super::{
    CliError,
    args::{ServerArgs, SubArgs},
    ends::{Ends, NotTaken, Reader},
    interrupted, render,
};
use crate::output;

pub(super) async fn run(server: &ServerArgs, args: SubArgs) -> Result<(), CliError> {
    let ends = Ends::connect(server, &args.registry).await?;
    // No more than are wanted are asked for, so that others need not wait for what is given back.
    let credit = args.count.map_or(args.credit, |count| count.min(args.credit));
    let mut reader = ends.reader(&args, credit, CREDIT_BYTES).await?;
    let mut acked = 0;
    let ended = tokio::select! {
        ended = consume(&mut reader, &args, &mut acked) => ended.map(|()| true),
        () = interrupted() => Ok(false),
    };
    // Acks that were said count, whatever ended it.
    let closed = reader.close().await;
    let finished = ended?;
    closed?;
    ends.close().await?;
    match args.count {
        Some(count) if !finished => {
            let detail = format!("interrupted after {acked} of {count} messages");
            Err(CliError::Failed(detail))
        }
        _ => Ok(()),
    }
}

/// Prints and acks until enough is acked.
async fn consume(reader: &mut Reader, args: &SubArgs, acked: &mut u64) -> Result<(), CliError> {
    let mut out = BufWriter::with_capacity(OUT_BYTES, io::stdout());
    loop {
        let left = args.count.map_or(BATCH_MAX, |count| count - *acked);
        if left == 0 {
            return Ok(());
        }
        let max = usize::try_from(left.min(BATCH_MAX)).unwrap_or(1);
        let batch = match reader.next_batch(max).await {
            None => return Err(CliError::Failed("the connection was closed".to_owned())),
            Some(Ok(batch)) => batch,
            Some(Err(NotTaken { is_end: true, why })) => return Err(CliError::Failed(why)),
            Some(Err(NotTaken { why, .. })) => {
                output::note(format_args!("ltq: {why}"));
                continue;
            }
        };
        let mut unreadable = None;
        for received in batch.iter() {
            match received {
                Ok(received) => render::write(&mut out, args.format, &received).map_err(writing)?,
                Err(error) => unreadable = Some(error),
            }
        }
        // Nothing is acked before it is out of this process.
        out.flush().map_err(writing)?;
        if let Some(error) = unreadable {
            // It was not printed, so it is not acked; those beside it are.
            output::note(format_args!("ltq: {error}"));
            for delivery in batch.into_deliveries() {
                *acked += u64::from(counted(delivery.ack_confirmed().await)?);
            }
        } else if args.count.is_some() {
            let count = batch.len() as u64;
            if counted(batch.ack_all_confirmed().await)? {
                *acked += count;
            }
        } else {
            *acked += batch.len() as u64;
            // An ack that comes too late is no failure: the message comes again.
            let _ = batch.ack_all();
        }
    }
}

/// Whether an ack counted. One that came too late did not: the message comes again.
fn counted(answer: Result<(), SettleError>) -> Result<bool, CliError> {
    match answer {
        Ok(()) => Ok(true),
        Err(SettleError::Stale) => Ok(false),
        Err(error) => Err(CliError::Failed(error.to_string())),
    }
}

const fn writing(source: io::Error) -> CliError {
    CliError::Io { doing: "writing a message", source }
}

/// The most messages between two flushes.
const BATCH_MAX: u64 = 1000;
/// A node that allows less is asked for less.
const CREDIT_BYTES: u64 = 16 << 20;
const OUT_BYTES: usize = 256 << 10;
