//! What must hold of a cluster's history, one file for each promise.

mod account;
mod acked;
mod alone;
mod avoided;
mod calls;
mod confirmed;
mod once;
mod order;
mod published;
mod sight;
mod strangers;
mod totals;

use crate::{history::Event, violation::Violation};
use account::{Account, Message, Told};

/// All that breaks a promise.
pub(super) fn all(events: &[Event]) -> Vec<Violation> {
    let account = Account::of(events);
    let always = [
        published::check,
        once::check,
        order::check,
        calls::check,
        sight::check,
        avoided::check,
        alone::check,
        strangers::check,
    ];
    let in_the_end = [confirmed::check, acked::check, totals::check];
    let mut broken: Vec<_> = always.iter().flat_map(|check| check(&account)).collect();
    if account.is_over {
        broken.extend(in_the_end.iter().flat_map(|check| check(&account)));
    }
    broken
}
