//! `HOST:PORT`.

use std::net::Ipv6Addr;

use ltq_core::{Address, TransportError};

use super::SCHEME;

/// The parts of a TCP address; the host without brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostPort<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
}

impl<'a> HostPort<'a> {
    pub(super) fn of(address: &'a Address) -> Result<Self, TransportError> {
        Self::parse(address)
            .map_err(|why| TransportError::Address { address: address.clone(), why: why.into() })
    }

    fn parse(address: &'a Address) -> Result<Self, &'static str> {
        if address.scheme() != SCHEME {
            return Err("the TCP transport takes addresses like tcp://HOST:PORT");
        }
        let (host, port) = address
            .rest()
            .rsplit_once(':')
            .ok_or("it has no port; it looks like tcp://HOST:PORT")?;
        // `parse` alone would take "+1".
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("its port is no number");
        }
        let port = port.parse().map_err(|_| "its port is not within 0 to 65535")?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(ipv6) => {
                let (number, _zone) = ipv6.split_once('%').unwrap_or((ipv6, ""));
                number.parse::<Ipv6Addr>().map_err(|_| "no IPv6 address stands in the brackets")?;
                ipv6
            }
            None if host.is_empty() => return Err("it has no host"),
            None if host.contains([':', '[', ']']) => {
                return Err("an IPv6 address stands in brackets, as in tcp://[::1]:7440");
            }
            None if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') => {
                return Err("its host holds a character that no host name has");
            }
            None => host,
        };
        Ok(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (rest, host, port) in [
            ("127.0.0.1:7440", "127.0.0.1", 7440),
            ("broker.example:0", "broker.example", 0),
            ("[::1]:65535", "::1", 65535),
            ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ] {
            let address = Address::new("tcp", rest);
            assert_eq!(HostPort::of(&address).unwrap(), HostPort { host, port });
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        for (scheme, rest, why) in [
            ("quic", "a:1", "tcp://HOST:PORT"),
            ("tcp", "a", "no port"),
            ("tcp", "a:", "within 0 to 65535"),
            ("tcp", "a:65536", "within 0 to 65535"),
            ("tcp", "a:+1", "no number"),
            ("tcp", ":1", "no host"),
            ("tcp", "::1:1", "brackets"),
            ("tcp", "[a]:1", "brackets"),
            ("tcp", "a b:1", "character"),
            ("tcp", "a/b:1", "character"),
        ] {
            let address = Address::new(scheme, rest);
            let error = HostPort::of(&address).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(rest), "{error}");
        }
    }
}
