//! Certificates that change while clients are there.

use std::time::Duration;

use ltq_client::{Client, ClientTrust, ConnectError, ConnectionState, Message, Pem};
use tokio::time::timeout;

use crate::{
    certificates::Authority,
    node::{Node, until},
};

async fn connect(server: &str, authority: &Authority) -> Result<Client, ConnectError> {
    let trust = ClientTrust::authorities(Pem::file(&authority.file)).unwrap();
    let builder = Client::builder().server(server).trust(trust);
    builder.connect_timeout(Duration::from_secs(20)).connect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_under_clients_that_publish() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (before, after) = (Authority::new(here, "before"), Authority::new(here, "after"));
    let (certificate, key) = before.signs(here, "127.0.0.1");
    let listen = ["--listen", "tls://127.0.0.1:0", "--listen", "quic://127.0.0.1:0"];
    let files = ["--tls-certificate", &certificate, "--tls-key", &key];
    let node = Node::start(here, &[&listen[..], &files].concat());
    let servers = ["tls://", "quic://"].map(|scheme| node.word(scheme).to_owned());

    let mut publishing = Vec::new();
    for server in &servers {
        let client = connect(server, &before).await.unwrap();
        let producer = client.producer("t").await.unwrap();
        producer.send(Message::new("before")).await.unwrap();
        let mut state = client.state();
        state.mark_unchanged();
        publishing.push((client, producer, state));
    }
    after.signs_to("127.0.0.1", certificate.as_ref(), key.as_ref());
    for server in &servers {
        // Files are looked at once a second.
        let taken = async { while connect(server, &after).await.is_err() {} };
        timeout(Duration::from_secs(60), taken).await.expect("the new certificate");
        assert!(connect(server, &before).await.is_err(), "the old one is gone at {server}");
    }
    for (client, producer, state) in &publishing {
        producer.send(Message::new("after")).await.unwrap();
        assert!(!state.has_changed().unwrap(), "its connection stayed: {:?}", client.state());
        assert!(matches!(*state.borrow(), ConnectionState::Connected { .. }));
    }
    assert_eq!(node.figure("ltq_certificate_reloads_total"), 1);
    assert_eq!(node.figure("ltq_topic_published_messages_total{topic=\"t\"}"), 4);

    std::fs::write(&certificate, "half of a certif").unwrap();
    let (server, node_ref) = (&servers[0], &node);
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        until("the broken certificate's notice", || {
            // What was there before stays in use.
            handle.block_on(connect(server, &after)).unwrap();
            node_ref.figure("ltq_certificate_reloads_failed_total") == 1
        });
    });
}
