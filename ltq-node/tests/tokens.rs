//! Tokens as people use them: made by `ltq-node token`, permitted by the file, changed while the
//! node runs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests; their helpers stand outside of the test functions"
)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

fn command(binary: &str) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LTQ_") {
            command.env_remove(name);
        }
    }
    command
}

/// A node in memory with a configuration file, killed when it is dropped.
struct Node {
    child: Child,
    banner: String,
    file: PathBuf,
}

impl Node {
    fn start(folder: &Path, text: &str) -> Self {
        Self::start_with(folder, text, &[])
    }

    fn start_with(folder: &Path, text: &str, more: &[&str]) -> Self {
        let file = folder.join("ltq.toml");
        std::fs::write(&file, text).unwrap();
        let mut child = command(env!("CARGO_BIN_EXE_ltq-node"))
            .args(["--listen", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0", "--store", "memory"])
            .args(["--log-level", "error", "--config"])
            .arg(&file)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut banner = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut banner).unwrap();
        assert!(banner.ends_with('\n'), "the node said {banner:?} and ended");
        Self { child, banner, file }
    }

    fn word(&self, start: &str) -> &str {
        let word = self.banner.split_whitespace().find(|word| word.starts_with(start)).unwrap();
        word.trim_end_matches([',', ';'])
    }

    fn ltq(&self, token: &str, arguments: &[&str]) -> Output {
        command(env!("CARGO_BIN_EXE_ltq"))
            .args(["--server", self.word("tcp://"), "--timeout", "20s"])
            .args(arguments)
            .env("LTQ_TOKEN", token)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ok(&self, token: &str, arguments: &[&str]) -> String {
        let output = self.ltq(token, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The words of a command that is refused.
    fn refused(&self, token: &str, arguments: &[&str]) -> String {
        let output = self.ltq(token, arguments);
        assert!(!output.status.success(), "{arguments:?}");
        said(&output)
    }

    fn http(&self, request: &str, token: &str, body: &str) -> (u16, String) {
        let address = self.word("http://").trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\
             authorization: Bearer {token}\r\n\r\n{body}"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        (text.split_whitespace().nth(1).unwrap().parse().unwrap(), text)
    }

    /// Waits until a figure of the node's metrics has this value.
    fn wait_for(&self, token: &str, line: &str) {
        let begun = Instant::now();
        loop {
            let (status, text) = self.http("GET /metrics", token, "");
            if status == 200 && text.lines().any(|found| found == line) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no {line} in {text}");
            thread::yield_now();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An `ltq sub`, killed when it is dropped.
struct Subscriber {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Subscriber {
    fn of(mut child: Child) -> Self {
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|l| sender.send(l)));
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(60)).unwrap()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A token and the lines of it.
fn make(arguments: &[&str]) -> (String, String) {
    let output =
        command(env!("CARGO_BIN_EXE_ltq-node")).arg("token").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    (said(&output).trim_end().to_owned(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn what_a_token_permits_is_done_over_all_ways_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, writers) = make(&["writer", "--publish", "orders.*"]);
    let (reader, readers) = make(&["reader", "--consume", "orders.*"]);
    let (root, roots) = make(&["root", "--administer", "*"]);
    assert!(!writers.contains(&writer), "{writers}");
    let node = Node::start(folder.path(), &[writers, readers, roots].concat());
    assert!(node.banner.contains("LTQ_TOKEN"), "{}", node.banner);

    node.ok(&writer, &["pub", "orders.new", "one"]);
    assert_eq!(node.ok(&reader, &["sub", "orders.new", "c", "--count", "1"]), "one\n");
    let words = node.refused(&reader, &["pub", "orders.new", "two"]);
    assert!(words.contains("publish on orders.new"), "{words}");
    let words = node.refused(&writer, &["sub", "orders.new", "c", "--count", "1"]);
    assert!(words.contains("consume on orders.new"), "{words}");
    let words = node.refused(&writer, &["topic", "delete", "orders.new"]);
    assert!(words.contains("administer on orders.new"), "{words}");
    let words = node.refused("ltq_guess", &["pub", "orders.new", "two"]);
    assert!(words.contains("unauthorized") && !words.contains("orders.new was"), "{words}");
    node.ok(&root, &["stats"]);

    for (request, token, status) in [
        ("POST /pub?topic=orders.new", &*writer, 200),
        ("POST /pub?topic=other", &writer, 403),
        ("POST /mpub?topic=other", &writer, 403),
        ("POST /pub?topic=orders.new", &reader, 403),
        ("POST /pub?topic=orders.new", "guess", 401),
        ("GET /metrics", &writer, 403),
        ("GET /metrics", &root, 200),
        ("GET /healthz", "guess", 200),
        ("GET /readyz", "guess", 200),
    ] {
        let (answered, text) = node.http(request, token, "x");
        assert_eq!(answered, status, "{request}: {text}");
    }
    // Not allowed to publish: the answer is the same for a topic that is there.
    let answers = ["orders.new", "orders.not"].map(|topic| {
        let (_, text) = node.http(&format!("POST /pub?topic={topic}"), &reader, "x");
        let same = |line: &&str| !line.to_ascii_lowercase().starts_with("date:");
        text.lines().filter(same).collect::<Vec<_>>().join("\n").replace(topic, "NAME")
    });
    assert!(answers[0].contains("publish on NAME"), "{}", answers[0]);
    assert_eq!(answers[0], answers[1]);
    let topics = node.ok(&root, &["topic", "list"]);
    assert!(topics.contains("orders.new") && !topics.contains("other"), "{topics}");
}

#[test]
fn tokens_are_changed_while_sessions_are_open_and_a_broken_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (root, roots) = make(&["root", "--administer", "*"]);
    let all = ["--publish", "*", "--consume", "*"];
    let (old, olds) = make(&[&["old"][..], &all].concat());
    let (new, news) = make(&[&["new"][..], &all].concat());
    let text = format!("[limits]\nheartbeat = \"1s\"\n{roots}{olds}");
    let node = Node::start(folder.path(), &text);
    // Both channels from the start, so that each keeps every message.
    node.ok(&root, &["channel", "create", "t", "by-old"]);
    node.ok(&root, &["channel", "create", "t", "by-new"]);
    node.ok(&old, &["pub", "t", "one"]);
    assert!(node.refused(&new, &["pub", "t", "two"]).contains("unauthorized"));

    // Noticed by itself.
    std::fs::write(&node.file, format!("{text}{news}")).unwrap();
    node.wait_for(&root, "ltq_config_reloads_total 1");
    node.ok(&new, &["pub", "t", "two"]);

    // Two that wait for messages, one with each token.
    let open = |token: &str, channel: &str| {
        let child = command(env!("CARGO_BIN_EXE_ltq"))
            .args(["--server", node.word("tcp://"), "sub", "t", channel])
            .env("LTQ_TOKEN", token)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Subscriber::of(child)
    };
    let heard = [open(&old, "by-old"), open(&new, "by-new")];
    for subscriber in &heard {
        assert_eq!([subscriber.line(), subscriber.line()], ["one", "two"]);
    }

    // A file that is broken: all stays.
    std::fs::write(&node.file, format!("{text}{news}\nname =")).unwrap();
    node.wait_for(&root, "ltq_config_reload_failed 1");
    node.ok(&old, &["pub", "t", "three"]);
    for subscriber in &heard {
        assert_eq!(subscriber.line(), "three");
    }

    // Without the old one, told by a signal: its session ends, the other goes on.
    std::fs::write(&node.file, format!("[limits]\nheartbeat = \"1s\"\n{roots}{news}")).unwrap();
    let pid = rustix::process::Pid::from_child(&node.child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    node.wait_for(&root, "ltq_config_reload_failed 0");
    node.wait_for(&root, "ltq_streams_revoked_total 1");
    assert!(node.refused(&old, &["pub", "t", "four"]).contains("unauthorized"));
    node.ok(&new, &["pub", "t", "four"]);
    assert_eq!(heard[1].line(), "four");
}

#[test]
fn who_comes_over_a_unix_socket_is_known_by_its_user() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}", folder.path().join("ltq.sock").display());
    let (root, roots) = make(&["root", "--administer", "*"]);
    let user = rustix::process::getuid().as_raw();
    let me = format!("[[identities]]\nidentity = \"uid:{user}\"\npublish = [\"orders.*\"]\n");
    let shared = format!("unix_mode = \"660\"\n{roots}{me}");
    let node = Node::start_with(folder.path(), &shared, &["--listen", &socket]);
    assert_eq!(node.word("unix://"), socket);
    let mode = std::fs::metadata(folder.path().join("ltq.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let publish = |server: &str, token: Option<&str>, topic: &str| {
        let mut ltq = command(env!("CARGO_BIN_EXE_ltq"));
        ltq.args(["--server", server, "--timeout", "20s", "pub", topic, "one"]);
        if let Some(token) = token {
            ltq.env("LTQ_TOKEN", token);
        }
        let output = ltq.stdin(Stdio::null()).output().unwrap();
        output.status.success().then_some(()).ok_or_else(|| said(&output))
    };
    publish(&socket, None, "orders.new").unwrap();
    let words = publish(&socket, None, "other").unwrap_err();
    assert!(words.contains("publish on other"), "{words}");
    // A token that is brought counts alone, and TCP proves nobody.
    for (server, token) in [(&*socket, Some("ltq_guess")), (node.word("tcp://"), None)] {
        let words = publish(server, token, "orders.new").unwrap_err();
        assert!(words.contains("unauthorized"), "{words}");
    }
    std::fs::write(&node.file, format!("unix_mode = \"660\"\n{roots}")).unwrap();
    node.wait_for(&root, "ltq_config_reloads_total 1");
    let words = publish(&socket, None, "orders.new").unwrap_err();
    assert!(words.contains("unauthorized"), "{words}");
}

#[test]
fn metrics_are_for_everybody_where_they_are_made_public() {
    let folder = tempfile::tempdir().unwrap();
    let (_, roots) = make(&["root", "--administer", "*"]);
    let node = Node::start(folder.path(), &format!("metrics_public = true\n{roots}"));
    let (status, text) = node.http("GET /metrics", "guess", "");
    assert!(status == 200 && text.contains("ltq_info"), "{text}");
    assert_eq!(node.http("POST /pub?topic=t", "guess", "x").0, 401);
}
