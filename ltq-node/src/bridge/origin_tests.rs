//! What the origin of a message makes of it.

use proptest::prelude::*;

use super::*;

fn sites(from: &str, to: &str) -> Sites {
    Sites { from: Site::new(from).unwrap(), to: Site::new(to).unwrap(), hops_max: 8 }
}

fn node() -> NodeId {
    "n1".parse().unwrap()
}

fn pass(sites: &Sites, message: &Message) -> Passage {
    let (node, topic) = (node(), "orders".parse().unwrap());
    let place = Place { node: &node, topic: &topic, offset: Offset(7), time: Timestamp(99) };
    sites.pass(message, place)
}

/// The message as it goes on.
fn on(sites: &Sites, message: &Message) -> (Message, Option<Garbled>) {
    match pass(sites, message) {
        Passage::On { stamp, garbled } => (stamp.on(message), garbled),
        other => panic!("{other:?}"),
    }
}

fn header(message: &Message, name: &str) -> Vec<String> {
    let of = message.headers.iter().filter(|(other, _)| *other == name);
    of.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap()).collect()
}

#[test]
fn a_message_is_told_where_it_comes_from_and_keeps_the_rest() {
    let message = Message::new("body").with_key("k").with_header("a", "1").with_header("a", "2");
    let (message, garbled) = on(&sites("east", "west"), &message);
    assert_eq!(garbled, None);
    assert_eq!(header(&message, ORIGIN_HEADER), ["east"]);
    assert_eq!(header(&message, ORIGIN_ID_HEADER), ["east/n1/orders/7/99"]);
    assert_eq!(header(&message, "a"), ["1", "2"]);
    assert_eq!((message.key.as_deref(), &*message.body), (Some(&b"k"[..]), &b"body"[..]));
}

#[test]
fn a_message_goes_back_to_no_site_that_it_has_left() {
    let (there, _) = on(&sites("east", "west"), &Message::new("x"));
    assert_eq!(pass(&sites("west", "east"), &there), Passage::Back);
    // A ring of three: each site gets it once.
    let (third, _) = on(&sites("west", "north"), &there);
    assert_eq!(header(&third, ORIGIN_HEADER), ["east,west"]);
    assert_eq!(header(&third, ORIGIN_ID_HEADER), ["east/n1/orders/7/99"], "the first one stays");
    assert_eq!(pass(&sites("north", "east"), &third), Passage::Back);
    assert_eq!(pass(&sites("north", "west"), &third), Passage::Back);
}

#[test]
fn a_site_by_another_name_is_no_way_round_for_ever() {
    let mut message = Message::new("x");
    let mut hops = 0;
    // Each of the two calls itself otherwise every time.
    loop {
        let sites = Sites { hops_max: 5, ..sites(&format!("a{hops}"), "nowhere") };
        match pass(&sites, &message) {
            Passage::On { stamp, .. } => message = stamp.on(&message),
            Passage::TooFar => break,
            Passage::Back => panic!("it has not been there"),
        }
        hops += 1;
    }
    assert_eq!(hops, 5);
}

#[test]
fn what_is_no_origin_is_replaced_and_nothing_is_lost() {
    let long = "x".repeat(ORIGIN_BYTES_MAX + 1);
    let cases: [(Vec<&[u8]>, Garbled); 8] = [
        (vec![b""], Garbled::NoSite),
        (vec![b","], Garbled::NoSite),
        (vec![b"east,"], Garbled::NoSite),
        (vec![b"a b"], Garbled::NoSite),
        (vec![b"\xff\xfe"], Garbled::NoSite),
        (vec![&long.as_bytes()[..65]], Garbled::NoSite),
        (vec![long.as_bytes()], Garbled::TooLong),
        (vec![b"west", b"west"], Garbled::Several),
    ];
    for (values, expected) in cases {
        let mut message = Message::new("body").with_header(ORIGIN_ID_HEADER, "forged");
        for value in values {
            message = message.with_header(ORIGIN_HEADER, Bytes::copy_from_slice(value));
        }
        let (message, garbled) = on(&sites("east", "west"), &message);
        assert_eq!(garbled, Some(expected));
        assert_eq!(header(&message, ORIGIN_HEADER), ["east"]);
        assert_eq!(header(&message, ORIGIN_ID_HEADER), ["east/n1/orders/7/99"]);
        assert_eq!(message.body, "body");
        // The next bridge reads what this one wrote.
        assert_eq!(pass(&sites("west", "east"), &message), Passage::Back);
    }
}

#[test]
fn a_site_has_a_name_of_its_own_or_that_of_an_address() {
    for good in ["a", "eu-west.1", "A_b", &"x".repeat(64)] {
        assert_eq!(Site::new(good).unwrap().to_string(), good);
    }
    for bad in ["", "a b", "a,b", "a/b", "ä", &"x".repeat(65)] {
        assert!(Site::new(bad).is_err(), "{bad:?}");
    }
    assert_eq!(Site::of_address("tcp://10.0.0.1:7440").as_str(), "10.0.0.1-7440");
    assert_eq!(Site::of_address("unix:///run/ltq").as_str(), "-run-ltq");
    for odd in ["", "://", "tcp://[::1]:7", &"y".repeat(200), "tcp://ÄÖ"] {
        let site = Site::of_address(odd);
        assert_eq!(Site::new(site.as_str()).as_ref(), Ok(&site), "{odd:?}");
    }
}

proptest! {
    /// Whatever a message brings, it ends: it is forwarded with one more site than before, or not at all.
    #[test]
    fn a_hostile_origin_is_bounded(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6_000), 0..3),
        hops_max in 1..100_usize,
    ) {
        let mut message = Message::new("body");
        for value in values {
            message = message.with_header(ORIGIN_HEADER, value);
        }
        let sites = Sites { hops_max, ..sites("east", "west") };
        if let Passage::On { stamp, .. } = pass(&sites, &message) {
            let message = stamp.on(&message);
            let origin = header(&message, ORIGIN_HEADER);
            prop_assert_eq!(origin.len(), 1);
            prop_assert!(origin[0].split(',').count() <= hops_max.min(HOPS_LIMIT));
            prop_assert!(origin[0].split(',').all(|site| Site::new(site).is_ok()));
        }
    }
}
