//! Where the records of a delivery come from.

use std::time::Duration;

use crate::{
    Offset, TopicSettings, WriteBatch,
    model::{
        Command, Event, ModelSettings, TopicAction,
        testing::{World, channel, consumer, run},
    },
};

fn backlog(messages: u64, change: impl FnOnce(&mut ModelSettings)) -> World {
    let mut limits = ModelSettings::default();
    change(&mut limits);
    let mut world = World::with(TopicSettings::default(), limits);
    world.open(1);
    world.admin(1, TopicAction::CreateChannel(channel("c"), crate::StartAt::Earliest));
    for sequence in 0..messages / 10 {
        world.publish(1, sequence * 10 + 1, 10);
    }
    world.said.clear();
    world
}

#[test]
fn who_keeps_up_never_reads_the_store() {
    let mut world = backlog(0, |_| {});
    world.subscribe(1, "c", 1_000);
    world.subscribe(2, "d", 1_000);
    for sequence in 1..50 {
        world.publish(1, sequence, 1);
        world.ack(1, sequence, sequence);
    }
    assert_eq!(world.load_count, 0);
    assert_eq!(world.topic.window.bytes(), 0, "what came fresh is not kept");
}

#[test]
fn nothing_is_read_without_someone_to_take_it() {
    let mut world = backlog(100, |_| {});
    world.subscribe(1, "c", 0);
    assert_eq!(world.load_count, 0);
    world.grant(1, 1_000);
    assert_eq!((world.load_count, world.stats("c").in_flight), (1, 100));
    assert_eq!(world.topic.window.bytes(), 0, "what was read to its end is dropped at once");
}

#[test]
fn channels_at_one_place_share_one_load() {
    let mut world = backlog(100, |_| {});
    let more: Vec<_> = (2..=20).map(|n| format!("c{n}")).collect();
    for (handle, name) in (2..).zip(&more) {
        world.subscribe(handle, name, 0);
    }
    world.subscribe(1, "c", 0);
    world.said.clear();
    world.hold_loads = true;
    for handle in 1..=20 {
        world.grant(handle, 1_000);
    }
    assert_eq!(world.load_count, 1);
    world.load();
    assert_eq!(world.load_count, 1);
    assert_eq!(world.topic.stats().channels.iter().map(|c| c.in_flight).sum::<u64>(), 2_000);
}

#[test]
fn the_next_load_is_asked_for_before_the_last_runs_out() {
    let mut world = backlog(1_000, |limits| limits.load_bytes = 64 * 100);
    world.subscribe(1, "c", 0);
    world.hold_loads = true;
    world.grant(1, 20);
    world.load();
    assert_eq!((world.stats("c").in_flight, world.loads.len()), (20, 0));
    world.grant(1, 40);
    assert_eq!((world.stats("c").in_flight, world.loads.len()), (40, 1), "while it works");
    world.load();
    world.grant(1, 100);
    assert_eq!(world.stats("c").in_flight, 100, "without waiting");
}

#[test]
fn a_backlog_is_read_in_order_whatever_the_sizes() {
    for (bytes, credit) in [(1, 7), (300, 33), (10_000, 1_000)] {
        let mut world = backlog(300, |limits| limits.load_bytes = bytes);
        world.subscribe(1, "c", 0);
        let mut total = 0;
        while world.stats("c").in_flight < 300 {
            total += credit;
            world.grant(1, total);
            assert_eq!(world.stats("c").in_flight, total.min(300));
        }
        let mut next = 0;
        for command in &world.said {
            if let Command::Deliver { delivery, .. } = command {
                assert_eq!(delivery.batch.first.0, next);
                next = delivery.batch.end().0;
            }
        }
        assert_eq!(next, 300);
    }
}

#[test]
fn promise_9_loaded_records_are_bounded_and_do_not_stay() {
    let mut world = backlog(1_000, |limits| {
        (limits.load_bytes, limits.window_bytes) = (10_000, 4_000);
    });
    world.subscribe(1, "c", 0);
    for total in [1, 2, 200, 201, 500] {
        world.grant(1, total);
        assert!(world.topic.window.bytes() <= 4_000);
        assert_eq!(world.stats("c").in_flight, total);
    }
    world.grant(1, 501);
    world.advance_ms(1_001);
    assert_eq!(world.topic.window.bytes(), 0);
    world.ack(1, 0, 501);
    world.advance_ms(100);
    assert_eq!(world.topic.poll_timeout(), None, "nothing is left that waits for time");
}

#[test]
fn consumers_may_be_gone_when_the_records_come() {
    let mut world = backlog(100, |_| {});
    world.hold_loads = true;
    world.subscribe(1, "c", 10);
    world.event(Event::Unsubscribe { consumer: consumer(1) });
    world.load();
    world.expect(&["c1 subscribed", "c1 closed"]);
    world.subscribe(2, "c", 10);
    world.said.clear();
    world.hold_loads = false;
    if !world.loads.is_empty() {
        world.load();
    }
    assert_eq!(world.stats("c").in_flight, 10);
    world.admin(1, TopicAction::DeleteChannel(channel("c")));
    world.advance_ms(2_000);
    assert_eq!(world.topic.window.bytes(), 0);
}

#[test]
fn promise_8_damage_costs_the_records_it_touches_and_no_others() {
    let mut world = backlog(30, |_| {});
    world.damaged.insert(run(5, 8));
    world.damaged.insert(run(20, 25));
    world.subscribe(1, "c", 100);
    world.subscribe(2, "d", 3);
    world.expect(&[
        "c1 subscribed",
        "c1 got 0-4 tag 1 try 1",
        "c1 got 8-9 tag 6 try 1",
        "c1 got 10-19 tag 8 try 1",
        "c1 got 25-29 tag 18 try 1",
        "c2 subscribed",
        "c2 got 0-2 tag 1 try 1",
    ]);
    let stats = world.stats("c");
    assert_eq!((stats.damaged, stats.in_flight, stats.acked), (8, 22, 0));
    assert_eq!((world.stats("d").damaged, world.stats("d").waiting), (0, 27));
    world.ack(1, 0, 22);
    let stats = world.stats("c");
    assert_eq!((stats.damaged, stats.floor, stats.acked), (8, Offset(30), 22));
}

#[test]
fn what_the_log_no_longer_holds_counts_as_damaged() {
    let mut world = backlog(30, |_| {});
    let mut lost = WriteBatch::new();
    lost.truncate(world.topic.log_name().clone(), Offset(12));
    world.stored.apply(&lost);
    assert!(!world.topic.gave_up_before(Offset(12)));
    world.subscribe(1, "c", 100);
    world.expect(&["c1 subscribed", "c1 got 12-19 tag 1 try 1", "c1 got 20-29 tag 9 try 1"]);
    assert_eq!(world.stats("c").damaged, 12);
    world.restart();
    assert_eq!(world.stats("c").damaged, 0, "not stored yet, and found again");
    world.subscribe(1, "c", 100);
    assert_eq!(world.stats("c").damaged, 12);
}

#[test]
fn a_read_that_fails_is_tried_again_after_a_while() {
    let mut world = backlog(10, |_| {});
    world.unreadable = true;
    world.subscribe(1, "c", 100);
    world.expect(&["c1 subscribed"]);
    assert_eq!(world.load_count, 1);
    world.grant(1, 200);
    assert_eq!(world.load_count, 1);
    world.advance(Duration::from_secs(60));
    assert!((10..40).contains(&world.load_count), "{}", world.load_count);
    world.unreadable = false;
    world.advance(Duration::from_secs(5));
    assert_eq!(world.stats("c").in_flight, 10);
}
