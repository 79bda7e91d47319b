//! The places that connections take up.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ltq_core::Origin;

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
}

/// A connection that counts, until it is dropped.
pub(super) struct Open {
    pub(super) shared: Arc<Shared>,
    origin: Option<Origin>,
    is_greeting: AtomicBool,
}

impl Places {
    pub(super) const fn open(&self) -> usize {
        self.all.open
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.open == 0 && self.all.greeting == 0 && self.by_origin.is_empty()
    }

    fn take(&mut self, origin: Option<Origin>, settings: &RegistryServerSettings) -> bool {
        let RegistryServerSettings { connections_max, connections_per_address_max, .. } = *settings;
        let greeting_max = (connections_max / GREETING_PART).max(GREETING_LEAST);
        let from_there = origin.and_then(|origin| self.by_origin.get(&origin).copied());
        let from_there = from_there.unwrap_or_default();
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
        is_taken.then(|| Self { shared, origin, is_greeting: AtomicBool::new(true) })
    }

    /// It has said hello, and was let in.
    pub(super) fn greeted(&self) {
        if self.is_greeting.swap(false, Ordering::AcqRel) {
            self.shared.places.lock().of(self.origin, |taken| taken.greeting -= 1);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let greeting = usize::from(*self.is_greeting.get_mut());
        self.shared.places.lock().of(self.origin, |taken| {
            taken.greeting -= greeting;
            taken.open -= 1;
        });
    }
}

/// One in so many of all connections may have said no hello, and one in so many of those be from one address.
const GREETING_PART: usize = 4;
/// Of few connections this many may have said no hello all the same.
const GREETING_LEAST: usize = 16;
