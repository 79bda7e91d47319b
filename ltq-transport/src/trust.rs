//! Who proves to be whom: certificates, keys and what is trusted, for TLS and QUIC alike.

mod client;
mod dates;
mod error;
mod fingerprint;
mod names;
mod pem;
mod reload;
#[cfg(feature = "self-signed")]
mod self_signed;
mod server;

use std::sync::Arc;

use ltq_core::{Address, TransportError};
use rustls::{crypto::CryptoProvider, pki_types::ServerName, version::TLS13};

use crate::host_port::HostPort;

pub use client::ClientTrust;
pub use error::TrustError;
pub use fingerprint::Fingerprint;
pub(crate) use names::identity_of;
pub use pem::Pem;
pub use reload::Reloads;
#[cfg(feature = "self-signed")]
pub use self_signed::{SelfSigned, self_signed};
pub use server::ServerTrust;

/// What both sides say that they speak, so that a port of another protocol, or a peer of another
/// major version of this one, is told apart in the handshake already. The number is the hello's
/// major version.
pub(crate) const ALPN: &[u8] = b"ltq/1";

/// What the server's certificate has to say: the host as the address names it.
pub(crate) fn server_name(
    address: &Address,
    host_port: HostPort<'_>,
) -> Result<ServerName<'static>, TransportError> {
    let (host, _zone) = host_port.host.split_once('%').unwrap_or((host_port.host, ""));
    ServerName::try_from(host.to_owned()).map_err(|error| TransportError::Address {
        address: address.clone(),
        why: format!("no certificate can name its host: {error}"),
    })
}

/// Always this one: a process may have another default, or two of them and hence none.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Nothing older: there is no peer of LTQ that would need it.
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&TLS13];

#[cfg(test)]
mod tests;
