//! A real etcd, mostly of one member, each in a folder of its own, and a line to it that can be cut.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ltq_discovery::conformance::Backend;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Whether the program is here. Without it these tests say so and pass, but where the variable
/// `REQUIRE_ETCD` is set.
pub(crate) fn is_here() -> bool {
    let mut command = Command::new("etcd");
    let command = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    let is_here = command.status().is_ok_and(|status| status.success());
    let is_required = env::var_os("REQUIRE_ETCD").is_some();
    assert!(is_here || !is_required, "REQUIRE_ETCD is set, and there is no program etcd");
    if !is_here {
        println!("not tested: there is no program etcd (the package etcd-server)");
    }
    is_here
}

/// Cheap to clone. It is killed when the last clone, or this process, is gone.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    folder: TempDir,
    client: SocketAddr,
    /// By TLS, where it has a certificate.
    secure: SocketAddr,
    peer: SocketAddr,
    name: String,
    /// All members, as etcd is told of them.
    cluster: String,
    options: Vec<String>,
    running: Mutex<Option<Running>>,
}

struct Running {
    guard: Child,
    pid: u32,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its guard kills it, however it stands, when there is nothing more to read.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

impl Server {
    pub(crate) async fn start(options: &[&str]) -> Self {
        let [one] = Self::members(options);
        one.run().await;
        one
    }

    /// Three members of one etcd, by which nothing is decided without two of them.
    pub(crate) async fn start_three() -> [Self; 3] {
        // They share few processors.
        let all = Self::members(&["--heartbeat-interval", "100", "--election-timeout", "1000"]);
        for member in &all {
            member.begin();
        }
        for member in &all {
            member.answers().await;
        }
        all
    }

    fn members<const N: usize>(options: &[&str]) -> [Self; N] {
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        let peers = [(); N].map(|()| free());
        let named = |number: usize| format!("member-{number}");
        let all = peers.iter().enumerate().map(|(n, peer)| format!("{}=http://{peer}", named(n)));
        let cluster = all.collect::<Vec<_>>().join(",");
        std::array::from_fn(|number| {
            Self(Arc::new(Inner {
                folder: tempfile::tempdir().unwrap(),
                client: free(),
                secure: free(),
                peer: peers[number],
                name: named(number),
                cluster: cluster.clone(),
                options: options.clone(),
                running: Mutex::new(None),
            }))
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.client
    }

    pub(crate) fn secure(&self) -> SocketAddr {
        self.0.secure
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&self) {
        drop(self.0.running.lock().take());
    }

    /// Runs it, with what it has on disk, until it answers.
    pub(crate) async fn run(&self) {
        self.begin();
        self.answers().await;
    }

    fn begin(&self) {
        let running = self.0.spawn().unwrap();
        *self.0.running.lock() = Some(running);
    }

    async fn answers(&self) {
        let Inner { folder, client, .. } = &*self.0;
        let answers = async {
            while !is_leading(*client).await {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        assert!(timeout(Duration::from_secs(60), answers).await.is_ok(), "no etcd: {}", log());
    }

    /// Takes away all that it has on disk, while it does not run.
    pub(crate) fn wipe(&self) {
        assert!(self.0.running.lock().is_none(), "it runs");
        fs::remove_dir_all(self.0.folder.path().join("data")).unwrap();
    }

    /// Stops it where it is, or lets it go on.
    pub(crate) fn pause(&self, is_paused: bool) {
        let signal = if is_paused { "-STOP" } else { "-CONT" };
        let pid = self.0.running.lock().as_ref().unwrap().pid;
        let status = Command::new("sh").args(["-c", &format!("kill {signal} {pid}")]).status();
        assert!(status.unwrap().success());
    }

    /// Asks it something, as nobody or with a token.
    pub(crate) async fn ask(&self, path: &str, asked: &Value, token: Option<&str>) -> Value {
        let answer = post(self.0.client, path, asked, token).await.unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    /// Writes a key, as anybody may who may write.
    pub(crate) async fn put(&self, key: &str, value: &[u8]) {
        let asked = json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(value) });
        let answer = self.ask("/v3/kv/put", &asked, None).await;
        assert!(answer.get("header").is_some(), "{answer}");
    }

    /// Forgets what was before now.
    pub(crate) async fn compact(&self) {
        // Of two in a row the second would have nothing to do, and fail.
        self.put("/elsewhere", b"").await;
        let now = self.ask("/v3/kv/range", &json!({ "key": "YQ==" }), None).await;
        let asked = json!({ "revision": now["header"]["revision"], "physical": true });
        let answer = self.ask("/v3/kv/compaction", &asked, None).await;
        assert!(answer.get("header").is_some(), "{answer}");
    }

    /// Takes all keys away that begin so.
    pub(crate) async fn delete(&self, prefix: &str) {
        let (key, end) = range(prefix);
        let asked = json!({ "key": key, "range_end": end });
        let answer = self.ask("/v3/kv/deleterange", &asked, None).await;
        assert!(answer.get("deleted").is_some(), "{answer}");
    }

    /// How many keys begin so.
    pub(crate) async fn count(&self, prefix: &str) -> u64 {
        let (key, end) = range(prefix);
        let asked = json!({ "key": key, "range_end": end, "count_only": true });
        let answer = self.ask("/v3/kv/range", &asked, None).await;
        answer.get("count").map_or(0, |count| count.as_str().unwrap().parse().unwrap())
    }

    /// All keys that begin so, but for the words by which nodes are known to be withdrawn, which stay for an hour.
    pub(crate) async fn left(&self, prefix: &str) -> Vec<String> {
        let (key, end) = range(prefix);
        let asked = json!({ "key": key, "range_end": end, "keys_only": true });
        let answer = self.ask("/v3/kv/range", &asked, None).await;
        let keys = answer.get("kvs").and_then(Value::as_array).into_iter().flatten();
        let keys = keys.map(|one| STANDARD.decode(one["key"].as_str().unwrap()).unwrap());
        let keys = keys.map(|key| String::from_utf8(key).unwrap());
        keys.filter(|key| !key.ends_with("/withdrawn")).collect()
    }
}

#[async_trait]
impl Backend for Server {
    async fn sever(&self) {
        self.kill();
    }

    async fn restore(&self) {
        self.run().await;
    }
}

/// All keys that begin so.
fn range(prefix: &str) -> (String, String) {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    (STANDARD.encode(prefix), STANDARD.encode(end))
}

/// An address where nobody listens, and nobody will but who asked for it: of this process alone among all of this
/// machine, and of one test in it.
fn free() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    // All of 127.0.0.0/8 is this machine's, and a process has at most 22 bits of a number.
    let [.., a, b, c] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, a | 0x40, b, c);
    loop {
        let free = StdListener::bind((own, 0)).unwrap().local_addr().unwrap();
        if GIVEN.lock().insert(free) {
            return free;
        }
    }
}

impl Inner {
    /// Runs it under a shell that kills it once its own input ends: so it does not outlive the tests, however
    /// those end.
    fn spawn(&self) -> io::Result<Running> {
        const GUARD: &str =
            r#"log=$1; shift; etcd "$@" >>"$log" 2>&1 & echo $!; read _; kill -KILL $!; wait"#;
        let folder = self.folder.path();
        let mut command = Command::new("sh");
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        let (client, peer) = (format!("http://{}", self.client), format!("http://{}", self.peer));
        let mut clients = client.clone();
        if self.options.iter().any(|option| option == "--cert-file") {
            clients.push_str(&format!(",https://{}", self.secure));
        }
        command.args(["-c", GUARD, "sh"]).arg(folder.join("log"));
        command.arg("--data-dir").arg(folder.join("data")).args(["--name", &self.name]);
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &self.cluster]);
        // Leases of a second are granted where elections are as quick.
        command.args(["--heartbeat-interval", "20", "--election-timeout", "200"]);
        command.args(&self.options);
        let mut guard = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut line)?;
        Ok(Running { guard, pid: line.trim().parse().unwrap() })
    }
}

async fn is_leading(at: SocketAddr) -> bool {
    let asked = json!({ "key": "YQ==" });
    let answer = post(at, "/v3/kv/range", &asked, None).await.unwrap_or_default();
    answer.contains("raft_term") || answer.contains("user name")
}

async fn post(
    at: SocketAddr,
    path: &str,
    asked: &Value,
    token: Option<&str>,
) -> io::Result<String> {
    let asked = asked.to_string();
    let mut stream = TcpStream::connect(at).await?;
    let token = token.map_or_else(String::new, |token| format!("Authorization: {token}\r\n"));
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: {at}\r\nContent-Length: {}\r\n{token}\r\n",
        asked.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(asked.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default().to_owned())
}

/// A line to an etcd.
#[derive(Clone)]
pub(crate) struct Line {
    at: SocketAddr,
    to: SocketAddr,
    carried: Arc<Mutex<Option<JoinSet<()>>>>,
}

impl Line {
    pub(crate) async fn to(to: SocketAddr) -> Self {
        let line = Self { at: free(), to, carried: Arc::default() };
        line.restore().await;
        line
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.at
    }
}

#[async_trait]
impl Backend for Line {
    async fn sever(&self) {
        let carried = self.carried.lock().take();
        if let Some(mut carried) = carried {
            carried.shutdown().await;
        }
    }

    async fn restore(&self) {
        let listener = TcpListener::bind(self.at).await.unwrap();
        let (to, mut carried) = (self.to, JoinSet::new());
        carried.spawn(async move {
            let mut each = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                while each.try_join_next().is_some() {}
                each.spawn(async move {
                    let mut far = TcpStream::connect(to).await?;
                    copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        *self.carried.lock() = Some(carried);
    }
}
