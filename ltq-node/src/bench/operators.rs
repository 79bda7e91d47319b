//! The nodes of a run as an operator sees them: topics and channels are made and deleted on each, and what
//! each has is counted.

use std::collections::{BTreeMap, BTreeSet};

use ltq_client::{
    Admin, ChannelName, NodeId, RefusalCode, RequestError, StartAt, TopicName, TopicOptions,
};
use parking_lot::Mutex;
use serde::Serialize;

use super::{args::Mode, plan::Plan, target::Target};
use crate::cli::{CliError, ends::Ends};

/// Who asks each node.
pub(super) struct Operators {
    ends: Ends,
    /// All nodes that there were at any time of the run: those may have some of what it made and published.
    met: Mutex<BTreeSet<NodeId>>,
    /// Where a topic was not that is to be drained: it is not to be there afterwards.
    lacking: Mutex<BTreeSet<(Option<NodeId>, TopicName)>>,
}

/// One node, and how to ask it.
struct Operator {
    /// None where there is one node alone.
    node: Option<NodeId>,
    admin: Admin,
}

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

impl Operator {
    /// The same, with the node named in an error where there are several.
    fn done<T>(&self, done: Result<T, RequestError>) -> Result<T, CliError> {
        done.map_err(|error| match &self.node {
            Some(node) => CliError::Failed(format!("node {node}: {error}")),
            None => error.into(),
        })
    }

    /// The same; nothing where the node has no such topic or channel.
    fn unless_missing<T>(&self, done: Result<T, RequestError>) -> Result<Option<T>, CliError> {
        if done.as_ref().is_err_and(|error| MISSING.into_iter().any(|code| is(error, code))) {
            return Ok(None);
        }
        self.done(done).map(Some)
    }

    /// Deletes what a run made on this node, and adds to `failed` what it could not.
    async fn clean_up(&self, plan: &Plan, failed: &mut Vec<String>) {
        let mut note = |done: Result<(), RequestError>| {
            if let Err(error) = self.unless_missing(done) {
                failed.push(error.to_string());
            }
        };
        if plan.own_topics {
            for topic in &plan.topics {
                note(self.admin.delete_topic(topic).await);
            }
            return;
        }
        let made =
            plan.topics.iter().flat_map(|topic| plan.channels.iter().map(move |it| (topic, it)));
        for (topic, channel) in made.chain(plan.stalled()) {
            note(self.admin.delete_channel(topic, channel).await);
        }
    }

    /// Deletes a topic that a consumer made, as one does where nobody tells which node has which topics, unless
    /// somebody else uses it by now.
    async fn clean_up_empty(&self, topic: &TopicName, failed: &mut Vec<String>) {
        let shown = self.unless_missing(self.admin.show_topic(topic).await);
        let deleted = match shown {
            Ok(Some(stats)) if stats.end.0 == 0 && stats.channels.is_empty() => {
                self.unless_missing(self.admin.delete_topic(topic).await)
            }
            Ok(_) => return,
            Err(error) => Err(error),
        };
        failed.extend(deleted.err().map(|error| error.to_string()));
    }
}

impl Operators {
    pub(super) async fn connect(target: &Target) -> Result<Self, CliError> {
        let ends = target.ends().await?;
        Ok(Self { ends, met: Mutex::default(), lacking: Mutex::default() })
    }

    /// The nodes that there are now or were before, and how to ask each; an error in place of one that is gone.
    fn nodes(&self) -> Vec<Result<Operator, CliError>> {
        let cluster = match &self.ends {
            Ends::Node(client) => return vec![Ok(Operator { node: None, admin: client.admin() })],
            Ends::Cluster(cluster) => cluster,
        };
        let mut met = self.met.lock();
        met.extend(cluster.nodes().iter().map(|node| node.id().clone()));
        let ask = |node: &NodeId| match cluster.admin(node) {
            Ok(admin) => Ok(Operator { node: Some(node.clone()), admin }),
            Err(error) => Err(CliError::Failed(format!("node {node}: {error}"))),
        };
        met.iter().map(ask).collect()
    }

    /// Makes what a run needs, where it is not there.
    pub(super) async fn set_up(&self, plan: &Plan) -> Result<(), CliError> {
        let options = TopicOptions { durability: plan.durability, ..TopicOptions::default() };
        // With a topic that is kept, a run is about what it publishes itself.
        let start = match plan.mode {
            Mode::Sub => StartAt::Earliest,
            _ => StartAt::Latest,
        };
        for node in self.nodes() {
            let node = node?;
            for topic in &plan.topics {
                if !plan.prefilled {
                    node.done(node.admin.create_topic(topic, options).await)?;
                } else if node.unless_missing(node.admin.show_topic(topic).await)?.is_none() {
                    // A channel would make it.
                    self.lacking.lock().insert((node.node.clone(), topic.clone()));
                    continue;
                }
                for channel in &plan.channels {
                    node.done(node.admin.create_channel(topic, channel, start).await)?;
                }
            }
        }
        Ok(())
    }

    /// Deletes what a run made, but for a topic that is kept. It goes through all of it, whatever fails.
    ///
    /// # Errors
    /// All that failed, and at which node. What is not there is no fault.
    pub(super) async fn clean_up(&self, plan: &Plan) -> Result<(), CliError> {
        let mut failed = Vec::new();
        for node in self.nodes() {
            match node {
                Ok(node) => {
                    node.clean_up(plan, &mut failed).await;
                    let lacking = self.lacking.lock().clone();
                    let made = lacking.iter().filter(|(lacking, _)| *lacking == node.node);
                    for (_, topic) in made {
                        node.clean_up_empty(topic, &mut failed).await;
                    }
                }
                Err(error) => failed.push(error.to_string()),
            }
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(CliError::Failed(format!("not all is deleted: {}", failed.join("; ")))),
        }
    }

    /// What there is of a topic, on those nodes that have it.
    ///
    /// # Errors
    /// One node could not be asked, or none has the topic.
    pub(super) async fn count(&self, topic: &TopicName) -> Result<Counted, CliError> {
        let (mut counted, mut missing, mut found) = (Counted::default(), None, false);
        for node in self.nodes() {
            let node = node?;
            let stats = match node.admin.show_topic(topic).await {
                Err(error) if is(&error, RefusalCode::NoSuchTopic) => {
                    missing = Some(node.done(Err(error)));
                    continue;
                }
                shown => node.done(shown)?,
            };
            found = true;
            counted.taken += stats.end.0;
            counted.kept += stats.end.since(stats.first);
            for channel in stats.channels {
                *counted.acked.entry(channel.channel).or_default() += channel.acked;
            }
        }
        match missing {
            Some(missing) if !found => missing,
            _ => Ok(counted),
        }
    }

    /// What each node has of a run's topics and channels; nothing where there is one node, of which the rest of a
    /// report tells.
    pub(super) async fn each(&self, plan: &Plan) -> Result<Vec<OnNode>, CliError> {
        let mut each = Vec::new();
        for node in self.nodes() {
            let node = node?;
            let Some(name) = &node.node else { continue };
            let mut on = OnNode { node: name.to_string(), published: 0, acked: 0 };
            for topic in &plan.topics {
                let shown = node.admin.show_topic(topic).await;
                let Some(stats) = node.unless_missing(shown)? else { continue };
                on.published += stats.end.0;
                let ours = stats.channels.iter().filter(|it| plan.channels.contains(&it.channel));
                on.acked += ours.map(|it| it.acked).sum::<u64>();
            }
            each.push(on);
        }
        Ok(each)
    }

    pub(super) async fn close(self) -> Result<(), CliError> {
        self.ends.close().await
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

fn is(error: &RequestError, code: RefusalCode) -> bool {
    error.refusal().is_some_and(|refusal| refusal.code == code)
}

/// What is no fault where something is deleted or counted.
const MISSING: [RefusalCode; 2] = [RefusalCode::NoSuchTopic, RefusalCode::NoSuchChannel];
