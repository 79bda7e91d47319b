//! Where settings come from, one layer over the other: defaults, a file, variables, flags.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use ltq_core::Retention;
use serde::Deserialize;
use toml::{Table, Value};

use super::{
    ConfigError,
    choice::DurabilityChoice,
    grants::{IdentitySettings, TokenHash, TokenSettings},
    listening::TlsSettings,
    settings::{Config, FileStoreSettings, RetentionSettings, RocksDbStoreSettings},
    suggest::{nearest, nearest_key},
    units::Period,
};

/// Some settings, and where they come from.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// For people: a file's path, a variable's name, `the command line`.
    origin: String,
    table: Table,
}

impl Layer {
    /// What a file says.
    pub(super) fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read {
            path: origin.clone(),
            cause: cause.to_string(),
        })?;
        Self::from_text(&origin, &text)
    }

    pub(super) fn from_text(origin: &str, text: &str) -> Result<Self, ConfigError> {
        let origin = origin.to_owned();
        text.parse::<Table>()
            .map(|table| Self { origin: origin.clone(), table })
            .map_err(|error| ConfigError::Syntax { origin, error: without_the_line(text, &error) })
    }

    /// What one `LTQ_*` variable says; `None` when it is not meant for the node.
    pub(super) fn from_variable(name: &str, text: &str) -> Result<Option<Self>, ConfigError> {
        let Some(rest) = name.strip_prefix(PREFIX) else { return Ok(None) };
        if NOT_OURS.contains(&name) || NOT_OURS_PREFIXES.iter().any(|p| name.starts_with(p)) {
            return Ok(None);
        }
        let wanted = rest.to_ascii_lowercase();
        let keys = || known_keys().iter().filter(|key| !FILE_ONLY.contains(&key.as_str()));
        let Some(key) = keys().find(|key| key.replace('.', "_") == wanted) else {
            let names: Vec<String> = keys().map(|key| variable(key)).collect();
            return Err(ConfigError::UnknownVariable {
                name: name.to_owned(),
                nearest: nearest(name, names.iter().map(String::as_str)).map(str::to_owned),
            });
        };
        let value = match look_up(&EVERY_KEY, key) {
            Some(Value::Integer(_)) => text.parse().map(Value::Integer).ok(),
            Some(Value::Boolean(_)) => text.parse().map(Value::Boolean).ok(),
            Some(Value::Array(_)) => {
                Some(Value::Array(text.split(',').map(|part| part.trim().into()).collect()))
            }
            _ => None,
        };
        // What is no number or truth value is left a text: reading the key says what it should be.
        let value = value.unwrap_or_else(|| text.into());
        Ok(Some(Self { origin: name.to_owned(), table: nested(key, value) }))
    }

    /// What flags say.
    pub(super) fn from_flags(values: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let mut table = Table::new();
        for (key, value) in values {
            overlay(&mut table, &nested(key, value));
        }
        Self { origin: "the command line".to_owned(), table }
    }

    /// Checks that each key is one, and each value can be read.
    fn check(&self) -> Result<(), ConfigError> {
        for (key, value) in leaves(&self.table) {
            if known_keys().contains(&key) {
                Config::deserialize(nested(&key, value.clone())).map_err(|error| {
                    ConfigError::Unreadable {
                        origin: self.origin.clone(),
                        key: key.clone(),
                        error: first_line(&error.to_string()),
                    }
                })?;
                continue;
            }
            if let Some(Value::Table(_)) = look_up(&EVERY_KEY, &key) {
                if value.is_table() {
                    continue; // It is empty.
                }
                let error = format!("it is a table; write its settings below [{key}]");
                return Err(ConfigError::Unreadable { origin: self.origin.clone(), key, error });
            }
            let nearest = nearest_key(&key, known_keys().iter().map(String::as_str));
            let nearest = nearest.map(str::to_owned);
            return Err(ConfigError::UnknownKey { origin: self.origin.clone(), key, nearest });
        }
        Ok(())
    }
}

/// Puts layers over the defaults, later ones over earlier ones.
pub(super) fn merge(layers: &[Layer]) -> Result<Config, ConfigError> {
    let mut merged = Table::new();
    for layer in layers {
        layer.check()?;
        overlay(&mut merged, &layer.table);
    }
    Config::deserialize(merged).map_err(|error| ConfigError::Syntax {
        origin: "the settings".to_owned(),
        error: first_line(&error.to_string()),
    })
}

/// The dotted names of all settings.
pub(super) fn known_keys() -> &'static [String] {
    static KEYS: LazyLock<Vec<String>> =
        LazyLock::new(|| leaves(&EVERY_KEY).into_iter().map(|(key, _)| key).collect());
    &KEYS
}

/// A setting's value as a file would say it; `None` when it is not set, or secret.
pub(super) fn shown(config: &Config, key: &str) -> Option<String> {
    let table = Table::try_from(config).ok()?;
    match look_up(&table, key)? {
        _ if key == "token" => None,
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    }
}

/// The variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// A configuration that has a value for each key.
static EVERY_KEY: LazyLock<Table> = LazyLock::new(|| {
    let default = FileStoreSettings::default();
    let some_limit = Some(default.journal_bytes_max);
    let config = Config {
        file_store: FileStoreSettings { disk_bytes_max: some_limit, ..default },
        retention: RetentionSettings {
            age_max: Some(Period(Retention::AGE_MAX)),
            bytes_max: some_limit,
            ..RetentionSettings::default()
        },
        rocksdb_store: RocksDbStoreSettings {
            disk_bytes_max: some_limit,
            ..RocksDbStoreSettings::default()
        },
        tls: TlsSettings {
            certificate: Some(PathBuf::new()),
            key: Some(PathBuf::new()),
            client_authorities: Some(PathBuf::new()),
            ..TlsSettings::default()
        },
        tokens: vec![TokenSettings {
            name: String::new(),
            sha256: TokenHash([0; 32]),
            publish: Vec::new(),
            consume: Vec::new(),
            administer: Vec::new(),
        }],
        identities: vec![IdentitySettings {
            identity: String::new(),
            publish: Vec::new(),
            consume: Vec::new(),
            administer: Vec::new(),
        }],
        token: Some("".into()),
        durability: Some(DurabilityChoice::Disk),
        ..Config::default()
    };
    Table::try_from(&config).unwrap_or_default()
});

fn leaves(table: &Table) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) if !inner.is_empty() => {
                found.extend(
                    leaves(inner).into_iter().map(|(rest, v)| (format!("{key}.{rest}"), v)),
                );
            }
            _ => found.push((key.clone(), value)),
        }
    }
    found
}

fn look_up<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((head, rest)) => look_up(table.get(head)?.as_table()?, rest),
    }
}

fn nested(key: &str, value: Value) -> Table {
    match key.split_once('.') {
        None => Table::from_iter([(key.to_owned(), value)]),
        Some((head, rest)) => {
            Table::from_iter([(head.to_owned(), Value::Table(nested(rest, value)))])
        }
    }
}

fn overlay(under: &mut Table, over: &Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => overlay(under, over),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

/// What is wrong and where. Not the line itself, which may hold a secret: this goes to logs.
fn without_the_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    let before = error.span().and_then(|span| text.get(..span.start));
    before.map_or_else(
        || message.to_owned(),
        |before| {
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            format!("line {}, column {column}: {message}", before.matches('\n').count() + 1)
        },
    )
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Tables that are lists, which no variable can say.
pub(super) const FILE_ONLY: [&str; 2] = ["tokens", "identities"];
const PREFIX: &str = "LTQ_";
/// Variables of the `ltq` command, and the one that names the file.
const NOT_OURS: [&str; 6] = [
    "LTQ_SERVER",
    "LTQ_CONFIG",
    "LTQ_TLS_CA",
    "LTQ_TLS_FINGERPRINT",
    "LTQ_TLS_CLIENT_CERT",
    "LTQ_TLS_CLIENT_KEY",
];
/// What a container platform sets by itself for a service that is called `ltq`.
const NOT_OURS_PREFIXES: [&str; 2] = ["LTQ_SERVICE_", "LTQ_PORT"];
