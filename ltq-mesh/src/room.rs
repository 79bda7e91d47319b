//! Room for messages that all peers have in common.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// So many bytes, of which each message takes what it has and [`MESSAGE_BYTES`] more.
///
/// Up to half of it belongs to peers, the same to each, and nobody else gets it; what is left is for whoever comes
/// first, in that order. So whatever others hold, and for how long, a peer has its own, and a large message has its
/// turn beside small ones.
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
    /// Those for whom there was no room, by the order in which they came.
    waiting: BTreeMap<u64, Waiter>,
    next_waiter: u64,
    /// Those who have something of their own, or wait.
    peers: BTreeMap<u64, Own>,
    next_peer: u64,
}

/// What a peer has of its own.
#[derive(Debug, Default)]
struct Own {
    used: u64,
    /// Its waiters.
    waiting: BTreeSet<u64>,
}

/// Who waits for room.
#[derive(Debug)]
struct Waiter {
    peer: u64,
    bytes: u64,
    taken: oneshot::Sender<Taken>,
}

/// What one peer has of a [`Room`].
#[derive(Debug)]
pub(crate) struct Part {
    room: Arc<Room>,
    peer: u64,
}

/// What a message has of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    room: Arc<Room>,
    common: u64,
    /// Whose, and how much of that.
    own: Option<(u64, u64)>,
}

/// Those who are served, to be told once nothing is locked: given up at this moment, they give back what they got.
type Served = Vec<(oneshot::Sender<Taken>, Taken)>;

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
        let state = State {
            free: common,
            is_closed: false,
            waiting: BTreeMap::new(),
            next_waiter: 0,
            peers: BTreeMap::new(),
            next_peer: 0,
        };
        Arc::new(Self { state: Mutex::new(state), own, common })
    }

    /// The part of one more peer.
    pub(crate) fn part(self: &Arc<Self>) -> Part {
        let mut state = self.state.lock();
        let peer = state.next_peer;
        state.next_peer += 1;
        Part { room: self.clone(), peer }
    }

    /// Takes what belongs to nobody, if it is there and nobody waits for it.
    pub(crate) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let common = self.cost(bytes);
        let mut state = self.state.lock();
        if !state.waiting.is_empty() {
            return None;
        }
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

    /// Gives room back, and what there is then to those who wait.
    fn give_back(self: &Arc<Self>, common: u64, own: Option<(u64, u64)>) {
        let mut state = self.state.lock();
        state.free += common;
        if let Some((peer, bytes)) = own
            && let Some(own) = state.peers.get_mut(&peer)
        {
            own.used -= bytes;
        }
        let served = self.serve(&mut state, own.map(|(peer, _)| peer));
        drop(state);
        tell(served);
    }

    /// Serves those of a peer for whom its own is enough, and then whoever has waited longest. What belongs to
    /// nobody goes to nobody else before: a large message would wait for ever beside small ones.
    fn serve(self: &Arc<Self>, state: &mut State, peer: Option<u64>) -> Served {
        let mut served = Vec::new();
        while let Some(peer) = peer
            && let Some(number) = state.first_of(peer)
            && let Some(waiter) = state.waiting.get(&number)
            && waiter.bytes <= state.own_free(self.own, peer)
        {
            self.serve_one(state, number, &mut served);
        }
        while let Some((&number, _)) = state.waiting.first_key_value()
            && self.serve_one(state, number, &mut served)
        {}
        if let Some(peer) = peer {
            state.tidy(peer);
        }
        served
    }

    /// Whether there was room.
    fn serve_one(self: &Arc<Self>, state: &mut State, number: u64, served: &mut Served) -> bool {
        let Some(&Waiter { peer, bytes, .. }) = state.waiting.get(&number) else { return false };
        let Some(taken) = self.take_now(state, peer, bytes) else { return false };
        if let Some(waiter) = state.leave(number) {
            served.push((waiter.taken, taken));
        }
        true
    }

    /// Takes a peer's own first.
    fn take_now(self: &Arc<Self>, state: &mut State, peer: u64, bytes: u64) -> Option<Taken> {
        let own = bytes.min(state.own_free(self.own, peer));
        let common = bytes - own;
        state.free = state.free.checked_sub(common)?;
        if own > 0 {
            state.peers.entry(peer).or_default().used += own;
        }
        Some(Taken { room: self.clone(), common, own: Some((peer, own)) })
    }
}

fn tell(served: Served) {
    for (waiter, taken) in served {
        drop(waiter.send(taken));
    }
}

impl State {
    fn own_free(&self, own: u64, peer: u64) -> u64 {
        own.saturating_sub(self.peers.get(&peer).map_or(0, |own| own.used))
    }

    fn first_of(&self, peer: u64) -> Option<u64> {
        self.peers.get(&peer)?.waiting.first().copied()
    }

    fn wait(&mut self, waiter: Waiter) -> u64 {
        let number = self.next_waiter;
        self.next_waiter += 1;
        self.peers.entry(waiter.peer).or_default().waiting.insert(number);
        self.waiting.insert(number, waiter);
        number
    }

    /// One waits no longer.
    fn leave(&mut self, number: u64) -> Option<Waiter> {
        let waiter = self.waiting.remove(&number)?;
        if let Some(own) = self.peers.get_mut(&waiter.peer) {
            own.waiting.remove(&number);
        }
        Some(waiter)
    }

    /// Forgets a peer that has nothing.
    fn tidy(&mut self, peer: u64) {
        if self.peers.get(&peer).is_some_and(|own| own.used == 0 && own.waiting.is_empty()) {
            self.peers.remove(&peer);
        }
    }
}

impl Part {
    /// Waits until there is room for a message of so many bytes. `None` once it is closed. Cancel safe.
    pub(crate) async fn take(&self, bytes: usize) -> Option<Taken> {
        let (waits, _waiting) = {
            let room = &self.room;
            let bytes = room.cost(bytes);
            let mut state = room.state.lock();
            if state.is_closed {
                return None;
            }
            // Nobody is overtaken, but for those of other peers by what is this one's own.
            let is_first = state.waiting.is_empty()
                || (state.first_of(self.peer).is_none()
                    && bytes <= state.own_free(room.own, self.peer));
            if is_first && let Some(taken) = room.take_now(&mut state, self.peer, bytes) {
                return Some(taken);
            }
            let (taken, waits) = oneshot::channel();
            let number = state.wait(Waiter { peer: self.peer, bytes, taken });
            (waits, Waiting { part: self, number })
        };
        waits.await.ok()
    }
}

/// Somebody waits, until this is dropped.
struct Waiting<'a> {
    part: &'a Part,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (room, peer) = (&self.part.room, self.part.peer);
        let mut state = room.state.lock();
        // Nothing to do where it was served.
        let Some(given_up) = state.leave(self.number) else { return };
        // Those behind it may be content with less.
        let served = room.serve(&mut state, Some(peer));
        drop(state);
        drop(given_up);
        tell(served);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.give_back(self.common, self.own);
    }
}

/// What is kept of a message beside its body, and more.
const MESSAGE_BYTES: u64 = 256;

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, task::Poll};

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
        assert!(room.state.lock().peers.is_empty());
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
        assert_eq!(room.state.lock().free, 10_000);
        let all = one.take(10_000).now_or_never().flatten().unwrap();
        drop(waits);
        let mut last = Box::pin(three.take(1));
        assert!(last.as_mut().poll(&mut context).is_pending());
        room.close();
        assert!(matches!(last.as_mut().poll(&mut context), Poll::Ready(None)));
        assert!(two.take(1).now_or_never().unwrap().is_none());
        drop(all);
    }

    #[test]
    fn promise_10_a_large_message_has_its_turn_beside_small_ones_without_end() {
        let room = Room::shared(40_000, 10, 10_000);
        assert_eq!((room.own, room.common), (2_000, 20_000));
        let (busy, large, other) = (room.part(), room.part(), room.part());
        let mut small: VecDeque<_> = std::iter::from_fn(|| busy.take(744).now_or_never()).collect();
        assert_eq!(small.len(), 22, "its own, and all that belongs to nobody");
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        // More than is its own.
        let mut waits = Box::pin(large.take(10_000));
        assert!(waits.as_mut().poll(&mut context).is_pending());
        let mut given_back = 0;
        let taken = loop {
            if let Poll::Ready(taken) = waits.as_mut().poll(&mut context) {
                break taken;
            }
            assert!(given_back < 100, "it waits for ever");
            small.pop_front();
            given_back += 1;
            // Those who come meanwhile do not get in front of it, but for their own.
            assert!(other.take(744).now_or_never().is_some(), "its own is free");
            small.extend(busy.take(744).now_or_never());
        };
        assert!(taken.is_some());
    }

    #[test]
    fn promise_10_who_waits_for_its_own_is_served_with_that_and_overtaken_by_none_of_its_own() {
        let room = Room::shared(40_000, 10, 10_000);
        let (busy, large, one) = (room.part(), room.part(), room.part());
        let _all: Vec<_> = std::iter::from_fn(|| busy.take(744).now_or_never()).collect();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut longest = Box::pin(large.take(10_000));
        assert!(longest.as_mut().poll(&mut context).is_pending());
        let first = one.take(1_244).now_or_never().flatten().expect("its own is free");
        let mut second = Box::pin(one.take(744));
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(one.take(0).now_or_never().is_none(), "one of its own waits, and it would fit");
        drop(first);
        let taken = second.as_mut().poll(&mut context);
        assert!(matches!(taken, Poll::Ready(Some(_))), "its own is free again");
        assert!(longest.as_mut().poll(&mut context).is_pending());
    }

    #[test]
    fn who_gives_up_waits_no_longer_and_holds_nobody_up() {
        let room = Room::new(10_000);
        let (one, two, three) = (room.part(), room.part(), room.part());
        let _held = one.take(5_000).now_or_never().flatten().unwrap();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut large = Box::pin(two.take(9_000));
        assert!(large.as_mut().poll(&mut context).is_pending());
        let mut behind = Box::pin(three.take(1_000));
        assert!(behind.as_mut().poll(&mut context).is_pending(), "others have waited longer");
        for _ in 0..1_000 {
            assert!(two.take(9_000).now_or_never().is_none());
        }
        assert_eq!(room.state.lock().waiting.len(), 2);
        drop(large);
        assert!(matches!(behind.as_mut().poll(&mut context), Poll::Ready(Some(_))));
        assert!(room.state.lock().waiting.is_empty());
    }
}
