//! The README's Rust is code that compiles: each of its blocks stands here too, word for word.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "this is what readers are shown; most of it is for a server that is not there"
)]

use std::{error::Error, path::Path, sync::Arc};

use ltq_core::Store;

async fn from_a_program() -> Result<(), Box<dyn Error>> {
    use ltq_client::{Client, Message};

    let client = Client::connect("tcp://127.0.0.1:7440").await?;

    let producer = client.producer("orders").await?;
    let receipt = producer.send(Message::new("one coffee")).await?;
    println!("stored at {:?}, {}", receipt.offset, receipt.durability);

    let mut consumer = client.consumer("orders", "kitchen").await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        println!("{:?}", delivery.message.body);
        delivery.ack()?;
    }
    Ok(())
}

#[cfg(all(feature = "tls", feature = "quic"))]
async fn encrypted() -> Result<(), Box<dyn Error>> {
    use ltq_client::{Client, ClientTrust, Pem};

    let trust = ClientTrust::authorities(Pem::file("authority.pem"))?;
    let client =
        Client::builder().server("quic://broker.example:7440").trust(trust).connect().await?;
    client.close().await?;
    Ok(())
}

async fn on_several_nodes() -> Result<(), Box<dyn Error>> {
    use ltq_client::{Cluster, Message};

    let cluster = Cluster::builder().registry("tcp://127.0.0.1:7450").connect().await?;
    let producer = cluster.producer("orders").await?;
    let receipt = producer.send(Message::new("one coffee")).await?;
    println!("stored on {}, {}", receipt.node, receipt.receipt.durability);

    let mut consumer = cluster.consumer("orders", "kitchen").await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        println!("{} bytes from {}", delivery.message.body.len(), delivery.node());
        delivery.ack()?;
    }
    Ok(())
}

async fn embedded() -> Result<(), Box<dyn Error>> {
    use ltq_core::{Broker, BrokerSettings, Durability, Environment, Message, TopicSettings};
    use ltq_store::MemoryStore;

    let settings = BrokerSettings {
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        ..BrokerSettings::default()
    };
    let broker = Broker::start(MemoryStore::new(16 << 20), settings, Environment::system()).await?;

    let mut publisher = broker.publisher("orders", Default::default()).await?;
    publisher.publish(&Message::new("one coffee")).await?;

    let mut consumer = broker.subscribe("orders", "kitchen", Default::default()).await?;
    if let Some(received) = consumer.receive().await? {
        consumer.ack(received.tag)?;
    }
    Ok(())
}

#[test]
fn promises_hold_under_bad_luck() -> Result<(), Box<dyn std::error::Error>> {
    let simulation = ltq_sim::Simulation::new(); // or with_stores, settings, transport: of your own
    println!("{}", simulation.play_all(ltq_sim::seeds(1..101)?)?);
    Ok(())
}

/// Stands for the reader's own store.
struct Metered;

impl Metered {
    #[allow(clippy::new_ret_no_self, reason = "a wrapper's constructor, without the wrapper")]
    fn new(store: impl Store) -> Arc<dyn Store> {
        Arc::new(store)
    }
}

async fn custom() -> Result<(), Box<dyn Error>> {
    use ltq_core::{Broker, BrokerSettings, Environment, Transport};
    use ltq_store::{FileStore, FileStoreOptions};
    use ltq_transport::{InProcess, Tcp};

    let store = Metered::new(FileStore::open(FileStoreOptions::new("./data")).await?); // yours
    let broker = Broker::start(store, BrokerSettings::default(), Environment::system()).await?;

    let inside = InProcess::new();
    for listener in [
        inside.listen(&"in-process://hub".parse()?).await?,
        Tcp::default().listen(&"tcp://127.0.0.1:7440".parse()?).await?,
    ] {
        let broker = broker.clone();
        tokio::spawn(async move { broker.serve(listener).await });
    }
    Ok(())
}

async fn overflow() -> Result<(), Box<dyn Error>> {
    use ltq_core::{Broker, BrokerSettings, Environment};
    use ltq_store::{FileStore, FileStoreOptions, MemoryStore, OverflowOptions, OverflowStore};

    let memory = MemoryStore::new(256 << 20);
    let files = FileStore::open(FileStoreOptions::new("./data")).await?; // or any other store
    let store = OverflowStore::open(memory, files, OverflowOptions::default())?;
    let broker = Broker::start(store, BrokerSettings::default(), Environment::system()).await?;
    broker.stop(std::time::Duration::from_secs(5)).await?;
    Ok(())
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn each_rust_block_of_the_readme_is_here() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let here = squeezed(include_str!("readme.rs"));
    let mut blocks = 0;
    for block in readme.split("```rust\n").skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        assert!(here.contains(&squeezed(block)), "not here as it stands there:\n{block}");
        blocks += 1;
    }
    assert_eq!(blocks, 7);
}

#[tokio::test]
async fn the_embedded_broker_of_the_readme_does_what_it_says() {
    embedded().await.unwrap();
}

/// The commands of a page: of its blocks for a shell, and of what stands between backticks.
fn commands(page: &str) -> Vec<Vec<String>> {
    let mut texts = Vec::new();
    for (index, part) in page.split("\n```").enumerate() {
        if index % 2 == 0 {
            texts.extend(part.split('`').skip(1).step_by(2).map(str::to_owned));
        } else if part.starts_with("sh") {
            texts.extend(part.replace("\\\n", " ").lines().skip(1).map(str::to_owned));
        }
    }
    let words = texts.iter().map(|text| words(text));
    words.filter(|words| words.first().is_some_and(|it| it == "ltq" || it == "ltq-node")).collect()
}

/// The words of a command as a shell has them, up to where its output goes.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(mark), _) if mark == c => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '<' | '&' | ';') => break,
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn words_are_those_of_a_shell() {
    let of = |text: &str| words(text).join("|");
    assert_eq!(of("ltq pub  t 'one coffee' --json < in"), "ltq|pub|t|one coffee|--json");
    assert_eq!(of("ltq pub t \"it's\" a=\"b c\""), "ltq|pub|t|it's|a=b c");
}

/// What stands for something of the reader's: `HOST:PORT`, `TOPIC`.
fn is_placeholder(value: &str) -> bool {
    let rest = value.split_once("://").map_or(value, |(_, rest)| rest);
    rest.chars().any(char::is_uppercase) && !rest.chars().any(char::is_lowercase)
}

#[test]
fn each_command_that_a_page_names_is_one_that_the_programs_take() {
    use clap::{
        Parser as _,
        error::{ContextKind, ContextValue, ErrorKind},
    };

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = std::fs::read_dir(root.join("docs")).unwrap();
    let mut pages: Vec<_> = docs.map(|entry| entry.unwrap().path()).collect();
    pages.push(root.join("README.md"));
    let (mut taken, mut wrong) = (0, Vec::new());
    for page in pages {
        for command in commands(&std::fs::read_to_string(&page).unwrap()) {
            let parsed = match &*command[0] {
                "ltq" => ltq_node::cli::Cli::try_parse_from(&command).map(drop),
                _ => ltq_node::config::Flags::try_parse_from(&command).map(drop),
            };
            let Err(error) = parsed else {
                taken += 1;
                continue;
            };
            let value = match error.get(ContextKind::InvalidValue) {
                Some(ContextValue::String(value)) => value.as_str(),
                _ => "",
            };
            let is_part_of_one = match error.kind() {
                // A page may name a command, or an option of it, without what else it takes.
                ErrorKind::MissingRequiredArgument
                | ErrorKind::MissingSubcommand
                | ErrorKind::DisplayHelp
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => true,
                ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
                    value.is_empty() || is_placeholder(value)
                }
                _ => false,
            };
            if !is_part_of_one {
                let page = page.file_name().unwrap().to_string_lossy().into_owned();
                wrong.push(format!("{page}: {}: {error}", command.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(taken > 30, "only {taken} are whole");
}
