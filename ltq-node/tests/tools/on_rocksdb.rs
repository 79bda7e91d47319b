//! The tools where one of the stores is RocksDB.

use super::*;

#[cfg(feature = "rocksdb")]
mod built_with_it {
    use serde_json::json;

    use super::*;

    /// A directory with all that a node keeps: keys, headers, any bytes, acks out of order, a paused
    /// channel, a producer's name, a topic that need not last, and one that was emptied.
    fn varied(folder: &tempfile::TempDir, store: &str) -> PathBuf {
        let data_dir = folder.path().join(store);
        let node = Node::start_on(&data_dir, &["--store", store]);
        for channel in ["keeper", "c"] {
            node.ok(&["channel", "create", "t", channel], "");
        }
        let lines: String =
            (0..300).map(|at| format!("message-{at:03} {}\n", "x".repeat(at))).collect();
        node.ok(&["pub", "t", "--name", "loader"], lines);
        node.ok(&["pub", "t", "one", "--key", "k", "--header", "h=1", "--header", "h=2"], "");
        node.ok(&["pub", "t"], b"\xff\"\\\n");
        node.ok(&["sub", "t", "c", "--count", "110"], "");
        node.ok(&["channel", "pause", "t", "c"], "");
        node.ok(&["topic", "create", "loose", "--durability", "memory"], "");
        node.ok(&["pub", "loose", "it need not last"], "");
        node.ok(&["channel", "create", "gone", "c"], "");
        node.ok(&["pub", "gone", "gone"], "");
        node.ok(&["sub", "gone", "c", "--count", "1"], "");
        node.stop();
        data_dir
    }

    /// What a node on that directory says and delivers of it.
    fn serves(data_dir: &Path, store: &str) {
        let node = Node::start_on(data_dir, &["--store", store]);
        let shown = node.json(&["channel", "show", "t", "c"]);
        for (figure, value) in [("acked", 110), ("waiting", 192)] {
            assert_eq!(shown.get(figure), Some(&value.into()), "{shown}");
        }
        assert_eq!(shown.get("paused"), Some(&true.into()), "{shown}");
        assert_eq!(node.ok(&["topic", "list"], ""), "gone\nloose\nt\n");
        assert_eq!(node.json(&["topic", "show", "gone"]).get("end"), Some(&1.into()));
        // The producer's name is known: what it had published is not stored again.
        let again = "message-000 \n".to_owned();
        node.ok(&["pub", "t", "--name", "loader"], again);
        assert_eq!(node.json(&["topic", "show", "t"]).get("end"), Some(&302.into()));
        node.stop();
    }

    fn dump(data_dir: &Path, store: &str, topic: &str) -> String {
        let output = tool(&["dump", topic, "--store", store], data_dir);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    }

    fn move_to(from: &str, data_dir: &Path, to: &str, target: &Path, more: &[&str]) -> Output {
        let target = target.to_str().unwrap();
        let words = ["migrate", "--from", from, "--to", to, "--target-dir", target];
        tool(&[&words, more].concat(), data_dir)
    }

    #[test]
    fn a_store_is_the_same_after_a_migration_there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        for (from, to) in [("file", "rocksdb"), ("rocksdb", "file")] {
            let data_dir = varied(&folder, from);
            let dumps = ["t", "loose", "gone"].map(|topic| dump(&data_dir, from, topic));
            assert_eq!(dumps[0].lines().count(), 302);
            let there = folder.path().join(format!("{from}-to-{to}"));
            let back = folder.path().join(format!("{from}-and-back"));
            for (from, data_dir, to, target) in
                [(from, &data_dir, to, &there), (to, &there, from, &back)]
            {
                let before = files(data_dir);
                let output = move_to(from, data_dir, to, target, &[]);
                assert!(output.status.success(), "{}", stderr(&output));
                assert!(stderr(&output).contains("of 3 topics are in"), "{}", stderr(&output));
                assert!(before == files(data_dir), "the source was changed");
                let again = move_to(from, data_dir, to, target, &[]);
                assert!(stderr(&again).contains("not empty"), "{}", stderr(&again));
                for (topic, expected) in ["t", "loose", "gone"].iter().zip(&dumps) {
                    assert_eq!(dump(target, to, topic), *expected, "{topic} of {to}");
                }
            }
            serves(&there, to);
            serves(&back, from);
            for data_dir in [&there, &back] {
                let before = files(data_dir);
                let report = check(data_dir, 0);
                assert_eq!((&report["messages"], &report["values"]), (&303.into(), &json!([])));
                assert!(before == files(data_dir), "something was written");
            }
            fs::remove_dir_all(&data_dir).unwrap();
        }
    }

    #[test]
    fn promise_8_what_is_damaged_in_rocksdb_is_named_and_left_out_only_when_told() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        let node = Node::start_on(&data_dir, &["--store", "rocksdb"]);
        node.ok(&["channel", "create", "t", "keeper"], "");
        // Several blocks of 16 KiB.
        let lines = (0..100).map(|at| format!("message-{at:03}{}\n", "x".repeat(1_000)));
        node.ok(&["pub", "t"], lines.collect::<String>());
        node.stop();
        check(&data_dir, 0);
        damage(&data_dir, "message-057");
        let report = check(&data_dir, 1);
        let damaged = report["damage"].as_array().unwrap();
        let touched = damaged.iter().any(|it| {
            let place = |name: &str| it[name].as_u64().unwrap();
            it["topic"] == "t" && (place("from")..place("until")).contains(&57)
        });
        // The block that it is in, and not the next one.
        assert!(touched && report["messages_lost"].as_u64() < Some(100), "{report}");
        let repair = tool(&["check", "--repair"], &data_dir);
        assert_eq!(repair.status.code(), Some(1));
        assert!(stderr(&repair).contains("--leave-out-damaged"), "{}", stderr(&repair));
        let dump = tool(&["dump", "t"], &data_dir);
        let left = stdout(&dump).lines().count();
        assert_eq!(dump.status.code(), Some(1));
        assert!(left < 100 && !stdout(&dump).contains("message-057"), "{left} left");
        assert!(stderr(&dump).contains("are damaged"), "{}", stderr(&dump));
        let target = folder.path().join("target");
        let refused = move_to("rocksdb", &data_dir, "file", &target, &[]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains("--leave-out-damaged"), "{}", stderr(&refused));
        assert!(!target.exists());
        let output = move_to("rocksdb", &data_dir, "file", &target, &["--leave-out-damaged"]);
        assert!(output.status.success(), "{}", stderr(&output));
        check(&target, 0);
        assert_eq!(stdout(&tool(&["dump", "t"], &target)), stdout(&dump));
    }

    #[test]
    fn stores_of_the_other_kind_running_nodes_and_half_a_migration_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (file, rocksdb) = (filled(&folder), varied(&folder, "rocksdb"));
        let before = files(&file);
        for (words, dir, why) in [
            (&["dump", "t", "--store", "rocksdb"][..], &file, "no RocksDB database"),
            (&["dump", "t", "--store", "file"], &rocksdb, "no store"),
            (&["check", "--store", "file"], &rocksdb, "no store"),
            (&["check", "--repair", "--store", "file"], &rocksdb, "no store"),
            (&["check", "--store", "rocksdb"], &file, "no RocksDB database"),
        ] {
            let output = tool(words, dir);
            assert_eq!(output.status.code(), Some(1), "{words:?}");
            assert!(stderr(&output).contains(why), "{words:?}: {}", stderr(&output));
        }
        assert!(before == files(&file), "something was written");
        let target = folder.path().join("target");
        let node = Node::start_on(&rocksdb, &["--store", "rocksdb"]);
        let migrated = move_to("rocksdb", &rocksdb, "file", &target, &[]);
        let checked = tool(&["check"], &rocksdb);
        for output in [tool(&["dump", "t", "--store", "rocksdb"], &rocksdb), checked, migrated] {
            assert_eq!(output.status.code(), Some(1));
            assert!(stderr(&output).contains("has it open"), "{}", stderr(&output));
        }
        assert!(!target.exists());
        node.stop();
        // As it is when a migration is killed on its way.
        std::fs::create_dir(rocksdb.join("migration-unfinished")).unwrap();
        let node = node_command(&rocksdb).args(["--store", "rocksdb"]).output().unwrap();
        let migrated = move_to("rocksdb", &rocksdb, "file", &target, &[]);
        for output in [node, tool(&["dump", "t", "--store", "rocksdb"], &rocksdb), migrated] {
            assert_eq!(output.status.code(), Some(1));
            assert!(stderr(&output).contains("did not complete"), "{}", stderr(&output));
        }
        assert!(!target.exists());
    }
}

#[cfg(not(feature = "rocksdb"))]
#[test]
fn a_node_built_without_rocksdb_says_so_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = filled(&folder);
    let target = folder.path().join("target");
    let target = target.to_str().unwrap();
    // What a RocksDB store looks like from without.
    let other = folder.path().join("other");
    fs::create_dir_all(other.join("db")).unwrap();
    fs::write(other.join("db/CURRENT"), "MANIFEST-000001\n").unwrap();
    let before = (files(&data_dir), files(&other));
    let to = ["migrate", "--from", "file", "--to", "rocksdb", "--target-dir", target];
    let from = ["migrate", "--from", "rocksdb", "--to", "file", "--target-dir", target];
    for (words, dir) in
        [(&to[..], &data_dir), (&from, &other), (&["dump", "t", "--store", "rocksdb"], &other)]
    {
        let output = tool(words, dir);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("built without RocksDB"), "{}", stderr(&output));
    }
    let node = node_command(&folder.path().join("new")).args(["--store", "rocksdb"]).output();
    let node = node.unwrap();
    assert_eq!(node.status.code(), Some(2), "{}", stderr(&node));
    assert!(stderr(&node).contains("without"), "{}", stderr(&node));
    assert!(before == (files(&data_dir), files(&other)) && !Path::new(target).exists());
}
