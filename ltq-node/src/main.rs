//! The reference broker.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use ltq_node::{
    config::{ConfigSource, Flags},
    logging, node, output, tools,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut flags = Flags::parse();
    if let Some(tool) = flags.tool.take() {
        return tools::run(tool);
    }
    let print_config = flags.print_config;
    let source = ConfigSource::new(flags, std::env::vars_os());
    let config = match source.load() {
        Ok(config) => config,
        Err(error) => return failed(&error, BAD_USAGE),
    };
    if print_config {
        return match output::line(config.to_toml().trim_end()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error, FAILED),
        };
    }
    logging::start(config.log_format, config.log_level);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, FAILED),
    };
    match runtime.block_on(node::run(&config, source)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, FAILED),
    }
}

fn failed(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    output::note(format_args!("ltq-node: {error}"));
    ExitCode::from(code)
}

/// Bad usage or configuration; the same code that clap uses.
const BAD_USAGE: u8 = 2;
const FAILED: u8 = 1;
