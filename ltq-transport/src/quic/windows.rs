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

/// What the windows of connections may come to, all of them together.
///
/// A connection gets windows as large as are set up while there is plenty, and an eighth of what is
/// left once there is not; so the first ones leave something to those behind them. All that come from
/// one address have a part of it, so that it does not take the others'. What was promised to a peer cannot be taken back from it: it is free again when the connection is.
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

#[derive(Debug)]
struct State {
    left: u64,
    /// What each address has, where it has anything.
    by_origin: BTreeMap<Origin, u64>,
}

impl Windows {
    #[cfg(test)]
    pub(super) fn new(bytes_max: u64, share: Option<u64>) -> Arc<Self> {
        Self::exempting(bytes_max, share, Networks::default())
    }

    /// An address has a quarter of it where `share` says nothing else, and is not counted where it is `exempt`.
    pub(super) fn exempting(bytes_max: u64, share: Option<u64>, exempt: Networks) -> Arc<Self> {
        let state = Mutex::new(State { left: bytes_max, by_origin: BTreeMap::new() });
        let share = share.unwrap_or(bytes_max / 4);
        Arc::new(Self { bytes_max, share, exempt, narrowed: AtomicU64::new(0), state })
    }

    /// How many connections got smaller windows than they would have had.
    pub(super) fn narrowed(&self) -> u64 {
        self.narrowed.load(Ordering::Relaxed)
    }

    /// Bytes that are in use.
    pub(super) fn used(&self) -> u64 {
        self.bytes_max - self.state.lock().left
    }

    /// Windows for a connection from there that would have these. Neither is smaller than
    /// [`WINDOW_MIN`], unless so little was wanted.
    pub(super) fn take(self: &Arc<Self>, from: IpAddr, receive: u32, send: u32) -> Share {
        let from = self.exempt.origin_of_ip(from);
        let mut state = self.state.lock();
        let left = match from {
            Some(origin) => {
                let used = state.by_origin.get(&origin).copied().unwrap_or(0);
                state.left.min(self.share.saturating_sub(used))
            }
            None => state.left,
        };
        let most = u32::try_from(left / 8).unwrap_or(u32::MAX).max(WINDOW_MIN);
        if receive.max(send) > most {
            self.narrowed.fetch_add(1, Ordering::Relaxed);
        }
        let (receive, send) = (receive.min(most), send.min(most));
        // The least that a connection gets it gets without any being left.
        let taken = (u64::from(receive) + u64::from(send)).min(left);
        state.left -= taken;
        if let Some(origin) = from
            && taken > 0
        {
            *state.by_origin.entry(origin).or_default() += taken;
        }
        drop(state);
        Share { of: Arc::clone(self), from, receive, send, taken }
    }
}

/// What one connection has of it, until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Windows>,
    from: Option<Origin>,
    receive: u32,
    send: u32,
    taken: u64,
}

impl Share {
    /// Lets a connection make use of it.
    pub(super) fn open(&self, connection: &quinn::Connection) {
        connection.set_receive_window(VarInt::from_u32(self.receive));
        connection.set_send_window(self.send.into());
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        state.left += self.taken;
        if let Some(origin) = self.from
            && let Some(used) = state.by_origin.get_mut(&origin)
        {
            *used -= self.taken;
            if *used == 0 {
                state.by_origin.remove(&origin);
            }
        }
    }
}

/// The least that a connection holds each way, and all until its peer is welcomed: some hellos, or a
/// megabyte a second over a path of 60 ms.
pub(super) const WINDOW_MIN: u32 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn there(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn promise_9_windows_come_to_no_more_than_is_set_up_and_the_least_of_each_connection() {
        let windows = Windows::new(u64::from(512 * MIB), None);
        let mut shares = Vec::new();
        for _ in 0..12 {
            shares.push(windows.take(HERE, 16 * MIB, 16 * MIB));
        }
        assert!(shares.iter().all(|share| (share.receive, share.send) == (16 * MIB, 16 * MIB)));
        let least = u64::from(2 * WINDOW_MIN);
        for count in 12..3_000_u64 {
            let share = windows.take(HERE, 16 * MIB, 16 * MIB);
            assert!(share.receive >= WINDOW_MIN && share.send >= WINDOW_MIN);
            assert!(share.receive <= shares.last().unwrap().receive);
            shares.push(share);
            let held: u64 = shares.iter().map(|it| u64::from(it.receive + it.send)).sum();
            assert!(held <= u64::from(512 * MIB) + least * count, "{held} by {count}");
        }
        assert_eq!(windows.used(), u64::from(512 * MIB));
        assert_eq!(windows.take(HERE, 16 * MIB, 16 * MIB).taken, 0);
    }

    #[test]
    fn what_a_connection_had_is_free_again_when_it_is_gone() {
        let windows = Windows::new(u64::from(MIB), None);
        let first = windows.take(HERE, MIB, 1_000);
        assert_eq!((first.receive, first.send, windows.used()), (MIB / 8, 1_000, 132_072));
        let second = windows.take(HERE, MIB, MIB);
        assert!(second.receive < first.receive);
        drop(first);
        assert_eq!(windows.used(), second.taken);
        drop(second);
        assert_eq!(windows.used(), 0);
    }

    #[test]
    fn promise_10_one_address_takes_a_quarter_and_no_more() {
        let windows = Windows::new(u64::from(64 * MIB), None);
        let greedy: Vec<_> = (0..500).map(|_| windows.take(there(1), 16 * MIB, 16 * MIB)).collect();
        assert_eq!(windows.used(), u64::from(16 * MIB));
        let other = windows.take(there(2), 16 * MIB, 16 * MIB);
        assert_eq!((other.receive, other.send), (2 * MIB, 2 * MIB));
        drop(greedy);
        assert_eq!(windows.used(), u64::from(4 * MIB));
        assert_eq!(windows.take(there(1), 16 * MIB, 16 * MIB).receive, 2 * MIB);
        drop(other);
        assert!(windows.state.lock().by_origin.is_empty());
    }

    #[test]
    fn promise_10_what_one_address_has_can_be_set_and_smaller_windows_are_counted() {
        let windows = Windows::new(u64::from(64 * MIB), Some(u64::from(32 * MIB)));
        let first = windows.take(there(1), 2 * MIB, 2 * MIB);
        assert_eq!((first.receive, windows.narrowed()), (2 * MIB, 0));
        let greedy: Vec<_> = (0..500).map(|_| windows.take(there(1), 16 * MIB, 16 * MIB)).collect();
        assert_eq!((windows.used(), windows.narrowed()), (u64::from(32 * MIB), 500));
        drop(greedy);
    }
}
