//! What a watch tells of peers and of addresses.

use ltq_core::Transport as _;
use ltq_mesh::{DownCause, ListenerState, MeshStates, PeerState};
use ltq_transport::InProcess;
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
