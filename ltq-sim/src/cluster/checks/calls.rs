//! Promise 15: whoever publishes is told in time what became of it.

use std::time::Duration;

use super::Account;
use crate::violation::{Violation, breaks};

pub(super) fn check(account: &Account<'_>) -> Vec<Violation> {
    let late = account.messages.iter().filter_map(|(body, message)| {
        let due = account.could_by(message.who, message.handed + message.within);
        let due = due.saturating_add(GRACE);
        let told = match message.told {
            Some((at, _)) => at,
            None if account.crashed_after(message.who, message.handed) => return None,
            None => account.end,
        };
        let words = || format!("{body:?} was told of at {told:?}, and was to be by {due:?}");
        (told > due).then(|| breaks(&[15], words()))
    });
    late.collect()
}

/// So much later a program may come to it.
const GRACE: Duration = Duration::from_secs(1);
