//! Tests of where settings come from, that each of them counts, and that its page is true.

mod doors;
mod page;

use std::ffi::OsString;

use clap::{CommandFactory as _, Parser as _};
use ltq_core::Durability;

use doors::LONG;

use super::{layers::known_keys, *};
use crate::access::NodeAccess;

fn load(
    file: Option<&str>,
    variables: &[(&str, &str)],
    flags: &[&str],
) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let mut arguments = vec![OsString::from("ltq-node")];
    if let Some(text) = file {
        let path = directory.path().join("ltq.toml");
        std::fs::write(&path, text).unwrap();
        arguments.extend(["--config".into(), path.into_os_string()]);
    }
    arguments.extend(flags.iter().map(OsString::from));
    let flags = Flags::try_parse_from(arguments).unwrap();
    Config::load(&flags, variables.iter().map(|(name, value)| (name.into(), value.into())))
}

fn refusal(file: Option<&str>, variables: &[(&str, &str)], flags: &[&str]) -> String {
    load(file, variables, flags).unwrap_err().to_string()
}

/// For each setting, values that are valid and not the default: as a file says them, as a
/// variable does.
const OTHERS: &[(&str, &str, &str)] = &[
    ("node", "\"other\"", "other"),
    ("data_dir", "\"/tmp/other\"", "/tmp/other"),
    ("store", "\"memory\"", "memory"),
    ("durability", "\"os\"", "os"),
    ("listen", "[\"tcp://127.0.0.1:1\", \"tcp://[::1]:2\"]", "tcp://127.0.0.1:1, tcp://[::1]:2"),
    ("registry", "[\"tcp://r1:1\", \"r2:2\"]", "tcp://r1:1, r2:2"),
    ("advertise", "[\"tcp://a:1\"]", "tcp://a:1"),
    ("listen_retry", "\"7s\"", "7s"),
    ("unix_mode", "\"640\"", "0640"),
    ("dev_tls", "true", "true"),
    ("http", "\"off\"", "off"),
    ("token", "\"secret\"", "secret"),
    (
        "tokens",
        "[{ name = \"a\", sha256 = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\", publish = [\"a.*\"] }]",
        "",
    ),
    ("identities", "[{ identity = \"alice\", consume = [\"*\"] }]", ""),
    ("allow_unauthenticated", "true", "true"),
    ("metrics_public", "true", "true"),
    ("auto_create_topics", "false", "false"),
    ("auto_create_channels", "false", "false"),
    ("stop_timeout", "\"7s\"", "7s"),
    ("log_format", "\"json\"", "json"),
    ("log_level", "\"debug\"", "debug"),
    ("discovery.token", "\"secret\"", "secret"),
    ("discovery.tls_ca", "\"/tmp/ca.pem\"", "/tmp/ca.pem"),
    ("discovery.tls_fingerprint", "\"aa\"", "aa"),
    ("discovery.tls_certificate", "\"/tmp/certificate.pem\"", "/tmp/certificate.pem"),
    ("discovery.tls_key", "\"/tmp/key.pem\"", "/tmp/key.pem"),
    ("discovery.etcd_user", "\"ltq\"", "ltq"),
    ("discovery.etcd_password", "\"secret\"", "secret"),
    ("drain.on_signal", "true", "true"),
    ("drain.timeout", "\"7s\"", "7s"),
    ("drain.hand_over_to", "[\"tcp://n2:1\", \"n3:2\"]", "tcp://n2:1, n3:2"),
    ("drain.token", "\"secret\"", "secret"),
    ("drain.tls_ca", "\"/tmp/ca.pem\"", "/tmp/ca.pem"),
    ("drain.tls_fingerprint", "\"aa\"", "aa"),
    ("tls.certificate", "\"/tmp/certificate.pem\"", "/tmp/certificate.pem"),
    ("tls.key", "\"/tmp/key.pem\"", "/tmp/key.pem"),
    ("tls.client_authorities", "\"/tmp/authorities.pem\"", "/tmp/authorities.pem"),
    ("tls.client_revocations", "\"/tmp/revocations.pem\"", "/tmp/revocations.pem"),
    ("tls.handshake_timeout", "\"7s\"", "7s"),
    ("tls.handshakes_max", "7", "7"),
    ("tls.handshakes_per_address_max", "7", "7"),
    ("quic.idle_timeout", "\"7s\"", "7s"),
    ("quic.keep_alive", "\"2s\"", "2s"),
    ("quic.stream_window", "\"2MiB\"", "2MiB"),
    ("quic.connection_window", "\"7MiB\"", "7MiB"),
    ("quic.send_window", "\"7MiB\"", "7MiB"),
    ("quic.windows_bytes_max", "\"7MiB\"", "7MiB"),
    ("quic.windows_bytes_per_address_max", "\"7MiB\"", "7MiB"),
    ("quic.congestion", "\"cubic\"", "cubic"),
    ("quic.segmentation_offload", "false", "false"),
    ("limits.message_bytes_max", "\"2MiB\"", "2MiB"),
    ("limits.frame_bytes_max", "\"4MiB\"", "4MiB"),
    ("limits.topics_max", "7", "7"),
    ("limits.channels_max", "7", "7"),
    ("limits.consumers_max", "7", "7"),
    ("limits.connections_max", "7", "7"),
    ("limits.connections_per_address_max", "7", "7"),
    ("limits.greeting_connections_max", "7", "7"),
    ("limits.greeting_connections_per_address_max", "7", "7"),
    ("limits.connections_per_second_max", "7", "7"),
    ("limits.exempt_addresses", "[\"10.0.0.0/8\", \"2001:db8::7\"]", "10.0.0.0/8, 2001:db8::7"),
    ("limits.streams_max", "7", "7"),
    ("limits.unknown_streams_max", "7", "7"),
    ("limits.opening_streams_max", "7", "7"),
    ("limits.subscriptions_max", "7", "7"),
    ("limits.producers_max", "7", "7"),
    ("limits.handles_total_max", "7", "7"),
    ("limits.handles_per_address_max", "7", "7"),
    ("limits.futile_frames_max", "7", "7"),
    ("limits.topics_per_minute_max", "7", "7"),
    ("limits.channels_per_minute_max", "7", "7"),
    ("limits.answer_bytes_per_connection_max", "\"2MiB\"", "2MiB"),
    ("limits.answer_bytes_per_address_max", "\"8MiB\"", "8MiB"),
    ("limits.answer_bytes_total_max", "\"32MiB\"", "32MiB"),
    ("limits.publish_bytes_per_connection_max", "\"64MiB\"", "64MiB"),
    ("limits.publish_bytes_per_address_max", "\"64MiB\"", "64MiB"),
    ("limits.wrong_tokens_max", "7", "7"),
    ("limits.lockout_max", "\"7s\"", "7s"),
    ("limits.addresses_known_max", "7", "7"),
    ("limits.requests_max", "7", "7"),
    ("limits.surveys_max", "7", "7"),
    ("limits.topic_lists_max", "7", "7"),
    ("limits.inbox_entries_max", "7", "7"),
    ("limits.answer_bytes_max", "\"7KiB\"", "7KiB"),
    ("limits.producers_known_max", "7", "7"),
    ("limits.publish_bytes_max", "\"32MiB\"", "32MiB"),
    ("limits.publish_bytes_total_max", "\"32MiB\"", "32MiB"),
    ("limits.partial_bytes_total_max", "\"32MiB\"", "32MiB"),
    ("limits.partial_bytes_free", "\"70KiB\"", "70KiB"),
    ("limits.delivery_bytes_max", "\"7MiB\"", "7MiB"),
    ("limits.delivery_bytes_per_address_max", "\"8MiB\"", "8MiB"),
    ("limits.delivery_bytes_total_max", "\"32MiB\"", "32MiB"),
    ("limits.hello_timeout", "\"7s\"", "7s"),
    ("limits.heartbeat", "\"7s\"", "7s"),
    ("limits.stall_timeout", "\"7s\"", "7s"),
    ("limits.slow_read_stalls", "7", "7"),
    ("limits.http_connections_max", "7", "7"),
    ("limits.http_connections_per_address_max", "7", "7"),
    ("limits.http_request_timeout", "\"7s\"", "7s"),
    ("limits.http_body_bytes_total_max", "\"16MiB\"", "16MiB"),
    ("limits.http_body_bytes_per_address_max", "\"8MiB\"", "8MiB"),
    ("limits.metrics_series_max", "7", "7"),
    ("delivery.timeout", "\"7s\"", "7s"),
    ("delivery.timeout_max", "\"7m\"", "7m"),
    ("delivery.requeue_delay_max", "\"7h\"", "7h"),
    ("delivery.credit_messages_max", "7", "7"),
    ("delivery.credit_bytes_max", "\"7MiB\"", "7MiB"),
    ("delivery.channel_runs_max", "7000", "7000"),
    ("delivery.ack_commit_interval", "\"7ms\"", "7ms"),
    ("retention.keep", "\"all\"", "all"),
    ("retention.age_max", "\"7days\"", "7days"),
    ("retention.bytes_max", "\"10GiB\"", "10GiB"),
    ("file_store.tail_bytes", "\"7MiB\"", "7MiB"),
    ("file_store.journal_bytes_max", "\"128MiB\"", "128MiB"),
    ("file_store.segment_bytes", "\"7MiB\"", "7MiB"),
    ("file_store.disk_bytes_max", "\"7GiB\"", "7GiB"),
    ("file_store.reserve_bytes", "\"7MiB\"", "7MiB"),
    ("file_store.os_sync_interval", "\"7s\"", "7s"),
    ("file_store.caller_sync_max", "\"7ms\"", "7ms"),
    ("memory_store.bytes_max", "\"7MiB\"", "7MiB"),
    ("rocksdb_store.tail_bytes", "\"7MiB\"", "7MiB"),
    ("rocksdb_store.disk_bytes_max", "\"7GiB\"", "7GiB"),
    ("rocksdb_store.reserve_bytes", "\"7MiB\"", "7MiB"),
    ("rocksdb_store.os_sync_interval", "\"7s\"", "7s"),
];

fn as_file(key: &str, value: &str) -> String {
    match key.split_once('.') {
        None => format!("{key} = {value}\n"),
        Some((table, key)) => format!("[{table}]\n{key} = {value}\n"),
    }
}

/// Flags without which the setting makes no sense.
fn beside(key: &str) -> &'static [&'static str] {
    if key == "dev_tls" { &["--listen", "quic://127.0.0.1:0"] } else { &[] }
}

#[test]
fn every_setting_is_read_from_the_file_and_from_its_variable() {
    let mut tested: Vec<_> = OTHERS.iter().map(|(key, ..)| (*key).to_owned()).collect();
    let mut known = known_keys::<Config>();
    tested.sort();
    known.sort();
    assert_eq!(tested, known, "each setting needs a line in OTHERS");

    let default = load(None, &[], &[]).unwrap();
    for (key, in_file, as_variable) in OTHERS {
        let from_file = load(Some(&as_file(key, in_file)), &[], beside(key)).unwrap();
        assert_ne!(from_file, default, "{key} in the file is ignored");
        if layers::FILE_ONLY.contains(key) {
            continue;
        }
        let name = layers::variable::<Config>(key);
        let from_variable = load(None, &[(&name, as_variable)], beside(key)).unwrap();
        assert_eq!(from_variable, from_file, "{name} does not say what {key} in the file does");
    }
}

/// What of a configuration takes effect, for comparison.
fn effects(config: &Config) -> String {
    let access = NodeAccess::new(config);
    let node = (
        config.store,
        config.http_address(),
        config.metrics_public,
        (&config.listen, config.listen_retry, config.unix_mode),
        config.stop_timeout,
        config.log_format,
        config.log_level,
        (config.limits.http_connections_max, config.limits.http_connections_per_address_max),
        config.limits.http_request_timeout,
        (config.limits.http_body_bytes_total_max, config.limits.http_body_bytes_per_address_max),
        config.limits.metrics_series_max,
        config.memory_store.bytes_max,
    );
    #[cfg(feature = "rocksdb")]
    let rocksdb = config.rocksdb_store_options();
    // Without the feature there is nothing that they could take effect on.
    #[cfg(not(feature = "rocksdb"))]
    let rocksdb = &config.rocksdb_store;
    let tls = &config.tls;
    let files = (&tls.certificate, &tls.key, &tls.client_authorities, &tls.client_revocations);
    #[cfg(feature = "tls")]
    let tls = config.tls_options();
    #[cfg(feature = "quic")]
    let quic = config.quic_options();
    #[cfg(not(feature = "quic"))]
    let quic = &config.quic;
    let secure = (files, tls, quic);
    let found = (&config.registry, config.advertised(&[]), config.registry_token());
    let found = (found, &config.discovery);
    let found = (found, &config.drain, config.drain_token());
    let (broker, file) = (config.broker_settings(), config.file_store_options());
    format!("{node:?} {found:?} {secure:?} {access:?} {broker:?} {file:?} {rocksdb:?}")
}

#[test]
fn every_setting_reaches_what_it_is_for() {
    let default = effects(&load(None, &[], &[]).unwrap());
    for (key, in_file, _) in OTHERS {
        // One only says whether an address may be listened on: tested below. What the other does is
        // tested where a node listens.
        if ["allow_unauthenticated", "dev_tls"].contains(key) {
            continue;
        }
        let changed = effects(&load(Some(&as_file(key, in_file)), &[], &[]).unwrap());
        assert_ne!(changed, default, "{key} has no effect");
    }
}

#[test]
fn every_flag_counts() {
    let default = load(None, &[], &[]).unwrap();
    for (flags, same_in_file) in [
        (&["--data-dir", "/tmp/other"][..], "data_dir = \"/tmp/other\""),
        (&["--store", "memory"], "store = \"memory\""),
        (&["--durability", "os"], "durability = \"os\""),
        (&["--listen", "tcp://127.0.0.1:1"], "listen = [\"tcp://127.0.0.1:1\"]"),
        (
            &["--listen", "tcp://127.0.0.1:1", "--listen", "tcp://[::1]:2"],
            "listen = [\"tcp://127.0.0.1:1\", \"tcp://[::1]:2\"]",
        ),
        (
            &["--listen", "tls://127.0.0.1:1", "--dev-tls"],
            "listen = [\"tls://127.0.0.1:1\"]\ndev_tls = true",
        ),
        (
            &["--tls-certificate", "c", "--tls-key", "k", "--tls-client-authorities", "a"],
            "[tls]\ncertificate = \"c\"\nkey = \"k\"\nclient_authorities = \"a\"",
        ),
        (
            &["--tls-client-authorities", "a", "--tls-client-revocations", "r"],
            "[tls]\nclient_authorities = \"a\"\nclient_revocations = \"r\"",
        ),
        (&["--http", "127.0.0.1:1"], "http = \"127.0.0.1:1\""),
        (&["--token", "secret"], "token = \"secret\""),
        (&["--log-format", "json"], "log_format = \"json\""),
        (&["--log-level", "trace"], "log_level = \"trace\""),
    ] {
        let config = load(None, &[], flags).unwrap();
        assert_ne!(config, default, "{flags:?} is ignored");
        assert_eq!(config, load(Some(same_in_file), &[], &[]).unwrap(), "{flags:?}");
    }
}

#[test]
fn flags_come_before_variables_before_the_file_before_defaults() {
    let file =
        "http = \"127.0.0.1:1\"\nnode = \"file\"\n[limits]\ntopics_max = 1\nheartbeat = \"1s\"\n";
    let variables = [("LTQ_HTTP", "127.0.0.1:2"), ("LTQ_LIMITS_TOPICS_MAX", "2")];
    let config = load(Some(file), &variables, &["--http", "127.0.0.1:3"]).unwrap();
    assert_eq!(config.http, "127.0.0.1:3");
    assert_eq!(config.limits.topics_max, 2);
    assert_eq!(config.node, "file");
    assert_eq!(config.limits.heartbeat.to_string(), "1s");
    assert_eq!(config.limits.channels_max, Limits::default().channels_max);
    assert_eq!(load(Some(file), &variables, &[]).unwrap().http, "127.0.0.1:2");
}

#[test]
fn an_address_that_takes_a_certificate_says_how_to_get_one() {
    for scheme in ["tls", "quic"] {
        let listen = format!("listen = [\"{scheme}://127.0.0.1:1\"]\n");
        let error = refusal(Some(&listen), &[], &[]);
        for word in ["tls.certificate", "--tls-certificate FILE --tls-key FILE", "--dev-tls"] {
            assert!(error.contains(word), "{word} is not in: {error}");
        }
        for (one, other) in [("certificate", "key"), ("key", "certificate")] {
            let half = format!("{listen}[tls]\n{one} = \"file.pem\"");
            let error = refusal(Some(&half), &[], &[]);
            assert!(error.contains(&format!("tls.{other}")), "{error}");
        }
        let both = format!("{listen}[tls]\ncertificate = \"a\"\nkey = \"b\"");
        load(Some(&both), &[], &[]).unwrap();
        load(Some(&listen), &[], &["--dev-tls"]).unwrap();
        assert!(refusal(Some(&both), &[], &["--dev-tls"]).contains("leave one of them out"));
        // What is on the way is encrypted, and still anybody could come in.
        let open = format!("{scheme}://0.0.0.0:1");
        let error = refusal(None, &[], &["--listen", &open, "--dev-tls"]);
        assert!(error.contains("without a token"), "{error}");
        load(None, &[], &["--listen", &open, "--dev-tls", "--token", LONG]).unwrap();
    }
    assert!(refusal(None, &[], &["--dev-tls"]).contains("no tls:// or quic:// address"));
}

#[test]
fn the_file_may_be_named_by_a_variable_and_the_flag_wins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("by-variable.toml");
    std::fs::write(&path, "node = \"by-variable\"").unwrap();
    let variables = [("LTQ_CONFIG", path.to_str().unwrap())];
    assert_eq!(load(None, &variables, &[]).unwrap().node, "by-variable");
    assert_eq!(load(Some("node = \"by-flag\""), &variables, &[]).unwrap().node, "by-flag");
    let missing = refusal(None, &[("LTQ_CONFIG", "/no/such/file.toml")], &[]);
    assert!(missing.contains("/no/such/file.toml"), "{missing}");
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    for (file, key, nearest) in [
        ("data_dri = \"x\"", "data_dri", "data_dir"),
        ("message_bytes_max = 1", "message_bytes_max", "limits.message_bytes_max"),
        ("[limits]\ntopic_max = 1", "limits.topic_max", "limits.topics_max"),
        ("[limit]\ntopics_max = 1", "limit.topics_max", "limits.topics_max"),
        ("[delivery.timeout]\nmax = 1", "delivery.timeout.max", "delivery.timeout_max"),
    ] {
        let error = refusal(Some(file), &[], &[]);
        assert!(error.contains(&format!("{key:?}")), "{error}");
        assert!(error.contains(&format!("the nearest is {nearest:?}")), "{error}");
        assert!(error.contains("ltq.toml"), "{error}");
    }
    let error = refusal(None, &[("LTQ_TOKN", "secret")], &[]);
    assert!(error.contains("LTQ_TOKN") && error.contains("\"LTQ_TOKEN\""), "{error}");
}

#[test]
fn variables_that_are_not_the_nodes_are_left_alone() {
    let others = [
        ("LTQ_SERVER", "tcp://elsewhere:1"),
        ("LTQ_TLS_CA", "a"),
        ("LTQ_TLS_FINGERPRINT", "f"),
        ("LTQ_TLS_CLIENT_CERT", "c"),
        ("LTQ_TLS_CLIENT_KEY", "k"),
        ("LTQ_SERVICE_HOST", "10.0.0.1"),
        ("LTQ_PORT", "tcp://10.0.0.1:7440"),
        ("LTQ_PORT_7440_TCP_ADDR", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    assert_eq!(load(None, &others, &[]).unwrap(), Config::default());
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_what_it_should_be() {
    for (file, parts) in [
        ("store = \"fil\"", &["store:", "\"fil\"", "file, memory", "nearest is \"file\""][..]),
        ("durability = \"dsk\"", &["durability:", "nearest is \"disk\""]),
        ("stop_timeout = \"30\"", &["stop_timeout:", "30s"]),
        ("stop_timeout = 30", &["stop_timeout:", "30s"]),
        ("listen = \"tcp://127.0.0.1:1\"", &["listen:", "sequence"]),
        ("[limits]\nmessage_bytes_max = \"big\"", &["limits.message_bytes_max:", "64MiB"]),
        ("[limits]\nmessage_bytes_max = -1", &["limits.message_bytes_max:", "-1"]),
        ("[limits]\ntopics_max = \"many\"", &["limits.topics_max:", "many"]),
        ("limits = 3", &["limits", "[limits]"]),
        ("store = [", &["ltq.toml is not TOML", "line 1"]),
    ] {
        let error = refusal(Some(file), &[], &[]);
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
    for (name, value) in
        [("LTQ_LIMITS_TOPICS_MAX", "many"), ("LTQ_AUTO_CREATE_TOPICS", "yes"), ("LTQ_STORE", "")]
    {
        let error = refusal(None, &[(name, value)], &[]);
        assert!(error.starts_with(name), "{error}");
    }
}

#[test]
fn a_value_out_of_range_is_named_with_the_nearest() {
    for (key, value, parts) in [
        ("stop_timeout", "\"1ms\"", &["1ms", "the nearest is 100ms"][..]),
        ("quic.keep_alive", "\"1ms\"", &["1ms", "the nearest is 100ms"]),
        // Half of the time after which a connection is lost.
        ("quic.keep_alive", "\"8s\"", &["8s", "the nearest is 7s 500ms"]),
        ("delivery.timeout", "\"16m\"", &["16m", "the nearest is 15m"]),
        ("delivery.credit_messages_max", "0", &["0", "the nearest is 1"]),
        ("limits.http_body_bytes_total_max", "\"1MiB\"", &["1MiB", "the nearest is 8MiB"]),
        ("limits.http_body_bytes_per_address_max", "\"1MiB\"", &["1MiB", "the nearest is 8MiB"]),
        ("memory_store.bytes_max", "0", &["0B", "the nearest is 1MiB"]),
        (
            "file_store.journal_bytes_max",
            "\"16MiB\"",
            &["limits.frame_bytes_max cannot be 8MiB", "at most 2MiB", "at least 64MiB"],
        ),
        // The broker's own rules.
        ("limits.message_bytes_max", "0", &["0", "1 to"]),
        ("limits.message_bytes_max", "\"8MiB\"", &["limits.frame_bytes_max", "at least"]),
        ("limits.message_bytes_max", "\"5GiB\"", &["be 5GiB", "1 to"]),
        ("limits.topics_max", "0", &["at least 1"]),
        ("limits.heartbeat", "\"1ms\"", &["be 1ms", "the nearest is 100ms"]),
        ("token", "\"\"", &["1 to 1,024"]),
        ("node", "\"\"", &["1 to 256"]),
    ] {
        let error = refusal(Some(&as_file(key, value)), &[], &[]);
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        assert!(error.contains(" cannot be "), "{error}");
        if !parts.iter().any(|part| part.starts_with("limits.")) {
            assert!(error.starts_with(key), "{error}");
        }
    }
}

#[test]
fn the_file_store_s_own_rules_are_checked_before_it_is_opened() {
    for (key, value, start) in [
        ("file_store.tail_bytes", "1", "file_store.tail_bytes cannot be 1B"),
        ("file_store.journal_bytes_max", "1000", "file_store.journal_bytes_max cannot be 1000B"),
        ("file_store.disk_bytes_max", "\"1MiB\"", "file_store: disk_bytes_max is 1048576"),
        ("file_store.os_sync_interval", "\"2h\"", "file_store.os_sync_interval cannot be 2h"),
    ] {
        let error = refusal(Some(&as_file(key, value)), &[], &[]);
        assert!(error.starts_with(start), "{error}");
    }
}

#[test]
fn addresses_are_checked_before_anything_starts() {
    for (listen, part) in [
        ("ws://127.0.0.1:1", "tcp://HOST:PORT"),
        ("unix://ltq.sock", "unix:///PATH"),
        ("tcp://127.0.0.1", "HOST:PORT"),
        ("tcp://127.0.0.1:x", "0 (any free one) to 65535"),
        ("tcp://:7440", "name the host"),
        ("tcp://", "no address"),
    ] {
        let error = refusal(None, &[], &["--listen", listen]);
        assert!(error.starts_with("listen") && error.contains(part), "{error}");
    }
    assert!(refusal(Some("listen = []"), &[], &[]).contains("at least one"));
    assert!(refusal(None, &[], &["--http", ""]).starts_with("http cannot be empty"));
    assert!(refusal(None, &[], &["--data-dir", ""]).starts_with("data_dir cannot be empty"));
    assert!(refusal(None, &[], &["--http", "localhost"]).starts_with("http"));
}

#[test]
fn beyond_this_machine_a_token_is_asked_for() {
    for open in [&["--listen", "tcp://0.0.0.0:7440"][..], &["--http", "10.0.0.1:1"]] {
        let error = refusal(None, &[], open);
        assert!(error.contains("allow_unauthenticated = true"), "{error}");
        load(None, &[], &[open, &["--token", LONG]].concat()).unwrap();
        load(Some("allow_unauthenticated = true"), &[], open).unwrap();
    }
    for near in
        ["tcp://127.1.2.3:1", "tcp://localhost:1", "tcp://[::1]:1", "unix:///run/ltq/ltq.sock"]
    {
        load(None, &[], &["--listen", near]).unwrap();
    }
    assert!(load(None, &[], &["--listen", "tcp://example.org:1"]).is_err());
    let (shared, socket) = ("unix_mode = \"660\"\n", &["--listen", "unix:///run/ltq/ltq.sock"][..]);
    let error = refusal(Some(shared), &[], socket);
    assert!(error.contains("unix_mode") && error.contains("[[identities]]"), "{error}");
    load(Some(&format!("{shared}token = \"secret\"")), &[], socket).unwrap();
    load(Some(&format!("{shared}allow_unauthenticated = true")), &[], socket).unwrap();
    load(Some(shared), &[], &[]).unwrap();
    for wrong in ["0", "68", "999", "1777", "+66", "rw-rw----"] {
        let error = refusal(Some(&format!("unix_mode = \"{wrong}\"")), &[], &[]);
        assert!(error.contains("unix_mode") && error.contains("600 or 0660"), "{error}");
    }
}

#[test]
fn tokens_and_identities_are_checked() {
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    let token =
        |name: &str, hash: &str| format!("[[tokens]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n");
    let good = token("a", &a) + &token("b", &b) + "publish = [\"orders.*\", \"*\"]\n";
    let config = load(Some(&good), &[], &["--listen", "tcp://0.0.0.0:7440"]).unwrap();
    assert_eq!(config.tokens[1].publish.len(), 2);
    let alice = "[[identities]]\nidentity = \"alice\"\n";
    load(Some(alice), &[], &["--listen", "tcp://0.0.0.0:7440"]).unwrap();
    let plain = "token = \"abc\"\n";
    for (file, part) in [
        (token("a", &a) + &token("a", &b), "another token has that name"),
        (token("a", &a) + &token("b", &a), "another token has that hash"),
        (plain.to_owned() + &token("a", &TokenHash::of("abc").to_string()), "has that hash"),
        (token("a b", &a), "letters, digits"),
        (token("", &a), "letters, digits"),
        (token("a", "s3cret-token"), "64 hexadecimal digits"),
        (token("a", &a) + "publish = [\"a*b\"]", "no pattern of topics"),
        (token("a", &a) + "publsh = [\"a\"]", "publsh"),
        ("[[tokens]]\nname = \"a\"".to_owned(), "sha256"),
        (alice.repeat(2), "twice"),
        ("[[identities]]\nidentity = \"\"".to_owned(), "1 to"),
    ] {
        let error = refusal(Some(&file), &[], &[]);
        assert!(error.contains(part) && !error.contains("s3cret"), "{part:?} is not in {error:?}");
    }
    let many = |count: usize| -> String {
        (0..count)
            .map(|n| token(&n.to_string(), &TokenHash::of(&n.to_string()).to_string()))
            .collect()
    };
    load(Some(&many(1_000)), &[], &[]).unwrap();
    let error = refusal(Some(&many(1_001)), &[], &[]);
    assert!(error.contains("at most 1000"), "{error}");
    // A line that is no TOML is told by its number: what it says may be secret.
    let error = refusal(Some("node = \"a\"\ntoken = s3cret\n"), &[], &[]);
    assert!(error.contains("line 2, column 9") && !error.contains("s3cret"), "{error}");
    let error = refusal(None, &[("LTQ_TOKENS", "a")], &[]);
    assert!(error.contains("LTQ_TOKENS") && error.contains("LTQ_TOKEN\""), "{error}");
}

#[test]
fn what_differs_from_what_a_node_was_started_with_is_named() {
    let before = load(Some("node = \"a\""), &[], &[]).unwrap();
    let file = "node = \"b\"\ntoken = \"x\"\nidentities = [{ identity = \"i\" }]\n[limits]\ntopics_max = 7";
    let after = load(Some(file), &[], &[]).unwrap();
    assert_eq!(fixed_differences(&before, &before), [""; 0]);
    let mut named = fixed_differences(&before, &after);
    named.sort_unstable();
    assert_eq!(named, ["limits.topics_max", "node"]);
}

#[test]
fn the_memory_store_confirms_by_memory() {
    let config = load(None, &[], &["--store", "memory"]).unwrap();
    assert_eq!(config.durability(), Durability::Memory);
    assert_eq!(config.broker_settings().topic.durability, Durability::Memory);
    assert_eq!(load(None, &[], &[]).unwrap().durability(), Durability::Disk);
    let error = refusal(None, &[], &["--store", "memory", "--durability", "disk"]);
    assert!(error.starts_with("durability cannot be disk"), "{error}");
}

#[test]
fn the_printed_configuration_says_the_same_and_keeps_the_secret() {
    let mut text = String::new();
    let mut table = "";
    for (key, value, _) in OTHERS {
        // The store that is not the default cannot confirm as the durability here, and there is a
        // certificate already, and an authority.
        let apart = [
            "token",
            "discovery.token",
            "drain.token",
            "store",
            "dev_tls",
            "discovery.tls_fingerprint",
            "drain.tls_fingerprint",
            // The registries here are none of an etcd, whose these are.
            "discovery.etcd_user",
            "discovery.etcd_password",
        ];
        if apart.contains(key) {
            continue;
        }
        match key.split_once('.') {
            None => text.push_str(&format!("{key} = {value}\n")),
            Some((in_table, key)) => {
                if in_table != table {
                    table = in_table;
                    text.push_str(&format!("[{table}]\n"));
                }
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
    }
    let config = load(Some(&text), &[], &[]).unwrap();
    assert_eq!(load(Some(&config.to_toml()), &[], &[]).unwrap(), config);

    let announces = load(None, &[("LTQ_DISCOVERY_TOKEN", "s3cr3t")], &[]).unwrap();
    assert!(!format!("{announces:?} {}", announces.to_toml()).contains("s3cr3t"));
    let hands_over = load(None, &[("LTQ_DRAIN_TOKEN", "s3cr3t")], &[]).unwrap();
    assert!(!format!("{hands_over:?} {}", hands_over.to_toml()).contains("s3cr3t"));
    let secret = load(None, &[("LTQ_TOKEN", "s3cr3t")], &[]).unwrap();
    assert!(!format!("{secret:?} {:?}", secret.broker_settings()).contains("s3cr3t"));
    assert!(!secret.to_toml().contains("s3cr3t"), "{}", secret.to_toml());
    assert!(secret.to_toml().contains("A token is set"), "{}", secret.to_toml());
}

#[test]
fn flags_are_well_formed_and_refuse_what_they_do_not_know() {
    Flags::command().debug_assert();
    for bad in [&["--stor", "file"][..], &["--store", "tape"], &["--durability", "paper"], &["x"]] {
        let error = Flags::try_parse_from([&["ltq-node"], bad].concat()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{bad:?}");
    }
    let error = Flags::try_parse_from(["ltq-node", "--store", "fil"]).unwrap_err().to_string();
    assert!(error.contains("'file'"), "{error}");
}
