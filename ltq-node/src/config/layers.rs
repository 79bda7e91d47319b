//! Where settings come from, one layer over the other: defaults, a file, variables, flags.
//!
//! The same for a node and a registry: what kind of settings they are is their [`Settings`].

use std::{borrow::Cow, ffi::OsString, fmt, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::{
    ConfigError,
    settings::Config,
    suggest::{nearest, nearest_key},
};

/// All settings of one kind of process.
pub trait Settings:
    Clone + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Its command line.
    type Flags: Clone + fmt::Debug + Send + Sync + 'static;
    /// What its variables begin with.
    const PREFIX: &'static str;
    /// Variables that begin so and are somebody else's.
    const NOT_OURS: &'static [&'static str];
    /// The same for what they begin with.
    const NOT_OURS_PREFIXES: &'static [&'static str];

    /// A table that has a value for each key.
    fn every_key() -> &'static Table;

    /// The settings that a command line gives, by their keys.
    fn given(flags: &Self::Flags) -> Vec<(&'static str, Value)>;

    /// The file that a command line names.
    fn file(flags: &Self::Flags) -> Option<&Path>;

    /// Checks that the settings can be, each and together.
    ///
    /// # Errors
    /// The first [`ConfigError::Value`] found.
    fn check(&self) -> Result<(), ConfigError>;

    /// What of it is as in a node: where it listens, with which certificates, and whom it lets in.
    fn as_node(&self) -> Cow<'_, Config>;
}

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
    pub(super) fn from_variable<S: Settings>(
        name: &str,
        text: &str,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(rest) = name.strip_prefix(S::PREFIX) else { return Ok(None) };
        if S::NOT_OURS.contains(&name) || S::NOT_OURS_PREFIXES.iter().any(|p| name.starts_with(p)) {
            return Ok(None);
        }
        let wanted = rest.to_ascii_lowercase();
        let keys =
            || known_keys::<S>().into_iter().filter(|key| !FILE_ONLY.contains(&key.as_str()));
        let Some(key) = keys().find(|key| key.replace('.', "_") == wanted) else {
            let names: Vec<String> = keys().map(|key| variable::<S>(&key)).collect();
            return Err(ConfigError::UnknownVariable {
                name: name.to_owned(),
                nearest: nearest(name, names.iter().map(String::as_str)).map(str::to_owned),
            });
        };
        let value = match look_up(S::every_key(), &key) {
            Some(Value::Integer(_)) => text.parse().map(Value::Integer).ok(),
            Some(Value::Boolean(_)) => text.parse().map(Value::Boolean).ok(),
            Some(Value::Array(_)) => {
                Some(Value::Array(text.split(',').map(|part| part.trim().into()).collect()))
            }
            _ => None,
        };
        // What is no number or truth value is left a text: reading the key says what it should be.
        let value = value.unwrap_or_else(|| text.into());
        Ok(Some(Self { origin: name.to_owned(), table: nested(&key, value) }))
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
    fn check<S: Settings>(&self) -> Result<(), ConfigError> {
        let known = known_keys::<S>();
        for (key, value) in leaves(&self.table) {
            if known.contains(&key) {
                S::deserialize(nested(&key, value.clone())).map_err(|error| {
                    ConfigError::Unreadable {
                        origin: self.origin.clone(),
                        key: key.clone(),
                        error: first_line(&error.to_string()),
                    }
                })?;
                continue;
            }
            if let Some(Value::Table(_)) = look_up(S::every_key(), &key) {
                if value.is_table() {
                    continue; // It is empty.
                }
                let error = format!("it is a table; write its settings below [{key}]");
                return Err(ConfigError::Unreadable { origin: self.origin.clone(), key, error });
            }
            let nearest = nearest_key(&key, known.iter().map(String::as_str));
            let nearest = nearest.map(str::to_owned);
            return Err(ConfigError::UnknownKey { origin: self.origin.clone(), key, nearest });
        }
        Ok(())
    }
}

/// Puts layers over the defaults, later ones over earlier ones.
pub(super) fn merge<S: Settings>(layers: &[Layer]) -> Result<S, ConfigError> {
    let mut merged = Table::new();
    for layer in layers {
        layer.check::<S>()?;
        overlay(&mut merged, &layer.table);
    }
    S::deserialize(merged).map_err(|error| ConfigError::Syntax {
        origin: "the settings".to_owned(),
        error: first_line(&error.to_string()),
    })
}

/// The dotted names of all settings.
pub(crate) fn known_keys<S: Settings>() -> Vec<String> {
    leaves(S::every_key()).into_iter().map(|(key, _)| key).collect()
}

/// Reads settings from all their sources: the file that `flags` or a variable names, `variables` such as
/// those of [`std::env::vars_os`], and `flags`.
pub(super) fn load<S: Settings>(
    flags: &S::Flags,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<S, ConfigError> {
    let mut config_file = S::file(flags).map(Path::to_owned);
    let named = format!("{}CONFIG", S::PREFIX);
    let mut from_variables = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(S::PREFIX)) else {
            continue;
        };
        if name == named {
            config_file.get_or_insert_with(|| value.into());
            continue;
        }
        let value = value.to_str().ok_or_else(|| ConfigError::NotText { name: name.to_owned() })?;
        from_variables.extend(Layer::from_variable::<S>(name, value)?);
    }
    let mut layers = Vec::new();
    if let Some(path) = &config_file {
        layers.push(Layer::from_file(path)?);
    }
    layers.extend(from_variables);
    layers.push(Layer::from_flags(S::given(flags)));
    let settings: S = merge(&layers)?;
    settings.check()?;
    Ok(settings)
}

/// A setting's value as a file would say it; `None` when it is not set, a list of nothing, or secret.
pub(crate) fn shown<S: Settings>(settings: &S, key: &str) -> Option<String> {
    let table = Table::try_from(settings).ok()?;
    match look_up(&table, key)? {
        _ if key == "token" || key.ends_with(".token") => None,
        Value::Array(none) if none.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    }
}

/// The variable of a key.
pub(crate) fn variable<S: Settings>(key: &str) -> String {
    format!("{}{}", S::PREFIX, key.replace('.', "_").to_ascii_uppercase())
}

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
pub(crate) const FILE_ONLY: [&str; 3] = ["tokens", "identities", "routes"];
