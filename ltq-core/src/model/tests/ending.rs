//! Deleting, vanishing and stopping.

use crate::{
    Durability, StartAt, TopicName, TopicSettings, Verdict, WriteOp,
    model::{
        Event, ModelSettings, SessionId, Topic, TopicAction,
        testing::{START, World, channel, consumer, failed, full, producer},
    },
};

fn ephemeral() -> World {
    let name = TopicName::new("t#ephemeral").unwrap();
    World::of(Topic::create(name, TopicSettings::default(), ModelSettings::default(), START))
}

#[test]
fn deleting_a_topic_removes_everything_at_once() {
    let mut world = World::new();
    world.open_named(producer(1), "n", None);
    world.open(2);
    world.subscribe(1, "c", 10);
    world.subscribe(2, "e#ephemeral", 10);
    world.publish(1, 1, 2);
    world.said.clear();
    world.hold_commits = true;
    world.publish(1, 3, 1);
    world.tell_publish(2, 1, 1);
    world.admin(1, TopicAction::Delete);
    world.publish(2, 2, 1);
    world.subscribe(3, "new", 1);
    world.admin(2, TopicAction::Ensure);
    world.commit();
    world.commit();
    assert_eq!(
        world.commit.as_ref().unwrap().0.ops().len(),
        5,
        "log, topic, marks, channel, producer"
    );
    world.said.clear();
    world.commit();
    world.expect(&[
        "a1 done",
        "p2 refused 2+1: topic_deleted",
        "a2 refused: topic_deleted",
        "c1 closed: topic_deleted",
        "c2 closed: topic_deleted",
        "c3 not subscribed: topic_deleted",
        "p1 not open: topic_deleted",
        "p2 not open: topic_deleted",
        "deleted",
    ]);
    assert!(world.stored.log.is_none() && world.stored.values.is_empty());
    world.publish(1, 4, 1);
    world.open(5);
    world.subscribe(5, "c", 1);
    world.admin(3, TopicAction::Delete);
    world.settle(1, 4, 1, 1, Verdict::Ack);
    world.event(Event::Stop);
    world.event(Event::Stop);
    world.expect(&[
        "p1 refused 4+1: topic_deleted",
        "p5 not open: topic_deleted",
        "c5 not subscribed: topic_deleted",
        "a3 refused: topic_deleted",
        "c1 settled 4 stale [1-1]",
        "stopped",
    ]);
    assert_eq!(world.topic.poll_timeout(), None);
}

#[test]
fn a_topic_that_could_not_be_deleted_goes_on() {
    let mut world = World::ready();
    world.subscribe(1, "c", 10);
    world.said.clear();
    world.hold_commits = true;
    world.admin(1, TopicAction::Delete);
    world.fail(full());
    world.hold_commits = false;
    world.publish(1, 1, 1);
    world.expect(&["a1 refused: store_full", "p1 confirmed 1+1@0 disk", "c1 got 0-0 tag 1 try 1"]);
}

#[test]
fn a_read_that_the_end_of_its_topic_overtook_is_no_failure() {
    let mut world = World::ready();
    world.publish(1, 1, 1);
    assert!(!world.topic.is_giving_up_log());
    world.hold_commits = true;
    for _ in 0..2 {
        world.admin(1, TopicAction::Delete);
        assert!(world.topic.is_giving_up_log(), "the commit takes the log");
        world.fail(full());
        assert!(!world.topic.is_giving_up_log(), "the log is there still");
    }
    world.admin(1, TopicAction::Delete);
    world.commit();
    assert!(world.topic.is_giving_up_log());
}

#[test]
fn a_topic_that_could_not_be_made_is_gone() {
    for (error, code, behind) in
        [(full(), "store_full", "store_full"), (failed(), "outcome_unknown", "store_failed")]
    {
        let mut world = World::new();
        world.hold_commits = true;
        world.open(1);
        world.publish(1, 1, 1);
        world.subscribe(1, "c", 1);
        world.admin(1, TopicAction::Ensure);
        world.fail(error);
        world.expect(&[
            &format!("p1 not open: {code}"),
            &format!("p1 refused 1+1: {behind}"),
            &format!("a1 refused: {behind}"),
            &format!("c1 not subscribed: {behind}"),
            "deleted",
        ]);
        assert!(world.stored.values.is_empty());
    }
}

#[test]
fn an_ephemeral_channel_vanishes_with_its_last_consumer() {
    let mut world = World::ready();
    world.subscribe(1, "e#ephemeral", 10);
    world.subscribe(2, "e#ephemeral", 10);
    world.event(Event::Unsubscribe { consumer: consumer(1) });
    assert_eq!(world.topic.stats().channels.len(), 1);
    world.event(Event::SessionEnded { session: SessionId(1) });
    assert_eq!(world.topic.stats().channels.len(), 0);
    assert!(world.stored.values.keys().all(|key| !key.starts_with(b"c/")));
    assert!(world.stored.log.is_some());
}

#[test]
fn an_ephemeral_channel_that_nobody_came_to_vanishes_too() {
    let mut world = World::ready();
    world.hold_commits = true;
    world.tell_publish(1, 1, 1);
    world.subscribe(1, "e#ephemeral", 10);
    world.event(Event::Unsubscribe { consumer: consumer(1) });
    world.commit();
    assert_eq!(world.topic.stats().channels.len(), 0);
}

#[test]
fn an_ephemeral_topic_vanishes_with_its_last_channel() {
    let mut world = ephemeral();
    world.open(1);
    world.subscribe(1, "c#ephemeral", 10);
    world.publish(1, 1, 1);
    world.said.clear();
    world.event(Event::Unsubscribe { consumer: consumer(1) });
    world.expect(&["c1 closed", "p1 not open: topic_deleted", "deleted"]);
    assert!(world.stored.log.is_none() && world.stored.values.is_empty());
}

#[test]
fn an_ephemeral_topic_without_channels_vanishes_with_its_last_producer() {
    let mut world = ephemeral();
    world.open(1);
    world.open(2);
    world.publish(1, 1, 1);
    world.event(Event::CloseProducer { producer: producer(1), forget: false });
    world.said.clear();
    world.tell(Event::CloseProducer { producer: producer(2), forget: false });
    world.open(3);
    world.expect(&["p3 open epoch 0 last 0 disk"]);
    world.event(Event::SessionEnded { session: SessionId(1) });
    world.expect(&["deleted"]);
}

#[test]
fn an_ephemeral_topic_that_cannot_vanish_tries_again() {
    let mut world = ephemeral();
    world.open(1);
    world.said.clear();
    world.hold_commits = true;
    world.event(Event::CloseProducer { producer: producer(1), forget: false });
    world.fail(full());
    world.advance_ms(4_999);
    assert!(world.commit.is_none());
    world.advance_ms(1);
    world.commit();
    world.expect(&["deleted"]);
}

#[test]
fn an_ephemeral_topic_comes_back_only_with_a_channel() {
    let mut world = ephemeral();
    world.open(1);
    world.subscribe(1, "stays", 1);
    world.restart();
    assert!(world.stored.log.is_some());
    world.subscribe(1, "stays", 1);
    world.said.clear();
    world.admin(1, TopicAction::DeleteChannel(channel("stays")));
    world.expect(&["c1 closed: channel_deleted", "a1 done", "deleted"]);

    let mut world = ephemeral();
    world.open(1);
    world.said.clear();
    world.restart();
    world.expect(&["deleted"]);
}

#[test]
fn promise_11_stopping_is_clean() {
    let mut world = World::ready();
    world.subscribe(1, "c", 10);
    world.subscribe(2, "e#ephemeral", 10);
    world.publish(1, 1, 4);
    world.ack(1, 2, 2);
    world.requeue(1, 3, 3, 10_000);
    world.said.clear();
    world.hold_commits = true;
    world.publish(1, 5, 1);
    world.publish(1, 6, 1);
    world.subscribe(3, "new", 1);
    world.event(Event::Stop);
    world.publish(1, 7, 1);
    world.open(2);
    world.subscribe(4, "c", 1);
    world.admin(1, TopicAction::CreateChannel(channel("d"), StartAt::Latest));
    world.settle(1, 9, 1, 1, Verdict::Ack);
    world.expect(&[
        "c1 closed: stopping",
        "c2 closed: stopping",
        "c3 not subscribed: stopping",
        "p2 not open: stopping",
        "c4 not subscribed: stopping",
        "a1 refused: stopping",
        "c1 settled 9 stale [1-1]",
    ]);
    world.commit();
    world.expect(&["p1 confirmed 5+1@4 disk"]);
    world.commit();
    world.expect(&["p1 confirmed 6+1@5 disk", "p1 refused 7+1: stopping"]);
    let (batch, durability) = world.commit.clone().expect("the last states");
    assert_eq!(durability, Durability::Disk);
    assert!(batch.ops().iter().any(|op| matches!(op, WriteOp::Put { key, .. } if key == "c/t/c")));
    world.commit();
    world.expect(&["stopped"]);
    assert_eq!(world.topic.poll_timeout(), None);
    world.hold_commits = false;
    world.restart();
    let stats = world.stats("c");
    assert_eq!((stats.acked, stats.delayed, stats.waiting, stats.in_flight), (1, 1, 4, 0));
    world.subscribe(1, "c", 10);
    world.expect(&[
        "c1 subscribed",
        "c1 got 0-0 tag 1 try 2",
        "c1 got 3-3 tag 2 try 2",
        "c1 got 4-4 tag 3 try 1",
        "c1 got 5-5 tag 4 try 1",
    ]);
}

#[test]
fn stopping_ends_even_if_nothing_can_be_stored() {
    for error in [full(), failed()] {
        let mut world = World::ready();
        world.subscribe(1, "c", 10);
        world.publish(1, 1, 4);
        world.ack(1, 1, 4);
        world.said.clear();
        world.hold_commits = true;
        world.event(Event::Stop);
        world.fail(error);
        world.expect(&["c1 closed: stopping", "stopped"]);
    }
    let mut world = World::new();
    world.event(Event::Stop);
    world.expect(&["stopped"]);
    let mut world = World::ready();
    world.event(Event::Stop);
    world.expect(&["stopped"]);
}

#[test]
fn a_topic_deleted_while_stopping_says_both() {
    let mut world = World::ready();
    world.said.clear();
    world.hold_commits = true;
    world.admin(1, TopicAction::Delete);
    world.event(Event::Stop);
    world.commit();
    world.expect(&["a1 done", "p1 not open: topic_deleted", "deleted", "stopped"]);
}
