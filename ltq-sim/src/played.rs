//! What became of a seed.

use std::{fmt, time::Duration};

use crate::{
    history::{Event, trace},
    violation::Violation,
};

/// What became of a seed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Played {
    /// Everything that happened.
    pub events: Vec<Event>,
    /// What of it breaks a promise, or anything else that a play must keep.
    pub broken: Vec<Violation>,
    /// How long it took, in simulated time.
    pub simulated: Duration,
}

impl Played {
    /// All of it in words, a line for each event: when, who, what.
    #[must_use]
    pub fn trace(&self) -> String {
        trace(&self.events)
    }

    /// Where another play of the same seed went another way: something in it then asks something else
    /// than the seed.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        let most = self.events.len().max(other.events.len());
        let pairs = (0..most).map(|at| (self.events.get(at), other.events.get(at)));
        let (once, again) = pairs.into_iter().find(|(once, again)| once != again)?;
        let words = |event: Option<&Event>| {
            event.map_or_else(|| "nothing more".to_owned(), ToString::to_string)
        };
        let (mut in_words, mut anew) = (words(once), words(again));
        if in_words == anew {
            // It is in what the words leave out.
            (in_words, anew) = (format!("{once:?}"), format!("{again:?}"));
        }
        Some(Difference { once: in_words, again: anew })
    }
}

/// The first event by which two plays of one seed differ.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// What happened in the one, as its trace tells it.
    pub once: String,
    /// What happened in the other.
    pub again: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "once:  {}\nagain: {}", self.once, self.again)
    }
}
