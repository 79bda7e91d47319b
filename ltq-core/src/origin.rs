use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::Address;

/// Where a peer comes from, as far as it counts against limits: its IP address without the port; of
/// an IPv6 address the first 64 bits, since whoever has one has all of those.
///
/// Peers of this machine have none: all programs here share the loopback address, and behind
/// in-process links and Unix sockets there is no address at all; so one of them would shut out the
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(IpAddr);

impl Origin {
    /// Of an address of any kind of transport: what follows its scheme is an IP address, with a port or
    /// without one, or has no origin.
    #[must_use]
    pub fn of(address: &Address) -> Option<Self> {
        let text = address.rest();
        let ip = text.parse::<SocketAddr>().map(|socket| socket.ip());
        Self::of_ip(ip.or_else(|_| text.parse::<IpAddr>()).ok()?)
    }

    /// Of an IP address. An IPv4 address that is mapped to an IPv6 one is that IPv4 address.
    #[must_use]
    pub fn of_ip(ip: IpAddr) -> Option<Self> {
        match ip.to_canonical() {
            ip if ip.is_loopback() => None,
            IpAddr::V4(v4) => Some(Self(v4.into())),
            IpAddr::V6(v6) => Some(Self(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into())),
        }
    }
}

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
}
