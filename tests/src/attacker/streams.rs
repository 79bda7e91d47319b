//! What only a connection of many streams makes possible.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ltq_core::protocol::Frame;
use quinn::{VarInt, crypto::rustls::QuicClientConfig};
use rand::RngExt;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::time::{sleep, timeout};

use super::{Assault, Failed, MEETING, socket_address, words};
use crate::bytes_of;

/// A QUIC client that does with its connections as it likes.
pub(super) struct Endpoint(quinn::Endpoint);

impl Endpoint {
    /// One that trusts this certificate alone, from an address of its host's. Its connections are lost after so long a
    /// silence.
    pub(super) fn new(certificate: &str, from: Ipv4Addr, idle: Duration) -> io::Result<Self> {
        let certificate =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(io::Error::other)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"ltq/1".to_vec()];
        let tls = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        let mut transport = quinn::TransportConfig::default();
        let idle = idle.try_into().map_err(io::Error::other)?;
        transport.max_idle_timeout(Some(idle)).datagram_send_buffer_size(1 << 20);
        config.transport_config(Arc::new(transport));
        let mut endpoint = quinn::Endpoint::client((from, 0).into())?;
        endpoint.set_default_client_config(config);
        Ok(Self(endpoint))
    }

    /// Begins a handshake.
    pub(super) fn begin(&self, address: SocketAddr) -> io::Result<quinn::Connecting> {
        self.0.connect(address, "localhost").map_err(io::Error::other)
    }

    pub(super) async fn connect(&self, address: SocketAddr) -> Result<quinn::Connection, Failed> {
        let connecting = self.begin(address).map_err(|_| Failed::Unmet)?;
        let connected = timeout(MEETING, connecting).await.map_err(|_| Failed::Unmet)?;
        connected.map_err(|_| Failed::Unmet)
    }
}

impl Assault<'_> {
    pub(super) async fn many_streams(&mut self) -> Result<(), Failed> {
        let connection = self.connection().await?;
        let mut left = Vec::new();
        for _ in 0..self.chance.random_range(12..100) {
            let opened = timeout(MOMENT, connection.open_bi()).await;
            let Ok(Ok((mut send, recv))) = opened else { break };
            let bytes = match self.chance.random_range(0..4) {
                0 => Vec::new(),
                1 => bytes_of(&Frame::Hello(words::hello())),
                2 => {
                    let mut bytes = words::conversation(&mut self.chance);
                    bytes.truncate(self.chance.random_range(0..bytes.len()));
                    bytes
                }
                _ => words::noise(&mut self.chance, 100),
            };
            let _ = timeout(MOMENT, send.write_all(&bytes)).await;
            left.push((send, recv));
        }
        sleep(self.a_while()).await;
        if self.chance.random() {
            connection.close(VarInt::from_u32(self.chance.random()), b"that was it");
        }
        Ok(())
    }

    pub(super) async fn stream_churn(&mut self) -> Result<(), Failed> {
        let connection = self.connection().await?;
        for _ in 0..self.chance.random_range(50..300) {
            let opened = timeout(MOMENT, connection.open_bi()).await;
            let Ok(Ok((mut send, recv))) = opened else { break };
            let _ = timeout(MOMENT, send.write_all(&bytes_of(&Frame::Hello(words::hello())))).await;
            if self.chance.random() {
                let _ = send.finish();
            } else {
                let _ = send.reset(VarInt::from_u32(1));
            }
            drop(recv);
        }
        Ok(())
    }

    pub(super) async fn reset_streams(&mut self) -> Result<(), Failed> {
        let connection = self.connection().await?;
        for _ in 0..self.chance.random_range(1..10) {
            let opened = timeout(MOMENT, connection.open_bi()).await;
            let Ok(Ok((mut send, mut recv))) = opened else { break };
            let bytes = words::conversation(&mut self.chance);
            let part = &bytes[..self.chance.random_range(0..=bytes.len())];
            let _ = timeout(MOMENT, send.write_all(part)).await;
            let code = VarInt::from_u32(self.chance.random());
            match self.chance.random_range(0..4) {
                0 => drop(send.reset(code)),
                1 => drop(recv.stop(code)),
                2 => {
                    let _ = (send.reset(code), recv.stop(code));
                }
                _ => {
                    let mut buffer = [0; 512];
                    let _ = timeout(self.a_moment(), recv.read(&mut buffer)).await;
                    let _ = recv.stop(code);
                }
            }
        }
        Ok(())
    }

    pub(super) async fn one_way(&mut self) -> Result<(), Failed> {
        let connection = self.connection().await?;
        let bytes = words::conversation(&mut self.chance);
        if let Ok(Ok(_)) = timeout(self.a_moment(), connection.open_uni()).await {
            return Err(Failed::Fault("a stream of one direction was allowed".to_owned()));
        }
        if connection.send_datagram(bytes.into()).is_ok() {
            return Err(Failed::Fault("a datagram was allowed".to_owned()));
        }
        // The node opens none of either kind.
        let opened = async {
            tokio::select! {
                Ok(_) = connection.accept_bi() => true,
                Ok(_) = connection.accept_uni() => true,
                else => false,
            }
        };
        match timeout(self.a_moment(), opened).await {
            Ok(true) => Err(Failed::Fault("the node opened a stream".to_owned())),
            _ => Ok(()),
        }
    }

    /// A connection without a stream.
    async fn connection(&self) -> Result<quinn::Connection, Failed> {
        self.attacker.quic.connect(socket_address(&self.attacker.target.quic)).await
    }
}

/// For what goes at once, unless the node holds it up.
const MOMENT: Duration = Duration::from_millis(500);
