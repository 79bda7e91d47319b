//! A bad network for real programs: two hosts of their own on this machine, and a line between them
//! that delays, loses, reorders, is narrow or is down, for TCP and QUIC alike.
//!
//! Each host is a network namespace of Linux with a TUN device in it; what the kernel of one sends
//! there is read here, spends its time in a [`Pipe`], and is given to the kernel of the other.
//! Namespaces and TUN devices need root; where there is none of it, [`BadNetwork::new`] says why.

mod carrier;
mod host;
mod near;
mod pipe;
mod shape;
mod switch;

pub use host::Host;
pub use pipe::{Figures, Pipe};
pub use shape::Shape;
pub use switch::Switch;

use std::{
    io,
    net::Ipv4Addr,
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use thiserror::Error;

use self::carrier::Carrier;
use crate::{require, skipped};

/// Two hosts and the line between them, until it is dropped. What runs on the hosts then goes on
/// without a network.
pub struct BadNetwork {
    near: Host,
    far: Host,
    carrier: Carrier,
}

/// There can be no such network here.
#[derive(Debug, Error)]
#[error("no network of one's own on this machine: {doing}: {source}")]
pub struct Unavailable {
    doing: String,
    source: io::Error,
}

impl Unavailable {
    fn new(doing: impl Into<String>, source: io::Error) -> Self {
        Self { doing: doing.into(), source }
    }
}

impl BadNetwork {
    /// Makes two hosts and joins them; `shape` is that of both ways. Which packets are lost follows
    /// from `seed`, but for which packets there are.
    ///
    /// # Errors
    /// [`Unavailable`] without the rights or tools (`ip`) for it, or where the kernel has none.
    pub fn new(shape: Shape, seed: u64) -> Result<Self, Unavailable> {
        let name = format!("{}-{}", process::id(), COUNT.fetch_add(1, Relaxed));
        let near = Host::new(&format!("ltq-near-{name}"), &format!("ltqn{name}"), NEAR)?;
        let far = Host::new(&format!("ltq-far-{name}"), &format!("ltqf{name}"), FAR)?;
        let carrier = Carrier::start(vec![near.device()?, far.device()?], shape, seed, other)?;
        Ok(Self { near, far, carrier })
    }

    /// As [`new`](Self::new), or `None` and a word on standard error why there is none, past the capture of what
    /// tests print.
    ///
    /// # Panics
    /// There is none, and the variable `REQUIRE_NAMESPACES` is set.
    #[must_use]
    pub fn or_skip(shape: Shape, seed: u64) -> Option<Self> {
        match Self::new(shape, seed) {
            Ok(network) => Some(network),
            Err(unavailable) => {
                skipped(require::NAMESPACES, "a bad network", &unavailable);
                None
            }
        }
    }

    /// Where clients are.
    #[must_use]
    pub const fn near(&self) -> &Host {
        &self.near
    }

    /// Where the broker is.
    #[must_use]
    pub const fn far(&self) -> &Host {
        &self.far
    }

    /// The line is so from now on, both ways; what is on its way comes as it would have.
    pub fn reshape(&self, shape: Shape) {
        self.carrier.reshape(shape);
    }

    /// The near host has another address, and its old one no more.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn change_address(&mut self) -> Result<Ipv4Addr, Unavailable> {
        let [a, b, c, d] = self.near.address().octets();
        // Not one that it had: connections from there would go on.
        let other = Ipv4Addr::new(a, b, c, if d < ADDRESS_MAX { d + 1 } else { ADDRESS_MIN });
        self.near.readdress(other)?;
        Ok(other)
    }

    /// The near host has every address of this network besides its own, `10.80.0.0/18` say, for whoever binds to
    /// one of them; the far one answers there.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn give_near(&self, network: &str) -> Result<(), Unavailable> {
        self.near.own(network)?;
        self.far.send_out(network)
    }

    /// By what TCP judges on both hosts how fast it may send, for connections from now on: `cubic`,
    /// say, or `bbr`, as far as the kernel has it.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn set_tcp_congestion(&mut self, control: &str) -> Result<(), Unavailable> {
        self.near.set_tcp_congestion(control)?;
        self.far.set_tcp_congestion(control)
    }

    /// What went from the near host to the far one, and back.
    #[must_use]
    pub fn figures(&self) -> [Figures; 2] {
        [self.carrier.figures(0, 1), self.carrier.figures(1, 0)]
    }
}

/// There is one other end.
fn other(from: usize, _packet: &[u8]) -> Option<usize> {
    Some(1 - from.min(1))
}

static COUNT: AtomicU32 = AtomicU32::new(0);

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, ADDRESS_MIN);
/// The last numbers of the addresses that it may have.
const ADDRESS_MIN: u8 = 2;
const ADDRESS_MAX: u8 = 250;
const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
