//! A connection as the network sees it: something to be cut.

use std::sync::Arc;

use ltq_core::Stream;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Roads,
    pipe::{Cuttable, direction},
};

/// A connection between two hosts.
pub(super) struct Link {
    carried: Arc<Carried>,
}

/// What a connection carries. Its ends share it, where they may open further streams.
pub(super) struct Carried {
    /// Who connected, and to whom.
    hosts: [Arc<str>; 2],
    state: Mutex<State>,
    is_cut: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// From who connected, and to him.
    streams: Vec<[Cuttable; 2]>,
    /// In which of these nothing gets through any more.
    silent: [bool; 2],
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Connecting,
    Accepting,
}

impl Carried {
    pub(super) fn new(hosts: [String; 2]) -> Arc<Self> {
        let (state, is_cut) = (Mutex::default(), watch::Sender::new(false));
        Arc::new(Self { hosts: hosts.map(Arc::from), state, is_cut })
    }

    /// Who is at this end, and who at the other.
    pub(super) fn ends(&self, side: Side) -> [&str; 2] {
        let [connecting, accepting] = &self.hosts;
        match side {
            Side::Connecting => [connecting, accepting],
            Side::Accepting => [accepting, connecting],
        }
    }

    pub(super) fn is_cut(&self) -> watch::Receiver<bool> {
        self.is_cut.subscribe()
    }

    /// A new stream, its end for who opens it and its end for the other; none on a connection that is
    /// cut.
    pub(super) fn stream(&self, roads: &Arc<Roads>, opener: Side) -> Option<(Stream, Stream)> {
        let mut state = self.state.lock();
        if *self.is_cut.borrow() {
            return None;
        }
        let [near, far] = match (opener, self.hosts.clone()) {
            (Side::Connecting, hosts) => hosts,
            (Side::Accepting, [connecting, accepting]) => [accepting, connecting],
        };
        let ends = [near.clone(), far.clone()];
        let (there, near_send, far_recv) = direction(Arc::clone(roads), ends);
        let (back, far_send, near_recv) = direction(Arc::clone(roads), [far, near]);
        let ways = match opener {
            Side::Connecting => [there, back],
            Side::Accepting => [back, there],
        };
        let dead = ways.iter().zip(state.silent).filter(|(_, silent)| *silent);
        dead.for_each(|(way, _)| way.cut(true));
        state.streams.retain(|stream| !is_over(stream));
        state.streams.push(ways);
        Some((
            Stream { send: Box::new(near_send), recv: Box::new(near_recv) },
            Stream { send: Box::new(far_send), recv: Box::new(far_recv) },
        ))
    }
}

impl Link {
    pub(super) const fn new(carried: Arc<Carried>) -> Self {
        Self { carried }
    }

    pub(super) fn hosts(&self) -> [&str; 2] {
        self.carried.ends(Side::Connecting)
    }

    pub(super) fn is_of(&self, host: &str) -> bool {
        self.hosts().contains(&host)
    }

    /// Whoever waits for it is to look again.
    pub(super) fn wake(&self) {
        self.carried.state.lock().streams.iter().flatten().for_each(Cuttable::wake);
    }

    /// Whether all ends have let go of it.
    pub(super) fn is_over(&self) -> bool {
        Arc::strong_count(&self.carried) == 1
            && self.carried.state.lock().streams.iter().all(is_over)
    }

    /// Breaks it. Both ends are told; nobody is if it is `silent`.
    pub(super) fn cut(&self, silent: bool) {
        let mut state = self.carried.state.lock();
        state.streams.iter().flatten().for_each(|way| way.cut(silent));
        if silent {
            state.silent = [true; 2];
        } else {
            self.carried.is_cut.send_replace(true);
        }
    }

    /// Lets nothing through any more in one direction, and tells nobody.
    pub(super) fn silence(&self, direction: usize) {
        let mut state = self.carried.state.lock();
        state.streams.iter().filter_map(|ways| ways.get(direction)).for_each(|way| way.cut(true));
        if let Some(silent) = state.silent.get_mut(direction) {
            *silent = true;
        }
    }

    /// Breaks one of its streams, whichever chance has it, and leaves the others.
    pub(super) fn reset(&self, chance: u64) {
        let mut state = self.carried.state.lock();
        state.streams.retain(|stream| !is_over(stream));
        let count = state.streams.len().max(1) as u64;
        if let Some(stream) = state.streams.get((chance % count) as usize) {
            stream.iter().for_each(|way| way.cut(false));
        }
    }

    /// Ends one direction of one of its streams, whichever chance has it.
    pub(super) fn half_close(&self, chance: u64, direction: usize) {
        let mut state = self.carried.state.lock();
        state.streams.retain(|stream| !is_over(stream));
        let count = state.streams.len().max(1) as u64;
        let stream = state.streams.get((chance % count) as usize);
        if let Some(way) = stream.and_then(|stream| stream.get(direction)) {
            way.finish();
        }
    }
}

fn is_over(stream: &[Cuttable; 2]) -> bool {
    stream.iter().all(Cuttable::is_over)
}
