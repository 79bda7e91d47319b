//! Which topics and messages a route takes.

use super::*;

fn route(topics: &[&str], exclude: &[&str]) -> Route {
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Route {
        name: "r".to_owned(),
        topics: patterns(topics),
        exclude: patterns(exclude),
        headers: Vec::new(),
        target: Target::Prefixed(String::new()),
        channel: ChannelName::new("bridge.r").unwrap(),
        start: StartAt::Earliest,
        durability: None,
        ordered: true,
        refused: Refused::Hold,
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

#[test]
fn a_route_takes_what_is_named_and_not_excluded() {
    let of = route(&["orders*", "mail"], &["orders.test.*", "orders2"]);
    let taken = ["orders", "orders.new", "mail", "orders.test", "orders22"];
    let not = ["mails", "orders.test.a", "orders2", "x"];
    assert!(taken.iter().all(|name| of.takes(&topic(name))));
    assert!(!not.iter().any(|name| of.takes(&topic(name))));
    assert!(!route(&[], &[]).takes(&topic("a")));
}

#[test]
fn a_topic_that_vanishes_when_idle_is_taken_only_by_its_whole_name() {
    let of = route(&["*", "a#ephemeral"], &[]);
    assert!(of.takes(&topic("a#ephemeral")) && of.takes(&topic("b")));
    assert!(!of.takes(&topic("b#ephemeral")));
}

#[test]
fn what_was_set_aside_is_not_taken_again() {
    let of = Route { refused: Refused::Park(topic("refused")), ..route(&["*"], &[]) };
    assert!(!of.takes(&topic("refused")) && of.takes(&topic("refused2")));
}

#[test]
fn topics_keep_their_names_or_have_a_prefix_or_all_the_same_one() {
    let same = route(&["*"], &[]);
    assert_eq!(same.target(&topic("a#ephemeral")), Ok(topic("a#ephemeral")));
    let prefixed = Route { target: Target::Prefixed("east.".to_owned()), ..same.clone() };
    assert_eq!(prefixed.target(&topic("a")), Ok(topic("east.a")));
    assert_eq!(prefixed.target(&topic("a#ephemeral")), Ok(topic("east.a#ephemeral")));
    assert!(prefixed.target(&topic(&"x".repeat(60))).is_err());
    let one = Route { target: Target::One(topic("all")), ..same };
    assert_eq!(one.target(&topic("a")), Ok(topic("all")));
    for (prefix, is_good) in [("", true), ("a.", true), ("a#ephemeral", false), ("a b", false)] {
        assert_eq!(check_prefix(prefix).is_ok(), is_good, "{prefix:?}");
    }
}

#[test]
fn messages_are_taken_by_their_headers() {
    let filters = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let of = Route { headers: filters(&["region=eu", "audit"]), ..route(&["*"], &[]) };
    let message = |headers: &[(&str, &str)]| {
        let with =
            |message: Message, (name, value): &(&str, &str)| message.with_header(*name, *value);
        headers.iter().fold(Message::new("body"), with)
    };
    assert!(of.wants(&message(&[("audit", ""), ("region", "us"), ("region", "eu")])));
    assert!(!of.wants(&message(&[("audit", ""), ("region", "us")])));
    assert!(!of.wants(&message(&[("region", "eu")])));
    assert!(!of.wants(&message(&[])));
    assert!(route(&["*"], &[]).wants(&message(&[])));
    // A value may be empty or hold the sign; a name may not.
    let odd: HeaderFilter = "a=b=c".parse().unwrap();
    assert!(odd.matches(&message(&[("a", "b=c")])) && odd.to_string() == "a=b=c");
    let empty: HeaderFilter = "a=".parse().unwrap();
    assert!(empty.matches(&message(&[("a", "")])) && !empty.matches(&message(&[("a", "1")])));
    for bad in ["", "=x", &"x".repeat(5_000)] {
        assert!(bad.parse::<HeaderFilter>().is_err());
    }
}
