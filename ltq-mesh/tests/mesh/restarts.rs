//! Inboxes that survive.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use ltq_core::{Committed, Durability, Effect, Store as _, StoreError, WriteBatch};
use ltq_mesh::{
    Admission, DownCause, InboxHandler, Mesh, MeshName, MeshSettings, MeshStates, PeerState,
    SendError,
};
use ltq_store::{FileStore, FileStoreOptions, MemoryStore};
use ltq_transport::{InProcess, SimulatedNetwork, Weather};
use tokio::sync::{Notify, watch};

use crate::support::*;

async fn files(folder: &tempfile::TempDir) -> FileStore {
    FileStore::open(FileStoreOptions::new(folder.path())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_12_an_inbox_in_files_keeps_what_is_not_acked_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let links = InProcess::new();
    let one = linked("one", &links).peer("two", ["in-process://two"]).start(store()).await.unwrap();
    let two = linked("two", &links).start(files(&folder).await).await.unwrap();
    both(&one, &two).await;
    for text in ["a", "b", "c"] {
        one.send("two", text).await.unwrap();
    }
    two.send("two", "note").await.unwrap();
    let mut inbox = two.inbox().await.unwrap();
    assert_eq!(texts(&mut inbox, 1).await, ["a"]);
    drop(inbox);
    two.close().await.unwrap();
    drop(two);
    let two = linked("two", &links).start(files(&folder).await).await.unwrap();
    both(&one, &two).await;
    one.send("two", "d").await.unwrap();
    two.send("two", "more").await.unwrap();
    let mut inbox = two.inbox().await.unwrap();
    assert_eq!(texts(&mut inbox, 5).await, ["b", "c", "note", "d", "more"]);
}

/// Is asked, and never answers.
struct Silent(Arc<Notify>);

#[async_trait]
impl InboxHandler for Silent {
    async fn accept(&self, _: &MeshName, _: &Bytes) -> Admission {
        self.0.notify_one();
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_6_a_message_on_its_way_to_who_is_restarted_on_its_files_is_stored_once_by_the_next()
 {
    let folder = tempfile::tempdir().unwrap();
    let (links, asked) = (InProcess::new(), Arc::new(Notify::new()));
    let one = linked("one", &links).peer("two", ["in-process://two"]).start(store()).await.unwrap();
    let two = linked("two", &links).start(files(&folder).await).await.unwrap();
    both(&one, &two).await;
    one.send("two", "a").await.unwrap();
    two.close().await.unwrap();
    drop(two);
    let two = linked("two", &links).handler(Silent(asked.clone()));
    let two = two.start(files(&folder).await).await.unwrap();
    both(&one, &two).await;
    let sending = tokio::spawn({
        let one = one.clone();
        async move { one.send("two", "b").await }
    });
    within("it is there", asked.notified()).await;
    two.close().await.unwrap();
    drop(two);
    let two = linked("two", &links).start(files(&folder).await).await.unwrap();
    assert_eq!(within("it is sent", sending).await.unwrap(), Ok(()));
    one.send("two", "c").await.unwrap();
    assert_eq!(texts(&mut two.inbox().await.unwrap(), 3).await, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_15_who_comes_back_and_takes_less_is_not_sent_what_is_too_large_for_it_now() {
    let folder = tempfile::tempdir().unwrap();
    let (links, asked) = (InProcess::new(), Arc::new(Notify::new()));
    let settings = MeshSettings { unacknowledged_messages_max: 1, ..quick() };
    let one = linked("one", &links).peer("two", ["in-process://two"]).settings(settings);
    let one = one.start(store()).await.unwrap();
    let two = linked("two", &links).handler(Silent(asked.clone()));
    let two = two.start(files(&folder).await).await.unwrap();
    both(&one, &two).await;
    // The first is on its way, and the others wait for room.
    let sending = tokio::spawn({
        let one = one.clone();
        async move {
            let bodies = [10_000, 10_000, 10].map(|bytes| one.send("two", vec![b'x'; bytes]));
            futures::future::join_all(bodies).await
        }
    });
    within("it is there", asked.notified()).await;
    two.close().await.unwrap();
    drop(two);
    let less = MeshSettings { message_bytes_max: 1_000, ..quick() };
    let two = linked("two", &links).settings(less).start(files(&folder).await).await.unwrap();
    let too_large = Err(SendError::TooLarge { bytes: 10_000, max: 1_000 });
    let sent = within("they end", sending).await.unwrap();
    assert_eq!(sent, [too_large.clone(), too_large, Ok(())]);
    assert_eq!(texts(&mut two.inbox().await.unwrap(), 1).await, ["xxxxxxxxxx"]);
}

/// The other goes while a message is on its way and stored, and nobody hears that it is.
async fn lose_the_answer(
    network: &SimulatedNetwork,
    one: &Mesh,
    two: &Mesh,
) -> Result<(), SendError> {
    let slow = Weather { delay_min: millis(40), delay_max: millis(40), ..Weather::default() };
    network.set_weather(slow);
    let mut inbox = two.inbox().await.unwrap();
    let sending = one.send("two", "x");
    tokio::pin!(sending);
    let message = tokio::select! {
        _ = &mut sending => panic!("it is answered before it can be"),
        message = inbox.next() => message.unwrap().unwrap(),
    };
    // It goes back into the inbox.
    drop(message);
    network.cut("two", false);
    network.set_weather(Weather::default());
    within("it ends", sending).await
}

#[tokio::test(start_paused = true)]
async fn promise_6_a_message_whose_answer_was_lost_is_stored_once() {
    let network = network();
    let one = hosted("one", &network).peer("two", ["sim://two"]).start(store()).await.unwrap();
    let two = hosted("two", &network).start(store()).await.unwrap();
    both(&one, &two).await;
    assert_eq!(lose_the_answer(&network, &one, &two).await, Ok(()));
    let mut inbox = two.inbox().await.unwrap();
    assert_eq!(next(&mut inbox).await.1, "x");
    assert!(is_empty(&mut inbox).await);
}

/// Takes its time.
struct Slow(MemoryStore);

#[async_trait]
impl ltq_core::StoreLayer for Slow {
    type Inner = MemoryStore;

    fn inner(&self) -> &MemoryStore {
        &self.0
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        tokio::time::sleep(millis(50)).await;
        self.0.commit(batch, durability).await
    }
}

/// Stands still while it is told to.
struct StandingStill(MemoryStore, watch::Receiver<bool>);

#[async_trait]
impl ltq_core::StoreLayer for StandingStill {
    type Inner = MemoryStore;

    fn inner(&self) -> &MemoryStore {
        &self.0
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        let mut stands = self.1.clone();
        drop(stands.wait_for(|stands| !*stands).await);
        self.0.commit(batch, durability).await
    }
}

#[tokio::test(start_paused = true)]
async fn promise_15_what_goes_to_oneself_ends_by_its_deadline_too_and_is_there_once_or_not() {
    let (stands, still) = watch::channel(false);
    let one = Mesh::builder("one").start(StandingStill(store(), still)).await.unwrap();
    one.send("one", "a").await.unwrap();
    stands.send_replace(true);
    let began = tokio::time::Instant::now();
    let sent = futures::future::join_all(["b", "c"].map(|body| one.send("one", body))).await;
    assert_eq!(began.elapsed(), millis(10_000));
    let effects: Vec<_> =
        sent.iter().map(|sent| sent.as_ref().map_err(SendError::effect)).collect();
    assert_eq!(effects, [Err(Effect::Unknown), Err(Effect::Nothing)]);
    stands.send_replace(false);
    one.send("one", "d").await.unwrap();
    let mut inbox = one.inbox().await.unwrap();
    assert_eq!(texts(&mut inbox, 3).await, ["a", "b", "d"]);
    assert!(is_empty(&mut inbox).await);
}

#[tokio::test(start_paused = true)]
async fn who_has_a_store_that_stands_still_says_so_and_is_connected_to_when_it_goes_on() {
    let links = InProcess::new();
    let (stands, still) = watch::channel(false);
    let two = linked("two", &links).start(StandingStill(store(), still)).await.unwrap();
    stands.send_replace(true);
    let one = linked("one", &links).peer("two", ["in-process://two"]).start(store()).await.unwrap();
    let refused = |states: &MeshStates| match states.peer("two") {
        Some(PeerState::Disconnected { cause: DownCause::Refused(why), .. }) => {
            why.contains("its store does not answer")
        }
        _ => false,
    };
    within("it is told", one.watch().until(refused)).await.unwrap();
    stands.send_replace(false);
    both(&one, &two).await;
    one.send("two", "x").await.unwrap();
    assert_eq!(texts(&mut two.inbox().await.unwrap(), 1).await, ["x"]);
}

#[tokio::test(start_paused = true)]
async fn promise_11_who_closes_answers_what_is_being_stored() {
    let links = InProcess::new();
    let one = linked("one", &links).peer("two", ["in-process://two"]).start(store()).await.unwrap();
    let two = linked("two", &links).start(Slow(store())).await.unwrap();
    both(&one, &two).await;
    let sending = tokio::spawn({
        let one = one.clone();
        async move { one.send("two", "x").await }
    });
    tokio::time::sleep(millis(20)).await;
    assert!(!sending.is_finished());
    within("it is closed", two.close()).await.unwrap();
    assert_eq!(within("it is answered", sending).await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_with_another_inbox_is_not_sent_what_the_first_may_have_had() {
    let network = network();
    let one = hosted("one", &network).peer("two", ["sim://two"]).start(store()).await.unwrap();
    let two = hosted("two", &network).start(store()).await.unwrap();
    both(&one, &two).await;
    network.set_weather(Weather {
        delay_min: millis(40),
        delay_max: millis(40),
        ..Weather::default()
    });
    let sending = tokio::spawn({
        let one = one.clone();
        async move { one.send("two", "x").await }
    });
    tokio::time::sleep(millis(20)).await;
    // A process that is killed: nobody says goodbye.
    network.cut("two", false);
    network.set_down("two", true);
    drop(two);
    tokio::time::sleep(millis(200)).await;
    network.set_down("two", false);
    let two = hosted("two", &network).start(store()).await.unwrap();
    let error = within("it ends", sending).await.unwrap().unwrap_err();
    assert_eq!(error, SendError::Forgotten { peer: two.name().clone() });
    both(&one, &two).await;
    one.send("two", "y").await.unwrap();
    assert_eq!(next(&mut two.inbox().await.unwrap()).await.1, "y");
}
