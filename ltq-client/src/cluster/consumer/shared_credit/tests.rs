//! Who gets how much: by example, and whatever happens in whatever order.

mod sim;

use proptest::prelude::*;
use sim::{Op, Sim};

use super::*;

const MILLI: Duration = Duration::from_millis(1);

fn credit(messages: u64) -> Credit {
    Credit { messages, bytes: messages * 1_000 }
}

#[test]
fn what_is_shared_fairly_is_what_each_wants_or_no_less_than_anybody_gets() {
    assert_eq!(fill(10, &[]), Vec::<u64>::new());
    assert_eq!(fill(10, &[3, 4]), [3, 4]);
    assert_eq!(fill(10, &[u64::MAX, 2, u64::MAX]), [4, 2, 4]);
    assert_eq!(fill(11, &[9, 9]).iter().sum::<u64>(), 11);
    assert_eq!(fill(2, &[5, 5, 5]).iter().sum::<u64>(), 2);
}

#[test]
fn newcomers_share_evenly_and_then_nothing_moves() {
    let mut sim = Sim::new(credit(900), 3);
    sim.run(5);
    assert_eq!(sim.sizes(), [300, 300, 300]);
    let moved = sim.moved;
    sim.pass(Duration::from_secs(1));
    sim.run(20);
    assert_eq!((sim.moved, sim.next_timeout()), (moved, None), "at rest nothing is done");
}

#[test]
fn a_burst_after_idleness_has_nearly_all_within_a_few_round_trips() {
    let mut sim = Sim::new(credit(2_500), 3);
    sim.run(5);
    sim.pass(Duration::from_secs(5));
    sim.publish(1, 1_000_000);
    // A round is half of a round trip.
    sim.run(6);
    let [a, b, c] = sim.unsettled()[..] else { panic!() };
    assert_eq!((a, c), (0, 0));
    assert!(b >= 2_490, "it has {b}");
    // The next one elsewhere, when this one is over.
    sim.end(1);
    sim.run(1);
    sim.pass(Duration::from_secs(5));
    sim.publish(2, 1_000_000);
    sim.run(6);
    assert!(sim.unsettled()[2] >= 2_490, "it has {:?}", sim.unsettled());
}

#[test]
fn a_burst_right_after_one_elsewhere_has_half_within_some_round_trips_and_the_rest_soon() {
    let mut sim = Sim::new(credit(2_500), 3);
    sim.run(5);
    sim.pass(Duration::from_secs(1));
    sim.publish(0, 1_000_000);
    sim.run(6);
    sim.end(0);
    sim.run(1);
    sim.publish(1, 1_000_000);
    // From one message on, each round trip brings eight times as much.
    sim.run(12);
    assert!(sim.unsettled()[1] >= 1_200, "it has {:?}", sim.unsettled());
    let at = sim.next_timeout().expect("it is looked at again");
    assert_eq!(at, sim.now + 20 * MILLI);
    // Until then the other one may have more on its way to it.
    sim.pass(19 * MILLI);
    sim.run(6);
    assert!(sim.unsettled()[1] <= 1_300, "it has {:?}", sim.unsettled());
    sim.pass(MILLI);
    sim.run(6);
    assert!(sim.unsettled()[1] >= 2_400, "it has {:?}", sim.unsettled());
}

#[test]
fn who_comes_to_a_busy_one_has_an_even_part_for_as_long_as_nobody_knows_what_it_needs() {
    let mut sim = Sim::new(credit(1_000), 1);
    sim.publish(0, 1_000_000);
    sim.run(5);
    sim.join();
    // There is nothing at it.
    sim.settle(0, 600);
    sim.run(5);
    assert_eq!(sim.sizes()[1], 500);
    sim.pass(19 * MILLI);
    sim.run(5);
    assert_eq!((sim.sizes()[1], sim.next_timeout()), (500, Some(sim.now + MILLI)));
    sim.pass(MILLI);
    sim.run(5);
    assert_eq!(sim.sizes(), [999, 1], "what it needs to say that it has something");
}

#[test]
fn what_becomes_free_goes_to_who_has_least_first() {
    let mut sim = Sim::new(credit(100), 1);
    sim.publish(0, 1_000_000);
    sim.run(5);
    sim.join();
    sim.settle(0, 20);
    sim.run(2);
    assert_eq!(sim.sizes()[1], 20, "all that is free, of its half");
    sim.join();
    sim.settle(0, 12);
    sim.run(1);
    assert_eq!(sim.sizes()[1..], [20, 12], "and not to the one that came before");
}

#[test]
fn of_those_with_as_many_messages_who_has_the_fewest_bytes_is_first() {
    let now = Instant::now();
    let mut shared = SharedCredit::new(Credit { messages: 30, bytes: 3_000 });
    (0..3).for_each(|number| shared.join(number, Credit { messages: 30, bytes: 3_000 }, now));
    // One leaves, and has most of it still.
    let unsettled = Credit { messages: 18, bytes: 1_900 };
    let left = CreditUse { unsettled, ..CreditUse::default() };
    shared.see(0, left, Marks::default(), now);
    shared.set_leaving(0, true);
    for (number, bytes) in [(1, 800), (2, 100)] {
        let share = shared.shares.get_mut(&number).unwrap();
        share.size = Credit { messages: 5, bytes };
    }
    assert_eq!(shared.rebalance(now), [(2, Credit { messages: 7, bytes: 300 })]);
}

#[test]
fn busy_nodes_have_the_same_and_stay_so() {
    let mut sim = Sim::new(credit(900), 3);
    for node in 0..3 {
        sim.publish(node, 1_000_000);
    }
    sim.run(10);
    assert_eq!(sim.unsettled(), [300, 300, 300]);
    let moved = sim.moved;
    for _ in 0..100 {
        (0..3).for_each(|node| sim.settle(node, 50));
        sim.run(1);
    }
    assert_eq!(sim.moved, moved, "nothing moves among them");
}

#[test]
fn a_node_that_holds_everything_leaves_a_busy_newcomer_its_half_as_it_settles() {
    let mut sim = Sim::new(credit(1_000), 1);
    sim.publish(0, 1_000_000);
    sim.run(5);
    assert_eq!(sim.unsettled(), [1_000]);
    let new = sim.join();
    sim.publish(new, 1_000_000);
    sim.run(5);
    assert_eq!(sim.unsettled(), [1_000, 0], "the limit holds");
    for _ in 0..100 {
        sim.settle(0, 10);
        sim.run(2);
    }
    let [old, new] = sim.unsettled()[..] else { panic!() };
    assert!((440..=560).contains(&old) && (440..=560).contains(&new), "{old} and {new}");
}

#[test]
fn a_trickle_beside_a_busy_node_moves_next_to_nothing() {
    let mut sim = Sim::new(credit(2_500), 2);
    sim.publish(0, 1_000_000);
    sim.run(10);
    sim.pass(Duration::from_secs(3));
    let moved = sim.moved;
    for _ in 0..200 {
        sim.publish(1, 1);
        sim.settle(0, 100);
        sim.run(3);
        sim.settle(1, 1);
        sim.run(1);
        sim.pass(10 * MILLI);
    }
    let moves = sim.moved - moved;
    assert!(moves <= 20, "{moves} moves for 200 messages");
    assert_eq!(sim.delivered(1), 200);
}

#[test]
fn who_leaves_gives_back_what_is_open_and_keeps_what_came_until_it_is_settled() {
    let mut sim = Sim::new(credit(100), 2);
    sim.publish(0, 10);
    sim.publish(1, 1_000);
    sim.run(5);
    sim.credit.set_leaving(0, true);
    sim.run(5);
    assert_eq!(sim.unsettled(), [10, 90]);
    sim.publish(0, 10);
    sim.settle(0, 10);
    sim.run(5);
    assert_eq!(sim.unsettled(), [0, 100], "nothing more comes of it");
}

#[test]
fn what_a_lost_connection_had_is_the_others() {
    let mut sim = Sim::new(credit(100), 2);
    sim.publish(0, 1_000);
    sim.publish(1, 1_000);
    sim.run(5);
    assert_eq!(sim.unsettled(), [50, 50]);
    sim.cut(0);
    sim.run(5);
    assert_eq!(sim.unsettled(), [0, 100]);
}

#[test]
fn a_smaller_total_is_reached_by_taking_back_and_settling() {
    let mut sim = Sim::new(credit(900), 3);
    sim.run(5);
    sim.pass(Duration::from_secs(1));
    sim.publish(0, 10_000);
    sim.run(10);
    sim.credit.set_total(credit(90));
    sim.run(5);
    assert!(sim.unsettled()[0] > 800, "it has {:?}", sim.unsettled());
    sim.drain(0);
    sim.run(10);
    assert!(sim.out().messages <= 90, "{:?}", sim.out());
    assert!(sim.unsettled()[0] >= 80, "it has {:?}", sim.unsettled());
}

#[test]
fn a_node_that_allows_less_leaves_the_rest_to_others() {
    let mut sim = Sim::new(credit(1_000), 0);
    sim.join_allowed(credit(10));
    sim.join();
    sim.publish(0, 10_000);
    sim.publish(1, 10_000);
    sim.run(10);
    assert_eq!(sim.unsettled(), [10, 990]);
}

#[test]
fn with_more_nodes_than_messages_each_has_its_turn_and_the_busy_one_most_of_them() {
    let mut sim = Sim::new(credit(3), 10);
    sim.publish(4, 1_000_000);
    let mut delivered = 0;
    for _ in 0..200 {
        sim.run(3);
        for node in 0..10 {
            sim.drain(node);
        }
        delivered = sim.delivered(4);
        sim.pass(10 * MILLI);
    }
    assert!(delivered >= 60, "the busy one had {delivered} in two seconds");
    // Each of the others can tell that it has something.
    for node in (0..10).filter(|node| *node != 4) {
        sim.publish(node, 1);
    }
    for _ in 0..200 {
        sim.run(3);
        for node in 0..10 {
            sim.drain(node);
        }
        sim.pass(10 * MILLI);
    }
    for node in (0..10).filter(|node| *node != 4) {
        assert_eq!(sim.delivered(node), 1, "node {node} had no turn in two seconds");
    }
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..NODES_MAX;
    prop_oneof![
        3 => (node.clone(), 1..200_u64).prop_map(|(node, count)| Op::Publish(node, count)),
        6 => (node.clone(), 1..100_u64).prop_map(|(node, count)| Op::Deliver(node, count)),
        6 => node.clone().prop_map(Op::Receive),
        6 => node.clone().prop_map(Op::Hear),
        6 => (node.clone(), 1..100_u64).prop_map(|(node, count)| Op::Settle(node, count)),
        6 => node.clone().prop_map(Op::Speak),
        6 => node.clone().prop_map(Op::See),
        6 => Just(Op::Move),
        1 => Just(Op::Join),
        1 => node.clone().prop_map(Op::Cut),
        1 => node.clone().prop_map(Op::Back),
        1 => (node, any::<bool>()).prop_map(|(node, is)| Op::Leaving(node, is)),
        2 => (0..100_u64).prop_map(Op::Pass),
        1 => (1..50_u64).prop_map(Op::More),
    ]
}

const NODES_MAX: usize = 8;

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn promise_9_no_more_is_out_than_there_is_whatever_happens_and_everything_is_delivered_then(
        total in 1..60_u64,
        nodes in 1..6_usize,
        ops in prop::collection::vec(op(), 1..400),
    ) {
        let mut sim = Sim::new(credit(total), nodes);
        for op in ops {
            sim.apply(op);
            let (out, total) = (sim.out(), sim.total());
            prop_assert!(out.messages <= total.messages, "{out:?} are out of {total:?}");
            // The message that uses up the last bytes may go beyond, on each node.
            let beyond = sim::BYTES_MAX * sim.count() as u64;
            prop_assert!(out.bytes <= total.bytes + beyond, "{out:?} are out of {total:?}");
        }
        // What is settled and heard of soon brings everything, wherever it is.
        sim.mend();
        for _ in 0..3_000 {
            if sim.is_drained() {
                break;
            }
            sim.run(3);
            (0..sim.count()).for_each(|node| sim.drain(node));
            sim.pass(10 * MILLI);
            let (out, total) = (sim.out(), sim.total());
            prop_assert!(out.messages <= total.messages, "{out:?} are out of {total:?}");
        }
        prop_assert!(sim.is_drained(), "left: {sim:?}");
    }
}
