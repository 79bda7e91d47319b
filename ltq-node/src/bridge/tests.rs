//! `docs/bridge.md` says what the program does, and each setting counts.

use std::{collections::BTreeMap, ffi::OsString, path::Path};

use clap::CommandFactory as _;
use toml::{Table, Value};

use super::{side::Side, *};
use crate::config::{ConfigError, ConfigSource, Flags, Settings as _, layers};

fn load(
    file: Option<&Table>,
    variables: &[(&str, &str)],
    mut flags: BridgeFlags,
) -> Result<BridgeConfig, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    if let Some(table) = file {
        let path = directory.path().join("bridge.toml");
        std::fs::write(&path, toml::to_string(table).unwrap()).unwrap();
        flags.config = Some(path);
    }
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    ConfigSource::<BridgeConfig>::new(flags, variables.collect::<Vec<(OsString, OsString)>>())
        .load()
}

fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((head, rest)) => {
            let inner = table.entry(head).or_insert_with(|| Table::new().into());
            inner.as_table_mut().unwrap().insert(rest.to_owned(), value);
        }
    }
}

/// What a configuration has at least, but for `key` and what does not go with it.
fn least(key: &str) -> Table {
    let mut table = Table::new();
    for (other, value) in [("from.servers", "tcp://a:1"), ("to.servers", "tcp://b:1")] {
        if key != other.replace("servers", "registries") {
            set(&mut table, other, Value::Array(vec![value.into()]));
        }
    }
    if key != "routes" {
        set(&mut table, "route.topics", Value::Array(vec!["orders".into()]));
    }
    for side in ["from", "to"] {
        let of = |rest: &str| format!("{side}.{rest}");
        if key == of("etcd_user") || key == of("etcd_password") {
            let inner = table[side].as_table_mut().unwrap();
            inner.remove("servers");
            set(&mut table, &of("registries"), Value::Array(vec!["etcd://e:1/x".into()]));
            set(&mut table, &of("etcd_user"), "me".into());
            set(&mut table, &of("etcd_password"), "secret".into());
        }
        if key == of("tls_certificate") || key == of("tls_key") {
            set(&mut table, &of("tls_ca"), "/tmp/ca".into());
            set(&mut table, &of("tls_certificate"), "/tmp/certificate".into());
            set(&mut table, &of("tls_key"), "/tmp/key".into());
        }
    }
    table
}

/// The rows of the page's table, by key: flag, variable, default, range, words.
fn rows() -> BTreeMap<String, Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bridge.md");
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

/// The flag of a key, if it has one.
fn flag(key: &str, flags: &[&str]) -> Option<String> {
    let long = match key {
        "from.servers" => "from".to_owned(),
        "to.servers" => "to".to_owned(),
        "from.registries" => "from-registry".to_owned(),
        "to.registries" => "to-registry".to_owned(),
        "route.topics" => "topic".to_owned(),
        "route.exclude" => "exclude".to_owned(),
        "route.headers" => "header".to_owned(),
        "route.prefix" => "prefix".to_owned(),
        "route.name" => return None,
        other => other.replace(['_', '.'], "-"),
    };
    flags.contains(&&*long).then_some(long)
}

fn every_flag() -> Vec<String> {
    let command = Flags::command();
    let command = command.find_subcommand("bridge").unwrap();
    command.get_arguments().filter_map(clap::Arg::get_long).map(str::to_owned).collect()
}

#[test]
fn every_setting_has_its_row_and_its_default_is_as_it_says() {
    let rows = rows();
    let mut known = layers::known_keys::<BridgeConfig>();
    known.sort();
    assert_eq!(rows.keys().cloned().collect::<Vec<_>>(), known);
    let flags = every_flag();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let mut used = vec!["config".to_owned(), "print-config".to_owned()];
    for (key, cells) in &rows {
        let [shown_flag, variable, default, _, words] = &cells[..] else {
            panic!("{key}: {cells:?}")
        };
        let long = flag(key, &flags);
        used.extend(long.clone());
        assert_eq!(*shown_flag, long.map(|it| format!("`--{it}`")).unwrap_or_default(), "{key}");
        let expected = match layers::FILE_ONLY.contains(&&**key) {
            true => String::new(),
            false => format!("`{}`", layers::variable::<BridgeConfig>(key)),
        };
        assert_eq!(*variable, expected, "{key}");
        assert!(words.ends_with('.'), "{key}: {words}");
        let shown = layers::shown(&BridgeConfig::default(), key).filter(|value| !value.is_empty());
        let shown = shown.map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        assert_eq!(*default, shown, "{key}");
    }
    assert!(
        flags.iter().all(|it| used.iter().any(|used| used == it)),
        "{flags:?} are not {used:?}"
    );
}

#[test]
fn the_page_names_every_figure_and_path() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bridge.md");
    let page = std::fs::read_to_string(page).unwrap();
    let source = include_str!("http.rs");
    let mut figures = 0;
    for word in source.split('"').filter(|word| word.starts_with("ltq_bridge_")) {
        figures += 1;
        assert!(page.contains(&format!("`{word}`")), "{word} is not on the page");
    }
    assert!(figures > 10, "{figures}");
    let shared = include_str!("../http/page.rs").split(".route(\"").skip(1);
    let paths = shared.filter_map(|rest| rest.split('"').next());
    for path in paths.chain([<http::Looked as crate::http::page::Shown>::LISTING]) {
        assert!(page.contains(&format!("GET {path}")), "{path} is not on the page");
    }
}

/// Another value than the default one, as a file says it.
fn another(key: &str) -> Value {
    let list = |text: &str| Value::Array(vec![text.into()]);
    let (_, last) = key.rsplit_once('.').unwrap_or(("", key));
    match (key, last) {
        ("http", _) => "127.0.0.1:9".into(),
        ("log_format", _) => "json".into(),
        ("log_level", _) => "debug".into(),
        ("limits.bytes_total_max", _) => "512MiB".into(),
        ("routes", _) => {
            let mut route = Table::new();
            set(&mut route, "name", "more".into());
            set(&mut route, "topics", list("mail"));
            Value::Array(vec![route.into()])
        }
        (_, "servers" | "registries") => list("tcp://other:1"),
        (_, "tls_fingerprint") => format!("sha256:{}", "ab".repeat(32)).into(),
        (_, "topics" | "exclude") => list("mail*"),
        (_, "headers") => list("region=eu"),
        (_, "start") => "latest".into(),
        (_, "durability") => "os".into(),
        _ => match layers::shown(&BridgeConfig::default(), key) {
            Some(text) if text == "true" || text == "false" => (text != "true").into(),
            Some(text) if text.ends_with("iB") => "7MiB".into(),
            Some(text) if text.parse::<i64>().is_ok() => {
                (text.parse::<i64>().unwrap_or_default() + 7).into()
            }
            Some(text) if text.parse::<crate::config::Period>().is_ok() => "7s".into(),
            _ => "other".into(),
        },
    }
}

/// What of a configuration takes effect, for comparison.
fn effects(config: &BridgeConfig) -> String {
    let share = config.budget();
    let shares: Vec<_> = (0..100).map(|_| share.share()).collect();
    let budget = (shares[0].credit(), shares[0].credit_max());
    let limits = (
        config.limits.topics_max,
        config.limits.http_connections_max,
        config.limits.http_request_timeout,
    );
    let times = (config.refresh, config.stop_timeout, config.failover_after);
    let http = (config.http_address(), config.metrics_public, config.as_node().token.is_some());
    let logs = (config.log_format, config.log_level);
    // Files are read, and are not there.
    let sides = [(&config.from, "from"), (&config.to, "to")].map(|(side, of)| {
        let made = Side::new(side, of, &config.name).map(|side| format!("{side:?}"));
        (made.map_err(|error| error.to_string()), side.servers.clone(), side.registries.clone(), {
            (
                side.token.is_some(),
                side.etcd_user.clone(),
                side.etcd_password.as_ref().map(|it| it.0.clone()),
            )
        })
    });
    format!(
        "{:?} {:?} {budget:?} {limits:?} {times:?} {http:?} {logs:?} {sides:?}",
        config.all_routes().unwrap(),
        config.sites(),
    )
}

#[tokio::test]
async fn every_setting_is_read_from_file_and_variable_and_reaches_what_it_is_for() {
    for key in layers::known_keys::<BridgeConfig>() {
        let base = least(&key);
        let value = another(&key);
        let mut changed = base.clone();
        set(&mut changed, &key, value.clone());
        let from_file = load(Some(&changed), &[], BridgeFlags::default())
            .unwrap_or_else(|error| panic!("{key}: {error}"));
        // One that has to be there has another value there.
        if let Ok(default) = load(Some(&base), &[], BridgeFlags::default()) {
            assert_ne!(from_file, default, "{key} in the file is ignored");
            // It only says where HTTP may be served, and of a certificate neither file is there.
            let has_no_effect_here = ["allow_unauthenticated", "from.tls_key", "to.tls_key"];
            let is_file = key.ends_with("tls_certificate");
            if !has_no_effect_here.contains(&&*key) && !is_file {
                assert_ne!(effects(&from_file), effects(&default), "{key} has no effect");
            }
        }
        if layers::FILE_ONLY.contains(&&*key) {
            continue;
        }
        let name = layers::variable::<BridgeConfig>(&key);
        let text = match &value {
            Value::Array(list) => {
                list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
            }
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let from_variable = load(Some(&base), &[(&name, &text)], BridgeFlags::default()).unwrap();
        assert_eq!(from_variable, from_file, "{name} does not say what {key} in the file does");
    }
}

#[test]
fn flags_alone_make_a_bridge() {
    let flags = BridgeFlags {
        from: vec!["tcp://a:7400".to_owned()],
        to: vec!["tcp://b:7400".to_owned()],
        topic: vec!["orders*".to_owned()],
        ..BridgeFlags::default()
    };
    let config = load(None, &[("LTQ_BRIDGE_FROM_TOKEN", "secret")], flags).unwrap();
    assert_eq!(config.sites().from.as_str(), "a-7400");
    assert_eq!(config.sites().to.as_str(), "b-7400");
    let [route] = &config.all_routes().unwrap()[..] else { panic!() };
    assert_eq!(route.channel.as_str(), "bridge.bridge");
    assert!(route.takes(&"orders.new".parse().unwrap()) && route.ordered);
    let text = config.to_toml();
    assert!(!text.contains("secret") && text.contains("from.token is set"), "{text}");
    let again: Table = text.parse().unwrap();
    let again = load(Some(&again), &[], BridgeFlags::default()).unwrap();
    let from = SideSettings { token: None, ..config.from.clone() };
    assert_eq!(again, BridgeConfig { from, ..config });
}

#[test]
fn the_file_on_the_page_is_one() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bridge.md");
    let page = std::fs::read_to_string(page).unwrap();
    let text = page.split("```toml").nth(1).unwrap().split("```").next().unwrap();
    let config = load(Some(&text.parse().unwrap()), &[], BridgeFlags::default()).unwrap();
    let routes = config.all_routes().unwrap();
    assert_eq!(routes.iter().map(|route| &*route.name).collect::<Vec<_>>(), ["orders", "audit"]);
    assert_eq!(routes[1].refused, Refused::Park("not-audited".parse().unwrap()));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let text = |text: &str| Value::from(text);
    let list = |text: &str| Value::Array(vec![text.into()]);
    for (key, value, why) in [
        ("from.servers", Value::Array(Vec::new()), "name at least one node with --from"),
        ("to.servers", list("http://b"), "tcp://HOST:PORT"),
        ("to.servers", list("tls://b:1"), "tls_ca or tls_fingerprint"),
        ("to.servers", list("tcp://a:1"), "name both sites"),
        ("from.registries", list("tcp://r:1"), "from.servers is there too"),
        ("from.servers", list("etcd://e:1"), "tcp://HOST:PORT"),
        ("from.servers", list("dns://e:1"), "tcp://HOST:PORT"),
        ("from.etcd_user", text("me"), "etcd_password"),
        ("from.etcd_password", text("it"), "etcd_user"),
        ("from.site", text("a b"), "no name of a site"),
        ("to.tls_fingerprint", text("xyz"), "to.tls_fingerprint cannot be xyz"),
        ("to.tls_key", text("/k"), "tls_certificate"),
        ("route.topics", Value::Array(Vec::new()), "--topic"),
        ("route.topics", list("a*b"), "no pattern of topics"),
        ("route.headers", list("=x"), "NAME=VALUE"),
        ("route.prefix", text("a b"), "prefix of the route"),
        ("route.channel", text("a b"), "channel name"),
        ("hops_max", 0.into(), "hops_max cannot be 0"),
        ("hops_max", 65.into(), "hops_max cannot be 65"),
        ("refresh", text("1ms"), "refresh cannot be 1ms"),
        ("limits.topics_max", 5_000.into(), "limits.bytes_total_max"),
        ("http", text("0.0.0.0:1"), "without a token"),
        ("name", text(&"x".repeat(58)), "name cannot be"),
        ("nmae", text("x"), "there is no setting \"nmae\""),
    ] {
        let mut table = least("");
        set(&mut table, key, value);
        let error = load(Some(&table), &[], BridgeFlags::default()).expect_err(why).to_string();
        assert!(error.contains(why), "{error} is not {why}");
    }
    let mut twice = least("");
    let mut route = Table::new();
    set(&mut route, "topics", list("x"));
    set(&mut twice, "routes", Value::Array(vec![route.into()]));
    let error = load(Some(&twice), &[], BridgeFlags::default()).unwrap_err().to_string();
    assert!(error.contains("two routes"), "{error}");
}
