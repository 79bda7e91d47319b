//! Promise 13: in the end everything that each node has is acked in each channel, and came from it.

use std::collections::BTreeSet;

use super::Account;
use crate::violation::{Violation, breaks};

pub(super) fn check(account: &Account<'_>) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut came: BTreeSet<(&str, usize, usize, u64)> = BTreeSet::new();
    for (_, place, _) in &account.taken {
        came.insert((&place.node, place.topic, place.channel, place.offset.0));
    }
    for has in &account.has {
        let (node, topic, end) = (has.node, has.topic, has.end.0);
        for &(channel, acked) in has.acked {
            if acked != end {
                let words = format!("{node}/t{topic}/c{channel}: {acked} of {end} are acked");
                broken.push(breaks(&[13], words));
            }
            if account.had_power_cut(node) {
                // Offsets of what was lost may be another's now.
                continue;
            }
            let never = (0..end).find(|offset| !came.contains(&(node, topic, channel, *offset)));
            if let Some(offset) = never {
                let words = format!("{node}/t{topic}/c{channel}: what is at {offset} never came");
                broken.push(breaks(&[2, 13], words));
            }
            let last = (node, topic, channel, end);
            let beyond =
                came.range(last..).next().filter(|it| (it.0, it.1, it.2) == (node, topic, channel));
            if let Some((.., offset)) = beyond {
                let words = format!(
                    "{node}/t{topic}/c{channel}: {offset} came, and there are {end} messages"
                );
                broken.push(breaks(&[1, 13], words));
            }
        }
    }
    broken
}
