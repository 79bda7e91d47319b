//! A node, and commands that talk to it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

pub(crate) fn command(binary: &str) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LTQ_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A node with a store on disk, killed when it is dropped.
pub(crate) struct Node {
    child: Child,
    banner: String,
    /// Open, so that the node can go on writing.
    stdout: BufReader<ChildStdout>,
}

impl Node {
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = command(env!("CARGO_BIN_EXE_ltq-node"))
            .args(["--http", "127.0.0.1:0", "--log-level", "error"])
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        stdout.read_line(&mut banner).unwrap();
        assert!(banner.ends_with('\n'), "the node said {banner:?} and ended");
        Self { child, banner, stdout }
    }

    /// The word of its first line that begins so.
    pub(crate) fn word(&self, start: &str) -> &str {
        let word = self.banner.split_whitespace().find(|word| word.starts_with(start)).unwrap();
        word.trim_end_matches([',', ';'])
    }

    pub(crate) fn banner(&self) -> &str {
        &self.banner
    }

    /// What the second line says of a certificate for development.
    pub(crate) fn fingerprint(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().to_owned()
    }

    /// A figure of its metrics, by name and labels.
    pub(crate) fn figure(&self, name: &str) -> u64 {
        let address = self.word("http://").trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Ends it as an operator does.
    pub(crate) fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `ltq` to its end.
pub(crate) fn ltq(arguments: &[&str]) -> Output {
    command(env!("CARGO_BIN_EXE_ltq")).args(["--timeout", "20s"]).args(arguments).output().unwrap()
}

/// The same, which must go well; returns its standard output.
pub(crate) fn ok(arguments: &[&str]) -> String {
    let output = ltq(arguments);
    assert!(output.status.success(), "ltq {arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The exit code and words of one that must not.
pub(crate) fn refused(arguments: &[&str]) -> (i32, String) {
    let output = ltq(arguments);
    assert!(!output.status.success(), "ltq {arguments:?} went well");
    (output.status.code().unwrap(), said(&output))
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Tries until it is so.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::yield_now();
    }
}
