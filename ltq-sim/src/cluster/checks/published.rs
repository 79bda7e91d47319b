//! What comes was published, is what was published (8), and was not said to be stored nowhere (15).

use super::{Account, Told};
use crate::violation::{Violation, breaks};

pub(super) fn check(account: &Account<'_>) -> Vec<Violation> {
    let unreadable = account.unreadable.iter().map(|what| breaks(&[8], (*what).to_owned()));
    let taken = account.taken.iter().filter_map(|(at, place, body)| {
        let Some(message) = account.messages.get(body) else {
            return Some(breaks(&[8], format!("{body:?} came from {place}: nobody published it")));
        };
        if message.topic != place.topic {
            let of = message.topic;
            return Some(breaks(&[8], format!("{body:?} of t{of} came from {place}")));
        }
        if message.handed > *at {
            return Some(breaks(&[8], format!("{body:?} came from {place} before it was")));
        }
        match message.told {
            Some((told, Told::NotStored { .. })) => {
                let why = format!("{body:?} came from {place}; at {told:?} it was not stored");
                Some(breaks(&[15], why))
            }
            _ => None,
        }
    });
    unreadable.chain(taken).collect()
}
