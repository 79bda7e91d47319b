//! Promises 1 and 2: what a node confirmed reaches every channel of that node.

use super::{Account, Told};
use crate::violation::{Violation, breaks};

pub(super) fn check(account: &Account<'_>) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (body, message) in &account.messages {
        let Some((at, Told::Stored { node, durability, .. })) = message.told else { continue };
        if durability < message.durability {
            let asked = message.durability;
            broken.push(breaks(&[1], format!("{body:?} is {durability} on {node}, not {asked}")));
        }
        if account.may_lose(node, message.handed, durability) {
            continue;
        }
        for channel in account.channels(message.topic) {
            if !message.taken.contains_key(&(node, channel)) {
                let words = format!(
                    "{body:?}, confirmed at {at:?}, never came from {node}/t{}/c{channel}",
                    message.topic
                );
                broken.push(breaks(&[1, 2], words));
            }
        }
    }
    broken
}
