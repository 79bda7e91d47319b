//! `ltq bench`: measures a node, and verifies every message while it does.

mod args;
mod body;
mod consuming;
mod device;
#[cfg(test)]
mod faulty;
mod idle;
mod ledger;
mod operators;
mod pacer;
mod plan;
mod process;
mod producing;
mod report;
mod run;
mod target;
#[cfg(test)]
mod tests;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

pub use args::{BenchArgs, Mode};
pub(crate) use process::Usage;

use crate::{
    cli::{CliError, ServerArgs},
    descriptors, output,
};
use device::Device;
use idle::Idle;
use plan::{Limit, Plan};
use report::Report;
use target::Target;

/// Measures what was asked.
pub(crate) async fn run(server: &ServerArgs, args: BenchArgs, json: bool) -> Result<(), CliError> {
    descriptors::raise_limit();
    if let (Some(Mode::Device), Some(dir)) = (args.mode, &args.dir) {
        // Nothing else runs meanwhile that could be held up.
        let device = Device::measure(dir, args.file_bytes.0, args.size, args.duration)?;
        return print(&device, json, Device::table);
    }
    let target = Target::new(server, &args).await?;
    let measured = measure(&target, &args, json).await;
    let closed = target.close().await;
    measured.and(closed)
}

async fn measure(target: &Target, args: &BenchArgs, json: bool) -> Result<(), CliError> {
    if let (Some(connections), Some(&pid)) = (args.idle_connections, args.server_pid.first()) {
        let bar = bar(None, "connections");
        let idle = Idle::measure(target, connections, pid, &bar).await;
        bar.finish_and_clear();
        return print(&idle?, json, Idle::table);
    }
    let Some(mode) = args.mode else {
        return Err(CliError::Usage("say what to measure".to_owned()));
    };
    let plan = Plan::new(mode, args)?.against(target.nodes().await?);
    if let Some(warmup) = plan.warmup(args) {
        let bar = bar(None, "messages, to warm up");
        let warm = run::run(target, &warmup, &[], &bar).await;
        bar.finish_and_clear();
        warm?;
    }
    let length = match plan.limit {
        Limit::Messages(_) if !plan.prefilled => plan.deliveries(),
        _ => None,
    };
    let bar = bar(length, "messages");
    let outcome = run::run(target, &plan, &args.server_pid, &bar).await;
    bar.finish_and_clear();
    print(&Report::new(target, &plan, &outcome?), json, Report::table)
}

fn print<T: Serialize>(
    result: &T,
    json: bool,
    table: impl Fn(&T) -> String,
) -> Result<(), CliError> {
    let text = if json {
        serde_json::to_string(result)
            .map_err(|error| CliError::Failed(format!("the result cannot be shown: {error}")))?
    } else {
        table(result)
    };
    output::line(text).map_err(|source| CliError::Io { doing: "writing the result", source })
}

/// A bar on standard error; nothing where that is no terminal.
fn bar(length: Option<u64>, what: &'static str) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => {
            (ProgressBar::new(length), "{bar:40} {human_pos} of {human_len} {msg}, {per_sec}")
        }
        None => (ProgressBar::no_length(), "{spinner} {human_pos} {msg}, {per_sec}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
}
