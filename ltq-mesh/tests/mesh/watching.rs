//! What a watch tells of peers and of addresses.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Listener, Transport, TransportError};
use ltq_mesh::{DownCause, ListenerState, MeshStates, PeerState};
use ltq_transport::{InProcess, Transports};
use tokio::time::Instant;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn of_a_peer_is_told_what_it_is_doing_why_it_is_down_and_when_it_is_tried_again() {
    let links = InProcess::new();
    let one = linked("one", &links).peer("two", ["in-process://two"]);
    let one = one.start(store()).await.unwrap();
    let mut watch = one.watch();
    let mut due = None;
    for failed in 1..5 {
        let is_down = |states: &MeshStates| match states.peer("two") {
            Some(PeerState::Disconnected { failures, .. }) => *failures == failed,
            _ => false,
        };
        let states = within("it is down", watch.until(is_down)).await.unwrap();
        let Some(PeerState::Disconnected { cause, retry_in, .. }) = states.peer("two") else {
            panic!("{states:?}")
        };
        assert!(matches!(cause, DownCause::Unreachable(why) if why.contains("two")), "{cause:?}");
        assert!((millis(20)..=millis(40)).contains(retry_in), "{retry_in:?}");
        // It was tried again when that was said, and not before.
        if let Some(due) = due.replace(Instant::now() + *retry_in) {
            let late = Instant::now().checked_duration_since(due).expect("not before");
            assert!(late <= millis(2), "{late:?}");
        }
    }
    // Somebody is there, and says nothing.
    let mute = links.listen(&"in-process://two".parse().unwrap()).await.unwrap();
    let connecting = |states: &MeshStates| match states.peer("two") {
        Some(PeerState::Connecting { attempt }) => *attempt == 5,
        _ => false,
    };
    within("it is connected to", watch.until(connecting)).await.unwrap();
    drop(mute);
    let two = linked("two", &links).start(store()).await.unwrap();
    let connected = |states: &MeshStates| {
        matches!(states.peer("two"), Some(PeerState::Connected { is_ours: true, .. }))
    };
    within("they connect", watch.until(connected)).await.unwrap();
    // Who has no address is waited for once it is gone.
    let theirs = |states: &MeshStates| {
        matches!(states.peer("one"), Some(PeerState::Connected { is_ours: false, .. }))
    };
    within("they connect", two.watch().until(theirs)).await.unwrap();
    // A connection that is lost is no attempt that failed.
    two.close().await.unwrap();
    let lost = |states: &MeshStates| match states.peer("two") {
        Some(PeerState::Disconnected { failures, cause, .. }) => {
            *failures == 0 && *cause == DownCause::Stopping
        }
        _ => false,
    };
    within("it is lost", watch.until(lost)).await.unwrap();
    let two = linked("two", &links).start(store()).await.unwrap();
    within("they connect", two.watch().until(theirs)).await.unwrap();
    one.close().await.unwrap();
    let waits = |states: &MeshStates| states.peer("one") == Some(&PeerState::Waiting);
    within("it is waited for", two.watch().until(waits)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_an_address_is_told_whether_it_is_listened_on_why_not_and_when_it_is_tried_again() {
    let links = InProcess::new();
    let taken = links.listen(&"in-process://two".parse().unwrap()).await.unwrap();
    let one = linked("one", &links).listen("in-process://two").start(store()).await.unwrap();
    let state = |states: &MeshStates, nth: usize| states.listeners()[nth].1.clone();
    let opened = |states: &MeshStates| {
        matches!(state(states, 0), ListenerState::Listening(_))
            && matches!(state(states, 1), ListenerState::Failed { .. })
    };
    let states = within("one is open", one.watch().until(opened)).await.unwrap();
    assert_eq!(state(&states, 0), ListenerState::Listening("in-process://one".parse().unwrap()));
    let ListenerState::Failed { why, retry_in } = state(&states, 1) else { panic!("{states:?}") };
    assert!(why.contains("in-process://two") && retry_in <= millis(40), "{why}: {retry_in:?}");
    drop(taken);
    let began = Instant::now();
    let both_open = |states: &MeshStates| states.local_addresses().count() == 2;
    within("both are open", one.watch().until(both_open)).await.unwrap();
    assert!(began.elapsed() <= millis(41), "{:?}", began.elapsed());
}

/// Has listeners that fail so often in a row, and then take in one call, as the numbers say that are left.
struct Failing {
    inner: InProcess,
    listens: Arc<AtomicU32>,
    accepts: Arc<AtomicU32>,
}

struct FailingListener {
    inner: Box<dyn Listener>,
    left: u32,
    accepts: Arc<AtomicU32>,
}

#[async_trait]
impl Transport for Failing {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let inner = self.inner.listen(address).await?;
        // The first one recovers time and again, and the second one never does.
        let left = if self.listens.fetch_add(1, Ordering::Relaxed) == 0 { 9 } else { u32::MAX };
        Ok(Box::new(FailingListener { inner, left, accepts: self.accepts.clone() }))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        self.inner.connect(address).await
    }
}

#[async_trait]
impl Listener for FailingListener {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        self.accepts.fetch_add(1, Ordering::Relaxed);
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            let source = io::Error::other("too many open files");
            return Err(TransportError::Io { doing: "taking in a call".to_owned(), source });
        }
        self.left = 9;
        self.inner.accept().await
    }

    fn local_address(&self) -> Address {
        self.inner.local_address()
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_takes_nothing_in_is_borne_with_for_a_second_and_then_opened_again() {
    let links = InProcess::new();
    let (listens, accepts) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
    let failing =
        Failing { inner: links.clone(), listens: listens.clone(), accepts: accepts.clone() };
    let part = ltq_mesh::Mesh::builder("one").transports(Transports::new().with(failing));
    let one = part.listen("in-process://one").settings(quick()).start(store()).await.unwrap();
    // Nine failures before each call are none that ends it.
    for name in ["two", "three", "four"] {
        let other = linked(name, &links).peer("one", ["in-process://one"]);
        both(&other.start(store()).await.unwrap(), &one).await;
    }
    assert_eq!(listens.load(Ordering::Relaxed), 1, "it was never opened again");
    one.close().await.unwrap();
    // The next one recovers never.
    accepts.store(0, Ordering::Relaxed);
    let failing = Failing { inner: links, listens: listens.clone(), accepts: accepts.clone() };
    let part = ltq_mesh::Mesh::builder("five").transports(Transports::new().with(failing));
    let began = Instant::now();
    let five = part.listen("in-process://five").settings(quick()).start(store()).await.unwrap();
    let failed = |states: &MeshStates| match &states.listeners()[0].1 {
        ListenerState::Failed { why, .. } => why.contains("too many open files"),
        _ => false,
    };
    within("it is told", five.watch().until(failed)).await.unwrap();
    assert_eq!(accepts.load(Ordering::Relaxed), 10);
    assert!((millis(900)..millis(1_000)).contains(&began.elapsed()), "{:?}", began.elapsed());
    let again = async {
        while listens.load(Ordering::Relaxed) < 3 {
            tokio::time::sleep(millis(1)).await;
        }
    };
    within("it is opened again", again).await;
}
