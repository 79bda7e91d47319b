//! What limits by age and size remove, when, and what becomes of it in the channels.

use std::time::Duration;

use crate::{
    Durability, Keep, Offset, Retention, StartAt, TopicSettings, Verdict, WriteOp,
    model::{
        Command, Event, Limit, ModelSettings, Removed, TopicAction,
        testing::{World, channel, consumer, full},
    },
};

fn kept(retention: Retention) -> World {
    let settings = TopicSettings { retention, ..TopicSettings::default() };
    let limits = ModelSettings { mark_bytes: 100, ..ModelSettings::default() };
    let mut world = World::with(settings, limits);
    world.open(1);
    world.said.clear();
    world
}

fn all() -> Retention {
    Retention { keep: Keep::All, ..Retention::default() }
}

fn by_age(seconds: u64) -> Retention {
    Retention { age_max: Some(Duration::from_secs(seconds)), ..Retention::default() }
}

fn by_bytes(bytes: u64) -> Retention {
    Retention { bytes_max: Some(bytes), ..Retention::default() }
}

/// What was told of removals since the last look.
fn removed(world: &mut World) -> Vec<Removed> {
    let removed = |command| match command {
        Command::Removed(removed) => Some(removed),
        _ => None,
    };
    world.said.drain(..).filter_map(removed).collect()
}

fn marks_put(world: &World) -> usize {
    let ops = world.commits.iter().flat_map(|(_, batch)| batch.ops());
    ops.filter(|op| matches!(op, WriteOp::Put { key, .. } if key.starts_with(b"m/"))).count()
}

#[test]
fn what_is_acked_is_kept_where_all_is_kept_and_read_again() {
    let mut world = kept(all());
    world.subscribe(1, "c", 100);
    world.publish(1, 1, 10);
    world.ack(1, 1, 10);
    world.advance(Duration::from_secs(1_000_000));
    assert_eq!((world.stored.bounds().first, world.stats("c").acked), (Offset(0), 10));
    world.said.clear();
    world.subscribe(2, "again", 100);
    world.expect(&["c2 subscribed", "c2 got 0-9 tag 1 try 1"]);
    world.subscribe_at(3, "some", 100, StartAt::Offset(Offset(7)));
    world.expect(&["c3 subscribed", "c3 got 7-9 tag 1 try 1"]);
    world.subscribe_at(4, "timed", 100, StartAt::Time(crate::Timestamp(1)));
    world.expect(&["c4 subscribed", "c4 got 0-9 tag 1 try 1"]);
    world.restart();
    world.subscribe(5, "later", 100);
    world.expect(&["c5 subscribed", "c5 got 0-9 tag 1 try 1"]);
}

#[test]
fn age_removes_without_traffic_what_is_old_and_nothing_younger() {
    let mut world = kept(Retention { keep: Keep::All, ..by_age(64) });
    world.publish(1, 1, 3);
    world.advance_ms(30_000);
    world.publish(1, 4, 2);
    world.advance_ms(33_999);
    assert_eq!(world.stored.bounds().first, Offset(0));
    world.advance_ms(1_021);
    assert_eq!(world.stored.bounds().first, Offset(3));
    let told = removed(&mut world);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].first, told[0].until, told[0].limit), (Offset(0), Offset(3), Limit::Age));
    assert!(told[0].dropped.is_empty());
    world.advance_ms(28_900);
    assert_eq!(world.stored.bounds().first, Offset(3));
    world.advance_ms(1_200);
    assert_eq!(world.stored.bounds().first, Offset(5), "to the last one");
    assert_eq!(world.topic.poll_timeout(), None, "nothing is left to grow old");
    assert_eq!(world.topic.stats().bytes, 0);
}

#[test]
fn steady_traffic_is_removed_late_by_a_64th_of_the_age_and_never_early() {
    let mut world = kept(by_age(64));
    world.admin(1, TopicAction::CreateChannel(channel("c"), StartAt::Earliest));
    for second in 0..400u64 {
        // Four messages a second: no. n was published in second n / 4.
        world.publish(1, second * 4 + 1, 4);
        world.advance_ms(1_000);
        let first = world.stored.bounds().first.0;
        let age_of = |offset: u64| second + 1 - offset / 4;
        assert!(first == 0 || age_of(first - 1) >= 64, "second {second}: {first} came too early");
        assert!(age_of(first) <= 66, "second {second}: {first} is late");
    }
    let stats = world.stats("c");
    assert_eq!(stats.dropped, world.topic.bounds().first.0);
    assert_eq!(stats.dropped + stats.waiting, 1_600, "promise 13");
    assert!(marks_put(&world) <= 410, "about one a second: {}", marks_put(&world));
}

#[test]
fn bytes_remove_no_more_than_brings_a_topic_under_its_limit() {
    let mut world = kept(by_bytes(3_000));
    let mut sizes = vec![0u64];
    let mut next = 1;
    for count in (0..300).map(|n| n % 7 + 1) {
        world.publish(1, next, count);
        next += count;
        let published = world.topic.stats().published_bytes;
        sizes.resize(next as usize, published);
        world.advance_ms(25);
        let first = world.stored.bounds().first.0;
        let left = published - sizes[first as usize];
        // A stretch is at least 100 bytes here, and a publish up to 200.
        assert!(left <= 3_000 + 300, "{left} bytes are kept");
        assert!(first == 0 || left > 3_000 - 500, "only {left} bytes are kept");
    }
    assert!(removed(&mut world).iter().all(|removed| removed.limit == Limit::Bytes));
}

#[test]
fn a_read_that_a_limit_overtook_is_no_loss() {
    let mut world = kept(by_bytes(3_000));
    world.subscribe(1, "c", 0);
    world.publish(1, 1, 50);
    world.advance_ms(2_000);
    world.hold_loads = true;
    world.grant(1, 10);
    let asked_for = |command: &Command| matches!(command, Command::Load { from: Offset(0), .. });
    assert!(world.loads.iter().any(asked_for), "{:?}", world.loads);
    let mut next = 51;
    while world.stored.bounds().first == Offset(0) {
        world.publish(1, next, 10);
        next += 10;
        world.advance_ms(25);
    }
    let bounds = world.stored.bounds();
    assert!(world.topic.gave_up_before(bounds.first) && !world.topic.gave_up_before(bounds.end));
    world.hold_loads = false;
    world.said.clear();
    world.load();
    let stats = world.stats("c");
    assert_eq!((stats.damaged, stats.in_flight, stats.dropped), (0, 10, bounds.first.0));
}

#[test]
fn promise_13_what_is_removed_unacked_is_counted_for_each_channel_and_told_once() {
    let mut world = kept(by_age(10));
    world.subscribe(1, "c", 4);
    world.subscribe(2, "done", 100);
    world.admin(1, TopicAction::CreateChannel(channel("slow"), StartAt::Earliest));
    world.publish(1, 1, 10);
    world.ack(2, 1, 10);
    // One acked, one delayed, one given back, two in flight, five waiting.
    world.ack(1, 2, 2);
    world.requeue(1, 1, 1, 60_000);
    world.full.insert(consumer(1));
    world.requeue(1, 4, 4, 0);
    world.said.clear();
    world.advance_ms(10_500);
    let told = removed(&mut world);
    assert_eq!(told.len(), 1, "once: {told:?}");
    assert_eq!(told[0].dropped, [(channel("c"), 9), (channel("slow"), 10)]);
    for (name, dropped, acked) in [("c", 9, 1), ("done", 0, 10), ("slow", 10, 0)] {
        let stats = world.stats(name);
        assert_eq!((stats.dropped, stats.acked, stats.floor), (dropped, acked, Offset(10)));
        assert_eq!((stats.waiting, stats.delayed, stats.in_flight), (0, 0, 0));
    }
    world.settle(1, 7, 1, 4, Verdict::Ack);
    world.expect(&["c1 settled 7 stale [1-4]"]);
    assert_eq!(world.stored.bounds().first, Offset(10));
    world.restart();
    assert_eq!((world.stats("c").dropped, world.stats("slow").dropped), (9, 10));
    assert!(removed(&mut world).is_empty());
}

#[test]
fn a_run_in_flight_is_cut_where_a_limit_ends() {
    let mut world = kept(Retention { keep: Keep::All, ..by_age(64) });
    world.publish(1, 1, 5);
    world.advance_ms(2_000);
    world.publish(1, 6, 5);
    world.advance_ms(60_000);
    world.subscribe(1, "c", 100);
    world.advance_ms(3_000);
    assert_eq!(world.stored.bounds().first, Offset(5));
    let stats = world.stats("c");
    assert_eq!((stats.dropped, stats.in_flight), (5, 5));
    world.said.clear();
    world.settle(1, 3, 1, 10, Verdict::Ack);
    world.expect(&["c1 settled 3 stale [1-5]"]);
    assert_eq!(world.stats("c").acked, 5);
}

#[test]
fn the_log_goes_only_once_every_channel_has_stored_its_loss() {
    let mut world = kept(by_age(10));
    world.admin(1, TopicAction::CreateChannel(channel("c"), StartAt::Earliest));
    world.publish(1, 1, 3);
    world.advance_ms(9_000);
    world.hold_commits = true;
    world.advance_ms(1_200);
    assert_eq!(world.stats("c").dropped, 3);
    let (batch, _) = world.commit.as_ref().expect("the loss is stored");
    let keys: Vec<_> = batch.ops().iter().map(|op| format!("{op:?}")).collect();
    assert!(keys.iter().any(|op| op.contains("c/t/c")) && keys.iter().any(|op| op.contains("Tru")));
    // Lost with the process: it is found out and told again.
    world.said.clear();
    world.hold_commits = false;
    world.restart();
    assert_eq!(world.stats("c").dropped, 3);
    assert_eq!(removed(&mut world)[0].dropped, [(channel("c"), 3)]);
    world.advance_ms(100);
    assert_eq!(world.stored.bounds().first, Offset(3));
}

#[test]
fn a_removal_that_could_not_be_stored_is_tried_again_and_told_once() {
    let mut world = kept(by_age(10));
    world.admin(1, TopicAction::CreateChannel(channel("c"), StartAt::Earliest));
    world.publish(1, 1, 3);
    world.advance_ms(9_000);
    world.hold_commits = true;
    world.advance_ms(1_200);
    world.fail(full());
    world.advance_ms(200);
    world.commit();
    assert_eq!(world.stored.bounds().first, Offset(3));
    assert_eq!(removed(&mut world).len(), 1);
    assert_eq!(world.stats("c").dropped, 3);
}

#[test]
fn marks_that_cannot_be_stored_are_tried_again_with_pauses() {
    let mut world = kept(Retention { keep: Keep::All, ..by_age(64) });
    world.publish(1, 1, 3);
    world.hold_commits = true;
    let mut tries = 0;
    for _ in 0..100 {
        world.advance_ms(100);
        if world.commit.is_some() {
            tries += 1;
            world.fail(full());
        }
    }
    assert!((3..15).contains(&tries), "{tries} in ten seconds");
    world.hold_commits = false;
    world.advance_ms(64_000);
    assert_eq!(world.stored.bounds().first, Offset(3));
}

#[test]
fn restarts_keep_ages_and_sizes() {
    let mut world = kept(Retention { keep: Keep::All, ..by_age(64) });
    for second in 0..40 {
        world.publish(1, second * 10 + 1, 10);
        world.advance_ms(1_000);
    }
    let bytes = world.topic.stats().bytes;
    world.event(Event::Stop);
    world.restart();
    assert_eq!(world.topic.stats().bytes, bytes);
    world.now.wall = world.now.wall.plus(Duration::from_secs(10));
    world.restart();
    world.advance_ms(34_000);
    let first = world.stored.bounds().first.0;
    assert!((180..=200).contains(&first), "84 s after the first, 44 after the last: {first}");
}

#[test]
fn after_a_kill_what_came_last_is_kept_for_longer_and_never_for_ever() {
    let mut world = kept(Retention { keep: Keep::All, ..by_age(64) });
    world.publish(1, 1, 3);
    world.advance_ms(500);
    for _ in 0..10 {
        world.restart();
        world.advance_ms(10_000);
    }
    assert_eq!(world.stored.bounds().first, Offset(3));
}

#[test]
fn a_clock_that_steps_changes_no_age_while_the_node_runs() {
    for step in [-500_000_000i64, 500_000_000] {
        let mut world = kept(Retention { keep: Keep::All, ..by_age(64) });
        world.publish(1, 1, 3);
        world.advance_ms(30_000);
        world.now.wall.0 = world.now.wall.0.saturating_add_signed(step);
        world.publish(1, 4, 3);
        world.advance_ms(33_000);
        assert_eq!(world.stored.bounds().first, Offset(0));
        world.event(Event::Stop);
        world.restart();
        world.advance_ms(2_000);
        assert_eq!(world.stored.bounds().first, Offset(3));
        world.advance_ms(30_000);
        assert_eq!(world.stored.bounds().first, Offset(6));
    }
}

#[test]
fn a_topic_can_be_altered_and_what_was_asked_holds_once_it_is_stored() {
    let mut world = kept(all());
    world.subscribe(1, "c", 100);
    world.publish(1, 1, 10);
    world.ack(1, 1, 5);
    world.advance_ms(100_000);
    world.hold_commits = true;
    world.said.clear();
    world.admin(1, TopicAction::Alter(by_age(50).into()));
    assert_eq!(world.topic.settings().retention, all());
    world.fail(full());
    world.expect(&["a1 refused: store_full"]);
    assert_eq!(world.topic.settings().retention, all());
    assert_eq!(world.stats("c").dropped, 0);
    world.hold_commits = false;
    world.admin(2, TopicAction::Alter(Retention::default().into()));
    world.expect(&["a2 done"]);
    world.advance_ms(100);
    assert_eq!(world.stored.bounds().first, Offset(5), "acked, and kept no longer");
    world.admin(3, TopicAction::Alter(by_age(50).into()));
    world.advance_ms(100);
    let stats = world.stats("c");
    assert_eq!((stats.dropped, stats.acked), (5, 5), "it was older than that already");
    world.restart();
    assert_eq!(world.topic.settings().retention, by_age(50));
    assert_eq!(world.stored.bounds().first, Offset(10));
}

#[test]
fn altering_and_pausing_at_once_lose_neither() {
    let mut world = kept(all());
    world.publish(1, 1, 1);
    world.hold_commits = true;
    world.publish(1, 2, 1);
    for (request, action) in [
        (1, TopicAction::Pause(true)),
        (2, TopicAction::Alter(by_bytes(5_000_000).into())),
        (3, TopicAction::Pause(false)),
        (4, TopicAction::Pause(true)),
    ] {
        world.admin(request, action);
    }
    world.hold_commits = false;
    world.commit();
    world.restart();
    let stats = world.topic.stats();
    assert_eq!((stats.settings.retention, stats.paused), (by_bytes(5_000_000), true));
}

#[test]
fn a_topic_without_limits_pays_nothing_for_small_traffic() {
    let mut world = World::ready();
    world.subscribe(1, "c", 1_000);
    for sequence in 1..=100 {
        world.publish(1, sequence, 1);
        world.ack(1, sequence, sequence);
    }
    world.advance_ms(10_000);
    assert_eq!(marks_put(&world), 0);
    assert_eq!(world.topic.stats().bytes, 0, "all is acked and gone");
    assert_eq!(world.topic.poll_timeout(), None);
}

#[test]
fn a_channel_that_is_being_made_begins_behind_what_is_removed() {
    let mut world = kept(by_age(10));
    world.publish(1, 1, 3);
    world.advance_ms(9_990);
    world.hold_commits = true;
    world.admin(1, TopicAction::CreateChannel(channel("c"), StartAt::Earliest));
    assert!(world.commit.is_some());
    world.advance_ms(20);
    world.publish(1, 4, 1);
    world.hold_commits = false;
    world.commit();
    world.advance_ms(100);
    let stats = world.stats("c");
    assert_eq!((stats.start, stats.dropped, stats.waiting), (Offset(0), 3, 1));
    assert_eq!(world.stored.bounds().first, Offset(3));
    assert_eq!(world.topic.settings().durability, Durability::Disk);
}
