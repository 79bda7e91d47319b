use std::{
    io,
    net::SocketAddr,
    process::{Command as Build, Stdio},
};

use ltq_core::Address;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    node_process::{binary, word_of},
    within,
};

/// A real `ltq-node registry`, in a process of its own.
pub struct RegistryProcess {
    child: Child,
    address: Address,
    http: SocketAddr,
}

impl RegistryProcess {
    /// Starts a registry on a port of this machine. Port 0 is any.
    ///
    /// # Errors
    /// It ended before it said where it listens.
    pub async fn start(port: u16, more: &[&str]) -> io::Result<Self> {
        let listen = Address::new("tcp", format!("127.0.0.1:{port}"));
        Self::start_by(Build::new(binary("ltq-node")), &listen, more).await
    }

    /// Starts a registry by a command that knows how and where to, and lacks its arguments. Its HTTP is for
    /// the host that it runs on.
    ///
    /// # Errors
    /// It ended before it said where it listens.
    pub async fn start_by(command: Build, listen: &Address, more: &[&str]) -> io::Result<Self> {
        let mut command = Command::from(command);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LTQ_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("registry")
            .args(["--listen", &listen.to_string(), "--http", "127.0.0.1:0"])
            .args(more)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        let banner = within("the registry's start", lines.next_line()).await?.unwrap_or_default();
        let none = || io::Error::other(format!("the registry said {banner:?}"));
        let address = word_of(&banner, "tcp://").ok_or_else(none)?;
        let http = word_of(&banner, "http://").ok_or_else(none)?;
        let http = http.trim_start_matches("http://").parse().map_err(io::Error::other)?;
        let address = address.parse().map_err(io::Error::other)?;
        Ok(Self { child, address, http })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The port that it listens on.
    ///
    /// # Panics
    /// Never: the address has one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.rest().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// What it answers to `GET path`: the status, and the body.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn get(&self, path: &str, token: Option<&str>) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.http).await?;
        let token = token.map(|it| format!("authorization: Bearer {it}\r\n")).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nhost: r\r\n{token}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        Ok((status.unwrap_or_default(), body.unwrap_or_default()))
    }

    /// The nodes that it knows.
    ///
    /// # Errors
    /// The operating system's, or an answer that is none.
    pub async fn nodes(&self) -> io::Result<Vec<Value>> {
        let (_, body) = self.get("/nodes", None).await?;
        serde_json::from_str(&body).map_err(io::Error::other)
    }

    /// Waits until the nodes that it knows are as wanted.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn until(&self, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        within(what, async {
            loop {
                if let Ok(nodes) = self.nodes().await
                    && wanted(&nodes)
                {
                    return nodes;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await
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
    pub async fn terminate(mut self) -> io::Result<std::process::ExitStatus> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        kill_process(pid.ok_or_else(|| io::Error::other("it has ended"))?, Signal::TERM)?;
        within("the registry's clean stop", self.child.wait()).await
    }
}
