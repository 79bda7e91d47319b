//! The page says what there is.

use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn the_page_names_every_setting_and_every_error_and_nothing_else() {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(crate_root.join(path)).expect(path);
    let page = read("../docs/mesh.md");
    let table = |heading: &str| -> Vec<String> {
        let section = page.split(heading).nth(1).expect(heading);
        let section = section.split("\n## ").next().expect("a section");
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let names = rows.filter_map(|row| row.split('`').next());
        names.filter(|name| *name != "SendError").map(str::to_owned).collect()
    };
    let settings = read("src/settings.rs");
    let settings = settings.split("pub struct MeshSettings {").nth(1).expect("settings");
    let settings = settings.split("\n}").next().expect("its end");
    let fields: Vec<_> = settings
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next())
        .collect();
    assert_eq!(table("## Settings"), fields);
    let errors = read("src/error.rs");
    let errors = errors.split("pub enum SendError {").nth(1).expect("errors");
    let errors = errors.split("\n}").next().expect("its end");
    let mut variants: Vec<_> = errors
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.strip_suffix(" {"))
        .filter(|name| name.starts_with(|first: char| first.is_ascii_uppercase()))
        .collect();
    let mut all = table("## Errors");
    all.sort_unstable();
    variants.sort_unstable();
    assert_eq!(all, variants);
}

/// The names of all tests of this crate.
fn tests(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            tests(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        // A test's function follows on a line of its own.
        for rest in text.split("test").skip(1).filter(|rest| rest.starts_with([']', '('])) {
            let name = rest.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
            found.extend(name.map(str::to_owned));
        }
        let in_proptest = text.split("    #[test]\n    fn ").skip(1);
        found.extend(in_proptest.filter_map(|rest| rest.split('(').next()).map(str::to_owned));
    }
}

#[test]
fn each_promise_of_the_page_has_tests_and_each_test_that_it_names_is_there() {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(crate_root.join("../docs/mesh.md")).expect("the page");
    let section = |heading: &str| {
        let rest = page.split(heading).nth(1).expect("the section");
        rest.split("\n## ").next().expect("its text").to_owned()
    };
    let promises = section("## What is promised");
    let promises: BTreeSet<_> = promises
        .lines()
        .filter_map(|line| line.strip_prefix("- **")?.split("**").next())
        .map(|promise| promise.trim_end_matches('.').to_owned())
        .collect();
    assert!(promises.len() > 5, "{promises:?}");
    let mut found = BTreeSet::new();
    for folder in ["src", "tests"] {
        tests(&crate_root.join(folder), &mut found);
    }
    // The sections behind the settings promise, too: each has rows, which begin with its heading.
    let headings = page.split("\n## ").filter_map(|section| section.lines().next());
    let mut sections: Vec<_> = headings.skip_while(|it| *it != "Settings").skip(1).collect();
    sections.retain(|it| *it != "What shows it");
    assert_eq!(sections.len(), 6, "{sections:?}");
    let (mut shown, mut twice) = (BTreeSet::new(), BTreeSet::new());
    let mut with_rows = BTreeSet::new();
    let shows = section("## What shows it");
    for row in shows.lines().filter_map(|line| line.strip_prefix("| ")) {
        let Some((promise, named)) = row.split_once(" | `") else { continue };
        let heading = promise.split_once(": ").map_or("", |(heading, _)| heading);
        let is_of_section = sections.contains(&heading);
        if is_of_section {
            with_rows.insert(heading);
        } else {
            shown.insert(promise.to_owned());
        }
        for test in named.split('`').step_by(2).filter(|test| !test.starts_with([' ', ','])) {
            assert!(found.contains(test), "{promise}: there is no test {test}");
            let is_new = twice.insert(test.to_owned());
            assert!(is_new || is_of_section, "{test} is named twice");
        }
    }
    assert_eq!(shown, promises);
    assert_eq!(with_rows.into_iter().collect::<Vec<_>>(), {
        sections.sort_unstable();
        sections
    });
}
