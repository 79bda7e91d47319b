//! `HOST:PORT`.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
};

use ltq_core::{Address, TransportError};
use tokio::net::lookup_host;

/// The parts of an address; the host without brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostPort<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
}

impl<'a> HostPort<'a> {
    /// The parts of an address to listen on.
    ///
    /// # Errors
    /// [`TransportError::Address`] when it is not of this scheme or no `HOST:PORT`.
    pub(crate) fn of(address: &'a Address, scheme: &str) -> Result<Self, TransportError> {
        Self::parse(address, scheme)
            .map_err(|why| TransportError::Address { address: address.clone(), why })
    }

    /// The parts of an address to connect to, which has a port.
    pub(crate) fn to_connect(address: &'a Address, scheme: &str) -> Result<Self, TransportError> {
        let parts = Self::of(address, scheme)?;
        if parts.port == 0 {
            return Err(TransportError::Address {
                address: address.clone(),
                why: "port 0 is only for listening".to_owned(),
            });
        }
        Ok(parts)
    }

    /// What the host's name stands for now; at least one address.
    ///
    /// # Errors
    /// [`TransportError::Io`] when the name is not known.
    pub(crate) async fn resolve(
        self,
        address: &Address,
    ) -> Result<Vec<SocketAddr>, TransportError> {
        let failed = |source| TransportError::Io {
            doing: format!("looking up the host of {address}"),
            source,
        };
        let found: Vec<_> = lookup_host((self.host, self.port)).await.map_err(failed)?.collect();
        if found.is_empty() {
            let why = "the host has no address";
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, why)));
        }
        Ok(found)
    }

    fn parse(address: &'a Address, scheme: &str) -> Result<Self, String> {
        if address.scheme() != scheme {
            return Err(format!("this transport takes addresses like {scheme}://HOST:PORT"));
        }
        let (host, port) = address
            .rest()
            .rsplit_once(':')
            .ok_or_else(|| format!("it has no port; it looks like {scheme}://HOST:PORT"))?;
        // `parse` alone would take "+1".
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("its port is no number".to_owned());
        }
        let port = port.parse().map_err(|_| "its port is not within 0 to 65535")?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(ipv6) => {
                let (number, _zone) = ipv6.split_once('%').unwrap_or((ipv6, ""));
                number.parse::<Ipv6Addr>().map_err(|_| "no IPv6 address stands in the brackets")?;
                ipv6
            }
            None if host.is_empty() => return Err("it has no host".to_owned()),
            None if host.contains([':', '[', ']']) => {
                return Err(format!(
                    "an IPv6 address stands in brackets, as in {scheme}://[::1]:7440"
                ));
            }
            None if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') => {
                return Err("its host holds a character that no host name has".to_owned());
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
            assert_eq!(HostPort::of(&address, "tcp").unwrap(), HostPort { host, port });
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
            let error = HostPort::of(&address, "tcp").unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(rest), "{error}");
        }
    }
}
