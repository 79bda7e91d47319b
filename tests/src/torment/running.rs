use std::{io, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{BridgeProcess, NodeProcess, RegistryProcess};

/// What runs on a host.
pub(super) enum Running {
    Registry(RegistryProcess),
    Node(NodeProcess),
    Bridge(BridgeProcess),
    Worker(Worker),
}

impl Running {
    /// SIGKILL.
    pub(super) async fn kill(self) -> io::Result<()> {
        match self {
            Self::Registry(registry) => registry.kill().await,
            Self::Node(node) => node.kill().await,
            Self::Bridge(bridge) => bridge.kill().await,
            Self::Worker(mut worker) => worker.child.kill().await,
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Registry(registry) => registry.pid(),
            Self::Node(node) => node.pid(),
            Self::Bridge(bridge) => bridge.pid(),
            Self::Worker(worker) => worker.child.id(),
        }
    }

    /// SIGSTOP, or SIGCONT.
    pub(super) fn pause(&self, paused: bool) -> io::Result<()> {
        self.signal(if paused { Signal::STOP } else { Signal::CONT })
    }

    /// SIGTERM; nobody waits for the end.
    pub(super) fn ask_to_end(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        Ok(kill_process(pid.ok_or_else(|| io::Error::other("it has ended"))?, signal)?)
    }

    /// SIGTERM, and the end that follows.
    pub(super) async fn terminate(self) -> io::Result<()> {
        let ended = match self {
            Self::Registry(registry) => registry.terminate().await?,
            Self::Node(node) => node.terminate().await?,
            Self::Bridge(bridge) => bridge.terminate().await?,
            Self::Worker(worker) => return worker.end().await,
        };
        if ended.success() { Ok(()) } else { Err(io::Error::other(format!("it ended by {ended}"))) }
    }

    pub(super) const fn worker(&mut self) -> Option<&mut Worker> {
        match self {
            Self::Worker(worker) => Some(worker),
            _ => None,
        }
    }
}

/// A program of ours, which is told words and says some.
pub(super) struct Worker {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    is_ready: bool,
}

impl Worker {
    pub(super) fn start(command: std::process::Command) -> io::Result<Self> {
        let mut command = Command::from(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let no = || io::Error::other("no pipe");
        let input = child.stdin.take().ok_or_else(no)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(no)?).lines();
        Ok(Self { child, input, output, is_ready: false })
    }

    /// Tells it a word, and waits for the line that begins with it, of which this is the rest.
    pub(super) async fn ask(&mut self, word: &str) -> io::Result<String> {
        self.input.write_all(format!("{word}\n").as_bytes()).await?;
        self.hears(word).await
    }

    /// Waits until it has opened everything.
    pub(super) async fn ready(&mut self) -> io::Result<()> {
        if !self.is_ready {
            self.hears("ready").await?;
        }
        Ok(())
    }

    async fn hears(&mut self, word: &str) -> io::Result<String> {
        let heard = timeout(WORD_MAX, async {
            while let Some(line) = self.output.next_line().await? {
                self.is_ready |= line == "ready";
                if let Some(rest) = line.strip_prefix(word) {
                    return Ok(rest.trim().to_owned());
                }
            }
            Err(io::Error::other(format!("it ended before it was {word}")))
        });
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("it is never {word}"));
        heard.await.map_err(late)?
    }

    /// Lets it come to its end.
    async fn end(mut self) -> io::Result<()> {
        self.input.write_all(b"end\n").await?;
        let ended = timeout(WORD_MAX, self.child.wait()).await;
        let ended = ended.map_err(|_| io::Error::other("it does not end"))??;
        if ended.success() { Ok(()) } else { Err(io::Error::other(format!("it ended by {ended}"))) }
    }
}

/// What a worker may take to say a word: longer than any publish, or than it insists.
const WORD_MAX: Duration = Duration::from_secs(90);
