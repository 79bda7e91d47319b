//! The README's promise to a new user: a text file goes in by `ltq pub` and comes out by `ltq sub`,
//! every line of it, byte for byte, exactly once; also when the node is killed in the middle.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use ltq_tests::{NodeProcess, binary, within};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// Lines in the test's file: enough to be in the middle of when the node is killed.
const LINES: usize = 200_000;

/// A text of so many lines: this repository's own pages over and over, with empty lines, long
/// ones, and bytes that are no UTF-8.
fn text(lines: usize) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let pages: Vec<u8> = ["LICENSE-APACHE", "README.md", "ARCHITECTURE.md"]
        .iter()
        .flat_map(|page| fs::read(root.join(page)).expect("a page"))
        .collect();
    let mut text = Vec::new();
    for (number, line) in pages.split(|byte| *byte == b'\n').cycle().take(lines).enumerate() {
        text.extend_from_slice(line);
        match number % 1000 {
            1 => text.extend(std::iter::repeat_n(b'x', 20_000)),
            2 => text.extend_from_slice(&[0xff, 0xfe, 0, b'\r']),
            _ => {}
        }
        text.push(b'\n');
    }
    text
}

struct Shell {
    folder: tempfile::TempDir,
    server: String,
}

impl Shell {
    fn ltq(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("ltq"));
        command.arg("--server").arg(&self.server).args(arguments).kill_on_drop(true);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn publish(&self, topic: &str, file: &Path) -> Child {
        let input = File::open(file).expect("the text");
        self.ltq(&["pub", topic]).stdin(input).spawn().expect("ltq pub")
    }

    fn subscribe(&self, topic: &str, channel: &str, more: &[&str], into: &Path) -> Child {
        let output = File::create(into).expect("an output");
        let mut command = self.ltq(&["sub", topic, channel]);
        command.args(more).stdout(output).stdin(Stdio::null()).spawn().expect("ltq sub")
    }
}

async fn ends(what: &str, child: &mut Child) -> ExitStatus {
    within(what, child.wait()).await.expect("it ends")
}

fn sorted_lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines
}

async fn start() -> (Shell, NodeProcess, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let node = NodeProcess::start(&folder.path().join("data"), 0, &[]).await.expect("a node");
    let text = text(LINES);
    fs::write(folder.path().join("text"), &text).expect("the text");
    let server = node.address().to_string();
    (Shell { folder, server }, node, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_channels_get_every_line_once_and_two_consumers_share_them() {
    let (shell, node, text) = start().await;
    // Before the first message: a topic keeps what its channels still want, and no more.
    for channel in ["a", "b", "shared"] {
        let mut creating = shell.ltq(&["channel", "create", "lines", channel]);
        let mut creating = creating.stdout(Stdio::null()).spawn().expect("ltq channel create");
        assert!(ends("creating a channel", &mut creating).await.success());
    }
    let mut publishing = shell.publish("lines", &shell.path("text"));
    assert!(ends("publishing", &mut publishing).await.success(), "promise 1: all confirmed");

    let count = LINES.to_string();
    for channel in ["a", "b"] {
        let output = shell.path(channel);
        let mut printing = shell.subscribe("lines", channel, &["--count", &count], &output);
        assert!(ends("printing", &mut printing).await.success());
        let printed = fs::read(&output).expect("what was printed");
        assert!(printed == text, "promise 4: channel {channel} differs from what was published");
    }

    let (left, right) = (shell.path("left"), shell.path("right"));
    let half = (LINES / 2).to_string();
    let mut one = shell.subscribe("lines", "shared", &["--count", &half], &left);
    let mut other = shell.subscribe("lines", "shared", &["--count", &half], &right);
    assert!(ends("one half", &mut one).await.success());
    assert!(ends("the other half", &mut other).await.success());
    let mut both = fs::read(&left).expect("one half");
    both.extend(fs::read(&right).expect("the other half"));
    assert!(sorted_lines(&both) == sorted_lines(&text), "promise 2: the halves are not the whole");

    assert!(node.terminate().await.expect("it stops").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_1_and_6_a_kill_in_the_middle_loses_and_repeats_nothing() {
    let (shell, node, text) = start().await;
    let port = node.port();
    let mut publishing = shell.publish("lines", &shell.path("text"));
    // In the middle: some are stored, and the publisher is not done.
    let client = within("connecting", ltq_client::Client::connect(&shell.server)).await;
    let client = client.expect("a connection");
    within("half of the lines", async {
        loop {
            if let Ok(topic) = client.admin().show_topic("lines").await
                && topic.end.0 > LINES as u64 / 20
            {
                return;
            }
        }
    })
    .await;
    node.kill().await.expect("killed");
    let node = NodeProcess::start(&shell.path("data"), port, &[]).await.expect("it starts again");
    assert!(ends("publishing", &mut publishing).await.success(), "promise 1: all confirmed");

    let count = LINES.to_string();
    let output = shell.path("out");
    let mut printing = shell.subscribe("lines", "c", &["--count", &count], &output);
    assert!(ends("printing", &mut printing).await.success());
    let printed = fs::read(&output).expect("what was printed");
    assert!(printed == text, "what was printed differs from what was published");

    // Nothing is left behind those lines.
    let topic = client.admin().show_topic("lines").await.expect("the topic's figures");
    assert_eq!(topic.end.0, LINES as u64, "promise 6: each line is stored once");
    client.close().await.expect("a clean close");
    assert!(node.terminate().await.expect("it stops").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_interrupted_leaves_cleanly() {
    let (shell, node, text) = start().await;
    let mut publishing = shell.publish("lines", &shell.path("text"));
    let output = shell.path("first");
    let mut printing = shell.subscribe("lines", "c", &[], &output);
    within("something is printed", async {
        while fs::metadata(&output).map_or(0, |file| file.len()) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let pid = printing.id().and_then(|pid| Pid::from_raw(pid as i32)).expect("a process");
    kill_process(pid, Signal::INT).expect("a signal");
    ends("leaving", &mut printing).await;
    assert!(ends("publishing", &mut publishing).await.success());

    // What it had printed it had acked, and the rest comes to the next one: nothing twice.
    let first = fs::read(&output).expect("what was printed");
    let printed = first.iter().filter(|byte| **byte == b'\n').count();
    let rest = (LINES - printed).to_string();
    let mut printing = shell.subscribe("lines", "c", &["--count", &rest], &shell.path("second"));
    assert!(ends("printing the rest", &mut printing).await.success());
    let mut both = first;
    both.extend(fs::read(shell.path("second")).expect("the rest"));
    assert!(both == text, "promises 11 and 12: both together differ from what was published");
    assert!(node.terminate().await.expect("it stops").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_the_first_that_is_there_takes_the_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = NodeProcess::start(&folder.path().join("data"), 0, &[]).await.expect("a node");
    let server = format!("tcp://127.0.0.1:1, {}", node.address());
    let shell = Shell { folder, server };
    let mut publishing = shell.ltq(&["pub", "t", "hello"]).spawn().expect("ltq pub");
    assert!(ends("ltq pub", &mut publishing).await.success());
    let none = Shell { server: "tcp://127.0.0.1:1,tcp://127.0.0.1:2".to_owned(), ..shell };
    let mut publishing =
        none.ltq(&["pub", "t", "hello"]).stderr(Stdio::null()).spawn().expect("it");
    assert!(!ends("ltq pub", &mut publishing).await.success());
}
