//! Nodes that keep their messages on disk.

use super::*;

fn on_disk(data_dir: &Path) -> Node {
    Node::start_with(&["--data-dir", data_dir.to_str().unwrap()])
}

#[test]
fn promises_1_and_12_messages_and_acks_outlive_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let node = on_disk(&data_dir);
    assert!(node.banner.contains(data_dir.to_str().unwrap()), "{}", node.banner);
    let output = node.ltq(&["pub", "t"], "1\n2\n3\n");
    assert_eq!(stderr(&output), "3 messages confirmed (durability disk)\n");
    assert_eq!(node.ok(&["sub", "t", "c", "--count", "1"], ""), "1\n");
    node.signal("TERM");
    assert_eq!(node.wait().code(), Some(0));

    let node = on_disk(&data_dir);
    assert_eq!(node.ok(&["sub", "t", "c", "--count", "1"], ""), "2\n");
    node.ok(&["pub", "t", "4"], "");
    // Without any warning this time.
    node.signal("KILL");
    node.wait();
    let node = on_disk(&data_dir);
    assert_eq!(node.json(&["topic", "show", "t"])["end"], 4);
    let last: Vec<_> = node
        .ok(&["sub", "t", "fresh", "--count", "2", "--from", "2"], "")
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(last, ["3", "4"]);
}

#[test]
fn a_publish_is_as_durable_as_it_asks() {
    let folder = tempfile::tempdir().unwrap();
    let node = on_disk(&folder.path().join("data"));
    for (asked, input) in [("os", &["x"][..]), ("memory", &[])] {
        let arguments = [&["pub", "t"], input, &["--durability", asked]].concat();
        let words = stderr(&node.ltq(&arguments, "line\n"));
        assert_eq!(words, format!("1 message confirmed (durability {asked})\n"));
    }
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named_with_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let used = folder.path().join("used");
    let _node = on_disk(&used);
    refused(&["--data-dir", used.to_str().unwrap()], 1, used.to_str().unwrap());

    let foreign = folder.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "years of work").unwrap();
    refused(&["--data-dir", foreign.to_str().unwrap()], 1, foreign.to_str().unwrap());
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);

    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    refused(&["--data-dir", file.to_str().unwrap()], 1, file.to_str().unwrap());
}
