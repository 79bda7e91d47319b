//! The nodes that there are, and a client for each of those that are used.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    sync::{Arc, Weak},
    time::Duration,
};

use ltq_core::{Address, process::inherit};
use ltq_discovery::{Discovery, DiscoveryError, Epoch, Interest, NodeId, NodeInfo, NodeSet};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    ClusterError, NodeStatus,
    following::{Word, follow},
    loads::{Loads, same_but_for_loads},
    lost::Lost,
};
use crate::{Client, ClientBuilder, connection::Lease};

/// What all producers and consumers of a cluster share: which nodes there are, as far as is known, and
/// a client for each that is used.
///
/// A client is made when it is first asked for, and connects in the background. It goes when nobody uses it
/// any more: at once where its node is gone, and after a while where it is there, since who comes next finds
/// it connected then. A node that comes back meanwhile has the same one again.
pub(crate) struct Members {
    shared: Arc<Shared>,
    following: AbortHandle,
}

struct Shared {
    discovery: Arc<dyn Discovery>,
    /// `None` until the first set is there. Who follows it is not told where nothing but loads changed.
    nodes: watch::Sender<Option<NodeSet>>,
    state: Mutex<State>,
    runtime: Handle,
    /// There is a client again that may be left alone.
    made: Notify,
    /// A random number of this client's, by which it chooses among many nodes.
    seed: u64,
}

struct State {
    template: ClientBuilder,
    members: BTreeMap<NodeId, Member>,
    lost: Lost,
    loads: Loads,
    is_closed: bool,
}

/// A node that has, or had, a client.
struct Member {
    addresses: Vec<Address>,
    epoch: Epoch,
    /// While the node is there, and not for long after it was used.
    held: Option<Client>,
    /// Nobody else had the client when that was looked at last.
    is_idle: bool,
    /// Whoever uses it after the node is gone keeps it.
    lease: Weak<Lease>,
}

impl Member {
    fn client(&self) -> Option<Client> {
        self.held.clone().or_else(|| self.lease.upgrade().map(Client::new))
    }

    /// Whether it is this client that a node with these addresses is to have.
    fn fits(&self, addresses: &[Address]) -> bool {
        self.addresses.len() == addresses.len()
            && addresses.iter().all(|address| self.addresses.contains(address))
    }
}

impl Members {
    /// Follows what the discovery scheme says of the nodes, and waits for its first word.
    ///
    /// Dropping the future ends it.
    pub(super) async fn follow(
        discovery: Arc<dyn Discovery>,
        template: ClientBuilder,
    ) -> Result<Self, ClusterError> {
        let after = template.get_connect_timeout();
        let seed = template.get_entropy().next();
        let state = State {
            template,
            members: BTreeMap::new(),
            lost: Lost::default(),
            loads: Loads::default(),
            is_closed: false,
        };
        let shared = Arc::new(Shared {
            discovery,
            nodes: watch::Sender::new(None),
            state: Mutex::new(state),
            runtime: Handle::current(),
            made: Notify::new(),
            seed,
        });
        let (told, mut trouble) = watch::channel(None);
        let mut nodes = shared.nodes.subscribe();
        let following = tokio::spawn(inherit(keep_up(shared.clone(), told))).abort_handle();
        let members = Self { shared, following };
        match timeout(after, nodes.wait_for(Option::is_some)).await {
            Ok(_) => Ok(members),
            Err(_) => {
                let source = trouble.borrow_and_update().clone();
                Err(ClusterError::NoWord { after, source })
            }
        }
    }

    /// The nodes as far as is known.
    pub(crate) fn nodes(&self) -> NodeSet {
        self.shared.nodes.borrow().clone().unwrap_or_default()
    }

    /// The nodes now and whenever they change, in more than their [loads](Self::loads); always some set.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<NodeSet>> {
        self.shared.nodes.subscribe()
    }

    /// How much waits at each node, now and from now on.
    pub(crate) fn loads(&self) -> Loads {
        self.shared.state.lock().loads.clone()
    }

    /// The nodes that crashed, or are cut off, as far as can be told: they served, and went without being withdrawn
    /// or taken out of a list. The newest 4,096.
    pub(crate) fn lost(&self) -> BTreeSet<NodeId> {
        self.shared.state.lock().lost.ids().cloned().collect()
    }

    /// Does not count a node among the [lost](Self::lost) any more. Returns whether it did.
    pub(super) fn give_up(&self, id: &NodeId) -> bool {
        let was_lost = self.shared.state.lock().lost.give_up(id);
        if was_lost {
            // Who follows the nodes looks again.
            self.shared.nodes.send_modify(|_| {});
        }
        was_lost
    }

    /// What tells of the nodes.
    pub(crate) fn discovery(&self) -> &Arc<dyn Discovery> {
        &self.shared.discovery
    }

    /// A random number, the same for as long as the cluster lives.
    pub(crate) fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// How long to wait before asking again, after so many failures in a row.
    pub(crate) fn wait(&self, failures: u32) -> Duration {
        self.shared.wait(failures)
    }

    /// The client by which a node is talked to, which is made if there is none. `None` for a node that
    /// is not there, one that has no address that a transport knows, and when the cluster is closed.
    pub(crate) fn client(&self, id: &NodeId) -> Option<Client> {
        let mut state = self.shared.state.lock();
        if state.is_closed {
            return None;
        }
        let nodes = self.nodes();
        let Some(node) = nodes.get(id) else {
            return state.members.get(id).and_then(Member::client);
        };
        let addresses = known(&state.template, node);
        if let Some(member) = state.members.get_mut(id).filter(|member| member.fits(&addresses))
            && let Some(client) = member.client()
        {
            member.held = Some(client.clone());
            member.is_idle = false;
            self.shared.made.notify_one();
            return Some(client);
        }
        if addresses.is_empty() {
            return None;
        }
        let _in_its_runtime = self.shared.runtime.enter();
        let made = state.template.clone().node(addresses.clone()).connect_in_background();
        // It fails without an address only.
        let client = made.ok()?;
        let lease = Arc::downgrade(client.lease());
        let held = Some(client.clone());
        let member = Member { addresses, epoch: node.epoch(), held, is_idle: false, lease };
        let before = state.members.insert(id.clone(), member);
        self.shared.made.notify_one();
        drop(state);
        drop(before);
        Some(client)
    }

    /// A node's client if it has one, for a look at its connection.
    pub(crate) fn used_client(&self, id: &NodeId) -> Option<Client> {
        self.shared.state.lock().members.get(id).and_then(Member::client)
    }

    /// Whether a node can be reached at all: whether a transport knows one of its addresses.
    pub(crate) fn is_reachable(&self, node: &NodeInfo) -> bool {
        let state = self.shared.state.lock();
        node.addresses().iter().any(|address| state.template.get_transports().knows(address))
    }

    /// What is known of each node.
    pub(super) fn statuses(&self) -> Vec<NodeStatus> {
        let nodes = self.nodes();
        let status = |node: &NodeInfo| NodeStatus {
            connection: self.used_client(node.id()).map(|client| client.state().borrow().clone()),
            node: node.clone(),
        };
        nodes.iter().map(status).collect()
    }

    /// Every client says this token from now on, and those that are made later.
    pub(super) fn set_token(&self, token: Option<String>) {
        let mut state = self.shared.state.lock();
        for client in state.members.values().filter_map(Member::client) {
            client.set_token(token.clone());
        }
        state.template.set_token(token);
    }

    /// How a client is set up, without its servers.
    pub(crate) fn template(&self) -> ClientBuilder {
        self.shared.state.lock().template.clone()
    }

    /// Makes no more clients, and gives back those that there are.
    pub(super) fn close(&self) -> Vec<Client> {
        self.following.abort();
        let mut state = self.shared.state.lock();
        state.is_closed = true;
        mem::take(&mut state.members).into_values().filter_map(|member| member.client()).collect()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.state.lock().is_closed
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("nodes", &self.nodes().len()).finish_non_exhaustive()
    }
}

/// The addresses of a node that a transport knows, the preferred ones first.
fn known(template: &ClientBuilder, node: &NodeInfo) -> Vec<Address> {
    let transports = template.get_transports();
    node.addresses().iter().filter(|address| transports.knows(address)).cloned().collect()
}

impl Shared {
    /// There are these nodes now.
    fn update(&self, nodes: NodeSet) {
        let mut gone = Vec::new();
        let mut state = self.state.lock();
        let State { template, members, lost, loads, .. } = &mut *state;
        loads.update(&nodes);
        lost.update(&self.nodes.borrow().clone().unwrap_or_default(), &nodes);
        members.retain(|id, member| {
            match nodes.get(id) {
                Some(node) if member.fits(&known(template, node)) => {
                    if member.epoch != node.epoch() {
                        member.epoch = node.epoch();
                        // It has just begun to serve.
                        member.client().iter().for_each(Client::hurry);
                    }
                    member.held = member.client();
                    true
                }
                // Elsewhere now: the next who asks gets another client.
                Some(_) => {
                    gone.extend(member.held.take());
                    false
                }
                None => {
                    gone.extend(member.held.take());
                    member.lease.strong_count() > 0
                }
            }
        });
        // Under the lock: who asks for a client in between would get one of the old addresses.
        self.nodes.send_if_modified(|now| {
            let is_news = now.as_ref().is_none_or(|now| !same_but_for_loads(now, &nodes));
            *now = Some(nodes);
            is_news
        });
        drop(state);
        drop(gone);
    }
}

impl Shared {
    /// Lets go of the clients that nobody has used since the last time. What was enqueued on them is answered
    /// first. Returns whether there are others to look at.
    fn close_idle(&self) -> bool {
        let mut gone = Vec::new();
        let mut state = self.state.lock();
        state.members.retain(|_, member| {
            // Who takes it from here does so under the lock.
            let is_idle = member.held.is_some() && member.lease.strong_count() == 1;
            if is_idle && member.is_idle {
                gone.extend(member.held.take());
                return false;
            }
            member.is_idle = is_idle;
            member.lease.strong_count() > 0
        });
        let is_any = state.members.values().any(|member| member.held.is_some());
        drop(state);
        drop(gone);
        is_any
    }
}

/// Closes the connections that nobody uses.
async fn close_idle(shared: &Shared) {
    loop {
        if !shared.close_idle() {
            shared.made.notified().await;
        }
        sleep(IDLE).await;
    }
}

/// How long a connection is kept that nobody uses, at least; at most twice that.
const IDLE: Duration = Duration::from_secs(30);

/// Keeps the set of nodes up to date, and ends the connections that nobody uses. The last set stays in force
/// whatever goes wrong.
async fn keep_up(shared: Arc<Shared>, told: watch::Sender<Option<Arc<DiscoveryError>>>) {
    let wait = |failures| shared.wait(failures);
    let hear = |word| match word {
        Word::Nodes(nodes) => shared.update(nodes),
        Word::Trouble(error) => drop(told.send_replace(Some(Arc::new(error)))),
    };
    tokio::join!(
        follow(shared.discovery.clone(), Interest::Nodes, wait, hear),
        close_idle(&shared),
    );
}

impl Shared {
    fn wait(&self, failures: u32) -> Duration {
        let state = self.state.lock();
        let random = state.template.get_entropy().next();
        state.template.get_backoff().wait(failures, random)
    }
}
