//! The stores alone, without sockets, frames or topics: what one of them costs beside another, and
//! what its own upkeep costs a writer that waits.
//!
//! ```text
//! cargo run --release -p ltq-benches --bin store -- append
//! cargo run --release -p ltq-benches --bin store -- append --batch 1 --writers 64
//! cargo run --release -p ltq-benches --bin store -- read
//! cargo run --release -p ltq-benches --bin store -- values
//! cargo run --release -p ltq-benches --bin store -- upkeep
//! ```
//!
//! Each workload runs on each store that `--stores` names, one after another, on an empty directory;
//! `rocksdb` needs the feature of that name.

use std::{
    error::Error,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use hdrhistogram::Histogram;
use ltq_core::{
    Durability, LogName, LogOptions, Message, Offset, ReadLimits, Records, Store, StoreStats,
    Timestamp, WriteBatch,
};
use ltq_store::{FileStore, FileStoreOptions, MemoryStore, OverflowOptions, OverflowStore};
use tokio::task::JoinSet;

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
#[command(about = "Measures the stores alone")]
struct Cli {
    /// Which stores, one after another.
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_STORES, global = true)]
    stores: Vec<Which>,
    /// Where their directories are made, and removed afterwards. [default: the directory for
    /// temporary files]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    workload: Workload,
}

#[cfg(feature = "rocksdb")]
const DEFAULT_STORES: &str = "file,rocksdb";
#[cfg(not(feature = "rocksdb"))]
const DEFAULT_STORES: &str = "file";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Memory,
    File,
    /// The memory store before the file store.
    Overflow,
    #[cfg(feature = "rocksdb")]
    Rocksdb,
}

#[derive(Subcommand, Clone)]
enum Workload {
    /// Writers that append batches, each to a log of its own, and wait for each.
    Append(Load),
    /// The same by one writer, then all of it read from the beginning, by a store opened anew.
    Read(Load),
    /// One writer that sets a value of 100 bytes again and again, of a thousand keys.
    Values(Load),
    /// How long a record of 1 KiB takes, one each five milliseconds, beside 20 MB/s into another log:
    /// with limits so wide that nothing has to be tidied up, then with narrow ones, then while
    /// that log is truncated behind, then while all but every sixteenth of its batches is
    /// discarded. The file store alone.
    Upkeep {
        /// How long each.
        #[arg(long, value_name = "SECONDS", default_value_t = 20)]
        seconds: u64,
    },
}

#[derive(Args, Clone)]
struct Load {
    /// Bytes of a record's body.
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Records in a batch.
    #[arg(long, default_value_t = 200)]
    batch: usize,
    /// Batches in all.
    #[arg(long, default_value_t = 20_000)]
    count: u64,
    /// How many wait at once.
    #[arg(long, default_value_t = 1)]
    writers: u64,
    /// disk, os or memory.
    #[arg(long, default_value = "disk")]
    durability: Durability,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let cli = Cli::parse();
    for which in &cli.stores {
        let dir = match &cli.dir {
            Some(dir) => tempfile::tempdir_in(dir)?,
            None => tempfile::tempdir()?,
        };
        let name = which.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        let (name, path) = (name.as_str(), dir.path());
        match &cli.workload {
            Workload::Append(load) => {
                let store = open(*which, path).await?;
                append(&store, load, name).await?;
                store.close().await?;
            }
            Workload::Read(load) => {
                let store = open(*which, path).await?;
                append(&store, &Load { writers: 1, ..load.clone() }, name).await?;
                store.close().await?;
                // Memory keeps nothing to be opened again.
                let store = if *which == Which::Memory {
                    store
                } else {
                    reopen(*which, path, name).await?
                };
                read(&store, load, name).await?;
                store.close().await?;
            }
            Workload::Values(load) => {
                let store = open(*which, path).await?;
                values(&store, load, name).await?;
                store.close().await?;
            }
            Workload::Upkeep { seconds } => {
                if *which == Which::File {
                    upkeep(path, Duration::from_secs(*seconds)).await?;
                }
            }
        }
    }
    Ok(())
}

async fn open(which: Which, dir: &Path) -> Result<Arc<dyn Store>, Failure> {
    Ok(match which {
        Which::Memory => Arc::new(MemoryStore::new(8 << 30)),
        Which::File => Arc::new(FileStore::open(FileStoreOptions::new(dir)).await?),
        Which::Overflow => {
            let back = FileStore::open(FileStoreOptions::new(dir)).await?;
            let front = MemoryStore::new(64 << 20);
            Arc::new(OverflowStore::open(front, back, OverflowOptions::default())?)
        }
        #[cfg(feature = "rocksdb")]
        Which::Rocksdb => {
            let options = ltq_store::RocksDbStoreOptions::new(dir);
            Arc::new(ltq_store::RocksDbStore::open(options).await?)
        }
    })
}

async fn reopen(which: Which, dir: &Path, name: &str) -> Result<Arc<dyn Store>, Failure> {
    forget(dir)?;
    let start = Instant::now();
    let store = open(which, dir).await?;
    println!("{name:>9}: opened in {:.3} s", start.elapsed().as_secs_f64());
    Ok(store)
}

/// Gives up what the page cache holds of all files, so that to read them means the device.
fn forget(dir: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget(&entry.path())?;
        } else {
            let file = std::fs::File::open(entry.path())?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

fn records(size: usize, batch: usize) -> Records {
    // No two bodies the same, and nothing in them that compresses.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let messages: Vec<_> = (0..batch)
        .map(|_| {
            let body: Vec<u8> = (0..size)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect();
            Message::new(body)
        })
        .collect();
    Records::encode(&messages)
}

async fn create(store: &Arc<dyn Store>, log: &LogName) -> Result<(), Failure> {
    let mut batch = WriteBatch::new();
    batch.create_log(log.clone(), LogOptions::default());
    store.commit(batch, Durability::Memory).await?;
    Ok(())
}

async fn append(store: &Arc<dyn Store>, load: &Load, name: &str) -> Result<(), Failure> {
    let records = records(load.size, load.batch);
    let each = (load.count / load.writers).max(1);
    let mut writers = JoinSet::new();
    let (cpu, start) = (cpu_seconds(), Instant::now());
    for writer in 0..load.writers {
        let (store, records, durability) = (store.clone(), records.clone(), load.durability);
        writers.spawn(async move {
            let log = LogName::new(format!("log-{writer}"));
            create(&store, &log).await?;
            let (mut latency, mut at) = (histogram(), Offset::ZERO);
            for _ in 0..each {
                let mut batch = WriteBatch::new();
                batch.append(log.clone(), at, Timestamp(0), records.clone());
                let begun = Instant::now();
                store.commit(batch, durability).await?;
                latency.saturating_record(begun.elapsed().as_micros() as u64);
                at = Offset(at.0 + records.count() as u64);
            }
            Ok::<_, Failure>(latency)
        });
    }
    let mut latency = histogram();
    while let Some(written) = writers.join_next().await {
        latency.add(written??)?;
    }
    let count = each * load.writers * load.batch as u64;
    line(name, "appended", count, load.size, start.elapsed(), cpu_seconds() - cpu, &latency);
    written(name, &store.stats(), count * load.size as u64);
    Ok(())
}

async fn read(store: &Arc<dyn Store>, load: &Load, name: &str) -> Result<(), Failure> {
    let log = LogName::new("log-0");
    let limits = ReadLimits { records: 1 << 16, bytes: 1 << 20 };
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let (mut at, mut count, mut latency) = (Offset::ZERO, 0, histogram());
    loop {
        let begun = Instant::now();
        let batches = match store.try_read(&log, at, limits) {
            Some(batches) => batches?,
            None => store.read(&log, at, limits).await?,
        };
        latency.saturating_record(begun.elapsed().as_micros() as u64);
        let Some(last) = batches.last() else { break };
        at = last.end();
        count += batches.iter().map(|batch| batch.records.count() as u64).sum::<u64>();
    }
    line(name, "read", count, load.size, start.elapsed(), cpu_seconds() - cpu, &latency);
    Ok(())
}

async fn values(store: &Arc<dyn Store>, load: &Load, name: &str) -> Result<(), Failure> {
    let (cpu, start, mut latency) = (cpu_seconds(), Instant::now(), histogram());
    for at in 0..load.count {
        let mut batch = WriteBatch::new();
        batch.put(format!("key-{}", at % 1000), vec![at as u8; 100]);
        let begun = Instant::now();
        store.commit(batch, load.durability).await?;
        latency.saturating_record(begun.elapsed().as_micros() as u64);
    }
    line(name, "set", load.count, 100, start.elapsed(), cpu_seconds() - cpu, &latency);
    written(name, &store.stats(), load.count * 100);
    Ok(())
}

/// What happens to the other log while a writer's latency is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    Nothing,
    Truncate,
    Discard,
}

async fn upkeep(dir: &Path, duration: Duration) -> Result<(), Failure> {
    let wide = |dir: &Path| {
        FileStoreOptions::new(dir)
            .tail_bytes(4 << 30)
            .journal_bytes_max(16 << 30)
            .segment_bytes(4 << 30)
    };
    let narrow = |dir: &Path| {
        FileStoreOptions::new(dir)
            .tail_bytes(8 << 20)
            .journal_file_bytes(4 << 20)
            .journal_bytes_max(16 << 20)
            .segment_bytes(8 << 20)
    };
    for (what, options, behind) in [
        ("nothing to tidy up", wide(&dir.join("none")), Behind::Nothing),
        ("checkpoints, rolls", narrow(&dir.join("rolls")), Behind::Nothing),
        ("and truncations", narrow(&dir.join("truncated")), Behind::Truncate),
        ("and sparse segments", narrow(&dir.join("sparse")), Behind::Discard),
    ] {
        let store: Arc<dyn Store> = Arc::new(FileStore::open(options).await?);
        let stop = Arc::new(AtomicBool::new(false));
        let filled = Arc::new(AtomicU64::new(0));
        let filler = tokio::spawn(fill(store.clone(), behind, stop.clone(), filled.clone()));
        let (cpu, start) = (cpu_seconds(), Instant::now());
        let latency = wait_each(&store, duration).await?;
        stop.store(true, Ordering::Relaxed);
        filler.await??;
        line(what, "waited", latency.len(), 1024, start.elapsed(), cpu_seconds() - cpu, &latency);
        let wanted = filled.load(Ordering::Relaxed) + latency.len() * 1024;
        written(what, &store.stats(), wanted);
        store.close().await?;
    }
    Ok(())
}

/// A record each five milliseconds; what is late counts from when it was due.
async fn wait_each(store: &Arc<dyn Store>, duration: Duration) -> Result<Histogram<u64>, Failure> {
    let (log, records) = (LogName::new("waiting"), records(1024, 1));
    create(store, &log).await?;
    let (start, mut latency) = (Instant::now(), histogram());
    for at in 0..duration.as_millis() as u64 / 5 {
        let due = start + Duration::from_millis(5 * at);
        tokio::time::sleep_until(due.into()).await;
        let mut batch = WriteBatch::new();
        batch.append(log.clone(), Offset(at), Timestamp(0), records.clone());
        store.commit(batch, Durability::Disk).await?;
        latency.saturating_record(due.elapsed().as_micros() as u64);
    }
    Ok(latency)
}

/// 20 MB/s in batches of 20 KiB; behind the last 32 MiB of them nothing, or little, is wanted.
async fn fill(
    store: Arc<dyn Store>,
    behind: Behind,
    stop: Arc<AtomicBool>,
    filled: Arc<AtomicU64>,
) -> Result<(), Failure> {
    let (log, records) = (LogName::new("filling"), records(1024, 20));
    create(&store, &log).await?;
    let start = Instant::now();
    for at in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep_until((start + Duration::from_millis(at)).into()).await;
        let mut batch = WriteBatch::new();
        batch.append(log.clone(), Offset(at * 20), Timestamp(0), records.clone());
        // 1,638 batches are 32 MiB.
        if let Some(old) = at.checked_sub(1638) {
            match behind {
                Behind::Nothing => {}
                Behind::Truncate => {
                    batch.truncate(log.clone(), Offset(old * 20));
                }
                Behind::Discard => {
                    if old % 16 != 0 {
                        batch.discard(log.clone(), Offset(old * 20), Offset(old * 20 + 20));
                    }
                }
            }
        }
        store.commit(batch, Durability::Os).await?;
        filled.fetch_add(20 * 1024, Ordering::Relaxed);
    }
    Ok(())
}

fn line(
    name: &str,
    did: &str,
    count: u64,
    size: usize,
    took: Duration,
    cpu: f64,
    latency: &Histogram<u64>,
) {
    let seconds = took.as_secs_f64();
    let rate = count as f64 / seconds;
    let mut text = format!(
        "{name:>9}: {did} {count} of {size} bytes in {seconds:.3} s: {rate:.0}/s, {:.0} MB/s, \
         {:.0}/s of processor time; each call µs",
        rate * size as f64 / 1e6,
        count as f64 / cpu.max(f64::MIN_POSITIVE),
    );
    for (quantile, at) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        let _ = write!(text, " {quantile} {}", latency.value_at_quantile(at));
    }
    println!("{text}");
}

/// What the store says of itself.
fn written(name: &str, stats: &StoreStats, bytes: u64) {
    println!(
        "{name:>9}: {} syncs, {:.3} bytes to files for a byte of body, {:.1} MB of them rewritten, \
         {:.1} MB on disk",
        stats.syncs,
        stats.bytes_written as f64 / bytes as f64,
        stats.bytes_rewritten as f64 / 1e6,
        stats.disk_bytes as f64 / 1e6
    );
}

/// User and system time of this process, all threads together.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[allow(clippy::expect_used, reason = "the bounds are constants that fit each other")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("good bounds")
}
