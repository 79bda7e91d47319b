//! What TLS and QUIC keep off, let in, and keep to themselves.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

#[cfg(test)]
mod handshakes;
#[cfg(test)]
mod quic;
#[cfg(test)]
mod support;
#[cfg(test)]
mod windows;

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use ltq_core::{Address, Transport};
use ltq_transport::{ClientTrust, Fingerprint, Pem, Quic, ServerTrust, Tcp, Tls, TlsOptions};
use support::{Authority, HERE, KINDS, Kind, echo, meet, open, recv, refused, send, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

#[tokio::test]
async fn a_server_that_is_not_the_one_meant_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let known = authority.signs(HERE);
    let expired = authority.signs_until(HERE, 2001);
    let elsewhere = authority.signs("elsewhere.example");
    let fingerprint = |pair: &support::Pair| {
        ClientTrust::fingerprint(Fingerprint::of(&pair.certificate()).unwrap()).unwrap()
    };
    for kind in KINDS {
        for (server, client, why) in [
            (&known, fingerprint(&elsewhere), "another fingerprint"),
            (&known, other.client(), "another authority"),
            (&expired, authority.client(), "expired"),
            (&elsewhere, authority.client(), "another host"),
        ] {
            let trust = ServerTrust::new(server.certificate(), server.key()).unwrap();
            let mut listener = kind.server(trust).listen(&kind.here()).await.unwrap();
            let said = refused(&*kind.client(client), &mut listener).await;
            assert!(said.contains("connecting to"), "{kind:?}, {why}: {said}");
            // The listener is there for those that trust it.
            let (near, far) = meet(&*kind.client(fingerprint(server)), &mut listener).await;
            let proved = Fingerprint::of(&server.certificate()).unwrap().to_string();
            assert_eq!(near.peer().identity, Some(proved), "{kind:?}");
            open(&*near, &*far, b"welcome").await;
        }
        let trust = ServerTrust::new(known.certificate(), known.key()).unwrap();
        let mut listener = kind.server(trust).listen(&kind.here()).await.unwrap();
        let (near, far) = meet(&*kind.client(authority.client()), &mut listener).await;
        assert_eq!(near.peer().identity.as_deref(), Some(HERE));
        assert_eq!(far.peer().identity, None);
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_that_counts_is_refused_and_one_with_it_is_known() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.signs(HERE);
    let (alice, stranger) = (authority.signs("alice"), other.signs("alice"));
    let expired = authority.signs_until("alice", 2001);
    for kind in KINDS {
        let trust =
            ServerTrust::mutual(server.certificate(), server.key(), authority.pem()).unwrap();
        let mut listener = kind.server(trust).listen(&kind.here()).await.unwrap();
        refused(&*kind.client(authority.client()), &mut listener).await;
        let with = |pair: &support::Pair| {
            let client = authority.client().with_certificate(pair.certificate(), pair.key());
            kind.client(client.unwrap())
        };
        refused(&*with(&stranger), &mut listener).await;
        refused(&*with(&expired), &mut listener).await;
        let (near, far) = meet(&*with(&alice), &mut listener).await;
        assert_eq!(far.peer().identity.as_deref(), Some("alice"), "{kind:?}");
        open(&*near, &*far, b"welcome").await;
    }
}

#[tokio::test]
async fn promise_10_a_client_whose_certificate_was_revoked_is_refused_from_then_on() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.signs(HERE);
    let (alice, bob) = (authority.signs_numbered("alice", 7), authority.signs_numbered("bob", 8));
    let with = |kind: Kind, pair: &support::Pair| {
        let client = authority.client().with_certificate(pair.certificate(), pair.key());
        kind.client(client.unwrap())
    };
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("revoked.pem");
        fs::write(&file, authority.revokes(&[6])).unwrap();
        let trusting = |lists: Pem| {
            let (certificate, key) = (server.certificate(), server.key());
            ServerTrust::mutual_unless_revoked(certificate, key, authority.pem(), lists)
        };
        let trust = trusting(Pem::file(&file)).unwrap();
        let mut listener = kind.server(trust.clone()).listen(&kind.here()).await.unwrap();
        for (pair, name) in [(&alice, "alice"), (&bob, "bob")] {
            let (_near, far) = meet(&*with(kind, pair), &mut listener).await;
            assert_eq!(far.peer().identity.as_deref(), Some(name));
        }
        fs::write(folder.path().join("new"), authority.revokes(&[6, 7])).unwrap();
        fs::rename(folder.path().join("new"), &file).unwrap();
        // Files are looked at once a second.
        within(async {
            while trust.reloads().done == 0 {
                let (_near, _far) = meet(&*with(kind, &bob), &mut listener).await;
            }
        })
        .await;
        refused(&*with(kind, &alice), &mut listener).await;
        meet(&*with(kind, &bob), &mut listener).await;

        // What is no list, or nobody's that signs clients, opens nothing.
        for text in ["", "no list"] {
            let words = trusting(Pem::text(text)).unwrap_err().to_string();
            assert!(words.contains("list of revoked certificates"), "{words}");
        }
        let trust = trusting(Pem::text(other.revokes(&[]))).unwrap();
        let mut listener = kind.server(trust).listen(&kind.here()).await.unwrap();
        refused(&*with(kind, &bob), &mut listener).await;
    }
}

#[tokio::test]
async fn a_changed_certificate_is_taken_up_and_connections_stay() {
    let authority = Authority::new();
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let (old, new) = (authority.signs(HERE), authority.signs(HERE));
        fs::write(&certificate, &old.certificate).unwrap();
        fs::write(&key, &old.key).unwrap();
        let trust = ServerTrust::new(Pem::file(&certificate), Pem::file(&key)).unwrap();
        let mut listener = kind.server(trust).listen(&kind.here()).await.unwrap();
        let client = |pair: &support::Pair| {
            let known = Fingerprint::of(&pair.certificate()).unwrap();
            kind.client(ClientTrust::fingerprint(known).unwrap())
        };
        let (near, far) = meet(&*client(&old), &mut listener).await;
        let (mut near_stream, mut far_stream) = open(&*near, &*far, b"before").await;

        // At first the two do not fit together.
        fs::write(&certificate, &new.certificate).unwrap();
        let (again, _far) = meet(&*client(&old), &mut listener).await;
        drop(again);
        fs::write(&key, &new.key).unwrap();
        let address = listener.local_address();
        let accepting = tokio::spawn(async move {
            loop {
                // A client that does not trust what it sees may show as a connection that ends.
                if let Ok(connection) = listener.accept().await
                    && let Ok(Some(mut stream)) = connection.accept_stream().await
                    && recv(&mut stream).await.is_ok_and(|bytes| !bytes.is_empty())
                {
                    return;
                }
            }
        });
        within(async {
            let connection = loop {
                if let Ok(connection) = client(&new).connect(&address).await {
                    break connection;
                }
            };
            let mut stream = connection.open_stream().await.unwrap();
            send(&mut stream, b"hello").await.unwrap();
            accepting.await.unwrap();
        })
        .await;
        echo(&mut near_stream, &mut far_stream, b"after").await;
    }
}

type Recorded = Arc<Mutex<Vec<u8>>>;

/// Passes on what comes to a port of its own, and notes it. Dropping the sender cuts.
async fn tcp_in_between(to: SocketAddr, recorded: Recorded) -> (u16, tokio::task::AbortHandle) {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let passing = tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(to).await.unwrap();
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
            (near.into_split(), far.into_split());
        let there = async {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(read @ 1..) = near_in.read(&mut bytes).await {
                recorded.lock().unwrap().extend_from_slice(&bytes[..read]);
                far_out.write_all(&bytes[..read]).await.unwrap();
            }
        };
        let back = async {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(read @ 1..) = far_in.read(&mut bytes).await {
                recorded.lock().unwrap().extend_from_slice(&bytes[..read]);
                near_out.write_all(&bytes[..read]).await.unwrap();
            }
        };
        tokio::join!(there, back);
    });
    (port, passing.abort_handle())
}

async fn udp_in_between(to: SocketAddr, recorded: Recorded) -> u16 {
    let near = UdpSocket::bind((HERE, 0)).await.unwrap();
    let far = UdpSocket::bind((HERE, 0)).await.unwrap();
    let port = near.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut there, mut back) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut client = None;
        loop {
            tokio::select! {
                came = near.recv_from(&mut there) => {
                    let (read, from) = came.unwrap();
                    client = Some(from);
                    recorded.lock().unwrap().extend_from_slice(&there[..read]);
                    far.send_to(&there[..read], to).await.unwrap();
                }
                came = far.recv_from(&mut back) => {
                    let (read, _) = came.unwrap();
                    recorded.lock().unwrap().extend_from_slice(&back[..read]);
                    near.send_to(&back[..read], client.unwrap()).await.unwrap();
                }
            }
        }
    });
    port
}

fn port_of(address: &Address) -> SocketAddr {
    address.rest().parse().unwrap()
}

#[tokio::test]
async fn nobody_on_the_path_reads_what_is_sent() {
    const SECRET: &[u8] = b"a body that nobody else should ever read";
    let authority = Authority::new();
    let plain = "tcp";
    for scheme in [plain, "tls", "quic"] {
        let (server, client): (Arc<dyn Transport>, Arc<dyn Transport>) = match scheme {
            "tls" => (Kind::Tls.server(authority.server()), Kind::Tls.client(authority.client())),
            "quic" => {
                (Kind::Quic.server(authority.server()), Kind::Quic.client(authority.client()))
            }
            _ => (Arc::new(Tcp::default()), Arc::new(Tcp::default())),
        };
        let mut listener = server.listen(&Address::new(scheme, format!("{HERE}:0"))).await.unwrap();
        let recorded = Recorded::default();
        let to = port_of(&listener.local_address());
        let port = match scheme {
            "quic" => udp_in_between(to, Arc::clone(&recorded)).await,
            _ => tcp_in_between(to, Arc::clone(&recorded)).await.0,
        };
        let by_way = Address::new(scheme, format!("{HERE}:{port}"));
        let (near, far) =
            within(async { tokio::join!(client.connect(&by_way), listener.accept()) }).await;
        let (near, far) = (near.unwrap(), far.unwrap());
        let _kept = open(&*near, &*far, &SECRET.repeat(1000)).await;
        let recorded = recorded.lock().unwrap();
        assert!(recorded.len() > 2 * 1000 * SECRET.len(), "{scheme}: it did not pass by there");
        let read = recorded.windows(16).any(|window| window == &SECRET[..16]);
        assert_eq!(read, scheme == plain, "{scheme}");
    }
}

#[tokio::test]
async fn a_tls_stream_that_is_cut_on_the_path_does_not_look_finished() {
    let authority = Authority::new();
    let server = Kind::Tls.server(authority.server());
    let mut listener = server.listen(&Kind::Tls.here()).await.unwrap();
    let to = port_of(&listener.local_address());
    let (port, passing) = tcp_in_between(to, Recorded::default()).await;
    let client = Kind::Tls.client(authority.client());
    let by_way = Kind::Tls.at(port);
    let (near, far) =
        within(async { tokio::join!(client.connect(&by_way), listener.accept()) }).await;
    let (mut near, mut far) = open(&*near.unwrap(), &*far.unwrap(), b"whole").await;
    passing.abort();
    for stream in [&mut near, &mut far] {
        let ended = within(recv(stream)).await;
        assert!(ended.is_err(), "{ended:?}");
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_unfinished_does_not_look_finished() {
    let authority = Authority::new();
    for kind in KINDS {
        let mut listener = kind.server(authority.server()).listen(&kind.here()).await.unwrap();
        let client = kind.client(authority.client());
        let (near, far) = meet(&*client, &mut listener).await;
        let (near, mut far) = open(&*near, &*far, b"whole").await;
        drop(near.send);
        let ended = within(recv(&mut far)).await;
        assert!(ended.is_err(), "{kind:?}: {ended:?}");
        // The other direction is as it was.
        send(&mut far, b"still here").await.unwrap();
        let mut left = near.recv;
        let mut buffer = bytes::BytesMut::new();
        let came = std::future::poll_fn(|cx| left.poll_recv(cx, &mut buffer, 100));
        assert!(within(came).await.is_ok_and(|came| came > 0), "{kind:?}");
    }
}

#[tokio::test]
async fn what_a_tls_client_finished_arrives_though_it_goes_without_having_read() {
    let authority = Authority::new();
    let server = Kind::Tls.server(authority.server());
    let mut listener = server.listen(&Kind::Tls.here()).await.unwrap();
    let (near, far) = meet(&*Kind::Tls.client(authority.client()), &mut listener).await;
    let mut near_stream = near.open_stream().await.unwrap();
    let mut far_stream = far.accept_stream().await.unwrap().unwrap();
    // More than the path holds, so that much of it is still on this side when it goes.
    let piece = [7; 64 << 10];
    let (mut sent, mut received) = (0, 0);
    while let Ok(taken) = tokio::time::timeout(
        std::time::Duration::from_millis(50),
        std::future::poll_fn(|cx| near_stream.send.poll_send(cx, &[std::io::IoSlice::new(&piece)])),
    )
    .await
    {
        sent += taken.unwrap();
    }
    assert!(sent > 1 << 20, "{sent}");
    within(async {
        while futures::poll!(std::future::poll_fn(|cx| near_stream.send.poll_finish(cx)))
            .is_pending()
        {
            received += recv(&mut far_stream).await.unwrap().len();
        }
        drop((near_stream, near));
        loop {
            match recv(&mut far_stream).await.unwrap().len() {
                0 => break,
                more => received += more,
            }
        }
    })
    .await;
    assert_eq!(received, sent);
}

#[tokio::test]
async fn promise_10_tls_clients_that_say_nothing_hold_nobody_up() {
    let authority = Authority::new();
    let options = TlsOptions {
        handshake_timeout: std::time::Duration::from_secs(1000),
        handshakes_max: 4,
        ..TlsOptions::default()
    };
    let server = Tls::new(options).serving(authority.server());
    let mut listener = server.listen(&Kind::Tls.here()).await.unwrap();
    let to = port_of(&listener.local_address());
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(to).await.unwrap());
    }
    let client = Kind::Tls.client(authority.client());
    let (near, far) = meet(&*client, &mut listener).await;
    open(&*near, &*far, b"served").await;
    // All but three at most were given up for it.
    let mut ended = 0;
    for socket in &mut silent[..7] {
        ended += usize::from(within(socket.read(&mut [0])).await.is_ok_and(|read| read == 0));
    }
    assert_eq!(ended, 7);
}

#[tokio::test]
async fn who_does_not_say_that_it_speaks_ltq_is_refused() {
    use rustls::{ClientConfig, RootCertStore, pki_types::pem::PemObject};

    let authority = Authority::new();
    let mut listener =
        Kind::Tls.server(authority.server()).listen(&Kind::Tls.here()).await.unwrap();
    let Pem::Text(pem) = authority.pem() else { panic!() };
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    for spoken in [vec![], vec![b"h2".to_vec()], vec![b"ltq/2".to_vec()]] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let mut config = config.with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = spoken;
        let to = port_of(&listener.local_address());
        let trying = async {
            let socket = TcpStream::connect(to).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let name = HERE.to_owned().try_into().unwrap();
            let Ok(mut stream) = connector.connect(name, socket).await else { return };
            assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)));
        };
        tokio::select! {
            () = within(trying) => {}
            accepted = listener.accept() => panic!("{} was let in", accepted.unwrap().peer().address),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_none_of_ltqs_is_connected_to_by_who_names_no_protocol() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

    let authority = Authority::new();
    let pair = authority.signs(HERE);
    let (Pem::Text(certificate), Pem::Text(key)) = (pair.certificate(), pair.key()) else {
        panic!()
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider);
    let config = config.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut config = config
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at: Address = format!("tls://{}", listener.local_addr().unwrap()).parse().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            stream.write_all(b"hello").await.unwrap();
        }
    });
    let tls = Tls::default().trusting(authority.client());
    assert!(within(tls.connect(&at)).await.is_err());
    let connection = within(tls.clone().without_protocol().connect(&at)).await.unwrap();
    assert_eq!(connection.peer().identity.as_deref(), Some(HERE));
    let mut stream = connection.open_stream().await.unwrap();
    assert_eq!(within(recv(&mut stream)).await.unwrap(), b"hello"[..]);
    // And who is trusted is asked all the same.
    let stranger = Tls::default().trusting(Authority::new().client()).without_protocol();
    assert!(within(stranger.connect(&at)).await.is_err());
    serving.abort();
}

#[tokio::test]
async fn without_certificates_or_trust_nothing_is_listened_on_or_connected_to() {
    for (transport, kind) in [
        (Arc::new(Tls::default()) as Arc<dyn Transport>, Kind::Tls),
        (Arc::new(Quic::default()), Kind::Quic),
    ] {
        for error in [
            transport.listen(&kind.here()).await.err().unwrap(),
            transport.connect(&kind.at(1)).await.err().unwrap(),
        ] {
            let ltq_core::TransportError::Io { source, .. } = &error else { panic!("{error}") };
            assert_eq!(source.kind(), ErrorKind::InvalidInput, "{error}");
        }
    }
}
