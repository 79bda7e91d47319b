//! Plays seeds of the simulation.

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use ltq_tests::sim;

#[derive(Parser)]
#[command(about = "Plays whole brokers, clients, network and disks, by seeds")]
struct Cli {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Prints what happened.
    #[arg(long)]
    trace: bool,
    /// Plays each seed twice, and compares.
    #[arg(long)]
    twice: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let began = Instant::now();
    let (mut failed, mut simulated) = (0, 0.0);
    for seed in cli.from..cli.from + cli.count {
        let played = sim::run(seed);
        simulated += played.simulated.as_secs_f64();
        if cli.trace {
            print!("{}", played.trace());
        }
        if cli.twice && sim::run(seed).trace() != played.trace() {
            println!("seed {seed}: not the same a second time");
            failed += 1;
        }
        if !played.broken.is_empty() {
            failed += 1;
            println!("seed {seed}: {} broken", played.broken.len());
            played.broken.iter().take(5).for_each(|broken| println!("  {broken}"));
            println!("  cargo run --release -p ltq-tests --bin ltq-sim -- --from {seed} --trace");
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!("{} seeds, {failed} failed; {simulated:.0} s simulated in {took:.1} s", cli.count);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
