//! Whether there is room for what a batch brings, in memory and on the disk.
//!
//! Of what is configured for all files the journal's share is set aside at its largest. The rest
//! is for segments, for what is in memory and may have to go there, and for values, which
//! checkpoints hold: two of them, and a third while it is being written.

use std::sync::atomic::Ordering::Relaxed;

use ltq_core::{StoreError, WriteOp};

use super::{
    change::Draft,
    engine::Engine,
    front::{Front, NoRoom},
    state::value_cost,
};

impl Engine {
    /// What there is no room in for what a batch brings.
    pub(super) fn no_room_for(&self, front: &Front, draft: &Draft) -> Option<NoRoom> {
        let records = draft.record_bytes();
        if records == 0 && self.options.disk_bytes_max.is_none() {
            return None;
        }
        let in_memory = self.counters.tail_cost.load(Relaxed) + front.unseen_bytes();
        // What is larger than all there is for it comes in alone.
        if records > 0 && in_memory > 0 && in_memory + records > self.options.tail_bytes {
            return Some(NoRoom::Memory(records));
        }
        if records > 0 && self.device_short.load(Relaxed) {
            return Some(NoRoom::Device);
        }
        self.disk_shortage(front, draft).map(|_| NoRoom::Disk)
    }

    /// The refusal of a batch that would exceed what is configured for all files.
    pub(super) fn disk_shortage(&self, front: &Front, draft: &Draft) -> Option<StoreError> {
        let limit = self.options.disk_bytes_max?;
        let (records, values) = (draft.record_bytes(), draft.value_bytes());
        if records == 0 && values == 0 {
            return None;
        }
        let kept =
            if records > 0 { self.options.reserve_bytes } else { self.options.reserve_bytes / 2 };
        let wanted = |values: u64| kept + records + VALUE_COPIES * values;
        let aside = self.options.journal_bytes_max + self.counters.segment_bytes.load(Relaxed);
        let used = aside
            + self.counters.tail_cost.load(Relaxed)
            + front.unseen_bytes()
            + VALUE_COPIES * self.counters.values_cost.load(Relaxed);
        if used + wanted(values + 256 * draft.ops.len() as u64) <= limit {
            return None;
        }
        // It is close: look more closely.
        let state = self.state.read();
        let put = |op: &WriteOp| match op {
            WriteOp::Put { key, value } => {
                let old = state.values.get(key).map_or(0, |old| value_cost(key, old));
                value_cost(key, value).saturating_sub(old)
            }
            _ => 0,
        };
        let growth = draft.ops.iter().map(put).sum();
        let used = self.options.journal_bytes_max
            + state.segment_bytes()
            + state.unspilled_cost()
            + front.unseen_bytes()
            + VALUE_COPIES * state.values_cost();
        let wanted = wanted(growth);
        if (records == 0 && growth == 0) || used + wanted <= limit {
            return None;
        }
        let what = "disk_bytes_max, the journal and the reserve set aside".to_owned();
        Some(StoreError::Full { what, limit, used: used.min(limit), wanted })
    }

    /// The error for a device that is full.
    pub(super) fn device_full(&self, wanted: u64) -> StoreError {
        let used = self.disk_bytes(&self.front.lock());
        let what = "the device, reserve_bytes left".to_owned();
        StoreError::Full { what, limit: 0, used, wanted }
    }
}

/// How often a value is on disk, apart from the journal.
const VALUE_COPIES: u64 = 3;
