//! The index by time: for each log a few offsets, each with a time that all records before it are
//! earlier than.
//!
//! An entry is made by a record that is later than all before it, and that only once a second or
//! for some megabytes. So whoever looks for a time begins at the last entry that is not later than
//! it, and has to read on for about a second's records at most, unless the times went back.

use std::collections::HashMap;

use ltq_core::Timestamp;

/// Where the index of each log is at, by its number.
#[derive(Debug, Default)]
pub(super) struct Times {
    logs: HashMap<u64, Indexed>,
    /// How logs were before what was noted since the last write, in order.
    before: Vec<(u64, Option<Indexed>)>,
}

#[derive(Clone, Copy, Debug)]
struct Indexed {
    /// The time of its last entry.
    last: Timestamp,
    /// The latest time of any record, or something later.
    latest: Timestamp,
    /// Bytes that came in since its last entry.
    bytes: u64,
}

impl Times {
    /// Takes in a log whose last entry is of this time. There would be a later one if any record
    /// were a step later.
    pub(super) fn restore(&mut self, id: u64, last: Timestamp) {
        let latest = Timestamp(last.0.saturating_add(STEP_MS - 1));
        self.logs.insert(id, Indexed { last, latest, bytes: 0 });
    }

    /// Notes an append. `true`: it is to have an entry.
    pub(super) fn note(&mut self, id: u64, time: Timestamp, bytes: u64) -> bool {
        self.before.push((id, self.logs.get(&id).copied()));
        let Some(known) = self.logs.get_mut(&id) else {
            self.logs.insert(id, Indexed { last: time, latest: time, bytes });
            return true;
        };
        known.bytes += bytes;
        let later = time > known.latest;
        known.latest = known.latest.max(time);
        let far = time.0 >= known.last.0.saturating_add(STEP_MS) || known.bytes >= STEP_BYTES;
        if later && far {
            *known = Indexed { last: time, latest: time, bytes: 0 };
        }
        later && far
    }

    pub(super) fn forget(&mut self, id: u64) {
        self.before.push((id, self.logs.remove(&id)));
    }

    /// What was noted since the last write was written.
    pub(super) fn written(&mut self) {
        self.before.clear();
    }

    /// It was not.
    pub(super) fn undo(&mut self) {
        for (id, before) in self.before.drain(..).rev() {
            match before {
                Some(before) => self.logs.insert(id, before),
                None => self.logs.remove(&id),
            };
        }
    }
}

const STEP_MS: u64 = 1_000;
const STEP_BYTES: u64 = 4 << 20;
