//! Addresses and networks that are named one by one.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use thiserror::Error;

use crate::{Address, Origin, Peer, origin::ip_of};

/// IP addresses and networks whose peers no limit by address counts, such as those of proxies and load balancers: one
/// of them stands for many.
///
/// ```
/// # use ltq_core::{Networks, Origin};
/// let proxies: Networks = ["10.0.0.0/8".parse()?, "2001:db8::7".parse()?].into_iter().collect();
/// assert_eq!(proxies.origin_of_ip("10.1.2.3".parse().unwrap()), None);
/// assert!(proxies.origin_of_ip("192.0.2.1".parse().unwrap()).is_some());
/// # Ok::<_, ltq_core::NetworkError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

/// An IP address, or a network of them: `10.0.0.0/8`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

/// What was given is neither an address nor a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NetworkError {
    /// It is not written like one.
    #[error("write an IP address, or a network such as 10.0.0.0/8")]
    Syntax,
    /// Some of the address is beyond the network's prefix, so that one of them is wrong.
    #[error("the address has bits beyond the prefix; the network is {0:?}")]
    Beyond(Network),
    /// All addresses there are: limits by address would be for nobody.
    #[error("that is every address; set the limits by address themselves instead")]
    Everything,
}

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self(ip.to_canonical().into()));
        }
        let network: IpNet = text.parse().map_err(|_| NetworkError::Syntax)?;
        if network.prefix_len() == 0 {
            return Err(NetworkError::Everything);
        }
        if network.addr() != network.network() {
            return Err(NetworkError::Beyond(Self(network.trunc())));
        }
        Ok(Self(network))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() == self.0.max_prefix_len() {
            true => self.0.addr().fmt(f),
            false => self.0.fmt(f),
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

impl Networks {
    /// Whether an address is in one of them. An IPv4 address that is mapped to an IPv6 one is that IPv4 address.
    #[must_use]
    pub fn holds(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.0.contains(&ip))
    }

    /// [`Origin::of_ip`], but of none of these.
    #[must_use]
    pub fn origin_of_ip(&self, ip: IpAddr) -> Option<Origin> {
        Origin::of_ip(ip).filter(|_| !self.holds(ip))
    }

    /// [`Origin::of_peer`], but of none of these.
    #[must_use]
    pub fn origin_of_peer(&self, peer: &Peer) -> Option<Origin> {
        Origin::of_peer(peer).filter(|_| !self.holds_address(&peer.address))
    }

    fn holds_address(&self, address: &Address) -> bool {
        !self.0.is_empty() && ip_of(address).is_some_and(|ip| self.holds(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_shown_as_they_are_written() {
        for text in ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "2001:db8::1"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.1/32".parse::<Network>(), "192.0.2.1".parse());
        for (text, expected) in [
            ("10.0.0.0/33", NetworkError::Syntax),
            ("example.com", NetworkError::Syntax),
            ("", NetworkError::Syntax),
            ("0.0.0.0/0", NetworkError::Everything),
            ("::/0", NetworkError::Everything),
            ("10.1.0.0/8", NetworkError::Beyond("10.0.0.0/8".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<Network>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn peers_within_have_no_origin_and_others_have_theirs() {
        let networks: Networks =
            ["10.0.0.0/8", "2001:db8::/48"].map(|text| text.parse().unwrap()).into_iter().collect();
        let of = |text: &str| {
            networks.origin_of_peer(&Peer { address: text.parse().unwrap(), identity: None })
        };
        for within in ["tcp://10.1.2.3:4", "tls://[::ffff:10.0.0.1]:1", "quic://[2001:db8::5]:1"] {
            assert_eq!(of(within), None, "{within}");
        }
        for beyond in ["tcp://11.0.0.1:4", "quic://[2001:db8:1::5]:1"] {
            assert_eq!(of(beyond), Origin::of(&beyond.parse().unwrap()), "{beyond}");
            assert!(of(beyond).is_some());
        }
        let identity = Some("uid:7".to_owned());
        let user = Peer { address: "unix:///run/ltq#1".parse().unwrap(), identity };
        assert_eq!(networks.origin_of_peer(&user), Origin::of_peer(&user));
    }
}
