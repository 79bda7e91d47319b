//! Of the door: locking out, rates, what is logged.

use tokio::time::advance;

use super::*;
use crate::SharedToken;

struct Node {
    door: Door,
    access: Arc<dyn Access>,
    counters: Counters,
}

impl Node {
    fn new() -> Self {
        let access = Arc::new(SharedToken::new("secret").unwrap());
        Self { door: door(), access, counters: Counters::default() }
    }

    fn try_from(&self, address: &str, token: Option<&str>) -> bool {
        self.try_as(address, None, token)
    }

    fn try_as(&self, address: &str, identity: Option<&str>, token: Option<&str>) -> bool {
        let identity = identity.map(str::to_owned);
        let peer = Peer { address: address.parse().unwrap(), identity };
        match self.door.admit(
            &self.access,
            &self.counters,
            (&peer, Origin::of_peer(&peer)),
            token,
            None,
        ) {
            Ok(_) => true,
            Err(refusal) => {
                let same = Refusal::new(RefusalCode::Unauthorized, "a valid token is needed");
                assert_eq!(refusal, same);
                false
            }
        }
    }

    fn locked_out(&self) -> u64 {
        self.counters.hellos_locked_out.load(Ordering::Relaxed)
    }
}

fn door() -> Door {
    Door::new(DoorLimits::of(&BrokerSettings::default()))
}

const FAR: &str = "tcp://192.0.2.1:5";

#[tokio::test(start_paused = true)]
async fn promise_10_after_ten_wrong_tokens_an_address_is_turned_away_for_longer_and_longer() {
    let node = Node::new();
    let mut guesses = (0..).map(|guess| format!("guess {guess}"));
    let mut guess = || !node.try_from(FAR, guesses.next().as_deref());
    assert!((0..9).all(|_| guess()));
    assert!(node.try_from("tcp://192.0.2.1:6", Some("secret")), "nine are a mistake");
    assert!((0..10).all(|_| guess()));
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let before = node.locked_out();
        assert!(!node.try_from("tcp://192.0.2.1:6", Some("secret")), "locked out");
        advance(Duration::from_millis(seconds * 1000 - 1)).await;
        assert!(!node.try_from(FAR, Some("secret")), "still");
        assert_eq!(node.locked_out(), before + 2, "without asking");
        assert!(node.try_from("tcp://192.0.2.2:5", Some("secret")), "others are not");
        advance(Duration::from_millis(1)).await;
        assert!(guess(), "asked, and wrong");
        assert_eq!(node.locked_out(), before + 2);
    }
    advance(Duration::from_secs(60)).await;
    assert!(node.try_from(FAR, Some("secret")), "no longer than that");
    assert!(guess());
    assert!(node.try_from(FAR, Some("secret")), "all is forgotten");
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_program_with_an_old_token_locks_nobody_out() {
    let node = Node::new();
    for round in 0..1_000 {
        assert!(!node.try_from(FAR, Some("taken back")));
        assert!(!node.try_from(FAR, Some(["another", "and another"][round % 2])));
    }
    assert_eq!(node.locked_out(), 0);
    assert!(node.try_from(FAR, Some("secret")));
}

#[tokio::test(start_paused = true)]
async fn promise_10_who_is_in_already_opens_streams_whoever_guesses_beside_him() {
    struct Two([Grant; 2]);
    impl Access for Two {
        fn admit(&self, _: &Peer, token: Option<&str>) -> Result<Grant, Denied> {
            match token {
                Some("one") => Ok(self.0[0].clone()),
                Some("two") => Ok(self.0[1].clone()),
                _ => Err(Denied::WrongToken),
            }
        }
    }
    let grants = ["one", "two"].map(|who| Grant::new(who, crate::Permissions::all()));
    let node = Node { access: Arc::new(Two(grants.clone())), ..Node::new() };
    for guess in 0..20 {
        assert!(!node.try_from(FAR, Some(&guess.to_string())));
    }
    let peer = Peer { address: FAR.parse().unwrap(), identity: None };
    let admit = |token: &str, known: Option<&Grant>| {
        node.door
            .admit(
                &node.access,
                &node.counters,
                (&peer, Origin::of_peer(&peer)),
                Some(token),
                known,
            )
            .is_ok()
    };
    assert!(!admit("one", None), "locked out");
    assert!(admit("one", Some(&grants[0])));
    // He guesses no other token by that.
    assert!(!admit("two", Some(&grants[0])) && !admit("three", Some(&grants[0])));
    assert!(!admit(&"x".repeat(TOKEN_BYTES_MAX + 1), Some(&grants[0])));
}

#[tokio::test(start_paused = true)]
async fn neither_a_missing_token_nor_who_has_no_origin_locks_out() {
    let node = Node::new();
    for _ in 0..100 {
        assert!(!node.try_from(FAR, None));
        for local in ["tcp://127.0.0.1:5", "in-process://x", "unix:///x"] {
            assert!(!node.try_from(local, Some("guess")));
        }
    }
    assert!(
        node.try_from(FAR, Some("secret")) && node.try_from("tcp://127.0.0.1:5", Some("secret"))
    );
    assert_eq!(node.locked_out(), 0);
    assert_eq!(node.counters.hellos_denied.load(Ordering::Relaxed), 400);
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_user_is_locked_out_by_wrong_tokens_and_not_where_the_system_vouches_for_him()
{
    /// One user needs no token.
    struct Vouched(Grant);
    impl Access for Vouched {
        fn admit(&self, peer: &Peer, token: Option<&str>) -> Result<Grant, Denied> {
            match (token, peer.identity.as_deref()) {
                (None, Some("uid:7")) | (Some("secret"), _) => Ok(self.0.clone()),
                (None, _) => Err(Denied::NoToken),
                _ => Err(Denied::WrongToken),
            }
        }
    }
    let grant = Grant::new("seven", crate::Permissions::all());
    let node = Node { access: Arc::new(Vouched(grant)), ..Node::new() };
    let try_as = |user: &str, token: Option<&str>| node.try_as("unix:///x", Some(user), token);
    for guess in 0..10 {
        assert!(!try_as("uid:7", Some(&guess.to_string())));
        // Which does not make up for the guesses of others who are the same user.
        assert!(try_as("uid:7", None));
    }
    assert!(!try_as("uid:7", Some("secret")), "locked out");
    assert!(try_as("uid:7", None), "nothing is guessed");
    assert!(try_as("uid:8", Some("secret")), "another user");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_too_long_is_not_even_looked_at() {
    struct Asked;
    impl Access for Asked {
        fn admit(&self, _: &Peer, token: Option<&str>) -> Result<Grant, Denied> {
            assert!(token.unwrap().len() <= TOKEN_BYTES_MAX);
            Err(Denied::WrongToken)
        }
    }
    let node = Node { access: Arc::new(Asked), ..Node::new() };
    for bytes in [TOKEN_BYTES_MAX, TOKEN_BYTES_MAX + 1, 60_000] {
        assert!(!node.try_from(FAR, Some(&"x".repeat(bytes))));
    }
}

#[tokio::test(start_paused = true)]
async fn topics_made_by_use_come_back_with_the_minutes() {
    let (door, counters) = (door(), Counters::default());
    let topic = TopicName::new("t").unwrap();
    let from = |text: &str| Origin::of(&text.parse().unwrap());
    let make = |text: &str| door.make_topic(&counters, from(text), &topic, 60).is_ok();
    assert_eq!((0..100).filter(|_| make(FAR)).count(), 60);
    assert!(make("tcp://192.0.2.2:1") && make("tcp://127.0.0.1:1"));
    advance(Duration::from_secs(10)).await;
    assert_eq!((0..100).filter(|_| make(FAR)).count(), 10);
    advance(Duration::from_secs(3600)).await;
    assert_eq!((0..100).filter(|_| make(FAR)).count(), 60);
    let refusal = door.make_topic(&counters, from(FAR), &topic, 60).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::LimitReached);
    assert!(refusal.detail.contains("60 a minute"), "{refusal}");
    assert_eq!(counters.topics_refused_by_address.load(Ordering::Relaxed), 40 + 90 + 40 + 1);
}

#[tokio::test(start_paused = true)]
async fn promise_10_who_has_a_whole_site_guesses_no_more_than_four_addresses_may() {
    let settings = BrokerSettings { addresses_known_max: 50, ..BrokerSettings::default() };
    let node = Node { door: Door::new(DoorLimits::of(&settings)), ..Node::new() };
    assert!(!node.try_from("tcp://[2001:db8:1::1]:1", Some("a mistake")));
    assert!(node.try_from("tcp://[2001:db8:1::1]:1", Some("secret")));
    // Each network of it is seen once, so that no one of them is ever locked out, and far more than are remembered.
    let guess =
        |n: u32| node.try_from(&format!("tcp://[2001:db8:1:{n:x}::1]:1"), Some(&format!("{n}")));
    assert!((0..1_000).all(|n| !guess(n)));
    assert_eq!(node.locked_out(), 960);
    assert!(!node.try_from("tcp://[2001:db8:1:ffff::1]:1", Some("secret")), "all of the site is");
    assert!(node.try_from("tcp://[2001:db8:2::1]:1", Some("secret")), "and no other");
    assert!(node.try_from(FAR, Some("secret")));
    advance(Duration::from_secs(1)).await;
    assert!(node.try_from("tcp://[2001:db8:1:ffff::1]:1", Some("secret")));
}

#[tokio::test(start_paused = true)]
async fn one_line_a_second_says_how_many_it_stands_for() {
    let mut said = Said::default();
    assert_eq!(said.may_say(Instant::now()), Some(1));
    for _ in 0..1_000 {
        assert_eq!(said.may_say(Instant::now()), None);
    }
    advance(SAID_PAUSE).await;
    assert_eq!(said.may_say(Instant::now()), Some(1_001));
}

#[tokio::test(start_paused = true)]
async fn promise_10_connections_without_a_stream_are_told_of_once_a_second() {
    let Node { door, .. } = Node::new();
    assert_eq!((door.may_say_silent(), door.may_say_failed()), (Some(1), Some(1)));
    for _ in 0..1_000 {
        assert_eq!(door.may_say_silent(), None);
    }
    advance(Duration::from_secs(1)).await;
    assert_eq!((door.may_say_silent(), door.may_say_failed()), (Some(1_001), Some(1)));
}

#[tokio::test(start_paused = true)]
async fn promise_10_how_many_wrong_tokens_lock_out_and_for_how_long_is_set() {
    let settings = BrokerSettings {
        wrong_tokens_max: 3,
        lockout_max: Duration::from_secs(2),
        ..BrokerSettings::default()
    };
    let node = Node { door: Door::new(DoorLimits::of(&settings)), ..Node::new() };
    assert!((0..3).all(|guess| !node.try_from(FAR, Some(&guess.to_string()))));
    for seconds in [1, 2, 2] {
        assert!(!node.try_from(FAR, Some("secret")), "locked out");
        advance(Duration::from_secs(seconds)).await;
        let guess = format!("after {:?}", Instant::now());
        let before = node.locked_out();
        assert!(!node.try_from(FAR, Some(&guess)));
        assert_eq!(node.locked_out(), before, "asked, and wrong");
    }
    advance(Duration::from_secs(2)).await;
    assert!(node.try_from(FAR, Some("secret")));
}

#[tokio::test(start_paused = true)]
async fn promise_9_addresses_beyond_those_that_are_remembered_are_forgotten_and_counted() {
    let settings = BrokerSettings { addresses_known_max: 2, ..BrokerSettings::default() };
    let node = Node { door: Door::new(DoorLimits::of(&settings)), ..Node::new() };
    for guess in 0..10 {
        assert!(!node.try_from(FAR, Some(&guess.to_string())));
    }
    assert!(!node.try_from(FAR, Some("secret")), "locked out");
    for last in 2..4 {
        assert!(!node.try_from(&format!("tcp://192.0.2.{last}:1"), Some("guess")));
    }
    assert_eq!(node.door.addresses_forgotten(), 1);
    assert!(node.try_from(FAR, Some("secret")), "it was seen longest ago");
}
