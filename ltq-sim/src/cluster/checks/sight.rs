//! Where nothing is wrong, everybody who watches knows every node that is there, as one that is ready, and
//! soon no other.

use super::Account;
use crate::{
    cluster::world::{FORGOTTEN_WITHIN, KNOWN_WITHIN},
    violation::{Rule, Violation},
};

pub(super) fn check(account: &Account<'_>) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut breaks = |words| broken.push(Violation::of(Rule::Sight, words));
    for calm in &account.calms {
        let until = calm.until.min(account.end);
        let (known, forgotten) = (calm.from + KNOWN_WITHIN, calm.from + FORGOTTEN_WITHIN);
        for (number, watch) in &account.watches {
            // Whoever began to watch later has time from then on; there is none who does in calm, mostly.
            if watch.told.first().is_none_or(|first| first.0 > calm.from) || known >= until {
                continue;
            }
            let told = |at, words: String| {
                format!(
                    "{}, by watch {number}, {words} at {at:?}; calm since {:?}",
                    watch.who, calm.from
                )
            };
            for (at, sights) in watch.between(known, until) {
                for node in calm.nodes {
                    let sight = sights.iter().find(|sight| sight.node == *node);
                    match sight {
                        None => breaks(told(at, format!("does not see {node}"))),
                        Some(sight)
                            if sight.is_suspected || !sight.is_ready || sight.host != *node =>
                        {
                            breaks(told(at, format!("sees {sight}")));
                        }
                        Some(_) => {}
                    }
                }
            }
            if forgotten >= until {
                continue;
            }
            for (at, sights) in watch.between(forgotten, until) {
                let other = sights.iter().find(|sight| !calm.nodes.contains(&sight.node));
                if let Some(other) = other {
                    breaks(told(at, format!("sees {other}, which is gone")));
                }
            }
        }
    }
    broken
}
