//! The `ltq` command line.

mod admin;
mod args;
mod connect;
pub(crate) mod ends;
mod input;
mod interrupt;
mod lookup;
mod nodes;
mod publish;
mod render;
mod subscribe;
mod tables;
#[cfg(test)]
mod tests;
#[cfg(any(feature = "tls", feature = "quic"))]
mod trust;

use std::{io, process::ExitCode};

use ltq_client::{
    CloseError, ClusterError, ClusterPublishError, ConnectError, PublishError, RequestError,
};
use ltq_core::TransportError;
use thiserror::Error;

use crate::{bench, output};

pub use args::{
    ChannelCommand, Cli, Command, Format, NodesArgs, PubArgs, ServerArgs, SubArgs, TopicCommand,
};
pub(crate) use connect::{attempts, builder, connect};
pub(crate) use interrupt::interrupted;
#[cfg(any(feature = "tls", feature = "quic"))]
pub use trust::TlsArgs;

/// Why a command did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CliError {
    /// What was asked makes no sense. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// It was not done, or not all of it. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A message was not published, or nobody knows.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// There is no cluster, or no way to use it.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A message was not published to a cluster, or nobody knows.
    #[error(transparent)]
    ClusterPublish(#[from] ClusterPublishError),
    /// The connection did not close in order.
    #[error(transparent)]
    Close(#[from] CloseError),
    /// Standard input or output failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl CliError {
    fn code(&self) -> u8 {
        match self {
            // What the client refuses before it sends anything was mistyped.
            Self::Usage(_)
            | Self::Connect(ConnectError::Address(_) | ConnectError::NoServer)
            | Self::Request(RequestError::Name(_) | RequestError::Option { .. }) => 2,
            Self::Connect(ConnectError::Transport { source, .. })
                if matches!(**source, TransportError::Address { .. }) =>
            {
                2
            }
            _ => 1,
        }
    }

    /// What the user can do about it, in words that follow the error's.
    fn advice(&self) -> &'static str {
        let Self::Connect(ConnectError::Transport { source, .. }) = self else { return "" };
        match &**source {
            TransportError::Io { source, .. }
                if source.kind() == io::ErrorKind::ConnectionRefused =>
            {
                "; start ltq-node there, or say where it is with --server"
            }
            _ => "",
        }
    }
}

/// Does what the command line says, and tells the exit code.
pub fn run(cli: Cli) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if matches!(&cli.command, Command::Bench(args) if args.spin) {
        // Others would be woken for nothing all the time.
        builder.worker_threads(1);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            return finish("ltq", Err(CliError::Io { doing: "starting the runtime", source }));
        }
    };
    let result = runtime.block_on(async {
        let Cli { server, json, command } = cli;
        let done = match command {
            Command::Pub(args) => publish::run(&server, args, json).await,
            Command::Sub(mut args) => {
                if json {
                    args.format = Format::Json;
                }
                subscribe::run(&server, args).await
            }
            Command::Topic(command) => admin::topic(&server, command, json).await,
            Command::Channel(command) => admin::channel(&server, command, json).await,
            Command::Stats => admin::stats(&server, json).await,
            Command::Nodes(args) => nodes::run(&server, &args, json).await,
            Command::Bench(args) => bench::run(&server, *args, json).await,
        };
        #[cfg(feature = "quic")]
        server.tls.settled().await;
        done
    });
    // A thread that still waits for standard input is left behind.
    runtime.shutdown_background();
    finish("ltq", result)
}

pub(crate) fn finish(command: &str, result: Result<(), CliError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has enough of it; that is how pipelines end.
        Err(CliError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            output::note(format_args!("{command}: {error}{}", error.advice()));
            ExitCode::from(error.code())
        }
    }
}
