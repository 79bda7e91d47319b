use std::{net::Ipv4Addr, process, sync::atomic::Ordering::Relaxed};

use super::{COUNT, Figures, Host, Shape, Unavailable, carrier::Carrier};

/// Any number of hosts that all reach each other, each way between two of them of a shape of its own.
/// What runs on the hosts goes on without a network when it is dropped.
pub struct Switch {
    hosts: Vec<Host>,
    carrier: Carrier,
    shape: Shape,
}

impl Switch {
    /// Makes so many hosts, at most [`HOSTS_MAX`](Self::HOSTS_MAX); `shape` is that of all ways. Which packets
    /// are lost follows from `seed`, but for which packets there are.
    ///
    /// # Errors
    /// [`Unavailable`] without the rights or tools (`ip`) for it, or where the kernel has none.
    ///
    /// # Panics
    /// For more hosts than there may be.
    pub fn new(count: usize, shape: Shape, seed: u64) -> Result<Self, Unavailable> {
        assert!(count <= Self::HOSTS_MAX, "{count} hosts; {} at most", Self::HOSTS_MAX);
        let name = format!("{}-{}", process::id(), COUNT.fetch_add(1, Relaxed));
        let mut hosts = Vec::new();
        let mut devices = Vec::new();
        for index in 0..count {
            let address = Ipv4Addr::new(10, 78, 0, FIRST + index as u8);
            let host =
                Host::new(&format!("ltq-{index}-{name}"), &format!("l{index}x{name}"), address)?;
            devices.push(host.device()?);
            hosts.push(host);
        }
        let carrier = Carrier::start(devices, shape, seed, route)?;
        Ok(Self { hosts, carrier, shape })
    }

    /// The most hosts.
    pub const HOSTS_MAX: usize = 64;

    /// A host, by its number from 0.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// The way from one host to another is so from now on; what is on it comes as it would have.
    pub fn reshape(&self, from: usize, to: usize, shape: Shape) {
        self.carrier.reshape_way(from, to, shape);
    }

    /// All ways are as they were at first.
    pub fn heal(&self) {
        self.carrier.reshape(self.shape);
    }

    /// What went from one host to another.
    #[must_use]
    pub fn figures(&self, from: usize, to: usize) -> Figures {
        self.carrier.figures(from, to)
    }
}

/// By the last number of the address that an IPv4 packet is for.
fn route(_from: usize, packet: &[u8]) -> Option<usize> {
    let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let last = *packet.get(19).filter(|_| is_ipv4)?;
    last.checked_sub(FIRST).map(usize::from)
}

/// The last number of the first host's address.
const FIRST: u8 = 1;
