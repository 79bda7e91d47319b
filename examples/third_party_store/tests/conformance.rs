//! The whole suite of the `Store` contract: how the store is opened, and one line.

use async_trait::async_trait;
use ltq_core::StoreError;
use ltq_store::conformance::{Capabilities, Harness};
use one_file_store::OneFileStore;

const LIMIT: u64 = 64 << 20;

struct InOneFile(tempfile::TempDir);

#[async_trait]
impl Harness for InOneFile {
    type Store = OneFileStore;

    async fn open(&self) -> Result<OneFileStore, StoreError> {
        OneFileStore::open(&self.0.path().join("store"), LIMIT)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { survives_close: true, survives_drop: true, limit_bytes: Some(LIMIT) }
    }
}

ltq_store::conformance!(suite, InOneFile(tempfile::tempdir().unwrap()));
