//! Which node a message goes to. No IO, no clock.

use ltq_core::Refusal;
use ltq_discovery::{NodeInfo, NodeState};

use super::NodeNotUsed;

/// How a producer chooses among the nodes that would do.
///
/// Messages that are published faster than frames go out share them: they follow the one before to its
/// node until its frame goes out, and 16 KiB of them at most, unless they go round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Choice {
    /// Of two nodes taken by chance, the one with less to do: what it says waits there, in KiB, and what this
    /// producer has unanswered there. Close to the least loaded one, without everybody running
    /// to it at once.
    #[default]
    LeastLoaded,
    /// One after another, message by message or batch by batch, which takes smaller frames.
    RoundRobin,
    /// By chance.
    Random,
}

/// Chooses, and remembers what it has to.
#[derive(Debug)]
pub(crate) struct Chooser {
    choice: Choice,
    next: usize,
}

impl Chooser {
    pub(crate) const fn new(choice: Choice) -> Self {
        Self { choice, next: 0 }
    }

    /// Whether messages may follow one another to the same node.
    pub(crate) const fn lets_follow(&self) -> bool {
        !matches!(self.choice, Choice::RoundRobin)
    }

    /// One of `count`, of which each has so much to do. `None` of none.
    pub(crate) fn choose(
        &mut self,
        count: usize,
        load: impl Fn(usize) -> u64,
        mut random: impl FnMut() -> u64,
    ) -> Option<usize> {
        match (count, self.choice) {
            (0, _) => None,
            (1, _) => Some(0),
            (_, Choice::RoundRobin) => {
                let index = self.next % count;
                self.next = index + 1;
                Some(index)
            }
            (_, Choice::Random) => Some(below(random(), count)),
            (_, Choice::LeastLoaded) => {
                let first = below(random(), count);
                // Another one than the first.
                let second = (first + 1 + below(random(), count - 1)) % count;
                Some(if load(second) < load(first) { second } else { first })
            }
        }
    }
}

/// A random number brought below `count`.
fn below(random: u64, count: usize) -> usize {
    // The upper half of the product: every outcome gets its share.
    let wide = u128::from(random) * count as u128;
    (wide >> 64) as usize
}

/// What the connection to a node is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contact {
    /// Nobody has tried, or the first try is under way.
    Untried,
    /// It is up.
    Up,
    /// The node is about to end it.
    Leaving,
    /// It is down.
    Down,
}

/// Whether a node may be given messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Good,
    /// Where no good one is there.
    Suspected,
    Out(NodeNotUsed),
}

impl Standing {
    /// That of a node, which was passed over for this refusal if any.
    pub(crate) fn of(
        node: &NodeInfo,
        is_reachable: bool,
        contact: Contact,
        passed_over: Option<&Refusal>,
    ) -> Self {
        if node.state() != NodeState::Ready {
            return Self::Out(NodeNotUsed::Draining);
        }
        if !is_reachable {
            return Self::Out(NodeNotUsed::NoAddress);
        }
        if let Some(refusal) = passed_over {
            return Self::Out(NodeNotUsed::PassedOver(refusal.clone()));
        }
        match contact {
            Contact::Leaving | Contact::Down => Self::Out(NodeNotUsed::NotConnected),
            Contact::Untried | Contact::Up if node.is_suspected() => Self::Suspected,
            Contact::Untried | Contact::Up => Self::Good,
        }
    }

    pub(crate) const fn is_out(&self) -> bool {
        matches!(self, Self::Out(_))
    }
}

#[cfg(test)]
mod tests {
    use ltq_core::RefusalCode;
    use proptest::prelude::*;

    use super::*;

    /// Numbers that look random, and are the same each time.
    fn chance(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        }
    }

    fn shares(choice: Choice, loads: &[u64]) -> Vec<usize> {
        let mut chooser = Chooser::new(choice);
        let mut random = chance(7);
        let mut counts = vec![0; loads.len()];
        for _ in 0..10_000 {
            counts[chooser.choose(loads.len(), |i| loads[i], &mut random).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn equal_nodes_get_equal_shares() {
        for choice in [Choice::LeastLoaded, Choice::RoundRobin, Choice::Random] {
            for count in shares(choice, &[5; 4]) {
                assert!((2_300..=2_700).contains(&count), "{choice:?}: {count}");
            }
        }
        assert_eq!(shares(Choice::RoundRobin, &[0; 4]), [2_500; 4]);
    }

    #[test]
    fn of_two_the_less_loaded_is_taken() {
        let counts = shares(Choice::LeastLoaded, &[0, 10, 20, 30]);
        assert!(counts.is_sorted_by(|a, b| a > b), "{counts:?}");
        // Each is one of the two in half of the draws; the most loaded is never the better one.
        assert!((4_800..=5_200).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[3], 0);
        assert_eq!(shares(Choice::LeastLoaded, &[9, 3]), [0, 10_000]);
    }

    #[test]
    fn none_has_none_and_one_is_chosen_without_chance() {
        for choice in [Choice::LeastLoaded, Choice::RoundRobin, Choice::Random] {
            let mut chooser = Chooser::new(choice);
            assert_eq!(chooser.choose(0, |_| 0, || panic!("no chance needed")), None);
            assert_eq!(chooser.choose(1, |_| 0, || panic!("no chance needed")), Some(0));
        }
    }

    fn node() -> NodeInfo {
        NodeInfo::new("n".parse().unwrap(), ["tcp://n:1".parse().unwrap()]).unwrap()
    }

    #[test]
    fn who_stands_how() {
        let full = Refusal::new(RefusalCode::StoreFull, "");
        let up = Contact::Up;
        assert_eq!(Standing::of(&node(), true, up, None), Standing::Good);
        assert_eq!(Standing::of(&node(), true, Contact::Untried, None), Standing::Good);
        let suspected = node().with_suspicion(true);
        assert_eq!(Standing::of(&suspected, true, up, None), Standing::Suspected);
        let out = |node: &NodeInfo, reachable, contact, passed| match Standing::of(
            node, reachable, contact, passed,
        ) {
            Standing::Out(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(out(&node(), false, up, None), NodeNotUsed::NoAddress);
        assert_eq!(out(&node(), true, Contact::Down, None), NodeNotUsed::NotConnected);
        assert_eq!(out(&node(), true, Contact::Leaving, None), NodeNotUsed::NotConnected);
        assert_eq!(out(&node(), true, up, Some(&full)), NodeNotUsed::PassedOver(full));
    }

    proptest! {
        #[test]
        fn a_draining_node_is_never_used(
            suspected: bool, reachable: bool, contact in 0..4_usize, passed: bool,
        ) {
            let contacts = [Contact::Untried, Contact::Up, Contact::Leaving, Contact::Down];
            let refusal = Refusal::new(RefusalCode::Internal, "");
            let draining = node().with_state(NodeState::Draining).with_suspicion(suspected);
            let passed = passed.then_some(&refusal);
            let standing = Standing::of(&draining, reachable, contacts[contact], passed);
            prop_assert_eq!(standing, Standing::Out(NodeNotUsed::Draining));
        }

        #[test]
        fn a_choice_is_one_of_those_there_are(
            count in 1..50_usize, seed: u64, choice in 0..3_usize, loads: [u64; 50],
        ) {
            let choices = [Choice::LeastLoaded, Choice::RoundRobin, Choice::Random];
            let mut chooser = Chooser::new(choices[choice]);
            let mut random = chance(seed);
            for _ in 0..20 {
                let chosen = chooser.choose(count, |i| loads[i], &mut random);
                prop_assert!(chosen.is_some_and(|index| index < count));
            }
        }
    }
}
