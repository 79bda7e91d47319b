//! RocksDB as it is used here: its column families, its limits, and its errors in our words.

use std::{fmt, io, path::Path};

use ltq_core::{LogOptions, StoreError};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, Error, ErrorKind, InfoLogger, LogLevel, Options, ReadOptions, WriteBatch,
    WriteOptions, statistics::StatsLevel,
};

use super::{
    identity::{Directory, refuse},
    options::RocksDbStoreOptions,
};

/// A column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Default,
    Logs,
    Records,
    Loose,
    Times,
    Discards,
    Values,
}

impl Family {
    pub(super) const ALL: [Self; 7] = [
        Self::Default,
        Self::Logs,
        Self::Records,
        Self::Loose,
        Self::Times,
        Self::Discards,
        Self::Values,
    ];

    /// Where the records of a log are.
    pub(super) const fn of(options: LogOptions) -> Self {
        if options.durable { Self::Records } else { Self::Loose }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Logs => "logs",
            Self::Records => "records",
            Self::Loose => "loose",
            Self::Times => "times",
            Self::Discards => "discards",
            Self::Values => "values",
        }
    }

    /// The share of the memory, in sixty-fourths, that one write buffer takes. There are two of
    /// each: 40 sixty-fourths in all, beside an eighth for blocks and a quarter for the newest
    /// records.
    const fn buffer_share(self) -> u64 {
        match self {
            Self::Records => 12,
            Self::Loose => 3,
            _ => 1,
        }
    }
}

/// An open database.
pub(super) struct Database {
    db: DB,
    /// Kept for the statistics that it holds.
    options: Options,
    directory: Directory,
    /// Nothing is written.
    read_only: bool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.directory.path()).finish_non_exhaustive()
    }
}

impl Database {
    pub(super) fn open(options: &RocksDbStoreOptions) -> Result<Self, StoreError> {
        let directory = Directory::open(&options.dir)?;
        let path = directory.database();
        let read_only = false;
        match open_with(&path, options, DBRecoveryMode::TolerateCorruptedTailRecords, directory.new)
        {
            Ok((db, options)) => return Ok(Self { db, options, directory, read_only }),
            Err(error) if error.kind() == ErrorKind::Corruption && !directory.new => {
                // The end of a write-ahead log that a power cut tore looks the same to RocksDB as
                // one that was damaged later. What it does not read it deletes: keep that.
                let kept = directory.keep_logs().map_err(|cause| {
                    let why = format!("{error}; setting its logs aside failed: {cause}");
                    refuse(&path, &why)
                })?;
                let kept = kept.display();
                tracing::error!(%error, %kept, "a write-ahead log ends early; it was set aside");
            }
            Err(error) => return Err(opening(&path, &error)),
        }
        let (db, options) = open_with(&path, options, DBRecoveryMode::PointInTime, false)
            .map_err(|error| opening(&path, &error))?;
        Ok(Self { db, options, directory, read_only })
    }

    /// The same without writing anything. A write-ahead log that ends early is read as far as
    /// [`open`](Self::open) would read it.
    pub(super) fn open_read_only(options: &RocksDbStoreOptions) -> Result<Self, StoreError> {
        let directory = Directory::open_read_only(&options.dir)?;
        let path = directory.database();
        let mut opened = Err(None);
        for recovery in [DBRecoveryMode::TolerateCorruptedTailRecords, DBRecoveryMode::PointInTime]
        {
            let (all, families) = settings(options, recovery, false);
            match DB::open_cf_descriptors_read_only(&all, &path, families, false) {
                Ok(db) => {
                    opened = Ok((db, all));
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Corruption => opened = Err(Some(error)),
                Err(error) => return Err(opening(&path, &error)),
            }
        }
        let (db, options) = opened.map_err(|error| match error {
            Some(error) => opening(&path, &error),
            None => refuse(&path, "it was not opened"),
        })?;
        Ok(Self { db, options, directory, read_only: true })
    }

    pub(super) const fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(super) fn family(&self, family: Family) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(family.name()).ok_or_else(|| StoreError::Io {
            doing: format!("finding the column family {}", family.name()),
            cause: "it is not there".to_owned(),
        })
    }

    pub(super) const fn raw(&self) -> &DB {
        &self.db
    }

    pub(super) const fn options(&self) -> &Options {
        &self.options
    }

    pub(super) const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Carries out a batch; with `log`, through the write-ahead log; with `sync`, synced.
    pub(super) fn write(&self, batch: WriteBatch, log: bool, sync: bool) -> Result<(), Error> {
        let mut options = WriteOptions::default();
        options.disable_wal(!log);
        options.set_sync(log && sync);
        self.db.write_opt(batch, &options)
    }

    /// Syncs the write-ahead log.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.db.flush_wal(true)
    }

    /// All that a family holds, in order, to a closure that may end it with `false`.
    pub(super) fn scan(
        &self,
        family: Family,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut read = ReadOptions::default();
        read.set_total_order_seek(true);
        read.set_auto_readahead_size(true);
        read.fill_cache(false);
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(family)?, read);
        iterator.seek(prefix);
        while let Some((key, value)) = iterator.item() {
            if !key.starts_with(prefix) || !each(key, value)? {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(|error| read_error(&format!("reading {}", family.name()), &error))
    }

    /// Bytes that all files take.
    pub(super) fn disk_bytes(&self) -> u64 {
        disk_bytes(&self.directory.database()).unwrap_or(0)
    }
}

fn open_with(
    path: &Path,
    options: &RocksDbStoreOptions,
    recovery: DBRecoveryMode,
    new: bool,
) -> Result<(DB, Options), Error> {
    let (all, families) = settings(options, recovery, new);
    let db = DB::open_cf_descriptors(&all, path, families)?;
    Ok((db, all))
}

/// RocksDB's settings, and those of its column families.
fn settings(
    options: &RocksDbStoreOptions,
    recovery: DBRecoveryMode,
    new: bool,
) -> (Options, [ColumnFamilyDescriptor; Family::ALL.len()]) {
    let memory = options.tail_bytes;
    let cache = Cache::new_lru_cache(size(memory / 8));
    let mut all = Options::default();
    all.create_if_missing(new);
    all.create_missing_column_families(true);
    all.set_wal_recovery_mode(recovery);
    all.set_track_and_verify_wals_in_manifest(true);
    all.set_max_total_wal_size(2 * memory);
    all.set_max_open_files(options.table_files());
    // Each shard has one table at least, so that many of them would have more than all may.
    all.set_table_cache_num_shard_bits(TABLE_SHARD_BITS);
    all.set_max_background_jobs(BACKGROUND_JOBS);
    // Whole files are not left to be written at once when they are synced.
    all.set_bytes_per_sync(1 << 20);
    all.enable_statistics();
    all.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    all.set_stats_dump_period_sec(0);
    all.set_stats_persist_period_sec(0);
    all.set_info_logger(InfoLogger::new_callback_logger(
        LogLevel::Warn,
        |level, text| match level {
            LogLevel::Error | LogLevel::Fatal => tracing::error!("RocksDB: {text}"),
            LogLevel::Warn => tracing::warn!("RocksDB: {text}"),
            // All options of all families, which it tells whatever the least level is.
            _ => tracing::debug!("RocksDB: {text}"),
        },
    ));
    let families = Family::ALL.map(|family| {
        let mut own = Options::default();
        own.set_write_buffer_size(size(memory / 64 * family.buffer_share()));
        own.set_max_write_buffer_number(2);
        let mut table = BlockBasedOptions::default();
        table.set_block_size(16 << 10);
        table.set_block_cache(&cache);
        table.set_cache_index_and_filter_blocks(true);
        own.set_block_based_table_factory(&table);
        // What is young is likely to be given up before it is read or merged again.
        own.set_compression_type(DBCompressionType::Lz4);
        own.set_min_level_to_compress(2);
        ColumnFamilyDescriptor::new(family.name(), own)
    });
    (all, families)
}

fn opening(path: &Path, error: &Error) -> StoreError {
    match error.kind() {
        ErrorKind::Corruption => refuse(path, &format!("it is damaged: {error}")),
        ErrorKind::NotSupported | ErrorKind::InvalidArgument => {
            refuse(path, &format!("RocksDB does not open it: {error}"))
        }
        _ if is_full(error) => {
            refuse(path, &format!("its device is full ({error}); make room there"))
        }
        _ => io_error(&format!("opening {}", path.display()), error),
    }
}

/// Whether there was no descriptor for a file.
fn is_short(error: &Error) -> bool {
    let text: &str = error.as_ref();
    text.contains("Too many open files")
}

/// Whether there was no room on the device.
pub(super) fn is_full(error: &Error) -> bool {
    let text: &str = error.as_ref();
    ["No space left on device", "Disk quota exceeded", "Out of space"]
        .iter()
        .any(|words| text.contains(words))
}

pub(super) fn io_error(doing: &str, error: &Error) -> StoreError {
    StoreError::Io { doing: doing.to_owned(), cause: error.to_string() }
}

/// The error of what only reads: a file that could not be opened for it can be later.
pub(super) fn read_error(doing: &str, error: &Error) -> StoreError {
    if is_short(error) {
        return StoreError::Short { doing: doing.to_owned(), cause: error.to_string() };
    }
    io_error(doing, error)
}

fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        // A file may go while this looks.
        if let Ok(metadata) = entry?.metadata() {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Four shards: few threads read at a time.
const TABLE_SHARD_BITS: i32 = 2;
/// One flush and one compaction at a time: the cores are for the broker.
const BACKGROUND_JOBS: i32 = 2;
