//! Promise 5: an ordered producer has the messages of a key stored in order on one node, and says when
//! that becomes another one, once the old one has answered for what it was given.

use std::{collections::BTreeMap, time::Duration};

use ltq_core::Offset;

use super::{Account, Message, Told};
use crate::{
    body::Body,
    violation::{Violation, breaks},
};

pub(super) fn check(account: &Account<'_>) -> Vec<Violation> {
    let mut of_key: BTreeMap<(u64, u64), Vec<(&Body, &Message<'_>)>> = BTreeMap::new();
    for (body, message) in account.messages.iter().filter(|it| it.1.mode.is_ordered()) {
        of_key.entry((message.life, message.key)).or_default().push((body, message));
    }
    of_key.values().flat_map(|messages| check_key(account, messages)).collect()
}

/// Messages of one producer and key, in the order in which they were handed over.
fn check_key(account: &Account<'_>, messages: &[(&Body, &Message<'_>)]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut last: BTreeMap<&str, (Offset, &Body)> = BTreeMap::new();
    let mut at: Option<(&str, &Body)> = None;
    // When it was told what became of each.
    let mut open: Vec<(Duration, &Body)> = Vec::new();
    for (body, message) in messages {
        if let Some((moved, Told::NotStored { is_move: true })) = message.told {
            at = None;
            if let Some(earlier) = open.iter().find(|it| it.0 > moved) {
                let words = format!(
                    "for {body:?} the order moved at {moved:?}; {:?} before it was told of at {:?}",
                    earlier.1, earlier.0
                );
                broken.push(breaks(&[5], words));
            }
        }
        open.push((message.told.map_or(Duration::MAX, |told| told.0), body));
        for (node, offset) in &message.places {
            if account.may_lose(node, message.handed, message.durability) {
                continue;
            }
            if let Some((before, earlier)) = last.get(node)
                && before >= offset
            {
                let words = format!("on {node}, {body:?} is at {offset}, {earlier:?} at {before}");
                broken.push(breaks(&[5], words));
            }
            if let Some((from, earlier)) = at
                && from != *node
            {
                let words = format!(
                    "{body:?} is on {node}, {earlier:?} before it on {from}, and nobody was told"
                );
                broken.push(breaks(&[5], words));
            }
            last.insert(node, (*offset, body));
            at = Some((node, body));
        }
    }
    broken
}
