//! What a store holds at one moment, and what of that comes through a crash.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use super::channel::Channel;
use crate::{Durability, Monotonic, Now, model::testing::Contents};

/// What a store holds, and what it means.
#[derive(Clone, Default)]
pub(super) struct Saved {
    pub(super) contents: Contents,
    /// How many messages were ever in the log.
    pub(super) len: usize,
    pub(super) channels: BTreeMap<String, SavedChannel>,
    /// When the marks were last stored, and how old the messages were then.
    pub(super) marks: Option<(Now, Rc<[Duration]>)>,
}

/// A channel as it was when its state was put together, and the clocks then; `None` when it came
/// to be with the same commit.
pub(super) type SavedChannel = Option<Rc<(Channel, Now)>>;

/// A message's size, how old it is, and how durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) bytes: u64,
    pub(super) since: Monotonic,
    /// How old it was by then.
    pub(super) before: Duration,
    pub(super) reached: Durability,
}

impl Taken {
    /// How old it is at most.
    pub(super) fn age(&self, now: Monotonic) -> Duration {
        self.before.saturating_add(now.since(self.since))
    }
}

/// All that a crash may leave, and how durable it is: a commit takes everything before it along.
/// The first is on disk.
pub(super) struct Snapshots(Vec<(Durability, Rc<Saved>)>);

impl Default for Snapshots {
    fn default() -> Self {
        Self(vec![(Durability::Disk, Rc::default())])
    }
}

impl Snapshots {
    /// Nothing else is there any more.
    pub(super) fn only(saved: Rc<Saved>) -> Self {
        Self(vec![(Durability::Disk, saved)])
    }

    pub(super) fn now(&self) -> &Rc<Saved> {
        &self.0.last().expect("there is always one").1
    }

    pub(super) fn push(&mut self, saved: Rc<Saved>, reached: Durability) {
        if reached == Durability::Disk {
            self.0.clear();
        }
        self.0.push((reached, saved));
    }

    /// The last that is so, of those that a crash may leave that takes all that is less than
    /// `level`.
    pub(super) fn last_that(
        &self,
        level: Durability,
        is_so: impl Fn(&Saved) -> bool,
    ) -> Option<Rc<Saved>> {
        let owed = self.owed(level);
        self.0[owed..].iter().rev().map(|(_, saved)| saved).find(|saved| is_so(saved)).cloned()
    }

    fn owed(&self, level: Durability) -> usize {
        self.0.iter().rposition(|(reached, _)| *reached >= level).unwrap_or(0)
    }

    /// What is there after a crash that takes all that is less than `level`: the last that is not,
    /// or one of those after it.
    pub(super) fn after_crash(&self, level: Durability, keeps: usize) -> Rc<Saved> {
        let owed = self.owed(level);
        self.0[(owed + keeps).min(self.0.len() - 1)].1.clone()
    }
}
