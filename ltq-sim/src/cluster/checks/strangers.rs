//! Whoever shows a registry a wrong token is nobody's node.

use super::Account;
use crate::violation::{Rule, Violation};

pub(super) fn check(account: &Account<'_>) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (number, watch) in &account.watches {
        for (at, sights) in &watch.told {
            let known = sights.iter().find_map(|sight| {
                let stranger = account.strangers.get(sight.host.as_str())?;
                (!stranger.1).then_some((sight, stranger.0))
            });
            if let Some((sight, node)) = known {
                let who = watch.who;
                let words = format!(
                    "{who}, by watch {number}, sees {sight} at {at:?}: it posed as {node} by a wrong token"
                );
                broken.push(Violation::of(Rule::Sight, words));
            }
        }
    }
    broken
}
