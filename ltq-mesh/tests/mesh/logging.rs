//! How much is logged while something goes wrong without end.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use ltq_core::Transport as _;
use ltq_discovery::{
    Announced, Announcement, Discovery, DiscoveryError, Interest, NodeInfo, NodeSet, Watch,
};
use ltq_mesh::{Admission, InboxHandler, MeshName, MeshSettings};
use ltq_transport::{InProcess, Transports};

use tokio::sync::watch;

use crate::{
    finding::{Told, node_at},
    support::*,
};

/// Counts the lines of this crate that an operator sees.
#[derive(Clone, Default)]
struct Lines(Arc<AtomicU64>);

impl Lines {
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO && metadata.target().starts_with("ltq_mesh")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Is never there.
struct Down;

fn is_down<T>() -> Result<T, DiscoveryError> {
    Err(DiscoveryError::Unreachable { backend: "a registry".to_owned(), source: "down".into() })
}

#[async_trait]
impl Discovery for Down {
    async fn announce(&self, _: NodeInfo) -> Result<Announced, DiscoveryError> {
        is_down()
    }

    async fn watch(&self, _: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        is_down()
    }
}

struct Panicking;

#[async_trait]
impl InboxHandler for Panicking {
    async fn accept(&self, _: &MeshName, _: &Bytes) -> Admission {
        panic!("as it was made to")
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_again_and_again_is_logged_once() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let links = InProcess::new();
    let settings = MeshSettings {
        reconnect_interval: millis(10),
        listen_retry_interval: millis(10),
        ..quick()
    };
    let one = linked("one", &links)
        .listen("nothing://there")
        .peer("two", ["in-process://two"])
        .discovery(Arc::new(Down))
        .settings(settings)
        .start(store())
        .await
        .unwrap();
    tokio::time::sleep(millis(120_000)).await;
    // That it listens at one address, and not at the other; the two halves of the discovery.
    assert_eq!(lines.take(), 4);
    one.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn peers_for_which_there_is_no_room_are_told_of_when_that_changes_and_not_at_each_try() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let all = ["two", "three", "four"].map(|name| node_at(name, &format!("in-process://{name}")));
    let all = all.into_iter().flat_map(|nodes| nodes.iter().cloned().collect::<Vec<_>>());
    let (tell, told) = watch::channel(all.collect());
    let settings = MeshSettings { peers_max: 1, reconnect_interval: millis(10), ..quick() };
    let one = linked("one", &InProcess::new())
        .discovery(Arc::new(Told(told)))
        .settings(settings)
        .start(store())
        .await
        .unwrap();
    tokio::time::sleep(millis(1_000)).await;
    // That it listens, and that there is too little room.
    assert_eq!(lines.take(), 2);
    tokio::time::sleep(millis(120_000)).await;
    assert_eq!(lines.take(), 0);
    // Whoever has the place is alone now.
    let name = one.states().peers().keys().next().unwrap().to_string();
    tell.send_replace(node_at(&name, "in-process://nowhere"));
    tokio::time::sleep(millis(120_000)).await;
    assert_eq!(lines.take(), 1, "there is room for all again");
    one.close().await.unwrap();
}

/// Is not there so often at first, whatever it is asked.
struct Late(AtomicU64, watch::Receiver<NodeSet>);

impl Late {
    fn try_it(&self) -> Result<(), DiscoveryError> {
        let left =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| it.checked_sub(1));
        left.map_or(Ok(()), |_| is_down())
    }
}

/// Stays announced.
struct Stays;

#[async_trait]
impl Announcement for Stays {
    async fn update(&mut self, _: NodeInfo) -> Result<(), DiscoveryError> {
        Ok(())
    }

    async fn withdraw(self: Box<Self>) -> Result<(), DiscoveryError> {
        Ok(())
    }
}

#[async_trait]
impl Discovery for Late {
    async fn announce(&self, _: NodeInfo) -> Result<Announced, DiscoveryError> {
        self.try_it().map(|()| Announced::Known(Box::new(Stays)))
    }

    async fn watch(&self, _: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        self.try_it()?;
        let mut told = self.1.clone();
        told.mark_changed();
        Ok(Box::new(Told(told)))
    }
}

#[tokio::test(start_paused = true)]
async fn what_failed_again_and_again_is_logged_once_more_when_it_is_over() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let links = InProcess::new();
    let taken = links.listen(&"in-process://late".parse().unwrap()).await.unwrap();
    let (_tell, told) = watch::channel(NodeSet::default());
    let discovery = Arc::new(Late(20.into(), told));
    let one = linked("one", &links).listen("in-process://late").discovery(discovery);
    let one = one.start(store()).await.unwrap();
    tokio::time::sleep(millis(120)).await;
    // That it listens at one address, and not at the other; the two halves of the discovery.
    assert_eq!(lines.take(), 4);
    tokio::time::sleep(millis(120_000)).await;
    assert_eq!(lines.take(), 2, "both halves are over");
    drop(taken);
    tokio::time::sleep(millis(120_000)).await;
    assert_eq!(lines.take(), 1, "it listens at both addresses");
    one.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_others_can_cause_any_number_of_is_logged_a_few_times_a_second() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let links = InProcess::new();
    let settings = MeshSettings { peers_max: 1, ..quick() };
    let one = linked("one", &links).settings(settings).handler(Panicking);
    let one = one.start(store()).await.unwrap();
    let part = |name: &str, mesh: Option<&str>| {
        ltq_mesh::Mesh::builder(name)
            .mesh(mesh.unwrap_or("mesh"))
            .transports(Transports::new().with(links.clone()))
            .peer("one", ["in-process://one"])
            .settings(MeshSettings { reconnect_interval: millis(10), ..quick() })
            .start(store())
    };
    let two = part("two", None).await.unwrap();
    both(&one, &two).await;
    lines.take();
    let began = tokio::time::Instant::now();
    for _ in 0..1_000 {
        two.send("one", "x").await.unwrap_err();
    }
    // Nobody else finds room, and tries it again and again.
    let _others = [part("three", None).await.unwrap(), part("four", Some("other")).await.unwrap()];
    tokio::time::sleep(millis(30_000)).await;
    let seconds = began.elapsed().as_secs() + 1;
    // Of two kinds, five in a second at most.
    let said = lines.take();
    assert!((5..=10 * seconds).contains(&said), "{said} lines in {seconds} s");
    two.close().await.unwrap();
}
