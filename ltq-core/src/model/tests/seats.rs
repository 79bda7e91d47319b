//! Seats: a consumer that comes again takes over what it had.

use crate::{
    Seat, StartAt, TopicSettings, Verdict,
    model::{
        Claim, Event, ModelSettings,
        testing::{World, channel, consumer, credit},
    },
};

/// A subscription with a seat, by the program of this name.
fn sit(handle: u32, to: &str, (owner, number, turn): (&str, u8, u64)) -> Event {
    Event::Subscribe {
        consumer: consumer(handle),
        channel: channel(to),
        start: StartAt::Earliest,
        create: true,
        timeout: None,
        credit: credit(2),
        claim: Some(Claim { owner: owner.into(), seat: Seat { number: [number; 16], turn } }),
    }
}

#[test]
fn promise_4_who_takes_its_seat_over_gets_what_it_had_before_anything_new() {
    for name in ["c", "c#ephemeral"] {
        // It takes no place beyond its own.
        let limits = ModelSettings { consumers_max: 1, ..ModelSettings::default() };
        let mut world = World::with(TopicSettings::default(), limits);
        world.open(1);
        world.said.clear();
        world.event(sit(1, name, ("me", 7, 1)));
        world.expect(&["c1 subscribed"]);
        world.publish(1, 1, 6);
        world.said.clear();
        world.settle(1, 0, 1, 1, Verdict::Ack);
        world.event(sit(2, name, ("me", 7, 2)));
        world.expect(&[
            "c1 closed: fenced",
            "c2 subscribed",
            "c2 got 1-1 tag 1 try 2",
            "c2 got 2-2 tag 2 try 1",
        ]);
        // The one before can settle nothing any more, and its end changes nothing.
        world.settle(1, 9, 2, 2, Verdict::Ack);
        world.event(Event::Unsubscribe { consumer: consumer(1) });
        world.expect(&["c1 settled 9 stale [2-2]"]);
        assert_eq!((world.stats(name).acked, world.stats(name).in_flight), (1, 2));
    }
}

#[test]
fn who_was_overtaken_on_its_way_does_not_take_the_seat_back() {
    let mut world = World::ready();
    world.event(sit(2, "c", ("me", 7, 2)));
    world.event(sit(1, "c", ("me", 7, 1)));
    world.expect(&["c2 subscribed", "c1 not subscribed: fenced"]);
    // On the same turn it may be one connection that said it twice: the later one has it.
    world.event(sit(3, "c", ("me", 7, 2)));
    world.expect(&["c2 closed: fenced", "c3 subscribed"]);
    // A seat that was left is free, whoever had it.
    world.event(Event::Unsubscribe { consumer: consumer(3) });
    world.event(sit(1, "c", ("me", 7, 1)));
    world.expect(&["c3 closed", "c1 subscribed"]);
}

#[test]
fn promise_10_nobody_takes_the_seat_of_another_program_or_channel() {
    let mut world = World::ready();
    world.event(sit(1, "c", ("me", 7, 1)));
    world.event(sit(2, "c", ("you", 7, 2)));
    world.event(sit(3, "c", ("me", 8, 2)));
    world.event(sit(4, "d", ("me", 7, 2)));
    world.subscribe(5, "c", 2);
    world.expect(&[
        "c1 subscribed",
        "c2 subscribed",
        "c3 subscribed",
        "c4 subscribed",
        "c5 subscribed",
    ]);
    assert_eq!(world.stats("c").consumers, 4);
}
