//! `ltq-node drain`: has a node drain, and watches it.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use ltq_client::{Client, DrainOptions, Offset, TopicName};
use tokio::time::{sleep, timeout};

use crate::{
    cli::{CliError, ServerArgs, connect, finish, interrupted},
    config::Period,
    output,
};

/// The flags of `ltq-node drain`.
#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would print it in place of what is flattened here")]
    pub server: ServerArgs,

    /// Forwards the backlog to the node at this address, tcp://HOST:PORT, tls://HOST:PORT, quic://HOST:PORT or
    /// unix:///PATH. Give it several times for several nodes, which share the messages by their
    /// keys: name all others, and an order by key holds. [default: as the node is
    /// set, drain.hand_over_to]
    #[arg(long, value_name = "URL")]
    pub to: Vec<String>,

    /// Ends the node after this time with what is left, which it keeps. [default: as the node is set,
    /// drain.timeout]
    #[arg(long = "within", value_name = "TIME")]
    pub within: Option<Period>,

    /// Ends as soon as the node says that it will drain.
    #[arg(long)]
    pub no_wait: bool,

    /// Takes a drain back: the node takes in again.
    #[arg(long, conflicts_with_all = ["to", "within", "no_wait"])]
    pub cancel: bool,
}

/// Runs it.
#[must_use]
pub fn run(args: &DrainArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            return finish("ltq-node", Err(CliError::Io { doing: "starting the runtime", source }));
        }
    };
    finish("ltq-node", runtime.block_on(drain(args)))
}

async fn drain(args: &DrainArgs) -> Result<(), CliError> {
    if args.server.servers().count() > 1 {
        let why = "a drain is of one node: name it alone with --server";
        return Err(CliError::Usage(why.to_owned()));
    }
    let client = connect(&args.server).await?;
    if args.cancel {
        client.admin().end_drain().await?;
        return said("the node takes in again");
    }
    let mut options = DrainOptions { hand_over_to: args.to.clone(), timeout_ms: None };
    options.timeout_ms = args.within.map(|it| u64::try_from(it.0.as_millis()).unwrap_or(u64::MAX));
    client.admin().drain(options).await?;
    if args.no_wait {
        return said("the node drains");
    }
    tokio::select! {
        done = watch(&client, args.server.timeout) => done,
        () = interrupted() => said("no longer watched; the node goes on draining (--cancel takes it back)"),
    }
}

/// Follows what is left until the node has gone.
async fn watch(client: &Client, patience: Duration) -> Result<(), CliError> {
    let mut left: Option<u64> = None;
    let mut held_up: BTreeMap<TopicName, Offset> = BTreeMap::new();
    let mut last_heard = Instant::now();
    let mut state = client.state();
    loop {
        match timeout(LOOK_TIMEOUT.min(patience), client.admin().stats()).await {
            Ok(Ok(stats)) => {
                last_heard = Instant::now();
                if !stats.is_draining && left.is_some() {
                    let why = "the node no longer drains: it was started again, or told to go on";
                    return Err(CliError::Failed(why.to_owned()));
                }
                if stats.is_draining && left != Some(stats.backlog()) {
                    left = Some(stats.backlog());
                    said(&format!("{} messages left", stats.backlog()))?;
                }
                for held in stats.held_up {
                    // Once for each message: it may be a consumer's for a while, and come back.
                    let (topic, offset) = (held.topic.clone(), held.offset);
                    if held_up.insert(topic, offset) != Some(offset) {
                        said(&format!("not handed over: {held}"))?;
                    }
                }
            }
            // It was drained, and is gone; any other loss may be the network's.
            Ok(Err(_)) | Err(_) if left == Some(0) && !state.borrow_and_update().is_connected() => {
                break;
            }
            Ok(Err(_)) | Err(_)
                if last_heard.elapsed() > patience && !state.borrow_and_update().is_connected() =>
            {
                break;
            }
            Ok(Err(_)) | Err(_) if last_heard.elapsed() > patience => {
                let why = "the node does not say any more how far it is";
                return Err(CliError::Failed(why.to_owned()));
            }
            Ok(Err(_)) | Err(_) => {}
        }
        sleep(LOOK_PAUSE).await;
    }
    match left {
        Some(0) => said("the node is drained, and stops"),
        Some(left) => Err(CliError::Failed(format!(
            "the node is gone; it had {left} messages left, which it keeps"
        ))),
        None => {
            Err(CliError::Failed("the node was gone before it said what it had left".to_owned()))
        }
    }
}

fn said(what: &str) -> Result<(), CliError> {
    output::line(what).map_err(|source| CliError::Io { doing: "writing the output", source })
}

/// How often the node is asked how far it is.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// How long it may take to say it before its connection is looked at.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
