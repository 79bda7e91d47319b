use std::{io, net::SocketAddr, path::Path, process::Command as Build};

use ltq_core::Address;

use crate::{
    process::{Listens, Process, ServesHttp, binary, http_of, spawn, word_of},
    within,
};

/// A real `ltq-node`, in a process of its own.
pub type NodeProcess = Process<Node>;

/// What a node has said of itself.
pub struct Node {
    address: Address,
    banner: String,
    fingerprint: Option<String>,
}

impl Listens for Node {
    fn address(&self) -> &Address {
        &self.address
    }
}

/// One that was told to by `--http`.
impl ServesHttp for Node {
    fn http(&self) -> SocketAddr {
        http_of(&self.banner).expect("it serves HTTP")
    }
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
        mut command: Build,
        data_dir: &Path,
        listen: &Address,
        more: &[&str],
    ) -> io::Result<Self> {
        command.arg("--data-dir").arg(data_dir).args(["--listen", &listen.to_string()]);
        if !more.contains(&"--http") {
            command.args(["--http", "off"]);
        }
        let (process, mut lines) = spawn(command, more, &[])?;
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
        Ok(process.with(Node { address, banner, fingerprint }))
    }

    /// The first word that begins so of what it said when it had started: another address of its.
    #[must_use]
    pub fn said(&self, start: &str) -> Option<&str> {
        word_of(&self.has.banner, start)
    }

    /// What its certificate for development is known by, if it was started with `--dev-tls`.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.has.fingerprint.as_deref()
    }
}
