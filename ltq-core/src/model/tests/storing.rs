//! What is stored of channels, when, and what comes back.

use std::time::Duration;

use crate::{
    Durability, Message, Offset, Records, Timestamp, TopicSettings, WriteOp,
    model::{
        Event, ModelSettings, RestoreError, Topic, TopicAction,
        testing::{START, World, channel, consumer, full, producer, topic_name},
    },
};

fn puts(world: &World, from: usize) -> Vec<String> {
    let ops = world.commits[from..].iter().flat_map(|(_, batch)| batch.ops());
    ops.filter_map(|op| match op {
        WriteOp::Put { key, .. } => Some(String::from_utf8_lossy(key).into_owned()),
        WriteOp::Truncate { before, .. } => Some(format!("truncate {before}")),
        WriteOp::Append { .. } => Some("append".to_owned()),
        _ => None,
    })
    .collect()
}

fn consuming() -> World {
    let mut world = World::ready();
    world.subscribe(1, "c", 1_000);
    world.publish(1, 1, 10);
    world.advance_ms(100);
    world.said.clear();
    world
}

#[test]
fn promise_12_acks_are_stored_within_the_interval() {
    let mut world = consuming();
    let before = world.commits.len();
    world.ack(1, 1, 2);
    world.ack(1, 4, 4);
    assert_eq!(world.commits.len(), before);
    world.advance_ms(19);
    assert_eq!(world.commits.len(), before);
    world.advance_ms(1);
    assert_eq!(puts(&world, before), ["c/t/c", "truncate 2"]);
    assert_eq!(world.commits[before].0, Durability::Os, "acks alone are not worth a sync");
    world.advance_ms(1_000);
    assert_eq!(world.commits.len(), before + 1);
    world.restart();
    let stats = world.stats("c");
    assert_eq!((stats.floor, stats.acked, stats.waiting), (Offset(2), 3, 7));
    world.subscribe(1, "c", 1_000);
    world.expect(&["c1 subscribed", "c1 got 2-2 tag 1 try 2", "c1 got 4-9 tag 2 try 2"]);
}

#[test]
fn promise_2_what_was_done_to_lost_messages_is_not_taken_for_others_that_have_their_offsets() {
    let settings = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
    let mut world = World::with(settings, ModelSettings::default());
    world.open(1);
    world.subscribe(1, "c", 10);
    world.publish(1, 1, 8);
    world.ack(1, 2, 3);
    world.advance_ms(100);
    // A kill took the end of the log, and left what is known of the channel.
    world.stored.cut(Offset(1));
    world.restart();
    world.advance_ms(100);
    world.open(1);
    world.publish(1, 1, 5);
    // Nothing happens to the channel until the next restart.
    world.restart();
    let stats = world.stats("c");
    assert_eq!((stats.acked, stats.waiting), (0, 6));
    world.said.clear();
    world.subscribe(1, "c", 10);
    world.expect(&["c1 subscribed", "c1 got 0-0 tag 1 try 2", "c1 got 1-5 tag 2 try 1"]);
}

#[test]
fn marks_of_lost_messages_are_not_taken_for_those_of_others() {
    let settings = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
    let mut world = World::with(settings, ModelSettings { mark_bytes: 500, ..Default::default() });
    world.open(1);
    world.subscribe(1, "c", 10);
    let large = Records::encode(&[Message::new(vec![0; 600]), Message::new(vec![0; 600])]);
    let (producer, durability) = (producer(1), None);
    world.event(Event::Publish { producer, sequence: 1, durability, records: large });
    assert!(world.topic.stats().bytes > 1_200);
    world.stored.cut(Offset(0));
    world.restart();
    world.advance_ms(100);
    world.open(1);
    world.publish(1, 1, 2);
    world.restart();
    let bytes = world.topic.stats().bytes;
    assert!(bytes < 100, "{bytes} bytes of two small messages");
}

#[test]
fn promise_12_acks_are_written_where_messages_need_not_be() {
    let settings = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
    let mut world = World::with(settings, ModelSettings::default());
    world.open(1);
    world.subscribe(1, "c", 10);
    world.publish(1, 1, 8);
    world.advance_ms(100);
    let asked = |world: &World| world.commits.last().unwrap().0;
    let before = world.commits.len();
    world.ack(1, 1, 2);
    world.advance_ms(20);
    assert_eq!(puts(&world, before), ["c/t/c", "truncate 2"]);
    assert_eq!(asked(&world), Durability::Os, "apart");
    world.publish(1, 9, 1);
    assert_eq!(asked(&world), Durability::Memory, "no acks go along");
    world.advance_ms(100);
    let before = world.commits.len();
    world.ack(1, 3, 3);
    world.publish(1, 10, 1);
    assert_eq!(puts(&world, before), ["append", "c/t/c", "truncate 3"]);
    assert_eq!(asked(&world), Durability::Os, "along with a publish");
}

#[test]
fn acks_ride_along_with_publishes() {
    let mut world = consuming();
    let before = world.commits.len();
    world.ack(1, 1, 2);
    world.publish(1, 11, 1);
    assert_eq!(puts(&world, before), ["append", "c/t/c", "truncate 2"]);
    world.ack(1, 3, 3);
    world.publish(1, 12, 1);
    assert_eq!(puts(&world, before + 1), ["append"], "not again so soon");
    world.advance_ms(20);
    assert_eq!(puts(&world, before + 2), ["c/t/c", "truncate 3"]);
}

#[test]
fn promise_12_deliveries_and_attempts_are_stored_too() {
    let mut world = consuming();
    world.requeue(1, 1, 1, 0);
    world.requeue(1, 11, 11, 0);
    world.expect(&["c1 got 0-0 tag 11 try 2", "c1 got 0-0 tag 12 try 3"]);
    world.advance_ms(20);
    world.restart();
    world.subscribe(1, "c", 1_000);
    world.expect(&["c1 subscribed", "c1 got 0-0 tag 1 try 4", "c1 got 1-9 tag 2 try 2"]);
}

#[test]
fn promise_14_delays_go_on_over_restarts_and_clock_steps() {
    let mut world = consuming();
    world.requeue(1, 1, 1, 10_000);
    world.advance_ms(4_000);
    world.restart();
    world.subscribe(1, "c", 1);
    world.said.clear();
    // The delay was stored 20 ms after it began, in whole milliseconds of the wall clock.
    world.advance_ms(5_999);
    assert_eq!(world.stats("c").delayed, 1);
    world.advance_ms(1);
    assert_eq!(world.stats("c").delayed, 0);
    world.ack(1, 0, 1);
    world.grant(1, 100);
    world.requeue(1, 2, 2, 10_000);
    world.advance_ms(20);
    world.now.wall = Timestamp(world.now.wall.0 - 500_000_000);
    world.event(Event::Stop);
    world.restart();
    assert_eq!(world.stats("c").delayed, 1);
    world.advance_ms(9_979);
    assert_eq!(world.stats("c").delayed, 1);
    world.advance_ms(1);
    assert_eq!(world.stats("c").delayed, 0);
}

#[test]
fn the_log_is_given_up_as_far_as_every_channel_has_stored() {
    let mut world = consuming();
    world.subscribe(2, "d", 1_000);
    world.subscribe(3, "e#ephemeral", 1_000);
    let before = world.commits.len();
    world.ack(1, 1, 9);
    world.ack(2, 1, 5);
    world.advance_ms(50);
    assert_eq!(world.topic.bounds().first, Offset(0));
    world.ack(3, 1, 7);
    world.advance_ms(50);
    assert_eq!(world.topic.bounds().first, Offset(5));
    assert_eq!(world.stored.bounds().first, Offset(5));
    world.admin(1, TopicAction::DeleteChannel(channel("d")));
    world.advance_ms(50);
    assert_eq!(world.stored.bounds().first, Offset(7));
    world.event(Event::Unsubscribe { consumer: consumer(3) });
    world.advance_ms(50);
    assert_eq!(world.stored.bounds().first, Offset(9));
    assert!(puts(&world, before).iter().all(|put| !put.contains("ephemeral")));
    world.admin(1, TopicAction::DeleteChannel(channel("c")));
    world.publish(1, 11, 5);
    world.advance_ms(50);
    assert_eq!(world.stored.bounds().first, Offset(9), "kept for the next channel");
}

#[test]
fn promise_2_what_is_given_up_is_what_is_stored_not_what_is_known() {
    let mut world = consuming();
    world.subscribe(2, "d", 1_000);
    world.advance_ms(100);
    world.ack(1, 1, 2);
    world.ack(2, 1, 2);
    world.advance_ms(20);
    assert_eq!(world.stored.bounds().first, Offset(2));
    world.ack(1, 3, 8);
    world.advance_ms(15);
    // The other channel's state goes 15 ms later, and its floor is only known here until then.
    world.requeue(2, 10, 10, 5_000);
    world.admin(1, TopicAction::PauseChannel(channel("d"), true));
    world.admin(2, TopicAction::PauseChannel(channel("d"), false));
    assert_eq!(world.stored.bounds().first, Offset(2));
    world.restart();
    assert_eq!((world.stats("c").floor, world.stats("c").damaged), (Offset(2), 0));
    world.subscribe(1, "c", 1_000);
    assert_eq!(world.stats("c").in_flight, 8);
}

#[test]
fn promise_2_an_ack_that_came_while_states_were_being_stored_is_not_among_them() {
    let mut world = consuming();
    world.subscribe(2, "d", 1_000);
    world.advance_ms(100);
    world.hold_commits = true;
    world.ack(1, 1, 2);
    world.advance_ms(20);
    assert!(world.commit.is_some());
    world.ack(1, 3, 8);
    world.commit();
    world.hold_commits = false;
    // Nobody else wants them any more, and the next commit comes before the next state does.
    world.admin(1, TopicAction::DeleteChannel(channel("d")));
    world.publish(1, 11, 1);
    assert_eq!(world.stored.bounds().first, Offset(2));
    world.restart();
    assert_eq!((world.stats("c").floor, world.stats("c").damaged), (Offset(2), 0));
}

#[test]
fn large_states_are_stored_less_often() {
    let limits = ModelSettings { ack_commit_rate: 2_000, ..ModelSettings::default() };
    let mut world = World::with(TopicSettings::default(), limits);
    world.open(1);
    world.subscribe(1, "c", 2_500);
    world.publish(1, 1, 2_000);
    for tag in 1..500 {
        world.ack(1, tag * 2, tag * 2);
    }
    world.advance_ms(20);
    let before = world.commits.len();
    for tag in 501..600 {
        world.ack(1, tag * 2, tag * 2);
        world.advance_ms(20);
    }
    let times = world.commits.len() - before;
    assert!((1..=2).contains(&times), "{times} times in two seconds");
}

#[test]
fn a_full_store_keeps_states_waiting_and_apart_from_publishes() {
    let mut world = consuming();
    world.ack(1, 1, 5);
    world.hold_commits = true;
    world.publish(1, 11, 1);
    let rode = puts(&world, world.commits.len() - 1);
    assert_eq!(rode, ["append", "c/t/c", "truncate 5"]);
    world.fail(full());
    world.expect(&["p1 refused 11+1: store_full"]);
    world.publish(1, 11, 1);
    assert_eq!(puts(&world, world.commits.len() - 1), ["append"]);
    world.fail(full());
    world.advance_ms(99);
    assert!(world.commit.is_none());
    world.advance_ms(1);
    assert_eq!(puts(&world, world.commits.len() - 1), ["c/t/c", "truncate 5"]);
    world.fail(full());
    world.advance_ms(199);
    assert!(world.commit.is_none());
    world.advance_ms(1);
    world.commit();
    world.publish(1, 11, 1);
    world.commit();
    world.said.clear();
    world.ack(1, 6, 6);
    world.publish(1, 12, 1);
    assert_eq!(world.stored.bounds().first, Offset(5));
    world.commit();
    world.expect(&["p1 confirmed 12+1@11 disk", "c1 got 11-11 tag 12 try 1"]);
}

#[test]
fn the_topic_s_settings_and_pause_come_back() {
    let settings = TopicSettings { durability: Durability::Os, ..TopicSettings::default() };
    let mut world = World::with(settings, ModelSettings::default());
    world.admin(1, TopicAction::Pause(true));
    world.restart();
    let stats = world.topic.stats();
    assert_eq!((stats.settings, stats.paused), (settings, true));
    world.hold_commits = true;
    world.admin(1, TopicAction::Pause(false));
    world.fail(full());
    assert!(world.topic.stats().paused);
}

#[test]
fn a_log_that_came_back_empty_is_followed() {
    let settings = TopicSettings { durability: Durability::Memory, ..TopicSettings::default() };
    let mut world = World::with(settings, ModelSettings::default());
    world.open(1);
    world.subscribe(1, "c", 10);
    world.publish(1, 1, 8);
    world.ack(1, 1, 3);
    world.ack(1, 6, 6);
    world.advance_ms(50);
    let (options, _) = world.stored.log.unwrap();
    world.stored.log = Some((options, crate::Bounds::default()));
    world.stored.batches.clear();
    world.restart();
    world.open(1);
    world.subscribe(1, "c", 10);
    world.said.clear();
    world.publish(1, 1, 2);
    world.expect(&["p1 confirmed 1+2@0 memory", "c1 got 0-1 tag 1 try 1"]);
}

#[test]
fn values_of_others_are_refused() {
    let restore = |values: &[(&str, &[u8])]| {
        let values = values.iter().map(|(key, value)| {
            (bytes::Bytes::copy_from_slice(key.as_bytes()), bytes::Bytes::copy_from_slice(value))
        });
        let limits = ModelSettings::default();
        let bounds = crate::Bounds::default();
        Topic::restore(topic_name(), limits, bounds, values.collect(), START).unwrap_err()
    };
    assert_eq!(restore(&[]), RestoreError::NoTopic("t".to_owned()));
    let own: (&str, &[u8]) = ("t/t", &[2, 2, 0, 0, 0, 0]);
    assert!(matches!(restore(&[own, ("c/other/c", &[1])]), RestoreError::ForeignKey { .. }));
    assert!(matches!(restore(&[own, ("nonsense", &[1])]), RestoreError::ForeignKey { .. }));
    assert!(matches!(restore(&[own, ("c/t/c", &[1])]), RestoreError::Version { found: 1, .. }));
    assert!(matches!(restore(&[own, ("p/t/p", &[2])]), RestoreError::Value { .. }));
    assert!(matches!(restore(&[own, ("m/other", &[2])]), RestoreError::ForeignKey { .. }));
    assert!(matches!(restore(&[own, ("m/t", &[2, 1])]), RestoreError::Value { .. }));
    let backwards = &[2, 0, 0, 1, 0, 0, 0];
    assert!(matches!(restore(&[own, ("m/t", backwards)]), RestoreError::Value { .. }));
    assert!(matches!(restore(&[("t/t", &[2, 9])]), RestoreError::Value { .. }));
}

#[test]
fn an_idle_topic_waits_for_nothing_and_is_small() {
    let mut world = consuming();
    world.ack(1, 0, 10);
    world.event(Event::Unsubscribe { consumer: consumer(1) });
    world.event(Event::CloseProducer {
        producer: crate::model::testing::producer(1),
        forget: false,
    });
    world.advance(Duration::from_secs(2));
    assert!(world.topic.is_idle());
    assert_eq!(world.topic.poll_timeout(), None);
    let size = size_of::<Topic>() + size_of::<crate::model::channel::Channel>();
    assert!(size < 1_500, "{size} bytes, and a few hundred in small tables");
}
