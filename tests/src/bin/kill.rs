//! The long run of the kill test.
//!
//! ```text
//! cargo run --release -p ltq-tests --bin ltq-kill -- --kills 1000
//! ```

use std::time::{Duration, Instant};

use clap::Parser;
use ltq_tests::kill::{self, Torment};

/// Kills a node under load again and again, and checks that nothing confirmed is lost.
#[derive(Parser)]
struct Cli {
    /// What the node keeps its messages in. For `rocksdb`, build this with the feature of that
    /// name.
    #[arg(long, default_value = "file", value_parser = ["file", "rocksdb"])]
    store: String,
    /// How often.
    #[arg(long, default_value_t = 1000)]
    kills: u32,
    /// Producers.
    #[arg(long, default_value_t = 4)]
    producers: usize,
    /// The longest life of a node, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    life_max_ms: u64,
    /// The seed of the load.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let cli = Cli::parse();
    let folder = tempfile::tempdir()?;
    let start = Instant::now();
    let torment = Torment {
        store: cli.store,
        kills: cli.kills,
        producers: cli.producers,
        life_max: Duration::from_millis(cli.life_max_ms),
        seed: cli.seed,
    };
    let summary = kill::run(folder.path(), torment).await;
    println!("{summary:?} in {:.0} s: every promise kept", start.elapsed().as_secs_f64());
    Ok(())
}
