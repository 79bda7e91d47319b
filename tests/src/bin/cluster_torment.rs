//! Torments a cluster of real processes, each on a host of its own, and accounts for every message: see
//! `ltq_tests::torment`. Needs root, for network namespaces, and `ip`.

#[cfg(target_os = "linux")]
mod command {
    use std::{process::ExitCode, time::Duration};

    use clap::{Parser, Subcommand};
    use ltq_tests::torment::{
        self, Plan, Setting, errand::Errand, program::ProgramArgs, worker::WorkerArgs,
    };

    /// Torments a cluster, or a mesh, and accounts for every message.
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
        /// How long one fault lasts at most, in milliseconds.
        #[arg(long, default_value_t = 6_000)]
        fault_ms: u64,
        /// After how many missed beats of 300 ms registries forget a node.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(3..))]
        forgotten_after: u32,
        /// How many publishes a second each of two clients tries of each of nine modes, or each program of a
        /// mesh to each other one.
        #[arg(long, default_value_t = 50)]
        rate: u32,
        /// Torments three programs of a mesh, and no cluster.
        #[arg(long)]
        mesh: bool,
        /// Over what they call each other. [default: over another for each of them and each time it is started]
        #[arg(long, requires = "mesh")]
        over: Option<torment::Over>,
        /// Keeps logs and journals even where all is well.
        #[arg(long)]
        keep: bool,
        #[command(subcommand)]
        worker: Option<Work>,
    }

    #[derive(Subcommand)]
    enum Work {
        /// What runs on a client's host.
        Worker(WorkerArgs),
        /// What runs on the host of a program of a mesh.
        Program(ProgramArgs),
        /// What is done before and after.
        #[command(subcommand)]
        Errand(Errand),
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
        match arguments.worker {
            Some(Work::Worker(args)) => return torment::worker::run(args).await,
            Some(Work::Program(args)) => return torment::program::run(args).await,
            Some(Work::Errand(errand)) => return errand.run().await,
            None => {}
        }
        if !torment::has_clocks() {
            eprintln!(
                "steps of clocks are skipped: there is no libfaketime; see scripts/faketime.sh"
            );
        }
        if !torment::has_devices() {
            eprintln!("full devices are skipped: mounting is not permitted here");
        }
        if !torment::has_disks() {
            eprintln!(
                "a device that refuses writes is skipped: see scripts/permitted.sh for what it takes"
            );
        }
        for seed in arguments.seed..arguments.seed + arguments.runs {
            println!("seed {seed}");
            let plan = Plan {
                setting: if arguments.mesh { Setting::Mesh } else { Setting::Cluster },
                over: arguments.over,
                seed,
                fault_max: Duration::from_millis(arguments.fault_ms),
                lasts: Duration::from_secs(arguments.seconds),
                forgotten_after: arguments.forgotten_after,
                worker: std::env::current_exe()?,
                rate: arguments.rate,
                tells: true,
                keeps: arguments.keep,
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
