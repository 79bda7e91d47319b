//! Peers that say what is not so, and peers that come and go when nobody counts on it.

use std::collections::BTreeMap;

use super::*;

#[tokio::test(start_paused = true)]
async fn promise_6_who_sent_is_remembered_for_more_senders_than_there_are_peers() {
    let links = InProcess::new();
    // As few as can be asked of the broker alone.
    let mut settings = MeshSettings { peers_max: 3, ..settings() };
    settings.broker.model.producers_known_max = 1;
    let mesh = mesh(&links, settings).await;
    let leave = async |raw: Raw, name: &str| {
        drop(raw);
        let gone = |states: &MeshStates| !states.is_connected(name);
        within("it is gone", mesh.watch().until(gone)).await.expect("open");
    };
    let (mut raw, stored) = Raw::join(&links, "first", 7).await;
    assert_eq!(stored, 0);
    raw.say(&resume(0)).await;
    raw.message(1, "a").await;
    assert_eq!(raw.hear().await.expect("an answer").0, Say::Stored { through: 1 });
    leave(raw, "first").await;
    for (name, dialer) in [("second", 8), ("second", 9), ("first", 10)] {
        let (mut raw, _) = Raw::join(&links, name, dialer).await;
        raw.say(&resume(0)).await;
        within("it is up", mesh.connected(name)).await.expect("open");
        leave(raw, name).await;
    }
    let mut raw = Raw::connect(&links).await;
    raw.say(&hello("first", 7, 2, None)).await;
    assert!(matches!(raw.hear().await.expect("a welcome").0, Say::Welcome { .. }));
    let Say::Resume { stored, .. } = raw.hear().await.expect("a state").0 else { panic!() };
    assert_eq!(stored, 1, "else it would send the message again, and have it stored twice");
}

#[tokio::test(start_paused = true)]
async fn promise_10_names_and_words_of_any_length_are_refused_in_few_words() {
    let links = InProcess::new();
    let mesh = mesh(&links, settings()).await;
    for from in [String::new(), "x".repeat(65), "x".repeat(3_000), "ä\n".repeat(700)] {
        let mut raw = Raw::connect(&links).await;
        raw.say(&hello(&from, 1, 1, None)).await;
        let (farewell, detail) = raw.goodbye().await;
        assert!(farewell == Farewell::Protocol && detail.len() < 400, "{detail}");
    }
    let mut raw = Raw::connect(&links).await;
    let long = hello("them", 1, 1, Some(&"t".repeat(3_900)));
    raw.say(&long).await;
    let (farewell, _) = raw.goodbye_or_welcome().await;
    assert_eq!(farewell, None, "everybody may come in here, whatever the token");
    assert_eq!(mesh.states().peers().len(), 1);
    serves(&mesh, &links).await;
}

#[tokio::test(start_paused = true)]
async fn promise_10_counts_that_go_backwards_or_beyond_are_found_out_or_harm_the_liar_alone() {
    let links = InProcess::new();
    let mesh = mesh(&links, settings()).await;
    for (nth, stored) in (1..).zip([u64::MAX, 5, 0, u64::MAX - 1, 3]) {
        let mut raw = Raw::connect(&links).await;
        raw.say(&hello("liar", 1, nth, None)).await;
        assert!(matches!(raw.hear().await.expect("a welcome").0, Say::Welcome { .. }));
        assert!(matches!(raw.hear().await.expect("a state").0, Say::Resume { .. }));
        raw.say(&Say::Resume {
            inbox: 7,
            stored,
            messages_max: u64::MAX,
            bytes_max: u64::MAX,
            message_bytes_max: u32::MAX,
            patience_ms: u64::MAX,
        })
        .await;
        let resumed = |states: &MeshStates| states.is_connected("liar");
        within("it is up", mesh.watch().until(resumed)).await.expect("open");
        let sending = tokio::spawn({
            let mesh = mesh.clone();
            async move {
                futures::future::join_all(["a", "b"].map(|text| mesh.send("liar", text))).await
            }
        });
        for number in 1..=2 {
            let (say, _) = raw.hear().await.expect("a message");
            assert_eq!(say, Say::Message { number }, "numbers begin anew");
        }
        raw.say(&Say::Stored { through: 2 }).await;
        let sent = within("they are answered", sending).await.expect("no panic");
        assert_eq!(sent, [Ok(()), Ok(())]);
        // And backwards.
        raw.say(&Say::Stored { through: 1 }).await;
        let (farewell, detail) = raw.goodbye().await;
        assert!(farewell == Farewell::Protocol && detail.contains("message 1"), "{detail}");
    }
    // A message counts up by one, or its sender is cut.
    for (nth, numbers) in (10..).zip([&[1, 1][..], &[2], &[1, 3], &[u64::MAX], &[0]]) {
        let mut raw = Raw::connect(&links).await;
        raw.say(&hello("liar", 1, nth, None)).await;
        assert!(matches!(raw.hear().await.expect("a welcome").0, Say::Welcome { .. }));
        assert!(matches!(raw.hear().await.expect("a state").0, Say::Resume { .. }));
        raw.say(&resume(0)).await;
        for number in numbers {
            raw.message(*number, "x").await;
        }
        let (farewell, detail) = raw.goodbye().await;
        assert!(farewell == Farewell::Protocol && detail.contains("is next"), "{detail}");
    }
    serves(&mesh, &links).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_listed_or_calls_at_the_last_moment_is_not_forgotten() {
    let links = InProcess::new();
    let mesh = mesh(&links, settings()).await;
    let shared = mesh.shared();
    let (raw, _) = Raw::join(&links, "late", 1).await;
    drop(raw);
    let waits = |states: &MeshStates| states.peer("late") == Some(&PeerState::Waiting);
    within("it is gone", mesh.watch().until(waits)).await.expect("open");
    let late = shared.peer("late").expect("it is known");
    assert!(!shared.forget(&late, || true), "somebody calls");
    let at = Address::new("in-process", "late");
    let listed = BTreeMap::from([("late".parse().expect("a name"), vec![at])]);
    assert!(shared.found(&listed).is_empty(), "there is room");
    assert!(!shared.forget(&late, || false), "it is listed since");
    assert!(shared.found(&BTreeMap::new()).is_empty());
    assert!(shared.forget(&late, || false));
    assert!(shared.peer("late").is_none() && mesh.states().peer("late").is_none());
    // Who had it in hand already is not told that the mesh is closed.
    let error =
        late.send(Bytes::from("x"), Duration::from_secs(1)).await.expect_err("not connected");
    assert!(matches!(error, SendError::NotConnected { .. }), "{error:?}");
}
