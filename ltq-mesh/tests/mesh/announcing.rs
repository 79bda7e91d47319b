//! Under which addresses a program is announced.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Listener, Transport, TransportError};
use ltq_discovery::{
    Announced, Announcement, Discovery, DiscoveryError, Interest, NodeInfo, NodeSet, StaticList,
    Watch,
};
use ltq_mesh::{Mesh, MeshSettings, MeshStates, PeerState};
use ltq_transport::{InProcess, Transports};
use tokio::sync::{Notify, watch};

use crate::support::*;

/// Keeps what was announced last; `None` once it is withdrawn.
#[derive(Clone)]
struct Board {
    said: Arc<watch::Sender<Option<Vec<String>>>>,
    fails: Arc<AtomicU32>,
}

impl Board {
    fn new(fails: u32) -> Self {
        Self { said: Arc::default(), fails: Arc::new(fails.into()) }
    }

    fn say(&self, node: &NodeInfo) -> Result<(), DiscoveryError> {
        let fails = self
            .fails
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if fails.is_ok() {
            let (backend, source) = ("a board".to_owned(), "it is down".into());
            return Err(DiscoveryError::Unreachable { backend, source });
        }
        let addresses = node.addresses().iter().map(ToString::to_string).collect();
        self.said.send_replace(Some(addresses));
        Ok(())
    }

    async fn shows(&self, addresses: Option<&[&str]>) {
        let wanted: Option<Vec<_>> =
            addresses.map(|all| all.iter().map(|it| (*it).to_owned()).collect());
        let mut said = self.said.subscribe();
        let what = format!("{wanted:?} instead of {:?}", *said.borrow());
        within(&what, said.wait_for(|said| *said == wanted)).await.unwrap();
    }
}

#[async_trait]
impl Discovery for Board {
    async fn announce(&self, node: NodeInfo) -> Result<Announced, DiscoveryError> {
        self.say(&node)?;
        Ok(Announced::Known(Box::new(self.clone())))
    }

    async fn watch(&self, _: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        Ok(Box::new(Nobody))
    }
}

/// Tells of nobody.
struct Nobody;

#[async_trait]
impl Watch for Nobody {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        std::future::pending().await
    }
}

#[async_trait]
impl Announcement for Board {
    async fn update(&mut self, node: NodeInfo) -> Result<(), DiscoveryError> {
        self.say(&node)
    }

    async fn withdraw(self: Box<Self>) -> Result<(), DiscoveryError> {
        self.said.send_replace(None);
        Ok(())
    }
}

/// Listens at another address each time, and ends a listener when it is told to.
struct Wandering {
    inner: InProcess,
    opened: AtomicU32,
    end: Arc<Notify>,
}

struct Ending(Box<dyn Listener>, Arc<Notify>);

#[async_trait]
impl Transport for Wandering {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let nth = self.opened.fetch_add(1, Ordering::Relaxed);
        let elsewhere = Address::new(self.scheme(), format!("{}.{nth}", address.rest()));
        Ok(Box::new(Ending(self.inner.listen(&elsewhere).await?, self.end.clone())))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        self.inner.connect(address).await
    }
}

#[async_trait]
impl Listener for Ending {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        tokio::select! {
            accepted = self.0.accept() => accepted,
            () = self.1.notified() => Err(TransportError::Closed),
        }
    }

    fn local_address(&self) -> Address {
        self.0.local_address()
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_listened_on_later_is_announced_later_and_all_is_withdrawn_at_the_end() {
    let (links, board) = (InProcess::new(), Board::new(3));
    let taken = links.listen(&"in-process://late".parse().unwrap()).await.unwrap();
    let one = linked("one", &links).listen("in-process://late");
    let one = one.discovery(Arc::new(board.clone())).start(store()).await.unwrap();
    board.shows(Some(&["in-process://one"])).await;
    drop(taken);
    board.shows(Some(&["in-process://one", "in-process://late"])).await;
    one.close().await.unwrap();
    board.shows(None).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_advertised_is_announced_wherever_is_listened_until_the_mesh_is_closed() {
    // One that listens somewhere else, and one that listens nowhere at all.
    let links = InProcess::new();
    let somewhere = linked("one", &links).listen("nothing://there");
    for part in [somewhere, Mesh::builder("two").settings(quick())] {
        let board = Board::new(1);
        let part = part.advertise("in-process://gate").discovery(Arc::new(board.clone()));
        let part = part.start(store()).await.unwrap();
        board.shows(Some(&["in-process://gate"])).await;
        tokio::time::sleep(millis(60_000)).await;
        assert_eq!(*board.said.borrow(), Some(vec!["in-process://gate".to_owned()]));
        part.close().await.unwrap();
        board.shows(None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_opens_elsewhere_again_is_announced_there_and_found() {
    let (links, board, end) = (InProcess::new(), Board::new(0), Arc::new(Notify::new()));
    let wandering = Wandering { inner: links.clone(), opened: 0.into(), end: end.clone() };
    let one = Mesh::builder("one")
        .transports(Transports::new().with(wandering))
        .listen("in-process://one")
        .discovery(Arc::new(board.clone()))
        .settings(quick())
        .start(store())
        .await
        .unwrap();
    board.shows(Some(&["in-process://one.0"])).await;
    end.notify_one();
    board.shows(Some(&["in-process://one.0.1"])).await;
    let two = linked("two", &links).peer("one", ["in-process://one.0.1"]);
    both(&two.start(store()).await.unwrap(), &one).await;
}

/// Gives each listener a place of the system's choice, as a port 0 does.
struct Choosing(InProcess, AtomicU32, Arc<Notify>);

#[async_trait]
impl Transport for Choosing {
    fn scheme(&self) -> &str {
        self.0.scheme()
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let address = match address.rest() {
            "0" => Address::new(
                self.scheme(),
                (7 + self.1.fetch_add(1, Ordering::Relaxed)).to_string(),
            ),
            _ => address.clone(),
        };
        Ok(Box::new(Ending(self.0.listen(&address).await?, self.2.clone())))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        self.0.connect(address).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_of_the_systems_choice_is_kept_as_long_as_it_is_free_and_then_another_is_announced()
{
    let (links, board, end) = (InProcess::new(), Board::new(0), Arc::new(Notify::new()));
    let one = Mesh::builder("one")
        .transports(Transports::new().with(Choosing(links.clone(), 0.into(), end.clone())))
        .listen("in-process://0")
        .discovery(Arc::new(board.clone()))
        .settings(quick())
        .start(store())
        .await
        .unwrap();
    board.shows(Some(&["in-process://7"])).await;
    let mut watch = one.watch();
    let failed = |states: &MeshStates| states.local_addresses().next().is_none();
    let listens = |states: &MeshStates| states.local_addresses().next().is_some();
    end.notify_one();
    within("it fails", watch.until(failed)).await.unwrap();
    within("it listens", watch.until(listens)).await.unwrap();
    board.shows(Some(&["in-process://7"])).await;
    end.notify_one();
    within("it fails", watch.until(failed)).await.unwrap();
    let _taken = links.listen(&"in-process://7".parse().unwrap()).await.unwrap();
    board.shows(Some(&["in-process://8"])).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_discovered_while_there_is_no_room_is_taken_in_when_there_is() {
    let links = InProcess::new();
    let node = NodeInfo::new("two".parse().unwrap(), ["in-process://two".parse().unwrap()]);
    let list = Arc::new(StaticList::of_nodes([node.unwrap()]).unwrap());
    let settings = MeshSettings { peers_max: 1, ..quick() };
    let two = linked("two", &links).start(store()).await.unwrap();
    // Somebody takes the only place before the list is looked at.
    let started = linked("one", &links).settings(settings).discovery(Arc::new(Late(list)));
    let one = started.start(store()).await.unwrap();
    let caller = linked("caller", &links).peer("one", ["in-process://one"]);
    let caller = caller.start(store()).await.unwrap();
    both(&caller, &one).await;
    tokio::time::sleep(millis(5_000)).await;
    assert_eq!(one.states().peer("two"), None);
    caller.close().await.unwrap();
    let gone = |states: &MeshStates| states.peer("caller") == Some(&PeerState::Waiting);
    within("it is gone", one.watch().until(gone)).await.unwrap();
    both(&one, &two).await;
}

/// Tells nothing for a second.
struct Late(Arc<StaticList>);

#[async_trait]
impl Discovery for Late {
    async fn announce(&self, node: NodeInfo) -> Result<Announced, DiscoveryError> {
        self.0.announce(node).await
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        tokio::time::sleep(millis(1_000)).await;
        self.0.watch(interest).await
    }
}

#[tokio::test(start_paused = true)]
async fn while_no_address_is_listened_on_what_was_announced_last_stands() {
    let (links, board, end) = (InProcess::new(), Board::new(0), Arc::new(Notify::new()));
    let wandering = Wandering { inner: links.clone(), opened: 0.into(), end: end.clone() };
    let one = Mesh::builder("one")
        .transports(Transports::new().with(wandering))
        .listen("in-process://one")
        .discovery(Arc::new(board.clone()))
        .settings(quick())
        .start(store())
        .await
        .unwrap();
    board.shows(Some(&["in-process://one.0"])).await;
    // Where it would open next somebody else listens.
    let mut taken = Vec::new();
    for nth in 1..200 {
        for at in [format!("in-process://one.0.{nth}"), format!("in-process://one.{nth}")] {
            taken.push(links.listen(&at.parse().unwrap()).await.unwrap());
        }
    }
    end.notify_one();
    let failed = |states: &MeshStates| states.local_addresses().next().is_none();
    within("it fails", one.watch().until(failed)).await.unwrap();
    tokio::time::sleep(millis(2_000)).await;
    assert!(one.states().local_addresses().next().is_none(), "still none");
    assert_eq!(*board.said.borrow(), Some(vec!["in-process://one.0".to_owned()]));
    drop(taken);
    let moved =
        |said: &Option<Vec<String>>| said.as_deref() != Some(&["in-process://one.0".to_owned()]);
    within("it is told", board.said.subscribe().wait_for(moved)).await.unwrap();
}
