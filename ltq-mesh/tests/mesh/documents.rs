//! The page says what there is.

use std::{fs, path::Path};

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
