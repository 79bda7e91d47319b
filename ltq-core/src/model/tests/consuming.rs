//! Subscribing, credit, turns, settling, timeouts and redelivery.

use std::time::Duration;

use crate::{
    Credit, Offset, Settlement, StartAt, Timestamp, TopicSettings, Verdict,
    model::{
        Event, ModelSettings, SessionId, TopicAction,
        testing::{World, channel, consumer, credit, tags},
    },
};

fn limits(change: impl FnOnce(&mut ModelSettings)) -> World {
    let mut limits = ModelSettings::default();
    change(&mut limits);
    let mut world = World::with(TopicSettings::default(), limits);
    world.open(1);
    world.said.clear();
    world
}

#[test]
fn promise_2_messages_wait_for_the_first_channel_and_reach_every_channel() {
    let mut world = World::ready();
    world.publish(1, 1, 3);
    world.said.clear();
    world.subscribe(1, "a", 10);
    world.subscribe(2, "b", 10);
    world.publish(1, 4, 1);
    world.expect(&[
        "c1 subscribed",
        "c1 got 0-2 tag 1 try 1",
        "c2 subscribed",
        "c2 got 0-2 tag 1 try 1",
        "p1 confirmed 4+1@3 disk",
        "c1 got 3-3 tag 4 try 1",
        "c2 got 3-3 tag 4 try 1",
    ]);
}

#[test]
fn promise_2_a_new_channel_is_stored_before_anyone_is_in_it() {
    let mut world = World::ready();
    world.hold_commits = true;
    world.subscribe(1, "c", 10);
    world.expect(&[]);
    assert!(world.topic.stats().channels.is_empty());
    world.commit();
    world.expect(&["c1 subscribed"]);
    assert!(world.stored.values.contains_key("c/t/c".as_bytes()));
}

#[test]
fn a_channel_starts_where_it_is_told_to() {
    let mut world = World::ready();
    world.publish(1, 1, 4);
    world.advance_ms(1_000);
    let later = world.now.wall;
    world.publish(1, 5, 4);
    let starts = [
        ("earliest", StartAt::Earliest, 0),
        ("latest", StartAt::Latest, 8),
        ("offset", StartAt::Offset(Offset(3)), 3),
        ("beyond", StartAt::Offset(Offset(99)), 8),
        ("time", StartAt::Time(later), 4),
        ("future", StartAt::Time(Timestamp(later.0 + 1)), 8),
    ];
    for (handle, (name, start, expected)) in (1..).zip(starts) {
        world.subscribe_at(handle, name, 1, start);
        assert_eq!(world.stats(name).start, Offset(expected), "{name}");
    }
    world.said.clear();
    world.subscribe_at(9, "earliest", 1, StartAt::Latest);
    assert_eq!(world.stats("earliest").start, Offset(0), "one that exists stays where it is");
}

#[test]
fn latest_is_behind_what_was_published_before() {
    let mut world = World::ready();
    world.hold_commits = true;
    world.publish(1, 1, 2);
    world.tell_publish(1, 3, 2);
    world.subscribe_at(1, "c", 10, StartAt::Latest);
    world.tell_publish(1, 5, 1);
    world.run();
    world.commit();
    world.commit();
    world.expect(&[
        "p1 confirmed 1+2@0 disk",
        "p1 confirmed 3+3@2 disk",
        "c1 subscribed",
        "c1 got 4-4 tag 1 try 1",
    ]);
}

#[test]
fn what_may_not_be_subscribed_is_refused() {
    let mut world = limits(|limits| (limits.channels_max, limits.consumers_max) = (1, 2));
    let subscribe = |handle, name, create, timeout| Event::Subscribe {
        consumer: consumer(handle),
        channel: channel(name),
        start: StartAt::Earliest,
        create,
        timeout: Some(Duration::from_millis(timeout)),
        credit: credit(1),
        claim: None,
    };
    for event in [
        subscribe(1, "a", false, 1),
        subscribe(1, "a", true, 0),
        subscribe(1, "a", true, 15 * 60 * 1_000 + 1),
        subscribe(1, "a", true, 15 * 60 * 1_000),
        subscribe(1, "a", true, 1),
        subscribe(2, "b", true, 1),
        subscribe(2, "a", false, 1),
        subscribe(3, "a", false, 1),
    ] {
        world.event(event);
    }
    world.expect(&[
        "c1 not subscribed: no_such_channel",
        "c1 not subscribed: out_of_range",
        "c1 not subscribed: out_of_range",
        "c1 subscribed",
        "c1 not subscribed: handle_in_use",
        "c2 not subscribed: limit_reached",
        "c2 subscribed",
        "c3 not subscribed: limit_reached",
    ]);
}

#[test]
fn a_consumer_may_speak_before_its_channel_exists() {
    let mut world = World::ready();
    world.publish(1, 1, 9);
    world.said.clear();
    world.hold_commits = true;
    world.subscribe(1, "c", 0);
    world.full.insert(consumer(1));
    world.grant(1, 5);
    world.settle(1, 7, 1, 1, Verdict::Ack);
    world.subscribe(2, "c", 3);
    world.event(Event::Unsubscribe { consumer: consumer(2) });
    world.subscribe(2, "c", 1);
    world.commit();
    world.expect(&[
        "c1 settled 7 stale [1-1]",
        "c2 closed",
        "c1 subscribed",
        "c2 subscribed",
        "c2 got 0-0 tag 1 try 1",
    ]);
    world.full.clear();
    world.event(Event::Release { consumer: consumer(1) });
    world.expect(&["c1 got 1-5 tag 1 try 1"]);
}

#[test]
fn two_idle_consumers_share_a_burst() {
    let mut world = World::ready();
    world.subscribe(1, "c", 100);
    world.subscribe(2, "c", 100);
    world.said.clear();
    world.publish(1, 1, 10);
    world.publish(1, 11, 1);
    world.publish(1, 12, 1);
    world.expect(&[
        "p1 confirmed 1+10@0 disk",
        "c1 got 0-4 tag 1 try 1",
        "c2 got 5-9 tag 1 try 1",
        "p1 confirmed 11+1@10 disk",
        "c1 got 10-10 tag 6 try 1",
        "p1 confirmed 12+1@11 disk",
        "c2 got 11-11 tag 6 try 1",
    ]);
}

#[test]
fn nobody_with_credit_starves_and_a_lone_consumer_gets_long_runs() {
    let mut world = limits(|limits| limits.run_messages_max = 3);
    for handle in 1..=3 {
        world.subscribe(handle, "c", 4);
    }
    world.said.clear();
    world.publish(1, 1, 12);
    let mut said = world.said();
    said.sort();
    assert_eq!(
        said,
        [
            "c1 got 0-2 tag 1 try 1",
            "c1 got 9-9 tag 4 try 1",
            "c2 got 10-10 tag 4 try 1",
            "c2 got 3-5 tag 1 try 1",
            "c3 got 11-11 tag 4 try 1",
            "c3 got 6-8 tag 1 try 1",
            "p1 confirmed 1+12@0 disk",
        ]
    );
}

#[test]
fn credit_in_messages_and_bytes_is_kept() {
    let mut world = World::ready();
    world.publish(1, 1, 10);
    world.said.clear();
    let credit = |messages, bytes| Credit { messages, bytes };
    world.event(Event::Subscribe {
        consumer: consumer(1),
        channel: channel("c"),
        start: StartAt::Earliest,
        create: true,
        timeout: None,
        // A message is 5 bytes long.
        credit: credit(100, 1),
        claim: None,
    });
    world.expect(&["c1 subscribed", "c1 got 0-0 tag 1 try 1"]);
    world.event(Event::Credit { consumer: consumer(1), total: credit(100, 5) });
    world.expect(&[]);
    world.event(Event::Credit { consumer: consumer(1), total: credit(100, 1_000) });
    assert_eq!(world.stats("c").in_flight, 10);
    world.publish(1, 11, 95);
    assert_eq!(world.stats("c").in_flight, 100);
}

#[test]
fn promise_9_nothing_is_sent_beyond_what_credit_was_made_smaller_to() {
    let mut world = World::ready();
    world.subscribe(1, "c", 10);
    world.publish(1, 1, 4);
    world.said.clear();
    world.grant(1, 6);
    world.expect(&["c1 credited 6, 1048576 bytes"]);
    world.publish(1, 5, 4);
    world.expect(&["p1 confirmed 5+4@4 disk", "c1 got 4-5 tag 5 try 1"]);
    // What was sent is not taken back.
    world.grant(1, 1);
    world.expect(&["c1 credited 6, 1048576 bytes"]);
    // The line goes on without it, and it stands in it again when it takes more.
    world.subscribe(2, "c", 1);
    world.expect(&["c2 subscribed", "c2 got 6-6 tag 1 try 1"]);
    world.grant(1, 6);
    world.expect(&[]);
    world.grant(1, 7);
    world.expect(&["c1 got 7-7 tag 7 try 1"]);
    world.ack(1, 1, 7);
    world.ack(2, 1, 1);
    assert_eq!(world.stats("c").acked, 8);
}

#[test]
fn credit_is_taken_back_from_who_is_gone_or_waits_for_its_channel() {
    let mut world = World::ready();
    world.hold_commits = true;
    world.subscribe(1, "c", 10);
    world.grant(1, 3);
    world.grant(1, 2);
    world.grant(1, 2);
    world.expect(&["c1 credited 3, 1048576 bytes", "c1 credited 2, 1048576 bytes"]);
    world.hold_commits = false;
    world.commit();
    world.expect(&["c1 subscribed"]);
    world.publish(1, 1, 5);
    world.expect(&["p1 confirmed 1+5@0 disk", "c1 got 0-1 tag 1 try 1"]);
    world.event(Event::Unsubscribe { consumer: consumer(1) });
    world.grant(1, 0);
    world.expect(&["c1 closed"]);
}

#[test]
fn a_run_is_bounded_in_bytes() {
    let mut world = limits(|limits| limits.run_bytes_max = 30);
    world.subscribe(1, "c", 100);
    world.said.clear();
    world.publish(1, 1, 5);
    world.expect(&[
        "p1 confirmed 1+5@0 disk",
        "c1 got 0-1 tag 1 try 1",
        "c1 got 2-3 tag 3 try 1",
        "c1 got 4-4 tag 5 try 1",
    ]);
}

#[test]
fn who_is_held_gets_nothing_until_released() {
    let mut world = World::ready();
    world.subscribe(1, "c", 100);
    world.full.insert(consumer(1));
    world.publish(1, 1, 2);
    world.said.clear();
    world.full.clear();
    world.event(Event::Release { consumer: consumer(1) });
    world.expect(&["c1 got 0-1 tag 1 try 1"]);
}

#[test]
fn acks_come_one_by_one_in_ranges_and_cumulatively() {
    let mut world = World::ready();
    world.subscribe(1, "c", 100);
    world.publish(1, 1, 20);
    world.said.clear();
    world.ack(1, 5, 5);
    world.ack(1, 10, 12);
    assert_eq!(world.stats("c").floor, Offset(0));
    world.ack(1, 1, 4);
    assert_eq!(world.stats("c").floor, Offset(5));
    world.expect(&[]);
    world.settle(1, 3, 0, 13, Verdict::Ack);
    world.expect(&["c1 settled 3 stale [10-12]"]);
    let stats = world.stats("c");
    assert_eq!((stats.floor, stats.acked, stats.in_flight), (Offset(13), 13, 7));
    world.settle(1, 4, 0, u64::MAX, Verdict::Ack);
    world.expect(&[&format!("c1 settled 4 stale [21-{}]", u64::MAX)]);
    let stats = world.stats("c");
    assert_eq!((stats.acked, stats.in_flight, stats.stale), (20, 0, 3));
}

#[test]
fn promise_3_only_the_newest_delivery_can_settle() {
    let mut world = World::ready();
    world.subscribe(1, "c", 100);
    world.publish(1, 1, 4);
    world.said.clear();
    world.requeue(1, 2, 3, 0);
    world.expect(&["c1 got 1-2 tag 5 try 2"]);
    world.ack(1, 1, 4);
    world.expect(&["c1 settled 0 stale [2-3]"]);
    assert_eq!(world.stats("c").in_flight, 2);
    for verdict in [Verdict::Requeue { delay_ms: 0 }, Verdict::Touch, Verdict::Ack] {
        world.settle(1, 0, 1, 4, verdict);
        world.expect(&["c1 settled 0 stale [1-4]"]);
    }
    world.ack(1, 5, 6);
    world.expect(&[]);
    assert_eq!(world.stats("c").acked, 4);
    world.settle(9, 1, 1, 1, Verdict::Ack);
    world.settle(9, 0, 1, 1, Verdict::Ack);
    world.expect(&["c9 settled 1 stale [1-1]", "c9 settled 0 stale [1-1]"]);
}

#[test]
fn one_request_may_hold_many_settlements() {
    let mut world = World::ready();
    world.subscribe(1, "c", 6);
    world.publish(1, 1, 6);
    world.said.clear();
    let settlement = |first, last, verdict| Settlement { tags: tags(first, last), verdict };
    world.event(Event::Settle {
        consumer: consumer(1),
        request: 8,
        settlements: vec![
            settlement(1, 2, Verdict::Ack),
            settlement(2, 3, Verdict::Ack),
            settlement(4, 4, Verdict::Requeue { delay_ms: 50 }),
            settlement(4, 5, Verdict::Touch),
            settlement(6, 7, Verdict::Requeue { delay_ms: 0 }),
        ],
    });
    world.expect(&["c1 settled 8 stale [2-2 4-4 7-7]"]);
    let stats = world.stats("c");
    let states = (stats.acked, stats.delayed, stats.in_flight, stats.waiting);
    assert_eq!(states, (3, 1, 1, 1));
}

#[test]
fn what_comes_back_goes_out_before_what_is_new_in_order() {
    let mut world = World::ready();
    world.subscribe(1, "c", 6);
    world.publish(1, 1, 9);
    world.said.clear();
    world.requeue(1, 5, 5, 0);
    world.requeue(1, 1, 2, 0);
    world.grant(1, 100);
    world.expect(&["c1 got 0-1 tag 7 try 2", "c1 got 4-4 tag 9 try 2", "c1 got 6-8 tag 10 try 1"]);
    let stats = world.stats("c");
    assert_eq!((stats.delivered, stats.redelivered, stats.requeued), (12, 3, 3));
}

#[test]
fn promise_14_a_delay_is_never_short_and_never_beyond_the_limit() {
    let mut world = limits(|limits| limits.requeue_delay_max = Duration::from_millis(100));
    world.subscribe(1, "c", 100);
    world.publish(1, 1, 2);
    world.said.clear();
    world.requeue(1, 1, 1, 50);
    world.requeue(1, 2, 2, u64::MAX);
    world.advance(Duration::from_micros(49_999));
    world.expect(&[]);
    world.advance(Duration::from_micros(1));
    world.expect(&["c1 got 0-0 tag 3 try 2"]);
    world.advance_ms(49);
    world.expect(&[]);
    world.advance_ms(1);
    world.expect(&["c1 got 1-1 tag 4 try 2"]);
}

#[test]
fn a_delivery_times_out_exactly() {
    let mut world = World::ready();
    world.subscribe(1, "c", 3);
    world.publish(1, 1, 2);
    world.advance_ms(10_000);
    world.publish(1, 3, 1);
    world.said.clear();
    world.settle(1, 0, 2, 2, Verdict::Touch);
    world.advance_ms(49_999);
    world.expect(&[]);
    world.grant(1, 100);
    world.advance_ms(1);
    world.expect(&["c1 got 0-0 tag 4 try 2"]);
    world.settle(1, 1, 1, 1, Verdict::Ack);
    world.expect(&["c1 settled 1 stale [1-1]"]);
    world.advance_ms(9_999);
    world.expect(&[]);
    world.advance_ms(1);
    // Two, since they were stored at two times.
    world.expect(&["c1 got 1-1 tag 5 try 2", "c1 got 2-2 tag 6 try 2"]);
    assert_eq!(world.stats("c").timed_out, 3);
}

#[test]
fn touching_does_not_hold_a_message_for_ever() {
    let mut world = limits(|limits| limits.delivery_timeout_max = Duration::from_secs(100));
    world.subscribe(1, "c", 1);
    world.publish(1, 1, 1);
    for _ in 0..9 {
        world.advance_ms(10_000);
        world.settle(1, 0, 1, 1, Verdict::Touch);
    }
    world.advance_ms(9_999);
    assert_eq!(world.stats("c").in_flight, 1);
    world.advance_ms(1);
    assert_eq!(world.stats("c").in_flight, 0);
}

#[test]
fn promise_11_what_a_leaving_consumer_had_goes_to_the_others_at_once() {
    let mut world = World::ready();
    world.subscribe(1, "c", 4);
    world.publish(1, 1, 6);
    world.ack(1, 2, 2);
    world.subscribe(2, "c", 1);
    world.said.clear();
    world.event(Event::Unsubscribe { consumer: consumer(1) });
    world.grant(2, 100);
    world.expect(&[
        "c1 closed",
        "c2 got 0-0 tag 2 try 2",
        "c2 got 2-3 tag 3 try 2",
        "c2 got 5-5 tag 5 try 1",
    ]);
    world.event(Event::Unsubscribe { consumer: consumer(1) });
    world.expect(&[]);
    world.event(Event::SessionEnded { session: SessionId(1) });
    world.expect(&[]);
    assert_eq!((world.stats("c").waiting, world.stats("c").consumers), (5, 0));
    assert_eq!(world.topic.stats().producers, 0);
}

#[test]
fn pausing_stops_deliveries_and_nothing_else() {
    for (pause, resume) in [
        (TopicAction::Pause(true), TopicAction::Pause(false)),
        (
            TopicAction::PauseChannel(channel("c"), true),
            TopicAction::PauseChannel(channel("c"), false),
        ),
    ] {
        let mut world = World::ready();
        world.subscribe(1, "c", 100);
        world.publish(1, 1, 3);
        world.said.clear();
        world.admin(1, pause);
        world.publish(1, 4, 1);
        world.ack(1, 1, 1);
        world.requeue(1, 2, 2, 0);
        world.advance_ms(60_000);
        world.expect(&["a1 done", "p1 confirmed 4+1@3 disk"]);
        assert_eq!(world.stats("c").timed_out, 1);
        world.restart();
        world.subscribe(1, "c", 100);
        world.expect(&["c1 subscribed"]);
        world.admin(2, resume);
        world.expect(&["a2 done", "c1 got 1-2 tag 1 try 2", "c1 got 3-3 tag 3 try 1"]);
    }
}

#[test]
fn channels_are_made_and_deleted_by_operators() {
    let mut world = World::ready();
    world.publish(1, 1, 2);
    world.said.clear();
    world.admin(1, TopicAction::CreateChannel(channel("c"), StartAt::Latest));
    world.admin(2, TopicAction::CreateChannel(channel("c"), StartAt::Earliest));
    assert_eq!(world.stats("c").start, Offset(2));
    world.subscribe(1, "c", 1);
    world.admin(3, TopicAction::DeleteChannel(channel("c")));
    world.admin(4, TopicAction::DeleteChannel(channel("c")));
    world.admin(5, TopicAction::PauseChannel(channel("c"), true));
    world.admin(6, TopicAction::Ensure);
    world.admin(7, TopicAction::Show);
    world.expect(&[
        "a1 done",
        "a2 done",
        "c1 subscribed",
        "c1 closed: channel_deleted",
        "a3 done",
        "a4 refused: no_such_channel",
        "a5 refused: no_such_channel",
        "a6 done",
        "a7 done",
    ]);
    assert!(!world.stored.values.contains_key("c/t/c".as_bytes()));
    world.subscribe(1, "c", 1);
    world.expect(&["c1 subscribed", "c1 got 0-0 tag 1 try 1"]);
}

#[test]
fn a_channel_deleted_and_made_again_in_one_breath_starts_anew() {
    let mut world = World::ready();
    world.subscribe(1, "c", 1);
    world.publish(1, 1, 3);
    world.said.clear();
    let request = |request| crate::model::RequestId { session: SessionId(1), request };
    for (number, action) in [
        (1, TopicAction::DeleteChannel(channel("c"))),
        (2, TopicAction::CreateChannel(channel("c"), StartAt::Offset(Offset(1)))),
        (3, TopicAction::PauseChannel(channel("c"), true)),
        (4, TopicAction::DeleteChannel(channel("c"))),
        (5, TopicAction::CreateChannel(channel("c"), StartAt::Offset(Offset(2)))),
    ] {
        world.tell(Event::Admin { request: request(number), action });
    }
    world.run();
    world.expect(&[
        "c1 closed: channel_deleted",
        "a1 done",
        "a2 done",
        "a3 done",
        "a4 done",
        "a5 done",
    ]);
    assert_eq!((world.stats("c").start, world.stats("c").paused), (Offset(2), false));
}

#[test]
fn promise_9_a_channel_in_too_many_pieces_delivers_nothing_new() {
    let mut world = limits(|limits| limits.channel_runs_max = 8);
    world.subscribe(1, "c", 1_000);
    world.publish(1, 1, 100);
    for tag in 1..=6 {
        world.requeue(1, tag * 3, tag * 3, 1_000 + tag);
    }
    world.said.clear();
    world.publish(1, 101, 5);
    world.expect(&["p1 confirmed 101+5@100 disk"]);
    world.advance_ms(1_100);
    world.ack(1, 0, 200);
    let said = world.said();
    assert!(said.iter().any(|said| said.starts_with("c1 got 100-104")), "{said:?}");
}

#[test]
fn promise_5_who_is_alone_gets_what_is_left_once_others_have_settled_what_they_had() {
    for settled in ["acked", "requeued", "timed out", "left"] {
        let mut world = World::ready();
        world.subscribe(1, "c", 2);
        world.publish(1, 1, 6);
        world.subscribe(2, "c", 0);
        world.event(Event::Alone { consumer: consumer(2) });
        world.event(Event::Credit { consumer: consumer(2), total: credit(100) });
        // What it grants is for later.
        world.grant(1, 4);
        world.said.clear();
        world.expect(&[]);
        let first = match settled {
            "acked" => {
                world.settle(1, 0, 1, 1, Verdict::Ack);
                world.expect(&[]);
                world.settle(1, 0, 2, 2, Verdict::Ack);
                2
            }
            "requeued" => {
                world.settle(1, 0, 1, 2, Verdict::Requeue { delay_ms: 0 });
                0
            }
            "timed out" => {
                world.advance(ModelSettings::default().delivery_timeout);
                0
            }
            _ => {
                world.event(Event::Unsubscribe { consumer: consumer(1) });
                0
            }
        };
        let said = world.said().join("; ");
        let got = match first {
            0 => "c2 got 0-1 tag 1 try 2; c2 got 2-5 tag 3 try 1",
            _ => "c2 got 2-5 tag 1 try 1",
        };
        assert!(said.ends_with(got), "{settled}: {said}");
        // What it gives back is for whoever is there next.
        world.event(Event::Unsubscribe { consumer: consumer(2) });
        let said = world.said().join("; ");
        assert_eq!(said.contains("c1 got"), settled != "left", "{settled}: {said}");
    }
}
