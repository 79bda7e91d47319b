//! What `ltq-node` does besides running a node: with the store of one that is stopped, check it,
//! mend it, print it, move it; and make tokens.

mod args;
mod bar;
mod check;
mod cursor;
mod dump;
mod mend;
mod migrate;
mod report;
mod stores;
mod token;

use std::{io, process::ExitCode};

use ltq_core::StoreError;
use thiserror::Error;

use crate::output;

pub use args::{CheckArgs, DumpArgs, MigrateArgs, TokenArgs, ToolCommand};
pub(crate) use stores::refuse_unfinished;

/// Why a tool did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ToolError {
    /// What was asked makes no sense. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// It was not done, or not all of it; or something is wrong with the store. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file, or standard output, failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// Does what the command says, and tells the exit code.
#[must_use]
pub fn run(command: ToolCommand) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(async {
            match command {
                ToolCommand::Check(args) => check::run(args).await,
                ToolCommand::Dump(args) => dump::run(args).await,
                ToolCommand::Migrate(args) => migrate::run(args).await,
                ToolCommand::Token(args) => token::run(args),
            }
        }),
        Err(source) => Err(ToolError::Io { doing: "starting the runtime".to_owned(), source }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has enough of it; that is how pipelines end.
        Err(ToolError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            output::note(format_args!("ltq-node: {error}"));
            ExitCode::from(if matches!(error, ToolError::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn writing(source: io::Error) -> ToolError {
    ToolError::Io { doing: "writing the output".to_owned(), source }
}
