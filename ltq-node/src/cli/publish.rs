//! `ltq pub`.

use std::{
    io::{self, IsTerminal},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use ltq_client::{Durability, Message};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    CliError,
    args::{PubArgs, ServerArgs},
    ends::{Ends, Pending, Publisher},
    input, interrupted,
};
use crate::{output, record_json};

pub(super) async fn run(server: &ServerArgs, args: PubArgs, json: bool) -> Result<(), CliError> {
    let as_json = json && args.body.is_none();
    if as_json && (args.key.is_some() || !args.headers.is_empty()) {
        let words = "with --json each line has its own key and headers: leave --key and --header";
        return Err(CliError::Usage(words.to_owned()));
    }
    let ends = Ends::connect(server, &args.registry).await?;
    let publisher = ends.publisher(server, &args).await?;
    let template = Template::new(&args);
    let lines = if as_json { Lines::Json } else { Lines::Bodies(&template) };
    match args.body {
        Some(body) => {
            let receipt = publisher.send(template.message(body.into())).await?;
            if json {
                print_json(&receipt.shown)?;
            }
            output::note(format_args!("1 message confirmed (durability {})", receipt.durability));
        }
        None => {
            let skip = if args.name.is_some() { publisher.stored() } else { 0 };
            if skip > 0 {
                let name = args.name.as_ref().map_or("", |name| name.as_str());
                output::note(format_args!(
                    "{skip} messages are stored under the name {name} already; skipping as many lines"
                ));
            }
            let result = publish_lines(&publisher, args.ordered, &lines, skip).await;
            report(&result, skip, json)?;
            result.end?;
        }
    }
    ends.close().await
}

/// What every message has besides its body.
struct Template(Message);

impl Template {
    fn new(args: &PubArgs) -> Self {
        let mut message = Message::new("");
        message.key = args.key.clone().map(Bytes::from);
        for (name, value) in &args.headers {
            message = message.with_header(name, value);
        }
        Self(message)
    }

    fn message(&self, body: Bytes) -> Message {
        Message { body, ..self.0.clone() }
    }
}

/// What the lines of standard input are.
enum Lines<'a> {
    /// The bodies of messages that have the rest in common.
    Bodies(&'a Template),
    /// Messages as JSON.
    Json,
}

impl Lines<'_> {
    fn hint(&self) -> &'static str {
        match self {
            Self::Bodies(_) => "Each line is a message; Ctrl-D ends.",
            Self::Json => "Each line is a message as a JSON object; Ctrl-D ends.",
        }
    }

    /// The messages of some lines, up to the first that is none. `number` is that of the first.
    fn messages(&self, lines: Vec<Bytes>, number: u64) -> (Vec<Message>, Option<CliError>) {
        let mut messages = Vec::with_capacity(lines.len());
        for (line, number) in lines.into_iter().zip(number..) {
            match self {
                Self::Bodies(template) => messages.push(template.message(line)),
                Self::Json => match record_json::parse(&line) {
                    Ok(message) => messages.push(message),
                    Err(error) => {
                        let words = format!(
                            "line {number} of standard input is no message: {error}; it and what \
                             follows is not published"
                        );
                        return (messages, Some(CliError::Failed(words)));
                    }
                },
            }
        }
        (messages, None)
    }
}

/// What became of the lines.
struct Published {
    confirmed: u64,
    /// The least durability of all that is confirmed; `None` when nothing is.
    durability: Option<Durability>,
    end: Result<(), CliError>,
}

async fn publish_lines(
    publisher: &Publisher,
    ordered: bool,
    lines: &Lines<'_>,
    skip: u64,
) -> Published {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        output::note(lines.hint());
    }
    let bar = progress_bar();
    let confirmed = AtomicU64::new(0);
    let (pending, batches) = mpsc::channel(PENDING_MAX);
    let confirming = confirm(batches, &confirmed, &bar);
    let interrupted = interrupted();
    let sending = async {
        let doing = "reading standard input";
        let input = input::lines(stdin).map_err(|source| CliError::Io { doing, source })?;
        tokio::select! {
            sent = send((publisher, ordered), lines, input, skip, pending) => sent,
            () = interrupted => Err(CliError::Failed("interrupted".to_owned())),
        }
    };
    // What was sent before reading ended is waited for in any case: its confirms count.
    let (sent, (durability, confirmed_all)) = tokio::join!(sending, confirming);
    bar.finish_and_clear();
    let end = confirmed_all.and(sent);
    Published { confirmed: confirmed.into_inner(), durability, end }
}

async fn send(
    (publisher, ordered): (&Publisher, bool),
    lines: &Lines<'_>,
    mut input: mpsc::Receiver<input::Batch>,
    mut skip: u64,
    pending: mpsc::Sender<Pending>,
) -> Result<(), CliError> {
    let mut number = 1;
    while let Some(batch) = input.recv().await {
        let doing = "reading standard input";
        let mut read = batch.map_err(|source| CliError::Io { doing, source })?;
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(read.len());
        skip -= skipped as u64;
        read.drain(..skipped);
        number += skipped as u64;
        let next = number + read.len() as u64;
        let (messages, malformed) = lines.messages(read, number);
        number = next;
        for messages in publisher.batches(messages, ordered) {
            let batch = publisher.enqueue_batch(messages).await?;
            if pending.send(batch).await.is_err() {
                // A batch failed; the confirming side says why.
                return Ok(());
            }
        }
        if let Some(malformed) = malformed {
            return Err(malformed);
        }
    }
    Ok(())
}

/// Awaits the receipts in order, up to the first failure.
async fn confirm(
    mut batches: mpsc::Receiver<Pending>,
    confirmed: &AtomicU64,
    bar: &ProgressBar,
) -> (Option<Durability>, Result<(), CliError>) {
    let mut durability: Option<Durability> = None;
    while let Some(batch) = batches.recv().await {
        let became = batch.became().await;
        if let Some(reached) = became.durability {
            durability = Some(durability.unwrap_or(Durability::Disk).min(reached));
            let count = became.confirmed as u64;
            let before = confirmed.fetch_add(count, Ordering::Relaxed);
            bar.set_position(before + count);
        }
        if let Some(error) = became.failure {
            return (durability, Err(error));
        }
    }
    (durability, Ok(()))
}

fn report(published: &Published, skipped: u64, json: bool) -> Result<(), CliError> {
    let Published { confirmed, durability, end } = published;
    if json {
        print_json(&json!({
            "confirmed": confirmed,
            "skipped": skipped,
            "durability": durability,
        }))?;
    }
    let sure = if end.is_err() { " for sure" } else { "" };
    let messages = if *confirmed == 1 { "message" } else { "messages" };
    output::note(match durability {
        Some(durability) => {
            format!("{confirmed} {messages} confirmed{sure} (durability {durability})")
        }
        None => format!("no message confirmed{sure}"),
    });
    Ok(())
}

pub(super) fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    output::line(value).map_err(|source| CliError::Io { doing: "writing the output", source })
}

/// A bar on standard error; nothing where that is no terminal.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {human_pos} confirmed, {per_sec}");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

/// Batches that wait for their confirm. The producer's window bounds the messages in them.
const PENDING_MAX: usize = 1024;
