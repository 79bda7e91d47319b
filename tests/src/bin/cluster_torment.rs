//! Torments a cluster of real processes, each on a host of its own, and accounts for every message: see
//! `ltq_tests::torment`. Needs root, for network namespaces, and `ip`.

#[cfg(target_os = "linux")]
mod command {
    use std::{process::ExitCode, time::Duration};

    use clap::{Parser, Subcommand};
    use ltq_tests::torment::{self, Plan, worker::WorkerArgs};

    /// Torments a cluster, and accounts for every message.
    #[derive(Parser)]
    #[command(args_conflicts_with_subcommands = true)]
    struct Arguments {
        /// From which all chance follows.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many runs, of one seed after the other.
        #[arg(long, default_value_t = 1)]
        runs: u64,
        /// How long there is trouble in each, in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// How many publishes a second each of two clients tries of each of three modes.
        #[arg(long, default_value_t = 100)]
        rate: u32,
        #[command(subcommand)]
        worker: Option<Work>,
    }

    #[derive(Subcommand)]
    enum Work {
        /// What runs on a client's host.
        Worker(WorkerArgs),
    }

    pub(super) fn main() -> ExitCode {
        let arguments = Arguments::parse();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let result =
            runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(arguments)));
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    }

    async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if let Some(Work::Worker(args)) = arguments.worker {
            return torment::worker::run(args).await;
        }
        for seed in arguments.seed..arguments.seed + arguments.runs {
            println!("seed {seed}");
            let plan = Plan {
                seed,
                lasts: Duration::from_secs(arguments.seconds),
                worker: std::env::current_exe()?,
                rate: arguments.rate,
                tells: true,
            };
            println!("{}", torment::run(&plan).await?);
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    command::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("network namespaces are Linux's");
    std::process::ExitCode::FAILURE
}
