//! Requests that look at all topics, a few at a time.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    holds::{Hold, Holds},
    together::Together,
};
use crate::Origin;

/// Turns at something that takes as long as there are topics. More at a time would only take longer each.
///
/// Those of a better [`Rank`] go first; but metrics, which anybody may have the program ask for where they are public,
/// not twice in a row while others wait. Of one rank it is each address' turn after the other's, and of one
/// address each connection's: so whoever asks for much waits for itself.
#[derive(Debug)]
pub(super) struct Surveys {
    most: usize,
    /// As what those who wait are counted.
    hold: Hold,
    holds: Arc<Holds>,
    state: Mutex<State>,
}

/// Whose requests go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// The program around the broker: its metrics, for one.
    Program,
    /// Who may administer the node.
    Operator,
    Peer,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    rank: Rank,
    origin: Option<Origin>,
    connection: usize,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    last: u64,
    /// Of those that had to wait, the program had the last turn.
    was_program: bool,
    /// By rank.
    lines: [Line; 3],
}

type Line = Rounds<Option<Origin>, Rounds<usize, BTreeMap<u64, oneshot::Sender<Survey>>>>;

/// Queues that have their turns one after the other.
#[derive(Debug)]
struct Rounds<K, Q> {
    last: u64,
    order: BTreeMap<u64, K>,
    queues: BTreeMap<K, (u64, Q)>,
}

/// A turn. The next one comes when it is dropped.
#[derive(Debug)]
pub(super) struct Survey(Weak<Surveys>);

/// A place in the line, until there is a turn.
struct Waiting<'a> {
    surveys: &'a Surveys,
    asking: Asking,
    number: u64,
}

impl Asking {
    /// The program around the broker.
    pub(super) const PROGRAM: Self = Self { rank: Rank::Program, origin: None, connection: 0 };

    /// Somebody on this connection, for as long as it lives.
    pub(super) fn on(together: &Arc<Together>, rank: Rank) -> Self {
        Self { rank, origin: together.origin, connection: Arc::as_ptr(together).addr() }
    }
}

impl Surveys {
    pub(super) fn new(most: usize, hold: Hold, holds: Arc<Holds>) -> Arc<Self> {
        Arc::new(Self { most, hold, holds, state: Mutex::default() })
    }

    /// A turn, when it comes. Cancel safe.
    pub(super) async fn turn(self: &Arc<Self>, asking: Asking) -> Survey {
        let (coming, waiting) = {
            let mut state = self.state.lock();
            if state.under_way < self.most {
                state.under_way += 1;
                return self.one();
            }
            state.last += 1;
            let (number, (sender, coming)) = (state.last, oneshot::channel());
            let connections = state.line(asking.rank).of(asking.origin);
            connections.of(asking.connection).insert(number, sender);
            (coming, Waiting { surveys: self, asking, number })
        };
        self.holds.count(self.hold);
        let turn = coming.await;
        mem::forget(waiting);
        // Nobody but the one who sends a turn takes the sender out while this is waited for.
        turn.unwrap_or_else(|_| Survey(Weak::new()))
    }

    fn one(self: &Arc<Self>) -> Survey {
        Survey(Arc::downgrade(self))
    }

    /// One has ended: the next may begin.
    fn next(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            let Some(sender) = state.next() else {
                state.under_way -= 1;
                return;
            };
            drop(state);
            match sender.send(self.one()) {
                Ok(()) => return,
                // It waits no more. Its turn is this one's, which goes on.
                Err(mut turn) => turn.0 = Weak::new(),
            }
        }
    }
}

impl State {
    /// Whose turn it is.
    fn next(&mut self) -> Option<oneshot::Sender<Survey>> {
        let [program, operators, peers] = &mut self.lines;
        let mut others = || pop(operators).or_else(|| pop(peers));
        if self.was_program
            && let Some(other) = others()
        {
            self.was_program = false;
            return Some(other);
        }
        let own = pop(program);
        self.was_program = own.is_some();
        own.or_else(others)
    }

    const fn line(&mut self, rank: Rank) -> &mut Line {
        let [program, operators, peers] = &mut self.lines;
        match rank {
            Rank::Program => program,
            Rank::Operator => operators,
            Rank::Peer => peers,
        }
    }
}

fn pop(line: &mut Line) -> Option<oneshot::Sender<Survey>> {
    line.next(
        |connections| {
            let next = |queue: &mut BTreeMap<_, _>| queue.pop_first().map(|(_, sender)| sender);
            connections.next(next, BTreeMap::is_empty)
        },
        Rounds::is_empty,
    )
}

impl<K: Copy + Ord, Q: Default> Rounds<K, Q> {
    fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// A queue, behind the others if it was empty.
    fn of(&mut self, key: K) -> &mut Q {
        let Self { last, order, queues } = self;
        let (_, queue) = queues.entry(key).or_insert_with(|| {
            *last += 1;
            order.insert(*last, key);
            (*last, Q::default())
        });
        queue
    }

    /// Takes something out of the queue whose turn it is, which comes last then, or goes if it is empty.
    fn next<T>(
        &mut self,
        take: impl FnOnce(&mut Q) -> Option<T>,
        is_empty: impl FnOnce(&Q) -> bool,
    ) -> Option<T> {
        let (_, key) = self.order.pop_first()?;
        let (turn, queue) = self.queues.get_mut(&key)?;
        let taken = take(queue);
        if is_empty(queue) {
            self.queues.remove(&key);
        } else {
            self.last += 1;
            *turn = self.last;
            self.order.insert(self.last, key);
        }
        taken
    }

    /// Takes something out of a queue, which goes if it is empty.
    fn leave(&mut self, key: K, take: impl FnOnce(&mut Q), is_empty: impl FnOnce(&Q) -> bool) {
        let Some((turn, queue)) = self.queues.get_mut(&key) else { return };
        take(queue);
        if is_empty(queue) {
            self.order.remove(turn);
            self.queues.remove(&key);
        }
    }
}

impl<K, Q> Default for Rounds<K, Q> {
    fn default() -> Self {
        Self { last: 0, order: BTreeMap::new(), queues: BTreeMap::new() }
    }
}

impl Drop for Survey {
    fn drop(&mut self) {
        if let Some(surveys) = self.0.upgrade() {
            surveys.next();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Asking { rank, origin, connection } = self.asking;
        let mut sender = None;
        self.surveys.state.lock().line(rank).leave(
            origin,
            |connections| {
                let take = |queue: &mut BTreeMap<_, _>| sender = queue.remove(&self.number);
                connections.leave(connection, take, BTreeMap::is_empty);
            },
            Rounds::is_empty,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures::{FutureExt as _, future::BoxFuture};

    use super::*;
    use crate::broker::testing::far;

    fn surveys(most: usize) -> (Arc<Surveys>, Arc<Holds>) {
        let holds = Arc::new(Holds::default());
        (Surveys::new(most, Hold::TopicLists, holds.clone()), holds)
    }

    fn ask(surveys: &Arc<Surveys>, asking: Asking) -> BoxFuture<'static, Survey> {
        let surveys = surveys.clone();
        let mut turn: Pin<Box<_>> = async move { surveys.turn(asking).await }.boxed();
        assert!(turn.as_mut().now_or_never().is_none(), "it has to wait");
        turn
    }

    /// In which order they have their turns.
    fn order(first: Survey, mut waiting: Vec<(&'static str, BoxFuture<'_, Survey>)>) -> String {
        let (mut order, mut turn) = (Vec::new(), Some(first));
        while !waiting.is_empty() {
            drop(turn.take());
            let next = waiting.iter_mut().enumerate().find_map(|(at, (_, waiting))| {
                waiting.as_mut().now_or_never().map(|turn| (at, turn))
            });
            let (at, next) = next.expect("somebody has a turn");
            order.push(waiting.remove(at).0);
            turn = Some(next);
        }
        order.join(" ")
    }

    #[test]
    fn promise_10_lists_of_topics_take_turns_by_address_and_by_connection() {
        let (surveys, holds) = surveys(1);
        let asking = |rank, origin, connection| Asking { rank, origin, connection };
        let peer = |n, connection| asking(Rank::Peer, far(n), connection);
        let first = surveys.turn(peer(1, 1)).now_or_never().expect("a turn at once");
        let mut waiting: Vec<_> = ["a1", "a1", "a1"].map(|n| (n, ask(&surveys, peer(1, 1)))).into();
        waiting.extend(["a2", "a2"].map(|n| (n, ask(&surveys, peer(1, 2)))));
        waiting.push(("b", ask(&surveys, peer(2, 3))));
        // Of those of this machine each stands for itself.
        waiting.extend(["c1", "c1"].map(|n| (n, ask(&surveys, asking(Rank::Peer, None, 4)))));
        waiting.push(("c2", ask(&surveys, asking(Rank::Peer, None, 5))));
        waiting.push(("operator", ask(&surveys, asking(Rank::Operator, far(1), 1))));
        waiting.push(("metrics", ask(&surveys, Asking::PROGRAM)));
        assert_eq!(order(first, waiting), "metrics operator a1 b c1 a2 c2 a1 c1 a2 a1");
        let held_back = holds.all().into_iter().find(|(limit, _)| *limit == "topic_lists_max");
        assert_eq!(held_back, Some(("topic_lists_max", 11)));
        assert_eq!(surveys.state.lock().under_way, 0);
    }

    #[test]
    fn promise_10_metrics_that_are_asked_for_without_end_leave_every_other_turn_to_others() {
        for most in [1, 2] {
            let (surveys, _) = surveys(most);
            let asking = |rank| Asking { rank, origin: far(1), connection: 1 };
            let now = |asking| surveys.turn(asking).now_or_never().expect("a turn at once");
            let mut under_way: Vec<_> = (0..most).map(|_| now(Asking::PROGRAM)).collect();
            let mut metrics: Vec<_> = (0..3).map(|_| ask(&surveys, Asking::PROGRAM)).collect();
            let mut others: Vec<_> = [Rank::Peer, Rank::Operator, Rank::Operator]
                .map(|rank| (rank, ask(&surveys, asking(rank))))
                .into();
            let mut order = Vec::new();
            for _ in 0..8 {
                under_way.remove(0);
                // As many are asked for as come.
                metrics.push(ask(&surveys, Asking::PROGRAM));
                let next = metrics.iter_mut().enumerate().find_map(|(at, waiting)| {
                    waiting.as_mut().now_or_never().map(|turn| (at, turn))
                });
                if let Some((at, turn)) = next {
                    drop(metrics.remove(at));
                    order.push(Rank::Program);
                    under_way.push(turn);
                    continue;
                }
                let next = others.iter_mut().enumerate().find_map(|(at, (_, waiting))| {
                    waiting.as_mut().now_or_never().map(|turn| (at, turn))
                });
                let (at, turn) = next.expect("somebody has a turn");
                order.push(others.remove(at).0);
                under_way.push(turn);
            }
            let [program, operator, peer] = [Rank::Program, Rank::Operator, Rank::Peer];
            let expected = [program, operator, program, operator, program, peer, program, program];
            assert_eq!(order, expected);
        }
    }

    #[test]
    fn promise_9_who_waits_no_more_leaves_nothing_behind_and_holds_up_nobody() {
        let (surveys, _) = surveys(2);
        let peer = |n| Asking { rank: Rank::Peer, origin: far(n), connection: n as usize };
        let turns = [1, 2].map(|n| surveys.turn(peer(n)).now_or_never().expect("a turn"));
        for n in 0..1_000 {
            let waiting = [ask(&surveys, peer(n)), ask(&surveys, peer(n))];
            drop(waiting);
            assert!(surveys.state.lock().lines.iter().all(Rounds::is_empty));
        }
        let (gone, left) = (ask(&surveys, peer(3)), ask(&surveys, peer(4)));
        // One that has its turn and goes before it hears of it passes it on.
        let [first, second] = turns;
        drop(first);
        drop(gone);
        let left = left.now_or_never().expect("its turn");
        drop((second, left));
        assert_eq!(surveys.state.lock().under_way, 0);
        assert!(surveys.turn(peer(5)).now_or_never().is_some());
    }
}
