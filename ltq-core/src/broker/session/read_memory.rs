//! The memory of what a session has read, and what of it counts.

use super::{READ_BYTES_MIN, ReadMemory, Session};
use crate::{Refusal, broker::refuse::undecodable};

impl Session {
    /// Makes room for the rest of a long frame, by as much as there is of it, so that copying it
    /// from one memory to a larger one costs little in all.
    pub(super) fn make_room(&mut self) -> Result<(), Refusal> {
        if self.partial.bytes() > 0 {
            let missing = self.decoder.missing(&self.read).map_err(|error| undecodable(&error))?;
            let wanted = missing.min(self.read.len());
            if self.read.capacity() - self.read.len() < wanted.min(READ_BYTES_MIN) {
                self.read.reserve(wanted);
                self.memory = ReadMemory { capacity: self.read.capacity(), pinned: 0 };
            }
        }
        Ok(())
    }

    /// Publishes are slices of what was read, and keep all of it. Where that is much more than
    /// they are, as between frames of other kinds, they are copied.
    pub(super) fn pin(&mut self) {
        let bytes = self.handles.gathered_bytes();
        if bytes == 0 {
            return;
        }
        let pinned = self.memory.pinned + bytes;
        if pinned < self.memory.capacity / PINNED_PART_MIN {
            self.handles.copy_gathered();
        } else {
            self.memory.pinned = pinned;
        }
    }

    /// Counts a long frame that is not there whole against the node's limit for them. One that follows
    /// whole frames has its place behind those that began before it.
    pub(super) fn count_partial(&mut self, after_whole: bool) {
        let long = self.read.len() > self.short_bytes_max();
        if after_whole || long || self.read.is_empty() {
            self.count_short(0);
        }
        if long {
            self.shared.partials.set(&mut self.partial, self.read.capacity());
        }
    }

    /// Up to which size a half-read frame is free, as far as its connection has room.
    pub(super) fn short_bytes_max(&self) -> usize {
        self.shared.settings.partial_bytes_free / SHORT_PART
    }

    /// Counts what is kept for a short one, if its connection has much of that.
    pub(super) fn count_short(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.half_read, bytes);
        let free = self.together.half_read(before, bytes);
        self.shared.partials.set(&mut self.partial, if free { 0 } else { bytes });
    }
}

/// Publishes that keep a read's memory are at least this part of it, or else they are copied.
const PINNED_PART_MIN: usize = 4;
/// Half-read frames of up to this part of what a connection has free for them are short.
const SHORT_PART: usize = 4;
