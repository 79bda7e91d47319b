use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    process::{Command as Build, ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use ltq_core::Address;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout, Command},
};

use crate::within;

/// A program of this workspace in a process of its own, of which `K` says what it is and where. It is killed
/// when this is dropped.
pub struct Process<K> {
    child: Child,
    pub(crate) has: K,
}

/// What one that was just started prints.
pub(crate) type Output = Lines<BufReader<ChildStdout>>;

/// One that serves HTTP.
pub trait ServesHttp {
    /// Where.
    fn http(&self) -> SocketAddr;
}

/// One that listens for clients.
pub trait Listens {
    /// Where.
    fn address(&self) -> &Address;
}

/// Starts a program with more arguments and with these variables, without settings of the test's own process.
/// Returns what it prints, too.
pub(crate) fn spawn(
    command: Build,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> io::Result<(Process<()>, Output)> {
    let mut command = Command::from(command);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LTQ_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(variables.iter().copied());
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    Ok((Process { child, has: () }, BufReader::new(stdout).lines()))
}

/// Where it serves HTTP, of the line that it says when it has started.
pub(crate) fn http_of(banner: &str) -> io::Result<SocketAddr> {
    let none = || io::Error::other(format!("it said {banner:?}"));
    let http = word_of(banner, "http://").ok_or_else(none)?;
    http.trim_start_matches("http://").parse().map_err(io::Error::other)
}

impl<K> Process<K> {
    /// The same process, of which more is known.
    pub(crate) fn with<L>(self, has: L) -> Process<L> {
        Process { child: self.child, has }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// SIGSTOP or SIGCONT: it stands still, or goes on.
    ///
    /// # Errors
    /// The operating system's.
    pub fn pause(&self, paused: bool) -> io::Result<()> {
        self.signal(if paused { Signal::STOP } else { Signal::CONT })
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn terminate(self) -> io::Result<ExitStatus> {
        self.tell_to_end()?;
        self.ended().await
    }

    /// SIGTERM, once.
    ///
    /// # Errors
    /// The operating system's.
    pub fn tell_to_end(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGHUP: it reads its configuration again.
    ///
    /// # Errors
    /// The operating system's.
    pub fn hang_up(&self) -> io::Result<()> {
        self.signal(Signal::HUP)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn ended(mut self) -> io::Result<ExitStatus> {
        within("its clean stop", self.child.wait()).await
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        Ok(kill_process(pid.ok_or_else(|| io::Error::other("it has ended"))?, signal)?)
    }
}

impl<K: Listens> Process<K> {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.has.address()
    }

    /// The port that it listens on.
    ///
    /// # Panics
    /// Never: the address has one.
    #[must_use]
    pub fn port(&self) -> u16 {
        let port = self.address().rest().rsplit(':').next();
        port.and_then(|port| port.parse().ok()).expect("a port")
    }
}

impl<K: ServesHttp> Process<K> {
    /// What it answers to `GET path`: the status, and the body.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn get(&self, path: &str, token: Option<&str>) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.has.http()).await?;
        let token = token.map(|it| format!("authorization: Bearer {it}\r\n")).unwrap_or_default();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{token}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        Ok((status.unwrap_or_default(), body.unwrap_or_default()))
    }

    /// Waits until its answer to `GET path` is as wanted, by status and body.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn until_answer(&self, path: &str, wanted: impl Fn(u16, &str) -> bool) -> String {
        let what = format!("the wanted answer to GET {path}");
        within(&what, async {
            loop {
                if let Ok((status, body)) = self.get(path, None).await
                    && wanted(status, &body)
                {
                    return body;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// What it answers to `GET path` as JSON.
    ///
    /// # Errors
    /// The operating system's, or an answer that is none.
    pub(crate) async fn json(&self, path: &str) -> io::Result<Value> {
        let (_, body) = self.get(path, None).await?;
        serde_json::from_str(&body).map_err(io::Error::other)
    }

    /// Waits until that is as wanted.
    pub(crate) async fn until_json(
        &self,
        what: &str,
        path: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        within(what, async {
            loop {
                if let Ok(told) = self.json(path).await
                    && wanted(&told)
                {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

pub(crate) fn word_of<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    let word = line.split_whitespace().find(|word| word.starts_with(start))?;
    Some(word.trim_end_matches([',', ';', '.', ')']))
}

/// A binary of this workspace, built once for each run of the tests.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // .../target/PROFILE/deps/test or .../target/PROFILE/binary
        let mut folder = std::env::current_exe().expect("this program");
        folder.pop();
        if folder.ends_with("deps") {
            folder.pop();
        }
        let mut build = Build::new(option_env!("CARGO").unwrap_or("cargo"));
        build.args(["build", "--quiet", "-p", "ltq-node", "--bins"]);
        // What cargo tells a test of its own package: ring's build script takes it for a change of
        // itself, and it and all above it would be compiled again, now and at the next build.
        for (name, _) in std::env::vars_os() {
            let own = ["CARGO_PKG_", "CARGO_MANIFEST_"];
            if name.to_str().is_some_and(|name| own.iter().any(|own| name.starts_with(own))) {
                build.env_remove(name);
            }
        }
        if cfg!(feature = "rocksdb") {
            build.args(["--features", "rocksdb"]);
        }
        if folder.ends_with("release") {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(folder.parent().expect("a target folder"));
        assert!(build.status().expect("cargo runs").success(), "ltq-node does not build");
        folder
    });
    folder.join(name)
}
