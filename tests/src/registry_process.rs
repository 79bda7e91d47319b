use std::{io, net::SocketAddr, process::Command as Build};

use ltq_core::Address;
use serde_json::Value;

use crate::{
    process::{Listens, Process, ServesHttp, binary, http_of, spawn, word_of},
    within,
};

/// A real `ltq-node registry`, in a process of its own.
pub type RegistryProcess = Process<Registry>;

/// Where a registry is.
pub struct Registry {
    address: Address,
    http: SocketAddr,
}

impl Listens for Registry {
    fn address(&self) -> &Address {
        &self.address
    }
}

impl ServesHttp for Registry {
    fn http(&self) -> SocketAddr {
        self.http
    }
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
    pub async fn start_by(mut command: Build, listen: &Address, more: &[&str]) -> io::Result<Self> {
        command.args(["registry", "--listen", &listen.to_string(), "--http", "127.0.0.1:0"]);
        let (process, mut lines) = spawn(command, more, &[])?;
        let banner = within("the registry's start", lines.next_line()).await?.unwrap_or_default();
        let address = word_of(&banner, &format!("{}://", listen.scheme()));
        let none = || io::Error::other(format!("the registry said {banner:?}"));
        let address = address.ok_or_else(none)?.parse().map_err(io::Error::other)?;
        Ok(process.with(Registry { address, http: http_of(&banner)? }))
    }

    /// The nodes that it knows.
    ///
    /// # Errors
    /// The operating system's, or an answer that is none.
    pub async fn nodes(&self) -> io::Result<Vec<Value>> {
        match self.json("/nodes").await? {
            Value::Array(nodes) => Ok(nodes),
            other => Err(io::Error::other(format!("no list of nodes: {other}"))),
        }
    }

    /// Waits until the nodes that it knows are as wanted.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn until(&self, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let is_it = |told: &Value| told.as_array().is_some_and(|nodes| wanted(nodes));
        match self.until_json(what, "/nodes", is_it).await {
            Value::Array(nodes) => nodes,
            _ => Vec::new(),
        }
    }
}
