//! Which brokers the nodes of a source are: [`Brokers`].

use std::collections::BTreeMap;

use ltq_core::protocol::InstanceId;
use ltq_discovery::NodeId;
use parking_lot::Mutex;

/// By way of which node of the source each broker is forwarded. One that is found twice, by an IPv4 and an IPv6
/// address, say, would share its messages out between the two: out of order, and under two names.
#[derive(Debug, Default)]
pub(super) struct Brokers(Mutex<BTreeMap<NodeId, InstanceId>>);

impl Brokers {
    /// A node is connected to this broker, and to no other any more.
    ///
    /// # Errors
    /// The node by way of which that is forwarded already.
    pub(super) fn claim(&self, node: &NodeId, broker: InstanceId) -> Result<(), NodeId> {
        let mut nodes = self.0.lock();
        let other = nodes.iter().find(|(id, of)| *id != node && **of == broker);
        if let Some(other) = other.map(|(id, _)| id.clone()) {
            nodes.remove(node);
            return Err(other);
        }
        nodes.insert(node.clone(), broker);
        Ok(())
    }

    /// A node leads to no broker any more.
    pub(super) fn release(&self, node: &NodeId) {
        self.0.lock().remove(node);
    }
}
