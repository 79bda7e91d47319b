use std::{io, net::SocketAddr, process::Command as Build};

use serde_json::Value;

use crate::{
    process::{Process, ServesHttp, binary, http_of, spawn},
    within,
};

/// A real `ltq-node bridge`, in a process of its own.
pub type BridgeProcess = Process<Bridge>;

/// Where a bridge serves HTTP.
pub struct Bridge {
    http: SocketAddr,
}

impl ServesHttp for Bridge {
    fn http(&self) -> SocketAddr {
        self.http
    }
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
        mut command: Build,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> io::Result<Self> {
        command.args(["bridge", "--http", "127.0.0.1:0"]);
        let (process, mut lines) = spawn(command, arguments, variables)?;
        let banner = within("the bridge's start", lines.next_line()).await?.unwrap_or_default();
        Ok(process.with(Bridge { http: http_of(&banner)? }))
    }

    /// What it says of its routes.
    ///
    /// # Errors
    /// The operating system's, or an answer that is none.
    pub async fn routes(&self) -> io::Result<Value> {
        self.json("/routes").await
    }

    /// Waits until what it says of its routes is as wanted.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until_json(what, "/routes", wanted).await
    }
}
