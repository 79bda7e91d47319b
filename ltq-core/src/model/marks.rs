//! How large and how old the parts of a log are: a few marks instead of a table of all messages.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::run_set::Run;
use crate::{Bounds, Monotonic, Now, Offset, RecordBatch, Retention, Timestamp};

/// A topic's marks. They cut its log into stretches, each of them known by its bytes and by the age
/// of its youngest message.
///
/// A mark is made when about 1/64 of what is kept was appended since the last one, but no less than
/// the step that the settings name, and where there is an age limit, when 1/64 of it has passed. So
/// there are never many, and a stretch is never a large part of the log.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    /// Where the first stretch begins, at or before the first message kept.
    base: Place,
    /// Ends of stretches, in order, all behind `base`.
    list: Vec<Mark>,
    /// What comes behind the last mark is appended here.
    end: Place,
    /// When the last message was appended.
    appended: Monotonic,
    /// When the first one behind the last mark was.
    opened: Monotonic,
}

/// An offset, and the bytes appended before it since the first mark was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    offset: Offset,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    place: Place,
    /// All messages before it are at least so old.
    since: Since,
}

/// A moment that may lie before the monotonic clock began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Since {
    at: Monotonic,
    /// How long before `at` it was.
    before: Duration,
}

/// Which limit a message is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// [`Retention::age_max`].
    Age,
    /// [`Retention::bytes_max`].
    Bytes,
}

/// Marks as stored: distances from one to the next.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MarksState {
    offset: Offset,
    /// The time of the first mark in the list.
    time: Timestamp,
    /// Messages, bytes and milliseconds since the one before.
    marks: Vec<(u64, u64, u64)>,
}

impl MarksState {
    /// No marks, in a log that begins at `first`.
    pub(super) fn at(first: Offset) -> Self {
        Self { offset: first, ..Self::default() }
    }

    /// Where the last of them is.
    pub(super) fn end(&self) -> Offset {
        self.marks.iter().fold(self.offset, |at, &(records, ..)| at.plus(records))
    }
}

impl Since {
    /// How long ago it was.
    fn age(self, now: Monotonic) -> Duration {
        self.before.saturating_add(now.since(self.at))
    }

    /// From when on it is at least `age` ago.
    fn due(self, age: Duration) -> Monotonic {
        self.at.plus(age.saturating_sub(self.before))
    }
}

impl Marks {
    /// Those of an empty log that begins at `first`.
    pub(super) const fn new(first: Offset, now: Monotonic) -> Self {
        let place = Place { offset: first, bytes: 0 };
        Self { base: place, list: Vec::new(), end: place, appended: now, opened: now }
    }

    /// Puts these together again for a log with `bounds`, and says whether there was more in it than
    /// they told of. What is behind the last mark is taken to
    /// have been appended now, and to have no bytes: so it is kept for longer rather than given up
    /// too early.
    pub(super) fn restore(
        state: &MarksState,
        bounds: Bounds,
        now: Now,
    ) -> Result<(Self, bool), &'static str> {
        let mut at = Place { offset: state.offset, bytes: 0 };
        let mut marks = Self::new(state.offset, now.monotonic);
        let mut time = state.time;
        for &(records, bytes, millis) in &state.marks {
            let offset = at.offset.0.checked_add(records).filter(|_| records > 0);
            let (Some(offset), Some(bytes)) = (offset, at.bytes.checked_add(bytes)) else {
                return Err("a mark is behind all offsets, or where the one before is");
            };
            at = Place { offset: Offset(offset), bytes };
            time = time.plus(Duration::from_millis(millis));
            if at.offset <= bounds.end {
                let since = Since { at: now.monotonic, before: now.wall.since(time) };
                marks.list.push(Mark { place: at, since });
                marks.end = at;
            }
        }
        if marks.base.offset > bounds.first || marks.end.offset < bounds.first {
            // The log is not where these marks were made, so that they say nothing of it.
            marks = Self::new(bounds.first, now.monotonic);
        }
        marks.end.offset = bounds.end;
        marks.truncate(bounds.first);
        let closed = marks.close();
        Ok((marks, closed))
    }

    /// As they are to be stored.
    pub(super) fn state(&self, now: Now) -> MarksState {
        // The wall clock may have stepped since a mark was made: what counts is its age.
        let time = |mark: &Mark| {
            let age = u64::try_from(mark.since.age(now.monotonic).as_millis()).unwrap_or(u64::MAX);
            Timestamp(now.wall.0.saturating_sub(age))
        };
        let first = self.list.first().map(time).unwrap_or_default();
        let (mut before, mut then) = (self.base, first);
        let distance = |mark: &Mark| {
            let (place, time) = (mark.place, time(mark).max(then));
            let millis = time.0 - then.0;
            let distance = (place.offset.since(before.offset), place.bytes - before.bytes, millis);
            (before, then) = (place, time);
            distance
        };
        let marks = self.list.iter().map(distance).collect();
        MarksState { offset: self.base.offset, time: first, marks }
    }

    /// Whether messages stand behind the last mark.
    pub(super) fn is_open(&self) -> bool {
        self.last().offset < self.end.offset
    }

    /// Marks where the log ends now.
    pub(super) fn close(&mut self) -> bool {
        let open = self.is_open();
        if open {
            let since = Since { at: self.appended, before: Duration::ZERO };
            self.list.push(Mark { place: self.end, since });
            self.thin();
        }
        open
    }

    /// When time alone asks for a mark.
    pub(super) fn close_due(&self, retention: &Retention) -> Option<Monotonic> {
        let step = age_step(retention.age_max?);
        self.is_open().then(|| self.opened.plus(step))
    }

    /// Takes in what is appended now, with the marks that it makes. `least` is the least number of
    /// bytes from one mark to the next.
    pub(super) fn append(&mut self, batches: &[RecordBatch], least: u64, now: Monotonic) {
        for batch in batches {
            let records = &batch.records;
            let mut start = 0;
            while start < records.count() {
                let step = self.step(least);
                let open = self.end.bytes - self.last().bytes;
                let room = usize::try_from(step.saturating_sub(open)).unwrap_or(usize::MAX);
                // At least one, so that a large record is a stretch of its own.
                let fits = records.fitting(start, records.count(), room);
                let bytes = records.slice(start..start + fits).byte_len() as u64;
                start += fits;
                self.grow(batch.first.plus(start as u64), bytes, now);
                if start < records.count() || open + bytes >= step {
                    self.close();
                }
            }
        }
    }

    /// The number of bytes from one mark to the next, for a log as large as this one.
    fn step(&self, least: u64) -> u64 {
        least.max((self.end.bytes - self.base.bytes) / STRETCHES)
    }

    /// Whether appending so many bytes makes a mark.
    pub(super) fn fills(&self, bytes: u64, step: u64) -> bool {
        let open = self.end.bytes - self.last().bytes;
        bytes > 0 && open.saturating_add(bytes) >= self.step(step)
    }

    /// Takes in what was appended without a mark, up to `end`.
    pub(super) fn grow(&mut self, end: Offset, bytes: u64, now: Monotonic) {
        if end > self.end.offset {
            if !self.is_open() {
                self.opened = now;
            }
            self.end = Place { offset: end, bytes: self.end.bytes.saturating_add(bytes) };
            self.appended = now;
        }
    }

    /// The log begins at `first` now.
    pub(super) fn truncate(&mut self, first: Offset) {
        let gone = self.list.partition_point(|mark| mark.place.offset <= first);
        if let Some(mark) = self.list.drain(..gone).next_back() {
            self.base = mark.place;
        }
        if self.list.is_empty() {
            self.list = Vec::new();
        }
    }

    /// Up to where the log is beyond a limit, and which; `from` is where it begins.
    pub(super) fn beyond(
        &self,
        retention: &Retention,
        from: Offset,
        now: Monotonic,
    ) -> Option<(Offset, Limit)> {
        let ahead = |mark: &&Mark| mark.place.offset > from;
        let old = retention.age_max.and_then(|age| {
            let marks = self.list.iter().filter(ahead);
            Some(marks.take_while(|mark| mark.since.age(now) >= age).last()?.place.offset)
        });
        let large = retention.bytes_max.and_then(|bytes_max| {
            // What is left of a stretch cut in the middle is not counted: rather too late.
            let starts = std::iter::once(&self.base).chain(self.list.iter().map(|m| &m.place));
            let mut begins = starts.skip_while(|place| place.offset < from);
            let excess = |place: &Place| self.end.bytes - place.bytes > bytes_max;
            begins.next().filter(|place| excess(place))?;
            let kept = begins.find(|place| !excess(place));
            Some(kept.or_else(|| self.list.last().map(|mark| &mark.place))?.offset)
        });
        let large = large.filter(|&offset| offset > from);
        match (old, large) {
            (Some(old), Some(large)) if large > old => Some((large, Limit::Bytes)),
            (Some(old), _) => Some((old, Limit::Age)),
            (None, large) => large.map(|offset| (offset, Limit::Bytes)),
        }
    }

    /// These messages are gone from the middle of the log, and with them about as many bytes.
    pub(super) fn discard(&mut self, run: Run) {
        let before = self.bytes_before(run.first);
        let gone_before = |place: &Place| {
            let offset = place.offset.clamp(run.first, run.end.max(run.first));
            self.bytes_before(offset).saturating_sub(before)
        };
        let gone: Vec<u64> = self.list.iter().map(|mark| gone_before(&mark.place)).collect();
        let gone_in_all = gone_before(&self.end);
        self.end.bytes -= gone_in_all;
        for (mark, gone) in self.list.iter_mut().zip(gone) {
            mark.place.bytes -= gone;
        }
    }

    /// When the next stretch of a log that begins at `from` grows too old.
    pub(super) fn next_age(&self, retention: &Retention, from: Offset) -> Option<Monotonic> {
        let age = retention.age_max?;
        let next = self.list.iter().find(|mark| mark.place.offset > from)?;
        Some(next.since.due(age))
    }

    /// About how many bytes a run has.
    pub(super) fn bytes_of(&self, run: Run) -> u64 {
        self.bytes_before(run.end).saturating_sub(self.bytes_before(run.first))
    }

    /// About how many bytes lie before an offset, those of a stretch being spread evenly over its
    /// messages.
    fn bytes_before(&self, offset: Offset) -> u64 {
        let behind = self.list.partition_point(|mark| mark.place.offset <= offset);
        let place = |index: usize| self.list.get(index).map(|mark| mark.place);
        let before = behind.checked_sub(1).and_then(place).unwrap_or(self.base);
        let next = place(behind).unwrap_or(self.end);
        let len = next.offset.since(before.offset);
        let part = offset.since(before.offset).min(len);
        let bytes = u128::from(next.bytes - before.bytes) * u128::from(part);
        let share = bytes.checked_div(u128::from(len)).unwrap_or(0);
        before.bytes + u64::try_from(share).unwrap_or(u64::MAX)
    }

    fn last(&self) -> Place {
        self.list.last().map_or(self.base, |mark| mark.place)
    }

    /// Keeps the number of marks within its bound: joins neighbours that are small for the log as
    /// it is now, or when there are none, every second one with its neighbour.
    fn thin(&mut self) {
        if self.list.len() < MARKS_MAX {
            return;
        }
        let step = (self.end.bytes - self.base.bytes) / STRETCHES;
        let oldest = self.list.first().map_or(Duration::ZERO, |m| m.since.age(self.appended));
        let age = oldest / STRETCHES as u32;
        let mut kept: Vec<Mark> = Vec::with_capacity(MARKS_MAX);
        let mut begin = (self.base.bytes, oldest);
        for pair in self.list.windows(2) {
            let &[mark, next] = pair else { continue };
            let next_age = next.since.age(self.appended);
            if next.place.bytes - begin.0 > step || begin.1.saturating_sub(next_age) > age {
                kept.push(mark);
                begin = (mark.place.bytes, mark.since.age(self.appended));
            }
        }
        kept.extend(self.list.last());
        if kept.len() >= MARKS_MAX {
            let mut odd = false;
            kept.retain(|_| {
                odd = !odd;
                !odd
            });
        }
        self.list = kept;
    }
}

/// How often an age limit asks for a mark where messages come: often enough that giving up whole
/// stretches is late by a 64th of the age, and no more than ten times a second.
fn age_step(age_max: Duration) -> Duration {
    (age_max / STRETCHES as u32).max(AGE_STEP_MIN)
}

/// About how many stretches what is kept is cut into.
const STRETCHES: u64 = 64;
/// Marks of a topic. Room for as many stretches by size as by age, and for their unevenness; a
/// stored mark takes about nine bytes.
const MARKS_MAX: usize = 256;
/// The shortest time from one mark to the next that an age limit asks for.
const AGE_STEP_MIN: Duration = Duration::from_millis(100);

#[cfg(test)]
#[path = "marks_tests.rs"]
mod tests;
