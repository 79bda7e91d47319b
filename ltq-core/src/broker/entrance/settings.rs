//! What can be set of an entrance.

use crate::Networks;

/// How connections come in, to a broker or to another server: what is about those that nobody has let in yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntranceSettings {
    /// The most connections at a time without an accepted hello. Of more the oldest gives way when it has had a second;
    /// until then further ones are refused. `None`, the default: a quarter of
    /// [`connections_max`](ConnectionLimits::connections_max), and 16 at least.
    pub greeting_connections_max: Option<usize>,
    /// The most of them from one [`Origin`](crate::Origin), by the same rule; of a whole [site](crate::Origin::site) four times as many,
    /// but no more than three quarters. `None`, the default: a quarter, and 4 at least, but no more than a quarter of
    /// [`connections_per_address_max`](ConnectionLimits::connections_per_address_max).
    pub greeting_connections_per_address_max: Option<usize>,
    /// The most connections that begin in a second from one IP address, other than this machine's; of a whole
    /// [site](crate::Origin::site) four times as many. Ten times as many may come at once; further ones are refused, which
    /// counts for nothing. Default: 200.
    pub connections_per_second_max: u32,
    /// Addresses that no limit by address counts, nor the one of wrong tokens: proxies, load balancers. Default: none.
    pub exempt_addresses: Networks,
}

impl Default for EntranceSettings {
    fn default() -> Self {
        Self {
            greeting_connections_max: None,
            greeting_connections_per_address_max: None,
            connections_per_second_max: 200,
            exempt_addresses: Networks::default(),
        }
    }
}

/// How many connections there may be at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all.
    pub connections_max: usize,
    /// From one [`Origin`](crate::Origin); of a whole [site](crate::Origin::site) four times as many, but no more than three quarters of all.
    pub connections_per_address_max: usize,
    /// Of how many addresses it is remembered how many connections came from there.
    pub addresses_known_max: usize,
}

impl EntranceSettings {
    /// The first of them that is 0, by its name: nobody would come in by it.
    #[must_use]
    pub fn zero(&self) -> Option<&'static str> {
        let Self {
            greeting_connections_max: all,
            greeting_connections_per_address_max: one,
            connections_per_second_max: per_second,
            exempt_addresses: _,
        } = self;
        [
            (*all == Some(0), "greeting_connections_max"),
            (*one == Some(0), "greeting_connections_per_address_max"),
            (*per_second == 0, "connections_per_second_max"),
        ]
        .into_iter()
        .find_map(|(is_zero, name)| is_zero.then_some(name))
    }

    /// Of so many places in all.
    pub(super) fn greeting_max(&self, connections_max: usize) -> usize {
        let usual = (connections_max / GREETING_PART).max(GREETING_LEAST);
        self.greeting_connections_max.unwrap_or(usual)
    }

    /// Of so many places in all, and so many of one address.
    pub(super) fn greeting_per_address(&self, connections_max: usize, of_one: usize) -> usize {
        let part = self.greeting_max(connections_max) / GREETING_PART;
        let most = (of_one / GREETING_PART).max(1);
        let usual = part.max(GREETING_LEAST_OF_ONE).min(most);
        self.greeting_connections_per_address_max.unwrap_or(usual)
    }
}

/// One in so many of all connections may have said no hello, and one in so many of those be from one address.
const GREETING_PART: usize = 4;
/// Of few connections this many may have said no hello all the same, and of one address so many.
const GREETING_LEAST: usize = 16;
const GREETING_LEAST_OF_ONE: usize = 4;
