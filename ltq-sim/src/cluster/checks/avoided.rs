//! A node that is gone without a word is suspected after three heartbeats, and what is published from then
//! on goes elsewhere at once.

use std::time::Duration;

use super::{Account, Told};
use crate::{
    cluster::Mode,
    violation::{Rule, Violation},
};

pub(super) fn check(account: &Account<'_>) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut breaks = |words| broken.push(Violation::of(Rule::Avoided, words));
    for &(node, struck, back) in &account.struck {
        let (from, until) = (struck + SUSPECTED_WITHIN, back.min(account.end));
        for (number, watch) in &account.watches {
            if watch.told.first().is_none_or(|first| first.0 > struck) || from >= until {
                continue;
            }
            for (at, sights) in watch.between(from, until) {
                let sight = sights.iter().find(|it| it.node == node && !it.is_suspected);
                if sight.is_some_and(|sight| sight.is_ready) {
                    let who = watch.who;
                    breaks(format!(
                        "{who}, by watch {number}, trusts {node} at {at:?}, gone since {struck:?}"
                    ));
                }
            }
        }
        for (body, message) in &account.messages {
            let opened = account.lives.get(&message.life).map_or(Duration::MAX, |life| life.0);
            let is_free = matches!(message.mode, Mode::Available | Mode::Strict);
            let is_due = from < message.handed && message.handed + STORED_WITHIN < until;
            if !is_free || !is_due || opened > struck {
                continue;
            }
            match message.told {
                Some((at, Told::Stored { node: on, .. }))
                    if on != node && at <= message.handed + STORED_WITHIN => {}
                told => breaks(format!(
                    "{body:?}, published at {:?}, with {node} gone since {struck:?}: {told:?}",
                    message.handed
                )),
            }
        }
    }
    broken
}

/// Three beats, and the way.
const SUSPECTED_WITHIN: Duration = Duration::from_millis(3_200);
/// What a message takes at most where nothing is wrong, a producer being opened for it included.
const STORED_WITHIN: Duration = Duration::from_secs(1);
