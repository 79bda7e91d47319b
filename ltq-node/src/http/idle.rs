//! Which HTTP connections have no request under way, and which of them has had none for longest.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ltq_core::Origin;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The connections without a request under way, in the order in which they came to that.
#[derive(Clone, Debug, Default)]
pub(super) struct IdleConnections(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    waiting: BTreeMap<u64, (Option<Origin>, Arc<Notify>)>,
}

/// One connection's place. It is idle until told otherwise, and forgotten when dropped.
#[derive(Debug)]
pub(super) struct Place {
    all: IdleConnections,
    of: Option<Origin>,
    state: Mutex<State>,
    given_up: Arc<Notify>,
    served: AtomicBool,
}

#[derive(Debug)]
enum State {
    Idle(u64),
    Busy,
    GivenUp,
}

impl IdleConnections {
    /// A place for a connection that has just come from there.
    pub(super) fn enter(&self, of: Option<Origin>) -> Place {
        let given_up = Arc::new(Notify::new());
        let state = Mutex::new(State::Idle(self.push(of, given_up.clone())));
        Place { all: self.clone(), of, state, given_up, served: AtomicBool::new(false) }
    }

    /// Gives up the connection that has been idle for longest; false when none is idle.
    pub(super) fn give_up_one(&self) -> bool {
        let oldest = self.0.lock().waiting.pop_first();
        oldest.map(|(_, (_, connection))| connection.notify_one()).is_some()
    }

    /// Gives up the one of this address, or of this site, that has been idle for longest; false when none of them is
    /// idle.
    pub(super) fn give_up_one_of(&self, of: Origin) -> bool {
        let mut queue = self.0.lock();
        let is_of =
            |from: &Option<Origin>| from.is_some_and(|from| from == of || from.site() == Some(of));
        let oldest = queue.waiting.iter().find(|(_, (from, _))| is_of(from));
        let Some(turn) = oldest.map(|(turn, _)| *turn) else { return false };
        let connection = queue.waiting.remove(&turn);
        connection.map(|(_, connection)| connection.notify_one()).is_some()
    }

    fn push(&self, of: Option<Origin>, connection: Arc<Notify>) -> u64 {
        let mut queue = self.0.lock();
        queue.next += 1;
        let turn = queue.next;
        queue.waiting.insert(turn, (of, connection));
        turn
    }
}

impl Place {
    /// Whether a request came at any time.
    pub(super) fn served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// A request has come. False when the connection was given up just before.
    pub(super) fn begin(&self) -> bool {
        self.served.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        if let State::Idle(turn) = *state {
            let still_there = self.all.0.lock().waiting.remove(&turn).is_some();
            *state = if still_there { State::Busy } else { State::GivenUp };
        }
        matches!(*state, State::Busy)
    }

    /// Its answer is there.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        if matches!(*state, State::Busy) {
            *state = State::Idle(self.all.push(self.of, self.given_up.clone()));
        }
    }

    /// Resolves when the connection has to go. Cancel safe.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let State::Idle(turn) = *self.state.lock() {
            self.all.0.lock().waiting.remove(&turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn the_one_that_is_idle_for_longest_goes_and_busy_ones_stay() {
        let all = IdleConnections::default();
        let [a, b, c] = [(); 3].map(|()| all.enter(None));
        assert!(a.begin());
        assert!(all.give_up_one());
        assert!(b.given_up().now_or_never().is_some());
        assert!(!b.begin(), "what was given up takes no request");
        a.end();
        assert!(all.give_up_one());
        assert!(c.given_up().now_or_never().is_some(), "it came to rest before a");
        assert!(a.begin());
        assert!(!all.give_up_one(), "only a busy one is left");
        a.end();
        drop(a);
        assert!(!all.give_up_one());
    }

    #[test]
    fn of_an_address_its_own_one_that_is_idle_for_longest_goes() {
        let all = IdleConnections::default();
        let from = |text: &str| Origin::of_ip(text.parse().unwrap());
        let (one, other) = (from("192.0.2.1"), from("192.0.2.2"));
        let [_older, first, second] = [other, one, one].map(|of| all.enter(of));
        assert!(all.give_up_one_of(one.unwrap()));
        assert!(first.given_up().now_or_never().is_some());
        assert!(second.begin());
        assert!(!all.give_up_one_of(one.unwrap()), "the one that is left is busy");
    }
}
