//! Clients that prove who they are by certificates.

use crate::{
    certificates::Authority,
    node::{Node, ltq, ok, refused, until},
};

#[test]
fn what_a_clients_certificate_says_gets_the_permissions_of_that_identity() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let servers = Authority::new(here, "servers");
    let people = Authority::new(here, "people");
    let strangers = Authority::new(here, "strangers");
    let (certificate, key) = servers.signs(here, "127.0.0.1");
    let file = here.join("ltq.toml");
    let text = format!(
        "metrics_public = true\nlisten = [\"tls://127.0.0.1:0\", \"quic://127.0.0.1:0\"]\n\
         [tls]\ncertificate = {certificate:?}\nkey = {key:?}\nclient_authorities = {:?}\n\
         [[identities]]\nidentity = \"alice\"\npublish = [\"orders.*\"]\n\
         [[identities]]\nidentity = \"root\"\nadminister = [\"*\"]\n",
        people.path()
    );
    std::fs::write(&file, text).unwrap();
    let node = Node::start(here, &["--config", file.to_str().unwrap()]);
    let [alice, bob, root] = ["alice", "bob", "root"].map(|name| people.signs(here, name));
    let mallory = strangers.signs(here, "mallory");
    for scheme in ["tls", "quic"] {
        let server = node.word(&format!("{scheme}://"));
        let way = ["--server", server, "--tls-ca", servers.path()];
        let run = |who: &Own, arguments: &[&str]| ok(&[&way[..], &flags(who), arguments].concat());
        let no =
            |who: &Own, arguments: &[&str]| refused(&[&way[..], &flags(who), arguments].concat()).1;
        run(&alice, &["pub", "orders.new", "one coffee"]);
        let words = no(&alice, &["pub", "meals", "x"]);
        assert!(words.contains("forbidden") && words.contains("publish on meals"), "{words}");
        assert!(no(&alice, &["stats"]).contains("forbidden"));
        assert!(run(&root, &["topic", "list"]).contains("orders.new"));
        // Known to the authority, and to nobody else.
        assert!(no(&bob, &["pub", "orders.new", "x"]).contains("unauthorized"));
        // A token counts alone, whoever brings it.
        assert!(no(&alice, &["pub", "orders.new", "x", "--token", "t"]).contains("unauthorized"));
        // No connection comes about without a certificate that counts.
        let before = failures(&node, scheme);
        let words = no(&mallory, &["pub", "orders.new", "x"]);
        assert!(!words.contains("unauthorized"), "{words}");
        refused(&[&way[..], &["pub", "orders.new", "x"]].concat());
        until("two refused handshakes", || failures(&node, scheme) >= before + 2);
        // What an authority for clients signed is no server.
        refused(&["--server", server, "--tls-ca", people.path(), "pub", "orders.new", "x"]);
    }
}

#[test]
fn promise_10_a_revoked_certificate_lets_nobody_in_from_when_the_list_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (servers, people) = (Authority::new(here, "servers"), Authority::new(here, "people"));
    let (certificate, key) = servers.signs(here, "127.0.0.1");
    let lists = here.join("revoked.pem");
    people.revokes(&[], &lists);
    let arguments = [
        ["--listen", "tls://127.0.0.1:0"],
        ["--listen", "quic://127.0.0.1:0"],
        ["--tls-certificate", &certificate],
        ["--tls-key", &key],
        ["--tls-client-authorities", people.path()],
        ["--tls-client-revocations", lists.to_str().unwrap()],
    ];
    let node = Node::start(here, &arguments.concat());
    let [alice, bob] =
        [("alice", 7), ("bob", 8)].map(|(name, number)| people.signs_numbered(here, name, number));
    let publishes = |scheme: &str, who: &Own| {
        let server = node.word(&format!("{scheme}://"));
        let way = ["--server", server, "--tls-ca", servers.path()];
        ltq(&[&way[..], &flags(who), &["pub", "t", "x"]].concat()).status.success()
    };
    for scheme in ["tls", "quic"] {
        assert!(publishes(scheme, &alice) && publishes(scheme, &bob), "{scheme}");
    }
    people.revokes(&[7], &lists);
    until("the list", || {
        assert!(publishes("tls", &bob));
        node.figure("ltq_certificate_reloads_total") == 1
    });
    for scheme in ["tls", "quic"] {
        assert!(!publishes(scheme, &alice) && publishes(scheme, &bob), "{scheme}");
    }
    node.stop();
}

/// The files of a certificate and its key.
type Own = (String, String);

fn flags((certificate, key): &Own) -> [&str; 4] {
    ["--tls-cert", certificate, "--tls-key", key]
}

fn failures(node: &Node, scheme: &str) -> u64 {
    node.figure(&format!("ltq_handshakes_failed_total{{scheme=\"{scheme}\",reason=\"refused\"}}"))
}
