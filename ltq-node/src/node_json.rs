//! A node as JSON: what `GET /nodes` of a registry and `ltq nodes --json` show.

use ltq_discovery::{NodeInfo, NodeState};
use serde_json::{Map, Value, json};

/// A node; `topics` is null where they are not known.
pub(crate) fn of(node: &NodeInfo) -> Value {
    let topics = node.topics().map(|topics| {
        let names = topics.iter().map(|(topic, channels)| {
            let channels: Vec<Value> = channels.iter().map(|name| name.as_str().into()).collect();
            (topic.to_string(), Value::Array(channels))
        });
        names.collect::<Map<_, _>>()
    });
    json!({
        "id": node.id().as_str(),
        "state": state(node),
        "suspected": node.is_suspected(),
        "addresses": node.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "version": node.version(),
        "epoch": node.epoch().to_string(),
        "load": node.load().0,
        "topics": topics,
    })
}

/// What a node does, in a word.
pub(crate) const fn state(node: &NodeInfo) -> &'static str {
    match node.state() {
        NodeState::Ready => "ready",
        NodeState::Draining => "draining",
    }
}
