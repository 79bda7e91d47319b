//! The nodes of a run as an operator sees them: topics and channels are made and deleted on each, and what
//! each has is counted.

use std::collections::BTreeMap;

use ltq_client::{Admin, ChannelName, StartAt, TopicName, TopicOptions};
use serde::Serialize;

use super::{args::Mode, plan::Plan, target::Target};
use crate::cli::{CliError, ends::Ends};

/// Who asks each node.
pub(super) struct Operators(Ends);

/// What all nodes together have of a topic.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// How many messages it took, ever.
    pub(super) taken: u64,
    /// How many it keeps.
    pub(super) kept: u64,
    pub(super) acked: BTreeMap<ChannelName, u64>,
}

/// What a run did on one node of several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct OnNode {
    pub(super) node: String,
    pub(super) published: u64,
    /// In all channels together.
    pub(super) acked: u64,
}

impl Operators {
    pub(super) async fn connect(target: &Target) -> Result<Self, CliError> {
        Ok(Self(target.ends().await?))
    }

    /// The nodes that there are now, and how to ask them.
    fn nodes(&self) -> Result<Vec<(String, Admin)>, CliError> {
        match &self.0 {
            Ends::Node(client) => Ok(vec![(String::new(), client.admin())]),
            Ends::Cluster(cluster) => {
                let nodes = cluster.nodes();
                let admins = nodes.iter().map(|node| {
                    let id = node.id();
                    Ok((id.to_string(), cluster.admin(id)?))
                });
                admins.collect()
            }
        }
    }

    /// Makes what a run needs, where it is not there.
    pub(super) async fn set_up(&self, plan: &Plan) -> Result<(), CliError> {
        let options = TopicOptions { durability: plan.durability, ..TopicOptions::default() };
        // With a topic that is kept, a run is about what it publishes itself.
        let start = match plan.mode {
            Mode::Sub => StartAt::Earliest,
            _ => StartAt::Latest,
        };
        for (_, admin) in self.nodes()? {
            for topic in &plan.topics {
                if !plan.prefilled {
                    admin.create_topic(topic, options).await?;
                }
                for channel in &plan.channels {
                    admin.create_channel(topic, channel, start).await?;
                }
            }
        }
        Ok(())
    }

    /// Deletes what a run made, but for a topic that is kept.
    pub(super) async fn clean_up(&self, plan: &Plan) -> Result<(), CliError> {
        for (_, admin) in self.nodes()? {
            for topic in &plan.topics {
                if plan.own_topics {
                    admin.delete_topic(topic).await?;
                    continue;
                }
                for channel in &plan.channels {
                    admin.delete_channel(topic, channel).await?;
                }
            }
            if !plan.own_topics {
                for (topic, channel) in plan.stalled() {
                    admin.delete_channel(topic, channel).await?;
                }
            }
        }
        Ok(())
    }

    /// What there is of a topic.
    pub(super) async fn count(&self, topic: &TopicName) -> Result<Counted, CliError> {
        let mut counted = Counted::default();
        for (_, admin) in self.nodes()? {
            let stats = admin.show_topic(topic).await?;
            counted.taken += stats.end.0;
            counted.kept += stats.end.since(stats.first);
            for channel in stats.channels {
                *counted.acked.entry(channel.channel).or_default() += channel.acked;
            }
        }
        Ok(counted)
    }

    /// What each node has of a run's topics and channels; nothing where there is one node, of which the rest of a
    /// report tells.
    pub(super) async fn each(&self, plan: &Plan) -> Result<Vec<OnNode>, CliError> {
        let mut each = Vec::new();
        if matches!(self.0, Ends::Node(_)) {
            return Ok(each);
        }
        for (node, admin) in self.nodes()? {
            let mut on = OnNode { node, published: 0, acked: 0 };
            for topic in &plan.topics {
                let stats = admin.show_topic(topic).await?;
                on.published += stats.end.0;
                let ours = stats.channels.iter().filter(|it| plan.channels.contains(&it.channel));
                on.acked += ours.map(|it| it.acked).sum::<u64>();
            }
            each.push(on);
        }
        Ok(each)
    }

    pub(super) async fn close(self) -> Result<(), CliError> {
        self.0.close().await
    }
}

/// What was published on each node since an earlier count.
pub(super) fn since(before: &[OnNode], after: Vec<OnNode>) -> Vec<OnNode> {
    let since = |on: OnNode| {
        let earlier = before.iter().find(|it| it.node == on.node);
        let published = on.published.saturating_sub(earlier.map_or(0, |it| it.published));
        OnNode { published, ..on }
    };
    after.into_iter().map(since).collect()
}
