use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::{Address, Peer};

/// Where a peer comes from, as far as it counts against limits: its IP address without the port; of
/// an IPv6 address the first 64 bits, since whoever has one has all of those.
///
/// Over a Unix socket it is the user whom the operating system names: so one user cannot shut out the
/// others.
///
/// Other peers of this machine have none: all programs here share the loopback address, and behind
/// in-process links there is no address at all; so one of them would shut out the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(From);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum From {
    Ip(IpAddr),
    User(u32),
    /// The first 48 bits of an IPv6 address.
    Site(Ipv6Addr),
}

impl Origin {
    /// Of a peer: its user over a Unix socket, where the transport knows it, and else its address.
    #[must_use]
    pub fn of_peer(peer: &Peer) -> Option<Self> {
        if peer.address.scheme() != "unix" {
            return Self::of(&peer.address);
        }
        let user = peer.identity.as_deref()?.strip_prefix("uid:")?;
        Some(Self(From::User(user.parse().ok()?)))
    }

    /// Of an address of any kind of transport: what follows its scheme is an IP address, with a port or
    /// without one, or has no origin.
    #[must_use]
    pub fn of(address: &Address) -> Option<Self> {
        Self::of_ip(ip_of(address)?)
    }

    /// Of an IP address. An IPv4 address that is mapped to an IPv6 one is that IPv4 address.
    #[must_use]
    pub fn of_ip(ip: IpAddr) -> Option<Self> {
        match ip.to_canonical() {
            ip if ip.is_loopback() => None,
            IpAddr::V4(v4) => Some(Self(From::Ip(v4.into()))),
            IpAddr::V6(v6) => {
                let network = Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64);
                Some(Self(From::Ip(network.into())))
            }
        }
    }

    /// What it is a part of, where one holder often has many like it: of an IPv6 address the first 48 bits, which is
    /// what a site is given and 65,536 times the first 64.
    #[must_use]
    pub const fn site(self) -> Option<Self> {
        match self.0 {
            From::Ip(IpAddr::V6(v6)) => {
                Some(Self(From::Site(Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80))))
            }
            _ => None,
        }
    }

    /// What a whole [`site`](Self::site) may have where one origin has such a `share` of `all`: four times as much,
    /// but no more than three quarters of all, so that there is something left for others.
    #[must_use]
    pub const fn share_of_site(share: usize, all: usize) -> usize {
        let (four, most) = (share.saturating_mul(4), all - all / 4);
        let at_most = if four < most { four } else { most };
        if at_most > share { at_most } else { share }
    }

    /// Whether it is reached over a network, and is no user of this machine.
    #[must_use]
    pub const fn is_remote(self) -> bool {
        !matches!(self.0, From::User(_))
    }
}

/// The IP address that an address of some transport names.
pub(crate) fn ip_of(address: &Address) -> Option<IpAddr> {
    let text = address.rest();
    let ip = text.parse::<SocketAddr>().map(|socket| socket.ip());
    ip.or_else(|_| text.parse::<IpAddr>()).ok()
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

    #[test]
    fn an_ipv6_origin_is_part_of_a_site_and_others_are_of_none() {
        let site = |text: &str| origin(text).and_then(Origin::site);
        let one = site("tcp://[2001:db8:1:2::1]:1");
        assert!(one.is_some());
        assert_eq!(one, site("quic://[2001:db8:1:ffff::2]:2"));
        assert_ne!(one, site("tcp://[2001:db8:2:2::1]:1"));
        // Not the same as its first /64.
        assert_ne!(one, origin("tcp://[2001:db8:1:0::1]:1"));
        assert_eq!(one.and_then(Origin::site), None);
        assert_eq!(site("tcp://192.0.2.1:80"), None);
        assert_eq!(site("tcp://[::ffff:192.0.2.1]:80"), None);
    }

    #[test]
    fn a_site_has_four_shares_where_that_leaves_others_something() {
        for (share, all, site) in
            [(1_000, 20_000, 4_000), (1_250, 5_000, 3_750), (9, 10, 9), (1, 1, 1), (7, 0, 7)]
        {
            assert_eq!(Origin::share_of_site(share, all), site, "{share} of {all}");
        }
        assert_eq!(Origin::share_of_site(usize::MAX, usize::MAX), usize::MAX);
    }

    #[test]
    fn over_a_unix_socket_the_user_is_the_origin() {
        let of = |address: &str, identity: Option<&str>| {
            let address = address.parse().unwrap();
            Origin::of_peer(&Peer { address, identity: identity.map(str::to_owned) })
        };
        let user = of("unix:///run/ltq#1", Some("uid:1000"));
        assert!(user.is_some());
        assert_eq!(of("unix:///run/ltq#2", Some("uid:1000")), user);
        assert_ne!(of("unix:///run/ltq#1", Some("uid:1001")), user);
        for unknown in [None, Some("1000"), Some("uid:"), Some("uid:alice")] {
            assert_eq!(of("unix:///run/ltq#1", unknown), None, "{unknown:?}");
        }
        // A name that only looks like a user says nothing where the system does not vouch for it.
        assert_eq!(of("tls://192.0.2.1:1", Some("uid:1000")), origin("tls://192.0.2.1:2"));
        assert_eq!(of("tcp://127.0.0.1:1", Some("uid:1000")), None);
    }
}
