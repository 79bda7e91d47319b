//! The reference broker.
#![forbid(unsafe_code)]

use std::{fmt::Display, process::ExitCode};

use clap::Parser;
use ltq_node::{
    bridge::{self, BridgeConfig},
    config::{Config, ConfigSource, Flags, Instead, LogFormat, LogLevel, Settings},
    drain, logging, node, output,
    registry::{self, RegistryConfig},
    tools,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut flags = Flags::parse();
    match flags.instead.take() {
        Some(Instead::Tool(tool)) => tools::run(tool),
        Some(Instead::Drain(args)) => drain::command(&args),
        Some(Instead::Registry(flags)) => {
            let print_config = flags.print_config;
            let of =
                |config: &RegistryConfig| (config.to_toml(), config.log_format, config.log_level);
            run(flags, print_config, of, async |config, source| {
                registry::run(&config, source).await
            })
        }
        Some(Instead::Bridge(flags)) => {
            let print_config = flags.print_config;
            let of =
                |config: &BridgeConfig| (config.to_toml(), config.log_format, config.log_level);
            run(*flags, print_config, of, async |config, _| bridge::run(&config).await)
        }
        None => {
            let print_config = flags.print_config;
            let of = |config: &Config| (config.to_toml(), config.log_format, config.log_level);
            run(flags, print_config, of, async |config, source| node::run(&config, source).await)
        }
    }
}

/// Reads the configuration, and prints it or runs what it is for. `of` says how it is printed, and how logs
/// are written.
fn run<S: Settings, E: Display>(
    flags: S::Flags,
    print_config: bool,
    of: impl FnOnce(&S) -> (String, LogFormat, LogLevel),
    run: impl AsyncFnOnce(S, ConfigSource<S>) -> Result<(), E>,
) -> ExitCode {
    let source = ConfigSource::<S>::new(flags, std::env::vars_os());
    let config = match source.load() {
        Ok(config) => config,
        Err(error) => return failed(&error, BAD_USAGE),
    };
    let (text, format, level) = of(&config);
    if print_config {
        return match output::line(text.trim_end()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error, FAILED),
        };
    }
    logging::start(format, level);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, FAILED),
    };
    match runtime.block_on(run(config, source)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, FAILED),
    }
}

fn failed(error: &dyn Display, code: u8) -> ExitCode {
    output::note(format_args!("ltq-node: {error}"));
    ExitCode::from(code)
}

/// Bad usage or configuration; the same code that clap uses.
const BAD_USAGE: u8 = 2;
const FAILED: u8 = 1;
