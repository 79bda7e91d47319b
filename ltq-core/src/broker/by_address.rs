//! What a broker remembers of the addresses that its peers come from, within a bound.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use crate::Address;

/// Where a peer comes from, as far as it counts against limits: its IP address without the port; of
/// an IPv6 address the first 64 bits, since whoever has one has all of those.
///
/// Peers of this machine have none: all programs here share the loopback address, and behind
/// in-process links and Unix sockets there is no address at all; so one of them would shut out the
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin(IpAddr);

impl Origin {
    pub(super) fn of(address: &Address) -> Option<Self> {
        let text = address.rest();
        let ip = text.parse::<SocketAddr>().map(|socket| socket.ip());
        match ip.or_else(|_| text.parse::<IpAddr>()).ok()?.to_canonical() {
            ip if ip.is_loopback() => None,
            IpAddr::V4(v4) => Some(Self(v4.into())),
            IpAddr::V6(v6) => Some(Self(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into())),
        }
    }
}

/// Something for each of the [`ORIGINS_MAX`] addresses that were seen last.
#[derive(Debug)]
pub(super) struct ByAddress<T> {
    /// With the turn at which each was seen last.
    entries: BTreeMap<Origin, (u64, T)>,
    order: BTreeMap<u64, Origin>,
    turn: u64,
}

impl<T> Default for ByAddress<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), order: BTreeMap::new(), turn: 0 }
    }
}

impl<T> ByAddress<T> {
    /// What is known of an address, which thereby is the one seen last.
    pub(super) fn of(&mut self, origin: Origin, unknown: impl FnOnce() -> T) -> &mut T {
        self.turn += 1;
        if let Some((turn, _)) = self.entries.get(&origin) {
            self.order.remove(turn);
        } else if self.entries.len() >= ORIGINS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.order.insert(self.turn, origin);
        let (turn, value) = self.entries.entry(origin).or_insert_with(|| (0, unknown()));
        *turn = self.turn;
        value
    }

    /// What is known of an address, without its having been seen.
    pub(super) fn get(&self, origin: Origin) -> Option<&T> {
        self.entries.get(&origin).map(|(_, value)| value)
    }

    /// Forgets an address.
    pub(super) fn forget(&mut self, origin: Origin) {
        if let Some((turn, _)) = self.entries.remove(&origin) {
            self.order.remove(&turn);
        }
    }
}

/// Some 500 KiB in all.
const ORIGINS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Option<Origin> {
        Origin::of(&text.parse().unwrap())
    }

    #[test]
    fn origins_are_addresses_without_ports() {
        assert_eq!(origin("tcp://192.0.2.1:80"), origin("quic://192.0.2.1:81"));
        assert_eq!(origin("tcp://[::ffff:192.0.2.1]:1"), origin("tcp://192.0.2.1:80"));
        assert_ne!(origin("tcp://192.0.2.1:80"), origin("tcp://192.0.2.2:80"));
        assert_eq!(origin("tcp://[2001:db8::1]:1"), origin("tcp://[2001:db8:0:0:ff::2]:1"));
        assert_ne!(origin("tcp://[2001:db8::1]:1"), origin("tcp://[2001:db8:0:1::1]:1"));
        for local in ["tcp://127.0.0.1:1", "tcp://[::1]:1", "in-process://hub", "unix:///run/ltq"] {
            assert_eq!(origin(local), None, "{local}");
        }
    }

    #[test]
    fn promise_9_the_addresses_seen_last_are_remembered_and_no_more() {
        let nth = |n: u32| Origin(IpAddr::V4(n.into()));
        let mut table = ByAddress::default();
        let max = u32::try_from(ORIGINS_MAX).unwrap();
        for n in 0..max {
            *table.of(nth(n), || 0) = n;
        }
        // The first is seen again, so that the second is the oldest.
        assert_eq!(*table.of(nth(0), || 99), 0);
        table.of(nth(max), || 1);
        assert_eq!((table.get(nth(0)), table.get(nth(1))), (Some(&0), None));
        assert_eq!((table.entries.len(), table.order.len()), (ORIGINS_MAX, ORIGINS_MAX));
        table.forget(nth(0));
        assert_eq!((table.entries.len(), table.order.len()), (ORIGINS_MAX - 1, ORIGINS_MAX - 1));
    }
}
