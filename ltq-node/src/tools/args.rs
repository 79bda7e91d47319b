//! What the tools can be asked.

use std::path::PathBuf;

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use ltq_core::{ProducerName, TopicName, TopicPattern};

use crate::config::StoreKind;

/// What can be done besides running a node, most of it with the store of one that is stopped.
#[derive(Clone, Debug, Subcommand)]
pub enum ToolCommand {
    /// Verifies everything in the data directory of a stopped node.
    #[command(
        long_about = "Reads all files of a stopped node's store, verifies every checksum and that \
        everything that refers to something finds it, and tells what is damaged: by file and byte, \
        topic and offset. It writes nothing, unless --repair says so.\n\nExit codes: 0 all is well, \
        or mended; 1 something is damaged, or it cannot be checked; 2 bad usage."
    )]
    Check(CheckArgs),
    /// Prints the messages of a topic of a stopped node, one JSON object a line.
    #[command(
        long_about = "Prints the messages that the store of a stopped node keeps of a topic, one \
        JSON object a line, in the form of ltq sub --json, which ltq pub --json takes. It writes \
        nothing. Messages that cannot be read are named on standard error; the exit code is 1 then."
    )]
    Dump(DumpArgs),
    /// Copies everything that a stopped node keeps into another store, and compares.
    #[command(
        long_about = "Copies everything that a stopped node keeps into a new store in another \
        directory: topics, channels, producers, and messages with their offsets and times. Then it \
        reads both and compares them. From file to file it leaves behind what takes space and is \
        not wanted any more. The source is not changed. A target that is not complete is refused \
        by ltq-node: remove it, and migrate again."
    )]
    Migrate(MigrateArgs),
    /// Makes a token: prints the lines for the configuration file, and the token itself on standard
    /// error.
    #[command(
        long_about = "Makes a token of 256 bits of chance. Prints the lines for the configuration \
        file to standard output, with the token's SHA-256 and what it permits, and the token itself \
        to standard error, once: it is kept nowhere. A running node reads the file again by itself. \
        Patterns of topics are a name, the beginning of names and *, or * for all."
    )]
    Token(TokenArgs),
}

/// What `ltq-node token` takes.
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// Whose it is, for logs.
    pub name: ProducerName,
    /// Permits publishing to these topics. Give it several times for several patterns.
    #[arg(long, value_name = "PATTERN")]
    pub publish: Vec<TopicPattern>,
    /// Permits consuming from these topics.
    #[arg(long, value_name = "PATTERN")]
    pub consume: Vec<TopicPattern>,
    /// Permits making, changing, showing and deleting these topics; * is for the node's figures too.
    #[arg(long, value_name = "PATTERN")]
    pub administer: Vec<TopicPattern>,
}

/// What `ltq-node check` takes.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The data directory of the node.
    #[arg(long, value_name = "DIR", env = "LTQ_DATA_DIR", default_value = "./ltq-data")]
    pub data_dir: PathBuf,
    /// What kind of store it is. The default is what is found there.
    #[arg(long, value_name = "STORE", value_parser = kinds())]
    pub store: Option<String>,
    /// Prints the whole report as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Mends what is damaged: copies the damaged files to a folder damaged-TIME in the data
    /// directory, deletes none of them, and leaves a store that opens and holds all that is whole.
    /// What is lost is told. A store on RocksDB cannot be mended so; what is whole of it can be
    /// migrated.
    #[arg(long)]
    pub repair: bool,
}

/// What `ltq-node dump` takes.
#[derive(Clone, Debug, Args)]
pub struct DumpArgs {
    /// The topic.
    pub topic: TopicName,
    /// The data directory of the node.
    #[arg(long, value_name = "DIR", env = "LTQ_DATA_DIR", default_value = "./ltq-data")]
    pub data_dir: PathBuf,
    /// What kind of store it is. The default is what is found there.
    #[arg(long, value_name = "STORE", value_parser = kinds())]
    pub store: Option<String>,
    /// The first message that is printed. The default is the oldest that is kept.
    #[arg(long, value_name = "OFFSET")]
    pub from: Option<u64>,
    /// The most messages that are printed. The default is all.
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// What `ltq-node migrate` takes.
#[derive(Clone, Debug, Args)]
pub struct MigrateArgs {
    /// The kind of store that there is.
    #[arg(long, value_name = "STORE", value_parser = kinds())]
    pub from: String,
    /// The kind of store that is made.
    #[arg(long, value_name = "STORE", value_parser = kinds())]
    pub to: String,
    /// The data directory of the node.
    #[arg(long, value_name = "DIR", env = "LTQ_DATA_DIR", default_value = "./ltq-data")]
    pub data_dir: PathBuf,
    /// The directory of the new store, which must be empty or not there.
    #[arg(long, value_name = "DIR")]
    pub target_dir: PathBuf,
    /// Leaves out messages that are damaged, which otherwise end the migration before it begins.
    /// In the new store they are given up: consumers pass over them.
    #[arg(long)]
    pub leave_out_damaged: bool,
}

/// The kinds of stores that outlive their node.
fn kinds() -> PossibleValuesParser {
    let kept = StoreKind::WORDS.iter().filter(|&&word| word != StoreKind::Memory.word());
    PossibleValuesParser::new(kept.copied().collect::<Vec<_>>())
}
