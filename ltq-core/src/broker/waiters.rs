//! Tasks that wait for room, in the order in which they came.

use std::{
    collections::BTreeMap,
    task::{Context, Waker},
};

/// A task's place in the order. It keeps it from its first wait until it gets what it waits for.
#[derive(Debug, Default)]
pub(super) struct Ticket(Option<u64>);

/// The tasks that wait.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    last: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Waiters {
    /// Notes that a task waits, behind all that came before it.
    pub(super) fn wait(&mut self, ticket: &mut Ticket, context: &Context<'_>) {
        let number = *ticket.0.get_or_insert_with(|| {
            self.last += 1;
            self.last
        });
        match self.wakers.get_mut(&number) {
            Some(waker) => waker.clone_from(context.waker()),
            None => drop(self.wakers.insert(number, context.waker().clone())),
        }
    }

    /// Gives a place up. Says whether there was one.
    pub(super) fn leave(&mut self, ticket: &mut Ticket) -> bool {
        let Some(number) = ticket.0.take() else { return false };
        self.wakers.remove(&number);
        true
    }

    /// Takes out up to `count` of those that came first. They are to be woken without a lock, and
    /// keep their places.
    pub(super) fn first(&mut self, count: usize) -> Vec<Waker> {
        if count >= self.wakers.len() {
            return std::mem::take(&mut self.wakers).into_values().collect();
        }
        std::iter::from_fn(|| self.wakers.pop_first()).take(count).map(|(_, waker)| waker).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wakers.is_empty()
    }
}

impl Ticket {
    pub(super) const fn is_waiting(&self) -> bool {
        self.0.is_some()
    }
}
