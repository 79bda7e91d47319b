//! What can be set on a TCP connection.

use std::{io, time::Duration};

use socket2::{Socket, TcpKeepalive};

/// How [`Tcp`](crate::Tcp) sets its sockets up.
///
/// The operating system checks the values: one that it does not take fails
/// [`listen`](ltq_core::Transport::listen) and [`connect`](ltq_core::Transport::connect).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// How a peer is found out that vanished without a word, its power lost or its cable cut,
    /// while nothing is being sent to it. `None` leaves it to the system, which waits for ever.
    pub keepalive: Option<Keepalive>,
    /// Connections that may wait to be accepted. The system may cap it lower
    /// (`net.core.somaxconn` on Linux). Default 4,096.
    pub backlog: u32,
}

/// Probes on a silent connection. It is given up after `idle + probes * interval`: 60 s with the
/// defaults. Linux takes whole seconds, at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe. Default 30 s.
    pub idle: Duration,
    /// Between probes. Default 10 s.
    pub interval: Duration,
    /// Probes without an answer before the connection is cut. Default 3; on Linux at most 127.
    pub probes: u32,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { keepalive: Some(Keepalive::default()), backlog: 4096 }
    }
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30), interval: Duration::from_secs(10), probes: 3 }
    }
}

impl TcpOptions {
    pub(super) fn apply(&self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        match &self.keepalive {
            None => Ok(()),
            Some(Keepalive { idle, interval, probes }) => socket.set_tcp_keepalive(
                &TcpKeepalive::new()
                    .with_time(*idle)
                    .with_interval(*interval)
                    .with_retries(*probes),
            ),
        }
    }
}
