//! One node with all transports, and what `ltq` does over each of them.

use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use ltq_client::{Client, ClientTrust, Message};

use crate::node::{Node, command, ltq, ok, refused, said, until};

#[test]
fn the_command_line_does_all_over_each_transport() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}", folder.path().join("ltq.sock").display());
    let mut listen = Vec::new();
    for address in ["quic://127.0.0.1:0", "tls://127.0.0.1:0", "tcp://127.0.0.1:0", &socket] {
        listen.extend(["--listen", address]);
    }
    let mut node = Node::start(folder.path(), &[&listen[..], &["--dev-tls"]].concat());
    let fingerprint = node.fingerprint();
    for scheme in ["tcp", "unix", "tls", "quic"] {
        let server = node.word(&format!("{scheme}://")).to_owned();
        let way = match scheme {
            "tls" | "quic" => vec!["--server", &*server, "--tls-fingerprint", &*fingerprint],
            _ => vec!["--server", &*server],
        };
        let run = |arguments: &[&str]| ok(&[&way, arguments].concat());
        let topic = format!("over-{scheme}");
        run(&["topic", "create", &topic]);
        run(&["channel", "create", &topic, "c"]);
        run(&["pub", &topic, "hello"]);
        assert_eq!(run(&["sub", &topic, "c", "--count", "1"]), "hello\n");
        assert!(run(&["stats"]).contains(&topic));
        let bench = run(&["bench", "e2e", "--count", "2000", "--warmup", "50ms", "--json"]);
        assert!(bench.contains("2000"), "{bench}");
        run(&["topic", "delete", &topic]);
        let came = node.figure(&format!("ltq_listener_connections_total{{scheme=\"{scheme}\"}}"));
        assert!(came >= 8, "{came} connections over {scheme}");
    }
    // What it suggests works as it stands, once the shell has taken the quotes off.
    let (_, suggested) = node.banner().split_once("; try: ltq ").unwrap();
    assert!(suggested.starts_with("--server quic://"), "{suggested}");
    let words: Vec<_> =
        suggested.trim().split(['"', ' ']).filter(|word| !word.is_empty()).collect();
    let (arguments, body) = words.split_at(words.len() - 2);
    ok(&[arguments, &[&*body.join(" ")]].concat());
    node.stop();
}

#[test]
fn a_certificate_for_development_is_the_same_after_a_restart_and_the_only_one_taken() {
    let folder = tempfile::tempdir().unwrap();
    let arguments =
        ["--listen", "tls://127.0.0.1:0", "--listen", "quic://127.0.0.1:0", "--dev-tls"];
    let mut node = Node::start(folder.path(), &arguments);
    let first = node.fingerprint();
    node.stop();
    let kept = folder.path().join("data/dev-tls.pem");
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let mut node = Node::start(folder.path(), &arguments);
    assert_eq!(node.fingerprint(), first);
    let other = format!("sha256:{}", "0f".repeat(32));
    for scheme in ["tls", "quic"] {
        let server = node.word(&format!("{scheme}://"));
        ok(&publishing(server, &["--tls-fingerprint", &first]));
        let (code, words) = refused(&publishing(server, &["--tls-fingerprint", &other]));
        assert_eq!(code, 1, "{words}");
        assert!(words.contains(&first) && words.contains(&other), "{words}");
        // Nothing is trusted that was not named.
        let (code, words) = refused(&publishing(server, &[]));
        assert_eq!(code, 2, "{words}");
        assert!(
            words.contains("--tls-ca FILE") && words.contains("--tls-fingerprint HEX"),
            "{words}"
        );
        for (bad, name) in [
            (&["--tls-fingerprint", "12"][..], "no fingerprint"),
            (&["--tls-ca", "/no/such/file"], "/no/such/file"),
            (&["--tls-ca", "a", "--tls-fingerprint", &first], "not both"),
            (&["--tls-fingerprint", &first, "--tls-cert", "a"], "--tls-key"),
        ] {
            let (code, words) = refused(&publishing(server, bad));
            assert!(code == 2 && words.contains(name), "{code} {words}");
        }
        let output = command(env!("CARGO_BIN_EXE_ltq"))
            .args(publishing(server, &[]))
            .env("LTQ_TLS_FINGERPRINT", &first)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let refusals = format!("{{scheme=\"{scheme}\",reason=\"refused\"}}");
        let figure = format!("ltq_handshakes_failed_total{refusals}");
        until("the refused handshake", || node.figure(&figure) >= 1);
    }
    assert_eq!(node.figure("ltq_topic_end_offset{topic=\"t\"}"), 4);
}

fn publishing<'a>(server: &'a str, way: &[&'a str]) -> Vec<&'a str> {
    [&["--server", server][..], way, &["pub", "t", "x"]].concat()
}

#[test]
fn a_node_without_a_certificate_does_not_start_and_says_what_to_do() {
    for scheme in ["tls", "quic"] {
        let output = command(env!("CARGO_BIN_EXE_ltq-node"))
            .args(["--listen", &format!("{scheme}://127.0.0.1:0")])
            .output()
            .unwrap();
        let words = said(&output);
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(words.contains("--tls-certificate FILE"), "{words}");
        assert!(words.contains("--dev-tls"), "{words}");
        let output = command(env!("CARGO_BIN_EXE_ltq-node"))
            .args(["--listen", &format!("{scheme}://127.0.0.1:0"), "--tls-certificate", "/no/such"])
            .args(["--tls-key", "/no/such"])
            .output()
            .unwrap();
        let words = said(&output);
        assert!(output.status.code() == Some(1) && words.contains("/no/such"), "{words}");
        // Lists that nobody asks would let everybody in whom they name.
        let output = command(env!("CARGO_BIN_EXE_ltq-node"))
            .args(["--listen", &format!("{scheme}://127.0.0.1:0"), "--tls-certificate", "/no/such"])
            .args(["--tls-key", "/no/such", "--tls-client-revocations", "/no/such"])
            .output()
            .unwrap();
        let words = said(&output);
        assert!(
            output.status.code() == Some(2) && words.contains("tls.client_authorities"),
            "{words}"
        );
    }
}

#[test]
fn promise_10_who_is_not_let_in_can_do_nothing_over_tls_and_quic() {
    let folder = tempfile::tempdir().unwrap();
    let arguments =
        ["--listen", "tls://127.0.0.1:0", "--listen", "quic://127.0.0.1:0", "--dev-tls"];
    let mut node = Node::start(folder.path(), &[&arguments[..], &["--token", "secret"]].concat());
    let fingerprint = node.fingerprint();
    for scheme in ["tls", "quic"] {
        let server = node.word(&format!("{scheme}://"));
        let way = ["--server", server, "--tls-fingerprint", &fingerprint];
        for arguments in [
            &["pub", "t", "x"][..],
            &["sub", "t", "c", "--count", "1"],
            &["topic", "create", "t"],
            &["topic", "list"],
            &["stats"],
            &["bench", "pub", "--count", "1"],
        ] {
            let (code, words) = refused(&[&way[..], arguments].concat());
            assert!(code == 1 && words.contains("unauthorized"), "{code} {words}");
        }
        let (code, words) = refused(&[&way[..], &["--token", "guess", "pub", "t", "x"]].concat());
        assert!(code == 1 && words.contains("unauthorized"), "{code} {words}");
        let token = ["--token", "secret"];
        assert!(!ok(&[&way[..], &token, &["stats", "--json"]].concat()).contains("\"t\""));
        let output = ltq(&[&way[..], &token, &["pub", "after", "x"]].concat());
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// Else it would keep a place among the connections of that address until its idle timeout.
#[test]
fn a_client_that_closes_over_quic_is_gone_though_its_program_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path(), &["--listen", "quic://127.0.0.1:0", "--dev-tls"]);
    let trust = ClientTrust::fingerprint(node.fingerprint().parse().unwrap()).unwrap();
    let server = node.word("quic://").to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder().server(&server).trust(trust).connect().await.unwrap();
        let producer = client.producer("t").await.unwrap();
        producer.send(Message::new("x")).await.unwrap();
        client.close().await.unwrap();
    });
    drop(runtime);
    let begun = Instant::now();
    until("the end of the connection", || node.figure("ltq_connections") == 0);
    // It would be given up after 15 s.
    assert!(begun.elapsed() < Duration::from_secs(12), "only by a timeout: {:?}", begun.elapsed());
    node.stop();
}
