//! What RocksDB says of itself.

use rocksdb::{properties, statistics::Ticker};

use super::{
    database::{Database, Family},
    spare::SpareFigures,
};

/// A figure of RocksDB's own, named as a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksDbFigure {
    /// Its name, in the style of Prometheus. One that ends in `_total` only grows while the store
    /// is open.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub help: &'static str,
    /// Its value.
    pub value: u64,
}

impl Database {
    /// All figures.
    pub(super) fn figures(&self, spare: SpareFigures) -> Vec<RocksDbFigure> {
        let tickers = TICKERS.iter().map(|&(ticker, name, help)| {
            let value = self.options().get_ticker_count(ticker);
            RocksDbFigure { name, help, value }
        });
        let properties = PROPERTIES.iter().map(|&(property, name, help)| {
            let sum = Family::ALL.iter().map(|&family| self.property(family, property)).sum();
            RocksDbFigure { name, help, value: sum }
        });
        let whole = WHOLE.iter().map(|&(property, name, help)| {
            let value = self.property(Family::Records, property);
            RocksDbFigure { name, help, value }
        });
        tickers.chain(properties).chain(whole).chain(of_spare(spare)).collect()
    }

    /// Whether a flush or a merge is under way.
    pub(super) fn is_writing(&self) -> bool {
        let running = [properties::NUM_RUNNING_FLUSHES, properties::NUM_RUNNING_COMPACTIONS];
        running.into_iter().any(|property| self.property(Family::Records, property) > 0)
    }

    fn property(&self, family: Family, property: &properties::PropName) -> u64 {
        let Ok(family) = self.family(family) else { return 0 };
        self.raw().property_int_value_cf(family, property).ok().flatten().unwrap_or(0)
    }

    pub(super) fn ticker(&self, ticker: Ticker) -> u64 {
        self.options().get_ticker_count(ticker)
    }
}

fn of_spare(spare: SpareFigures) -> [RocksDbFigure; 3] {
    let figure = |name, help, value| RocksDbFigure { name, help, value };
    [
        figure(
            "ltq_rocksdb_short",
            "1 while the store takes no commits for want of descriptors or memory to open files.",
            u64::from(spare.is_short),
        ),
        figure(
            "ltq_rocksdb_shortages_total",
            "Times that the store began to take no commits for that.",
            spare.shortages,
        ),
        figure(
            "ltq_rocksdb_spare_descriptors",
            "Descriptors that the store keeps for when there are no others.",
            spare.kept,
        ),
    ]
}

type Told<T> = (T, &'static str, &'static str);

const TICKERS: &[Told<Ticker>] = &[
    (
        Ticker::WalFileBytes,
        "ltq_rocksdb_wal_written_bytes_total",
        "Bytes written to the write-ahead log.",
    ),
    (
        Ticker::FlushWriteBytes,
        "ltq_rocksdb_flush_written_bytes_total",
        "Bytes written from write buffers to files.",
    ),
    (
        Ticker::CompactReadBytes,
        "ltq_rocksdb_compaction_read_bytes_total",
        "Bytes read to merge files.",
    ),
    (
        Ticker::CompactWriteBytes,
        "ltq_rocksdb_compaction_written_bytes_total",
        "Bytes written to merge files.",
    ),
    (Ticker::StallMicros, "ltq_rocksdb_stall_micros_total", "Microseconds that writes were held."),
    (Ticker::BlockCacheHit, "ltq_rocksdb_block_cache_hits_total", "Blocks found in memory."),
    (Ticker::BlockCacheMiss, "ltq_rocksdb_block_cache_misses_total", "Blocks read from files."),
];

/// Those that are a sum over the column families.
const PROPERTIES: &[Told<&properties::PropName>] = &[
    (
        properties::CUR_SIZE_ALL_MEM_TABLES,
        "ltq_rocksdb_write_buffer_bytes",
        "Memory of write buffers.",
    ),
    (
        properties::TOTAL_SST_FILES_SIZE,
        "ltq_rocksdb_table_bytes",
        "Bytes of table files, those included that are to go.",
    ),
    (
        properties::ESTIMATE_LIVE_DATA_SIZE,
        "ltq_rocksdb_live_bytes",
        "Bytes of table files that are about still wanted.",
    ),
    (
        properties::ESTIMATE_PENDING_COMPACTION_BYTES,
        "ltq_rocksdb_pending_compaction_bytes",
        "Bytes that are about still to be merged.",
    ),
    (
        properties::ESTIMATE_TABLE_READERS_MEM,
        "ltq_rocksdb_table_reader_bytes",
        "Memory of open table files.",
    ),
];

/// Those that are the whole database's.
const WHOLE: &[Told<&properties::PropName>] = &[
    (properties::BLOCK_CACHE_USAGE, "ltq_rocksdb_block_cache_bytes", "Memory of cached blocks."),
    (
        properties::NUM_RUNNING_COMPACTIONS,
        "ltq_rocksdb_running_compactions",
        "Merges that are under way.",
    ),
    (properties::NUM_RUNNING_FLUSHES, "ltq_rocksdb_running_flushes", "Flushes under way."),
    (
        properties::ACTUAL_DELAYED_WRITE_RATE,
        "ltq_rocksdb_delayed_write_rate_bytes",
        "Bytes a second that writes are held to; 0 when they are not.",
    ),
    (properties::IS_WRITE_STOPPED, "ltq_rocksdb_write_stopped", "1 while writes are stopped."),
    (
        properties::BACKGROUND_ERRORS,
        "ltq_rocksdb_background_errors",
        "Errors of flushes and merges.",
    ),
];
