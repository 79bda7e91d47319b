//! The places that connections, watches and half announcements take up.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use ltq_core::Origin;
use thiserror::Error;

use super::{RegistryServerSettings, Shared};

/// Who has one.
#[derive(Debug, Default)]
pub(super) struct Places {
    all: Taken,
    by_origin: HashMap<Origin, Taken>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    open: usize,
    /// Of those, who have not said hello.
    greeting: usize,
    watches: usize,
    /// Topics and channels of announcements that are under way.
    half: usize,
}

/// A connection that counts, until it is dropped, and with it whatever counts by it.
pub(super) struct Open {
    pub(super) shared: Arc<Shared>,
    origin: Option<Origin>,
    is_greeting: AtomicBool,
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
    pub(super) const fn open(&self) -> usize {
        self.all.open
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let Taken { open, greeting, watches, half } = self.all;
        open == 0 && greeting == 0 && watches == 0 && half == 0 && self.by_origin.is_empty()
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

    fn take(&mut self, origin: Option<Origin>, settings: &RegistryServerSettings) -> bool {
        let RegistryServerSettings { connections_max, connections_per_address_max, .. } = *settings;
        let greeting_max = (connections_max / GREETING_PART).max(GREETING_LEAST);
        let from_there = self.taken_by(origin);
        if self.all.open >= connections_max
            || self.all.greeting >= greeting_max
            || from_there.open >= connections_per_address_max
            || from_there.greeting >= (greeting_max / GREETING_PART).max(1)
        {
            return false;
        }
        self.of(origin, |taken| {
            taken.open += 1;
            taken.greeting += 1;
        });
        true
    }

    /// Changes the counts, of all and of those from there.
    fn of(&mut self, origin: Option<Origin>, change: impl Fn(&mut Taken)) {
        change(&mut self.all);
        if let Some(origin) = origin {
            let from_there = self.by_origin.entry(origin).or_default();
            change(from_there);
            if from_there.open == 0 {
                self.by_origin.remove(&origin);
            }
        }
    }
}

impl Open {
    /// One more, if that is not too many.
    pub(super) fn one_more(shared: Arc<Shared>, origin: Option<Origin>) -> Option<Self> {
        let is_taken = shared.places.lock().take(origin, &shared.settings);
        let (is_greeting, watches) = (AtomicBool::new(true), AtomicUsize::new(0));
        is_taken.then(|| Self { shared, origin, is_greeting, watches })
    }

    /// It has said hello, and was let in.
    pub(super) fn greeted(&self) {
        if self.is_greeting.swap(false, Ordering::AcqRel) {
            self.shared.places.lock().of(self.origin, |taken| taken.greeting -= 1);
        }
    }
}

impl Open {
    /// One more watch, if there is a place for it.
    pub(super) fn watch(&self) -> Result<(), NoPlace> {
        let max = self.shared.settings.registry.watchers_max;
        let mut places = self.shared.places.lock();
        places.room(self.origin, WATCHES, |taken| taken.watches, 1, max)?;
        places.of(self.origin, |taken| taken.watches += 1);
        self.watches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A watch that had a place is no more.
    pub(super) fn unwatch(&self) {
        self.watches.fetch_sub(1, Ordering::Relaxed);
        self.shared.places.lock().of(self.origin, |taken| taken.watches -= 1);
    }

    /// An announcement that begins.
    pub(super) const fn half(&self) -> Half<'_> {
        Half { open: self, names: 0 }
    }
}

impl Half<'_> {
    /// So many topics and channels more, if there is a place for them.
    pub(super) fn grow(&mut self, names: usize) -> Result<(), NoPlace> {
        let Open { shared, origin, .. } = self.open;
        let settings = &shared.settings.registry;
        // One address may have as many as there may be at all nodes: so any node can be announced.
        let known = settings.topics_max.saturating_add(settings.channels_max);
        let max = known.saturating_add(known.div_ceil(3));
        let mut places = shared.places.lock();
        places.room(*origin, HALVES, |taken| taken.half, names, max)?;
        places.of(*origin, |taken| taken.half += names);
        self.names += names;
        Ok(())
    }
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        let names = self.names;
        self.open.shared.places.lock().of(self.open.origin, |taken| taken.half -= names);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let greeting = usize::from(*self.is_greeting.get_mut());
        let watches = *self.watches.get_mut();
        self.shared.places.lock().of(self.origin, |taken| {
            taken.greeting -= greeting;
            taken.watches -= watches;
            taken.open -= 1;
        });
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
/// One in so many of all connections may have said no hello, and one in so many of those be from one address.
const GREETING_PART: usize = 4;
/// Of few connections this many may have said no hello all the same.
const GREETING_LEAST: usize = 16;
