//! Room for messages that all peers have in common.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// So many bytes, of which each message takes what it has and [`MESSAGE_BYTES`] more.
#[derive(Debug)]
pub(crate) struct Room {
    state: Mutex<State>,
    bytes: u64,
}

#[derive(Debug)]
struct State {
    free: u64,
    is_closed: bool,
    /// For whom there was no room when there was last any change.
    waiting: VecDeque<Waiter>,
}

/// Who waits for room.
#[derive(Debug)]
struct Waiter {
    part: Arc<AtomicU64>,
    bytes: u64,
    taken: oneshot::Sender<Taken>,
}

/// What one peer has of a [`Room`], which is never so much that nothing is left for others.
///
/// A peer that has nothing of it gets what fits. One that has some gets more as long as as much stays free as it
/// has then. So of any number of peers that take whatever they get and give nothing back each has the same in the
/// end, and as much again is free.
#[derive(Debug)]
pub(crate) struct Part {
    room: Arc<Room>,
    used: Arc<AtomicU64>,
}

/// What a message has of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    room: Arc<Room>,
    part: Option<Arc<AtomicU64>>,
    bytes: u64,
}

impl Room {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let bytes = bytes as u64;
        let state = State { free: bytes, is_closed: false, waiting: VecDeque::new() };
        Arc::new(Self { state: Mutex::new(state), bytes })
    }

    /// The part of one more peer.
    pub(crate) fn part(self: &Arc<Self>) -> Part {
        Part { room: self.clone(), used: Arc::default() }
    }

    /// Takes it if it is there, whoever it is for.
    pub(crate) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let bytes = self.cost(bytes);
        let mut state = self.state.lock();
        state.free = state.free.checked_sub(bytes)?;
        Some(Taken { room: self.clone(), part: None, bytes })
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let waiting = mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }

    /// The largest message fits, alone.
    fn cost(&self, bytes: usize) -> u64 {
        (bytes as u64).saturating_add(MESSAGE_BYTES).min(self.bytes)
    }

    /// Gives room back, and what there is then to those who waited longest of those that it is enough for.
    fn give_back(self: &Arc<Self>, bytes: u64, part: Option<&AtomicU64>) {
        let mut served = Vec::new();
        let mut state = self.state.lock();
        state.free += bytes;
        if let Some(part) = part {
            part.fetch_sub(bytes, Ordering::Relaxed);
        }
        let waiting = mem::take(&mut state.waiting);
        for waiter in waiting {
            if waiter.taken.is_closed() {
                continue;
            }
            match self.take_now(&mut state, &waiter.part, waiter.bytes) {
                Some(taken) => served.push((waiter.taken, taken)),
                None => state.waiting.push_back(waiter),
            }
        }
        drop(state);
        for (waiter, taken) in served {
            // Given up at this moment, it gives back what it got: not under the lock.
            drop(waiter.send(taken));
        }
    }

    fn take_now(
        self: &Arc<Self>,
        state: &mut State,
        part: &Arc<AtomicU64>,
        bytes: u64,
    ) -> Option<Taken> {
        let free = state.free.checked_sub(bytes)?;
        let used = part.load(Ordering::Relaxed);
        if used > 0 && used + bytes > free {
            return None;
        }
        state.free = free;
        part.store(used + bytes, Ordering::Relaxed);
        Some(Taken { room: self.clone(), part: Some(part.clone()), bytes })
    }
}

impl Part {
    /// Waits until there is room for a message of so many bytes. `None` once it is closed. Cancel safe.
    pub(crate) async fn take(&self, bytes: usize) -> Option<Taken> {
        let waits = {
            let room = &self.room;
            let bytes = room.cost(bytes);
            let mut state = room.state.lock();
            if state.is_closed {
                return None;
            }
            if let Some(taken) = room.take_now(&mut state, &self.used, bytes) {
                return Some(taken);
            }
            let (taken, waits) = oneshot::channel();
            state.waiting.push_back(Waiter { part: self.used.clone(), bytes, taken });
            waits
        };
        waits.await.ok()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.give_back(self.bytes, self.part.as_deref());
    }
}

/// What is kept of a message beside its body, and more.
const MESSAGE_BYTES: u64 = 256;

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn all_messages_take_no_more_than_there_is_and_the_largest_fits_alone() {
        let room = Room::new(1_000);
        let taken: Vec<_> = (0..9).map_while(|_| room.try_take(100)).collect();
        assert_eq!(taken.len(), 2, "each takes 356");
        assert!(room.try_take(33).is_none() && room.try_take(32).is_some());
        drop(taken);
        let large = room.try_take(1_000);
        assert!(large.is_some() && room.try_take(0).is_none());
        drop(large);
        assert!(room.part().take(1_000).now_or_never().flatten().is_some());
    }

    #[test]
    fn promise_10_of_any_number_that_give_nothing_back_each_has_the_same_and_so_much_is_free() {
        for greedy in [1, 2, 5, 31] {
            let room = Room::new(1_000_000);
            let parts: Vec<_> = (0..greedy).map(|_| room.part()).collect();
            let mut taken = Vec::new();
            // One after the other takes all that it gets, and once more round.
            for part in parts.iter().chain(&parts) {
                while let Some(more) = part.take(744).now_or_never() {
                    taken.push(more.unwrap());
                }
            }
            let free = room.state.lock().free;
            let most = parts.iter().map(|part| part.used.load(Ordering::Relaxed)).max().unwrap();
            assert!(most <= 500_000 && free > 0, "{greedy}: {most}, {free} free");
            // Whoever has nothing still gets what fits.
            let other = room.part();
            let mut others = Vec::new();
            while let Some(more) = other.take(744).now_or_never() {
                others.push(more.unwrap());
            }
            assert!(!others.is_empty(), "{greedy} have taken all");
            drop((taken, others));
            assert_eq!(room.state.lock().free, 1_000_000);
        }
    }

    #[test]
    fn who_waits_is_served_when_there_is_room_and_given_up_takes_none() {
        let room = Room::new(10_000);
        let (one, two, three) = (room.part(), room.part(), room.part());
        let first = one.take(9_000).now_or_never().flatten().unwrap();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut given_up = Box::pin(two.take(5_000));
        let mut waits = Box::pin(three.take(5_000));
        assert!(given_up.as_mut().poll(&mut context).is_pending());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        // It had its turn, and nobody took it.
        drop(first);
        drop(given_up);
        let Poll::Ready(Some(taken)) = waits.as_mut().poll(&mut context) else { panic!("no room") };
        drop(taken);
        assert_eq!((room.state.lock().free, two.used.load(Ordering::Relaxed)), (10_000, 0));
        let all = one.take(10_000).now_or_never().flatten().unwrap();
        drop(waits);
        let mut last = Box::pin(three.take(1));
        assert!(last.as_mut().poll(&mut context).is_pending());
        room.close();
        assert!(matches!(last.as_mut().poll(&mut context), Poll::Ready(None)));
        assert!(two.take(1).now_or_never().unwrap().is_none());
        drop(all);
    }
}
