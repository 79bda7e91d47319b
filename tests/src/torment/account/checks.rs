//! What must hold of every message.

use std::{collections::BTreeMap, time::Duration};

use super::{Account, Became, Delivery, Told, Unsound, numbered};
use crate::torment::worker;

impl Account {
    /// Checks every promise, once all is read.
    pub(in crate::torment) fn check(&self) -> Result<(), Unsound> {
        self.none("were confirmed and lost", |topic, it| {
            it.taken == 0 && !self.may_be_lost(topic, it)
        })?;
        let denied = |it: &Became| matches!(it.told, Some(Told::Failed(_)));
        self.none("were stored, and their publisher was told that nothing happened", |_, it| {
            denied(it) && (it.taken > 0 || it.arrived > 0)
        })?;
        self.none(
            "failed as if somebody else published under their producer's name",
            |_, it| matches!(&it.told, Some(Told::Failed(why)) if why.contains(FENCED)),
        )?;
        self.none("came that nobody published", |_, it| !it.is_meant)?;
        self.none("are not where their receipt says", |topic, it| {
            let Some((node, Some(offset))) = &it.receipt else { return false };
            !self.may_be_lost(topic, it)
                && it.taken > 0
                && !it.places.contains(&(node.clone(), *offset))
        })?;
        self.none("are stored twice in a mode that stores once", |topic, it| {
            !worker::may_repeat(topic) && it.places.len() > 1 && !self.lost_somewhere(topic, it)
        })?;
        self.none("have two ids", |_, it| it.ids.len() > 1)?;
        self.none("took longer than they may while their program ran", |_, it| {
            u128::from(self.own_ms(it)) > (worker::TIMEOUT + LATE_MAX).as_millis()
        })?;
        if self.is_bridged {
            self.bridged()?;
            self.in_order_over_the_bridge()?;
        }
        self.none(
            "came again after their ack was confirmed, and their node was not killed",
            |_, it| {
                it.acks
                    .iter()
                    .any(|ack| it.deliveries.iter().any(|later| self.is_repeat(ack, later)))
            },
        )?;
        self.none_early()?;
        if let Some((topic, _)) = self.moves.keys().find(|(topic, _)| worker::moves_silently(topic))
        {
            let example = format!("the first is of {topic}");
            return Err(Unsound {
                count: 1,
                what: "moved, and who wanted not to know was told",
                example,
            });
        }
        self.in_order()?;
        self.in_order_of_sending()
    }

    /// Everything is at the destination, and known there by where it is at the source.
    fn bridged(&self) -> Result<(), Unsound> {
        self.none("were confirmed and did not come over the bridge", |topic, it| {
            it.arrived == 0 && !self.may_be_lost(topic, it)
        })?;
        self.none("came over the bridge from where they are not", |topic, it| {
            let is_elsewhere = |(node, offset): &(String, u64)| {
                !it.places.contains(&(node.clone(), *offset)) && !self.lost_by(topic, it, node)
            };
            topic != worker::FLEETING && it.arrived_from.keys().any(is_elsewhere)
        })?;
        match &self.mixed {
            Some(example) => Err(Unsound {
                count: 2,
                what: "have one origin at the destination",
                example: example.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Whether a node's program ended meanwhile, or was killed if only that counts.
    fn ended(&self, node: &str, from: u64, to: u64, only_kills: bool) -> bool {
        let mut ends = self.ends.get(node).into_iter().flatten();
        ends.any(|end| (from..=to).contains(&end.at) && (end.is_kill || !only_kills))
    }

    /// Whether a message was delivered anew that had been acked for good.
    fn is_repeat(&self, ack: &Delivery, later: &Delivery) -> bool {
        (&ack.node, ack.offset) == (&later.node, later.offset)
            && later.attempt > ack.attempt
            && !self.ended(&ack.node, ack.at, later.at, true)
    }

    /// No delay is over early as long as its node runs, whatever clocks do meanwhile.
    fn none_early(&self) -> Result<(), Unsound> {
        let ended = |(node, from, to): &&(String, u64, u64)| self.ended(node, *from, *to, false);
        let mut early = self.early.iter().filter(|early| !ended(early));
        let Some((node, from, to)) = early.next() else { return Ok(()) };
        let example =
            format!("the first is of {node}, given back at {from} ms and taken at {to} ms");
        Err(Unsound { count: 1 + early.count(), what: "came before their delay was over", example })
    }

    /// On each node, messages of one key lie in the order in which they were published; and between two that
    /// follow on each other and lie on different nodes, their publisher was told that the order moves, unless it
    /// was killed between them.
    fn in_order(&self) -> Result<(), Unsound> {
        let mut on_nodes: BTreeMap<_, BTreeMap<u64, u64>> = BTreeMap::new();
        let mut of_keys: BTreeMap<_, BTreeMap<u64, &str>> = BTreeMap::new();
        for ((topic, body), it) in &self.messages {
            let Some((key, number)) = numbered(body) else { continue };
            for (node, offset) in it.places.iter().filter(|_| worker::is_ordered(topic)) {
                on_nodes.entry((topic, key, node)).or_default().insert(*offset, number);
                of_keys.entry((topic, key)).or_default().insert(number, node);
            }
        }
        for ((topic, key, node), numbers) in on_nodes {
            let numbers: Vec<_> = numbers.into_values().collect();
            if let Some(pair) = numbers.windows(2).find(|pair| pair[0] >= pair[1]) {
                let example =
                    format!("{topic} key {key} on {node}: {} before {}", pair[0], pair[1]);
                return Err(Unsound { count: 1, what: "are out of order", example });
            }
        }
        for ((topic, key), places) in of_keys {
            let places: Vec<_> = places.into_iter().collect();
            for pair in places.windows(2) {
                let [(before, from), (after, to)] = pair else { continue };
                let moves = self.moves.get(&(topic.clone(), key.to_owned()));
                let is_told = moves.is_some_and(|at| at.range(before + 1..=*after).count() > 0);
                let one_publisher = before / worker::LIFE == after / worker::LIFE;
                if from != to && one_publisher && !is_told && !worker::moves_silently(topic) {
                    let example =
                        format!("{topic} key {key}: {before} is on {from}, {after} on {to}");
                    return Err(Unsound { count: 1, what: "moved in silence", example });
                }
            }
        }
        Ok(())
    }

    /// What one program of a mesh sent to another, its only reader took in that order, but for what it took again.
    fn in_order_of_sending(&self) -> Result<(), Unsound> {
        let mut taken: BTreeMap<_, BTreeMap<u64, u64>> = BTreeMap::new();
        for ((topic, body), it) in self.messages.iter().filter(|(_, it)| it.taken > 0) {
            if let (true, Some((_, number))) = (topic.starts_with(worker::MESH), numbered(body)) {
                taken.entry(topic).or_default().insert(it.first_taken, number);
            }
        }
        for (topic, numbers) in taken {
            let numbers: Vec<_> = numbers.into_values().collect();
            if let Some(pair) = numbers.windows(2).find(|pair| pair[0] >= pair[1]) {
                let example = format!("{topic}: {} before {}", pair[0], pair[1]);
                return Err(Unsound { count: 1, what: "were taken out of order", example });
            }
        }
        Ok(())
    }

    fn none(
        &self,
        what: &'static str,
        is_bad: impl Fn(&str, &Became) -> bool,
    ) -> Result<(), Unsound> {
        let mut bad = self.messages.iter().filter(|((topic, _), it)| is_bad(topic, it));
        let Some(((topic, body), it)) = bad.next() else { return Ok(()) };
        let example = format!("the first is {body} of {topic}: {it:?}");
        Err(Unsound { count: 1 + bad.count(), what, example })
    }
}

/// By how much a call may be late that ends by its time: a turn of a runtime of which not all threads are run
/// when they want to be. What is longer is told by those who [watch](crate::Stalls) for it.
const LATE_MAX: Duration = Duration::from_millis(250);

/// How a broker says so.
const FENCED: &str = "a newer instance";
