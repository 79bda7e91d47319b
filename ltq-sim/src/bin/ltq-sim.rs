//! Plays seeds of the simulation of the reference broker.

use std::{collections::BTreeSet, process::ExitCode, time::Instant};

use clap::Parser;
use ltq_sim::Simulation;

/// Plays whole brokers, clients, network and disks, by seeds.
#[derive(Parser)]
#[command(name = "ltq-sim", version)]
struct Cli {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
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

fn main() -> ExitCode {
    let cli = Cli::parse();
    let began = Instant::now();
    let simulation = Simulation::new();
    let without: BTreeSet<_> = cli.without.iter().cloned().collect();
    let (mut played_seeds, mut failed, mut simulated) = (0_u64, 0_u64, 0.0);
    let Some(behind) = cli.from.checked_add(cli.count) else {
        say("--from and --count: there are no such seeds\n");
        return ExitCode::FAILURE;
    };
    let parts = simulation.parts(cli.from);
    if let Some(name) = without.iter().find(|&name| !parts.contains(name)) {
        say(&format!("--without: there is no {name} in seed {}\n", cli.from));
        return ExitCode::FAILURE;
    }
    for seed in cli.from..behind {
        let played = simulation.play_part(seed, &without);
        played_seeds += 1;
        simulated += played.simulated.as_secs_f64();
        if cli.trace {
            say(&played.trace());
        }
        let again = cli.twice.then(|| simulation.play_part(seed, &without));
        if let Some(differs) = again.and_then(|again| played.difference(&again)) {
            say(&format!("seed {seed}: not the same a second time\n{differs}\n"));
            say(&format!("  cargo run --release -p ltq-sim -- --from {seed} --twice\n"));
            failed += 1;
            if cli.until_broken {
                break;
            }
        }
        if !played.broken.is_empty() {
            failed += 1;
            say(&format!("seed {seed}: {} broken\n", played.broken.len()));
            for broken in played.broken.iter().take(5) {
                say(&format!("  {broken}\n"));
            }
            let mut replay = format!("cargo run --release -p ltq-sim -- --from {seed} --trace");
            if !cli.no_shrink && without.is_empty() {
                let left_out: Vec<_> = simulation.shrink(seed).into_iter().collect();
                if !left_out.is_empty() {
                    replay += &format!(" --without {}", left_out.join(","));
                }
            }
            say(&format!("  {replay}\n"));
            if cli.until_broken {
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
