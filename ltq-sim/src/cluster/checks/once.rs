//! In a mode that stores once, what was published lies in one place of one node; and in each mode where
//! its receipt says.

use std::collections::{BTreeMap, BTreeSet};

use super::{Account, Message, Told};
use crate::{
    body::Body,
    violation::{Rule, Violation},
};

pub(super) fn check(account: &Account<'_>) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut came: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (_, place, body) in &account.taken {
        let at = (place.node.as_str(), place.topic, place.offset);
        came.entry(at).or_default().insert(*body);
    }
    for (body, message) in &account.messages {
        let Message { places, mode, .. } = message;
        let is_lost = |node: &str| account.may_lose(node, message.handed, message.durability);
        let excused = places.iter().any(|(node, _)| is_lost(node));
        if mode.stores_once() && places.len() > 1 && !excused {
            let words = format!("{body:?}, {mode}, is at {places:?}");
            broken.push(Violation::of(Rule::StoredOnce, words));
        }
        let Some((_, Told::Stored { node, offset: Some(offset), .. })) = message.told else {
            continue;
        };
        // What was lost leaves its place to another.
        let stays = |body: &&Body| {
            let of = account.messages.get(body);
            of.is_none_or(|it| !account.may_lose(node, it.handed, it.durability))
        };
        let mut there = came.get(&(node, message.topic, offset)).into_iter().flatten();
        if let Some(other) = there.find(|other| *other != body && stays(other))
            && stays(&body)
        {
            let words = format!("{body:?} is said to be on {node} at {offset}; {other:?} is");
            broken.push(Violation::of(Rule::StoredOnce, words));
        }
    }
    broken
}
