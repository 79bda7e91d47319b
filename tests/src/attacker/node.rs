use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use ltq_core::{Address, model::ModelSettings};
use ltq_transport::self_signed;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use super::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, TOKEN, Target};
use crate::{DEADLINE, NodeProcess, binary, within};

/// A node that is to be attacked: with tokens, small limits, short deadlines, and figures to see.
pub struct Besieged {
    process: NodeProcess,
    target: Target,
    log: PathBuf,
    pid: u32,
}

/// What a node holds at a moment.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its memory.
    pub resident_bytes: u64,
    /// What of it stands in huge pages, which are kept whole for whatever little is left in them; not every system
    /// tells.
    pub huge_bytes: Option<u64>,
    /// Its open sockets.
    pub sockets: usize,
    /// All of its open files.
    pub descriptors: usize,
    /// Its threads.
    pub threads: u64,
    /// What `/metrics` says, by name and labels.
    pub figures: BTreeMap<String, f64>,
}

impl Besieged {
    /// One on this machine, with the settings of a [`Siege`](super::Siege).
    pub(super) async fn start(folder: &Path, honest_token: &str) -> io::Result<Self> {
        let command = Command::new(binary("ltq-node"));
        Self::start_by(command, Ipv4Addr::LOCALHOST, folder, honest_token, &settings()).await
    }

    /// Starts one by a command that knows how and where to, and lacks its arguments. It listens at this address, and
    /// goes by these settings beside those that attackers need. `honest_token` permits everything.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_by(
        mut command: Command,
        host: Ipv4Addr,
        folder: &Path,
        honest_token: &str,
        settings: &str,
    ) -> io::Result<Self> {
        let certificate = self_signed(&["localhost", "127.0.0.1"]).map_err(io::Error::other)?;
        let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
        fs::write(file("certificate.pem"), &certificate.certificate)?;
        fs::write(file("key.pem"), &certificate.key)?;
        fs::write(file("ltq.toml"), format!("{}{settings}", of_attackers()))?;
        let log = folder.join("log");
        command.stderr(File::create(&log)?);
        let at = |scheme: &str| format!("{scheme}://{host}:0");
        let (tls, quic, http) = (at("tls"), at("quic"), format!("{host}:0"));
        let unix = format!("unix://{}", folder.join("ltq.sock").display());
        let listen = Address::new("tcp", format!("{host}:0"));
        let (settings, certificate_file, key) =
            (file("ltq.toml"), file("certificate.pem"), file("key.pem"));
        let more = [
            ["--listen", &tls],
            ["--listen", &quic],
            ["--listen", &unix],
            ["--http", &http],
            ["--tls-certificate", &certificate_file],
            ["--tls-key", &key],
            ["--config", &settings],
            ["--token", honest_token],
        ];
        let data = folder.join("data");
        let process = NodeProcess::start_by(command, &data, &listen, &more.concat()).await?;
        let said = |start: &str| {
            process.said(start).ok_or_else(|| io::Error::other(format!("it names no {start}")))
        };
        let address = |scheme: &str| said(scheme)?.parse().map_err(io::Error::other);
        let target = Target {
            tcp: address("tcp://")?,
            tls: address("tls://")?,
            quic: address("quic://")?,
            unix: unix.parse().map_err(io::Error::other)?,
            http: said("http://")?
                .trim_start_matches("http://")
                .parse()
                .map_err(io::Error::other)?,
            certificate,
        };
        let pid = process.pid().ok_or_else(|| io::Error::other("it has ended"))?;
        Ok(Self { process, target, log, pid })
    }

    /// Where it is.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// What it holds now.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub async fn held(&self) -> io::Result<Held> {
        let figures = self.figures().await?;
        let descriptors: Vec<_> = fs::read_dir(format!("/proc/{}/fd", self.pid))?
            // One may be closed meanwhile.
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .collect();
        let is_socket = |link: &&PathBuf| link.to_string_lossy().starts_with("socket:");
        Ok(Held {
            resident_bytes: self.status("VmRSS:")? << 10,
            huge_bytes: self.huge_bytes()?,
            sockets: descriptors.iter().filter(is_socket).count(),
            descriptors: descriptors.len(),
            threads: self.status("Threads:")?,
            figures,
        })
    }

    /// The most memory that it had so far.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn peak_bytes(&self) -> io::Result<u64> {
        Ok(self.status("VmHWM:")? << 10)
    }

    /// Waits until what it holds is so, and returns that.
    ///
    /// # Errors
    /// It cannot be looked at.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn until(&self, what: &str, so: impl Fn(&Held) -> bool) -> io::Result<Held> {
        let other =
            |held: &Held| if so(held) { Vec::new() } else { vec!["it is not so".to_owned()] };
        self.until_nothing_is_other(what, other).await
    }

    /// Waits until nothing of what it holds is other than it is to be, and returns what it holds.
    ///
    /// # Errors
    /// It cannot be looked at.
    ///
    /// # Panics
    /// When that does not happen, with what is still other.
    pub async fn until_nothing_is_other(
        &self,
        what: &str,
        other: impl Fn(&Held) -> Vec<String>,
    ) -> io::Result<Held> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let held = self.held().await?;
            let left = other(&held);
            if left.is_empty() {
                return Ok(held);
            }
            assert!(
                Instant::now() < deadline,
                "{what} did not happen within {DEADLINE:?}: {}",
                left.join(", ")
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// A clean stop, and all that it logged.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn stop(self) -> io::Result<(ExitStatus, String)> {
        let ended = self.process.terminate().await?;
        Ok((ended, fs::read_to_string(self.log)?))
    }

    async fn figures(&self) -> io::Result<BTreeMap<String, f64>> {
        let mut stream = TcpStream::connect(self.target.http).await?;
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut text = String::new();
        within("figures", stream.read_to_string(&mut text)).await?;
        let figures = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(figures.collect())
    }

    fn huge_bytes(&self) -> io::Result<Option<u64>> {
        match self.line("smaps_rollup", "AnonHugePages:") {
            Ok(kib) => Ok(Some(kib << 10)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn status(&self, name: &str) -> io::Result<u64> {
        self.line("status", name)
    }

    /// A line of what the system tells of the process.
    fn line(&self, file: &str, name: &str) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.pid))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| io::Error::other(format!("there is no {name}")))
    }
}

impl Held {
    /// One of what `/metrics` says; 0 where there is none of that name.
    #[must_use]
    pub fn figure(&self, name: &str) -> f64 {
        self.figures.get(name).copied().unwrap_or_default()
    }

    /// Tasks other than topics, each of which has one.
    #[must_use]
    pub fn tasks_beside_topics(&self) -> f64 {
        self.figure("ltq_tasks") - self.figure("ltq_topics")
    }

    /// The sum of a figure over what belongs to the attackers.
    pub(super) fn of_attackers(&self, name: &str) -> f64 {
        let start = format!("{name}{{topic=\"attack.");
        self.figures.iter().filter(|(name, _)| name.starts_with(&start)).map(|(_, sum)| sum).sum()
    }
}

/// What lets attackers in, and others look.
fn of_attackers() -> String {
    let hash: String = Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        r#"
metrics_public = true

[[tokens]]
name = "attackers"
sha256 = "{hash}"
publish = ["attack.*"]
consume = ["attack.*"]
administer = ["attack.*"]
"#
    )
}

fn settings() -> String {
    format!(
        r#"
[tls]
handshake_timeout = "1s"

[quic]
stream_window = "256KiB"
connection_window = "1MiB"
send_window = "1MiB"

[limits]
message_bytes_max = "{MESSAGE_BYTES_MAX}"
frame_bytes_max = "{FRAME_BYTES_MAX}"
streams_max = {STREAMS_MAX}
subscriptions_max = 256
producers_max = 256
producers_known_max = 1000
futile_frames_max = 1000
publish_bytes_max = "1MiB"
publish_bytes_total_max = "{PUBLISH_BYTES_TOTAL_MAX}"
partial_bytes_total_max = "{PARTIAL_BYTES_TOTAL_MAX}"
connections_per_address_max = {USER_CONNECTIONS_MAX}
greeting_connections_per_address_max = {USER_CONNECTIONS_MAX}
http_connections_max = {HTTP_CONNECTIONS_MAX}
http_request_timeout = "2s"
http_body_bytes_total_max = "{HTTP_BODY_BYTES_TOTAL_MAX}"
hello_timeout = "1s"
stall_timeout = "2s"
heartbeat = "5s"

[delivery]
channel_runs_max = 1000

[retention]
bytes_max = "1MiB"

[file_store]
tail_bytes = "{TAIL_BYTES}"
journal_bytes_max = "32MiB"
segment_bytes = "4MiB"
"#
    )
}

/// The most memory that the node's settings let it grow by, with so many topics, and connections open
/// at a time.
pub(super) fn growth_max(topics: u64, connections: u64) -> u64 {
    // What it reads into, twice since publishes keep it; what it has encoded; what waits to be.
    let stream = 2 * (256 << 10) + (256 << 10) + (1 << 20);
    // QUIC's, both ways.
    let windows = (1 << 20) + (1 << 20);
    // What a topic reads ahead for its channels, and their runs and names.
    let topic = ModelSettings::default().window_bytes as u64 + (1 << 20);
    let held = PUBLISH_BYTES_TOTAL_MAX
        + PARTIAL_BYTES_TOTAL_MAX
        + TAIL_BYTES
        + HTTP_BODY_BYTES_TOTAL_MAX
        // A head, and as much that is read at once; and answers, of which the longest is that with all figures.
        + HTTP_CONNECTIONS_MAX * (2 * (64 << 10) + (1 << 20))
        + topics * topic
        + connections * (stream + windows);
    // The allocator keeps what a thread has freed for that thread: about as much again.
    2 * held
}

const PUBLISH_BYTES_TOTAL_MAX: u64 = 16 << 20;
const PARTIAL_BYTES_TOTAL_MAX: u64 = 8 << 20;
const HTTP_BODY_BYTES_TOTAL_MAX: u64 = 8 << 20;
/// So few that attackers have all of them at times.
const HTTP_CONNECTIONS_MAX: u64 = 64;
/// Of one user over Unix sockets: no other attacker comes from where it counts.
pub(super) const USER_CONNECTIONS_MAX: u64 = 96;
const TAIL_BYTES: u64 = 8 << 20;
const STREAMS_MAX: u64 = 64;
