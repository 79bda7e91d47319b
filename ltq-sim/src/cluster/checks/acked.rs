//! Promise 2: what comes from a node comes again until somebody acks it.

use std::collections::BTreeSet;

use super::Account;
use crate::violation::{Violation, breaks};

pub(super) fn check(account: &Account<'_>) -> Vec<Violation> {
    let key = |place: &crate::cluster::Place| {
        (place.node.clone(), place.topic, place.channel, place.offset)
    };
    let acked: BTreeSet<_> = account.acks.iter().map(|place| key(place)).collect();
    let mut told = BTreeSet::new();
    let mut broken = Vec::new();
    for (_, place, body) in &account.taken {
        let Some(message) = account.messages.get(body) else { continue };
        let may_be_lost = account.may_lose(&place.node, message.handed, message.durability);
        if !may_be_lost && !acked.contains(&key(place)) && told.insert(key(place)) {
            let words = format!("{body:?} came from {place}, nobody acked it, and it is done with");
            broken.push(breaks(&[2], words));
        }
    }
    broken
}
