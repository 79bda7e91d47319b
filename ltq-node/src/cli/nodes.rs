//! `ltq nodes`: what registries tell of nodes.

use ltq_discovery::{Discovery as _, DiscoveryError, Interest, NodeSet, registry::Registries};
use ltq_transport::{Tcp, Transports};

use super::{
    CliError,
    args::{NodesArgs, ServerArgs},
    interrupted,
    publish::print_json,
    tables,
};
use crate::{node_json, output};

pub(super) async fn run(server: &ServerArgs, args: &NodesArgs, json: bool) -> Result<(), CliError> {
    let registries = registries(server, args)?;
    let interest = match &args.topic {
        Some(topic) => Interest::Topic(topic.clone()),
        None => Interest::Everything,
    };
    let mut watch = registries.watch(&interest).await.map_err(failed)?;
    show(&watch.changed().await.map_err(failed)?, json)?;
    if !args.follow {
        return Ok(());
    }
    let mut interrupted = std::pin::pin!(interrupted());
    loop {
        let changed = tokio::select! {
            changed = watch.changed() => changed,
            () = &mut interrupted => return Ok(()),
        };
        match changed {
            Ok(nodes) => {
                if !json {
                    written(output::line(""))?;
                }
                show(&nodes, json)?;
            }
            Err(error) => output::note(format_args!("ltq: {error}; still trying")),
        }
    }
}

fn registries(server: &ServerArgs, args: &NodesArgs) -> Result<Registries, CliError> {
    let addresses = || args.registry.iter().map(|address| address.trim());
    let transports = Transports::new().with(Tcp::default());
    #[cfg(any(feature = "tls", feature = "quic"))]
    let transports = server.tls.transports(addresses())?.unwrap_or(transports);
    let mut registries =
        Registries::builder(transports).connect_timeout(server.timeout).patience(server.timeout);
    for address in addresses() {
        registries = registries.registry(address);
    }
    if let Some(token) = &server.token {
        registries = registries.token(&*token.0);
    }
    registries.build().map_err(|error| CliError::Usage(error.to_string()))
}

#[allow(clippy::needless_pass_by_value, reason = "it is for `map_err`")]
fn failed(error: DiscoveryError) -> CliError {
    CliError::Failed(error.to_string())
}

fn written(result: std::io::Result<()>) -> Result<(), CliError> {
    result.map_err(|source| CliError::Io { doing: "writing the output", source })
}

fn show(nodes: &NodeSet, json: bool) -> Result<(), CliError> {
    match json {
        true => print_json(&nodes.iter().map(node_json::of).collect()),
        false if nodes.is_empty() => written(output::line("no nodes")),
        false => written(output::line(tables::nodes(nodes))),
    }
}
