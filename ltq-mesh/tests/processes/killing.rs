//! Processes that are killed while others send.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use crate::part::ROLE;

/// A machine that is busy with much else is no reason to fail.
const PATIENCE: Duration = Duration::from_secs(180);

/// A process, which does not outlive this one.
struct Process {
    child: Child,
    says: ChildStdin,
    lines: Receiver<String>,
}

impl Process {
    fn start(role: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["part::part", "--exact", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (says, hears) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (line, lines) = channel();
        thread::spawn(move || {
            for text in BufReader::new(hears).lines().map_while(Result::ok) {
                let Some(words) = text.strip_prefix("@ ") else { continue };
                if line.send(words.to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { child, says, lines }
    }

    /// The next line; `None` at the end.
    fn hear(&self, until: Instant) -> Option<String> {
        let left = until.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Some(line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it says nothing in time"),
        }
    }

    fn expect(&self, line: &str) {
        assert_eq!(self.hear(Instant::now() + PATIENCE).as_deref(), Some(line));
    }

    fn say(&mut self, line: &str) {
        writeln!(self.says, "{line}").unwrap();
    }

    /// With SIGKILL, at once.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn inbox(folder: &Path, kept: &str) -> Self {
        let process = Self::start(&format!("inbox {} {kept}", folder.display()));
        process.expect("up");
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that sends, and what it has said of it.
struct Sender {
    process: Process,
    name: &'static str,
    ok: BTreeSet<u64>,
    perhaps: BTreeSet<u64>,
    no: BTreeSet<u64>,
    is_marked: bool,
    is_done: bool,
}

impl Sender {
    fn start(name: &'static str, folder: &Path, first: u64) -> Self {
        let process = Process::start(&format!("sender {name} {} {first}", folder.display()));
        process.expect("up");
        let (ok, perhaps, no) = Default::default();
        Self { process, name, ok, perhaps, no, is_marked: false, is_done: false }
    }

    /// Hears one more word; says whether there was one.
    fn hear(&mut self, until: Instant) -> bool {
        let Some(line) = self.process.hear(until) else { return false };
        let (word, number) = line.split_once(' ').unwrap_or((&line, ""));
        match (word, number.parse()) {
            ("ok", Ok(number)) => _ = self.ok.insert(number),
            ("perhaps", Ok(number)) => _ = self.perhaps.insert(number),
            ("no", Ok(number)) => _ = self.no.insert(number),
            ("mark", _) => self.is_marked = true,
            ("done", _) => self.is_done = true,
            _ => panic!("{line:?}"),
        }
        true
    }

    /// Waits until so many more are stored, of such as are sent from now on.
    fn goes_on(&mut self, count: usize) {
        let until = Instant::now() + PATIENCE;
        self.process.say("mark");
        self.is_marked = false;
        while !self.is_marked {
            assert!(self.hear(until), "{} ended", self.name);
        }
        let enough = self.ok.len() + count;
        while self.ok.len() < enough {
            assert!(self.hear(until), "{} ended", self.name);
        }
    }

    fn stop(&mut self) {
        self.process.say("stop");
        let until = Instant::now() + PATIENCE;
        while !self.is_done {
            assert!(self.hear(until), "{} ended", self.name);
        }
    }

    /// Killed, and all that it had said before heard.
    fn kill(&mut self) {
        self.process.kill();
        let until = Instant::now() + PATIENCE;
        while self.hear(until) {}
    }

    /// That what was read of it is what was said, in order and once; `from` is the first of what the inbox
    /// can have.
    fn check(&self, received: &[u64], from: u64, was_killed: bool) {
        let name = self.name;
        assert!(received.is_sorted_by(|one, two| one < two), "{name}: {received:?}");
        let received: BTreeSet<_> = received.iter().copied().collect();
        let ok: BTreeSet<_> = self.ok.range(from..).copied().collect();
        assert!(ok.is_subset(&received), "{name} lost {:?}", ok.difference(&received));
        assert!(self.no.is_disjoint(&received), "{name}: {:?}", self.no.intersection(&received));
        let told = |number: &u64| self.ok.contains(number) || self.perhaps.contains(number);
        let last =
            [&self.ok, &self.perhaps, &self.no].map(|it| it.last().copied()).into_iter().max();
        let last = last.flatten().unwrap_or(0);
        // Who was killed may not have had the time to say what became of its last ones.
        let may_be = |number: &u64| told(number) || was_killed && *number > last;
        let of_nobody: Vec<_> = received.iter().filter(|number| !may_be(number)).collect();
        assert!(of_nobody.is_empty(), "{name}: {of_nobody:?}");
    }
}

/// Reads all that an inbox has: who sent, and which number, in order.
fn read_all(inbox: &mut Process, senders: usize) -> Vec<(String, u64)> {
    inbox.say(&senders.to_string());
    let (until, mut all) = (Instant::now() + PATIENCE, Vec::new());
    loop {
        let line = inbox.hear(until).expect("it is not over");
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["got", _, "end", _] => {}
            ["got", from, number, "1"] => all.push((from.to_owned(), number.parse().unwrap())),
            ["read"] => return all,
            _ => panic!("{line:?}"),
        }
    }
}

fn of(all: &[(String, u64)], name: &str, numbers: std::ops::Range<u64>) -> Vec<u64> {
    let theirs = all.iter().filter(|(from, _)| from == name).map(|(_, number)| *number);
    theirs.filter(|number| numbers.contains(number)).collect()
}

#[test]
fn promise_1_an_inbox_in_files_that_is_killed_has_all_that_was_answered_in_order_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut inbox = Process::inbox(folder.path(), "kept");
    let mut ann = Sender::start("ann", folder.path(), 1);
    let mut bob = Sender::start("bob", folder.path(), 1);
    for _ in 0..6 {
        ann.goes_on(100);
        bob.goes_on(100);
        inbox.kill();
        inbox = Process::inbox(folder.path(), "kept");
    }
    ann.goes_on(100);
    bob.goes_on(100);
    // One of those who send is killed as well, and comes back under its name.
    bob.kill();
    let mut again = Sender::start("bob", folder.path(), SECOND_LIFE);
    again.goes_on(100);
    ann.goes_on(100);
    ann.stop();
    again.stop();
    let all = read_all(&mut inbox, 2);
    ann.check(&of(&all, "ann", 0..u64::MAX), 0, false);
    // The second life comes behind all of the first.
    let both = of(&all, "bob", 0..u64::MAX);
    assert!(both.is_sorted_by(|one, two| one < two), "{both:?}");
    bob.check(&of(&all, "bob", 0..SECOND_LIFE), 0, true);
    again.check(&of(&all, "bob", SECOND_LIFE..u64::MAX), 0, false);
}

#[test]
fn an_inbox_in_memory_that_is_killed_comes_back_empty_and_senders_go_on_in_order_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut inbox = Process::inbox(folder.path(), "lost");
    let mut ann = Sender::start("ann", folder.path(), 1);
    let mut bob = Sender::start("bob", folder.path(), 1);
    for _ in 0..3 {
        ann.goes_on(500);
        bob.goes_on(500);
        inbox.kill();
        inbox = Process::inbox(folder.path(), "lost");
    }
    ann.goes_on(500);
    bob.goes_on(500);
    ann.stop();
    bob.stop();
    let all = read_all(&mut inbox, 2);
    for sender in [&ann, &bob] {
        let received = of(&all, sender.name, 0..u64::MAX);
        // What came before was in the inboxes that are no more.
        let from = received.first().copied().expect("it went on");
        assert!(sender.ok.range(..from).count() >= 1_000);
        sender.check(&received, from, false);
    }
}

/// What a process that is started again counts from.
const SECOND_LIFE: u64 = 1_000_000;
