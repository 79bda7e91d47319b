//! What a connection that does nothing costs the server.

use futures::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use ltq_client::Client;
use serde::Serialize;

use super::{
    process::{RssBytes, Usage},
    report::{facts, grouped},
    target::Target,
};
use crate::cli::CliError;

/// What idle connections cost.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Idle {
    mode: &'static str,
    connections: usize,
    server_rss_bytes: RssBytes,
    server_rss_bytes_per_connection: f64,
}

impl Idle {
    /// Opens so many connections and looks at the server before and after.
    pub(super) async fn measure(
        target: &Target,
        connections: usize,
        pid: u32,
        bar: &ProgressBar,
    ) -> Result<Self, CliError> {
        bar.set_length(connections as u64);
        let operator = target.connect().await?;
        operator.admin().stats().await?;
        let before = Usage::of(pid)?.rss_bytes;
        let clients: Vec<Client> = stream::iter(0..connections)
            .map(|_| target.connect())
            .buffer_unordered(CONNECTING_MAX)
            .inspect_ok(|_| bar.inc(1))
            .try_collect()
            .await?;
        // The server has answered each hello; with this it has answered something behind them.
        let open = operator.admin().stats().await?.connections;
        if open < connections as u64 {
            let words = format!("the server knows of {open} connections, not {connections}");
            return Err(CliError::Failed(words));
        }
        let after = Usage::of(pid)?.rss_bytes;
        drop(clients);
        operator.close().await?;
        Ok(Self {
            mode: "idle",
            connections,
            server_rss_bytes: RssBytes { before, after },
            server_rss_bytes_per_connection: (after as f64 - before as f64) / connections as f64,
        })
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let RssBytes { before, after } = self.server_rss_bytes;
        facts(&[
            ("connections", self.connections.to_string()),
            (
                "server memory",
                format!("{:.1} MiB before, {:.1} MiB after", mib(before), mib(after)),
            ),
            ("each", format!("{} bytes", grouped(self.server_rss_bytes_per_connection))),
        ])
    }
}

/// Few enough not to overrun the server's backlog.
const CONNECTING_MAX: usize = 64;
