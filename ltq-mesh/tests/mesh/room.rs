//! The room that all peers share.

use std::sync::Arc;

use futures::{future::join_all, poll};
use ltq_core::Effect;
use ltq_mesh::{MeshSettings, SendError};
use ltq_transport::InProcess;
use tokio::sync::Semaphore;

use crate::{sending::Gate, support::*};

/// Room for three messages of 1,000 bytes in all, and for two to each.
fn narrow() -> MeshSettings {
    MeshSettings {
        message_bytes_max: 1_000,
        unacknowledged_bytes_max: 2_000,
        unacknowledged_bytes_total_max: 3 * 1_256,
        peers_max: 2,
        ..quick()
    }
}

#[tokio::test(start_paused = true)]
async fn promise_9_what_is_on_its_way_to_all_peers_together_is_bounded_and_send_waits_for_room() {
    let (links, gate) = (InProcess::new(), Arc::new(Semaphore::new(0)));
    let two = linked("two", &links).handler(Gate(gate.clone())).start(store()).await.unwrap();
    let three = linked("three", &links).handler(Gate(gate.clone())).start(store()).await.unwrap();
    let one = linked("one", &links).peer("two", ["in-process://two"]);
    let one = one.peer("three", ["in-process://three"]).settings(narrow());
    let one = one.start(store()).await.unwrap();
    both(&one, &two).await;
    both(&one, &three).await;
    let send = |to: &'static str, text: &'static str| one.send(to, format!("{text:1000}"));
    let first = join_all([send("two", "a"), send("two", "b"), send("three", "c")]);
    tokio::pin!(first);
    assert!(poll!(&mut first).is_pending());
    {
        let fourth = send("three", "d");
        tokio::pin!(fourth);
        assert!(poll!(&mut fourth).is_pending());
        tokio::time::sleep(millis(100)).await;
        // Given up, it was never sent: there was no room.
    }
    let fifth = send("three", "e");
    tokio::pin!(fifth);
    assert!(poll!(&mut fifth).is_pending());
    gate.add_permits(10);
    assert_eq!(within("all are sent", &mut first).await, [Ok(()), Ok(()), Ok(())]);
    assert_eq!(within("there is room", fifth).await, Ok(()));
    let mut inbox = three.inbox().await.unwrap();
    let texts = texts(&mut inbox, 2).await;
    assert_eq!(texts.iter().map(|text| text.trim_end()).collect::<Vec<_>>(), ["c", "e"]);
    assert!(is_empty(&mut inbox).await);
}

#[tokio::test(start_paused = true)]
async fn promise_15_who_waits_in_vain_for_room_among_all_has_done_nothing_and_a_mute_peer_gives_it_back()
 {
    let network = network();
    let two = hosted("two", &network).start(store()).await.unwrap();
    let three = hosted("three", &network).start(store()).await.unwrap();
    let settings = MeshSettings {
        unacknowledged_bytes_max: 2_000,
        unacknowledged_bytes_total_max: 2_000,
        acknowledgement_timeout: millis(500),
        ..narrow()
    };
    let one = hosted("one", &network).peer("two", ["sim://two"]);
    let one = one.peer("three", ["sim://three"]).settings(settings);
    let one = one.start(store()).await.unwrap();
    both(&one, &two).await;
    both(&one, &three).await;
    // Nothing comes through any more, and nobody is told.
    network.cut("two", true);
    let sends = |to: &'static str| join_all((0..1).map(|_| one.send(to, vec![b'x'; 1_000])));
    let mute = sends("two");
    tokio::pin!(mute);
    assert!(poll!(&mut mute).is_pending());
    tokio::time::sleep(millis(10)).await;
    let effects = |sent: Vec<Result<(), SendError>>| -> Vec<_> {
        sent.iter().map(|sent| sent.clone().map_err(|error| error.effect())).collect()
    };
    let late = tokio::time::timeout(millis(300), sends("three")).await;
    assert!(late.is_err(), "there is no room");
    assert_eq!(effects(within("they end", mute).await), [Err(Effect::Unknown)]);
    // Nobody waits for those any more, and their bodies are gone: others are not held up.
    assert_eq!(effects(within("they are sent", sends("three")).await), [Ok(())]);
}

/// Half of the room belongs to four peers, so that each has some for two messages of its own.
#[tokio::test(start_paused = true)]
async fn promise_10_peers_that_answer_nothing_leave_room_for_what_goes_to_others() {
    let (links, gate) = (InProcess::new(), Arc::new(Semaphore::new(0)));
    let settings = MeshSettings {
        unacknowledged_bytes_max: 8_000,
        unacknowledged_bytes_total_max: 16 * 1_256,
        peers_max: 4,
        ..narrow()
    };
    let mute = ["two", "three", "four"];
    let mut others = Vec::new();
    let mut one = linked("one", &links).settings(settings);
    for name in mute {
        let other = linked(name, &links).handler(Gate(gate.clone())).start(store()).await.unwrap();
        others.push(other);
        one = one.peer(name, [format!("in-process://{name}")]);
    }
    let well = linked("well", &links).start(store()).await.unwrap();
    let one = one.peer("well", ["in-process://well"]).start(store()).await.unwrap();
    for other in &others {
        both(&one, other).await;
    }
    both(&one, &well).await;
    let greedy = mute.iter().flat_map(|name| (0..10).map(|_| one.send(name, vec![b'x'; 1_000])));
    let greedy = join_all(greedy);
    tokio::pin!(greedy);
    assert!(poll!(&mut greedy).is_pending());
    tokio::time::sleep(millis(10)).await;
    let began = tokio::time::Instant::now();
    for _ in 0..50 {
        assert_eq!(one.send("well", vec![b'x'; 1_000]).await, Ok(()));
    }
    assert!(began.elapsed() < millis(1_000), "nobody's time had to end for it");
    // Who had to wait for room is served when there is some.
    gate.add_permits(30);
    assert_eq!(within("all are sent", greedy).await, vec![Ok(()); 30]);
}

#[tokio::test(start_paused = true)]
async fn promise_9_what_is_on_its_way_to_one_peer_is_bounded_by_number_and_by_bytes() {
    let room = MeshSettings { message_bytes_max: 1_000, ..quick() };
    let by_number = MeshSettings { unacknowledged_messages_max: 2, ..room.clone() };
    let by_bytes = MeshSettings { unacknowledged_bytes_max: 2_000, ..room };
    for settings in [by_number, by_bytes] {
        let (links, gate) = (InProcess::new(), Arc::new(Semaphore::new(0)));
        let two = linked("two", &links).handler(Gate(gate.clone())).start(store()).await.unwrap();
        let one = linked("one", &links).peer("two", ["in-process://two"]).settings(settings);
        let one = one.start(store()).await.unwrap();
        both(&one, &two).await;
        let send = |text: &'static str| one.send("two", format!("{text:1000}"));
        let first = join_all([send("a"), send("b")]);
        tokio::pin!(first);
        assert!(poll!(&mut first).is_pending());
        {
            let third = send("c");
            tokio::pin!(third);
            assert!(poll!(&mut third).is_pending());
            tokio::time::sleep(millis(100)).await;
            // Given up, it was never sent: there was no room.
        }
        gate.add_permits(10);
        assert_eq!(within("they are sent", &mut first).await, [Ok(()), Ok(())]);
        assert_eq!(within("there is room", send("d")).await, Ok(()));
        let mut inbox = two.inbox().await.unwrap();
        let texts = texts(&mut inbox, 3).await;
        assert_eq!(texts.iter().map(|text| text.trim_end()).collect::<Vec<_>>(), ["a", "b", "d"]);
        assert!(is_empty(&mut inbox).await);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_sent_than_the_other_takes_where_that_is_less_than_one_may_send() {
    let room = MeshSettings { message_bytes_max: 1_000, ..quick() };
    let by_number = MeshSettings { unacknowledged_messages_max: 2, ..room.clone() };
    let by_bytes = MeshSettings { unacknowledged_bytes_max: 2_000, ..room };
    for settings in [by_number, by_bytes] {
        let (links, gate) = (InProcess::new(), Arc::new(Semaphore::new(0)));
        let two = linked("two", &links).settings(settings).handler(Gate(gate.clone()));
        let two = two.start(store()).await.unwrap();
        let one = linked("one", &links).peer("two", ["in-process://two"]);
        let one = one.start(store()).await.unwrap();
        both(&one, &two).await;
        let mut watch = one.watch();
        watch.changed().await;
        let sends = join_all((0..20).map(|n| one.send("two", format!("{n:1000}"))));
        tokio::pin!(sends);
        assert!(poll!(&mut sends).is_pending());
        tokio::time::sleep(millis(100)).await;
        gate.add_permits(20);
        assert_eq!(within("all are sent", sends).await, vec![Ok(()); 20]);
        assert!(poll!(std::pin::pin!(watch.changed())).is_pending(), "nobody was cut for it");
        assert_eq!(texts(&mut two.inbox().await.unwrap(), 20).await.len(), 20);
    }
}
