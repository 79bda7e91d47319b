//! `docs/configuration.md` says what the program does.

use std::collections::BTreeMap;

use clap::CommandFactory as _;

use super::{as_file, beside, layers, load, refusal};
use crate::config::{ByteSize, Config, Flags, Period, layers::known_keys};

/// The rows of the page's tables, by key: flag, variable, default, range, words.
fn rows() -> BTreeMap<String, Vec<String>> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut rows = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        let key = cells.next().unwrap().trim_matches('`').to_owned();
        let again = rows.insert(key.clone(), cells.collect::<Vec<_>>());
        assert!(again.is_none(), "{key} has two rows");
    }
    rows
}

#[test]
fn every_setting_has_its_row() {
    let rows = rows();
    let mut known = known_keys::<Config>();
    known.sort();
    assert_eq!(rows.keys().cloned().collect::<Vec<_>>(), known);
    let flags = Flags::command();
    let flags: Vec<_> = flags.get_arguments().filter_map(clap::Arg::get_long).collect();
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
            false => format!("`{}`", layers::variable::<Config>(key)),
        };
        assert_eq!(*variable, expected, "{key}");
        assert!(words.ends_with('.'), "{key}: {words}");
        let shown = layers::shown(&Config::default(), key)
            .map(|value| format!("`{}`", value.trim_matches(['[', ']']).trim_matches('"')));
        let shown = shown.unwrap_or_else(|| match &**key {
            "durability" => "`disk`; `memory` with the memory store".to_owned(),
            _ => "none".to_owned(),
        });
        assert_eq!(*default, shown, "{key}");
    }
}

/// A bound as a number, and how to write a number of its kind in a file.
fn bound(text: &str) -> (u64, fn(u64) -> String) {
    if let Ok(count) = text.parse() {
        return (count, |count| count.to_string());
    }
    if let Ok(Period(period)) = text.parse() {
        let micros = u64::try_from(period.as_micros()).unwrap();
        return (micros, |micros| format!("\"{micros}us\""));
    }
    let ByteSize(bytes) = text.parse().unwrap();
    (bytes, |bytes| bytes.to_string())
}

#[test]
fn every_range_is_as_the_page_says() {
    let mut checked = 0;
    for (key, cells) in rows() {
        let range = &*cells[3];
        let (least, most) = match range.split_once(" to ") {
            _ if range.ends_with(" bytes") => continue,
            Some((least, most)) => (Some(least), Some(most)),
            None => (range.strip_prefix("at least "), range.strip_prefix("at most ")),
        };
        // One that is at fault itself is named first; that it does not go with others is no matter.
        let at_fault = |value: String| {
            let config = load(Some(&as_file(&key, &value)), &[], &[]);
            config.is_err_and(|error| error.to_string().starts_with(&format!("{key} cannot be")))
        };
        for (text, outside) in [(least, -1), (most, 1)] {
            let Some(text) = text else { continue };
            let (bound, write) = bound(text);
            assert!(!at_fault(write(bound)), "{key} = {text} is refused");
            if let Some(outside) = bound.checked_add_signed(outside) {
                assert!(at_fault(write(outside)), "{key} is taken beyond {text}");
            }
            checked += 1;
        }
        if range.starts_with('`') && !range.contains(':') {
            for choice in range.split(", ") {
                let choice = choice.trim_matches('`');
                let text = match choice {
                    "true" | "false" => choice.to_owned(),
                    _ => format!("{choice:?}"),
                };
                let flags = if choice == "true" { beside(&key) } else { &[] };
                load(Some(&as_file(&key, &text)), &[], flags).unwrap();
            }
            assert!(refusal(Some(&as_file(&key, "\"neither\"")), &[], &[]).contains(&key));
        }
    }
    assert!(checked > 40, "{checked}");
}
