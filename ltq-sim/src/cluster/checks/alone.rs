//! Whoever sees no registry goes on with the nodes that he knows, and keeps them when registries come
//! back that know nobody yet.

use std::time::Duration;

use super::{Account, Told};
use crate::{
    cluster::world::KNOWN_WITHIN,
    violation::{Rule, Violation},
};

pub(super) fn check(account: &Account<'_>) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut breaks = |words| broken.push(Violation::of(Rule::Alone, words));
    for &(gone, back) in &account.alone {
        let until = back.min(account.end);
        let Some(calm) = account.calms.iter().rev().find(|calm| calm.from < gone) else { continue };
        for (number, watch) in &account.watches {
            if watch.told.first().is_none_or(|first| first.0 > gone) {
                continue;
            }
            for (at, sights) in watch.between(gone, until + KNOWN_WITHIN) {
                let lost = calm.nodes.iter().find(|node| sights.iter().all(|it| it.node != **node));
                if let Some(node) = lost {
                    let who = watch.who;
                    breaks(format!("{who}, by watch {number}, has lost {node} at {at:?}"));
                }
            }
        }
        for (body, message) in &account.messages {
            let opened = account.lives.get(&message.life).map_or(Duration::MAX, |life| life.0);
            if opened > gone || message.handed < gone || message.handed + TIME > until {
                continue;
            }
            // A key that was not used since its node came back goes there now, and that is told.
            if matches!(message.told, Some((_, Told::NotStored { is_move: true }))) {
                continue;
            }
            let Some((_, Told::Stored { node, .. })) = message.told else {
                let (at, told) = (message.handed, message.told);
                breaks(format!("{body:?}, published at {at:?} without registries: {told:?}"));
                continue;
            };
            for channel in account.channels(message.topic) {
                if message.taken.get(&(node, channel)).is_none_or(|at| *at > until) {
                    let of = message.topic;
                    breaks(format!(
                        "{body:?}, stored without registries, did not come from {node}/t{of}/c{channel}"
                    ));
                }
            }
        }
    }
    broken
}

/// What everything takes at most where nothing is wrong: consumers that hold messages have given them
/// back.
const TIME: Duration = Duration::from_secs(15);
