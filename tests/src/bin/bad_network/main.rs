//! Holds a bad network up until its input ends, and says how to use it: to try things by hand.
use std::{io::BufRead, time::Duration};

use clap::Parser;
use ltq_tests::bad_network::{BadNetwork, Shape};

/// Two hosts on this machine with a bad line between them. Lines on standard input change it:
/// "loss 2", "rtt 40", "down", "up", "address".
#[derive(Parser)]
struct Args {
    /// Round trip in milliseconds.
    #[arg(long, default_value_t = 40)]
    rtt: u64,
    /// Packets in a hundred that are lost, on either way.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// How much longer a packet takes at most, in milliseconds.
    #[arg(long, default_value_t = 0)]
    jitter: u64,
    /// Megabits a second.
    #[arg(long)]
    rate: Option<u64>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mut shape = Shape {
        jitter: Duration::from_millis(args.jitter),
        bytes_per_second: args.rate.map(|rate| rate * 125_000),
        ..Shape::new(args.rtt, args.loss)
    };
    let mut network = BadNetwork::new(shape, args.seed)?;
    println!(
        "the near host, {}: {:?}",
        network.near().address(),
        network.near().command("PROGRAM")
    );
    println!("the far host, {}: {:?}", network.far().address(), network.far().command("PROGRAM"));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["loss", loss] => shape.loss = loss.parse::<f64>()? / 100.0,
            ["rtt", rtt] => shape.delay = Duration::from_millis(rtt.parse()?) / 2,
            ["down"] => shape.is_down = true,
            ["up"] => shape.is_down = false,
            ["address"] => println!("the near host is {} now", network.change_address()?),
            [] => {}
            _ => eprintln!("{line:?} is none of: loss PERCENT, rtt MS, down, up, address"),
        }
        network.reshape(shape);
        println!("{:?}", network.figures());
    }
    Ok(())
}
