use async_trait::async_trait;
use ltq_core::StoreError;

use super::*;
use crate::conformance::{Capabilities, Harness};

const LIMIT: u64 = 64 << 20;

struct InMemory;

#[async_trait]
impl Harness for InMemory {
    type Store = MemoryStore;

    async fn open(&self) -> Result<MemoryStore, StoreError> {
        Ok(MemoryStore::new(LIMIT))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { limit_bytes: Some(LIMIT), ..Capabilities::default() }
    }
}

crate::conformance!(conformance, InMemory, skip: [
    everything_survives_a_close,
    closing_again_and_again_keeps_everything,
    a_deleted_log_stays_deleted_over_a_close,
    os_commits_survive_a_drop,
    disk_commits_survive_a_drop,
    a_barrier_makes_earlier_commits_survive,
    a_truncation_survives_a_drop,
    what_survives_has_everything_before_it,
    what_shows_early_is_durable_already,
    a_log_that_is_not_durable_comes_back_if_shorter,
    random_batches_match_the_model_over_closes,
    random_batches_match_the_model_over_drops,
]);
