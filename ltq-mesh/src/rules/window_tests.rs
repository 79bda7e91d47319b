use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{super::Arrivals, *};

const WIDE: Grant = Grant { messages: 100, bytes: 1_000 };
/// What a sender keeps to, and the receiver holds it to.
const NARROW: Grant = Grant { messages: 8, bytes: 32 };

fn body(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn window(bodies: &[&'static str]) -> Window<&'static str> {
    let mut window = Window::default();
    assert_eq!(window.resume(1, 0), Resumed { stored: vec![], forgotten: vec![] });
    for text in bodies {
        window.push(body(text), *text);
    }
    window
}

fn send_all(window: &mut Window<&'static str>) -> Vec<(u64, Bytes)> {
    std::iter::from_fn(|| window.next(WIDE)).collect()
}

#[test]
fn what_is_stored_is_answered_in_order_and_once() {
    let mut window = window(&["a", "b", "c", "d"]);
    assert_eq!(
        send_all(&mut window),
        [(1, body("a")), (2, body("b")), (3, body("c")), (4, body("d"))]
    );
    assert_eq!(window.not_stored(2), Ok("b"));
    assert_eq!(window.stored(3), Ok(vec!["a", "c"]));
    for never in [0, 1, 2, 3, 5, u64::MAX] {
        assert_eq!(window.stored(never), Err(NeverSent(never)));
        assert_eq!(window.not_stored(never), Err(NeverSent(never)));
    }
    assert_eq!(window.stored(4), Ok(vec!["d"]));
    assert!(window.entries.is_empty());
}

#[test]
fn no_more_is_sent_than_the_peer_takes_but_one_message_always() {
    let mut window = window(&["aaaa", "b", "c", "d"]);
    let grant = Grant { messages: 2, bytes: 3 };
    assert_eq!(window.next(grant), Some((1, body("aaaa"))));
    assert_eq!(window.next(grant), None);
    assert_eq!(window.stored(1), Ok(vec!["aaaa"]));
    assert_eq!(window.next(grant), Some((2, body("b"))));
    assert_eq!(window.next(grant), Some((3, body("c"))));
    assert_eq!(window.next(grant), None);
}

#[test]
fn what_is_not_stored_makes_room_on_the_wire() {
    let mut window = window(&["aa", "b", "cc"]);
    let grant = Grant { messages: 9, bytes: 3 };
    assert_eq!(window.next(grant), Some((1, body("aa"))));
    assert_eq!(window.next(grant), Some((2, body("b"))));
    assert_eq!(window.next(grant), None);
    assert_eq!(window.not_stored(1), Ok("aa"));
    assert_eq!(window.next(grant), Some((3, body("cc"))));
}

#[test]
fn what_the_next_connection_does_not_take_is_taken_out_and_the_rest_goes_on() {
    let mut window = window(&["a", "bbb", "cc", "ddd"]);
    window.next(WIDE);
    window.next(WIDE);
    window.cut();
    assert_eq!(window.resume(1, 1), Resumed { stored: vec!["a"], forgotten: vec![] });
    assert_eq!(window.take_larger(2), ["bbb", "ddd"]);
    let late = window.push(body("e"), "e");
    assert_eq!(send_all(&mut window), [(1, body("cc")), (2, body("e"))]);
    assert_eq!(window.stored(1), Ok(vec!["cc"]));
    assert_eq!(window.give_up(late, |_| ()), Some(true));
}

#[test]
fn after_a_cut_what_is_not_stored_is_sent_again_and_the_rest_is_answered() {
    let mut window = window(&["a", "b", "c", "d"]);
    window.next(WIDE);
    window.next(WIDE);
    window.next(WIDE);
    assert_eq!(window.stored(1), Ok(vec!["a"]));
    window.cut();
    assert_eq!(window.resume(1, 2), Resumed { stored: vec!["b"], forgotten: vec![] });
    assert_eq!(send_all(&mut window), [(1, body("c")), (2, body("d"))]);
}

#[test]
fn what_was_sent_to_an_inbox_that_is_no_more_is_not_sent_again() {
    for (inbox, last) in [(2, 0), (2, 2), (1, 0), (1, 4), (1, u64::MAX)] {
        let mut window = window(&["a", "b", "c", "d"]);
        window.next(WIDE);
        window.next(WIDE);
        window.next(WIDE);
        assert_eq!(window.stored(1), Ok(vec!["a"]));
        window.cut();
        let resumed = Resumed { stored: vec![], forgotten: vec!["b", "c"] };
        assert_eq!(window.resume(inbox, last), resumed, "{inbox} {last}");
        assert_eq!(send_all(&mut window), [(1, body("d"))]);
    }
}

#[test]
fn what_is_given_up_is_gone_unless_it_may_have_arrived() {
    let mut window = Window::default();
    window.resume(1, 0);
    let [a, b, c] = ["a", "b", "c"].map(|text| window.push(body(text), text));
    window.next(WIDE);
    window.next(WIDE);
    assert_eq!(
        [a, b, c].map(|ticket| window.give_up(ticket, |_| ())),
        [Some(true), Some(true), Some(false)]
    );
    assert_eq!(window.next(WIDE), None);
    assert_eq!(window.stored(1), Ok(vec!["a"]));
    assert_eq!(window.give_up(a, |_| ()), None);
    assert!(!window.entries.is_empty() && window.is_idle(), "nobody waits for what was given up");
    window.cut();
    assert_eq!(window.resume(1, 1), Resumed { stored: vec![], forgotten: vec![] });
    assert!(window.entries.is_empty(), "it is not sent again");
}

/// What may happen, in any order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Send,
    /// There is room, or not.
    Arrive(bool),
    Judge(bool),
    Store(u64, bool),
    Answer,
    GiveUp(usize),
    Cut,
}

/// What the sender says, in the order in which it is said.
#[derive(Clone, Debug)]
enum There {
    Message(u64, Bytes),
    Heard(u64),
}

#[derive(Clone, Copy, Debug)]
enum Word {
    Stored(u64),
    NotStored(u64),
}

/// A sender, a receiver whose inbox remembers, and what is on its way between them.
struct Pair {
    window: Window<u32>,
    tickets: BTreeMap<u32, Ticket>,
    arrivals: Arrivals<()>,
    there: VecDeque<There>,
    back: VecDeque<Word>,
    inbox: Vec<u32>,
    pushed: u32,
    told_stored: BTreeSet<u32>,
    told_not: BTreeSet<u32>,
    given_up: BTreeSet<u32>,
}

fn number(body: &Bytes) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&body[..4]);
    u32::from_le_bytes(bytes)
}

impl Pair {
    fn new() -> Self {
        let mut window = Window::default();
        window.resume(1, 0);
        Self {
            window,
            tickets: BTreeMap::new(),
            arrivals: Arrivals::new(NARROW),
            there: VecDeque::new(),
            back: VecDeque::new(),
            inbox: Vec::new(),
            pushed: 0,
            told_stored: BTreeSet::new(),
            told_not: BTreeSet::new(),
            given_up: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push => {
                self.pushed += 1;
                let body = Bytes::copy_from_slice(&self.pushed.to_le_bytes());
                self.tickets.insert(self.pushed, self.window.push(body, self.pushed));
            }
            Step::Send => {
                let next = self.window.next(NARROW);
                self.there.extend(next.map(|(number, body)| There::Message(number, body)));
            }
            Step::Arrive(is_room) => match self.there.pop_front() {
                Some(There::Heard(number)) => self.arrivals.heard(number).expect("it was said"),
                Some(There::Message(number, body)) if is_room => {
                    self.arrivals.arrive(number, body, ()).expect("it is within the grant");
                }
                Some(There::Message(number, body)) => {
                    self.arrivals.turn_away(number, body.len()).expect("it is within the grant");
                    self.back.push_back(Word::NotStored(number));
                }
                None => {}
            },
            Step::Judge(accept) => match (self.arrivals.to_judge(), accept) {
                (None, _) => {}
                (Some(_), true) => self.arrivals.accept(),
                (Some(_), false) => self.back.extend(self.arrivals.reject().map(Word::NotStored)),
            },
            Step::Store(bytes, works) => {
                let batch = self.arrivals.to_store(bytes);
                if batch.is_empty() {
                    return;
                }
                if works {
                    self.inbox.extend(batch.iter().map(number));
                    self.back.extend(self.arrivals.stored(batch.len()).map(Word::Stored));
                } else {
                    self.back.extend(
                        self.arrivals.refused(batch.len()).into_iter().map(Word::NotStored),
                    );
                }
            }
            Step::Answer => match self.back.pop_front() {
                Some(Word::Stored(through)) => {
                    self.told_stored.extend(self.window.stored(through).expect("it was sent"));
                }
                Some(Word::NotStored(number)) => {
                    self.told_not.insert(self.window.not_stored(number).expect("it was sent"));
                    self.there.push_back(There::Heard(number));
                }
                None => {}
            },
            Step::GiveUp(nth) => {
                let Some((&number, &ticket)) = self.tickets.iter().nth(nth) else { return };
                match self.window.give_up(ticket, |_| ()) {
                    Some(false) => _ = self.told_not.insert(number),
                    Some(true) => _ = self.given_up.insert(number),
                    None => {}
                }
            }
            Step::Cut => {
                self.window.cut();
                self.arrivals = Arrivals::new(NARROW);
                (self.there, self.back) = Default::default();
                let resumed = self.window.resume(1, self.inbox.len() as u64);
                assert_eq!(resumed.forgotten, [0; 0]);
                self.told_stored.extend(resumed.stored);
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Push),
        8 => Just(Step::Send),
        10 => proptest::bool::weighted(0.95).prop_map(Step::Arrive),
        8 => proptest::bool::weighted(0.8).prop_map(Step::Judge),
        6 => (1..20u64, proptest::bool::weighted(0.9)).prop_map(|(bytes, works)| Step::Store(bytes, works)),
        8 => Just(Step::Answer),
        1 => (0..30usize).prop_map(Step::GiveUp),
        1 => Just(Step::Cut),
    ];
    proptest::collection::vec(step, 0..300)
}

proptest! {
    #[test]
    fn messages_are_stored_once_and_in_order_and_what_is_told_is_so(steps in steps()) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
        }
        pair.step(Step::Cut);
        for _ in 0..1_000 {
            for step in [Step::Send, Step::Arrive(true), Step::Judge(true), Step::Store(9, true), Step::Answer] {
                pair.step(step);
            }
        }
        prop_assert!(pair.inbox.is_sorted_by(|one, two| one < two), "{:?}", pair.inbox);
        prop_assert!(pair.window.entries.is_empty());
        let inbox: BTreeSet<_> = pair.inbox.iter().copied().collect();
        prop_assert!(pair.told_stored.is_subset(&inbox));
        prop_assert!(pair.told_not.is_disjoint(&inbox));
        for number in 1..=pair.pushed {
            let is_known = pair.told_stored.contains(&number) || pair.told_not.contains(&number);
            prop_assert!(is_known || pair.given_up.contains(&number), "{number} was never answered");
        }
    }
}
