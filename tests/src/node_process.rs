use std::{
    io,
    path::{Path, PathBuf},
    process::{Command as Build, ExitStatus, Stdio},
    sync::OnceLock,
};

use ltq_core::Address;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::within;

/// A real `ltq-node`, in a process of its own.
pub struct NodeProcess {
    child: Child,
    address: Address,
    banner: String,
    fingerprint: Option<String>,
}

impl NodeProcess {
    /// Starts a node on a data directory. Port 0 is any.
    ///
    /// # Errors
    /// The node ended before it said where it listens.
    pub async fn start(data_dir: &Path, port: u16, more: &[&str]) -> io::Result<Self> {
        let listen = Address::new("tcp", format!("127.0.0.1:{port}"));
        Self::start_by(Build::new(binary("ltq-node")), data_dir, &listen, more).await
    }

    /// Starts a node by a command that knows how and where to, and lacks its arguments. It serves no
    /// HTTP unless `more` says where.
    ///
    /// # Errors
    /// The node ended before it said where it listens.
    pub async fn start_by(
        command: Build,
        data_dir: &Path,
        listen: &Address,
        more: &[&str],
    ) -> io::Result<Self> {
        let mut command = Command::from(command);
        // Settings of a test are none of a node's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LTQ_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--listen", &listen.to_string()])
            .args(if more.contains(&"--http") { &[][..] } else { &["--http", "off"] })
            .args(more)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        let scheme = format!("{}://", listen.scheme());
        let (address, banner) = within("the node's start", async {
            while let Some(line) = lines.next_line().await? {
                if let Some(word) = word_of(&line, &scheme) {
                    return Ok((word.parse().map_err(io::Error::other)?, line));
                }
            }
            Err(io::Error::other("the node ended before it listened"))
        })
        .await?;
        let mut fingerprint = None;
        if more.contains(&"--dev-tls") {
            let told = within("the fingerprint", lines.next_line()).await?.unwrap_or_default();
            fingerprint = word_of(&told, "sha256:").map(str::to_owned);
        }
        // Its output goes on being read, so that it never waits for a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, address, banner, fingerprint })
    }

    /// The first word that begins so of what it said when it had started: another address of its.
    #[must_use]
    pub fn said(&self, start: &str) -> Option<&str> {
        word_of(&self.banner, start)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// What its certificate for development is known by, if it was started with `--dev-tls`.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// The port that it listens on.
    ///
    /// # Panics
    /// Never: the address has one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.rest().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
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
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        Ok(kill_process(pid.ok_or_else(|| io::Error::other("it has ended"))?, signal)?)
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
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or_else(|| io::Error::other("it has ended"))?;
        Ok(kill_process(pid, Signal::TERM)?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn ended(mut self) -> io::Result<ExitStatus> {
        within("the node's clean stop", self.child.wait()).await
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
