//! The connections to the nodes that a producer uses.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use ltq_discovery::NodeId;
use tokio::sync::watch;

use crate::{
    Client, ConnectionState,
    cluster::{Members, choice::Contact},
};

/// The clients of the nodes that were ever wanted and are still there, and what becomes of their
/// connections.
#[derive(Default)]
pub(super) struct Contacts {
    known: BTreeMap<NodeId, Known>,
    /// One for each of them, and for some that were forgotten.
    changes: FuturesUnordered<BoxFuture<'static, Option<Change>>>,
    made: u64,
}

/// Whose connection came or went, and who tells of the next time.
type Change = (NodeId, u64, watch::Receiver<ConnectionState>);

struct Known {
    number: u64,
    client: Client,
    state: watch::Receiver<ConnectionState>,
}

impl Contacts {
    /// What the connection to a node is like.
    pub(super) fn of(&self, id: &NodeId) -> Contact {
        self.known.get(id).map_or(Contact::Untried, |known| contact(&known.state.borrow()))
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
        let known = Known { number, client: client.clone(), state: client.state() };
        self.watch(id.clone(), number, known.state.clone());
        self.known.insert(id.clone(), known);
        Some((client, number))
    }

    fn watch(&self, id: NodeId, number: u64, mut state: watch::Receiver<ConnectionState>) {
        self.changes.push(Box::pin(async move {
            state.changed().await.ok().map(|()| (id, number, state))
        }));
    }

    /// Whether the node is still talked to by the client of this number.
    pub(super) fn is_current(&self, id: &NodeId, number: u64, members: &Members) -> bool {
        self.known.get(id).is_some_and(|known| {
            known.number == number
                && members
                    .used_client(id)
                    .is_some_and(|client| Arc::ptr_eq(known.client.lease(), client.lease()))
        })
    }

    /// Forgets those of other nodes.
    pub(super) fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.known.retain(|id, _| keep(id));
    }

    /// Waits until a connection comes or goes. Cancel safe.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some(change) = self.changes.next().await else {
                return std::future::pending().await;
            };
            let Some((id, number, state)) = change else { continue };
            if self.known.get(&id).is_some_and(|known| known.number == number) {
                self.watch(id, number, state);
                return;
            }
        }
    }
}

pub(super) fn contact(state: &ConnectionState) -> Contact {
    match state {
        ConnectionState::Connected { .. } => Contact::Up,
        ConnectionState::Leaving { .. } => Contact::Leaving,
        state if state.is_down() => Contact::Down,
        _ => Contact::Untried,
    }
}
