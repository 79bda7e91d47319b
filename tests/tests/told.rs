//! What a node, a registry and a bridge say of tokens that others could guess or read.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ltq_core::Address;
use ltq_tests::{NodeProcess, RegistryProcess, binary, within};
use tokio::time::{Duration, sleep};

const LONG: &str = "sixteen bytes, 1";
const BARE: &str = "tokens come in there unencrypted";

/// The program, with its log in this file.
fn logged(log: &Path) -> Command {
    let mut command = Command::new(binary("ltq-node"));
    command.stderr(Stdio::from(File::create(log).expect("a log")));
    command
}

/// The lines of a log that warn of tokens, once there are so many.
async fn warned(log: &Path, count: usize) -> Vec<String> {
    within("the warnings", async {
        loop {
            let said = fs::read_to_string(log).expect("a log");
            let bare: Vec<_> = said.lines().filter(|line| line.contains(BARE)).collect();
            if bare.len() >= count {
                return bare.into_iter().map(str::to_owned).collect();
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }

    async fn node(&self, listen: &str, more: &[&str]) -> NodeProcess {
        let (scheme, rest) = listen.split_once("://").expect("an address");
        let (data, listen) = (self.0.path().join("data"), Address::new(scheme, rest));
        NodeProcess::start_by(logged(&self.log()), &data, &listen, more).await.expect("a node")
    }
}

#[tokio::test]
async fn promise_10_a_node_says_where_tokens_come_in_that_others_can_read() {
    let folder = Folder(tempfile::tempdir().expect("a folder"));
    let token = ["--http", "0.0.0.0:0", "--token", LONG];
    let node = folder.node("tcp://0.0.0.0:0", &token).await;
    let lines = warned(&folder.log(), 2).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("tcp://0.0.0.0:0") && lines[1].contains("http://0.0.0.0:0"));
    assert!(lines.iter().all(|line| line.contains("WARN") && !line.contains(LONG)), "{lines:?}");
    assert!(node.terminate().await.expect("it ends").success());
    // Where nobody else gets there is nothing to say, nor where it is encrypted.
    let (near, dev) = ("127.0.0.1:0", "--dev-tls");
    let more = ["--listen", "tls://0.0.0.0:0", dev, "--http", near, "--token", LONG];
    let node = folder.node("tcp://127.0.0.1:0", &more).await;
    assert!(node.terminate().await.expect("it ends").success());
    assert!(warned(&folder.log(), 0).await.is_empty(), "it is the whole log");
}

#[tokio::test]
async fn promise_10_a_node_does_not_start_with_a_token_that_others_could_guess() {
    let folder = tempfile::tempdir().expect("a folder");
    for (token, starts) in [(&LONG[1..], false), (LONG, true)] {
        let log = folder.path().join("log");
        let data = folder.path().join("data");
        let listen = Address::new("tcp", "0.0.0.0:0");
        let started =
            NodeProcess::start_by(logged(&log), &data, &listen, &["--token", token]).await;
        assert_eq!(started.is_ok(), starts);
        if let Ok(node) = started {
            assert!(node.terminate().await.expect("it ends").success());
        }
        let said = fs::read_to_string(&log).expect("a log");
        assert_eq!(said.contains("at least 16 bytes"), !starts, "{said}");
        assert!(!said.contains(token), "{said}");
    }
}

#[tokio::test]
async fn promise_10_a_registry_says_where_tokens_come_in_that_others_can_read() {
    let folder = Folder(tempfile::tempdir().expect("a folder"));
    let listen = Address::new("tcp", "0.0.0.0:0");
    let more = ["--token", LONG];
    let registry = RegistryProcess::start_by(logged(&folder.log()), &listen, &more).await;
    let lines = warned(&folder.log(), 1).await;
    assert!(lines.len() == 1 && lines[0].contains("tcp://0.0.0.0:0"), "{lines:?}");
    let ended = registry.expect("a registry").terminate().await;
    assert!(ended.expect("it ends").success());
}

#[tokio::test]
async fn promise_10_a_bridge_says_where_tokens_come_in_that_others_can_read() {
    let folder = Folder(tempfile::tempdir().expect("a folder"));
    let mut command = tokio::process::Command::from(logged(&folder.log()));
    // Neither side has to be there.
    command.args(["bridge", "--http", "0.0.0.0:0", "--topic", "t"]);
    command.args(["--from", "tcp://127.0.0.1:1", "--to", "tcp://127.0.0.1:2"]);
    let mut bridge = command.env("LTQ_BRIDGE_TOKEN", LONG).kill_on_drop(true).spawn().expect("it");
    let lines = warned(&folder.log(), 1).await;
    assert!(lines.len() == 1 && lines[0].contains("http://0.0.0.0:0"), "{lines:?}");
    within("its end", bridge.kill()).await.expect("it ends");
}
