//! Plays seeds of the simulation of the reference broker, one node or a cluster of them.

use std::{collections::BTreeSet, ops::Range, process::ExitCode, time::Instant};

use clap::{Args, Parser, Subcommand};
use ltq_sim::{ClusterSimulation, Played, Simulation};

/// Plays whole brokers, clients, network and disks, by seeds.
#[derive(Parser)]
#[command(name = "ltq-sim", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    #[command(flatten)]
    how: How,
}

#[derive(Subcommand)]
enum Command {
    /// Plays several nodes, registries, and clients that know the registries alone.
    Cluster {
        /// Which seeds: 1..101 is 1 and up to 100.
        #[arg(long, default_value = "1..2", value_parser = range)]
        seeds: Range<u64>,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Args)]
struct How {
    /// Who and what of the one seed is left out: names as a shrunk seed tells them.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Prints what happened.
    #[arg(long)]
    trace: bool,
    /// Plays each seed twice, and tells the first line that is not the same.
    #[arg(long)]
    twice: bool,
    /// Stops at the first seed that breaks a promise.
    #[arg(long)]
    until_broken: bool,
    /// Does not look for less of a seed that breaks the same promise.
    #[arg(long)]
    no_shrink: bool,
}

type Play = dyn Fn(u64, &BTreeSet<String>) -> Played;
type Names = dyn Fn(u64) -> BTreeSet<String>;

/// What is played, and how a seed of it is asked for.
struct What {
    play: Box<Play>,
    shrink: Box<Names>,
    parts: Box<Names>,
    again: fn(u64) -> String,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Cluster { seeds, how }) => {
            let [play, shrink, parts] = [(); 3].map(|()| ClusterSimulation::new());
            let what = What {
                play: Box::new(move |seed, without| play.play_part(seed, without)),
                shrink: Box::new(move |seed| shrink.shrink(seed)),
                parts: Box::new(move |seed| parts.parts(seed)),
                again: |seed| format!("cluster --seeds {seed}..{}", seed + 1),
            };
            play_all(&what, seeds, &how)
        }
        None => {
            let Some(behind) = cli.from.checked_add(cli.count) else {
                say("--from and --count: there are no such seeds\n");
                return ExitCode::FAILURE;
            };
            let [play, shrink, parts] = [(); 3].map(|()| Simulation::new());
            let what = What {
                play: Box::new(move |seed, without| play.play_part(seed, without)),
                shrink: Box::new(move |seed| shrink.shrink(seed)),
                parts: Box::new(move |seed| parts.parts(seed)),
                again: |seed| format!("--from {seed}"),
            };
            play_all(&what, cli.from..behind, &cli.how)
        }
    }
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, behind)| Some(from.parse().ok()?..behind.parse().ok()?));
    let some = parsed.filter(|seeds: &Range<u64>| !seeds.is_empty());
    some.ok_or_else(|| "seeds look like 1..101, which is 1 and up to 100".to_owned())
}

fn play_all(what: &What, seeds: Range<u64>, how: &How) -> ExitCode {
    let began = Instant::now();
    let without: BTreeSet<_> = how.without.iter().cloned().collect();
    let (mut played_seeds, mut failed, mut simulated) = (0_u64, 0_u64, 0.0);
    let parts = (what.parts)(seeds.start);
    if let Some(name) = without.iter().find(|&name| !parts.contains(name)) {
        say(&format!("--without: there is no {name} in seed {}\n", seeds.start));
        return ExitCode::FAILURE;
    }
    for seed in seeds {
        let played = (what.play)(seed, &without);
        played_seeds += 1;
        simulated += played.simulated.as_secs_f64();
        if how.trace {
            say(&played.trace());
        }
        let again = format!("cargo run --release -p ltq-sim -- {}", (what.again)(seed));
        let second = how.twice.then(|| (what.play)(seed, &without));
        if let Some(differs) = second.and_then(|second| played.difference(&second)) {
            say(&format!("seed {seed}: not the same a second time\n{differs}\n"));
            say(&format!("  {again} --twice\n"));
            failed += 1;
            if how.until_broken {
                break;
            }
        }
        if !played.broken.is_empty() {
            failed += 1;
            say(&format!("seed {seed}: {} broken\n", played.broken.len()));
            for broken in played.broken.iter().take(5) {
                say(&format!("  {broken}\n"));
            }
            let mut replay = format!("{again} --trace");
            if !how.no_shrink && without.is_empty() {
                let left_out: Vec<_> = (what.shrink)(seed).into_iter().collect();
                if !left_out.is_empty() {
                    replay += &format!(" --without {}", left_out.join(","));
                }
            }
            say(&format!("  {replay}\n"));
            if how.until_broken {
                break;
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    say(&format!(
        "{played_seeds} seeds, {failed} failed; {simulated:.0} s simulated in {took:.1} s\n"
    ));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whoever does not want to hear more of it has closed the pipe.
fn say(words: &str) {
    use std::io::Write;
    if std::io::stdout().write_all(words.as_bytes()).is_err() {
        std::process::exit(1);
    }
}
