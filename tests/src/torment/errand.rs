//! What is done on a client's host before there is trouble, and after it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use futures::future::try_join_all;
use ltq_client::{Client, ConnectError, StartAt};
use tokio::time::timeout;

use super::{
    field::PROBE,
    worker::{Failed, Journal, TOKEN},
};

/// What is to be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Errand {
    /// Makes a channel of each topic on each node.
    Channels(ChannelsArgs),
    /// Writes down all that one node has.
    Collect(CollectArgs),
    /// Tries to come in by wrong tokens.
    Knock(KnockArgs),
}

/// Where channels are made.
#[derive(Clone, Debug, Args)]
pub struct ChannelsArgs {
    #[arg(long)]
    server: Vec<String>,
    #[arg(long)]
    topic: Vec<String>,
    #[arg(long)]
    channel: String,
}

/// Where messages are, and where that is written down.
#[derive(Clone, Debug, Args)]
pub struct CollectArgs {
    #[arg(long)]
    server: String,
    #[arg(long)]
    journal: PathBuf,
}

/// Where somebody tries to come in.
#[derive(Clone, Debug, Args)]
pub struct KnockArgs {
    #[arg(long)]
    server: Vec<String>,
}

impl Errand {
    /// Does it.
    ///
    /// # Errors
    /// Whatever keeps it from that.
    pub async fn run(self) -> Result<(), Failed> {
        match self {
            Self::Channels(args) => channels(&args).await,
            Self::Collect(args) => collect(&args).await,
            Self::Knock(args) => knock(&args).await,
        }
    }
}

async fn connect(server: &str) -> Result<Client, ConnectError> {
    Client::builder().server(server).token(TOKEN).connect().await
}

/// Each is another one, and none is let in.
async fn knock(args: &KnockArgs) -> Result<(), Failed> {
    for server in &args.server {
        for number in 0..TOKENS {
            let token = format!("wrong {} {number}", std::process::id());
            let client = Client::builder().server(server).token(token);
            if client.connect_timeout(KNOCK).connect().await.is_ok() {
                return Err(format!("{server} let in who had a wrong token").into());
            }
        }
    }
    Ok(())
}

async fn channels(args: &ChannelsArgs) -> Result<(), Failed> {
    for server in &args.server {
        let client = connect(server).await?;
        let admin = client.admin();
        let make = |topic| admin.create_channel(topic, &*args.channel, StartAt::Earliest);
        try_join_all(args.topic.iter().map(String::as_str).map(make)).await?;
        client.close().await?;
    }
    Ok(())
}

async fn collect(args: &CollectArgs) -> Result<(), Failed> {
    let (client, journal) = (connect(&args.server).await?, Journal::open(&args.journal)?);
    let topics = client.admin().list_topics().await?;
    for topic in topics.into_iter().filter(|topic| !topic.as_str().starts_with(PROBE)) {
        let mut left = client.admin().show_topic(topic.clone()).await?.end.0;
        let mut consumer = client.consumer(topic.clone(), "collect").await?;
        while left > 0 {
            let next = timeout(PATIENCE, consumer.next()).await;
            let next = next.map_err(|_| format!("{left} messages of {topic} do not come"))?;
            let delivery = next.ok_or_else(|| format!("the consumer of {topic} is over"))??;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let origin = delivery.message.headers.get(ORIGIN_ID).map(text);
            let origin = origin.ok_or_else(|| format!("a message of {topic} has no origin"))?;
            let body = text(&delivery.message.body);
            journal.write(&format!("D\t{topic}\t{body}\t{}\t{origin}", delivery.offset().0))?;
            delivery.ack()?;
            left -= 1;
        }
    }
    Ok(client.close().await?)
}

/// Where a message was first published, as a bridge writes it.
const ORIGIN_ID: &str = "ltq-origin-id";
/// How many wrong tokens are tried: more than a node takes.
const TOKENS: usize = 12;
/// How long one of them may take, where nobody answers.
const KNOCK: Duration = Duration::from_millis(300);
/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(20);
