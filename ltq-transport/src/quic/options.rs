//! What can be set on a QUIC connection.

use std::{sync::Arc, time::Duration};

use ltq_core::Networks;
use quinn::{
    TransportConfig, VarInt,
    congestion::{BbrConfig, ControllerFactory, CubicConfig},
};

use super::windows::{STREAMS_AT_FULL, WINDOW_MIN, Wanted};

/// How [`Quic`](crate::Quic) connects and listens.
///
/// Memory: a connection holds up to `connection_window` of what it received and nobody has read, and up to
/// `send_window` of what it sent and the peer has not acknowledged. As quinn keeps packets whole that are in part of
/// use, the first comes to two and a half times as much at worst, and 32 KiB for each stream. On the accepting side
/// both are 64 KiB until its peer has been welcomed, and all connections together have `windows_bytes_max`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicOptions {
    /// A connection whose peer is silent for so long is lost. The shorter one of the two sides
    /// counts; at least 1 ms. Default 15 s: long enough for a path that fails over to another, and
    /// short enough that what a vanished peer held is soon given to others. UDP has nothing like
    /// TCP's reset by which the loss would show earlier.
    pub idle_timeout: Duration,
    /// How often a side that has nothing to send shows that it is there; `None` leaves that to the
    /// peer, and to the heartbeats of what runs above. It has to be well below `idle_timeout`.
    /// Default 4 s: three of them may be lost.
    pub keep_alive: Option<Duration>,
    /// How many streams each side may have opened and not yet ended at once, both directions of
    /// them; at least 1. Who opens one more waits. Default 1,024.
    pub streams_max: u32,
    /// How many of them the peer of an accepted connection may have opened before
    /// [`welcomed`](ltq_core::Connection::welcomed) is said of it; at least 1. Default 4.
    pub unwelcomed_streams_max: u32,
    /// How many it may have opened after that and nobody has accepted; at least 1. It gets more as those are
    /// accepted. With smaller windows than are set up it has fewer, down to `unwelcomed_streams_max`. Default 16.
    pub unaccepted_streams_max: u32,
    /// What a stream takes in, in bytes, before it is read, and a quarter of what its connection does at most:
    /// three that nobody reads stop no other. Default 1 MiB: a round trip of 10 ms at 800 Mbit/s.
    pub stream_window: u32,
    /// What all streams of a connection together take in before they are read. Default 16 MiB: 15
    /// stalled streams leave the others going at full speed. A connection that was accepted takes in
    /// 64 KiB until [`welcomed`](ltq_core::Connection::welcomed) is said of its peer.
    pub connection_window: u32,
    /// What all streams of a connection together may have sent that the peer has not acknowledged.
    /// Default 16 MiB.
    pub send_window: u32,
    /// What all accepted connections can be made to hold by their windows, both ways, and by their streams, but for
    /// 64 KiB each way and `unwelcomed_streams_max` streams that every connection has. One that is welcomed while
    /// little is left gets windows of an eighth of that each way. Default 512 MiB: seven connections have windows of
    /// 16 MiB, and some ten after them more than 64 KiB.
    pub windows_bytes_max: u64,
    /// What of it the connections of one address have at most, this machine's own aside. Default `None`: a
    /// quarter.
    pub windows_bytes_per_address_max: Option<u64>,
    /// By what this side judges how fast the path takes what it sends. Default
    /// [`Congestion::Bbr`].
    pub congestion: Congestion,
    /// Whether the kernel is given many packets at once where it can cut them up itself (GSO): half of the
    /// processor time of a busy connection. A network card or tunnel whose driver fails at it loses packets of
    /// such runs; quinn finds out where sending is refused, and nobody where they are lost on the way. Default
    /// `true`.
    pub segmentation_offload: bool,
    /// How long each side waits for the other's handshake. To connect needs a limit of its own:
    /// no answer is all that a host says on which nobody listens. Default 5 s.
    pub handshake_timeout: Duration,
    /// How many handshakes a listener has under way and finished but not accepted, at most; at
    /// least 1. Beyond it a client has to prove first that its address is its own, by answering a
    /// retry, and then takes the place of the oldest that has had a second. Default 256.
    pub handshakes_max: usize,
    /// How many of them one address has at most, this machine's own aside, by the same rule; at least 1.
    /// Default `None`: a quarter of them.
    pub handshakes_per_address_max: Option<usize>,
    /// How many handshakes begin in a second from one address, this machine's own aside; ten times as many may at once.
    /// From half of that on a
    /// client has to prove first that its address is its own, and one more is not answered, so that it tries again. At least 1; default 200.
    pub handshakes_per_second_max: u32,
    /// Of how many addresses, and of how many sites, a listener remembers how many handshakes they began of late; at
    /// least 1. Default 4,096.
    pub addresses_known_max: usize,
    /// Addresses that no limit by address counts, such as those of a proxy. Default: none.
    pub exempt_addresses: Networks,
}

impl Default for QuicOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(15),
            keep_alive: Some(Duration::from_secs(4)),
            streams_max: 1024,
            unwelcomed_streams_max: 4,
            unaccepted_streams_max: 16,
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            send_window: 16 << 20,
            windows_bytes_max: 512 << 20,
            windows_bytes_per_address_max: None,
            congestion: Congestion::default(),
            segmentation_offload: true,
            handshake_timeout: Duration::from_secs(5),
            handshakes_max: 256,
            handshakes_per_address_max: None,
            handshakes_per_second_max: 200,
            addresses_known_max: 4_096,
            exempt_addresses: Networks::default(),
        }
    }
}

impl QuicOptions {
    /// Of a client.
    pub(super) fn connecting(&self) -> Arc<TransportConfig> {
        Arc::new(self.transport())
    }

    /// What an accepted connection would have.
    pub(super) fn wanted(&self) -> Wanted {
        let streams = |max: u32| max.min(self.streams_max).max(1);
        Wanted {
            receive: self.connection_window,
            send: self.send_window,
            stream: self.stream_window.min(self.connection_window / STREAMS_AT_FULL),
            streams: streams(self.unaccepted_streams_max),
            streams_least: streams(self.unwelcomed_streams_max),
        }
    }

    /// Of a server, until its peer is welcomed. What a stream takes in stays as it is.
    pub(super) fn accepting(&self, stream_window: u32) -> Arc<TransportConfig> {
        let mut config = self.transport();
        let streams = self.unwelcomed_streams_max.min(self.streams_max).max(1);
        config
            .max_concurrent_bidi_streams(VarInt::from_u32(streams))
            .stream_receive_window(VarInt::from_u32(stream_window))
            .receive_window(VarInt::from_u32(self.connection_window.min(WINDOW_MIN)))
            .send_window(self.send_window.min(WINDOW_MIN).into());
        Arc::new(config)
    }

    fn transport(&self) -> TransportConfig {
        let idle = u32::try_from(self.idle_timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        let mut config = TransportConfig::default();
        config
            .max_idle_timeout(Some(VarInt::from_u32(idle).into()))
            .keep_alive_interval(self.keep_alive)
            .max_concurrent_bidi_streams(VarInt::from_u32(self.streams_max.max(1)))
            // Nothing of LTQ's goes one way only, or may be lost.
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.connection_window))
            .send_window(self.send_window.into())
            .enable_segmentation_offload(self.segmentation_offload)
            .congestion_controller_factory(self.congestion.factory());
        config
    }
}

/// By what a sender judges how fast a path takes what it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Congestion {
    /// By how much arrives in how much time (BBR, as `draft-cardwell-iccrg-bbr-congestion-control`
    /// has it): goes on at full speed where packets are lost for other reasons than that the path
    /// is full, as they are over the air. quinn calls its own experimental.
    #[default]
    Bbr,
    /// By what is lost (CUBIC, RFC 9438): each loss is taken for a path that is full. Shares a full
    /// path evenly with TCP as most systems have it.
    Cubic,
}

impl Congestion {
    fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Bbr => Arc::new(BbrConfig::default()),
            Self::Cubic => Arc::new(CubicConfig::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What quinn makes of it cannot be seen but in its own words.
    #[test]
    fn packets_are_cut_up_by_the_kernel_unless_told_otherwise() {
        for (segmentation_offload, found) in [(true, true), (false, false)] {
            let options = QuicOptions { segmentation_offload, ..QuicOptions::default() };
            let words = format!("enable_segmentation_offload: {found}");
            for config in [options.connecting(), options.accepting(1)] {
                let config = format!("{config:?}");
                assert!(config.contains(&words), "{words} in {config}");
            }
        }
        assert!(QuicOptions::default().segmentation_offload);
    }
}
