//! Promise 9: what QUIC clients that nobody has welcomed make a node hold, by its memory and not by what they sent.
#![cfg(target_os = "linux")]

use std::{sync::Arc, time::Duration};

use ltq_core::protocol::{Frame, Hello};
use ltq_tests::{NodeProcess, RawPeer, bytes_of, within};
use ltq_transport::self_signed;
use quinn::{Connection, Endpoint, SendStream, TransportConfig, crypto::rustls::QuicClientConfig};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::time::timeout;

const CONNECTIONS: usize = 12;
/// Packets for each stream: as much as quinn keeps of them, and more.
const ROUNDS: usize = 30;

/// A client whose packets are all as large as they may be.
fn client(certificate: &str) -> Endpoint {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("one");
    roots.add(certificate).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"ltq/1".to_vec()];
    let mut config =
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("it")));
    let mut transport = TransportConfig::default();
    transport.pad_to_mtu(true).keep_alive_interval(Some(Duration::from_secs(2)));
    config.transport_config(Arc::new(transport));
    let mut endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("an endpoint");
    endpoint.set_default_client_config(config);
    endpoint
}

/// The first bytes of a hello on each stream, each in a packet of its own.
async fn drip(connection: &Connection, streams: &mut [SendStream]) {
    let hello = Hello { token: Some("x".repeat(100)), ..RawPeer::hello() };
    for byte in bytes_of(&Frame::Hello(hello)).into_iter().take(ROUNDS) {
        for stream in &mut *streams {
            let before = connection.stats().udp_tx.datagrams;
            stream.write_all(&[byte]).await.expect("it is there still");
            while connection.stats().udp_tx.datagrams == before {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_9_quic_clients_that_are_not_welcomed_can_make_a_node_hold_little() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let made = self_signed(&["localhost"]).expect("a certificate");
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    std::fs::write(&certificate, &made.certificate).expect("written");
    std::fs::write(&key, &made.key).expect("written");
    std::fs::write(file("ltq.toml"), "[limits]\nhello_timeout = \"5m\"\n").expect("written");
    let settings = file("ltq.toml");
    let listen = ["--listen", "quic://127.0.0.1:0", "--tls-certificate", &certificate];
    let more = [&listen[..], &["--tls-key", &key, "--config", &settings]].concat();
    let node = NodeProcess::start(&folder.path().join("data"), 0, &more).await.expect("a node");
    let pid = node.pid().expect("it runs");
    let resident = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("Linux");
        text.split(' ').nth(1).expect("a figure").parse::<usize>().expect("a number") * 4096
    };
    let address = node.said("quic://").expect("QUIC").trim_start_matches("quic://");
    let to = address.parse().expect("an address");
    let client = client(&made.certificate);
    let mut all = Vec::new();
    for _ in 0..=CONNECTIONS {
        let connecting = client.connect(to, "localhost").expect("it begins");
        let connection = within("connecting", connecting).await.expect("a connection");
        let mut streams = Vec::new();
        while let Ok(opened) = timeout(QUIET, connection.open_bi()).await {
            streams.push(opened.expect("a stream").0);
        }
        all.push((connection, streams));
    }
    // What there is only once is there before anything is measured.
    let (first, others) = all.split_at_mut(1);
    for (connection, streams) in first {
        drip(connection, streams).await;
    }
    let before = resident();
    for (connection, streams) in &mut *others {
        drip(connection, streams).await;
    }
    let after = within("all that they said is there", async {
        let mut seen = resident();
        loop {
            tokio::time::sleep(QUIET).await;
            match resident() {
                now if now <= seen => return now,
                now => seen = now,
            }
        }
    })
    .await;
    assert!(others.iter().all(|(connection, _)| connection.close_reason().is_none()));
    let each = after.saturating_sub(before) / CONNECTIONS;
    let streams = others.first().expect("one").1.len();
    println!("{each} bytes for each connection, of {streams} streams");
    assert!(each < BYTES_MAX, "{each} bytes for each connection, of {streams} streams");
}

/// For a stream that may be opened.
const QUIET: Duration = Duration::from_millis(300);
/// Three times what quinn keeps of the packets of four streams.
const BYTES_MAX: usize = 3 * 4 * (32 << 10);
