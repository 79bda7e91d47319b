//! The documents agree with each other and with the tests.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests; their helpers stand outside of the test functions"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// The numbers that begin a list's items.
fn numbers(text: &str, mark: &str) -> Vec<u32> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(mark));
    lines.filter_map(|line| line.split_once(". ")?.0.parse().ok()).collect()
}

#[test]
fn the_promises_are_numbered_alike_from_1_to_16() {
    let all: Vec<u32> = (1..=16).collect();
    assert_eq!(numbers(&page("docs/promises.md"), "**"), all);
    assert_eq!(numbers(&page("README.md"), ""), all);
}

#[test]
fn each_promise_names_what_shows_it_or_is_not_offered_yet() {
    let page = page("docs/promises.md");
    let promises: Vec<_> = page.split("\n\n**").skip(1).collect();
    assert_eq!(promises.len(), 16);
    for promise in promises {
        let (title, _) = promise.split_once("**").unwrap();
        let offered = !title.contains("not offered yet");
        assert_eq!(promise.contains("*Shown by*"), offered, "{title}");
    }
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let docs = root().join("docs");
    for file in fs::read_dir(&docs).unwrap() {
        let file = file.unwrap().path();
        let text = fs::read_to_string(&file).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap();
            let there = target.is_empty() || target.contains("://") || docs.join(target).exists();
            assert!(there, "{} links to {target}", file.display());
        }
    }
}
