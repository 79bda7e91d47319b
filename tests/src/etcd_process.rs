use std::{
    collections::BTreeSet,
    env, fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    time::sleep,
};

use crate::within;

/// A real etcd of one member, in a process and a folder of its own. It is killed when it is dropped.
pub struct EtcdProcess {
    client: SocketAddr,
    folder: TempDir,
    _child: Child,
}

impl EtcdProcess {
    /// Starts one, where there is the program. Where there is none this says so and gives nothing, unless the
    /// variable `REQUIRE_ETCD` is set.
    ///
    /// # Errors
    /// It cannot be started.
    ///
    /// # Panics
    /// There has to be the program, and is none; or it does not answer in time.
    pub async fn start() -> io::Result<Option<Self>> {
        let mut version = Command::new("etcd");
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        if !version.status().await.is_ok_and(|status| status.success()) {
            let is_required = env::var_os("REQUIRE_ETCD").is_some();
            assert!(!is_required, "REQUIRE_ETCD is set, and there is no program etcd");
            println!("not tested: there is no program etcd (the package etcd-server)");
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        let (client, peer) = (free()?, free()?);
        let mut command = Command::new("etcd");
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        let log = fs::File::create(folder.path().join("log"))?;
        let (at, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let child = command
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(["--name", "one", "--listen-client-urls", &at, "--advertise-client-urls", &at])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            // Short leases are granted where elections are as quick.
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let etcd = Self { client, folder, _child: child };
        let answers = async {
            let asked = json!({ "key": "YQ==" });
            while !etcd.ask("/v3/kv/range", &asked).await.is_ok_and(|it| it.get("header").is_some())
            {
                sleep(Duration::from_millis(20)).await;
            }
        };
        within("etcd's first answer", answers).await;
        Ok(Some(etcd))
    }

    /// Where its clients reach it: `HOST:PORT`.
    #[must_use]
    pub fn client(&self) -> String {
        self.client.to_string()
    }

    /// What it has written to its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Asks its gateway something, as nobody.
    ///
    /// # Errors
    /// It does not answer, or not in JSON.
    pub async fn ask(&self, path: &str, asked: &Value) -> io::Result<Value> {
        let asked = asked.to_string();
        let mut stream = TcpStream::connect(self.client).await?;
        let head = format!(
            "POST {path} HTTP/1.0\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
            self.client,
            asked.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(asked.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).map_err(io::Error::other)
    }
}

/// An address where nobody listens, and nobody will but who asked for it: of this process alone among all of this
/// machine, and of one test in it.
fn free() -> io::Result<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    // All of 127.0.0.0/8 is this machine's, and a process has at most 22 bits of a number.
    let [.., a, b, c] = std::process::id().to_be_bytes();
    loop {
        let free = TcpListener::bind((Ipv4Addr::new(127, a | 0x40, b, c), 0))?.local_addr()?;
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(free) {
            return Ok(free);
        }
    }
}
