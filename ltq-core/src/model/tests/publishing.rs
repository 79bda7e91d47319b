//! Sequences, epochs, durability, and what producers are told.

use crate::{
    Durability, TopicSettings, WriteOp,
    model::{
        Event, ModelSettings, ProducerId, SessionId,
        testing::{World, consumer, failed, full, producer, records},
    },
};

/// What a second session calls its producer.
fn other(handle: u32) -> ProducerId {
    ProducerId { session: SessionId(2), handle }
}

#[test]
fn the_first_commit_makes_the_topic_with_what_was_published() {
    let mut world = World::new();
    world.tell(Event::OpenProducer { producer: producer(1), name: None, epoch: None, seat: None });
    world.tell_publish(1, 1, 2);
    world.tell_publish(1, 3, 1);
    assert!(world.topic.poll_timeout().is_none());
    world.run();
    world.expect(&["p1 open epoch 0 last 0 disk", "p1 confirmed 1+3@0 disk"]);
    assert_eq!(world.commits.len(), 1);
    let ops = world.commits[0].1.ops();
    assert!(matches!(
        ops,
        [WriteOp::CreateLog { .. }, WriteOp::Put { .. }, WriteOp::Append { .. }]
    ));
    assert_eq!(world.topic.bounds(), world.stored.bounds());
}

#[test]
fn promise_1_nothing_is_confirmed_or_seen_before_its_commit() {
    let mut world = World::ready();
    world.subscribe(1, "c", 10);
    world.said.clear();
    world.hold_commits = true;
    world.publish(1, 1, 2);
    world.publish(1, 3, 2);
    world.expect(&[]);
    assert_eq!(world.stats("c").waiting, 0);
    world.commit();
    world.expect(&["p1 confirmed 1+2@0 disk", "c1 got 0-1 tag 1 try 1"]);
    world.commit();
    world.expect(&["p1 confirmed 3+2@2 disk", "c1 got 2-3 tag 3 try 1"]);
}

#[test]
fn publishes_of_all_producers_become_one_commit_and_one_run() {
    let mut world = World::ready();
    world.open(2);
    world.subscribe(1, "c", 100);
    world.said.clear();
    let before = world.commits.len();
    for sequence in 1..=3 {
        world.tell_publish(1, sequence, 1);
        world.tell_publish(2, 2 * sequence - 1, 2);
    }
    world.run();
    world.expect(&[
        "p1 confirmed 1+1@0 2+1@3 3+1@6 disk",
        "p2 confirmed 1+2@1 3+2@4 5+2@7 disk",
        "c1 got 0-8 tag 1 try 1",
    ]);
    assert_eq!(world.commits.len(), before + 1);
    let bodies: Vec<_> = world.stored.bodies().into_iter().map(|(_, body)| body).collect();
    let expected = ["p1-1", "p2-1", "p2-2", "p1-2", "p2-3", "p2-4", "p1-3", "p2-5", "p2-6"];
    assert_eq!(bodies, expected);
}

#[test]
fn large_publishes_are_not_copied() {
    let mut world = World::ready();
    let large = crate::Records::encode(&[crate::Message::new(vec![7; 20_000])]);
    world.hold_commits = true;
    world.tell_publish(1, 1, 1);
    let publish = |sequence| Event::Publish {
        producer: producer(1),
        sequence,
        durability: None,
        records: large.clone(),
    };
    world.tell(publish(2));
    world.tell(publish(3));
    world.tell_publish(1, 4, 1);
    world.tell_publish(1, 5, 1);
    world.run();
    let (batch, _) = world.commit.as_ref().unwrap();
    let appended = batch.ops().iter().filter_map(|op| match op {
        WriteOp::Append { at, records, .. } => Some((at.0, records)),
        _ => None,
    });
    let appended: Vec<_> = appended.collect();
    assert_eq!(appended.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(appended[1].1.payload().as_ptr(), large.payload().as_ptr());
    assert_eq!(appended[3].1.count(), 2);
    world.commit();
    world.expect(&["p1 confirmed 1+5@0 disk"]);
}

#[test]
fn promise_6_a_repeat_is_confirmed_and_not_stored_again() {
    let mut world = World::ready();
    world.publish(1, 1, 5);
    world.said.clear();
    world.publish(1, 2, 3);
    world.expect(&["p1 confirmed 2+3@1 disk"]);
    world.publish(1, 4, 4);
    world.expect(&["p1 confirmed 4+4@3 disk"]);
    assert_eq!(world.stored.bounds().end.0, 7);
    let stats = world.topic.stats();
    assert_eq!((stats.published, stats.duplicates, stats.refused), (7, 5, 0));
}

#[test]
fn promise_6_a_repeat_is_confirmed_only_when_the_original_is_committed() {
    let mut world = World::ready();
    world.hold_commits = true;
    world.tell_publish(1, 1, 2);
    world.tell_publish(1, 1, 2);
    world.run();
    world.publish(1, 2, 1);
    world.expect(&[]);
    world.commit();
    world.expect(&["p1 confirmed 1+2@0 1+2@0 disk", "p1 confirmed 2+1@1 disk"]);
    assert_eq!(world.stored.bounds().end.0, 2);

    world.tell_publish(1, 3, 2);
    world.tell_publish(1, 2, 2);
    world.run();
    world.fail(full());
    world.expect(&[
        "p1 refused 3+2: store_full",
        "p1 confirmed 2+1@1 disk",
        "p1 refused 3+1: store_full",
    ]);
}

#[test]
fn what_does_not_follow_is_refused_in_order() {
    let mut world = World::ready();
    world.hold_commits = true;
    world.tell_publish(1, 1, 1);
    world.tell_publish(1, 3, 2);
    world.tell_publish(1, 2, 1);
    world.run();
    world.expect(&[]);
    world.commit();
    world.expect(&[
        "p1 confirmed 1+1@0 disk",
        "p1 refused 3+2: sequence_gap",
        "p1 confirmed 2+1@1 disk",
    ]);
    world.publish(1, 9, 1);
    world.expect(&["p1 refused 9+1: sequence_gap"]);
    world.publish(1, 0, 1);
    world.expect(&["p1 refused 0+1: out_of_range"]);
    world.tell_publish(1, u64::MAX, 0);
    let records = records("x", 1, 5);
    let sequence = u64::MAX - 2;
    world.event(Event::Publish { producer: producer(1), sequence, durability: None, records });
    let said = world.said();
    assert!(said.iter().all(|said| said.ends_with("out_of_range")), "{said:?}");
    assert_eq!(said.len(), 2);
    world.publish(7, 1, 1);
    world.expect(&["p7 refused 1+1: no_such_handle"]);
}

#[test]
fn a_full_store_refuses_and_then_what_follows_is_a_gap() {
    let mut world = World::ready();
    world.hold_commits = true;
    world.publish(1, 1, 2);
    world.publish(1, 3, 1);
    world.fail(full());
    world.expect(&["p1 refused 1+2: store_full", "p1 refused 3+1: sequence_gap"]);
    world.publish(1, 1, 1);
    world.commit();
    world.expect(&["p1 confirmed 1+1@0 disk"]);
}

#[test]
fn after_a_failed_store_nothing_is_known_and_nothing_taken() {
    let mut world = World::ready();
    world.subscribe(1, "c", 10);
    world.publish(1, 1, 2);
    world.said.clear();
    world.hold_commits = true;
    world.publish(1, 3, 2);
    world.publish(1, 5, 1);
    world.fail(failed());
    world.expect(&["p1 refused 3+2: outcome_unknown", "p1 refused 5+1: sequence_gap"]);
    world.publish(1, 3, 1);
    world.expect(&["p1 refused 3+1: store_failed"]);
    world.publish(1, 1, 2);
    world.expect(&["p1 confirmed 1+2@0 disk"]);
    world.open_named(producer(3), "n", None);
    world.expect(&["p3 not open: store_failed"]);
    world.subscribe(2, "new", 1);
    world.expect(&["c2 not subscribed: store_failed"]);
    world.subscribe(2, "new#ephemeral", 1);
    world.expect(&["c2 subscribed", "c2 got 0-0 tag 1 try 1"]);
    world.requeue(1, 1, 1, 0);
    world.expect(&["c1 got 0-0 tag 3 try 2"]);
    world.advance_ms(1_000);
    assert!(world.commit.is_none(), "no commit is tried any more");
}

#[test]
fn promise_1_a_receipt_never_claims_more_than_was_done() {
    let mut world = World::new();
    world.reach = Durability::Os;
    world.open(1);
    world.expect(&["p1 open epoch 0 last 0 os"]);
    world.publish(1, 1, 1);
    world.expect(&["p1 confirmed 1+1@0 os"]);
    world.publish_at(2, 1, Durability::Disk);
    world.expect(&["p1 refused 2+1: durability_unavailable"]);
    world.publish_at(2, 1, Durability::Os);
    world.expect(&["p1 confirmed 2+1@1 os"]);
    world.publish_at(3, 1, Durability::Memory);
    world.expect(&["p1 confirmed 3+1@2 memory"]);
    world.publish(1, 2, 2);
    world.expect(&["p1 confirmed 2+2@1 os"]);
}

#[test]
fn promise_1_what_the_store_reaches_is_found_out_before_it_is_relied_on() {
    let mut world = World::new();
    world.reach = Durability::Memory;
    world.tell(Event::OpenProducer { producer: producer(1), name: None, epoch: None, seat: None });
    world.publish_at(1, 1, Durability::Os);
    world.expect(&["p1 open epoch 0 last 0 memory", "p1 refused 1+1: durability_unavailable"]);
    assert_eq!(world.stored.bounds().end.0, 0, "refused means not stored");
}

#[test]
fn a_commit_is_as_durable_as_the_most_demanding_of_its_publishes() {
    let settings = TopicSettings { durability: Durability::Os, ..TopicSettings::default() };
    let mut world = World::with(settings, ModelSettings::default());
    world.open(1);
    world.publish(1, 1, 1);
    world.publish_at(2, 1, Durability::Memory);
    world.publish_at(3, 1, Durability::Disk);
    world.expect(&[
        "p1 open epoch 0 last 0 os",
        "p1 confirmed 1+1@0 os",
        "p1 confirmed 2+1@1 memory",
        "p1 confirmed 3+1@2 disk",
    ]);
    world.hold_commits = true;
    world.publish_at(4, 1, Durability::Os);
    world.tell_publish(1, 5, 1);
    let records = records("p1-", 6, 1);
    let durability = Some(Durability::Disk);
    world.event(Event::Publish { producer: producer(1), sequence: 6, durability, records });
    world.commit();
    world.commit();
    world.expect(&["p1 confirmed 4+1@3 os", "p1 confirmed 5+2@4 disk"]);
}

#[test]
fn a_repeat_that_must_be_more_durable_makes_it_so() {
    let mut world = World::ready();
    world.publish_at(1, 2, Durability::Memory);
    world.expect(&["p1 confirmed 1+2@0 memory"]);
    let before = world.commits.len();
    world.publish_at(1, 1, Durability::Disk);
    world.expect(&["p1 confirmed 1+1@0 disk"]);
    assert_eq!(world.commits.len(), before + 1);
    assert_eq!(world.commits[before].0, Durability::Disk);
    assert!(world.commits[before].1.is_empty(), "an empty batch is a barrier");
}

#[test]
fn a_memory_topic_is_not_written_down() {
    let settings = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
    let mut world = World::with(settings, ModelSettings::default());
    world.open(1);
    world.publish(1, 1, 1);
    world.publish_at(2, 1, Durability::Os);
    world.publish_at(2, 1, Durability::Memory);
    world.expect(&[
        "p1 open epoch 0 last 0 memory",
        "p1 confirmed 1+1@0 memory",
        "p1 refused 2+1: durability_unavailable",
        "p1 confirmed 2+1@1 memory",
    ]);
    assert!(!world.stored.log.unwrap().0.durable);
    let asked: Vec<_> = world.commits.iter().map(|(durability, _)| *durability).collect();
    let [made, records @ ..] = &asked[..] else { panic!("nothing was committed") };
    assert_eq!(*made, Durability::Disk, "that there is a topic has to last");
    assert!(!records.is_empty() && records.iter().all(|asked| *asked == Durability::Memory));
}

#[test]
fn promise_6_a_repeat_of_what_is_gone_is_not_taken_for_stored() {
    let settings = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
    let mut world = World::with(settings, ModelSettings::default());
    world.open_named(producer(1), "lost", None);
    world.open_named(producer(2), "kept", None);
    world.publish(2, 1, 2);
    world.publish(1, 1, 3);
    world.said.clear();
    // A kill took the end of the log, and left what is known of producers.
    world.stored.cut(crate::Offset(3));
    world.restart();
    world.open_named(producer(1), "lost", Some(1));
    world.open_named(producer(2), "kept", Some(1));
    world.expect(&["p1 not open: out_of_range", "p2 open epoch 1 last 2 memory"]);
    world.publish(2, 2, 2);
    world.expect(&["p2 confirmed 2+1@1 3+1@3 memory"]);
    // Nor after one more, when others have taken those places.
    world.restart();
    world.open_named(producer(1), "lost", Some(1));
    world.expect(&["p1 not open: out_of_range"]);
}

#[test]
fn promise_6_an_instance_from_before_its_name_was_lost_is_not_taken_for_a_newer_one() {
    let settings = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
    let mut world = World::with(settings, ModelSettings::default());
    world.open_named(producer(1), "n", None);
    world.publish(1, 1, 3);
    world.said.clear();
    // A kill took all that the topic had in memory.
    world.stored.cut(crate::Offset(0));
    world.stored.values.retain(|key, _| !key.starts_with(b"p/"));
    world.restart();
    world.advance_ms(1);
    world.open_named(other(1), "n", None);
    world.open_named(producer(1), "n", Some(1));
    let [old, new] = ["p1 not open: fenced", "s2 p1 open epoch 2 last 0 memory"];
    world.expect(&[new, old]);
}

#[test]
fn promise_6_a_named_producer_goes_on_after_a_restart() {
    let mut world = World::new();
    world.open_named(producer(1), "n", None);
    world.publish(1, 1, 3);
    world.expect(&["p1 open epoch 1 last 0 disk", "p1 confirmed 1+3@0 disk"]);
    world.restart();
    world.open_named(producer(1), "n", Some(1));
    world.publish(1, 2, 3);
    world.expect(&["p1 open epoch 1 last 3 disk", "p1 confirmed 2+3@1 disk"]);
    world.open_named(other(1), "n", None);
    world.expect(&["p1 not open: fenced", "s2 p1 open epoch 2 last 4 disk"]);
    world.restart();
    world.open_named(producer(1), "n", Some(1));
    world.expect(&["p1 not open: fenced"]);
    world.open_named(producer(1), "n", Some(3));
    world.expect(&["p1 not open: out_of_range"]);
    world.open_named(producer(1), "unknown", Some(1));
    world.expect(&["p1 not open: out_of_range"]);
}

#[test]
fn a_new_instance_fences_the_old_one_behind_what_it_published() {
    let mut world = World::new();
    world.open_named(producer(1), "n", None);
    world.publish(1, 1, 1);
    world.said.clear();
    world.hold_commits = true;
    world.publish(1, 2, 1);
    world.publish(1, 3, 1);
    world.open_named(other(1), "n", None);
    world.publish(1, 4, 1);
    world.commit();
    world.expect(&["p1 confirmed 2+1@1 disk"]);
    world.commit();
    world.expect(&[
        "p1 confirmed 3+1@2 disk",
        "p1 not open: fenced",
        "s2 p1 open epoch 2 last 3 disk",
        "p1 refused 4+1: fenced",
    ]);
    let records = records("p1-", 4, 1);
    world.event(Event::Publish { producer: other(1), sequence: 4, durability: None, records });
    world.commit();
    world.expect(&["s2 p1 confirmed 4+1@3 disk"]);
}

#[test]
fn an_old_instance_is_not_fenced_by_one_that_could_not_be_stored() {
    let mut world = World::new();
    world.open_named(producer(1), "n", None);
    world.said.clear();
    world.hold_commits = true;
    world.open_named(other(1), "n", None);
    world.fail(full());
    world.expect(&["s2 p1 not open: store_full"]);
    world.publish(1, 1, 1);
    world.commit();
    world.expect(&["p1 confirmed 1+1@0 disk"]);
    world.open_named(producer(2), "m", None);
    world.fail(full());
    world.expect(&["p2 not open: store_full"]);
    assert_eq!((world.topic.stats().producers, world.topic.stats().producers_known), (1, 1));
}

#[test]
fn the_same_instance_comes_back_silently() {
    let mut world = World::new();
    world.open_named(producer(1), "n", None);
    world.said.clear();
    world.hold_commits = true;
    world.publish(1, 1, 2);
    world.tell_publish(1, 3, 1);
    world.open_named(other(1), "n", Some(1));
    world.commit();
    world.expect(&["p1 confirmed 1+2@0 disk"]);
    world.commit();
    world.expect(&["p1 confirmed 3+1@2 disk", "s2 p1 open epoch 1 last 3 disk"]);
    world.publish(1, 4, 1);
    world.expect(&["p1 refused 4+1: fenced"]);
    world.event(Event::SessionEnded { session: SessionId(2) });
    world.open_named(producer(2), "n", Some(1));
    world.expect(&["p2 open epoch 1 last 3 disk"]);
}

#[test]
fn a_closed_producer_s_publishes_are_confirmed_and_its_number_is_free() {
    let mut world = World::ready();
    world.hold_commits = true;
    world.tell_publish(1, 1, 1);
    world.tell(Event::CloseProducer { producer: producer(1), forget: false });
    world.open(1);
    world.tell_publish(1, 1, 1);
    world.run();
    world.expect(&[]);
    world.commit();
    world.expect(&["p1 confirmed 1+1@0 disk", "p1 open epoch 0 last 0 disk"]);
    world.commit();
    world.expect(&["p1 confirmed 1+1@1 disk"]);
    world.open(1);
    world.expect(&["p1 not open: handle_in_use"]);
}

#[test]
fn promise_9_the_producer_used_longest_ago_is_forgotten() {
    let limits = ModelSettings { producers_known_max: 2, ..ModelSettings::default() };
    let mut world = World::with(TopicSettings::default(), limits);
    world.open_named(producer(1), "a", None);
    world.open_named(producer(2), "b", None);
    world.open_named(producer(3), "c", None);
    world.expect(&[
        "p1 open epoch 1 last 0 disk",
        "p2 open epoch 1 last 0 disk",
        "p3 not open: limit_reached",
    ]);
    world.event(Event::CloseProducer { producer: producer(1), forget: false });
    world.open_named(producer(3), "c", None);
    world.expect(&["p3 open epoch 1 last 0 disk"]);
    let keys: Vec<_> =
        world.stored.values.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    assert_eq!(keys, ["p/t/b", "p/t/c", "t/t"]);
}

fn producer_keys(world: &World) -> Vec<String> {
    let keys = world.stored.values.keys().map(|key| String::from_utf8_lossy(key).into_owned());
    keys.filter(|key| key.starts_with("p/")).collect()
}

fn give_up(number: u32) -> Event {
    Event::CloseProducer { producer: producer(number), forget: true }
}

#[test]
fn promise_9_a_lower_limit_of_names_holds_from_the_next_start_on() {
    let mut world = World::ready();
    for (handle, name) in [(11, "a"), (12, "b"), (13, "c"), (14, "d")] {
        world.open_named(producer(handle), name, None);
        world.event(Event::CloseProducer { producer: producer(handle), forget: false });
        world.advance_ms(10);
    }
    assert_eq!(world.topic.stats().producers_known, 4);
    let limits = ModelSettings { producers_known_max: 2, ..ModelSettings::default() };
    world.topic.limits = limits.into();
    world.restart();
    assert_eq!(world.topic.stats().producers_known, 2);
    // The names used last are known, and what was forgotten leaves the store.
    world.open(1);
    world.publish(1, 1, 1);
    let keys = world.stored.values.keys().map(|key| String::from_utf8_lossy(key).into_owned());
    let names: Vec<_> = keys.filter(|key| key.starts_with("p/")).collect();
    assert_eq!(names, ["p/t/c", "p/t/d"]);
}

#[test]
fn promise_9_a_name_that_is_given_up_goes_with_the_next_commit() {
    let limits = ModelSettings { producers_known_max: 2, ..ModelSettings::default() };
    let mut world = World::with(TopicSettings::default(), limits);
    world.open_named(producer(1), "user", None);
    world.event(Event::CloseProducer { producer: producer(1), forget: false });
    for number in 2..20 {
        world.open_named(producer(number), &format!("made-up-{number}"), None);
        world.event(give_up(number));
        assert_eq!(world.topic.stats().producers_known, 1, "the user's only");
    }
    assert_eq!(producer_keys(&world), ["p/t/made-up-19", "p/t/user"], "the last one is not gone");
    world.open(30);
    world.publish(30, 1, 1);
    assert_eq!(producer_keys(&world), ["p/t/user"]);
}

#[test]
fn promise_6_a_name_that_is_given_up_is_known_until_all_is_answered() {
    let mut world = World::ready();
    world.open_named(producer(2), "n", None);
    world.said.clear();
    world.hold_commits = true;
    world.tell_publish(2, 1, 2);
    world.run();
    world.tell_publish(2, 3, 1);
    world.tell(give_up(2));
    world.run();
    world.commit();
    world.expect(&["p2 confirmed 1+2@0 disk"]);
    assert_eq!(world.topic.stats().producers_known, 1);
    assert_eq!(producer_keys(&world), ["p/t/n"]);
    world.commit();
    world.expect(&["p2 confirmed 3+1@2 disk"]);
    assert_eq!(world.topic.stats().producers_known, 0);
    // Its number and its name are free, and begin anew.
    world.open_named(producer(2), "n", Some(1));
    world.expect(&["p2 not open: out_of_range"]);
    world.open_named(producer(2), "n", None);
    world.commit();
    world.expect(&["p2 open epoch 1 last 0 disk"]);
    assert_eq!(producer_keys(&world), ["p/t/n"]);
}

#[test]
fn promise_6_a_name_that_another_instance_has_taken_is_not_given_up() {
    let mut world = World::ready();
    world.open_named(producer(2), "n", None);
    world.publish(2, 1, 1);
    world.open_named(producer(3), "n", None);
    world.event(give_up(2));
    world.publish(3, 2, 1);
    assert_eq!(world.topic.stats().producers_known, 1);
    // It comes back while what it published before is under way.
    world.hold_commits = true;
    world.tell_publish(3, 3, 1);
    world.run();
    world.tell(give_up(3));
    world.open_named(producer(4), "n", None);
    world.hold_commits = false;
    while world.commit.is_some() {
        world.commit();
    }
    world.said.clear();
    world.publish(4, 1, 1);
    world.expect(&["p4 confirmed 1+1@3 disk"]);
    assert_eq!(producer_keys(&world), ["p/t/n"]);
}

#[test]
fn promise_9_a_topic_that_stops_deletes_the_names_that_were_given_up() {
    let mut world = World::ready();
    world.open_named(producer(2), "n", None);
    world.event(give_up(2));
    assert_eq!(producer_keys(&world), ["p/t/n"]);
    world.event(Event::Stop);
    assert!(producer_keys(&world).is_empty());
}

#[test]
fn promise_9_a_commit_is_bounded() {
    let limits =
        ModelSettings { commit_bytes_max: 60, commit_publishes_max: 2, ..ModelSettings::default() };
    let mut world = World::with(TopicSettings::default(), limits);
    world.open(1);
    world.said.clear();
    for sequence in 1..=5 {
        world.tell_publish(1, sequence, 1);
    }
    world.tell_publish(1, 6, 10);
    world.run();
    world.expect(&[
        "p1 confirmed 1+2@0 disk",
        "p1 confirmed 3+2@2 disk",
        "p1 confirmed 5+1@4 disk",
        "p1 confirmed 6+10@5 disk",
    ]);
}

#[test]
fn a_producer_that_was_made_by_a_failed_commit_hears_of_its_publishes() {
    let mut world = World::ready();
    world.subscribe(1, "c", 1);
    world.said.clear();
    world.hold_commits = true;
    let name = Some(crate::ProducerName::new("n").unwrap());
    world.tell(Event::OpenProducer { producer: producer(2), name, epoch: None, seat: None });
    world.tell_publish(2, 1, 1);
    world.tell(Event::Unsubscribe { consumer: consumer(1) });
    world.run();
    world.fail(full());
    world.expect(&["c1 closed", "p2 not open: store_full", "p2 refused 1+1: store_full"]);
}
