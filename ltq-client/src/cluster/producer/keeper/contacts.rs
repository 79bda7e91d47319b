//! The connections to the nodes that a producer uses.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use ltq_core::protocol::InstanceId;
use ltq_discovery::NodeId;
use tokio::sync::{oneshot, watch};

use crate::{
    Client, ConnectionState,
    cluster::{Members, choice::Contact},
};

/// The clients of the nodes that were ever wanted and still are, and what becomes of their connections.
#[derive(Default)]
pub(super) struct Contacts {
    known: BTreeMap<NodeId, Known>,
    /// Those that a node has no more, and by which something is still under way.
    former: BTreeMap<u64, Known>,
    /// One for each of them. That of one that is forgotten ends.
    changes: FuturesUnordered<BoxFuture<'static, Option<Change>>>,
    made: u64,
}

/// Whose connection came or went, and who tells of the next time.
type Change = (NodeId, u64, watch::Receiver<ConnectionState>, oneshot::Receiver<()>);

struct Known {
    number: u64,
    client: Client,
    state: watch::Receiver<ConnectionState>,
    /// Dropped with it.
    _watched: oneshot::Sender<()>,
}

impl Known {
    /// Whether it is by this client that the node is talked to.
    fn is_of(&self, id: &NodeId, members: &Members) -> bool {
        let client = members.used_client(id);
        client.is_some_and(|client| Arc::ptr_eq(self.client.lease(), client.lease()))
    }
}

impl Contacts {
    /// What the connection to a node is like.
    pub(super) fn of(&self, id: &NodeId) -> Contact {
        self.known.get(id).map_or(Contact::Untried, |known| contact(&known.state.borrow()))
    }

    /// What the connection of the client of this number is like.
    pub(super) fn of_client(&self, id: &NodeId, number: u64) -> Contact {
        let known = self.known.get(id).filter(|known| known.number == number);
        let known = known.or_else(|| self.former.get(&number));
        known.map_or(Contact::Untried, |known| contact(&known.state.borrow()))
    }

    /// The client of a node, and its number.
    pub(super) fn client(&mut self, id: &NodeId, members: &Members) -> Option<(Client, u64)> {
        let client = members.client(id)?;
        if let Some(known) = self.known.get(id)
            && Arc::ptr_eq(known.client.lease(), client.lease())
        {
            return Some((client, known.number));
        }
        self.made += 1;
        let number = self.made;
        let (_watched, forgotten) = oneshot::channel();
        let known = Known { number, client: client.clone(), state: client.state(), _watched };
        self.watch((id.clone(), number, known.state.clone(), forgotten));
        if let Some(before) = self.known.insert(id.clone(), known) {
            self.former.insert(before.number, before);
        }
        Some((client, number))
    }

    fn watch(&self, (id, number, mut state, mut forgotten): Change) {
        self.changes.push(Box::pin(async move {
            tokio::select! {
                biased;
                changed = state.changed() => changed.ok().map(|()| (id, number, state, forgotten)),
                _ = &mut forgotten => None,
            }
        }));
    }

    /// Whether the node is still talked to by the client of this number.
    pub(super) fn is_current(&self, id: &NodeId, number: u64, members: &Members) -> bool {
        self.known.get(id).is_some_and(|known| known.number == number && known.is_of(id, members))
    }

    /// Forgets those of other nodes, and the clients that their nodes have no more: a node that moved is
    /// one that nobody has tried. Of these, the ones in use are still watched.
    pub(super) fn retain(
        &mut self,
        members: &Members,
        keep: impl Fn(&NodeId) -> bool,
        is_used: impl Fn(u64) -> bool,
    ) {
        let out = self.known.iter().filter(|(id, known)| !known.is_of(id, members) || !keep(id));
        let out: Vec<_> = out.map(|(id, _)| id.clone()).collect();
        let out = out.iter().filter_map(|id| self.known.remove(id));
        self.former.extend(out.map(|known| (known.number, known)));
        self.former.retain(|number, _| is_used(*number));
    }

    /// Lets go of the clients of these nodes, by which nothing is under way. Nothing is the matter with them:
    /// they are as good as nodes that nobody has tried.
    pub(super) fn leave(&mut self, is_left: impl Fn(&NodeId) -> bool) {
        self.known.retain(|id, _| !is_left(id));
    }

    /// Waits until a connection comes or goes. Cancel safe.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some(change) = self.changes.next().await else {
                return std::future::pending().await;
            };
            let Some(change) = change else { continue };
            let (id, number) = (&change.0, change.1);
            let is_known = self.known.get(id).is_some_and(|known| known.number == number);
            if is_known || self.former.contains_key(&number) {
                self.watch(change);
                return;
            }
        }
    }
}

/// Whether the node is connected to, by whomever.
pub(super) fn is_up(id: &NodeId, members: &Members) -> bool {
    let client = members.used_client(id);
    client.is_some_and(|client| contact(&client.state().borrow()) == Contact::Up)
}

/// The broker that the node is connected to, by whomever.
pub(super) fn broker(id: &NodeId, members: &Members) -> Option<InstanceId> {
    members.used_client(id)?.instance()
}

pub(super) fn contact(state: &ConnectionState) -> Contact {
    match state {
        ConnectionState::Connected { .. } => Contact::Up,
        ConnectionState::Leaving { .. } => Contact::Leaving,
        state if state.is_down() => Contact::Down,
        _ => Contact::Untried,
    }
}
