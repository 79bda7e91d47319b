//! What lets peers in from beyond this machine.

use super::{load, refusal};

/// As long as a token has to be that others could guess.
pub(super) const LONG: &str = "sixteen bytes, 1";

#[test]
fn promise_10_a_token_that_others_could_guess_is_not_taken_where_they_reach_the_node() {
    let short = &LONG[1..];
    let far: [&[&str]; 5] = [
        &["--listen", "tcp://0.0.0.0:7440"],
        &["--listen", "tcp://127.0.0.1:1", "--listen", "tls://[2001:db8::1]:1", "--dev-tls"],
        &["--listen", "quic://node.example:7440", "--dev-tls"],
        &["--http", "10.0.0.1:1"],
        &["--http", "0.0.0.0:1"],
    ];
    for far in far {
        let error = refusal(None, &[], &[far, &["--token", short]].concat());
        assert!(error.contains("at least 16 bytes") && !error.contains(short), "{error}");
        assert!(refusal(None, &[("LTQ_TOKEN", short)], far).contains("at least 16 bytes"));
        load(None, &[], &[far, &["--token", LONG]].concat()).unwrap();
    }
    for near in ["tcp://127.1.2.3:1", "tcp://localhost:1", "tcp://[::1]:1", "unix:///run/ltq.sock"]
    {
        load(None, &[], &["--listen", near, "--token", "a"]).unwrap();
    }
    load(None, &[], &["--http", "off", "--token", "a"]).unwrap();
}

#[test]
fn tokens_that_go_unencrypted_beyond_this_machine_are_told_of() {
    let bare = |more: &[&str]| load(None, &[], more).unwrap().bare_for_tokens();
    let token = ["--token", LONG];
    let open = ["--listen", "tcp://0.0.0.0:1", "--http", "192.0.2.1:2"];
    assert_eq!(bare(&[&open[..], &token].concat()), ["tcp://0.0.0.0:1", "http://192.0.2.1:2"]);
    let near = ["--listen", "tcp://[::1]:1", "--listen", "quic://0.0.0.0:1", "--dev-tls"];
    assert!(bare(&[&near[..], &token].concat()).is_empty());
    let nobody = load(Some("allow_unauthenticated = true"), &[], &open).unwrap();
    assert!(nobody.bare_for_tokens().is_empty(), "nobody brings one");
    let named = "[[tokens]]\nname = \"a\"\nsha256 = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n";
    let config = load(Some(named), &[], &["--listen", "tcp://0.0.0.0:1"]).unwrap();
    assert_eq!(config.bare_for_tokens(), ["tcp://0.0.0.0:1"]);
}

#[test]
fn promise_9_exempt_addresses_are_addresses_and_networks() {
    let table = |text: &str| format!("[limits]\nexempt_addresses = [\"{text}\"]\n");
    for (text, part) in [
        ("example.com", "such as 10.0.0.0/8"),
        ("10.1.0.0/8", "the network is 10.0.0.0/8"),
        ("0.0.0.0/0", "every address"),
    ] {
        let error = refusal(Some(&table(text)), &[], &[]);
        assert!(error.contains("exempt_addresses") && error.contains(part), "{error}");
        let error = refusal(None, &[("LTQ_LIMITS_EXEMPT_ADDRESSES", text)], &[]);
        assert!(error.contains(part), "{error}");
    }
    let config = load(Some(&table("10.0.0.0/8")), &[], &[]).unwrap();
    let exempt = config.broker_settings().entrance.exempt_addresses;
    assert!(exempt.holds([10, 1, 2, 3].into()) && !exempt.holds([11, 1, 2, 3].into()));
    assert_eq!(config.tls_options().exempt_addresses, exempt);
    assert_eq!(config.quic_options().exempt_addresses, exempt);
}

#[test]
fn promise_10_how_often_an_address_may_come_holds_for_all_transports() {
    let config = load(Some("[limits]\nconnections_per_second_max = 7\n"), &[], &[]).unwrap();
    assert_eq!(config.broker_settings().entrance.connections_per_second_max, 7);
    assert_eq!(config.tls_options().handshakes_per_second_max, 7);
    assert_eq!(config.quic_options().handshakes_per_second_max, 7);
    let config = load(Some("[limits]\naddresses_known_max = 9\n"), &[], &[]).unwrap();
    assert_eq!(config.tls_options().addresses_known_max, 9);
    assert_eq!(config.quic_options().addresses_known_max, 9);
    let error = refusal(Some("[limits]\nconnections_per_second_max = 0\n"), &[], &[]);
    assert!(error.contains("connections_per_second_max"), "{error}");
    let error = refusal(Some("[limits]\ngreeting_connections_max = 0\n"), &[], &[]);
    assert!(error.contains("greeting_connections_max"), "{error}");
}
