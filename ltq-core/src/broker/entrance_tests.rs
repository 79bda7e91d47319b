//! Of the places of connections.

use std::{
    io::{self, IoSlice},
    net::IpAddr,
    task::{Context, Poll},
};

use bytes::BytesMut;

use super::*;
use crate::{
    Address, Peer, RecvStream, RefusalCode, SendStream, Stream,
    broker::{
        Shared, session,
        testing::{far, shared_with},
    },
    protocol::{
        Decoder, FRAME_BYTES_MIN, Features, Frame, Hello, PROTOCOL_MAJOR, PROTOCOL_MINOR,
        WriteQueue, encode,
    },
};

fn entrance(connections_max: usize, entrance: EntranceSettings) -> Entrance {
    Entrance::of_broker(&BrokerSettings { connections_max, entrance, ..BrokerSettings::default() })
}

fn few(all: usize, one: usize) -> EntranceSettings {
    EntranceSettings {
        greeting_connections_max: Some(all),
        greeting_connections_per_address_max: Some(one),
        ..EntranceSettings::default()
    }
}

/// That of `far`.
fn peer(n: u32) -> Peer {
    Peer { address: Address::new("tcp", format!("192.0.2.{n}:1")), identity: None }
}

fn limit_of(taken: Result<(Ticket, Arc<Gate>), Full>) -> Result<Ticket, Limit> {
    taken.map(|(ticket, _)| ticket).map_err(|full| full.limit)
}

fn is_shut(gate: &Gate) -> bool {
    gate.is_shut()
}

#[test]
fn promise_10_those_without_a_hello_take_each_others_places_and_none_of_those_that_were_let_in() {
    let entrance = entrance(100, few(4, 2));
    let now = Instant::now();
    let take = |n: u32, at: Instant| entrance.take(far(n), at);
    let (_, gate) = take(0, now).unwrap();
    let (second, other) = take(0, now).unwrap();
    let limit = Limit::GreetingConnectionsPerAddress;
    assert_eq!(limit_of(take(0, now)), Err(limit), "none has had its time");
    // One that was let in counts no longer.
    entrance.places.lock().greeted(second);
    take(0, now).unwrap();
    // After a second the oldest gives way, and not the one that was let in.
    let later = now + GRACE;
    assert!(!is_shut(&gate));
    let (fourth, _) = take(0, later).unwrap();
    assert!(is_shut(&gate) && !is_shut(&other));
    assert_eq!((entrance.greeting(), entrance.figures().crowded_out), (2, 1));
    // Of all addresses there are four.
    for n in 1..=2 {
        take(n, later).unwrap();
    }
    let before = entrance.figures().crowded_out;
    // The oldest of all has had its time, and the next one not.
    take(3, later).unwrap();
    assert_eq!(limit_of(take(4, later)), Err(Limit::GreetingConnections));
    assert_eq!((entrance.greeting(), entrance.figures().crowded_out), (4, before + 1));
    let mut places = entrance.places.lock();
    assert_eq!(places.all.open, 5, "the two that gave way were gone at once");
    for ticket in [second, fourth] {
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
        assert_eq!(usual.greeting_per_address(connections_max, 20_000), one);
    }
}

#[test]
fn promise_10_a_site_has_four_shares_of_connections() {
    let settings = BrokerSettings {
        connections_max: 100,
        connections_per_address_max: 3,
        ..BrokerSettings::default()
    };
    let entrance = Entrance::of_broker(&settings);
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
    let before = entrance.figures().crowded_out;
    let refused = limit_of(entrance.take(far(0), late + GRACE));
    assert_eq!(refused, Err(Limit::ConnectionsPerSecond));
    assert_eq!(entrance.figures().crowded_out, before, "nobody gave way for it");
}

#[test]
fn promise_10_a_site_has_four_shares_of_those_without_a_hello_and_gets_them_back() {
    let entrance = entrance(100, few(40, 3));
    let at = |text: String| Origin::of_ip(text.parse::<IpAddr>().unwrap());
    let nth = |n: u32| at(format!("2001:db8:1:{n:x}::1"));
    let now = Instant::now();
    let mut taken: Vec<_> = (0..12)
        .map(|n| (nth(n / 3), entrance.take(nth(n / 3), now).expect("four have three each")))
        .collect();
    let limit = Limit::GreetingConnectionsPerAddress;
    assert_eq!(limit_of(entrance.take(nth(4), now)), Err(limit));
    let other = at("2001:db8:2::1".to_owned());
    entrance.take(other, now).expect("another site has its own");
    // The oldest of the site gives way to whoever comes from it, and not the one that came next.
    let fifth = entrance.take(nth(4), now + GRACE).expect("it has had its second");
    assert!(is_shut(&taken[0].1.1) && !is_shut(&taken[1].1.1));
    taken.push((nth(4), fifth));
    let mut places = entrance.places.lock();
    // Who gave way is counted as gone already.
    for (origin, (ticket, _)) in taken.into_iter().filter(|(_, (_, gate))| !is_shut(gate)) {
        places.leave(origin, ticket);
    }
    assert_eq!(places.by_origin.len(), 2, "of those that are gone nothing is left");
    drop(places);
    assert!((0..12).all(|n| entrance.take(nth(n / 3), now).is_ok()), "all are there again");
}

/// An address, and another one of its site.
fn of_site(network: u32) -> Option<Origin> {
    Origin::of_ip(format!("2001:db8:1:{network:x}::1").parse::<IpAddr>().unwrap())
}

/// So many connections; the limits of those without a hello bind nowhere.
fn open_limits(connections_max: usize, connections_per_address_max: usize) -> Entrance {
    Entrance::of_broker(&BrokerSettings {
        connections_max,
        connections_per_address_max,
        entrance: few(1_000, 1_000),
        ..BrokerSettings::default()
    })
}

#[test]
fn promise_10_at_each_limit_of_connections_who_is_silent_gives_way_and_who_was_let_in_never() {
    type From = fn(u32) -> Option<Origin>;
    let (one, site, all): (From, From, From) = (|_| far(0), of_site, far);
    for (entrance, from, max, limit) in [
        (open_limits(100, 1), one, 1, Limit::ConnectionsPerAddress),
        (open_limits(100, 5), one, 5, Limit::ConnectionsPerAddress),
        (open_limits(100, 3), site, 12, Limit::ConnectionsPerAddress),
        (open_limits(1, 1), all, 1, Limit::Connections),
        (open_limits(16, 16), all, 16, Limit::Connections),
        (open_limits(20, 20), one, 20, Limit::ConnectionsPerAddress),
    ] {
        let now = Instant::now();
        let mut there: Vec<_> = (0..max).map(|n| entrance.take(from(n), now).unwrap()).collect();
        let refused = limit_of(entrance.take(from(max), now));
        assert_eq!(refused, Err(limit), "none has had its time");
        let later = now + GRACE;
        // One by one, the oldest first; those that come have their time before they give way in turn.
        for n in 0..max {
            there.push(entrance.take(from(max + n), later).unwrap());
            let shut: Vec<_> = there.iter().map(|(_, gate)| is_shut(gate)).collect();
            assert!(shut.iter().enumerate().all(|(at, shut)| *shut == (at <= n as usize)));
        }
        assert_eq!(limit_of(entrance.take(from(0), later)), Err(limit), "none has had its time");
        assert_eq!(entrance.figures().crowded_out, u64::from(max));
        assert_eq!(entrance.places.lock().all.open, max as usize, "no more than there are places");
        // All that are there are let in: nobody takes a place of theirs.
        for (ticket, _) in &there[max as usize..] {
            entrance.places.lock().greeted(*ticket).unwrap();
        }
        let much_later = later + Duration::from_secs(3_600);
        assert_eq!(limit_of(entrance.take(from(0), much_later)), Err(limit));
        assert_eq!(entrance.figures().crowded_out, u64::from(max));
    }
}

#[test]
fn promise_10_the_silent_ones_of_a_full_address_give_way_to_their_own_before_others_do() {
    // All places are taken, those of an address among them, and the oldest of all is another's.
    let entrance = open_limits(4, 2);
    let now = Instant::now();
    let take = |n: u32| entrance.take(far(n), now).unwrap();
    let there = [take(1), take(2), take(0), take(0)];
    entrance.take(far(0), now + GRACE).unwrap();
    let shut = there.each_ref().map(|(_, gate)| is_shut(gate));
    assert_eq!(shut, [false, false, true, false]);
    entrance.take(far(3), now + GRACE).unwrap();
    assert!(is_shut(&there[0].1), "the oldest of all");
}

#[test]
fn promise_10_one_address_s_silent_ones_have_a_quarter_of_what_it_may_have_at_most() {
    for (connections_max, one, greeting) in
        [(20_000, 1_000, 250), (20_000, 20_000, 1_250), (100, 12, 3), (100, 3, 1), (1, 1, 1)]
    {
        let entrance = Entrance::of_broker(&BrokerSettings {
            connections_max,
            connections_per_address_max: one,
            ..BrokerSettings::default()
        });
        let [_, of_one, _] = entrance.limits.greeting;
        assert_eq!(of_one, greeting, "{one} of {connections_max}");
    }
}

#[test]
fn promise_10_who_gave_way_is_gone_at_once_and_gone_once() {
    let settings = BrokerSettings { connections_max: 1, ..BrokerSettings::default() };
    let (shared, _gate) = shared_with(true, settings);
    let first = Entry::take(&shared.entrance, &peer(0)).unwrap();
    let in_a_second = Instant::now() + GRACE;
    let (ticket, _) = shared.entrance.take(far(1), in_a_second).unwrap();
    let open = || shared.entrance.places.lock().all.open;
    assert_eq!(open(), 1);
    assert!(!shared.entrance.places.lock().by_origin.contains_key(&far(0).unwrap()));
    drop(first);
    assert_eq!(open(), 1, "the place is another's");
    shared.entrance.places.lock().leave(far(1), ticket);
    assert_eq!(open(), 0);
}

/// Says hello just when its place is given to another.
struct TooLate {
    shared: Arc<Shared>,
    hello: Option<WriteQueue>,
}

impl RecvStream for TooLate {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        let Some(mut hello) = self.hello.take() else { return Poll::Pending };
        self.shared.entrance.take(far(2), Instant::now() + GRACE).unwrap();
        let mut said = Said::default();
        assert!(hello.poll_flush(context, &mut said)?.is_ready());
        let said = said.0.lock();
        buffer.extend_from_slice(&said);
        Poll::Ready(Ok(said.len()))
    }
}

/// What was said.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<BytesMut>>);

impl SendStream for Said {
    fn poll_send(&mut self, _: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut said = self.0.lock();
        bytes.iter().for_each(|bytes| said.extend_from_slice(bytes));
        Poll::Ready(Ok(bytes.iter().map(|bytes| bytes.len()).sum()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn promise_10_who_says_hello_just_when_its_place_is_given_away_is_told_so_and_not_let_in() {
    let settings = BrokerSettings { connections_max: 1, ..BrokerSettings::default() };
    let (shared, _gate) = shared_with(true, settings);
    let origin = far(1);
    let entry = Arc::new(Entry::take(&shared.entrance, &peer(1)).unwrap());
    let mut hello = WriteQueue::new();
    let words = Hello {
        major: PROTOCOL_MAJOR,
        minor: PROTOCOL_MINOR,
        features: Features(0),
        client: "late".to_owned(),
        token: None,
        frame_bytes_max: 64 << 20,
        heartbeat_ms: 0,
    };
    encode(&Frame::Hello(words), &mut hello);
    let said = Said::default();
    let recv = TooLate { shared: shared.clone(), hello: Some(hello) };
    let stream = Stream { send: Box::new(said.clone()), recv: Box::new(recv) };
    let peer = peer(1);
    let together = shared.together(origin);
    let began = Instant::now();
    let served = session::run(shared.clone(), &peer, stream, together, entry, None);
    // One that was let in would be there for as long as it answered pings.
    let _ = tokio::time::timeout(Duration::from_secs(3_600), served).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "what it says it says at once");
    let mut said = said.0.lock();
    let decoder = Decoder::new(FRAME_BYTES_MIN);
    let Some(Frame::Goodbye { refusal }) = decoder.decode(&mut said).unwrap() else {
        panic!("it is not welcome");
    };
    assert_eq!(refusal.code, RefusalCode::LimitReached, "{refusal}");
    assert_eq!(shared.entrance.places.lock().all.open, 1, "the other's");
}
