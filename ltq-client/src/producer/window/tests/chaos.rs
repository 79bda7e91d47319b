//! Whatever happens by chance, answers are true.

use super::*;

/// A broker that keeps the rules, with one log and what is on its way to and from it.
#[derive(Default)]
struct Broker {
    log: Vec<String>,
    /// Sequences known: the last one stored.
    last: u64,
    inbound: VecDeque<Sent>,
    outbound: VecDeque<(u64, u64, Result<Option<u64>, RefusalCode>)>,
}

impl Broker {
    /// Handles the next frame, storing it unless `full`.
    fn step(&mut self, full: bool) {
        let Some((sequence, bodies)) = self.inbound.pop_front() else { return };
        let count = bodies.len() as u64;
        let answer = if sequence > self.last + 1 {
            Err(RefusalCode::SequenceGap)
        } else if sequence + count <= self.last + 1 {
            Ok(None)
        } else if full {
            Err(RefusalCode::StoreFull)
        } else {
            assert_eq!(sequence, self.last + 1, "repeats and new messages share a frame");
            self.last += count;
            self.log.extend(bodies);
            Ok(Some(self.log.len() as u64 - count))
        };
        self.outbound.push_back((sequence, count, answer));
    }
}

#[test]
fn promises_6_and_15_hold_whatever_happens() {
    for seed in 1..=300 {
        chaos(seed);
    }
}

/// Pushes, cuts, refuses and delays by chance, and then looks whether every answer was true.
fn chaos(seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut harness = Harness::opened(0);
    let mut broker = Broker::default();
    let mut open = true;
    let mut calls: Vec<Vec<String>> = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..400 {
        match random(20) {
            0..=5 => {
                let count = if random(4) == 0 { random(5) } else { 1 };
                let call = calls.len() as u32;
                let bodies: Vec<_> = (0..count).map(|i| format!("{call}.{i}")).collect();
                let bodies_ref: Vec<_> = bodies.iter().map(String::as_str).collect();
                match &*bodies_ref {
                    [one] => harness.push(call, one),
                    many => harness.push_all(call, many),
                }
                calls.push(bodies);
            }
            6..=9 if open => {
                harness.limits.bytes = 20 + random(100) as usize;
                if let Some((sequence, records)) =
                    harness.window.poll_frame(harness.now, harness.limits)
                {
                    let bodies = records.messages().map(|m| m.unwrap().body);
                    let bodies = bodies.map(|b| String::from_utf8(b.to_vec()).unwrap()).collect();
                    broker.inbound.push_back((sequence, bodies));
                }
            }
            10..=12 => broker.step(random(8) == 0),
            13..=16 if open => {
                if let Some((sequence, count, answer)) = broker.outbound.pop_front() {
                    match answer {
                        Ok(offset) => {
                            let offset = offset.map(Offset);
                            let range = SequenceRange { sequence, count, offset };
                            harness.window.handle_confirmed(&[range], Durability::Disk).unwrap();
                        }
                        Err(code) => harness.refuse(sequence, count, code),
                    }
                }
            }
            17 => {
                let millis = random(3000);
                harness.after(Duration::from_millis(millis));
            }
            18 if open => {
                open = false;
                harness.window.handle_cut();
                broker.outbound.clear();
                for _ in 0..random(4) {
                    broker.step(false);
                }
                broker.inbound.clear();
                broker.outbound.clear();
            }
            19 if !open => {
                open = true;
                harness.window.handle_opened(true, broker.last).unwrap();
            }
            _ => {}
        }
        answers.extend(harness.answers());
    }
    // Everything comes to rest.
    if !open {
        harness.window.handle_opened(true, broker.last).unwrap();
    }
    harness.limits = LIMITS;
    for _ in 0..10 {
        broker.inbound.extend(harness.send());
        while !broker.inbound.is_empty() {
            broker.step(false);
        }
        for (sequence, count, answer) in std::mem::take(&mut broker.outbound) {
            match answer {
                Ok(_) => harness.confirm(sequence, count, 0),
                Err(code) => harness.refuse(sequence, count, code),
            }
        }
    }
    answers.extend(harness.answers());
    assert_eq!(harness.window.pending(), 0, "seed {seed}: calls without an answer");
    assert_eq!(answers.len(), calls.len(), "seed {seed}");
    assert_eq!(harness.freed.messages, calls.iter().map(Vec::len).sum::<usize>(), "seed {seed}");
    let place = |body: &String| broker.log.iter().position(|stored| stored == body);
    for (call, stored, failure) in answers {
        let bodies = &calls[call as usize];
        for (index, body) in bodies.iter().enumerate() {
            let copies = broker.log.iter().filter(|stored| *stored == body).count();
            assert!(copies <= 1, "seed {seed}: {body} is stored {copies} times");
            match &failure {
                _ if (index as u64) < stored => assert_eq!(copies, 1, "seed {seed}: {body} lost"),
                None => panic!("seed {seed}: {call} without failure has {stored} stored"),
                Some(Failure::Unknown(_) | Failure::Late) => {}

                Some(failure) => {
                    assert_eq!(copies, 0, "seed {seed}: {body} is stored, and was {failure:?}");
                }
            }
        }
    }
    let order: Vec<_> = calls.iter().flatten().filter_map(place).collect();
    assert!(order.is_sorted(), "seed {seed}: out of order");
}
