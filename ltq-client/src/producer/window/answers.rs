//! What the broker says of messages that were sent.

use ltq_core::{Durability, Refusal, RefusalCode, model::SequenceRange};

use super::{Violation, Window};
use crate::{
    UnknownCause,
    producer::{calls::Failure, elsewhere::Elsewhere},
};

impl<R> Window<R> {
    /// Messages are stored.
    pub(in crate::producer) fn handle_confirmed(
        &mut self,
        ranges: &[SequenceRange],
        durability: Durability,
    ) -> Result<(), Violation> {
        if !self.is_open {
            return Ok(());
        }
        for range in ranges {
            let mut offset = range.offset;
            self.answer(range.sequence, range.count, |window, sequence, position, count| {
                let range = SequenceRange { sequence, count, offset };
                offset = offset.map(|first| first.plus(count));
                window.calls.settle(position, range, durability);
                window.stored_through = window.stored_through.max(sequence + count - 1);
                window.unknown_through = None;
            })?;
        }
        self.after_answers()
    }

    /// Messages are not stored, or nobody knows.
    pub(in crate::producer) fn handle_refused(
        &mut self,
        sequence: u64,
        count: u64,
        refusal: Refusal,
    ) -> Result<(), Violation> {
        // What the broker took after it had refused the producer, which is answered for already.
        if !self.is_open {
            return Ok(());
        }
        let front = self.frames.front().filter(|_| self.repeated > 0);
        if front.is_some_and(|frame| frame.sequence < sequence) && sequence < self.next_sequence {
            self.early.insert(sequence, (count, refusal));
            return Ok(());
        }
        self.refuse(sequence, count, &refusal)?;
        self.after_answers()
    }

    fn refuse(&mut self, sequence: u64, count: u64, refusal: &Refusal) -> Result<(), Violation> {
        let gap = refusal.code == RefusalCode::SequenceGap;
        let known = self.frames.front().is_some_and(|frame| sequence >= frame.sequence);
        if gap && known && !self.recovering {
            return Err(Violation("a gap in the sequence, and no refusal before it"));
        }
        // A broker that goes takes nothing more; the next one will. One that drains stays: where there is
        // no other its refusal is told.
        let returned = gap
            || match refusal.code {
                RefusalCode::Stopping => true,
                RefusalCode::Draining => self.elsewhere != Elsewhere::Nothing,
                _ => false,
            };
        let failure = Failure::of(refusal);
        self.answer(sequence, count, |window, sequence, position, count| {
            window.recovering = true;
            if matches!(failure, Failure::Unknown(_)) {
                window.unknown_through = Some(sequence + count - 1);
            }
            if sequence <= window.stored_through {
                // An earlier connection's, and stored: only its repeat was refused.
                let unknown = Failure::Unknown(UnknownCause::Broker(refusal.clone()));
                window.fail(position, count, &unknown);
            } else if !returned {
                window.fail(position, count, &failure);
            }
        })
    }

    /// Takes the front frames off as far as `count` messages from `sequence` on, telling of each
    /// piece: its sequence, position and count.
    fn answer(
        &mut self,
        mut sequence: u64,
        mut count: u64,
        mut each: impl FnMut(&mut Self, u64, u64, u64),
    ) -> Result<(), Violation> {
        while count > 0 {
            let Some(frame) = self.frames.front_mut() else {
                if sequence.saturating_add(count) <= self.next_sequence {
                    return Ok(());
                }
                return Err(Violation("an answer for messages that were never sent"));
            };
            if sequence < frame.sequence {
                // Told before.
                let known = (frame.sequence - sequence).min(count);
                sequence += known;
                count -= known;
                continue;
            }
            if sequence > frame.sequence || self.repeated == 0 {
                return Err(Violation("an answer out of order"));
            }
            let piece = *frame;
            let taken = count.min(piece.count);
            if taken == piece.count {
                self.frames.pop_front();
                self.repeated -= 1;
                self.answered_bytes += piece.bytes;
            } else {
                frame.sequence += taken;
                frame.position += taken;
                frame.count -= taken;
            }
            each(self, piece.sequence, piece.position, taken);
            sequence += taken;
            count -= taken;
        }
        Ok(())
    }

    fn after_answers(&mut self) -> Result<(), Violation> {
        while let Some(early) = self.early.first_entry() {
            let sequence = *early.key();
            if self.frames.front().is_some_and(|frame| frame.sequence < sequence) {
                break;
            }
            let (count, refusal) = early.remove();
            self.refuse(sequence, count, &refusal)?;
        }
        if self.recovering && self.frames.is_empty() {
            self.recover();
        }
        self.release();
        Ok(())
    }

    /// Nothing that was sent is unanswered: what came back is sent anew.
    pub(super) fn recover(&mut self) {
        self.recovering = false;
        self.next_sequence = self.stored_through.max(self.unknown_through.unwrap_or(0)) + 1;
        self.cursor = self.calls.low().unwrap_or_else(|| self.chunks.end());
        self.holes.extend(self.calls.settled().map(|range| (range.start, range.end)));
    }
}
