use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const fn id(dialer: u64, attempt: u64) -> ConnectionId {
    ConnectionId { dialer, attempt }
}

fn name(text: &str) -> MeshName {
    text.parse().expect("a name")
}

#[test]
fn of_two_calls_that_cross_the_one_of_the_smaller_name_is_taken() {
    let (a, b) = (name("a"), name("b"));
    let call = Call { id: id(7, 1), after: None };
    for standing in [Standing::Free, Standing::Dialing { said_hello: false }] {
        assert_eq!(decide(&a, &b, standing, call), Decision::Take);
        assert_eq!(decide(&b, &a, standing, call), Decision::Take);
    }
    let standing = Standing::Dialing { said_hello: true };
    assert_eq!(decide(&a, &b, standing, call), Decision::Refuse(Objection::Crossed));
    assert_eq!(decide(&b, &a, standing, call), Decision::Take);
}

#[test]
fn a_connection_makes_room_only_for_who_has_lost_it() {
    let (a, b) = (name("a"), name("b"));
    let connected = |dialer| Standing::Connected { id: id(dialer, 3), peer: 7 };
    let refused = Decision::Refuse(Objection::Connected);
    for (dialer, call, decision) in [
        // It was dialed by the peer, whose attempts follow on each other.
        (7, Call { id: id(7, 4), after: None }, Decision::Take),
        (7, Call { id: id(7, 3), after: None }, refused),
        (7, Call { id: id(7, 2), after: None }, refused),
        // It was dialed by us: the peer called before it knew, or has lost it.
        (1, Call { id: id(7, 9), after: None }, refused),
        (1, Call { id: id(7, 9), after: Some(id(1, 2)) }, refused),
        (1, Call { id: id(7, 9), after: Some(id(1, 3)) }, Decision::Take),
        // Another process.
        (7, Call { id: id(8, 9), after: Some(id(7, 3)) }, Decision::Refuse(Objection::NameTaken)),
        (1, Call { id: id(8, 1), after: None }, Decision::Refuse(Objection::NameTaken)),
    ] {
        assert_eq!(decide(&a, &b, connected(dialer), call), decision, "{dialer} {call:?}");
        assert_eq!(decide(&b, &a, connected(dialer), call), decision, "{dialer} {call:?}");
    }
}

/// One of two programs that dial each other, as the tasks that follow the rule do it.
struct Side {
    name: MeshName,
    instance: u64,
    standing: Standing,
    attempts: u64,
    last: Option<ConnectionId>,
}

/// What is on its way to a side.
#[derive(Clone, Copy, Debug)]
enum Word {
    Hello(Call),
    Welcome(ConnectionId),
    Refusal(ConnectionId),
    /// A connection, or an attempt at one, was closed by the other side.
    Closed(ConnectionId),
}

impl Side {
    fn new(text: &str, instance: u64) -> Self {
        Self { name: name(text), instance, standing: Standing::Free, attempts: 0, last: None }
    }

    fn own(&self) -> ConnectionId {
        id(self.instance, self.attempts)
    }

    fn dial(&mut self, out: &mut VecDeque<Word>) {
        if self.standing == Standing::Free {
            self.attempts += 1;
            self.standing = Standing::Dialing { said_hello: true };
            out.push_back(Word::Hello(Call { id: self.own(), after: self.last }));
        }
    }

    fn is(&self, of: ConnectionId) -> bool {
        match self.standing {
            Standing::Free => false,
            Standing::Dialing { .. } => self.own() == of,
            Standing::Connected { id, .. } => id == of,
        }
    }

    fn lose(&mut self, out: &mut VecDeque<Word>) {
        match self.standing {
            Standing::Free => return,
            Standing::Dialing { .. } => out.push_back(Word::Closed(self.own())),
            Standing::Connected { id, .. } => out.push_back(Word::Closed(id)),
        }
        self.standing = Standing::Free;
    }

    fn hear(&mut self, word: Word, peer: &MeshName, peer_instance: u64, out: &mut VecDeque<Word>) {
        match word {
            Word::Hello(call) => match decide(&self.name, peer, self.standing, call) {
                Decision::Take => {
                    self.lose(out);
                    self.standing = Standing::Connected { id: call.id, peer: peer_instance };
                    self.last = Some(call.id);
                    out.push_back(Word::Welcome(call.id));
                }
                Decision::Refuse(_) => out.push_back(Word::Refusal(call.id)),
            },
            Word::Welcome(of) if self.standing == (Standing::Dialing { said_hello: true }) => {
                if self.is(of) {
                    self.standing = Standing::Connected { id: of, peer: peer_instance };
                    self.last = Some(of);
                }
            }
            Word::Refusal(of) | Word::Closed(of) => {
                if self.is(of) {
                    self.standing = Standing::Free;
                }
            }
            Word::Welcome(_) => {}
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Dial(usize),
    Hear(usize),
    Lose(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..2usize).prop_map(Step::Dial),
        8 => (0..2usize).prop_map(Step::Hear),
        1 => (0..2usize).prop_map(Step::Lose),
    ];
    proptest::collection::vec(step, 0..60)
}

/// Words of different connections may overtake each other: takes the `nth` that may be heard now.
fn take(words: &mut VecDeque<Word>, nth: usize) -> Option<Word> {
    let of = |word: &Word| match word {
        Word::Hello(call) => call.id,
        Word::Welcome(id) | Word::Refusal(id) | Word::Closed(id) => *id,
    };
    let firsts: Vec<_> = (0..words.len())
        .filter(|at| words.iter().take(*at).all(|earlier| of(earlier) != of(&words[*at])))
        .collect();
    words.remove(*firsts.get(nth % firsts.len().max(1))?)
}

proptest! {
    #[test]
    fn both_sides_end_with_the_same_connection_whoever_dials_and_loses_when(
        steps in steps(), picks in proptest::collection::vec(0..4usize, 200),
    ) {
        let mut sides = [Side::new("a", 1), Side::new("b", 2)];
        let mut to = [VecDeque::new(), VecDeque::new()];
        let mut picks = picks.into_iter().cycle();
        let mut hear = |sides: &mut [Side; 2], to: &mut [VecDeque<Word>; 2], at: usize| {
            let Some(word) = take(&mut to[at], picks.next().unwrap_or(0)) else { return false };
            let (peer, instance) = (sides[1 - at].name.clone(), sides[1 - at].instance);
            sides[at].hear(word, &peer, instance, &mut to[1 - at]);
            true
        };
        for step in steps {
            match step {
                Step::Dial(at) => sides[at].dial(&mut to[1 - at]),
                Step::Lose(at) => sides[at].lose(&mut to[1 - at]),
                Step::Hear(at) => {
                    hear(&mut sides, &mut to, at);
                }
            }
        }
        // Nothing is lost any more: both dial again whenever they have nothing.
        for _ in 0..10 {
            for at in 0..2 {
                sides[at].dial(&mut to[1 - at]);
            }
            while hear(&mut sides, &mut to, 0) | hear(&mut sides, &mut to, 1) {}
        }
        let Standing::Connected { id: one, .. } = sides[0].standing else {
            return Err(TestCaseError::fail("a has no connection"));
        };
        let Standing::Connected { id: two, .. } = sides[1].standing else {
            return Err(TestCaseError::fail("b has no connection"));
        };
        prop_assert_eq!(one, two);
    }
}
