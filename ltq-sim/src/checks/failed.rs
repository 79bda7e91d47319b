//! A store that takes no more was failed by its disk. One that is only full refuses what would not fit, and
//! goes on with what it set room aside for.

use ltq_store::simulation::DiskFailure;

use super::{Event, Rule, Violation, What};

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut failed = false;
    for event in events {
        match &event.what {
            // The next node begins with what this one left, and a whole disk.
            What::Killed { .. } | What::Stopped(_) => failed = false,
            What::DiskFailed { failure, .. } => {
                failed |= !matches!(failure, DiskFailure::NoRoom | DiskFailure::Open);
            }
            What::Damaged(_) => return broken,
            What::StoreFailed(why) if !failed => {
                let words = format!("at {:?} it failed, and its disk had not: {why}", event.at);
                broken.push(Violation::of(Rule::Store, words));
            }
            _ => {}
        }
    }
    broken
}
