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
///
/// Up to half of it belongs to peers, the same to each, and nobody else gets it; what is left is for whoever comes
/// first. So whatever others hold, and for how long, a peer has its own.
#[derive(Debug)]
pub(crate) struct Room {
    state: Mutex<State>,
    /// What belongs to each peer.
    own: u64,
    /// What belongs to nobody.
    common: u64,
}

#[derive(Debug)]
struct State {
    /// Of what belongs to nobody.
    free: u64,
    is_closed: bool,
    /// For whom there was no room when there was last any change.
    waiting: VecDeque<Waiter>,
}

/// Who waits for room.
#[derive(Debug)]
struct Waiter {
    used: Arc<AtomicU64>,
    bytes: u64,
    taken: oneshot::Sender<Taken>,
}

/// What one peer has of a [`Room`].
#[derive(Debug)]
pub(crate) struct Part {
    room: Arc<Room>,
    /// Of its own.
    used: Arc<AtomicU64>,
}

/// What a message has of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    room: Arc<Room>,
    common: u64,
    own: Option<(Arc<AtomicU64>, u64)>,
}

impl Room {
    /// One of which nothing belongs to anybody.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Self::of(bytes as u64, 0)
    }

    /// One for so many peers, and messages of so many bytes at most, the largest of which always has its room
    /// among what belongs to nobody.
    pub(crate) fn shared(bytes: usize, peers: usize, message_bytes_max: usize) -> Arc<Self> {
        let (bytes, largest) = (bytes as u64, message_bytes_max as u64 + MESSAGE_BYTES);
        let belongs = (bytes / 2).min(bytes.saturating_sub(largest));
        let own = belongs.checked_div(peers as u64).unwrap_or_default();
        Self::of(bytes - own * peers as u64, own)
    }

    fn of(common: u64, own: u64) -> Arc<Self> {
        let state = State { free: common, is_closed: false, waiting: VecDeque::new() };
        Arc::new(Self { state: Mutex::new(state), own, common })
    }

    /// The part of one more peer.
    pub(crate) fn part(self: &Arc<Self>) -> Part {
        Part { room: self.clone(), used: Arc::default() }
    }

    /// Takes what belongs to nobody, if it is there.
    pub(crate) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let common = self.cost(bytes);
        let mut state = self.state.lock();
        state.free = state.free.checked_sub(common)?;
        Some(Taken { room: self.clone(), common, own: None })
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
        (bytes as u64).saturating_add(MESSAGE_BYTES).min(self.common)
    }

    /// Gives room back, and what there is then to those who waited longest of those that it is enough for.
    fn give_back(self: &Arc<Self>, common: u64, own: Option<&(Arc<AtomicU64>, u64)>) {
        let mut served = Vec::new();
        let mut state = self.state.lock();
        state.free += common;
        if let Some((used, own)) = own {
            used.fetch_sub(*own, Ordering::Relaxed);
        }
        for waiter in mem::take(&mut state.waiting) {
            if waiter.taken.is_closed() {
                continue;
            }
            match self.take_now(&mut state, &waiter.used, waiter.bytes) {
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

    /// Takes a peer's own first. Under the lock, as whatever changes what is used of it.
    fn take_now(
        self: &Arc<Self>,
        state: &mut State,
        used: &Arc<AtomicU64>,
        bytes: u64,
    ) -> Option<Taken> {
        let own = bytes.min(self.own.saturating_sub(used.load(Ordering::Relaxed)));
        let common = bytes - own;
        state.free = state.free.checked_sub(common)?;
        used.fetch_add(own, Ordering::Relaxed);
        Some(Taken { room: self.clone(), common, own: Some((used.clone(), own)) })
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
            state.waiting.push_back(Waiter { used: self.used.clone(), bytes, taken });
            waits
        };
        waits.await.ok()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.give_back(self.common, self.own.as_ref());
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
    fn promise_10_what_belongs_to_a_peer_is_there_whatever_others_hold() {
        // Half of it belongs to ten peers, 50,000 bytes to each.
        let room = Room::shared(1_000_000, 10, 10_000);
        let parts: Vec<_> = (0..10).map(|_| room.part()).collect();
        let all_of = |part: &Part| {
            let mut taken = Vec::new();
            while let Some(more) = part.take(744).now_or_never() {
                taken.push(more.unwrap());
            }
            taken
        };
        let first = all_of(&parts[0]);
        assert_eq!(first.len(), 550, "its own, and all that belongs to nobody");
        let others: Vec<_> = parts[1..].iter().map(all_of).collect();
        assert!(others.iter().all(|taken| taken.len() == 50));
        drop(others);
        drop(first);
        assert_eq!(room.state.lock().free, 500_000);
        assert!(parts.iter().all(|part| part.used.load(Ordering::Relaxed) == 0));
        // The largest message always has its room among what belongs to nobody.
        for (bytes, own, common) in
            [(10_256, 0, 10_256), (15_256, 500, 10_256), (20_000, 974, 10_260)]
        {
            let room = Room::shared(bytes, 10, 10_000);
            assert_eq!((room.own, room.common), (own, common));
            assert!(room.part().take(10_000).now_or_never().flatten().is_some());
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
