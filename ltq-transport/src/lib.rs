//! What carries LTQ's bytes: [`InProcess`] links, TCP, TLS, Unix sockets, QUIC, and what a
//! transport of your own needs.
//!
//! | transport | addresses | feature | streams in a connection |
//! |---|---|---|---|
//! | [`InProcess`] | `in-process://NAME` | always there | one, or many |
//! | `Tcp` | `tcp://HOST:PORT` | `tcp`, on by default | one |
//! | `Unix` | `unix:///PATH` | `unix`, on by default | one |
//! | `Tls` | `tls://HOST:PORT` | `tls` | one |
//! | `Quic` | `quic://HOST:PORT` | `quic` | many |
//!
//! Every one of them keeps the contract of [`ltq_core::Transport`], and the suite in
//! `conformance` (the feature of that name) tests that they do. [`Transports`] puts several
//! together and picks one by an address's scheme. A transport whose streams are
//! [`AsyncRead`](tokio::io::AsyncRead) and [`AsyncWrite`](tokio::io::AsyncWrite) becomes one of
//! LTQ's with [`from_async_io`] and [`OneStream`].
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ltq_core::TransportError> {
//! use ltq_core::{Address, Transport};
//! use ltq_transport::{InProcess, Transports};
//!
//! let transports = Transports::new().with(InProcess::new());
//! let address = Address::new("in-process", "broker");
//! let mut listener = transports.listen(&address).await?;
//! let near = transports.connect(&address).await?;
//! let far = listener.accept().await?;
//! assert_eq!(near.peer().address, address);
//! # let _ = far; Ok(()) }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod async_io;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(any(feature = "tcp", feature = "quic"))]
mod first_of;
#[cfg(any(feature = "tls", feature = "quic"))]
mod handshakes;
#[cfg(any(feature = "tcp", feature = "quic"))]
mod host_port;
mod in_process;
mod one_stream;
#[cfg(feature = "quic")]
mod quic;
mod room;
#[cfg(feature = "simulation")]
mod simulated;
#[cfg(any(feature = "tcp", all(unix, feature = "unix")))]
mod socket;
#[cfg(feature = "tcp")]
mod tcp;
#[cfg(feature = "tls")]
mod tls;
mod transports;
#[cfg(any(feature = "tls", feature = "quic"))]
mod trust;
#[cfg(all(unix, feature = "unix"))]
mod unix;

pub use async_io::from_async_io;
#[cfg(any(feature = "tls", feature = "quic"))]
pub use handshakes::HandshakeFailures;
pub use in_process::InProcess;
pub use one_stream::OneStream;
#[cfg(feature = "quic")]
pub use quic::{Congestion, Quic, QuicOptions};
#[cfg(feature = "simulation")]
pub use simulated::{Route, SimulatedHost, SimulatedNetwork, Weather};
#[cfg(feature = "tcp")]
pub use tcp::{Keepalive, Tcp, TcpOptions};
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsOptions};
pub use transports::Transports;
#[cfg(any(feature = "tls", feature = "quic"))]
pub use trust::{ClientTrust, Fingerprint, Pem, Reloads, ServerTrust, TrustError};
#[cfg(all(feature = "self-signed", any(feature = "tls", feature = "quic")))]
pub use trust::{SelfSigned, self_signed};
#[cfg(all(unix, feature = "unix"))]
pub use unix::{Unix, UnixOptions};
