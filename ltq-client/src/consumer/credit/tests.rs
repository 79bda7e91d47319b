//! How credit is granted, comes back and is taken back.

use std::{collections::VecDeque, mem};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;

fn window(messages: u64, bytes: u64) -> CreditWindow {
    let mut window = CreditWindow::new(Credit { messages, bytes });
    assert_eq!(window.start(ALL), Credit { messages, bytes });
    window
}

#[test]
fn a_broker_that_allows_less_is_asked_for_less_and_one_that_allows_more_again_for_more() {
    let mut window = window(100, 1_000);
    let less = Credit { messages: 10, bytes: 1 << 20 };
    assert_eq!(window.start(less), Credit { messages: 10, bytes: 1_000 });
    window.receive(10, 10, 1).unwrap();
    assert!(window.receive(1, 1, 1).is_err(), "no more than it was given");
    window.settle(10, 10);
    assert_eq!(window.poll(true), Some(Credit { messages: 20, bytes: 1_010 }));
    assert_eq!(window.start(Credit::default()), Credit { messages: 1, bytes: 1 });
    assert_eq!(window.start(ALL), Credit { messages: 100, bytes: 1_000 });
}

#[test]
fn credit_comes_back_in_halves_while_the_consumer_is_busy() {
    let mut window = window(10, 1000);
    window.receive(10, 100, 10).unwrap();
    window.settle(4, 40);
    assert_eq!(window.poll(false), None);
    window.settle(1, 10);
    assert_eq!(window.poll(false), Some(Credit { messages: 15, bytes: 1050 }));
    assert_eq!(window.poll(false), None);
    assert_eq!(window.poll(true), None);
}

#[test]
fn credit_comes_back_at_once_when_the_consumer_starves() {
    let mut window = window(10, 1000);
    window.receive(10, 100, 10).unwrap();
    window.settle(1, 10);
    assert_eq!(window.poll(true), Some(Credit { messages: 11, bytes: 1010 }));
}

#[test]
fn a_trickle_needs_no_credit_before_half_of_it_is_used() {
    let mut window = window(100, 1 << 20);
    for _ in 0..49 {
        window.receive(1, 1, 1).unwrap();
        window.settle(1, 1);
        assert_eq!(window.poll(true), None);
    }
    window.receive(1, 1, 1).unwrap();
    window.settle(1, 1);
    assert!(window.poll(true).is_some());
}

#[test]
fn a_window_of_one_moves() {
    let mut window = window(1, 1);
    for sent in 1..=5 {
        window.receive(1, 300, 300).unwrap();
        assert_eq!(window.poll(true), None);
        window.settle(1, 300);
        assert_eq!(window.poll(false).unwrap().messages, 1 + sent);
    }
}

#[test]
fn bytes_run_out_too() {
    let mut window = window(1000, 100);
    window.receive(2, 120, 60).unwrap();
    window.settle(2, 120);
    assert_eq!(window.poll(false), Some(Credit { messages: 1002, bytes: 220 }));
}

#[test]
fn more_than_was_granted_is_a_violation() {
    assert!(window(2, 100).receive(3, 3, 1).is_err());
    assert!(window(9, 100).receive(3, 130, 20).is_err());
    window(9, 100).receive(3, 119, 20).unwrap();
    assert!(window(9, 100).receive(u64::MAX, u64::MAX, 0).is_err());
}

#[test]
fn what_a_larger_window_brings_is_granted_at_once_and_once() {
    let mut window = window(10, 1_000);
    window.receive(1, 10, 10).unwrap();
    window.resize(Credit { messages: 12, bytes: 1_000 });
    assert!(window.is_due(false));
    assert_eq!(window.poll(false), Some(Credit { messages: 12, bytes: 1_000 }));
    window.settle(1, 10);
    assert_eq!(window.poll(false), None, "in halves again");
    window.resize(Credit { messages: 12, bytes: 1_001 });
    assert_eq!(window.poll(false), Some(Credit { messages: 13, bytes: 1_011 }));
    assert_eq!(window.usage().open, Credit { messages: 12, bytes: 1_001 });
}

#[test]
fn a_smaller_window_takes_back_what_is_not_used_and_counts_the_old_total_until_then() {
    let mut window = window(10, 1_000);
    window.receive(2, 20, 10).unwrap();
    window.resize(Credit { messages: 4, bytes: 100 });
    assert_eq!(window.poll(false), Some(Credit { messages: 4, bytes: 100 }));
    window.settle(1, 10);
    assert!(!window.is_due(true) && window.poll(true).is_none(), "one question at a time");
    window.receive(4, 40, 10).unwrap();
    assert!(window.handle_credited(Credit { messages: 4, bytes: 100 }).is_err(), "6 came");
    window.asked = Some(Credit { messages: 4, bytes: 100 });
    window.handle_credited(Credit { messages: 6, bytes: 100 }).unwrap();
    let (open, unsettled) = (Credit { messages: 0, bytes: 40 }, Credit { messages: 5, bytes: 50 });
    let size = Credit { messages: 4, bytes: 100 };
    assert_eq!(window.usage(), CreditUse { size, open, unsettled });
    assert!(window.receive(1, 10, 10).is_err(), "what was taken back is gone");
    assert!(window.handle_credited(Credit { messages: 6, bytes: 100 }).is_err(), "once");
}

#[test]
fn nothing_is_granted_before_there_are_as_few_as_a_smaller_window_holds() {
    let mut window = window(10, 1_000);
    window.receive(10, 100, 10).unwrap();
    window.resize(Credit { messages: 2, bytes: 1_000 });
    assert_eq!(window.poll(true), None, "there is nothing to take back");
    window.settle(8, 80);
    assert_eq!(window.poll(true).map(|total| total.messages), None);
    window.settle(1, 10);
    assert_eq!(window.poll(true).map(|total| total.messages), Some(11));
}

#[test]
fn a_window_that_is_smaller_in_bytes_alone_keeps_its_messages() {
    let mut window = window(10, 1_000);
    window.resize(Credit { messages: 20, bytes: 100 });
    assert_eq!(window.poll(false), Some(Credit { messages: 10, bytes: 100 }));
    window.handle_credited(Credit { messages: 10, bytes: 100 }).unwrap();
    assert_eq!(window.poll(false), Some(Credit { messages: 20, bytes: 100 }));
}

#[test]
fn the_newest_size_holds_in_the_next_subscription() {
    let mut window = window(10, 1_000);
    window.receive(3, 30, 10).unwrap();
    window.resize(Credit { messages: 0, bytes: 0 });
    let one = Credit { messages: 1, bytes: 1 };
    // What is open stays 1 beyond what came: nobody can be asked for less than one message.
    assert_eq!(window.poll(false), Some(Credit { messages: 3, bytes: 30 }));
    window.stop();
    let none = Credit::default();
    assert_eq!(window.usage(), CreditUse { size: one, open: none, unsettled: none });
    assert_eq!(window.start(ALL), one);
    assert_eq!(window.usage(), CreditUse { size: one, open: one, unsettled: none });
    assert_eq!(window.poll(true), None, "the old question is forgotten");
    window.stop();
    window.resize(Credit { messages: 7, bytes: 70 });
    assert_eq!(window.start(one), one);
    assert_eq!(window.start(ALL), Credit { messages: 7, bytes: 70 });
}

/// A broker's side of credit, and what is on its way to it and from it.
#[derive(Default)]
struct Broker {
    granted: Credit,
    used: Credit,
    to: VecDeque<Credit>,
    from: VecDeque<Coming>,
}

enum Coming {
    Delivered(Credit),
    Credited(Credit),
}

impl Broker {
    fn hear(&mut self) {
        let Some(total) = self.to.pop_front() else { return };
        let before = mem::replace(&mut self.granted, total);
        if !before.is_within(total) {
            self.from.push_back(Coming::Credited(total.at_least(self.used)));
        }
    }

    fn deliver(&mut self, messages: u64) {
        let open = self.granted.minus(self.used);
        let messages = messages.min(open.messages);
        // Of 10 bytes each, the last of which may go beyond.
        let messages = messages.min(open.bytes.div_ceil(10));
        if messages > 0 {
            let sent = Credit { messages, bytes: messages * 10 };
            self.used = self.used.plus(sent);
            self.from.push_back(Coming::Delivered(sent));
        }
    }
}

/// Whatever happens in whatever order: nothing is taken for a breach of the protocol, there are never
/// more on their way and unsettled than the largest size since the last answer, the smaller size
/// holds once it is answered, and in the end everything that the size allows is open.
#[test]
fn promise_9_whatever_a_window_is_set_to_no_more_comes_than_it_was_told() {
    for seed in 0..1_000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut size = Credit { messages: rng.random_range(1..40), bytes: 10_000 };
        let mut window = CreditWindow::new(size);
        let mut broker = Broker { granted: window.start(ALL), ..Broker::default() };
        let (mut held, mut frames) = (0, 0);
        let take = |window: &mut CreditWindow, broker: &mut Broker, held: &mut u64| {
            match broker.from.pop_front() {
                Some(Coming::Delivered(sent)) => {
                    window.receive(sent.messages, sent.bytes, 10).unwrap();
                    *held += sent.messages;
                }
                Some(Coming::Credited(total)) => window.handle_credited(total).unwrap(),
                None => return false,
            }
            true
        };
        for _ in 0..rng.random_range(1..200) {
            match rng.random_range(0..10) {
                0..=1 => {
                    let bytes = if rng.random() { 10_000 } else { rng.random_range(1..400) };
                    size = Credit { messages: rng.random_range(1..40), bytes };
                    window.resize(size);
                }
                2..=3 => broker.deliver(rng.random_range(1..30)),
                4 => broker.hear(),
                5..=6 => drop(take(&mut window, &mut broker, &mut held)),
                7 => {
                    let settled = rng.random_range(0..=held);
                    window.settle(settled, settled * 10);
                    held -= settled;
                }
                _ => {
                    let total = window.poll(rng.random());
                    frames += u64::from(total.is_some());
                    broker.to.extend(total);
                }
            }
            let CreditUse { open, unsettled, .. } = window.usage();
            assert_eq!(unsettled.messages, held, "seed {seed}");
            let coming = broker.used.messages - window.received.messages;
            assert!(coming <= open.messages, "seed {seed}: {coming} come, {open:?} are open");
        }
        // Everybody hears everything.
        for _ in 0..100 {
            broker.to.extend(window.poll(false));
            while !broker.to.is_empty() {
                broker.hear();
            }
            while take(&mut window, &mut broker, &mut held) {}
        }
        let CreditUse { open, unsettled, .. } = window.usage();
        let both = open.messages + unsettled.messages;
        assert!(both <= size.messages.max(held), "seed {seed}: {open:?}, {unsettled:?}, {size:?}");
        window.settle(held, held * 10);
        for _ in 0..10 {
            broker.to.extend(window.poll(true));
            broker.hear();
            while take(&mut window, &mut broker, &mut held) {}
        }
        let open = window.usage().open;
        assert!(open.is_within(size) && !window.usage().is_exhausted(), "seed {seed}: {open:?}");
        assert!(open.messages * 2 >= size.messages, "seed {seed}: {open:?} of {size:?}");
        assert!(frames < 200);
    }
}
