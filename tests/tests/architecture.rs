//! The rules of ARCHITECTURE.md that a machine can check.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}")) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "{folder:?} holds no source");
    found
}

/// A file's code without its comments and without the tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source");
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn is_test(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with("_tests.rs")
        || name == "tests.rs"
        || name == "testing.rs"
        || name == "histories.rs"
        || path
            .components()
            .any(|part| ["tests", "histories"].iter().any(|it| part.as_os_str() == *it))
}

#[test]
fn the_model_knows_no_tokio_clock_chance_file_or_socket() {
    let forbidden = [
        "tokio",
        "Instant",
        "SystemTime",
        "std::fs",
        "std::net",
        "std::thread",
        "rand::",
        "random",
        "async ",
        "await",
        "Mutex",
        "HashMap<K",
        "tracing",
    ];
    for path in sources(&root().join("ltq-core/src/model")) {
        if is_test(&path) {
            continue;
        }
        let code = code(&path);
        for word in forbidden {
            assert!(!code.contains(word), "{} names {word:?}", path.display());
        }
    }
}

#[test]
fn dependencies_point_down() {
    let allowed: &[(&str, &[&str])] = &[
        ("ltq-core", &[]),
        ("ltq-store", &["ltq-core"]),
        ("ltq-transport", &["ltq-core"]),
        ("ltq-discovery", &["ltq-core"]),
        ("ltq-client", &["ltq-core", "ltq-transport", "ltq-discovery"]),
        ("ltq-mesh", &["ltq-core", "ltq-transport", "ltq-discovery"]),
        ("ltq-sim", &["ltq-core", "ltq-store", "ltq-transport", "ltq-discovery", "ltq-client"]),
    ];
    for (package, below) in allowed {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).expect("it");
        let dependencies = manifest
            .split("\n[dependencies]")
            .nth(1)
            .and_then(|rest| rest.split("\n[").next())
            .expect("dependencies");
        for line in dependencies.lines().filter(|line| line.starts_with("ltq-")) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(below.contains(&name), "{package} depends on {name}");
        }
    }
}

#[test]
fn files_stay_small_enough_to_hold_in_the_head() {
    const LINES_MAX: usize = 600;
    for package in [
        "ltq-core",
        "ltq-store",
        "ltq-transport",
        "ltq-discovery",
        "ltq-client",
        "ltq-mesh",
        "ltq-node",
        "ltq-sim",
    ] {
        for path in sources(&root().join(package).join("src")) {
            if is_test(&path) {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source");
            let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
        }
    }
}

/// Tests of brokers in their own process have features that simulations ask for, as cargo builds each crate once.
#[test]
fn nothing_that_ships_has_what_simulations_ask_for() {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    for package in ["ltq-node", "ltq-client", "ltq-mesh"] {
        let mut tree = Command::new(cargo);
        tree.args(["tree", "--offline", "--package", package, "--all-features"]);
        // Without what tests depend on.
        tree.args(["--edges", "normal,build", "--prefix", "none", "--format", "{lib} {f}"]);
        let output = tree.current_dir(root()).output().expect("cargo runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let others = told.lines().filter_map(|line| line.split_once(' '));
        let others = others.filter(|(name, _)| *name != package.replace('-', "_"));
        let mut count = 0;
        for (name, features) in others.filter(|(name, _)| name.starts_with("ltq_")) {
            count += 1;
            let mut features = features.split(',');
            let bad = features.find(|it| ["processes", "simulation", "conformance"].contains(it));
            assert_eq!(bad, None, "of {name}, by {package}");
        }
        assert!(count > 0, "{told}");
    }
}

#[test]
fn libraries_forbid_unsafe_code_and_deny_missing_documentation() {
    for package in [
        "ltq-core",
        "ltq-store",
        "ltq-transport",
        "ltq-discovery",
        "ltq-client",
        "ltq-mesh",
        "ltq-sim",
    ] {
        let text = fs::read_to_string(root().join(package).join("src/lib.rs")).expect("lib.rs");
        for line in ["#![forbid(unsafe_code)]", "#![deny(missing_docs)]"] {
            assert!(text.contains(line), "{package} lacks {line}");
        }
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "BENCHMARKS.md"] {
        let Ok(text) = fs::read_to_string(root().join(document)) else { continue };
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(root().join(target).exists(), "{document} links to {target}");
        }
    }
}
