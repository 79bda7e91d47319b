//! Sequences, epochs, durability, and what producers are told.

use crate::{
    Durability, TopicSettings, WriteOp,
    model::{
        Event, ModelSettings, ProducerId, SessionId,
        testing::{World, consumer, failed, full, producer, records},
    },
};

/// What a second session calls its producer.
pub(super) fn other(handle: u32) -> ProducerId {
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
