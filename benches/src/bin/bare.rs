//! How far the machine goes: a bare tokio server that moves the bytes of a broker's work over
//! loopback, in the same batches, and does nothing else with them. No decoding, no checksum, no
//! log, no acks to keep. What a broker reaches beside this is what its work costs.
//!
//! ```text
//! cargo run --release -p ltq-benches --bin bare -- pub --size 100 --batch 200
//! cargo run --release -p ltq-benches --bin bare -- sub --size 100 --batch 200
//! cargo run --release -p ltq-benches --bin bare -- wait --size 1024
//! cargo run --release -p ltq-benches --bin bare -- wait --size 1024 --connections 64
//! cargo run --release -p ltq-benches --bin bare -- wait --size 1024 --sync
//! ```

use std::{
    error::Error,
    fs,
    io::{self, Write},
    os::unix::fs::FileExt,
    process::Stdio,
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;
use clap::{Args, Parser, Subcommand};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command as Process},
    task::JoinSet,
};

/// Bytes of a confirm or an ack: about what a broker's are.
const ANSWER_BYTES: usize = 24;
/// Bytes beside a message's body: its entry in a record table and its meta length.
const RECORD_OVERHEAD: usize = 9;
/// Bytes beside a frame's records.
const FRAME_OVERHEAD: usize = 24;
/// Bytes taken by one read.
const READ_BYTES: usize = 256 << 10;
/// Of the file that `wait --sync` writes to, over and over.
const FILE_BYTES: u64 = 16 << 20;

#[derive(Parser)]
#[command(about = "Moves a broker's bytes over loopback and does nothing else with them")]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// The client sends batches, the server answers each with a few bytes.
    Pub(Load),
    /// The server sends batches, the client answers each with a few bytes.
    Sub(Load),
    /// Each connection sends a message and waits for the answer before it sends the next.
    Wait(Wait),
    /// The server's side; started by the other modes.
    #[command(hide = true)]
    Serve(Serve),
    /// The same for `wait`.
    #[command(hide = true)]
    ServeWaiting(Wait),
}

#[derive(Args, Clone, Copy)]
struct Wait {
    /// Bytes of a body.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Messages in all.
    #[arg(long, default_value_t = 50_000)]
    count: usize,
    /// Connections that do so at once.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Write each message to a file and sync it before the answer, on the thread that read it.
    #[arg(long)]
    sync: bool,
}

#[derive(Args, Clone, Copy)]
struct Load {
    /// Bytes of a body.
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Messages in a batch.
    #[arg(long, default_value_t = 200)]
    batch: usize,
    /// Messages in all.
    #[arg(long, default_value_t = 20_000_000)]
    count: usize,
    /// Batches that may be unanswered.
    #[arg(long, default_value_t = 16)]
    window: usize,
}

#[derive(Args, Clone, Copy)]
struct Serve {
    /// Whether to send the batches rather than take them.
    #[arg(long)]
    send: bool,
    #[command(flatten)]
    load: Load,
}

impl Load {
    fn frame_bytes(self) -> usize {
        FRAME_OVERHEAD + self.batch * (self.size + RECORD_OVERHEAD)
    }

    fn batches(self) -> usize {
        self.count.div_ceil(self.batch)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    match Cli::parse().mode {
        Mode::Pub(load) => measure(load, false).await,
        Mode::Sub(load) => measure(load, true).await,
        Mode::Wait(load) => wait(load).await,
        Mode::Serve(serve) => Ok(self::serve(serve).await?),
        Mode::ServeWaiting(load) => Ok(serve_waiting(load).await?),
    }
}

async fn serve(serve: Serve) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let (bytes_in, bytes_out) = if serve.send {
        (ANSWER_BYTES, serve.load.frame_bytes())
    } else {
        (serve.load.frame_bytes(), ANSWER_BYTES)
    };
    if serve.send {
        give(stream, bytes_out, bytes_in, serve.load).await
    } else {
        take(stream, bytes_in, bytes_out).await
    }
}

/// Reads units of `bytes_in` and answers each with `bytes_out`, all that a read brought at once.
async fn take(mut stream: TcpStream, bytes_in: usize, bytes_out: usize) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let answer = vec![7; 64 * bytes_out];
    let mut taken = 0;
    loop {
        buffer.clear();
        let read = stream.read_buf(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let before = taken / bytes_in;
        taken += read;
        let mut due = (taken / bytes_in - before) * bytes_out;
        while due > 0 {
            let part = due.min(answer.len());
            stream.write_all(answer.get(..part).unwrap_or_default()).await?;
            due -= part;
        }
    }
}

/// Sends units of `bytes_out`, never more than the window ahead of the answers of `bytes_in`.
async fn give(stream: TcpStream, bytes_out: usize, bytes_in: usize, load: Load) -> io::Result<()> {
    let unit = vec![7; bytes_out];
    let (mut reader, mut writer) = stream.into_split();
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let (mut sent, mut answered) = (0, 0);
    while answered < load.batches() * bytes_in {
        if sent < load.batches() && sent - answered / bytes_in < load.window {
            writer.write_all(&unit).await?;
            sent += 1;
            continue;
        }
        buffer.clear();
        let read = reader.read_buf(&mut buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answered += read;
    }
    Ok(())
}

/// A server in a process of its own, so that its processor time is its own too.
struct Server {
    process: Child,
    pid: u32,
    address: String,
}

async fn start(
    mode: &str,
    flags: &[(&str, usize)],
    more: &[&str],
) -> Result<Server, Box<dyn Error>> {
    let mut command = Process::new(std::env::current_exe()?);
    command.arg(mode).args(more).kill_on_drop(true).stdout(Stdio::piped());
    for (flag, value) in flags {
        command.arg(flag).arg(value.to_string());
    }
    let mut process = command.spawn()?;
    let output = process.stdout.take().ok_or("the server has no output")?;
    let mut address = String::new();
    BufReader::new(output).read_line(&mut address).await?;
    let pid = process.id().ok_or("the server is gone")?;
    Ok(Server { process, pid, address: address.trim().to_owned() })
}

async fn serve_waiting(load: Wait) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let unit = FRAME_OVERHEAD + RECORD_OVERHEAD + load.size;
    let file = load.sync.then(|| file_of_zeros(unit)).transpose()?.map(Arc::new);
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let file = file.clone();
        tokio::spawn(async move {
            let mut message = vec![0; unit];
            let mut position = 0;
            while stream.read_exact(&mut message).await.is_ok() {
                if let Some(file) = &file {
                    file.write_all_at(&message, position)?;
                    file.sync_data()?;
                    position = (position + unit as u64) % FILE_BYTES;
                }
                stream.write_all(message.get(..ANSWER_BYTES).unwrap_or_default()).await?;
            }
            io::Result::Ok(())
        });
    }
}

/// A file whose blocks are there already, so that syncing it syncs bytes and nothing else.
fn file_of_zeros(more: usize) -> io::Result<fs::File> {
    let mut file = tempfile::tempfile_in(".")?;
    file.write_all(&vec![0; FILE_BYTES as usize + more])?;
    file.sync_all()?;
    Ok(file)
}

async fn wait(load: Wait) -> Result<(), Box<dyn Error>> {
    let sync: &[&str] = if load.sync { &["--sync"] } else { &[] };
    let Server { process: _process, pid, address } =
        start("serve-waiting", &[("--size", load.size)], sync).await?;
    let each = load.count / load.connections.max(1);
    let unit = FRAME_OVERHEAD + RECORD_OVERHEAD + load.size;
    let cpu_before = cpu_seconds(pid)?;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..load.connections {
        let mut stream = TcpStream::connect(&address).await?;
        stream.set_nodelay(true)?;
        clients.spawn(async move {
            let (message, mut answer) = (vec![7; unit], [0; ANSWER_BYTES]);
            let mut times = Vec::with_capacity(each);
            for _ in 0..each {
                let sent = Instant::now();
                stream.write_all(&message).await?;
                stream.read_exact(&mut answer).await?;
                times.push(sent.elapsed().as_micros());
            }
            io::Result::Ok(times)
        });
    }
    let mut times = Vec::with_capacity(load.count);
    while let Some(client) = clients.join_next().await {
        times.extend(client??);
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds(pid).map_or(f64::NAN, |after| after - cpu_before);
    times.sort_unstable();
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(0);
    let messages = times.len() as f64;
    println!(
        "{messages:.0} round trips in {seconds:.2} s: {:.1} k/s; p50 {} us, p99 {} us; server \
         {cpu:.2} CPU s: {:.1} k per server CPU second",
        messages / seconds / 1e3,
        at(0.5),
        at(0.99),
        messages / cpu / 1e3,
    );
    Ok(())
}

async fn measure(load: Load, server_sends: bool) -> Result<(), Box<dyn Error>> {
    let flags = [
        ("--size", load.size),
        ("--batch", load.batch),
        ("--count", load.count),
        ("--window", load.window),
    ];
    let send: &[&str] = if server_sends { &["--send"] } else { &[] };
    let Server { process: _process, pid, address } = start("serve", &flags, send).await?;
    let stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let cpu_before = cpu_seconds(pid)?;
    let start = Instant::now();
    if server_sends {
        take_some(stream, load).await?;
    } else {
        give(stream, load.frame_bytes(), ANSWER_BYTES, load).await?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds(pid).map_or(f64::NAN, |after| after - cpu_before);
    let messages = (load.batches() * load.batch) as f64;
    println!(
        "{messages:.0} messages in {seconds:.2} s: {:.2} M/s; server {cpu:.2} CPU s: {:.2} M per \
         server CPU second",
        messages / seconds / 1e6,
        messages / cpu / 1e6,
    );
    Ok(())
}

/// The client's side of `sub`, up to where the server's figures can still be read.
async fn take_some(mut stream: TcpStream, load: Load) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let answer = vec![7; 64 * ANSWER_BYTES];
    let total = load.batches() * load.frame_bytes();
    let mut taken = 0;
    while taken < total {
        buffer.clear();
        let read = stream.read_buf(&mut buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = taken / load.frame_bytes();
        taken += read;
        // The last answer would let the server go before its figures are read.
        let due = (taken / load.frame_bytes()).min(load.batches() - 1).saturating_sub(before);
        let mut due = due * ANSWER_BYTES;
        while due > 0 {
            let part = due.min(answer.len());
            stream.write_all(answer.get(..part).unwrap_or_default()).await?;
            due -= part;
        }
    }
    // Keeps the connection open until the caller has read the server's figures.
    std::mem::forget(stream);
    Ok(())
}

/// User and system seconds of a process: fields 14 and 15 of `/proc/PID/stat` (proc(5)), which
/// count in hundredths of a second on Linux.
fn cpu_seconds(pid: u32) -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').ok_or("no command name")?.1;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<f64>().ok()).ok_or("no ticks");
    Ok((ticks()? + ticks()?) / 100.0)
}
