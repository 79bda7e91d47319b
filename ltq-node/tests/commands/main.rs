//! `ltq-node` and `ltq` as processes, as people and scripts use them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests; their helpers stand outside of the test functions"
)]

#[cfg(test)]
mod durable;
#[cfg(test)]
mod settings;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// A node in a process of its own, killed when it is dropped.
struct Node {
    child: Child,
    banner: String,
}

impl Node {
    /// A node in memory.
    fn start() -> Self {
        Self::start_with(&["--store", "memory"])
    }

    fn start_with(more: &[&str]) -> Self {
        let mut child = node_command(more).stdout(Stdio::piped()).spawn().unwrap();
        let mut banner = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut banner).unwrap();
        assert!(banner.ends_with('\n'), "the node said {banner:?} and ended");
        Self { child, banner }
    }

    fn word(&self, start: &str) -> &str {
        let word = self.banner.split_whitespace().find(|word| word.starts_with(start)).unwrap();
        word.trim_end_matches([',', ';'])
    }

    fn server(&self) -> &str {
        self.word("tcp://")
    }

    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    fn wait(mut self) -> ExitStatus {
        within_deadline(&mut self.child)
    }

    /// Runs `ltq` against it to its end.
    fn ltq(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
        ltq(&[&["--server", self.server()], arguments].concat(), input)
    }

    /// The same, which must go well; returns its standard output.
    fn ok(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> String {
        let output = self.ltq(arguments, input);
        assert!(output.status.success(), "ltq {arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat(), "");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn node_command(more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ltq-node"));
    command
        .args(["--listen", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "error"])
        .args(more)
        .stdin(Stdio::null());
    clean(&mut command);
    command
}

fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LTQ_") {
            command.env_remove(name);
        }
    }
}

fn ltq_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ltq"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    clean(&mut command);
    command
}

fn ltq(arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut child = ltq_command(arguments).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.as_ref().to_vec();
    // A command that ends early does not take all of it.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = output(child);
    writer.join().unwrap();
    output
}

fn output(child: Child) -> Output {
    let (sender, done) = mpsc::channel();
    let pid = child.id();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = done.recv_timeout(DEADLINE).unwrap_or_else(|_| {
        signal(pid, "KILL");
        panic!("a process does not end")
    });
    output.unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn signal(pid: u32, name: &str) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let signal = match name {
        "TERM" => rustix::process::Signal::TERM,
        "INT" => rustix::process::Signal::INT,
        "XFSZ" => rustix::process::Signal::XFSZ,
        _ => rustix::process::Signal::KILL,
    };
    rustix::process::kill_process(pid, signal).unwrap();
}

fn within_deadline(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < DEADLINE, "the process does not end");
        thread::yield_now();
    }
}

fn refused(more: &[&str], code: i32, part: &str) {
    let mut command = node_command(more);
    let output = output(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!(output.status.code(), Some(code), "{more:?}: {}", stderr(&output));
    assert!(stderr(&output).contains(part), "{part:?} is not in {}", stderr(&output));
    assert_eq!(output.stdout, b"", "{more:?}");
}

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn the_first_line_says_everything_and_its_command_works() {
    let node = Node::start();
    let banner = &node.banner;
    for part in ["listens on tcp://127.0.0.1:", "HTTP on http://127.0.0.1:", "in memory only"] {
        assert!(banner.contains(part), "{part:?} is not in {banner}");
    }
    assert!(!banner.contains(":0,"), "{banner}");
    let (_, hint) = banner.trim_end().split_once("try: ltq ").unwrap();
    let words: Vec<_> = hint.split_whitespace().map(|word| word.trim_matches('"')).collect();
    let (options, topic) = (&words[..2], words[3]);
    let output = ltq(&[options, &["pub", topic, "first message"]].concat(), "");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("confirmed (durability memory)"), "{}", stderr(&output));
    assert_eq!(node.ok(&["sub", topic, "c", "--count", "1"], ""), "first message\n");
}

#[test]
fn promise_11_sigterm_and_ctrl_c_stop_a_node_cleanly() {
    for name in ["TERM", "INT"] {
        let node = Node::start();
        node.signal(name);
        assert_eq!(node.wait().code(), Some(0), "{name}");
    }
}

#[test]
fn a_limit_on_the_size_of_files_ends_no_node() {
    let node = Node::start();
    node.signal("XFSZ");
    let output = node.ltq(&["pub", "t", "still there"], "");
    assert!(output.status.success(), "{}", stderr(&output));
    node.signal("TERM");
    assert!(node.wait().success());
}

#[test]
fn a_second_signal_ends_a_node_at_once() {
    let node = Node::start();
    // A request that never ends keeps the first stop from ending.
    let http = node.word("http://").trim_start_matches("http://");
    let mut stream = TcpStream::connect(http).unwrap();
    let head = b"POST /pub?topic=t HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
                 content-length: 9\r\n\r\n";
    stream.write_all(head).unwrap();
    // By asking for the body the node says that the request is under way.
    stream.read_exact(&mut [0]).unwrap();
    node.signal("TERM");
    let server = node.server().trim_start_matches("tcp://").to_owned();
    let begun = Instant::now();
    while TcpStream::connect(&server).is_ok() {
        assert!(begun.elapsed() < DEADLINE, "the node does not stop to listen");
        thread::yield_now();
    }
    node.signal("TERM");
    assert_eq!(node.wait().code(), Some(1));
}

#[test]
fn lines_of_standard_input_are_messages_byte_for_byte() {
    let node = Node::start();
    let input = b"one\n\n two \xff\r\nlast";
    let output = node.ltq(&["pub", "t"], input);
    assert!(output.status.success());
    assert_eq!(stderr(&output), "4 messages confirmed (durability memory)\n");
    let output = node.ltq(&["sub", "t", "c", "--count", "4"], "");
    assert_eq!(output.stdout, [&input[..], b"\n"].concat());
    let json = node.json(&["channel", "show", "t", "c"]);
    assert_eq!((&json["acked"], &json["in_flight"]), (&4.into(), &0.into()), "{json}");
}

#[test]
fn many_lines_arrive_all_and_in_order() {
    let node = Node::start();
    let lines: String = (0..50_000).map(|line| format!("line {line}\n")).collect();
    let output = node.ltq(&["pub", "t"], &lines);
    assert_eq!(stderr(&output), "50000 messages confirmed (durability memory)\n");
    assert_eq!(node.ok(&["sub", "t", "c", "--count", "50000"], ""), lines);
}

#[test]
fn keys_headers_and_bytes_are_shown_as_json() {
    let node = Node::start();
    node.ok(&["pub", "t", "body", "--key", "k", "--header", "a=1", "--header", "a=2"], "");
    // What all channels have acked is given up: this one is to find it.
    node.ok(&["channel", "create", "t", "other", "--from", "0"], "");
    let text = node.ok(&["sub", "t", "c", "--count", "1", "--format", "json"], "");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["body"], &json["key"]), (&"body".into(), &"k".into()), "{json}");
    assert_eq!(json["headers"][1]["value"], "2", "{json}");
    assert_eq!((&json["offset"], &json["attempt"]), (&0.into(), &1.into()), "{json}");
    assert_eq!(node.json(&["sub", "t", "other", "--count", "1"])["body"], "body");
    assert!(json["time"].as_u64().unwrap() > 1_600_000_000_000, "{json}");
}

#[test]
fn promise_6_a_named_producer_goes_on_where_it_was() {
    let node = Node::start();
    let publish = |input: &str| node.ltq(&["pub", "t", "--name", "loader"], input);
    assert_eq!(stderr(&publish("a\nb\n")), "2 messages confirmed (durability memory)\n");
    let again = stderr(&publish("a\nb\nc\n"));
    assert!(again.contains("2 messages are stored under the name loader already"), "{again}");
    assert!(again.contains("1 message confirmed"), "{again}");
    let nothing = publish("a\nb\nc\n");
    assert!(nothing.status.success());
    assert_eq!(node.ok(&["sub", "t", "c", "--count", "3"], ""), "a\nb\nc\n");
    assert_eq!(node.json(&["topic", "show", "t"])["end"], 3);
}

#[test]
fn count_takes_exactly_as_many_and_gives_back_the_rest() {
    let node = Node::start();
    node.ok(&["pub", "t"], "1\n2\n3\n4\n5\n");
    assert_eq!(node.ok(&["sub", "t", "c", "--count", "2", "--credit", "5"], ""), "1\n2\n");
    let json = node.json(&["channel", "show", "t", "c"]);
    assert_eq!((&json["acked"], &json["waiting"]), (&2.into(), &3.into()), "{json}");
    assert_eq!(node.ok(&["sub", "t", "c", "--count", "3"], ""), "3\n4\n5\n");
}

#[test]
fn a_new_channel_starts_where_it_is_told() {
    let node = Node::start();
    node.ok(&["channel", "create", "t", "keeper"], "");
    node.ok(&["pub", "t"], "1\n2\n3\n");
    let from = |channel: &str, from: &str| {
        node.ok(&["sub", "t", channel, "--count", "1", "--from", from], "")
    };
    assert_eq!(from("a", "earliest"), "1\n");
    assert_eq!(from("b", "2"), "3\n");
    assert_eq!(from("c", "@0"), "1\n");
    node.ok(&["channel", "create", "t", "d", "--from", "latest"], "");
    node.ok(&["pub", "t", "4"], "");
    assert_eq!(from("d", "earliest"), "4\n");
}

/// What a `sub` prints, and the process.
fn subscriber(node: &Node, more: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let arguments = [&["--server", node.server(), "sub", "t", "c"], more].concat();
    let mut child = ltq_command(&arguments).stdin(Stdio::null()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

#[test]
fn ctrl_c_leaves_cleanly_and_what_was_printed_is_acked() {
    let node = Node::start();
    let (mut child, mut out) = subscriber(&node, &[]);
    node.ok(&["pub", "t", "hello"], "");
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    signal(child.id(), "INT");
    assert_eq!(within_deadline(&mut child).code(), Some(0));
    let json = node.json(&["channel", "show", "t", "c"]);
    let figures = ["acked", "waiting", "in_flight", "consumers"].map(|figure| &json[figure]);
    assert_eq!(figures, [1, 0, 0, 0], "{json}");
}

#[test]
fn ctrl_c_before_the_count_is_no_success() {
    let node = Node::start();
    let (mut child, mut out) = subscriber(&node, &["--count", "2"]);
    node.ok(&["pub", "t", "hello"], "");
    out.read_line(&mut String::new()).unwrap();
    signal(child.id(), "TERM");
    assert_eq!(within_deadline(&mut child).code(), Some(1));
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert!(words.contains("of 2 messages"), "{words}");
}

#[test]
fn a_reader_that_has_enough_ends_sub_quietly_and_loses_nothing() {
    let node = Node::start();
    let (mut child, mut out) = subscriber(&node, &[]);
    node.ok(&["pub", "t", "one"], "");
    out.read_line(&mut String::new()).unwrap();
    drop(out);
    node.ok(&["pub", "t", "two"], "");
    assert_eq!(within_deadline(&mut child).code(), Some(0));
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert_eq!(words, "");
    // It was not written, so it was not acked.
    assert_eq!(node.ok(&["sub", "t", "c", "--count", "1"], ""), "two\n");
}

#[test]
fn topics_and_channels_are_administered() {
    let node = Node::start();
    node.ok(&["topic", "create", "b"], "");
    node.ok(&["topic", "create", "a", "--durability", "memory"], "");
    assert_eq!(node.ok(&["topic", "list"], ""), "a\nb\n");
    assert_eq!(node.json(&["topic", "list"]), serde_json::json!(["a", "b"]));
    node.ok(&["channel", "create", "a", "x"], "");
    node.ok(&["channel", "create", "a", "w"], "");
    assert_eq!(node.ok(&["channel", "list", "a"], ""), "w\nx\n");
    for (pause, resume) in [
        (&["topic", "pause", "a"][..], &["topic", "resume", "a"][..]),
        (&["channel", "pause", "a", "x"], &["channel", "resume", "a", "x"]),
    ] {
        node.ok(pause, "");
        let paused = node.ok(&["stats"], "");
        assert!(paused.contains("paused"), "{paused}");
        node.ok(resume, "");
        assert!(!node.ok(&["stats"], "").contains("paused"));
    }
    assert_eq!(node.json(&["stats"])["topics"][0]["topic"], "a");
    assert!(node.ok(&["topic", "show", "a"], "").contains("durability     memory"));
    assert!(node.ok(&["topic", "show", "a"], "").contains("what is not acked"));
    let limits = ["--keep", "all", "--age-max", "7d", "--bytes-max", "10GiB"];
    node.ok(&[&["topic", "alter", "a"][..], &limits].concat(), "");
    let shown = node.ok(&["topic", "show", "a"], "");
    assert!(shown.contains("all, for 7days, up to 10.0 GiB"), "{shown}");
    node.ok(&["topic", "alter", "a", "--age-max", "none"], "");
    let retention = &node.json(&["topic", "show", "a"])["settings"]["retention"];
    assert_eq!(retention["keep"], "all");
    assert_eq!(retention["age_max_ms"], serde_json::Value::Null);
    assert_eq!(retention["bytes_max"], 10u64 << 30);
    // What is there already is fine when it is as asked for, whatever was not asked.
    node.ok(&["topic", "create", "a", "--keep", "all"], "");
    node.ok(&["channel", "delete", "a", "x"], "");
    assert_eq!(node.ok(&["channel", "list", "a"], ""), "w\n");
    node.ok(&["topic", "delete", "a"], "");
    assert_eq!(node.ok(&["topic", "list"], ""), "b\n");

    for (arguments, part) in [
        (&["topic", "show", "a"][..], "no_such_topic"),
        (&["channel", "show", "b", "x"], "no_such_channel"),
        (&["topic", "create", "c", "--durability", "disk"], "durability_unavailable"),
        (&["topic", "create", "b", "--keep", "all"], "exists"),
        (&["topic", "alter", "a", "--keep", "all"], "no_such_topic"),
    ] {
        let output = node.ltq(arguments, "");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains(part), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_topic_that_keeps_all_is_read_again() {
    let node = Node::start();
    node.ok(&["topic", "create", "t", "--keep", "all"], "");
    node.ok(&["pub", "t"], "one\ntwo\nthree\n");
    assert_eq!(node.ok(&["sub", "t", "c", "--count", "3"], ""), "one\ntwo\nthree\n");
    assert_eq!(node.ok(&["sub", "t", "again", "--count", "3"], ""), "one\ntwo\nthree\n");
    let late = ["sub", "t", "late", "--from", "2", "--count", "1"];
    assert_eq!(node.ok(&late, ""), "three\n");
    assert_eq!(node.json(&["topic", "show", "t"])["first"], 0);
}

#[test]
fn promise_13_what_an_age_limit_removes_unacked_is_shown() {
    let node = Node::start();
    node.ok(&["topic", "create", "t", "--age-max", "1s"], "");
    node.ok(&["channel", "create", "t", "c"], "");
    node.ok(&["pub", "t"], "one\ntwo\nthree\n");
    let began = Instant::now();
    while node.json(&["channel", "show", "t", "c"])["dropped"] != 3 {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing was removed");
    }
    let shown = node.ok(&["channel", "show", "t", "c"], "");
    let mut lines = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert!(lines.any(|words| words == ["dropped", "3"]), "{shown}");
    // The tables of all channels tell it too.
    for arguments in [&["topic", "show", "t"][..], &["stats"]] {
        let shown = node.ok(arguments, "");
        let mut lines = shown.lines().skip_while(|line| !line.contains("CHANNEL"));
        let names: Vec<_> = lines.next().unwrap().split("  ").map(str::trim).collect();
        let mut names = names.iter().filter(|name| !name.is_empty());
        let at = names.position(|name| *name == "DROPPED").unwrap();
        let row = lines.next().unwrap();
        assert_eq!(row.split_whitespace().nth(at), Some("3"), "{shown}");
    }
    let topic = node.json(&["topic", "show", "t"]);
    assert_eq!((&topic["end"], &topic["bytes"]), (&3.into(), &0.into()));
}

#[test]
fn a_failed_publish_says_how_much_is_sure() {
    let node = Node::start();
    let large = "x".repeat(2 << 20);
    let output = node.ltq(&["pub", "t"], format!("a\n{large}\nb\n"));
    assert_eq!(output.status.code(), Some(1));
    let words = stderr(&output);
    assert!(words.contains("for sure"), "{words}");
    assert!(words.contains("message_too_large"), "{words}");
}

#[test]
fn exit_codes_tell_a_mistake_from_a_failure() {
    for (arguments, code) in [
        (&["--server", "tcp://127.0.0.1:1", "stats"][..], 1),
        (&["--server", "smoke://signals", "stats"], 2),
        (&["--server", "tcp://", "stats"], 2),
        (&["nonsense"], 2),
        (&["bench", "pub", "--prefilled", "--topic", "t"], 2),
        (&["--help"], 0),
        (&["--version"], 0),
    ] {
        let output = ltq(arguments, "");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn promise_10_the_token_is_asked_for() {
    let node = Node::start_with(&["--store", "memory", "--token", "s3cret"]);
    assert!(node.banner.contains("LTQ_TOKEN"), "{}", node.banner);
    let output = node.ltq(&["stats"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("unauthorized"), "{}", stderr(&output));
    node.ok(&["--token", "s3cret", "stats"], "");
    let mut command = ltq_command(&["--server", node.server(), "stats"]);
    assert!(command.env("LTQ_TOKEN", "s3cret").status().unwrap().success());
}

#[test]
fn bench_reports_as_json() {
    let node = Node::start();
    let pid = node.child.id().to_string();
    let bench = ["bench", "e2e", "--count", "2000", "--warmup", "50ms", "--server-pid", &pid];
    let json = node.json(&bench);
    assert_eq!(json["messages"], 2000, "{json}");
    for figure in ["server_cpu_seconds", "messages_per_second"] {
        assert!(json[figure].is_f64(), "{figure} in {json}");
    }
    assert!(json["server_rss_bytes"]["after"].as_u64().unwrap() > 0, "{json}");
    let json = node.json(&["bench", "--idle-connections", "20", "--server-pid", &pid]);
    assert_eq!(json["connections"], 20, "{json}");
    assert_eq!(node.ok(&["topic", "list"], ""), "");
}

#[test]
fn the_device_is_measured_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let mut device = vec!["bench", "device", "--duration", "20ms", "--size", "1KiB"];
    device.extend(["--file-bytes", "3MiB", "--json", "--dir"]);
    let output = ltq(&[&device[..], &[dir]].concat(), "");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["size"], &json["bytes"]), (&1024.into(), &(3 << 20).into()), "{json}");
    let missing = folder.path().join("missing");
    let output = ltq(&[&device[..], &[missing.to_str().unwrap()]].concat(), "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("missing"), "{}", stderr(&output));
}
