//! How far the machine goes: a bare tokio server that moves the bytes of a broker's work over
//! loopback, in the same batches, and does nothing else with them. No decoding, no checksum, no
//! log, no acks to keep. What a broker reaches beside this is what its work costs.
//!
//! ```text
//! cargo run --release -p ltq-benches --bin bare -- pub --size 100 --batch 200
//! cargo run --release -p ltq-benches --bin bare -- sub --size 100 --batch 200
//! ```

use std::{error::Error, fs, io, process::Stdio, time::Instant};

use bytes::BytesMut;
use clap::{Args, Parser, Subcommand};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command as Process,
};

/// Bytes of a confirm or an ack: about what a broker's are.
const ANSWER_BYTES: usize = 24;
/// Bytes beside a message's body: its entry in a record table and its meta length.
const RECORD_OVERHEAD: usize = 9;
/// Bytes beside a frame's records.
const FRAME_OVERHEAD: usize = 24;
/// Bytes taken by one read.
const READ_BYTES: usize = 256 << 10;

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
    /// The server's side; started by the other modes.
    #[command(hide = true)]
    Serve(Serve),
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
        Mode::Serve(serve) => Ok(self::serve(serve).await?),
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

async fn measure(load: Load, server_sends: bool) -> Result<(), Box<dyn Error>> {
    let mut command = Process::new(std::env::current_exe()?);
    command.arg("serve").kill_on_drop(true).stdout(Stdio::piped());
    if server_sends {
        command.arg("--send");
    }
    for (flag, value) in [
        ("--size", load.size),
        ("--batch", load.batch),
        ("--count", load.count),
        ("--window", load.window),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    let mut server = command.spawn()?;
    let output = server.stdout.take().ok_or("the server has no output")?;
    let mut address = String::new();
    BufReader::new(output).read_line(&mut address).await?;
    let pid = server.id().ok_or("the server is gone")?;

    let stream = TcpStream::connect(address.trim()).await?;
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
