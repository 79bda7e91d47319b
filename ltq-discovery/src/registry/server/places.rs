//! The places that watches and half announcements take up.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ltq_core::{Entry, Full, Origin, Peer};
use thiserror::Error;

use super::Shared;

/// Who has one.
#[derive(Debug, Default)]
pub(super) struct Places {
    all: Taken,
    by_origin: HashMap<Origin, Taken>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    watches: usize,
    /// Topics and channels of announcements that are under way.
    half: usize,
}

/// A connection that counts, until it is dropped, and with it whatever counts by it.
pub(super) struct Open {
    pub(super) shared: Arc<Shared>,
    pub(super) entry: Entry,
    watches: AtomicUsize,
}

/// Topics and channels that a connection holds of an announcement that is under way, until it is dropped.
pub(super) struct Half<'o> {
    open: &'o Open,
    names: usize,
}

/// Places of which one address has its share, and by which settings there are so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    what: &'static str,
    limit: &'static str,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{whose} {has} {} already; {max} is the most, by {}", .of.what, .of.limit)]
pub(super) struct NoPlace {
    whose: &'static str,
    of: Kind,
    has: usize,
    max: usize,
}

impl Places {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_nothing() && self.by_origin.is_empty()
    }

    fn taken_by(&self, origin: Option<Origin>) -> Taken {
        origin.and_then(|origin| self.by_origin.get(&origin).copied()).unwrap_or_default()
    }

    /// Whether there is room for so many `more`, in all and by the share that one address has of `max`.
    fn room(
        &self,
        origin: Option<Origin>,
        of: Kind,
        count: impl Fn(&Taken) -> usize,
        more: usize,
        max: usize,
    ) -> Result<(), NoPlace> {
        let (all, there) = (count(&self.all), count(&self.taken_by(origin)));
        for (whose, has, max) in
            [("all have", all, max), ("this address has", there, share_of(max))]
        {
            if has.saturating_add(more) > max {
                return Err(NoPlace { whose, of, has, max });
            }
        }
        Ok(())
    }

    /// Changes the counts, of all and of those from there.
    fn of(&mut self, origin: Option<Origin>, change: impl Fn(&mut Taken)) {
        change(&mut self.all);
        if let Some(origin) = origin {
            let from_there = self.by_origin.entry(origin).or_default();
            change(from_there);
            if from_there.is_nothing() {
                self.by_origin.remove(&origin);
            }
        }
    }
}

impl Taken {
    const fn is_nothing(&self) -> bool {
        self.watches == 0 && self.half == 0
    }
}

impl Open {
    /// One more of this peer, if that is not too many.
    pub(super) fn one_more(shared: Arc<Shared>, peer: &Peer) -> Result<Self, Full> {
        let entry = Entry::take(&shared.entrance, peer)?;
        Ok(Self { shared, entry, watches: AtomicUsize::new(0) })
    }

    /// One more watch, if there is a place for it.
    pub(super) fn watch(&self) -> Result<(), NoPlace> {
        let (max, origin) = (self.shared.settings.registry.watchers_max, self.entry.origin());
        let mut places = self.shared.places.lock();
        places.room(origin, WATCHES, |taken| taken.watches, 1, max)?;
        places.of(origin, |taken| taken.watches += 1);
        self.watches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A watch that had a place is no more.
    pub(super) fn unwatch(&self) {
        self.watches.fetch_sub(1, Ordering::Relaxed);
        self.shared.places.lock().of(self.entry.origin(), |taken| taken.watches -= 1);
    }

    /// An announcement that begins.
    pub(super) const fn half(&self) -> Half<'_> {
        Half { open: self, names: 0 }
    }
}

impl Half<'_> {
    /// So many topics and channels more, if there is a place for them.
    pub(super) fn grow(&mut self, names: usize) -> Result<(), NoPlace> {
        let Open { shared, entry, .. } = self.open;
        let settings = &shared.settings.registry;
        // One address may have as many as there may be at all nodes: so any node can be announced.
        let known = settings.topics_max.saturating_add(settings.channels_max);
        let max = known.saturating_add(known.div_ceil(3));
        let mut places = shared.places.lock();
        places.room(entry.origin(), HALVES, |taken| taken.half, names, max)?;
        places.of(entry.origin(), |taken| taken.half += names);
        self.names += names;
        Ok(())
    }
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        let (Open { shared, entry, .. }, names) = (self.open, self.names);
        shared.places.lock().of(entry.origin(), |taken| taken.half -= names);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let watches = *self.watches.get_mut();
        self.shared.places.lock().of(self.entry.origin(), |taken| taken.watches -= watches);
    }
}

/// Of so many, what one address may have: three quarters, so that nobody alone keeps all others out.
fn share_of(all: usize) -> usize {
    (all - all / 4).max(1)
}

const WATCHES: Kind = Kind { what: "watches", limit: "watchers_max" };
const HALVES: Kind = Kind {
    what: "topics and channels of announcements under way",
    limit: "topics_max and channels_max",
};
