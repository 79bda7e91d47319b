//! Names of producers: who goes on under one, who is fenced, and which are forgotten.

use super::publishing::other;
use crate::{
    Durability, TopicSettings,
    model::{
        Event, ModelSettings, SessionId,
        testing::{World, full, producer, records},
    },
};

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
