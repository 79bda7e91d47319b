//! A bad network for real programs, by hand or to compare what TCP and QUIC make of it.
mod compare;

use std::{
    io::{self, BufRead},
    time::Duration,
};

use clap::{Parser, Subcommand};
use ltq_tests::bad_network::{BadNetwork, Shape, Unavailable};
use thiserror::Error;

/// Two hosts on this machine with a bad line between them.
#[derive(Parser)]
enum Args {
    /// Holds them until its input ends, and says how to use them. Lines on standard input change the
    /// line: "loss 2", "rtt 40", "down", "up", "address".
    Hold(Hold),
    #[command(flatten)]
    Compare(Compare),
}

#[derive(clap::Args)]
struct Hold {
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

#[derive(Subcommand)]
enum Compare {
    /// Latency and throughput of ten topics over one connection, by loss and round trip.
    Lines(compare::Args),
    /// Latency while the line is down for some seconds in the middle.
    Outage(compare::Args),
    /// Latency while the publisher's and consumers' address changes in the middle.
    Address(compare::Args),
    /// Latency of ten topics beside a consumer that takes nothing, and without it.
    Stalled(compare::Args),
    /// Publishes a million messages while the address changes again and again.
    Million(compare::Args),
}

/// What came in between.
#[derive(Debug, Error)]
pub(crate) enum Failed {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("{0:?} is none of: loss PERCENT, rtt MS, down, up, address")]
    Line(String),
    #[error("{program} {arguments}: {said}")]
    Program { program: String, arguments: String, said: String },
}

impl Failed {
    pub(crate) fn io(doing: &str) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.to_owned();
        move |source| Self::Io { doing, source }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Args::parse() {
        Args::Hold(args) => hold(&args)?,
        Args::Compare(Compare::Lines(args)) => compare::lines(&args).await?,
        Args::Compare(Compare::Outage(args)) => {
            compare::struck(&args, compare::Stroke::Outage).await?;
        }
        Args::Compare(Compare::Address(args)) => {
            compare::struck(&args, compare::Stroke::Address).await?;
        }
        Args::Compare(Compare::Stalled(args)) => compare::stalled(&args).await?,
        Args::Compare(Compare::Million(args)) => compare::million(&args).await?,
    }
    Ok(())
}

fn hold(args: &Hold) -> Result<(), Failed> {
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
    for line in io::stdin().lock().lines() {
        let line = line.map_err(Failed::io("reading standard input"))?;
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |word: &str| word.parse::<f64>().map_err(|_| Failed::Line(line.clone()));
        match words[..] {
            ["loss", loss] => shape.loss = number(loss)? / 100.0,
            ["rtt", rtt] => shape.delay = Duration::from_secs_f64(number(rtt)?.max(0.0) / 2_000.0),
            ["down"] => shape.is_down = true,
            ["up"] => shape.is_down = false,
            ["address"] => println!("the near host is {} now", network.change_address()?),
            [] => {}
            _ => eprintln!("{}", Failed::Line(line)),
        }
        network.reshape(shape);
        println!("{:?}", network.figures());
    }
    Ok(())
}
