//! `docs/registry.md` says what the program does, and each setting counts.

use std::{collections::BTreeMap, ffi::OsString, path::Path, sync::Arc};

use clap::CommandFactory as _;
use toml::{Table, Value};

use super::*;
use crate::config::{ConfigError, Flags, layers};

fn load(file: Option<&str>, variables: &[(&str, &str)]) -> Result<RegistryConfig, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let mut flags = RegistryFlags::default();
    if let Some(text) = file {
        let path = directory.path().join("registry.toml");
        std::fs::write(&path, text).unwrap();
        flags.config = Some(path);
    }
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    ConfigSource::<RegistryConfig>::new(flags, variables.collect::<Vec<(OsString, OsString)>>())
        .load()
}

fn as_file(key: &str, value: &str) -> String {
    match key.split_once('.') {
        None => format!("{key} = {value}\n"),
        Some((table, key)) => format!("[{table}]\n{key} = {value}\n"),
    }
}

/// The rows of the page's table, by key: flag, variable, default, range, words.
fn rows() -> BTreeMap<String, Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/registry.md");
    let page = std::fs::read_to_string(page).unwrap();
    let settings = page.split("## Settings").nth(1).unwrap();
    let mut rows = BTreeMap::new();
    for line in settings.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        let key = cells.next().unwrap().trim_matches('`').to_owned();
        assert!(rows.insert(key.clone(), cells.collect::<Vec<_>>()).is_none(), "{key} twice");
    }
    rows
}

#[test]
fn every_setting_has_its_row_and_its_default_is_as_it_says() {
    let rows = rows();
    let mut known = layers::known_keys::<RegistryConfig>();
    known.sort();
    assert_eq!(rows.keys().cloned().collect::<Vec<_>>(), known);
    let command = Flags::command();
    let command = command.find_subcommand("registry").unwrap();
    let flags: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    for (key, cells) in &rows {
        let [flag, variable, default, _, words] = &cells[..] else { panic!("{key}: {cells:?}") };
        let long = key.replace(['_', '.'], "-");
        let expected = match flags.contains(&&*long) {
            true => format!("`--{long}`"),
            false => String::new(),
        };
        assert_eq!(*flag, expected, "{key}");
        let expected = match layers::FILE_ONLY.contains(&&**key) {
            true => String::new(),
            false => format!("`{}`", layers::variable::<RegistryConfig>(key)),
        };
        assert_eq!(*variable, expected, "{key}");
        assert!(words.ends_with('.'), "{key}: {words}");
        let shown = layers::shown(&RegistryConfig::default(), key);
        let shown = shown.map(|value| value.trim_matches(['[', ']']).trim_matches('"').to_owned());
        let shown = shown.filter(|value| !value.is_empty());
        let shown = shown.map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        assert_eq!(*default, shown, "{key}");
    }
}

#[test]
fn what_is_shared_with_nodes_has_the_ranges_that_it_has_there() {
    for (key, value) in [("tls.handshakes_max", "0"), ("quic.idle_timeout", "\"1ms\"")] {
        let error = load(Some(&as_file(key, value)), &[]).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("it must be from"), "{error}");
    }
}

/// Another value than the default one, as a file says it.
fn another(key: &str) -> Value {
    let table = Table::try_from(RegistryConfig::default()).unwrap();
    let known = match key.split_once('.') {
        None => table.get(key).cloned(),
        Some((head, rest)) => table.get(head).and_then(|table| table.get(rest)).cloned(),
    };
    match (key, known) {
        ("tokens", _) => toml::from_str::<Table>(
            "a = [{ name = \"a\", sha256 = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" }]",
        )
        .unwrap()
        .remove("a")
        .unwrap(),
        ("identities", _) => {
            toml::from_str::<Table>("a = [{ identity = \"alice\" }]").unwrap().remove("a").unwrap()
        }
        ("listen", _) => vec!["tcp://127.0.0.1:1", "tcp://[::1]:2"].into(),
        ("http", _) => "off".into(),
        ("unix_mode", _) => "640".into(),
        ("log_format", _) => "json".into(),
        ("log_level", _) => "debug".into(),
        ("quic.congestion", _) => "cubic".into(),
        (_, Some(Value::Boolean(it))) => (!it).into(),
        (_, Some(Value::Integer(it))) => (it + 7).into(),
        (_, Some(Value::String(text))) if text.ends_with("iB") => "7MiB".into(),
        (_, Some(Value::String(text))) if text.ends_with('s') => "7s".into(),
        ("limits.exempt_addresses", _) => vec!["10.0.0.0/8", "2001:db8::7"].into(),
        (key, None) if key.ends_with("_max") && !key.contains("bytes") => 7.into(),
        ("quic.keep_alive", None) => "2s".into(),
        ("quic.windows_bytes_per_address_max", None) => "7MiB".into(),
        (_, None) => "/tmp/other".into(),
        (key, other) => panic!("what is another value of {key} than {other:?}?"),
    }
}

/// What of a configuration takes effect, for comparison.
fn effects(config: &RegistryConfig) -> String {
    let shared = config.as_node();
    let access = Arc::new(NodeAccess::new(&shared));
    let settings = config.server_settings(access.clone());
    let limits = (
        settings.hello_timeout,
        settings.connections_max,
        settings.connections_per_address_max,
        settings.entrance,
        settings.addresses_known_max,
        settings.watches_max,
        settings.frames_max,
        config.limits.http_connections_max,
        config.limits.http_request_timeout,
    );
    let wires = (&shared.listen, shared.listen_retry, shared.unix_mode, &shared.tls, &shared.quic);
    let http = (config.http_address(), config.metrics_public, config.log_format, config.log_level);
    format!("{:?} {limits:?} {wires:?} {http:?} {access:?}", settings.registry)
}

#[test]
fn every_setting_is_read_from_file_and_variable_and_reaches_what_it_is_for() {
    let default = load(None, &[]).unwrap();
    for key in layers::known_keys::<RegistryConfig>() {
        let value = another(&key);
        let from_file = load(Some(&as_file(&key, &value.to_string())), &[]).unwrap();
        assert_ne!(from_file, default, "{key} in the file is ignored");
        // It only says whether an address may be listened on.
        if key != "allow_unauthenticated" {
            assert_ne!(effects(&from_file), effects(&default), "{key} has no effect");
        }
        if layers::FILE_ONLY.contains(&&*key) {
            continue;
        }
        let name = layers::variable::<RegistryConfig>(&key);
        let text = match &value {
            Value::Array(list) => {
                list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
            }
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let from_variable = load(None, &[(&name, &text)]).unwrap();
        assert_eq!(from_variable, from_file, "{name} does not say what {key} in the file does");
    }
}

#[cfg(all(feature = "tls", feature = "quic"))]
#[test]
fn handshakes_go_by_the_rate_of_connections_and_exempt_the_same_addresses() {
    let file = "[limits]\nconnections_per_second_max = 7\naddresses_known_max = 9\n\
                exempt_addresses = [\"10.0.0.0/8\"]\n";
    let config = load(Some(file), &[]).unwrap();
    let (tls, quic) = (config.as_node().tls_options(), config.as_node().quic_options());
    assert_eq!((tls.handshakes_per_second_max, quic.handshakes_per_second_max), (7, 7));
    assert_eq!((tls.addresses_known_max, quic.addresses_known_max), (9, 9));
    for exempt in [&tls.exempt_addresses, &quic.exempt_addresses] {
        assert!(exempt.holds("10.1.2.3".parse().unwrap()));
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (key, value, why) in [
        ("heartbeat", "\"99ms\"", "heartbeat cannot be 99ms"),
        ("suspected_after", "1", "suspected_after cannot be 1"),
        ("forgotten_after", "2", "forgotten_after cannot be 2"),
        ("limits.nodes_max", "0", "limits.nodes_max cannot be 0"),
        ("limits.frames_max", "0", "limits.frames_max cannot be 0"),
        ("limits.greeting_connections_max", "0", "limits.greeting_connections_max cannot be 0"),
        (
            "limits.greeting_connections_per_address_max",
            "0",
            "limits.greeting_connections_per_address_max cannot be 0",
        ),
        ("limits.connections_per_second_max", "0", "limits.connections_per_second_max cannot be 0"),
        ("limits.addresses_known_max", "0", "limits.addresses_known_max cannot be 0"),
        ("limits.exempt_addresses", "[\"0.0.0.0/0\"]", "every address"),
        ("listen", "[\"tcp://0.0.0.0:1\"]", "without a token"),
        ("http", "\"0.0.0.0:1\"", "without a token"),
        ("data_dir", "\"/tmp\"", "there is no setting \"data_dir\""),
    ] {
        let error = load(Some(&as_file(key, value)), &[]).expect_err(why).to_string();
        assert!(error.contains(why), "{error} is not {why}");
    }
    let error = load(None, &[("LTQ_REGISTRY_LISTNE", "a")]).expect_err("no such one").to_string();
    assert!(error.contains("LTQ_REGISTRY_LISTEN"), "{error}");
    // Those of a node are none of its.
    assert_eq!(load(None, &[("LTQ_DATA_DIR", "/tmp")]).unwrap(), RegistryConfig::default());
}

#[test]
fn the_token_is_not_printed() {
    let config = RegistryConfig { token: Some("secret".into()), ..RegistryConfig::default() };
    let text = config.to_toml();
    assert!(!text.contains("secret") && text.contains("A token is set"), "{text}");
    let again = load(Some(&text), &[]).unwrap();
    assert_eq!(again, RegistryConfig { token: None, ..config });
}
