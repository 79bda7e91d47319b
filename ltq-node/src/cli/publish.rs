//! `ltq pub`.

use std::{
    io::{self, IsTerminal},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use ltq_client::{Durability, Message, PendingBatch, Producer, PublishError};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    CliError,
    args::{PubArgs, ServerArgs},
    connect, input, interrupted,
};
use crate::{output, record_json};

pub(super) async fn run(server: &ServerArgs, args: PubArgs, json: bool) -> Result<(), CliError> {
    let as_json = json && args.body.is_none();
    if as_json && (args.key.is_some() || !args.headers.is_empty()) {
        let words = "with --json each line has its own key and headers: leave --key and --header";
        return Err(CliError::Usage(words.to_owned()));
    }
    let client = connect(server).await?;
    let mut builder = client.producer_builder(&args.topic).timeout(server.timeout);
    if let Some(name) = &args.name {
        builder = builder.name(name.as_str());
    }
    if let Some(durability) = args.durability {
        builder = builder.durability(durability);
    }
    let producer = builder.open().await?;
    let template = Template::new(&args);
    let lines = if as_json { Lines::Json } else { Lines::Bodies(&template) };
    match args.body {
        Some(body) => {
            let receipt = producer.send(template.message(body.into())).await?;
            if json {
                print_json(&json!({
                    "topic": receipt.topic,
                    "offset": receipt.offset,
                    "sequence": receipt.sequence,
                    "durability": receipt.durability,
                }))?;
            }
            output::note(format_args!("1 message confirmed (durability {})", receipt.durability));
        }
        None => {
            let skip = if args.name.is_some() { producer.last_sequence() } else { 0 };
            let result = publish_lines(&producer, &lines, skip).await;
            report(&result, skip, json)?;
            result.end?;
        }
    }
    client.close().await?;
    Ok(())
}

/// What every message has besides its body.
struct Template(Message);

impl Template {
    fn new(args: &PubArgs) -> Self {
        let mut message = Message::new("");
        message.key = args.key.clone().map(Bytes::from);
        for (name, value) in &args.headers {
            message = message.with_header(name.clone(), value.clone());
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

async fn publish_lines(producer: &Producer, lines: &Lines<'_>, skip: u64) -> Published {
    let stdin = io::stdin();
    if skip > 0 {
        output::note(format_args!(
            "{skip} messages are stored under the name {} already; skipping as many lines",
            producer.name()
        ));
    }
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
            sent = send(producer, lines, input, skip, pending) => sent,
            () = interrupted => Err(CliError::Failed("interrupted".to_owned())),
        }
    };
    // What was sent before reading ended is waited for in any case: its confirms count.
    let (sent, (durability, confirmed_all)) = tokio::join!(sending, confirming);
    bar.finish_and_clear();
    let end = confirmed_all.map_err(CliError::from).and(sent);
    Published { confirmed: confirmed.into_inner(), durability, end }
}

async fn send(
    producer: &Producer,
    lines: &Lines<'_>,
    mut input: mpsc::Receiver<input::Batch>,
    mut skip: u64,
    pending: mpsc::Sender<PendingBatch>,
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
        let batch = producer.enqueue_batch(messages).await?;
        if pending.send(batch).await.is_err() {
            // A batch failed; the confirming side says why.
            return Ok(());
        }
        if let Some(malformed) = malformed {
            return Err(malformed);
        }
    }
    Ok(())
}

/// Awaits the receipts in order, up to the first failure.
async fn confirm(
    mut batches: mpsc::Receiver<PendingBatch>,
    confirmed: &AtomicU64,
    bar: &ProgressBar,
) -> (Option<Durability>, Result<(), PublishError>) {
    let mut durability: Option<Durability> = None;
    while let Some(batch) = batches.recv().await {
        let (receipt, failure) = match batch.await {
            Ok(receipt) => (receipt, None),
            Err(failed) => (failed.stored, Some(failed.error)),
        };
        if !receipt.is_empty() {
            let least = durability.unwrap_or(Durability::Disk).min(receipt.durability());
            durability = Some(least);
            let before = confirmed.fetch_add(receipt.len() as u64, Ordering::Relaxed);
            bar.set_position(before + receipt.len() as u64);
        }
        if let Some(error) = failure {
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
