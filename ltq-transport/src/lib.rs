//! What carries LTQ's bytes: [`InProcess`] links, [`Tcp`], and what a transport of your own needs.
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
mod in_process;
mod one_stream;
mod room;
#[cfg(feature = "simulation")]
mod simulated;
#[cfg(feature = "tcp")]
mod tcp;
mod transports;

pub use async_io::from_async_io;
pub use in_process::InProcess;
pub use one_stream::OneStream;
#[cfg(feature = "simulation")]
pub use simulated::{SimulatedHost, SimulatedNetwork, Weather};
#[cfg(feature = "tcp")]
pub use tcp::{Keepalive, Tcp, TcpOptions};
pub use transports::Transports;
