//! The memory that the connections of a listener share.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ltq_core::{Networks, Origin};
use parking_lot::Mutex;
use quinn::VarInt;

/// What the windows of connections may make this process hold, all of them together.
///
/// A connection gets windows as large as are set up while there is plenty, and an eighth of what is
/// left once there is not; so the first ones leave something to those behind them. All that come from
/// one address have a part of it, so that it does not take the others'. What was promised to a peer cannot be taken back from it: it is free again when the connection is.
///
/// How much a *stream* takes in has to be said before it is known who the peer is, and is a part of
/// what its connection takes in, so that one that nobody reads leaves room for the others. So each
/// connection has a [`Promise`] from the start: that its windows will have room for such streams.
#[derive(Debug)]
pub(super) struct Windows {
    bytes_max: u64,
    /// What connections of one address may have of it.
    share: u64,
    /// Addresses that have none.
    exempt: Networks,
    /// Connections that got smaller ones than they would have had.
    narrowed: AtomicU64,
    state: Mutex<State>,
}

/// What a connection would have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) receive: u32,
    pub(super) send: u32,
    /// What one of its streams takes in.
    pub(super) stream: u32,
    /// How many streams its peer may have opened that nobody has accepted; and before it is welcomed.
    pub(super) streams: u32,
    pub(super) streams_least: u32,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    all: Part,
    /// Of each address that has anything.
    by_origin: BTreeMap<Origin, Part>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    taken: u64,
    promised: u64,
}

impl Part {
    /// Of so much in all.
    const fn left(self, max: u64) -> u64 {
        max.saturating_sub(self.taken).saturating_sub(self.promised)
    }
}

impl State {
    fn part(&self, from: Option<Origin>) -> Part {
        from.and_then(|origin| self.by_origin.get(&origin)).copied().unwrap_or_default()
    }

    fn change(&mut self, from: Option<Origin>, change: impl Fn(&mut Part)) {
        change(&mut self.all);
        let Some(origin) = from else { return };
        let part = self.by_origin.entry(origin).or_default();
        change(part);
        if *part == Part::default() {
            self.by_origin.remove(&origin);
        }
    }
}

impl Windows {
    #[cfg(test)]
    pub(super) fn new(bytes_max: u64, share: Option<u64>) -> Arc<Self> {
        Self::exempting(bytes_max, share, Networks::default())
    }

    /// An address has a quarter of it where `share` says nothing else, and is not counted where it is `exempt`.
    pub(super) fn exempting(bytes_max: u64, share: Option<u64>, exempt: Networks) -> Arc<Self> {
        let share = share.unwrap_or(bytes_max / 4);
        let state = Mutex::default();
        Arc::new(Self { bytes_max, share, exempt, narrowed: AtomicU64::new(0), state })
    }

    /// How many connections got smaller windows than they would have had.
    pub(super) fn narrowed(&self) -> u64 {
        self.narrowed.load(Ordering::Relaxed)
    }

    /// Bytes that are in use.
    pub(super) fn used(&self) -> u64 {
        self.state.lock().all.taken
    }

    fn left(&self, state: &State, from: Option<Origin>) -> u64 {
        let all = state.all.left(self.bytes_max);
        from.map_or(all, |_| all.min(state.part(from).left(self.share)))
    }

    /// For a connection that begins. Whoever made its address up must not leave nothing to those who did
    /// not: without proof it is of half of what there is.
    pub(super) fn promise(self: &Arc<Self>, from: IpAddr, wanted: Wanted, proved: bool) -> Promise {
        let from = self.exempt.origin_of_ip(from);
        let mut state = self.state.lock();
        let mut left = self.left(&state, from);
        let receive = wanted.receive.min(eighth(left));
        let mut stream = wanted.stream.min(receive / STREAMS_AT_FULL);
        if !proved {
            let half = |part: Part, max: u64| {
                (max.saturating_sub(part.taken) / 2).saturating_sub(part.promised)
            };
            let all = half(state.all, self.bytes_max);
            left = left.min(from.map_or(all, |_| all.min(half(state.part(from), self.share))));
            // So that the first ones leave something to those behind them.
            let most = left / 2 / held(STREAMS_AT_FULL, 0, 0);
            let most = most.max(u64::from(WINDOW_MIN / STREAMS_AT_FULL));
            stream = stream.min(u32::try_from(most).unwrap_or(u32::MAX));
        }
        // The least that a connection gets it gets without any being left.
        let promised = held(stream * STREAMS_AT_FULL, 0, 0).min(left);
        state.change(from, |part| part.promised += promised);
        drop(state);
        Promise { of: Arc::clone(self), from, wanted, stream, promised }
    }
}

/// That a connection will have windows for streams as large as this, until this is dropped.
#[derive(Debug)]
pub(super) struct Promise {
    of: Arc<Windows>,
    from: Option<Origin>,
    wanted: Wanted,
    stream: u32,
    promised: u64,
}

impl Promise {
    /// What a stream takes in.
    pub(super) const fn stream(&self) -> u32 {
        self.stream
    }

    /// Windows for the connection. None is smaller than [`WINDOW_MIN`], unless so little was wanted.
    pub(super) fn take(&self) -> Share {
        let Self { of, from, wanted, stream, promised } = self;
        let mut state = of.state.lock();
        // Its own is there for it, and that of others is not.
        let left = of.left(&state, *from).saturating_add(*promised);
        let receive = wanted.receive.min(eighth(left).max(stream * STREAMS_AT_FULL));
        // What was promised may be all that is left for it.
        let rest = left.saturating_sub(held(receive, 0, 0)) / 2;
        let most = u64::from(eighth(left)).min(rest.max(WINDOW_MIN.into()));
        let send = wanted.send.min(u32::try_from(most).unwrap_or(u32::MAX));
        let streams = u64::from(wanted.streams).min(most / STREAM_BYTES);
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        let streams = streams.max(wanted.streams_least);
        let whole = wanted.stream.min(wanted.receive / STREAMS_AT_FULL);
        if (receive, send, streams, *stream) != (wanted.receive, wanted.send, wanted.streams, whole)
        {
            of.narrowed.fetch_add(1, Ordering::Relaxed);
        }
        let taken = held(receive, send, streams).min(left);
        state.change(*from, |part| part.taken += taken);
        drop(state);
        Share { of: Arc::clone(of), from: *from, receive, send, streams, taken, paid: 0 }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.of.state.lock().change(self.from, |part| part.promised -= self.promised);
    }
}

/// What one connection has of it, until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Windows>,
    from: Option<Origin>,
    receive: u32,
    send: u32,
    streams: u32,
    taken: u64,
    /// Accepted streams that are in it.
    paid: u32,
}

impl Share {
    /// Lets a connection make use of it.
    pub(super) fn open(&self, connection: &quinn::Connection) {
        connection.set_receive_window(VarInt::from_u32(self.receive));
        connection.set_send_window(self.send.into());
    }

    /// How many streams the peer may have opened that nobody has accepted.
    pub(super) const fn streams(&self) -> u32 {
        self.streams
    }

    /// So many streams are accepted now. They are counted while there is room, and nobody is refused one: what
    /// is opened on them has limits of its own.
    pub(super) fn count(&mut self, accepted: u32) {
        let mut state = self.of.state.lock();
        let room = self.of.left(&state, self.from) / STREAM_BYTES;
        let more = u64::from(accepted.saturating_sub(self.paid)).min(room) * STREAM_BYTES;
        let less = u64::from(self.paid.saturating_sub(accepted)) * STREAM_BYTES;
        state.change(self.from, |part| part.taken = part.taken + more - less);
        drop(state);
        self.taken = self.taken + more - less;
        let paid = u64::from(self.paid) + more / STREAM_BYTES - less / STREAM_BYTES;
        self.paid = u32::try_from(paid).unwrap_or(u32::MAX);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.state.lock().change(self.from, |part| part.taken -= self.taken);
    }
}

/// What a connection with such windows can be made to hold. quinn keeps packets as they came while few
/// bytes of theirs are of use: one and a half times what is received, and so much of each stream in any case.
const fn held(receive: u32, send: u32, streams: u32) -> u64 {
    receive as u64 * 5 / 2 + send as u64 + streams as u64 * STREAM_BYTES
}

/// The most of this that a connection gets each way.
fn eighth(left: u64) -> u32 {
    u32::try_from(left / 8).unwrap_or(u32::MAX).max(WINDOW_MIN)
}

/// The least that a connection holds each way, and all until its peer is welcomed: some hellos, or a
/// megabyte a second over a path of 60 ms.
pub(super) const WINDOW_MIN: u32 = 64 << 10;
/// So many streams that nobody reads fill their connection's window, and one fewer does not.
pub(super) const STREAMS_AT_FULL: u32 = 4;
/// What quinn keeps of a stream's packets beside what they brought (`quinn-proto`, `Assembler::insert`).
const STREAM_BYTES: u64 = 32 << 10;

#[cfg(test)]
mod tests;
