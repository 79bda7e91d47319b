//! The same work over the same line, by TCP and by QUIC: tables for people to read.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use ltq_core::Address;
use ltq_tests::{
    NodeProcess,
    bad_network::{BadNetwork, Shape},
    binary,
};
use serde_json::Value;
use tokio::process::Command;

use crate::Failed;

/// What is compared, and for how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which transports, each with the congestion control that it goes by.
    #[arg(long, value_delimiter = ',', default_value = "tcp+cubic,tcp+bbr,quic+bbr")]
    schemes: Vec<String>,
    /// Round trips in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "5,40,150")]
    rtt: Vec<u64>,
    /// Packets in a hundred that are lost, on either way.
    #[arg(long, value_delimiter = ',', default_value = "0,0.5,1,2,5,10")]
    loss: Vec<f64>,
    /// Messages a second where latency is measured, over ten topics.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How much longer a packet takes at most, in milliseconds.
    #[arg(long, default_value_t = 0)]
    jitter: u64,
    /// Megabits a second that the line carries, either way.
    #[arg(long)]
    mbit: Option<u64>,
    /// KiB that wait there at most for their turn; more are lost.
    #[arg(long, default_value_t = 1024)]
    queue_kib: u64,
    /// How many messages of each producer may be under way where it is seen how many go through at most.
    #[arg(long, default_value_t = 10_000)]
    in_flight: u32,
    /// Seconds that what is under way at the end has to get through.
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// How often either side of a connection says something at least: a client gives a silent one up after three.
    /// As nodes have it without.
    #[arg(long)]
    heartbeat: Option<String>,
    /// Seconds for which the line is down.
    #[arg(long, default_value_t = 3)]
    down: u64,
    /// Which packets are lost.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What happens to the line in the middle.
#[derive(Clone, Copy)]
pub(crate) enum Stroke {
    Outage,
    Address,
}

/// By loss and round trip. Where not all came through in time, the table says so and goes on.
pub(crate) async fn lines(args: &Args) -> Result<(), Failed> {
    println!("| round trip | loss | transport | p50 | p99 | p99.9 | max | messages/s at most |");
    println!("|---|---|---|---|---|---|---|---|");
    for &rtt in &args.rtt {
        for &loss in &args.loss {
            for scheme in &args.schemes {
                let bed = Bed::new(scheme, args.shape(rtt, loss), args).await?;
                let at_rate = match in_time(bed.bench(&args.latency("")).await)? {
                    Some(report) => latency(&report),
                    None => vec![args.not_in_time(); 4].join(" | "),
                };
                let most = args.most();
                let most = match in_time(bed.bench(&most).await)? {
                    Some(report) => {
                        format!("{:.0}", report["messages_per_second"].as_f64().unwrap_or_default())
                    }
                    None => args.not_in_time(),
                };
                println!("| {rtt} ms | {loss}% | {scheme} | {at_rate} | {most} |");
            }
        }
    }
    Ok(())
}

/// With something that happens in the middle.
pub(crate) async fn struck(args: &Args, stroke: Stroke) -> Result<(), Failed> {
    println!("| round trip | loss | transport | p50 | p99 | p99.9 | max |");
    println!("|---|---|---|---|---|---|---|");
    for &rtt in &args.rtt {
        for &loss in &args.loss {
            for scheme in &args.schemes {
                let shape = args.shape(rtt, loss);
                let mut bed = Bed::new(scheme, shape, args).await?;
                let mut begun = bed.start(&args.latency(""))?;
                // It makes its topics first, twice, which takes many seconds over a long line.
                let publishing = bed.until_published(&mut begun, args.rate).await?;
                let half = Duration::from_secs(args.seconds) / 2;
                tokio::time::sleep(half.saturating_sub(publishing)).await;
                match stroke {
                    Stroke::Outage => {
                        bed.network.reshape(shape.down());
                        tokio::time::sleep(Duration::from_secs(args.down)).await;
                        bed.network.reshape(shape);
                    }
                    Stroke::Address => {
                        bed.network.change_address()?;
                    }
                }
                println!("| {rtt} ms | {loss}% | {scheme} | {} |", latency(&begun.end().await?));
            }
        }
    }
    Ok(())
}

/// Beside one that takes nothing.
pub(crate) async fn stalled(args: &Args) -> Result<(), Failed> {
    println!("| round trip | loss | transport | stalled | p50 | p99 | p99.9 | max |");
    println!("|---|---|---|---|---|---|---|---|");
    for &rtt in &args.rtt {
        for &loss in &args.loss {
            for scheme in &args.schemes {
                for stalled in ["", "--stalled 1"] {
                    let bed = Bed::new(scheme, args.shape(rtt, loss), args).await?;
                    let report = bed.bench(&args.latency(stalled)).await?;
                    let (count, latency) = (&report["stalled"], latency(&report));
                    println!("| {rtt} ms | {loss}% | {scheme} | {count} | {latency} |");
                }
            }
        }
    }
    Ok(())
}

/// A million confirmed publishes by a publisher that moves every second. `ltq bench` compares the broker's
/// count, and then takes each message over a line in order and fails where one is missing or there twice.
pub(crate) async fn million(args: &Args) -> Result<(), Failed> {
    println!("| round trip | loss | transport | published | there once | seconds | addresses |");
    println!("|---|---|---|---|---|---|---|");
    for &rtt in &args.rtt {
        for &loss in &args.loss {
            for scheme in &args.schemes {
                let mut bed = Bed::new(scheme, args.shape(rtt, loss), args).await?;
                let line = "pub --count 1000000 --topic moved --timeout 120s --warmup 0s";
                let mut begun = bed.start(line)?;
                let mut moves = 0;
                while !begun.has_ended(Duration::from_secs(1)).await? {
                    bed.network.change_address()?;
                    moves += 1;
                }
                let report = begun.end().await?;
                let published = &report["published"];
                bed.network.reshape(args.shape(1, 0.0));
                let found = bed.bench("sub --prefilled --topic moved --timeout 120s").await?;
                let once = &found["delivered"];
                println!(
                    "| {rtt} ms | {loss}% | {scheme} | {published} | {once} | {:.1} | {moves} |",
                    report["seconds"].as_f64().unwrap_or_default()
                );
            }
        }
    }
    Ok(())
}

impl Args {
    fn shape(&self, rtt: u64, loss: f64) -> Shape {
        Shape {
            jitter: Duration::from_millis(self.jitter),
            bytes_per_second: self.mbit.map(|mbit| mbit * 125_000),
            queue_bytes: self.queue_kib << 10,
            ..Shape::new(rtt, loss)
        }
    }

    fn most(&self) -> String {
        let Self { in_flight, .. } = self;
        format!("e2e --topics 10 --one-connection --in-flight {in_flight} {}", self.lasting())
    }

    fn latency(&self, more: &str) -> String {
        let Self { rate, .. } = self;
        let lasting = self.lasting();
        format!("latency --topics 10 --one-connection --rate {rate} {lasting} {more}")
    }

    fn lasting(&self) -> String {
        let Self { seconds, patience, .. } = self;
        format!("--duration {seconds}s --warmup 1s --timeout {patience}s --durability memory")
    }

    fn not_in_time(&self) -> String {
        format!("not in {} s", self.patience)
    }
}

/// A line, and a node at its far end.
struct Bed {
    network: BadNetwork,
    node: NodeProcess,
    control: String,
    heartbeat: Option<String>,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn new(scheme: &str, shape: Shape, args: &Args) -> Result<Self, Failed> {
        let mut network = BadNetwork::new(shape, args.seed)?;
        let (scheme, control) = scheme.split_once('+').unwrap_or((scheme, "cubic"));
        if scheme != "quic" {
            network.set_tcp_congestion(control)?;
        }
        let folder = tempfile::tempdir().map_err(Failed::io("making a directory"))?;
        let listen = Address::new(scheme, format!("{}:0", network.far().address()));
        let mut command = network.far().command(binary("ltq-node"));
        command.env(CONTROL, control).env("LTQ_LOG_LEVEL", "warn");
        let mut more = vec!["--token", TOKEN];
        if scheme != "tcp" {
            more.push("--dev-tls");
        }
        let data_dir = folder.path().join("data");
        let node = NodeProcess::start_by(command, &data_dir, &listen, &more).await;
        let node = node.map_err(Failed::io("starting a node"))?;
        let (control, heartbeat) = (control.to_owned(), args.heartbeat.clone());
        Ok(Self { network, node, control, heartbeat, _folder: folder })
    }

    /// Waits until messages have been sent for longer than the warm-up lasts, and says how long; or until it is over.
    async fn until_published(&self, begun: &mut Begun, rate: u32) -> Result<Duration, Failed> {
        // Each has 100 bytes and more; what goes for topics is far less.
        let publishing = u64::from(rate) * 100;
        let (mut before, mut seconds) = (0, 0);
        while seconds < PUBLISHED_SECONDS && !begun.has_ended(Duration::from_secs(1)).await? {
            let sent = self.network.figures()[0].sent_bytes;
            seconds = if sent - before >= publishing { seconds + 1 } else { 0 };
            before = sent;
        }
        Ok(Duration::from_secs(seconds))
    }

    async fn bench(&self, line: &str) -> Result<Value, Failed> {
        self.start(line)?.end().await
    }

    fn start(&self, line: &str) -> Result<Begun, Failed> {
        let server = self.node.address().to_string();
        let mut command = Command::from(self.network.near().command(binary("ltq")));
        command
            .env(CONTROL, &self.control)
            .arg("bench")
            .args(line.split_whitespace())
            .args(["--server", &server, "--token", TOKEN, "--json"])
            .args(self.heartbeat.iter().flat_map(|time| ["--heartbeat", time]))
            .args(self.node.fingerprint().into_iter().flat_map(|f| ["--tls-fingerprint", f]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn().map_err(Failed::io("starting ltq bench"))?;
        Ok(Begun { line: line.to_owned(), output: Box::pin(child.wait_with_output()), done: None })
    }
}

/// `ltq bench`, under way.
struct Begun {
    line: String,
    output: std::pin::Pin<Box<dyn Future<Output = std::io::Result<Output>>>>,
    done: Option<Output>,
}

impl Begun {
    /// Waits for its end, and says whether it came.
    async fn has_ended(&mut self, within: Duration) -> Result<bool, Failed> {
        if let Ok(output) = tokio::time::timeout(within, &mut self.output).await {
            self.done = Some(output.map_err(Failed::io("waiting for ltq bench"))?);
        }
        Ok(self.done.is_some())
    }

    async fn end(mut self) -> Result<Value, Failed> {
        let output = match self.done.take() {
            Some(output) => output,
            None => self.output.await.map_err(Failed::io("waiting for ltq bench"))?,
        };
        let failed = |said: String| Failed::Program {
            program: "ltq bench".to_owned(),
            arguments: self.line.clone(),
            said,
        };
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
    }
}

/// What `ltq bench` measured, or none and its reason on standard error where it gave up waiting.
fn in_time(ended: Result<Value, Failed>) -> Result<Option<Value>, Failed> {
    match ended {
        Err(Failed::Program { arguments, said, .. }) => {
            eprintln!("ltq bench {arguments}: {}", said.trim_end());
            Ok(None)
        }
        ended => ended.map(Some),
    }
}

/// In milliseconds, to the consumer.
fn latency(report: &Value) -> String {
    let of = |at| report["latency_us"][at].as_f64().map(|us| format!("{:.1} ms", us / 1_000.0));
    ["p50", "p99", "p999", "max"].map(|at| of(at).unwrap_or_default()).join(" | ")
}

/// What both sides go by over QUIC.
const CONTROL: &str = "LTQ_QUIC_CONGESTION";
const TOKEN: &str = "of the whole test";
/// More than the warm-up.
const PUBLISHED_SECONDS: u64 = 3;
