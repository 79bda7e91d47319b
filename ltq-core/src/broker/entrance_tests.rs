//! Of the places of connections.

use std::net::IpAddr;

use super::*;
use crate::broker::testing::far;

fn entrance(connections_max: usize, entrance: EntranceSettings) -> Entrance {
    Entrance::new(&BrokerSettings { connections_max, entrance, ..BrokerSettings::default() })
}

fn few(all: usize, one: usize) -> EntranceSettings {
    EntranceSettings {
        greeting_connections_max: Some(all),
        greeting_connections_per_address_max: Some(one),
        ..EntranceSettings::default()
    }
}

fn limit_of(taken: Result<(Ticket, Arc<Gate>), Full>) -> Result<Ticket, Limit> {
    taken.map(|(ticket, _)| ticket).map_err(|full| full.limit)
}

fn is_shut(gate: &Gate) -> bool {
    gate.is_shut.load(Ordering::Relaxed)
}

#[test]
fn promise_10_those_without_a_hello_take_each_others_places_and_none_of_those_that_were_let_in() {
    let entrance = entrance(100, few(4, 2));
    let now = Instant::now();
    let take = |n: u32, at: Instant| entrance.take(far(n), at);
    let (first, gate) = take(0, now).unwrap();
    let (second, other) = take(0, now).unwrap();
    let limit = Limit::GreetingConnectionsPerAddress;
    assert_eq!(limit_of(take(0, now)), Err(limit), "none has had its time");
    // One that was let in counts no longer.
    entrance.places.lock().greeted(second);
    let (third, _) = take(0, now).unwrap();
    // After a second the oldest gives way, and not the one that was let in.
    let later = now + GRACE;
    assert!(!is_shut(&gate));
    let (fourth, _) = take(0, later).unwrap();
    assert!(is_shut(&gate) && !is_shut(&other));
    assert_eq!((entrance.greeting(), entrance.crowded_out()), (2, 1));
    // Of all addresses there are four.
    for n in 1..=2 {
        take(n, later).unwrap();
    }
    let before = entrance.crowded_out();
    // The oldest of all has had its time, and the next one not.
    take(3, later).unwrap();
    assert_eq!(limit_of(take(4, later)), Err(Limit::GreetingConnections));
    assert_eq!((entrance.greeting(), entrance.crowded_out()), (4, before + 1));
    let mut places = entrance.places.lock();
    for ticket in [first, second, third, fourth] {
        places.leave(far(0), ticket);
    }
    assert!(!places.by_origin.contains_key(&far(0).unwrap()), "who has gone is forgotten");
    assert_eq!((places.all.open, places.greeting.len()), (3, 3));
}

#[test]
fn promise_10_a_quarter_may_be_without_a_hello_and_of_one_address_a_quarter_of_that() {
    for (connections_max, all, one) in [(20_000, 5_000, 1_250), (100, 25, 6), (1, 16, 4)] {
        let usual = EntranceSettings::default();
        assert_eq!(usual.greeting_max(connections_max), all);
        assert_eq!(usual.greeting_per_address(connections_max), one);
    }
}

#[test]
fn promise_10_a_site_has_four_shares_of_connections() {
    let settings = BrokerSettings {
        connections_max: 100,
        connections_per_address_max: 3,
        ..BrokerSettings::default()
    };
    let entrance = Entrance::new(&settings);
    let mut taken = 0;
    for n in 0..20 {
        let origin = Origin::of_ip(format!("2001:db8:1:{n:x}::1").parse::<IpAddr>().unwrap());
        for _ in 0..4 {
            match entrance.take(origin, Instant::now()) {
                Ok((ticket, _)) => {
                    entrance.places.lock().greeted(ticket);
                    taken += 1;
                }
                Err(full) => assert_eq!(full.limit, Limit::ConnectionsPerAddress),
            }
        }
    }
    assert_eq!(taken, 12);
    let other = Origin::of_ip("2001:db8:2::1".parse().unwrap());
    entrance.take(other, Instant::now()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn promise_10_what_is_refused_for_want_of_a_place_does_not_count_as_come() {
    let mut settings = few(100, 1);
    settings.connections_per_second_max = 1;
    let entrance = entrance(1_000, settings);
    let now = Instant::now();
    entrance.take(far(0), now).unwrap();
    for _ in 0..100 {
        let limit = limit_of(entrance.take(far(0), now));
        assert_eq!(limit, Err(Limit::GreetingConnectionsPerAddress));
    }
    let mut late = now;
    for _ in 0..9 {
        late += GRACE;
        entrance.take(far(0), late).unwrap();
    }
    let before = entrance.crowded_out();
    let refused = limit_of(entrance.take(far(0), late + GRACE));
    assert_eq!(refused, Err(Limit::ConnectionsPerSecond));
    assert_eq!(entrance.crowded_out(), before, "nobody gave way for it");
}
