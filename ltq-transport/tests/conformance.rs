//! Every transport of this crate passes the suite.

use ltq_core::Address;
use ltq_transport::{InProcess, conformance::Harness};

fn in_process() -> Address {
    Address::new("in-process", "conformance")
}

mod in_process_links {
    use super::*;

    ltq_transport::conformance_tests!(
        Harness::new(InProcess::new(), in_process)
            .buffered_bytes_max(256 << 10)
            .malformed(Address::new("in-process", ""))
    );
}

mod in_process_links_of_many_streams {
    use super::*;

    ltq_transport::conformance_tests!(
        Harness::new(InProcess::multiplexed(), in_process)
            .buffered_bytes_max(256 << 10)
            .streams_max(1024)
            .malformed(Address::new("in-process", ""))
    );
}

#[cfg(feature = "tcp")]
mod tcp {
    use ltq_transport::{Tcp, Transports};

    use super::*;

    fn harness(listen: &'static str) -> Harness {
        Harness::new(Tcp::default(), move || Address::new("tcp", listen))
            .malformed(Address::new("tcp", "no port"))
            .malformed(Address::new("tcp", "::1:7440"))
            .unknown_host(Address::new("tcp", "no-such-host.invalid:7440"))
    }

    mod ipv4 {
        ltq_transport::conformance_tests!(super::harness("127.0.0.1:0"));
    }

    mod ipv6 {
        ltq_transport::conformance_tests!(super::harness("[::1]:0"));
    }

    mod in_a_set {
        use super::*;

        ltq_transport::conformance_tests!(Harness::new(
            Transports::new().with(InProcess::new()).with(Tcp::default()),
            || Address::new("tcp", "127.0.0.1:0")
        ));
    }
}

#[cfg(all(unix, feature = "unix"))]
mod unix {
    use std::sync::atomic::{AtomicU64, Ordering};

    use ltq_transport::Unix;

    use super::*;

    fn fresh() -> Address {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ltq-conformance-own-{}-{number}", std::process::id());
        Address::new("unix", std::env::temp_dir().join(name).to_string_lossy())
    }

    ltq_transport::conformance_tests!(
        Harness::new(Unix::default(), fresh)
            .malformed(Address::new("unix", "not/absolute"))
            .malformed(Address::new("unix", "/folder/"))
    );
}

/// A server and a client that trust each other, by certificates both ways.
#[expect(clippy::unwrap_used, reason = "a test that fails panics")]
#[cfg(all(feature = "self-signed", any(feature = "tls", feature = "quic")))]
fn trust() -> (ltq_transport::ServerTrust, ltq_transport::ClientTrust) {
    use ltq_transport::{ClientTrust, Pem, ServerTrust, self_signed};

    let made = self_signed(&["localhost", "127.0.0.1", "::1"]).unwrap();
    let (certificate, key) = (Pem::text(made.certificate), Pem::text(made.key));
    let server = ServerTrust::mutual(certificate.clone(), key.clone(), certificate.clone());
    let client = ClientTrust::authorities(certificate.clone()).unwrap();
    (server.unwrap(), client.with_certificate(certificate, key).unwrap())
}

/// Two hundred handshakes at once are much work for a debug build on a machine that others use too.
#[cfg(all(any(feature = "tls", feature = "quic"), feature = "self-signed"))]
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

#[cfg(all(feature = "tls", feature = "self-signed"))]
mod tls {
    use ltq_transport::{Tls, TlsOptions};

    use super::*;

    fn harness(listen: &'static str) -> Harness {
        let (server, client) = trust();
        let options = TlsOptions { handshake_timeout: PATIENCE, ..TlsOptions::default() };
        let tls = Tls::new(options).serving(server).trusting(client);
        Harness::new(tls, move || Address::new("tls", listen))
            .patience(PATIENCE)
            .malformed(Address::new("tls", "no port"))
            .unknown_host(Address::new("tls", "no-such-host.invalid:7440"))
    }

    mod ipv4 {
        ltq_transport::conformance_tests!(super::harness("127.0.0.1:0"));
    }

    mod ipv6 {
        ltq_transport::conformance_tests!(super::harness("[::1]:0"));
    }
}

#[cfg(all(feature = "quic", feature = "self-signed"))]
mod quic {
    use ltq_transport::{Quic, QuicOptions};

    use super::*;

    fn harness(listen: &'static str) -> Harness {
        let (server, client) = trust();
        let options = QuicOptions {
            handshake_timeout: PATIENCE,
            unaccepted_streams_max: 1024,
            ..QuicOptions::default()
        };
        let quic = Quic::new(options).serving(server).trusting(client);
        Harness::new(quic, move || Address::new("quic", listen))
            .patience(PATIENCE)
            .buffered_bytes_max(2 << 20)
            .streams_max(1024)
            .malformed(Address::new("quic", "no port"))
            .unknown_host(Address::new("quic", "no-such-host.invalid:7440"))
    }

    mod ipv4 {
        ltq_transport::conformance_tests!(super::harness("127.0.0.1:0"));
    }

    mod ipv6 {
        ltq_transport::conformance_tests!(super::harness("[::1]:0"));
    }
}

/// A transport as an outsider would write it, on what `from_async_io` and `OneStream` give.
#[cfg(unix)]
mod unix_sockets_by_an_outsider {
    use std::{
        fs,
        path::{Path, PathBuf},
        process,
        sync::atomic::{AtomicU64, Ordering},
    };

    use async_trait::async_trait;
    use ltq_core::{Connection, Listener, Peer, Transport, TransportError};
    use ltq_transport::{OneStream, from_async_io};
    use tokio::{
        io::BufWriter,
        net::{UnixListener, UnixStream},
    };

    use super::*;

    struct Unix;

    struct Accepting {
        listener: UnixListener,
        path: PathBuf,
    }

    fn path_of(address: &Address) -> Result<PathBuf, TransportError> {
        let path = PathBuf::from(address.rest());
        if address.scheme() == "unix" && path.is_absolute() {
            return Ok(path);
        }
        let why = "it looks like unix:///PATH".to_owned();
        Err(TransportError::Address { address: address.clone(), why })
    }

    fn peer(path: &Path) -> Peer {
        Peer { address: Address::new("unix", path.to_string_lossy()), identity: None }
    }

    fn stream(socket: UnixStream) -> ltq_core::Stream {
        let (reader, writer) = socket.into_split();
        // A writer that keeps bytes back is the harder case.
        from_async_io(reader, BufWriter::with_capacity(100_000, writer))
    }

    #[async_trait]
    impl Transport for Unix {
        fn scheme(&self) -> &str {
            "unix"
        }

        async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
            let path = path_of(address)?;
            let listener = UnixListener::bind(&path).map_err(|source| TransportError::Io {
                doing: format!("listening on {address}"),
                source,
            })?;
            Ok(Box::new(Accepting { listener, path }))
        }

        async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
            let path = path_of(address)?;
            let connected = UnixStream::connect(&path).await;
            let socket = connected.map_err(|source| TransportError::Io {
                doing: format!("connecting to {address}"),
                source,
            })?;
            Ok(Box::new(OneStream::connecting(peer(&path), stream(socket))))
        }
    }

    #[async_trait]
    impl Listener for Accepting {
        async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
            let accepted = self.listener.accept().await;
            let (socket, _) = accepted
                .map_err(|source| TransportError::Io { doing: "accepting".to_owned(), source })?;
            Ok(Box::new(OneStream::accepting(peer(&self.path), stream(socket))))
        }

        fn local_address(&self) -> Address {
            peer(&self.path).address
        }
    }

    impl Drop for Accepting {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.path);
        }
    }

    fn fresh() -> Address {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ltq-conformance-{}-{number}", process::id());
        Address::new("unix", std::env::temp_dir().join(name).to_string_lossy())
    }

    ltq_transport::conformance_tests!(
        Harness::new(Unix, fresh).malformed(Address::new("unix", "not/absolute"))
    );
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::{sync::Arc, time::Duration};

    use ltq_core::SystemEntropy;
    use ltq_transport::{SimulatedNetwork, Weather};

    use super::*;

    fn harness(weather: Weather, many_streams_one_in: u64) -> Harness {
        let network = SimulatedNetwork::new(Arc::new(SystemEntropy));
        network.set_weather(weather);
        network.set_many_streams(many_streams_one_in);
        Harness::new(network.host("conformance"), || Address::new("sim", "conformance"))
            .malformed(Address::new("tcp", "conformance"))
            .unknown_host(Address::new("sim", "nobody"))
    }

    mod fine_weather {
        use super::*;

        ltq_transport::conformance_tests!(harness(Weather::default(), 0));
    }

    mod many_streams {
        use super::*;

        ltq_transport::conformance_tests!(harness(Weather::default(), 1));
    }

    const SLOW: Weather = Weather {
        delay_min: Duration::ZERO,
        delay_max: Duration::from_millis(2),
        stall_one_in: 500,
        stall_max: Duration::from_millis(50),
        cut_one_in: 0,
        silence_one_in: 0,
        reset_one_in: 0,
        half_close_one_in: 0,
        refuse_one_in: 0,
        hang_one_in: 0,
        pieces: true,
        window: 1 << 20,
    };

    mod slow_and_in_pieces {
        use super::*;

        ltq_transport::conformance_tests!(harness(SLOW, 0));
    }

    mod many_streams_slow_and_in_pieces {
        use super::*;

        ltq_transport::conformance_tests!(harness(SLOW, 1));
    }
}
