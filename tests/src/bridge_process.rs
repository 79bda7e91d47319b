use std::{
    io,
    net::SocketAddr,
    process::{Command as Build, Stdio},
    time::Duration,
};

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

/// A real `ltq-node bridge`, in a process of its own.
pub struct BridgeProcess {
    child: Child,
    http: SocketAddr,
}

impl BridgeProcess {
    /// Starts a bridge with these arguments and variables.
    ///
    /// # Errors
    /// It ended before it said where it serves HTTP.
    pub async fn start(arguments: &[&str], variables: &[(&str, &str)]) -> io::Result<Self> {
        Self::start_by(Build::new(binary("ltq-node")), arguments, variables).await
    }

    /// Starts a bridge by a command that knows how and where to, and lacks its arguments. Its HTTP is for the
    /// host that it runs on.
    ///
    /// # Errors
    /// It ended before it said where it serves HTTP.
    pub async fn start_by(
        command: Build,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> io::Result<Self> {
        let mut command = Command::from(command);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LTQ_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["bridge", "--http", "127.0.0.1:0"])
            .args(arguments)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        let banner = within("the bridge's start", lines.next_line()).await?.unwrap_or_default();
        let none = || io::Error::other(format!("the bridge said {banner:?}"));
        let http = word_of(&banner, "http://").ok_or_else(none)?;
        let http = http.trim_start_matches("http://").parse().map_err(io::Error::other)?;
        Ok(Self { child, http })
    }

    /// What it answers to `GET path`: the status, and the body.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn get(&self, path: &str, token: Option<&str>) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.http).await?;
        let token = token.map(|it| format!("authorization: Bearer {it}\r\n")).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nhost: b\r\n{token}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        Ok((status.unwrap_or_default(), body.unwrap_or_default()))
    }

    /// What it says of its routes.
    ///
    /// # Errors
    /// The operating system's, or an answer that is none.
    pub async fn routes(&self) -> io::Result<Value> {
        let (_, body) = self.get("/routes", None).await?;
        serde_json::from_str(&body).map_err(io::Error::other)
    }

    /// Waits until what it says of its routes is as wanted.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        within(what, async {
            loop {
                if let Ok(routes) = self.routes().await
                    && wanted(&routes)
                {
                    return routes;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
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

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn terminate(mut self) -> io::Result<std::process::ExitStatus> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        kill_process(pid.ok_or_else(|| io::Error::other("it has ended"))?, Signal::TERM)?;
        within("the bridge's clean stop", self.child.wait()).await
    }
}
