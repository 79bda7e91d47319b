//! What a handshake is not let through with, and how long it may take.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ltq_core::{Address, Transport};
use ltq_transport::{HandshakeFailures, Pem, Quic, QuicOptions, Tls, TlsOptions};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use crate::support::{self, Authority, HERE, Kind, meet, open, within};

fn port_of(address: &Address) -> SocketAddr {
    address.rest().parse().unwrap()
}

/// A client that would resume and send early data if only it could.
fn eager(authority: &Authority) -> ClientConfig {
    let Pem::Text(pem) = authority.pem() else { panic!() };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"ltq/1".to_vec()];
    config.enable_early_data = true;
    config
}

/// A hello of TLS 1.2, which is the last version without `supported_versions` (RFC 5246, 7.4.1.2).
fn hello_of_tls_1_2() -> Vec<u8> {
    let extensions = [
        // supported_groups: x25519, secp256r1
        &[0, 10, 0, 6, 0, 4, 0, 29, 0, 23][..],
        // signature_algorithms: ecdsa_secp256r1_sha256, rsa_pss_rsae_sha256, rsa_pkcs1_sha256
        &[0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1],
    ]
    .concat();
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    // No session; ECDHE_ECDSA and ECDHE_RSA with AES_128_GCM_SHA256; no compression.
    hello.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend((hello.len() as u16).to_be_bytes());
    handshake.extend(hello);
    let mut record = vec![22, 3, 1];
    record.extend((handshake.len() as u16).to_be_bytes());
    record.extend(handshake);
    record
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let authority = Authority::new();
    let server = Tls::default().serving(authority.server());
    let mut listener = server.listen(&Kind::Tls.here()).await.unwrap();
    let address = listener.local_address();
    let accepting = tokio::spawn(async move { listener.accept().await.map(|_| ()) });
    let mut socket = TcpStream::connect(port_of(&address)).await.unwrap();
    socket.write_all(&hello_of_tls_1_2()).await.unwrap();
    let mut answer = Vec::new();
    within(socket.read_to_end(&mut answer)).await.unwrap();
    // An alert, fatal, protocol_version (RFC 8446, 6).
    assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]), "{answer:?}");
    assert!(!accepting.is_finished());
    assert_eq!(server.handshake_failures().refused, 1);
}

#[tokio::test]
async fn promise_10_who_speaks_nothing_of_ours_over_quic_is_counted() {
    let authority = Authority::new();
    let server = Quic::default().serving(authority.server());
    let mut listener = server.listen(&Kind::Quic.here()).await.unwrap();
    let to = port_of(&listener.local_address());
    let mut other = eager(&authority);
    other.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(other).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint =
        quinn::Endpoint::client((HERE.parse::<std::net::IpAddr>().unwrap(), 0).into()).unwrap();
    let connecting = endpoint.connect_with(config, to, HERE).unwrap();
    tokio::select! {
        accepted = listener.accept() => panic!("{} was let in", accepted.unwrap().peer().address),
        refused = within(connecting) => drop(refused.unwrap_err()),
    }
    let refused = HandshakeFailures { refused: 1, ..Default::default() };
    assert_eq!(server.handshake_failures(), refused);
}

#[tokio::test]
async fn nothing_is_resumed_over_tls_and_there_is_no_early_data() {
    let authority = Authority::new();
    let server = Tls::default().serving(authority.server());
    let mut listener = server.listen(&Kind::Tls.here()).await.unwrap();
    let to = port_of(&listener.local_address());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(eager(&authority)));
    for _ in 0..3 {
        let connecting = async {
            let socket = TcpStream::connect(to).await.unwrap();
            connector.connect(HERE.to_owned().try_into().unwrap(), socket).await.unwrap()
        };
        let (stream, accepted) = tokio::join!(within(connecting), within(listener.accept()));
        let mut far = accepted.unwrap().accept_stream().await.unwrap().unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        write.write_all(b"there").await.unwrap();
        assert_eq!(&within(support::recv(&mut far)).await.unwrap()[..], b"there");
        // A ticket would come with the first thing that is received.
        within(support::send(&mut far, b"back")).await.unwrap();
        let mut back = [0; 4];
        within(read.read_exact(&mut back)).await.unwrap();
        let stream = read.unsplit(write);
        let session = stream.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert!(!session.is_early_data_accepted());
    }
}

#[tokio::test]
async fn there_is_no_0_rtt_over_quic() {
    let authority = Authority::new();
    let server = Quic::default().serving(authority.server());
    let mut listener = server.listen(&Kind::Quic.here()).await.unwrap();
    let to = port_of(&listener.local_address());
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(eager(&authority)).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint =
        quinn::Endpoint::client((HERE.parse::<std::net::IpAddr>().unwrap(), 0).into()).unwrap();
    for _ in 0..3 {
        let connecting = endpoint.connect_with(config.clone(), to, HERE).unwrap();
        let connecting = match connecting.into_0rtt() {
            Ok(_) => panic!("something was left to begin with"),
            Err(connecting) => connecting,
        };
        let (near, far) = tokio::join!(within(connecting), within(listener.accept()));
        let (near, far) = (near.unwrap(), far.unwrap());
        let (mut send, mut receive) = near.open_bi().await.unwrap();
        send.write_all(b"there").await.unwrap();
        let mut stream = within(far.accept_stream()).await.unwrap().unwrap();
        within(support::send(&mut stream, b"back")).await.unwrap();
        let mut back = [0; 4];
        within(receive.read_exact(&mut back)).await.unwrap();
    }
}

#[tokio::test]
async fn promise_10_a_handshake_that_takes_too_long_ends() {
    let authority = Authority::new();
    let handshake_timeout = Duration::from_millis(300);
    let timed_out = HandshakeFailures { timed_out: 1, ..Default::default() };

    let options = TlsOptions { handshake_timeout, ..TlsOptions::default() };
    let server = Tls::new(options).serving(authority.server());
    let mut listener = server.listen(&Kind::Tls.here()).await.unwrap();
    let mut silent = TcpStream::connect(port_of(&listener.local_address())).await.unwrap();
    let mut byte = [0];
    tokio::select! {
        accepted = listener.accept() => panic!("{} was let in", accepted.unwrap().peer().address),
        read = within(silent.read(&mut byte)) => assert_eq!(read.unwrap(), 0),
    }
    assert_eq!(server.handshake_failures(), timed_out);
    let (near, far) = meet(&*Kind::Tls.client(authority.client()), &mut listener).await;
    open(&*near, &*far, b"served").await;

    // Of a QUIC client only the first packet arrives.
    let options = QuicOptions { handshake_timeout, ..QuicOptions::default() };
    let server = Quic::new(options).serving(authority.server());
    let mut listener = server.listen(&Kind::Quic.here()).await.unwrap();
    let to = port_of(&listener.local_address());
    let between = UdpSocket::bind((HERE, 0)).await.unwrap();
    let address = Address::new("quic", between.local_addr().unwrap().to_string());
    let client = Kind::Quic.client(authority.client());
    let silent = tokio::spawn(async move { client.connect(&address).await.map(|_| ()) });
    let mut packet = [0; 2048];
    let (length, _) = within(between.recv_from(&mut packet)).await.unwrap();
    between.send_to(&packet[..length], to).await.unwrap();
    let ended = async {
        while server.handshake_failures() != timed_out {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        accepted = listener.accept() => panic!("{} was let in", accepted.unwrap().peer().address),
        () = within(ended) => {}
    }
    silent.abort();
    let (near, far) = meet(&*Kind::Quic.client(authority.client()), &mut listener).await;
    open(&*near, &*far, b"served").await;
}
