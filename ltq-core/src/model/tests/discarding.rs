//! What is given up in the middle of the log, and what channels make of it.

use crate::{
    Keep, Offset, Retention, StartAt, TopicSettings, WriteOp,
    model::{
        Event, ModelSettings, TopicAction,
        run_set::Run,
        testing::{World, channel, consumer, full, run, topic_name},
    },
};

fn world(retention: Retention) -> World {
    let settings = TopicSettings { retention, ..TopicSettings::default() };
    let limits =
        ModelSettings { mark_bytes: 200, discard_bytes: 2_000, ..ModelSettings::default() };
    let mut world = World::with(settings, limits);
    world.open(1);
    world.subscribe(1, "c", 2_500);
    for sequence in 0..100 {
        world.publish(1, sequence * 10 + 1, 10);
    }
    world.advance_ms(2_000);
    world.said.clear();
    world
}

/// What was discarded so far.
fn discards(world: &World) -> Vec<Run> {
    let ops = world.commits.iter().flat_map(|(_, batch)| batch.ops());
    ops.filter_map(|op| match *op {
        WriteOp::Discard { from, until, .. } => Some(Run::new(from, until)),
        _ => None,
    })
    .collect()
}

fn offsets(world: &World) -> Vec<u64> {
    world.stored.bodies().into_iter().map(|(offset, _)| offset).collect()
}

#[test]
fn one_message_left_unacked_does_not_keep_the_log() {
    let mut world = world(Retention::default());
    world.ack(1, 2, 1_000);
    world.advance_ms(100);
    assert_eq!(discards(&world), [run(1, 1_000)]);
    assert_eq!(offsets(&world), [0]);
    assert_eq!(world.stored.bounds().first, Offset(0));
    assert!(world.topic.stats().bytes < 200, "{}", world.topic.stats().bytes);
    // It goes on so, a stretch for each good part.
    for sequence in 100..200 {
        world.publish(1, sequence * 10 + 1, 10);
        world.ack(1, sequence * 10 + 1, sequence * 10 + 10);
        world.advance_ms(100);
    }
    assert!((2..20).contains(&discards(&world).len()), "{:?}", discards(&world));
    assert!(offsets(&world).len() < 300);
    world.ack(1, 1, 1);
    world.advance_ms(100);
    assert_eq!((world.stored.bounds().first, world.stats("c").acked), (Offset(2_000), 2_000));
    assert_eq!(world.topic.window.discarded().runs(), 0);
}

#[test]
fn promise_9_what_was_acked_last_is_given_up_though_nothing_happens_any_more() {
    let mut world = world(Retention::default());
    world.ack(1, 2, 500);
    world.advance_ms(100);
    assert_eq!(discards(&world), [run(1, 500)]);
    // Sooner than it looks again, and nothing comes after it.
    world.ack(1, 501, 1_000);
    world.advance_ms(100);
    assert_eq!(discards(&world).len(), 1);
    world.advance_ms(2_000);
    assert_eq!(discards(&world), [run(1, 500), run(500, 1_000)]);
    assert_eq!(offsets(&world), [0]);
    let commits = world.commits.len();
    world.advance_ms(30_000);
    assert_eq!(world.commits.len(), commits, "an idle topic rests");
}

#[test]
fn promise_9_a_channel_that_goes_takes_what_it_alone_wanted_with_it() {
    let mut world = world(Retention::default());
    world.subscribe(2, "d", 2_500);
    world.ack(1, 2, 1_000);
    world.advance_ms(2_000);
    assert_eq!(discards(&world), []);
    world.admin(1, TopicAction::DeleteChannel(channel("d")));
    world.advance_ms(2_000);
    assert_eq!(discards(&world), [run(1, 1_000)]);
}

#[test]
fn promise_9_what_was_acked_before_a_restart_is_given_up_after_it() {
    let mut world = world(Retention::default());
    world.ack(1, 2, 500);
    world.advance_ms(100);
    world.ack(1, 501, 1_000);
    world.advance_ms(100);
    assert_eq!(offsets(&world).len(), 501);
    world.restart();
    world.advance_ms(2_000);
    assert_eq!(offsets(&world), [0]);
}

#[test]
fn what_is_left_comes_again_and_nothing_is_damaged_or_dropped() {
    let mut world = world(Retention::default());
    world.ack(1, 2, 500);
    world.ack(1, 502, 1_000);
    world.advance_ms(100);
    assert_eq!(offsets(&world), [0, 500]);
    for restart in [false, true] {
        if restart {
            world.restart();
        }
        let (handle, name) = if restart { (3, "after") } else { (2, "before") };
        world.said.clear();
        world.subscribe(handle, name, 100);
        let got = world.said();
        assert_eq!(got.len(), 3, "{got:?}");
        let stats = world.stats(name);
        assert_eq!((stats.in_flight, stats.waiting, stats.acked), (2, 0, 998), "promise 13");
        assert_eq!((stats.damaged, stats.dropped), (0, 0));
        let lone = StartAt::Offset(Offset(7));
        world.subscribe_at(handle + 10, &format!("{name}-7"), 100, lone);
        assert_eq!(world.stats(&format!("{name}-7")).in_flight, 1);
    }
    let stats = world.stats("c");
    assert_eq!((stats.acked, stats.waiting), (998, 2));
    world.advance_ms(5_000);
    assert_eq!(discards(&world).len(), 2, "once");
}

/// Whoever gave such a message back would not have got it again.
#[test]
fn promise_2_what_was_discarded_is_not_delivered_because_it_is_still_in_memory() {
    let mut world = world(Retention::default());
    // It wants the last one still, of what was read for it at once.
    world.subscribe(2, "d", 999);
    for handle in [1, 2] {
        world.ack(handle, 2, 500);
        world.ack(handle, 502, 999);
    }
    world.advance_ms(100);
    assert_eq!(offsets(&world), [0, 500, 999]);
    assert!(world.topic.window.bytes() > 0, "it is there as it was read");
    world.subscribe(3, "e", 2_500);
    let stats = world.stats("e");
    assert_eq!((stats.in_flight, stats.waiting, stats.acked), (3, 0, 997));
    world.requeue(3, 2, 2, 0);
    assert_eq!((world.stats("e").in_flight, world.stats("e").redelivered), (3, 1));
}

#[test]
fn promise_2_what_one_channel_wants_stays() {
    let mut world = world(Retention::default());
    world.subscribe(2, "d", 2_500);
    world.ack(1, 2, 1_000);
    world.advance_ms(1_100);
    assert_eq!(discards(&world), []);
    world.ack(2, 100, 700);
    world.advance_ms(1_100);
    assert_eq!(discards(&world), [run(99, 700)]);
    world.admin(1, TopicAction::CreateChannel(channel("e"), StartAt::Offset(Offset(800))));
    world.ack(2, 2, 1_000);
    world.advance_ms(1_100);
    let kept: Vec<_> = [0].into_iter().chain(800..1_000).collect();
    assert_eq!(offsets(&world).last(), kept.last());
    assert!(offsets(&world).iter().filter(|&&offset| offset >= 800).count() == 200);
}

#[test]
fn promise_2_only_what_the_store_knows_to_be_acked_is_discarded() {
    let mut world = world(Retention::default());
    world.subscribe(2, "d", 2_500);
    world.ack(1, 2, 1_000);
    world.advance_ms(1_100);
    world.hold_commits = true;
    world.ack(2, 2, 1_000);
    world.advance_ms(1_100);
    let (batch, _) = world.commit.clone().expect("a commit");
    assert!(batch.ops().iter().any(|op| matches!(op, WriteOp::Discard { .. })));
    let key = crate::model::keys::channel_key(&world.topic.name, &channel("d"));
    let put = |op: &WriteOp| matches!(op, WriteOp::Put { key: put, .. } if *put == key);
    assert!(batch.ops().iter().any(put), "with the state that says so");
    world.fail(full());
    assert_eq!(world.topic.window.discarded().runs(), 0);
    world.hold_commits = false;
    world.advance_ms(3_000);
    world.ack(1, 1, 1);
    world.advance_ms(100);
    assert_eq!(offsets(&world), [0]);
}

#[test]
fn promises_2_and_9_what_did_not_fit_into_a_commit_is_not_discarded_with_it() {
    let mut world = world(Retention::default());
    for sequence in 100..200 {
        world.publish(1, sequence * 10 + 1, 10);
    }
    world.subscribe(2, "d", 2_500);
    world.advance_ms(1_100);
    world.hold_commits = true;
    // One channel's state is all that there is room for.
    for tag in 1..650 {
        world.ack(1, tag * 2, tag * 2);
    }
    world.ack(1, 1_301, 2_000);
    world.ack(2, 1_301, 2_000);
    world.advance_ms(20);
    let key = |of| crate::model::keys::channel_key(&topic_name(), &channel(of));
    let (batch, _) = world.commit.clone().expect("a commit");
    let puts = |of| {
        let put = |op: &WriteOp| matches!(op, WriteOp::Put { key: put, .. } if *put == key(of));
        batch.ops().iter().any(put)
    };
    assert!(puts("c") && !puts("d"), "promise 9: the states in a commit are bounded");
    assert_eq!(discards(&world), [], "promise 2: the store does not know that d acked them");
    world.hold_commits = false;
    world.commit();
    // Once it does they go.
    world.advance_ms(1_100);
    world.ack(2, 1_300, 1_300);
    world.advance_ms(1_100);
    assert_eq!(discards(&world).last(), Some(&run(1_300, 2_000)));
    world.restart();
    let (c, d) = (world.stats("c"), world.stats("d"));
    assert_eq!((c.damaged, d.damaged, c.acked, d.acked), (0, 0, 1_349, 701));
}

#[test]
fn acks_out_of_order_and_topics_that_keep_all_discard_nothing() {
    let mut kept = world(Retention { keep: Keep::All, ..Retention::default() });
    kept.ack(1, 2, 1_000);
    kept.advance_ms(5_000);
    assert_eq!(discards(&kept), []);

    let mut world = world(Retention::default());
    world.ack(1, 0, 900);
    world.advance_ms(1_100);
    for round in 0..200u64 {
        // A consumer that works on forty messages at a time and answers them backwards.
        let first = 901 + round * 40;
        world.grant(1, first + 2_000);
        for tag in (first..first + 40).rev() {
            world.ack(1, tag, tag);
            world.advance_ms(1);
        }
        for publish in 0..4 {
            world.publish(1, 1_001 + round * 40 + publish * 10, 10);
        }
    }
    assert_eq!(discards(&world), []);
}

#[test]
fn what_was_discarded_does_not_count_against_a_limit() {
    let mut world = world(Retention { bytes_max: Some(40_000), ..Retention::default() });
    for sequence in 100..1_000 {
        world.publish(1, sequence * 10 + 1, 10);
        // The first message is never acked; the others at once.
        world.grant(1, sequence * 10 + 2_000);
        world.ack(1, if sequence == 100 { 2 } else { sequence * 10 + 1 }, sequence * 10 + 10);
        world.advance_ms(50);
        let stats = world.stats("c");
        assert_eq!(stats.dropped, 0, "{stats:?} {:?}", world.topic.stats());
    }
    assert_eq!(offsets(&world).first(), Some(&0));
    world.event(Event::Unsubscribe { consumer: consumer(1) });
    for sequence in 1_000..1_400 {
        world.publish(1, sequence * 10 + 1, 10);
    }
    world.advance_ms(100);
    assert!(world.stats("c").dropped > 0, "and what is kept does");
}

#[test]
fn promise_9_a_consumer_that_acks_every_second_message_makes_no_more_stretches_than_runs() {
    const RUNS_MAX: usize = 60;
    let limits = ModelSettings {
        mark_bytes: 200,
        discard_bytes: 200,
        channel_runs_max: RUNS_MAX,
        ..ModelSettings::default()
    };
    let mut world = World::with(TopicSettings::default(), limits);
    world.open(1);
    world.subscribe(1, "c", 10_000);
    let mut delivered = 0;
    for round in 0..12 {
        world.publish(1, round * 100 + 1, 100);
        let before = delivered;
        delivered = (round + 1) * 100 - world.stats("c").waiting;
        for tag in (before + 1..=delivered).filter(|tag| tag % 2 == 0) {
            world.ack(1, tag, tag);
        }
        world.advance_ms(1_100);
    }
    let gone: std::collections::BTreeSet<u64> =
        discards(&world).iter().flat_map(|run| run.first.0..run.end.0).collect();
    let stretches = gone.iter().filter(|&&at| !gone.contains(&(at + 1))).count();
    // What is in flight when it has so many may still be split by the way in which it is acked.
    assert!((20..=RUNS_MAX + 100).contains(&stretches), "{stretches} of {} discarded", gone.len());
    assert!(world.stats("c").waiting > 800, "{}", world.stats("c").waiting);
    let remembered = world.topic.window.discarded().runs();
    assert!((20..=RUNS_MAX).contains(&remembered), "{remembered} remembered");
}
