//! `ltq-node check`, `dump` and `migrate`, and `ltq pub --json`, as people and scripts use them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests; their helpers stand outside of the test functions"
)]

#[path = "tools/on_rocksdb.rs"]
mod on_rocksdb;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use bytes::Bytes;
use ltq_core::{Durability, Store, WriteBatch};
use ltq_store::{FileStore, FileStoreOptions};
use serde_json::Value;

/// A node in a process of its own.
struct Node {
    child: Child,
    server: String,
}

impl Node {
    fn start(data_dir: &Path) -> Self {
        Self::start_on(data_dir, &[])
    }

    fn start_on(data_dir: &Path, flags: &[&str]) -> Self {
        let mut command = node_command(data_dir);
        let mut child = command.args(flags).stdout(Stdio::piped()).spawn().unwrap();
        let mut banner = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut banner).unwrap();
        let server = banner.split_whitespace().find(|word| word.starts_with("tcp://"));
        let server = server.unwrap().trim_end_matches(',').to_owned();
        Self { child, server }
    }

    fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    fn ltq(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
        let mut command = clean(env!("CARGO_BIN_EXE_ltq"));
        command.args(["--server", &self.server]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.as_ref().to_vec();
        // A command that ends early does not take all of it.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    fn ok(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> String {
        let output = self.ltq(arguments, input);
        assert!(output.status.success(), "ltq {arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat(), "")).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LTQ_") {
            command.env_remove(name);
        }
    }
    command
}

fn node_command(data_dir: &Path) -> Command {
    let mut command = clean(env!("CARGO_BIN_EXE_ltq-node"));
    command.args(["--listen", "tcp://127.0.0.1:0", "--http", "off", "--log-level", "error"]);
    command.arg("--data-dir").arg(data_dir).stdin(Stdio::null());
    command
}

/// Runs `ltq-node` as a tool on a data directory.
fn tool(words: &[&str], data_dir: &Path) -> Output {
    let mut command = clean(env!("CARGO_BIN_EXE_ltq-node"));
    command.args(words).arg("--data-dir").arg(data_dir).stdin(Stdio::null()).output().unwrap()
}

fn check(data_dir: &Path, code: i32) -> Value {
    let output = tool(&["check", "--json"], data_dir);
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(&output), stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Everything in a directory.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut dirs) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    files
}

/// A data directory with a topic of a hundred messages, of which a channel has acked ten.
fn filled(folder: &tempfile::TempDir) -> PathBuf {
    let data_dir = folder.path().join("data");
    let node = Node::start(&data_dir);
    node.ok(&["channel", "create", "t", "keeper"], "");
    let lines: String = (0..100).map(|line| format!("message-{line:03}\n")).collect();
    node.ok(&["pub", "t"], lines);
    node.ok(&["sub", "t", "c", "--count", "10"], "");
    node.stop();
    data_dir
}

/// Flips a bit of that text in the one file that holds it. Returns the file and the place.
fn damage(data_dir: &Path, text: &str) -> (String, u64) {
    let found = files(data_dir).into_iter().find_map(|(path, bytes)| {
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes())?;
        Some((path, bytes, at))
    });
    let (path, mut bytes, at) = found.unwrap();
    *bytes.get_mut(at + 2).unwrap() ^= 4;
    fs::write(&path, bytes).unwrap();
    (path.strip_prefix(data_dir).unwrap().display().to_string(), at as u64)
}

#[test]
fn a_whole_store_is_checked_without_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = filled(&folder);
    let before = files(&data_dir);
    let report = check(&data_dir, 0);
    assert_eq!((&report["clean"], &report["messages"]), (&true.into(), &100.into()), "{report}");
    assert_eq!(report["topics"][0]["topic"], "t");
    assert_eq!(report["closed_in_order"], true);
    assert!(report["files"].as_array().unwrap().len() >= 4, "{report}");
    let output = tool(&["check"], &data_dir);
    assert!(output.status.success());
    for part in ["1 topic, 100 messages", "identity", "nothing is damaged"] {
        assert!(stdout(&output).contains(part), "{part:?} is not in {}", stdout(&output));
    }
    assert!(tool(&["check", "--repair"], &data_dir).status.success());
    assert_eq!(stdout(&tool(&["dump", "t"], &data_dir)).lines().count(), 100);
    assert!(before == files(&data_dir), "something was written");
}

#[test]
fn a_running_node_and_what_is_no_store_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = filled(&folder);
    let node = Node::start(&data_dir);
    let target = folder.path().join("target");
    let target = target.to_str().unwrap();
    let migrate = ["migrate", "--from", "file", "--to", "file", "--target-dir", target];
    for words in [&["check"][..], &["check", "--repair"], &["dump", "t"], &migrate] {
        let output = tool(words, &data_dir);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        let words = stderr(&output);
        assert!(words.contains("another process has it open"), "{words}");
    }
    drop(node);
    assert!(!Path::new(target).exists());
    for (words, dir, code) in [
        (&["check"][..], "nothing", 1),
        (&["dump", "t"], "nothing", 1),
        (&["dump", "other"], "data", 1),
        (&["dump", "a/b"], "data", 2),
        (&["dump", "t", "--store", "memory"], "data", 2),
        (&["check", "--fix"], "data", 2),
        (&["migrate", "--from", "file"], "data", 2),
    ] {
        let output = tool(words, &folder.path().join(dir));
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
    }
    assert!(!folder.path().join("nothing").exists());
}

#[test]
fn promise_8_a_flipped_bit_is_named_by_topic_and_offset_and_mended() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = filled(&folder);
    let (file, position) = damage(&data_dir, "message-057");
    let report = check(&data_dir, 1);
    let damage = &report["damage"][0];
    assert_eq!((&damage["topic"], &damage["from"]), (&"t".into(), &57.into()), "{report}");
    assert_eq!(
        (&damage["until"], &damage["file"]),
        (&58.into(), &file.as_str().into()),
        "{report}"
    );
    let told = damage["position"].as_u64().unwrap();
    assert!((position - 8..=position).contains(&told), "{told}, not {position}");
    let words = tool(&["check"], &data_dir);
    assert!(stdout(&words).contains("topic t, offset 57: lost"), "{}", stdout(&words));

    let dump = tool(&["dump", "t"], &data_dir);
    assert_eq!((dump.status.code(), stdout(&dump).lines().count()), (Some(1), 99));
    assert!(stderr(&dump).contains("records 57 to 58 are damaged"), "{}", stderr(&dump));

    let before = fs::read(data_dir.join(&file)).unwrap();
    let output = tool(&["check", "--repair", "--json"], &data_dir);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mended = &report["mended"];
    assert_eq!((&mended["set_aside"][0], &mended["clean"]), (&file.as_str().into(), &true.into()));
    let aside = data_dir.join(mended["folder"].as_str().unwrap()).join(&file);
    assert!(fs::read(aside).unwrap() == before, "what was set aside is something else");
    let report = check(&data_dir, 0);
    assert_eq!(report["known_losses"][0]["from"], 57, "{report}");

    let node = Node::start(&data_dir);
    let read = node.ok(&["sub", "t", "keeper", "--count", "99"], "");
    assert!(!read.contains("message-057") && read.contains("message-058"));
    let shown = node.json(&["channel", "show", "t", "keeper"]);
    assert_eq!((&shown["damaged"], &shown["waiting"]), (&1.into(), &0.into()), "{shown}");
    let shown = node.json(&["channel", "show", "t", "c"]);
    assert_eq!(shown["acked"], 10, "{shown}");
}

#[test]
fn values_that_nobody_can_read_are_set_aside_and_the_node_starts() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = filled(&folder);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = FileStore::open(FileStoreOptions::new(&data_dir)).await.unwrap();
        let mut batch = WriteBatch::new();
        batch.put("c/t/c", Bytes::from_static(b"\x01nonsense")).put("c/gone/c", "");
        store.commit(batch, Durability::Disk).await.unwrap();
        store.close().await.unwrap();
    });
    let report = check(&data_dir, 1);
    let values = report["values"].as_array().unwrap();
    assert_eq!(values.len(), 2, "{report}");
    assert_eq!((&values[1]["topic"], &values[1]["channel"]), (&"t".into(), &"c".into()));
    let output = node_command(&data_dir).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));

    let output = tool(&["check", "--repair", "--json"], &data_dir);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let aside = data_dir.join(report["mended"]["folder"].as_str().unwrap()).join("values.jsonl");
    let aside = fs::read_to_string(aside).unwrap();
    assert!(aside.contains("\"c/t/c\"") && aside.contains("AW5vbnNlbnNl"), "{aside}");
    check(&data_dir, 0);
    let node = Node::start(&data_dir);
    assert_eq!(node.ok(&["channel", "list", "t"], ""), "keeper\n");
}

#[test]
fn what_dump_prints_is_what_sub_prints_and_pub_takes_back() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let node = Node::start(&data_dir);
    node.ok(&["channel", "create", "t", "keeper"], "");
    node.ok(&["pub", "t", "one", "--key", "k", "--header", "h=1", "--header", "h=2"], "");
    node.ok(&["pub", "t"], b"\n \xff\"\\\n{\"body\":1}\n");
    let sub = node.ok(&["sub", "t", "c", "--count", "4", "--json"], "");
    node.stop();

    let without = |text: &str, fields: &[&str]| -> Vec<Value> {
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let less = lines.map(|mut line| {
            fields.iter().for_each(|&field| drop(line.as_object_mut().unwrap().remove(field)));
            line
        });
        less.collect()
    };
    let dump = stdout(&tool(&["dump", "t"], &data_dir));
    assert_eq!(without(&dump, &[]), without(&sub, &["attempt"]));
    let some = stdout(&tool(&["dump", "t", "--from", "1", "--count", "2"], &data_dir));
    assert_eq!(without(&some, &[]), without(&dump, &[])[1..3]);

    let node = Node::start(&data_dir);
    node.ok(&["channel", "create", "copy", "keeper"], "");
    let output = node.ltq(&["pub", "copy", "--json"], &dump);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["confirmed"], &report["durability"]), (&4.into(), &"disk".into()));
    node.stop();
    let copy = stdout(&tool(&["dump", "copy"], &data_dir));
    assert_eq!(without(&copy, &["time"]), without(&dump, &["time"]));
}

#[test]
fn a_malformed_line_is_named_and_nothing_after_it_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"));
    let input = "{\"body\":\"1\"}\n{\"body\":\"2\"}\n{\"bdy\":\"3\"}\n{\"body\":\"4\"}\n";
    let output = node.ltq(&["pub", "t", "--json"], input);
    assert_eq!(output.status.code(), Some(1));
    let words = stderr(&output);
    assert!(words.contains("line 3 of standard input") && words.contains("bdy"), "{words}");
    assert!(words.contains("2 messages confirmed for sure"), "{words}");
    assert_eq!(node.json(&["topic", "show", "t"])["end"], 2);
    // Mended and given again under a name, it goes on where it was.
    let named = ["pub", "u", "--json", "--name", "loader"];
    assert_eq!(node.ltq(&named, input).status.code(), Some(1));
    node.ok(&named, input.replace("bdy", "body"));
    assert_eq!(node.json(&["topic", "show", "u"])["end"], 4);
    let output = node.ltq(&["pub", "t", "--json", "--key", "k"], "");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

fn migrate(data_dir: &Path, target: &Path, more: &[&str]) -> Output {
    let target = target.to_str().unwrap();
    let words = ["migrate", "--from", "file", "--to", "file", "--target-dir", target];
    tool(&[&words, more].concat(), data_dir)
}

#[test]
fn a_migrated_store_serves_as_the_first_one_did() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = filled(&folder);
    let target = folder.path().join("target");
    let before = files(&data_dir);
    let output = migrate(&data_dir, &target, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("100 messages of 1 topic are in"), "{}", stderr(&output));
    assert!(before == files(&data_dir), "the source was changed");
    check(&target, 0);
    assert_eq!(stdout(&tool(&["dump", "t"], &data_dir)), stdout(&tool(&["dump", "t"], &target)));
    let again = migrate(&data_dir, &target, &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("not empty"), "{}", stderr(&again));

    let node = Node::start(&target);
    let shown = node.json(&["channel", "show", "t", "c"]);
    assert_eq!((&shown["acked"], &shown["waiting"]), (&10.into(), &90.into()), "{shown}");
    assert_eq!(node.ok(&["sub", "t", "c", "--count", "1"], ""), "message-010\n");
}

#[test]
fn a_store_of_an_older_format_is_refused_by_its_number_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = filled(&folder);
    for format in [1u16, 2] {
        // All formats have it: two copies of a header, sealed by its last four bytes.
        let identity = data_dir.join("identity");
        let mut bytes = fs::read(&identity).unwrap();
        for copy in [0, 4_096] {
            let header = &mut bytes[copy..copy + 64];
            header[8..10].copy_from_slice(&format.to_le_bytes());
            let crc = crc32c::crc32c(&header[..60]);
            header[60..].copy_from_slice(&crc.to_le_bytes());
        }
        fs::write(&identity, bytes).unwrap();
        let before = files(&data_dir);
        let target = folder.path().join("target");
        let target = target.to_str().unwrap();
        let migrate = ["migrate", "--from", "file", "--to", "file", "--target-dir", target];
        let repair = &["check", "--repair"][..];
        let open = &["--listen", "tcp://127.0.0.1:0", "--http", "off"][..];
        for words in [&["check"][..], repair, &["dump", "t"], &migrate, open] {
            let output = tool(words, &data_dir);
            let (code, told) = (output.status.code(), stderr(&output));
            assert_eq!(code, Some(1), "{words:?}: {told}");
            let number = format!("it has format {format}, and this version of LTQ reads 3");
            assert!(
                told.contains(&number) && told.contains("use an older one"),
                "{words:?}: {told}"
            );
        }
        assert_eq!(files(&data_dir), before, "nothing was written");
        assert!(!Path::new(target).exists());
    }
}

#[test]
fn what_is_damaged_is_left_out_of_a_migration_only_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = filled(&folder);
    damage(&data_dir, "message-057");
    let target = folder.path().join("target");
    let refused = migrate(&data_dir, &target, &[]);
    assert_eq!(refused.status.code(), Some(1));
    let words = stderr(&refused);
    assert!(words.contains("records 57 to 58") && words.contains("--leave-out-damaged"), "{words}");
    assert!(!target.exists());
    let output = migrate(&data_dir, &target, &["--leave-out-damaged"]);
    assert!(output.status.success(), "{}", stderr(&output));
    check(&target, 0);
    let dump = stdout(&tool(&["dump", "t"], &target));
    assert!(dump.lines().count() == 99 && dump.contains("\"offset\":58"), "{dump}");
    let node = Node::start(&target);
    assert_eq!(node.ok(&["sub", "t", "keeper", "--count", "99"], "").lines().count(), 99);
}

#[test]
fn promise_8_without_a_checkpoint_a_repair_finds_the_messages_again() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = filled(&folder);
    let before = stdout(&tool(&["dump", "t"], &data_dir));
    assert_eq!(before.lines().count(), 100);
    for copy in ["checkpoint-0", "checkpoint-1"] {
        fs::write(data_dir.join(copy), "").unwrap();
    }
    let output = node_command(&data_dir).output().unwrap();
    assert!(stderr(&output).contains("checkpoint-0"), "{}", stderr(&output));
    check(&data_dir, 1);
    let output = tool(&["check", "--repair"], &data_dir);
    assert!(output.status.success(), "{}", stderr(&output));
    let words = stdout(&output);
    assert!(words.contains("no copy is whole") && words.contains("set aside: damaged-"), "{words}");
    check(&data_dir, 0);
    assert_eq!(stdout(&tool(&["dump", "t"], &data_dir)), before);
    let node = Node::start(&data_dir);
    assert_eq!(node.ok(&["sub", "t", "late", "--count", "100"], "").lines().count(), 100);
}

#[test]
fn an_unfinished_target_is_refused_by_all() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = filled(&folder);
    // As it is when a migration is killed on its way, however early; and at its very end.
    let unfinished = folder.path().join("target/migration-unfinished");
    std::fs::create_dir_all(&unfinished).unwrap();
    refused_as_unfinished(unfinished.parent().unwrap(), &folder.path().join("x"));
    std::fs::create_dir(data_dir.join("migration-unfinished")).unwrap();
    refused_as_unfinished(&data_dir, &folder.path().join("x"));
}

fn refused_as_unfinished(data_dir: &Path, other: &Path) {
    let before = files(data_dir);
    let node = node_command(data_dir).output().unwrap();
    let tools = [&["dump", "t"][..], &["check"], &["check", "--repair"]];
    let tools = tools.map(|words| tool(words, data_dir));
    for output in [node, migrate(data_dir, other, &[])].into_iter().chain(tools) {
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("did not complete"), "{}", stderr(&output));
    }
    assert!(before == files(data_dir) && !other.exists(), "something was written");
}
