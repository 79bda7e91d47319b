//! `ltq nodes`: what registries, an etcd or DNS names tell of nodes.

use ltq_discovery::{DiscoveryError, Interest, NodeSet};

use super::{
    CliError,
    args::{NodesArgs, ServerArgs},
    interrupted, lookup,
    publish::print_json,
    tables,
};
use crate::{node_json, output};

pub(super) async fn run(server: &ServerArgs, args: &NodesArgs, json: bool) -> Result<(), CliError> {
    let discovery = lookup::discovery(server, &args.registry)?;
    let interest = match &args.topic {
        Some(topic) => Interest::Topic(topic.clone()),
        None => Interest::Everything,
    };
    let mut watch = discovery.watch(&interest).await.map_err(failed)?;
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
