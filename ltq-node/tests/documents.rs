//! The documents agree with each other and with the tests.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests; their helpers stand outside of the test functions"
)]

use std::{
    collections::BTreeSet,
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

/// The names of all tests of the workspace's sources.
fn all_tests(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            all_tests(&path, found);
        } else if name.ends_with(".rs") {
            tests_of(&fs::read_to_string(&path).unwrap(), found);
        }
    }
}

/// The functions of a source that are tests: those below an attribute that makes them one, and the cases that a
/// conformance suite names, each of which is mounted as a test of its name.
fn tests_of(text: &str, found: &mut BTreeSet<String>) {
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        let attribute = line.strip_prefix("#[").map(|rest| rest.split([']', '(']).next().unwrap());
        if let Some(attribute) = attribute {
            is_test |= matches!(attribute, "test" | "tokio::test") && !line.contains("#[ignore");
        } else if let Some((_, rest)) = function(line) {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            let is_case = line.contains("(trial: Trial)") || line.contains("(trial: &Trial)");
            if std::mem::take(&mut is_test) || is_case {
                found.insert(name.to_owned());
            }
        } else if !line.is_empty() && !line.starts_with("//") {
            // What stands between an attribute and its function is another item's, or the rest of an attribute.
            is_test &= !line.ends_with('{') && !line.ends_with(';');
        }
    }
}

/// A line that begins a function, cut at the word.
fn function(line: &str) -> Option<(&str, &str)> {
    let (before, rest) = line.split_once("fn ")?;
    let words = ["", "pub", "pub(crate)", "pub(super)", "async", "const", "unsafe"];
    before.split(' ').all(|word| words.contains(&word)).then_some((before, rest))
}

#[test]
fn a_function_is_taken_for_a_test_by_its_attribute_alone() {
    let text = "
        fn a_helper() {}
        #[test]
        fn one() {}
        fn beside_it() {}
        #[tokio::test(start_paused = true)]
        // Why.
        async fn another() {
            let fn_of = 1;
        }
        #[test]
        #[cfg(unix)]
        #[should_panic = \"why\"]
        pub(super) fn a_third<T>() {}
        #[testing]
        fn none() {}
        #[test]
        use that;
        fn none_either() {}
        pub(super) async fn a_case(trial: Trial) -> CaseResult {}
    ";
    let mut found = BTreeSet::new();
    tests_of(text, &mut found);
    let found: Vec<_> = found.iter().map(String::as_str).collect();
    assert_eq!(found, ["a_case", "a_third", "another", "one"]);
}

#[test]
fn the_tests_that_pages_name_for_their_promises_are_there() {
    let mut found = BTreeSet::new();
    all_tests(&root(), &mut found);
    for name in ["cluster", "registry", "bridge", "etcd", "mesh", "operations", "discovery"] {
        let text = page(&format!("docs/{name}.md"));
        let section = text.split("# What shows it\n").nth(1).unwrap_or_else(|| panic!("{name}"));
        let section = section.split("\n## ").next().unwrap();
        let rows =
            section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("|--"));
        let rows: Vec<_> = rows.skip(1).filter_map(|row| row.split('|').nth(2)).collect();
        assert!(rows.len() > 4, "{name}: {rows:?}");
        for row in rows {
            let named: Vec<_> = row.split('`').skip(1).step_by(2).collect();
            assert!(!named.is_empty() || row.contains("no test of its own"), "{name}: {row}");
            for test in named {
                assert!(found.contains(test), "{name}: there is no test {test}");
            }
        }
    }
}

/// The rows of the table that follows these words, by cells.
fn rows_after(text: &str, words: &str) -> Vec<Vec<String>> {
    let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("{words}"));
    let lines = rest.lines().skip_while(|line| !line.starts_with('|'));
    let lines = lines.take_while(|line| line.starts_with('|')).skip(2);
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|it| it.trim().to_owned()).collect();
    lines.map(cells).collect()
}

/// What stands between backticks.
fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn what_bounds_a_hostile_peer_is_a_setting_with_a_figure_or_says_why_not() {
    let (map, settings) = (page("ARCHITECTURE.md"), page("docs/configuration.md"));
    let figures = page("docs/operations.md");
    let known = |key: &str| settings.contains(&format!("\n| `{key}` |"));
    let rows = rows_after(&map, "What bounds a hostile peer: by which setting");
    let mut named = BTreeSet::new();
    for row in &rows {
        let [what, setting, default, beyond, told] = &row[..] else { panic!("{row:?}") };
        assert!(!default.is_empty(), "{what}");
        let keys = code(setting);
        assert!(!keys.is_empty(), "{what} has no setting");
        for key in keys {
            let key = if key.contains('.') { key.to_owned() } else { format!("limits.{key}") };
            assert!(known(&key), "{what}: there is no {key}");
            assert!(named.insert(key.clone()), "{key} has two rows");
        }
        for figure in code(told) {
            assert!(figures.contains(&format!("\n| `{figure}` |")), "{what}: there is no {figure}");
        }
        // Only how long one is turned away has none: how often is told by the row above.
        assert!(beyond.is_empty() || !told.is_empty(), "{what} is told by no figure");
    }
    let keys = settings.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    for key in keys.filter(|key| key.starts_with("limits.")) {
        assert!(named.contains(key), "{key} is not in the table of ARCHITECTURE.md");
    }
    let constants = rows_after(&map, "What is not to be set, and why:");
    assert!(constants.len() > 5);
    for row in constants {
        let [what, _, why] = &row[..] else { panic!("{row:?}") };
        assert!(why.split(' ').count() > 5, "{what}: why?");
    }
}
