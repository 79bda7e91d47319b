//! Programs that do nothing but watch.

use ltq_discovery::{Discovery as _, Interest};
use tokio::time::sleep;

use super::clients::Programs;
use crate::{plan::Part, topics::topic_name};

/// A program that watches, and never crashes.
pub(super) struct Watching {
    pub(super) part: Part,
    pub(super) programs: Programs,
}

impl Watching {
    /// Watches for as long as it is let.
    pub(super) async fn run(self) {
        let interest = match self.part.chance.below(3) {
            0 => Interest::Nodes,
            1 => Interest::Everything,
            _ => topic_name(0).parse().map_or(Interest::Nodes, Interest::Topic),
        };
        let discovery = self.programs.discovery(&self.part.name);
        loop {
            match discovery.watch(&interest).await {
                // What it is told is written down on its way.
                Ok(mut watch) => loop {
                    drop(watch.changed().await);
                },
                Err(error) => {
                    self.programs.history.note(&self.part.name, error);
                    sleep(self.part.chance.millis(500)).await;
                }
            }
        }
    }
}
