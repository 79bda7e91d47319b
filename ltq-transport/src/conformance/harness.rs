//! What the suite has to know of a transport.

use std::{fmt, sync::Arc, time::Duration};

use ltq_core::{Address, Transport};

/// A transport to be tested, and how.
#[derive(Clone)]
pub struct Harness {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) listen_address: Arc<dyn Fn() -> Address + Send + Sync>,
    pub(super) patience: Duration,
    pub(super) buffered_bytes_max: u64,
    pub(super) malformed: Vec<Address>,
    pub(super) unknown_hosts: Vec<Address>,
    pub(super) streams_max: Option<usize>,
    pub(super) seed: u64,
}

impl Harness {
    /// Tests `transport`. `listen_address` says where to listen: each time at a place that is
    /// free, such as port 0. One case listens in one place at a time.
    pub fn new(
        transport: impl Transport,
        listen_address: impl Fn() -> Address + Send + Sync + 'static,
    ) -> Self {
        Self {
            transport: Arc::new(transport),
            listen_address: Arc::new(listen_address),
            patience: Duration::from_secs(10),
            buffered_bytes_max: 64 << 20,
            malformed: Vec::new(),
            unknown_hosts: Vec::new(),
            streams_max: None,
            seed: 0x1c6e_5eed,
        }
    }

    /// How long one wait for one thing may take before the case fails. Default 10 s.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The most that the transport, the path and both ends may hold of one direction of a stream
    /// while nobody reads it. Default 64 MiB, above what operating systems give a TCP connection.
    #[must_use]
    pub const fn buffered_bytes_max(mut self, bytes: u64) -> Self {
        self.buffered_bytes_max = bytes;
        self
    }

    /// Adds an address of the transport's own scheme that it can make nothing of.
    #[must_use]
    pub fn malformed(mut self, address: Address) -> Self {
        self.malformed.push(address);
        self
    }

    /// Adds a proper address at a host that does not exist.
    #[must_use]
    pub fn unknown_host(mut self, address: Address) -> Self {
        self.unknown_hosts.push(address);
        self
    }

    /// How many streams one side of a connection may have open at once, where there is such a
    /// bound. Default: none is known, and the case that tests it is skipped.
    #[must_use]
    pub const fn streams_max(mut self, streams: usize) -> Self {
        self.streams_max = Some(streams);
        self
    }

    /// Seeds the sizes of pieces and the bytes in them; failures depend on it alone. There is a
    /// fixed default.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness")
            .field("scheme", &self.transport.scheme())
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}
