//! Nodes that are known at one moment.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Epoch, Interest, NodeId, NodeInfo,
    withdrawals::{WITHDRAWALS_HEARD_MAX, Withdrawals},
};

/// Nodes in the order of their ids, each once. Cheap to clone; equal when nothing differs.
///
/// Where nodes announce themselves it is known, too, which of those that are gone were
/// [withdrawn](Self::with_withdrawn).
#[derive(Clone, Debug, Default)]
pub struct NodeSet {
    nodes: Arc<[NodeInfo]>,
    /// `None` where nobody tells in which way a node went.
    withdrawn: Option<Arc<Withdrawals>>,
}

impl NodeSet {
    /// As much of it as is of interest.
    #[must_use]
    pub fn view(&self, interest: &Interest) -> Self {
        match interest {
            Interest::Everything => self.clone(),
            interest => {
                let nodes = self.iter().filter_map(|node| interest.view(node)).collect();
                Self { withdrawn: self.withdrawn.clone(), ..nodes }
            }
        }
    }

    /// The nodes, in the order of their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &NodeInfo> {
        self.nodes.iter()
    }

    /// The node of this id.
    #[must_use]
    pub fn get(&self, id: &NodeId) -> Option<&NodeInfo> {
        let index = self.nodes.binary_search_by(|node| node.id().cmp(id)).ok()?;
        self.nodes.get(index)
    }

    /// How many nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The set of a scheme that knows which runs of nodes were withdrawn, and not back since: these, of
    /// which the last 4,096 count. Whoever else is missing went without a word.
    #[must_use]
    pub fn with_withdrawn(self, withdrawn: impl IntoIterator<Item = (NodeId, Epoch)>) -> Self {
        let mut all = Withdrawals::new(WITHDRAWALS_HEARD_MAX);
        withdrawn.into_iter().for_each(|(id, epoch)| all.insert(id, epoch, 0));
        self.with_withdrawals(Arc::new(all))
    }

    pub(crate) fn with_withdrawals(self, withdrawn: Arc<Withdrawals>) -> Self {
        Self { withdrawn: Some(withdrawn), ..self }
    }

    /// Whether this run of a node, which was among those told of before, is not there any more and went without a
    /// word, as far as is known: it crashed, or is cut off. Neither one that was withdrawn, nor one that is in a
    /// list no more. What has a topic no more is missing where only those who have it are watched, too.
    #[must_use]
    pub fn has_lost(&self, node: &NodeInfo) -> bool {
        let withdrawn = self.withdrawn.as_ref();
        withdrawn.is_some_and(|it| !it.has(node.id(), node.epoch()))
            && self.get(node.id()).is_none()
    }
}

/// The same nodes, and the same withdrawals told of.
impl PartialEq for NodeSet {
    fn eq(&self, other: &Self) -> bool {
        let withdrawn = |of: &Self| of.withdrawn.clone().filter(|it| it.len() > 0);
        self.nodes == other.nodes && withdrawn(self) == withdrawn(other)
    }
}

impl Eq for NodeSet {}

impl FromIterator<NodeInfo> for NodeSet {
    /// Of several nodes with one id the last one counts. Nobody tells in which way others went.
    fn from_iter<I: IntoIterator<Item = NodeInfo>>(nodes: I) -> Self {
        let by_id: BTreeMap<_, _> =
            nodes.into_iter().map(|node| (node.id().clone(), node)).collect();
        Self { nodes: by_id.into_values().collect(), withdrawn: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, started: u64) -> NodeInfo {
        let node = NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
        node.with_epoch(Epoch { started, instance: 0 })
    }

    #[test]
    fn who_is_missing_was_withdrawn_is_in_a_list_no_more_or_is_lost() {
        let list: NodeSet = [node("a", 1)].into_iter().collect();
        assert!(!list.has_lost(&node("b", 1)), "nobody tells");
        let withdrawn = [("b".parse().unwrap(), node("b", 2).epoch())];
        let told = list.with_withdrawn(withdrawn).view(&Interest::Nodes);
        let lost = [("a", 1), ("b", 1), ("b", 2), ("b", 3), ("c", 1)]
            .map(|(id, started)| told.has_lost(&node(id, started)));
        assert_eq!(lost, [false, false, false, true, true]);
    }
}
