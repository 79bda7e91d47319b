//! How programs find together, and what is in their way.

use futures::future::join_all;
use ltq_core::{Address, Transport};
use ltq_mesh::{DownCause, ListenerState, Mesh, MeshSettings, MeshStates, PeerState, SendError};
use ltq_store::MemoryStore;
use ltq_transport::{InProcess, Tcp, Transports, Weather};

use crate::support::*;

fn is_ours(mesh: &Mesh, peer: &str) -> Option<bool> {
    match mesh.states().peer(peer) {
        Some(PeerState::Connected { is_ours, .. }) => Some(*is_ours),
        _ => None,
    }
}

fn refused_as(cause: DownCause, peer: &'static str) -> impl Fn(&MeshStates) -> bool {
    move |states| matches!(states.peer(peer), Some(PeerState::Disconnected { cause: it, .. }) if *it == cause)
}

#[tokio::test(start_paused = true)]
async fn of_two_that_dial_each_other_at_one_instant_one_connection_is_left() {
    for delay in 0..12 {
        let network = network();
        let far = Weather {
            delay_min: millis(delay),
            delay_max: millis(2 * delay),
            ..Weather::default()
        };
        network.set_weather(far);
        // Where both listen by then, nobody has to try twice.
        let interval = if delay == 0 { millis(40) } else { millis(3_600_000) };
        let settings = MeshSettings { reconnect_interval: interval, ..quick() };
        let one = hosted("one", &network).peer("two", ["sim://two"]).settings(settings.clone());
        let two = hosted("two", &network).peer("one", ["sim://one"]).settings(settings);
        let (one, two) = tokio::join!(one.start(store()), two.start(store()));
        let (one, two) = (one.unwrap(), two.unwrap());
        both(&one, &two).await;
        let ours = is_ours(&one, "two").unwrap();
        assert_eq!(is_ours(&two, "one"), Some(!ours), "it is one connection");
        // It stays, and carries everything both ways.
        let mut watch = one.watch();
        watch.changed().await;
        for _ in 0..20 {
            let sent = join_all([one.send("two", "x"), two.send("one", "y")]);
            assert_eq!(within("both are sent", sent).await, [Ok(()), Ok(())]);
            tokio::time::sleep(millis(100)).await;
        }
        assert!(futures::poll!(std::pin::pin!(watch.changed())).is_pending());
    }
}

#[tokio::test(start_paused = true)]
async fn who_brings_the_wrong_token_is_not_let_in_and_is_told_so() {
    let links = InProcess::new();
    let two = linked("two", &links).token("secret").start(store()).await.unwrap();
    for token in [Some("guess"), None] {
        let mut one = linked("one", &links).peer("two", ["in-process://two"]);
        if let Some(token) = token {
            one = one.token(token);
        }
        let one = one.start(store()).await.unwrap();
        let refused = refused_as(DownCause::Unauthenticated, "two");
        within("it is refused", one.watch().until(refused)).await.unwrap();
        let error = one.send("two", "x").await.unwrap_err();
        assert_eq!(error, SendError::Unauthenticated { peer: two.name().clone() });
        assert_eq!(two.states().peers().len(), 0, "nobody is known by it");
        one.close().await.unwrap();
    }
    let one = linked("one", &links).peer("two", ["in-process://two"]).token("secret");
    both(&one.start(store()).await.unwrap(), &two).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_leads_to_another_program_or_mesh_is_refused() {
    let links = InProcess::new();
    let _two = linked("two", &links).start(store()).await.unwrap();
    let _four = linked("four", &links).mesh("other").start(store()).await.unwrap();
    let one = linked("one", &links)
        .peer("three", ["in-process://two"])
        .peer("four", ["in-process://four"])
        .start(store())
        .await
        .unwrap();
    for (peer, why) in [("three", "this is two"), ("four", "the mesh \"other\"")] {
        let is_refused = |states: &MeshStates| match states.peer(peer) {
            Some(PeerState::Disconnected { cause: DownCause::Refused(words), .. }) => {
                words.contains(why)
            }
            _ => false,
        };
        within(why, one.watch().until(is_refused)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_process_of_one_name_does_not_take_it_from_the_first() {
    let network = network();
    let two = hosted("two", &network).start(store()).await.unwrap();
    let one = |host: &str| {
        Mesh::builder("one")
            .transports(Transports::new().with(network.host(host)))
            .peer("two", ["sim://two"])
            .settings(quick())
            .start(store())
    };
    let first = one("a").await.unwrap();
    both(&first, &two).await;
    let second = one("b").await.unwrap();
    let refused = refused_as(DownCause::NameTaken, "two");
    within("it is refused", second.watch().until(refused)).await.unwrap();
    let error = second.send("two", "x").await.unwrap_err();
    assert!(
        matches!(error, SendError::NotConnected { cause: DownCause::NameTaken, .. }),
        "{error:?}"
    );
    tokio::time::sleep(millis(60_000)).await;
    first.send("two", "y").await.unwrap();
    // When the first is gone and nobody was told, the second need not wait for the whole read timeout.
    network.cut("a", true);
    network.set_down("a", true);
    let began = tokio::time::Instant::now();
    both(&second, &two).await;
    assert!(began.elapsed() < millis(7_000), "{:?}", began.elapsed());
    second.send("two", "z").await.unwrap();
    assert_eq!(texts(&mut two.inbox().await.unwrap(), 2).await, ["y", "z"]);
}

#[tokio::test(start_paused = true)]
async fn who_has_lost_a_connection_is_let_in_at_once_by_who_has_not_found_out_whoever_dialed() {
    for first in ["one", "two"] {
        let network = network();
        let one = hosted("one", &network).peer("two", ["sim://two"]);
        let two = hosted("two", &network).peer("one", ["sim://one"]);
        // This one finds out soon, and the other one when it asks for a sign of life, after 5 s.
        let one = one.settings(MeshSettings { read_timeout: millis(300), ..quick() });
        // Who is there first dials in vain, and the other one makes the connection.
        let slowly = MeshSettings { reconnect_interval: millis(1_000), ..quick() };
        let (one, two) = match first {
            "one" => {
                let one = one.settings(MeshSettings { read_timeout: millis(300), ..slowly });
                let one = one.start(store()).await.unwrap();
                tokio::time::sleep(millis(10)).await;
                (one, two.start(store()).await.unwrap())
            }
            _ => {
                let two = two.settings(slowly).start(store()).await.unwrap();
                tokio::time::sleep(millis(10)).await;
                (one.start(store()).await.unwrap(), two)
            }
        };
        both(&one, &two).await;
        assert_eq!(is_ours(&one, "two"), Some(first == "two"));
        network.cut("one", true);
        let mut watch = one.watch();
        let lost = |states: &MeshStates| !states.is_connected("two");
        within("one finds out", watch.until(lost)).await.unwrap();
        assert!(two.states().is_connected("one"), "two has not");
        let began = tokio::time::Instant::now();
        // Its next attempt follows within the interval, and there need be no other one.
        within("they connect", one.connected("two")).await.unwrap();
        assert!(began.elapsed() < millis(3_000), "{:?}", began.elapsed());
        one.send("two", "x").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_is_cut_after_the_read_timeout_and_one_that_is_quiet_is_not() {
    let network = network();
    let settings = MeshSettings { read_timeout: millis(900), ..quick() };
    let one = hosted("one", &network).peer("two", ["sim://two"]).settings(settings);
    let one = one.start(store()).await.unwrap();
    let two = hosted("two", &network).start(store()).await.unwrap();
    both(&one, &two).await;
    let mut watch = one.watch();
    watch.changed().await;
    tokio::time::sleep(millis(60_000)).await;
    assert!(futures::poll!(std::pin::pin!(watch.changed())).is_pending(), "it is only quiet");
    let began = tokio::time::Instant::now();
    network.set_down("two", true);
    network.cut("two", true);
    let silent = |states: &MeshStates| {
        matches!(
            states.peer("two"),
            Some(PeerState::Disconnected { cause: DownCause::Silent(_), .. })
        )
    };
    within("it is cut", watch.until(silent)).await.unwrap();
    assert!(began.elapsed() <= millis(900), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_cannot_be_opened_is_tried_again_while_the_mesh_sends() {
    let links = InProcess::new();
    let two = linked("two", &links).start(store()).await.unwrap();
    let taken = links.listen(&"in-process://one".parse().unwrap()).await.unwrap();
    let one = linked("one", &links).peer("two", ["in-process://two"]).start(store()).await.unwrap();
    let failed = |states: &MeshStates| match &states.listeners()[0].1 {
        ListenerState::Failed { why, .. } => why.contains("in-process://one"),
        _ => false,
    };
    within("it fails", one.watch().until(failed)).await.unwrap();
    both(&one, &two).await;
    one.send("two", "x").await.unwrap();
    let three =
        linked("three", &links).peer("one", ["in-process://one"]).start(store()).await.unwrap();
    drop(taken);
    both(&three, &one).await;
    assert_eq!(one.local_addresses(), ["in-process://one".parse::<Address>().unwrap()]);
}

#[tokio::test]
async fn over_tcp_a_port_of_the_systems_choice_is_told_and_a_taken_one_is_tried_again() {
    let tcp = || Transports::new().with(Tcp::default());
    let on =
        |name: &str, at: &str| Mesh::builder(name).transports(tcp()).settings(quick()).listen(at);
    let two = on("two", "tcp://127.0.0.1:0").start(store()).await.unwrap();
    let listening = |states: &MeshStates| states.local_addresses().next().is_some();
    within("it listens", two.watch().until(listening)).await.unwrap();
    let at = two.local_addresses().remove(0).to_string();
    let late = on("late", &at).start(store()).await.unwrap();
    let failed =
        |states: &MeshStates| matches!(&states.listeners()[0].1, ListenerState::Failed { .. });
    within("it fails", late.watch().until(failed)).await.unwrap();
    let one =
        on("one", "tcp://127.0.0.1:0").peer("two", [at.clone()]).start(store()).await.unwrap();
    both(&one, &two).await;
    one.send("two", vec![7; 1 << 20]).await.unwrap();
    two.close().await.unwrap();
    within("it listens", late.watch().until(listening)).await.unwrap();
    assert_eq!(late.local_addresses()[0].to_string(), at);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_not_configured_may_call_and_is_forgotten_some_time_after_it_went() {
    let links = InProcess::new();
    let two = linked("two", &links).start(store()).await.unwrap();
    let one = Mesh::builder("one")
        .transports(Transports::new().with(links.clone()))
        .peer("two", ["in-process://two"])
        .start(store())
        .await
        .unwrap();
    both(&one, &two).await;
    two.send("one", "x").await.unwrap();
    one.close().await.unwrap();
    let waits = |states: &MeshStates| states.peer("one") == Some(&PeerState::Waiting);
    within("it is gone", two.watch().until(waits)).await.unwrap();
    assert!(matches!(two.send("one", "y").await, Err(SendError::NotConnected { .. })));
    let began = tokio::time::Instant::now();
    within("it is forgotten", two.watch().until(|states| states.peer("one").is_none()))
        .await
        .unwrap();
    assert!(began.elapsed() >= millis(25_000), "the two timeouts: {:?}", began.elapsed());
    assert!(matches!(two.send("one", "y").await, Err(SendError::NoSuchPeer { .. })));
}

#[tokio::test]
async fn a_mesh_that_cannot_be_is_refused_with_what_is_wrong() {
    let start =
        |builder: ltq_mesh::MeshBuilder| async { builder.start(MemoryStore::new(1 << 20)).await };
    let settings = |settings| Mesh::builder("a").settings(settings);
    for (builder, why) in [
        (Mesh::builder("a b"), "\"a b\" is no name in a mesh"),
        (Mesh::builder("a").peer("", ["tcp://a:1"]), "is empty"),
        (Mesh::builder("a").peer("a", ["tcp://a:1"]), "both our name and a peer's"),
        (Mesh::builder("a").peer("b", ["://"]), "\"://\" is no address"),
        (Mesh::builder("a").listen("tcp://"), "\"tcp://\" is no address"),
        (Mesh::builder("a").advertise(""), "\"\" is no address"),
        (Mesh::builder("a").token(""), "a token of 0 bytes"),
        (Mesh::builder("a").mesh("x y"), "name of the mesh"),
        (Mesh::builder("a").mesh("x#ephemeral"), "name of the mesh"),
        (Mesh::builder("a").mesh(&"x".repeat(49)), "has 49 bytes"),
        (settings(MeshSettings { peers_max: 0, ..quick() }), "peers_max is 0"),
        (
            settings(MeshSettings { peers_max: 1, ..quick() })
                .peer("b", ["tcp://b:1"])
                .peer("c", ["tcp://c:1"]),
            "at least the 2 peers",
        ),
    ] {
        let error = start(builder).await.expect_err(why).to_string();
        assert!(error.contains(why), "{error} is not {why}");
    }
}
