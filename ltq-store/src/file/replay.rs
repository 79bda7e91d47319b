//! Brings the state of a checkpoint up to what the journal says.

use std::{collections::BTreeSet, io, ops::Range, sync::Arc};

use ltq_core::{LogName, LogOptions, Offset, Records, Timestamp};

use super::{
    change::Change,
    checkpoint::Snapshot,
    entry::{Content, Told},
    log::{Hole, Log},
    options::FileStoreOptions,
    segments::{SegmentDir, SegmentKey},
    spill,
    state::State,
    walk::Step,
};

/// The state on its way from a checkpoint to the end of the journal.
#[derive(Debug)]
pub(super) struct Replay<'a> {
    options: &'a FileStoreOptions,
    segments: &'a SegmentDir,
    pub(super) state: State,
    pub(super) next_log_id: u64,
    /// Segments that were written to and not synced.
    pub(super) dirty: BTreeSet<SegmentKey>,
    pub(super) damaged_records: u64,
    /// Whether the last entry says that the store was closed.
    pub(super) stopped: bool,
    /// The last entry whose changes are in the checkpoint, and the next log's id then.
    applied: u64,
    known_log_id: u64,
}

/// Where an entry stands.
struct Place {
    file: u64,
    name: Arc<str>,
    position: u64,
    sequence: u64,
}

/// Records as an entry tells of them.
struct Appended {
    id: u64,
    log: LogName,
    at: Offset,
    time: Timestamp,
    records: Records,
}

impl<'a> Replay<'a> {
    pub(super) fn new(
        options: &'a FileStoreOptions,
        segments: &'a SegmentDir,
        snapshot: Snapshot,
    ) -> Self {
        let mut state = State::default();
        for (name, log) in snapshot.logs.into_iter().map(super::checkpoint::LogSnapshot::restore) {
            state.restore(name, log);
        }
        for (key, value) in &snapshot.values {
            state.put(key, value);
        }
        Self {
            options,
            segments,
            state,
            next_log_id: snapshot.next_log_id,
            dirty: BTreeSet::new(),
            damaged_records: 0,
            stopped: false,
            applied: snapshot.applied,
            known_log_id: snapshot.next_log_id,
        }
    }

    /// Takes in what the journal says next.
    ///
    /// # Errors
    /// What kept records from being moved to segments.
    pub(super) fn step(&mut self, step: Step) -> io::Result<()> {
        match step {
            Step::Lost { name, position, entries } => {
                tracing::error!(file = %name, position, first = entries.start, behind = entries.end,
                    "entries of the journal are damaged");
                self.damaged_records += entries.end - entries.start;
                Ok(())
            }
            Step::Entry { file, name, position, header, content } => {
                let sequence = header.sequence;
                self.stopped = content.stopped;
                self.entry(&Place { file, name, position, sequence }, content);
                self.relieve()
            }
        }
    }

    fn entry(&mut self, place: &Place, content: Content) {
        if let Some(what) = content.damage {
            tracing::error!(file = %place.name, position = place.position, "damaged: {what}");
        }
        let old = place.sequence <= self.applied;
        for told in content.changes {
            match told {
                Told::Change(Change::Append { id, log, at, time, records, .. }) => {
                    let appended = Appended { id, log, at, time, records };
                    self.append(place, &appended, content.damage);
                }
                Told::LostRecords { id, log, at, count } => {
                    if let Some(found) = self.log_of(id, &log, at) {
                        let until = at.plus(u64::from(count));
                        let what = "the table of an entry's records is damaged";
                        let lost = lose(found, at.max(found.bounds.end), until, place, what);
                        self.damaged_records += lost;
                    }
                }
                Told::LostValue => self.damaged_records += 1,
                Told::Change(_) if old => (),
                Told::Change(Change::Create { id, log, options, first }) => {
                    self.create(place, id, &log, options, first);
                }
                Told::Change(Change::Truncate { id, log, before, .. }) => {
                    if let Some(found) = self.log_of(id, &log, before) {
                        // Records of a lost entry may have been truncated.
                        found.bounds.end = found.bounds.end.max(before);
                    }
                    let change = Change::Truncate { id, log, before, durable: true };
                    self.state.apply(change, place.file, place.sequence);
                }
                Told::Change(Change::Discard { id, log, from, until, .. }) => {
                    if let Some(found) = self.log_of(id, &log, from) {
                        // The same.
                        found.bounds.end = found.bounds.end.max(until);
                    }
                    let change = Change::Discard { id, log, from, until, durable: true };
                    self.state.apply(change, place.file, place.sequence);
                }
                Told::Change(change) => self.state.apply(change, place.file, place.sequence),
            }
        }
    }

    fn create(
        &mut self,
        place: &Place,
        id: u64,
        log: &LogName,
        options: LogOptions,
        first: Offset,
    ) {
        self.next_log_id = self.next_log_id.max(id.saturating_add(1));
        let same_name = self.state.logs.get(log).map(|found| found.id);
        if same_name == Some(id) {
            return;
        }
        if let Some(other) = same_name {
            // The entry that deleted it is lost.
            let delete = Change::Delete { id: other, log: log.clone() };
            self.state.apply(delete, place.file, place.sequence);
        }
        let create = Change::Create { id, log: log.clone(), options, first };
        self.state.apply(create, place.file, place.sequence);
    }

    /// The log of that id, made if the entry that made it is lost; `None` if it is gone.
    fn log_of(&mut self, id: u64, log: &LogName, at: Offset) -> Option<&mut Log> {
        let found = self.state.logs.get(log).map(|found| found.id);
        if found != Some(id) {
            if id < self.known_log_id || found.is_some_and(|found| found > id) {
                return None;
            }
            if let Some(other) = found {
                let delete = Change::Delete { id: other, log: log.clone() };
                self.state.apply(delete, 0, 0);
            }
            tracing::error!(log = %log, "the entry that made the log is damaged");
            self.next_log_id = self.next_log_id.max(id.saturating_add(1));
            self.state.restore(log.clone(), Log::new(id, LogOptions::default(), at));
        }
        self.state.logs.get_mut(log)
    }

    fn append(&mut self, place: &Place, appended: &Appended, damage: Option<&'static str>) {
        let Appended { id, log: name, at, records, .. } = appended;
        let Some(log) = self.log_of(*id, name, *at) else { return };
        let end = log.bounds.end;
        let mut lost = lose(log, end, *at, place, "entries of the journal before are damaged");
        // What is in segments, or was truncated, is left out.
        let mut next = end.since(*at).min(records.count() as u64) as usize;
        if damage.is_none() {
            self.push(place, appended, next..records.count());
            self.damaged_records += lost;
            return;
        }
        while next < records.count() {
            let bad = match records.slice(next..records.count()).verify() {
                Err(ltq_core::RecordsError::Checksum { index, .. }) => next + index,
                _ => records.count(),
            };
            self.push(place, appended, next..bad);
            if bad < records.count()
                && let Some(log) = self.log_of(*id, name, *at)
            {
                let from = at.plus(bad as u64);
                let what = "the checksum of a record is wrong";
                lost += lose(log, from, from.plus(1), place, what);
            }
            next = bad + 1;
        }
        self.damaged_records += lost;
    }

    fn push(&mut self, place: &Place, appended: &Appended, range: Range<usize>) {
        let Appended { id, log, time, records, .. } = appended;
        if !range.is_empty() {
            let records = records.slice(range);
            self.state.change_log(*id, log, |log| log.append(*time, records, place.file));
        }
    }

    /// Keeps to the budget of memory.
    fn relieve(&mut self) -> io::Result<()> {
        if self.state.tail_cost() <= self.options.spill_above() {
            return Ok(());
        }
        let target = self.options.spill_down_to();
        for job in spill::jobs_for_memory(&self.state, target) {
            let mut spilled = job.run(self.segments, self.options.segment_bytes);
            let error = spilled.error.take();
            spilled.register(&mut self.state, &mut self.dirty, self.options.grown_bytes());
            if let Some(error) = error {
                return Err(error);
            }
        }
        self.state.shrink_tails(target);
        Ok(())
    }
}

/// Notes that records are lost, if there are any between the offsets. Returns how many.
fn lose(log: &mut Log, from: Offset, until: Offset, place: &Place, what: &'static str) -> u64 {
    if until <= from {
        return 0;
    }
    let (file, position) = (Arc::clone(&place.name), place.position);
    log.push_hole(Hole { from, until, file, position, what: Arc::from(what) });
    until.since(from)
}
