//! Where batches come in: judged, given their place in the journal, and kept until they are as
//! durable as asked and readers may see them. It does no input or output.

use std::collections::VecDeque;

use bytes::Bytes;
use ltq_core::{Committed, Durability, StoreError};
use tokio::sync::oneshot;

use super::{
    change::{Change, Draft},
    entry::{ENTRY_HEADER_BYTES, EntryHeader, Head, frame},
    journal::{ENTRIES_AT, JournalFile},
    planned::{Plan, Planned, Refused, Touched},
};

/// Tells a caller how its commit ended.
pub(super) type Done = oneshot::Sender<Result<Committed, StoreError>>;

/// The batches on their way.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) planned: Planned,
    /// Why no batch comes in any more.
    pub(super) stopped: Option<StoreError>,
    /// Where the next entry goes.
    current: JournalFile,
    position: u64,
    /// The file after that, made ahead.
    ready: Option<JournalFile>,
    sealed: VecDeque<Sealed>,
    last_sequence: u64,
    last_ticket: u64,
    /// Entries that are to be written, in order.
    queue: Vec<Queued>,
    queue_bytes: u64,
    /// Batches that readers cannot see yet, in order.
    waiting: VecDeque<Waiting>,
    /// How many readers cannot see yet, those just being shown included.
    unseen: usize,
    /// How many of those wait for a write; for a sync.
    waiting_for: [usize; 2],
    /// Bytes of records that readers cannot see yet.
    unseen_bytes: u64,
    /// Batches that there was no room for, in order.
    parked: VecDeque<Parked>,
}

/// A journal file that is full.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// Its last entry, or the last one before it.
    pub(super) last_sequence: u64,
}

/// An entry that is to be written.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) file: JournalFile,
    pub(super) position: u64,
    /// What stands before the body, so many bytes, and behind it.
    around: Vec<u8>,
    before: usize,
    body: Bytes,
}

impl Queued {
    /// Its bytes.
    pub(super) fn parts(&self) -> [&[u8]; 3] {
        let (before, behind) = self.around.split_at_checked(self.before).unwrap_or_default();
        [before, &self.body, behind]
    }
}

/// A batch that readers cannot see yet.
#[derive(Debug)]
pub(super) struct Waiting {
    ticket: u64,
    /// The batches that it must not overtake: of each thing that it touches, the last one that
    /// does. One of them may be seen long before another.
    after: Vec<u64>,
    /// What must be written or synced before readers may see it.
    level: Durability,
    /// The last entry of the journal when it came in: its own if it has one.
    pub(super) sequence: u64,
    pub(super) file: u64,
    pub(super) changes: Vec<Change>,
    pub(super) touched: Touched,
    pub(super) reach: Durability,
    pub(super) done: Done,
    bytes: u64,
}

/// A batch that there was no room for.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) draft: Draft,
    pub(super) durability: Durability,
    pub(super) done: Done,
    pub(super) no_room: NoRoom,
}

/// What there is no room in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The journal: a file for an entry of so many bytes is wanted.
    Journal(u64),
    /// Memory for so many bytes of records, as the caller found.
    Memory(u64),
    /// What is configured for all files, as the caller found.
    Disk,
    /// The device, as was found before.
    Device,
    /// Batches before it wait.
    Behind,
}

/// How a batch came in.
#[derive(Debug)]
pub(super) enum Admitted {
    /// It can be shown at once.
    Now(Waiting),
    /// Its caller will be told.
    Waiting,
}

/// Why a batch did not come in.
#[derive(Debug)]
pub(super) enum NotAdmitted {
    Refused(Box<Refused>, Draft, Done),
    NoRoom(NoRoom, Draft, Done),
}

impl Front {
    pub(super) fn new(planned: Planned, current: JournalFile, last_sequence: u64) -> Self {
        Self {
            planned,
            stopped: None,
            current,
            position: ENTRIES_AT,
            ready: None,
            sealed: VecDeque::new(),
            last_sequence,
            last_ticket: 0,
            queue: Vec::new(),
            queue_bytes: 0,
            waiting: VecDeque::new(),
            unseen: 0,
            waiting_for: [0; 2],
            unseen_bytes: 0,
            parked: VecDeque::new(),
        }
    }

    /// Judges a batch and gives it its place.
    pub(super) fn admit(
        &mut self,
        draft: Draft,
        durability: Durability,
        done: Done,
        synced: u64,
    ) -> Result<Admitted, NotAdmitted> {
        if let Some(stopped) = &self.stopped {
            let refused = Box::new(Refused::Error(stopped.clone()));
            return Err(NotAdmitted::Refused(refused, draft, done));
        }
        let mut plan = match self.planned.plan(&draft) {
            Ok(plan) => plan,
            Err(refused) => return Err(NotAdmitted::Refused(Box::new(refused), draft, done)),
        };
        if plan.journaled {
            let (header, heads) = draft.head(&plan.changes);
            let bytes = header.entry_bytes();
            if !self.make_room(bytes) {
                return Err(NotAdmitted::NoRoom(NoRoom::Journal(bytes), draft, done));
            }
            self.push_entry(header, heads, draft.body, synced);
        }
        self.planned.admit(&mut plan);
        Ok(self.place(plan, durability, done))
    }

    fn place(&mut self, plan: Plan, durability: Durability, done: Done) -> Admitted {
        let Plan { changes, touched, reach, journaled, .. } = plan;
        let barrier = changes.is_empty();
        let (file, sequence) = (self.current.number, self.last_sequence);
        let level = if journaled || barrier { durability } else { Durability::Memory };
        let after: Vec<u64> = if barrier {
            self.waiting.back().map(|last| last.ticket).into_iter().collect()
        } else {
            self.planned.predecessors(&touched).collect()
        };
        let first = after.is_empty();
        self.last_ticket += 1;
        let waiting = Waiting {
            ticket: self.last_ticket,
            after,
            level,
            sequence,
            file,
            bytes: changes.iter().map(record_bytes).sum(),
            changes,
            touched,
            reach: reach.min(durability),
            done,
        };
        if first && level == Durability::Memory {
            return Admitted::Now(waiting);
        }
        self.planned.begin(&waiting.touched, waiting.ticket);
        self.unseen += 1;
        self.unseen_bytes += waiting.bytes;
        self.count(level, 1);
        self.waiting.push_back(waiting);
        Admitted::Waiting
    }

    /// Puts an entry without a batch into the journal. `false` when there is no room.
    pub(super) fn push_mark(&mut self, head: Option<Head<'_>>, synced: u64) -> bool {
        let mut heads = vec![0; ENTRY_HEADER_BYTES];
        if let Some(head) = head {
            head.encode(&mut heads);
        }
        let header = EntryHeader::of(heads.get(ENTRY_HEADER_BYTES..).unwrap_or_default());
        let room = self.make_room(header.entry_bytes());
        if room {
            self.push_entry(header, heads, Bytes::new(), synced);
        }
        room
    }

    fn make_room(&mut self, bytes: u64) -> bool {
        if self.position + bytes <= self.current.bytes {
            return true;
        }
        if let Some(next) = self.ready.take_if(|ready| ENTRIES_AT + bytes <= ready.bytes) {
            let full = std::mem::replace(&mut self.current, next);
            self.sealed.push_back(Sealed {
                number: full.number,
                bytes: full.bytes,
                last_sequence: self.last_sequence,
            });
            self.position = ENTRIES_AT;
            return true;
        }
        false
    }

    fn push_entry(&mut self, header: EntryHeader, heads: Vec<u8>, body: Bytes, synced: u64) {
        self.last_sequence += 1;
        let header = EntryHeader { sequence: self.last_sequence, synced, ..header };
        let (mut around, before) = frame(&header, heads);
        header.encode(self.current.salt, self.position, &mut around);
        let bytes = header.entry_bytes();
        self.queue_bytes += bytes;
        self.queue.push(Queued {
            file: self.current.clone(),
            position: self.position,
            around,
            before,
            body,
        });
        self.position += bytes;
    }

    /// The entries that are to be written, and the last entry that there is.
    pub(super) fn take_queue(&mut self, into: &mut Vec<Queued>) -> u64 {
        self.queue_bytes = 0;
        into.append(&mut self.queue);
        self.last_sequence
    }

    /// The batches that readers may see now. They count as unseen until [`Self::finish`].
    pub(super) fn take_settled(&mut self, written: u64, synced: u64) -> Vec<Waiting> {
        let mut settled = Vec::with_capacity(self.waiting.len());
        let mut kept = VecDeque::new();
        let due = |waiting: &Waiting| match waiting.level {
            Durability::Memory => true,
            Durability::Os => waiting.sequence <= written,
            Durability::Disk => waiting.sequence <= synced,
        };
        for waiting in std::mem::take(&mut self.waiting) {
            let is_kept = |ticket: &u64| {
                kept.binary_search_by_key(ticket, |earlier: &Waiting| earlier.ticket).is_ok()
            };
            let overtakes = waiting.after.iter().any(is_kept);
            if due(&waiting) && !overtakes {
                settled.push(waiting);
            } else {
                kept.push_back(waiting);
            }
        }
        self.waiting = kept;
        for waiting in &settled {
            self.count(waiting.level, -1);
        }
        settled
    }

    /// Notes that readers see these now.
    pub(super) fn finish(&mut self, settled: &[Waiting]) {
        for waiting in settled {
            self.unseen -= 1;
            self.unseen_bytes -= waiting.bytes;
            self.planned.finish(&waiting.touched);
        }
    }

    fn count(&mut self, level: Durability, change: isize) {
        let at = match level {
            Durability::Memory => return,
            Durability::Os => 0,
            Durability::Disk => 1,
        };
        if let Some(count) = self.waiting_for.get_mut(at) {
            *count = count.saturating_add_signed(change);
        }
    }

    /// Takes no batches any more, and lets those that have their place go on. Returns the others.
    pub(super) fn close(&mut self) -> Vec<Done> {
        self.stopped.get_or_insert(StoreError::Closed);
        self.parked.drain(..).map(|parked| parked.done).collect()
    }

    /// Takes no batches any more. Returns all that came in and have no answer yet.
    pub(super) fn stop(&mut self, why: StoreError) -> Vec<Done> {
        self.stopped.get_or_insert(why);
        self.queue.clear();
        self.queue_bytes = 0;
        self.waiting_for = [0; 2];
        self.unseen -= self.waiting.len();
        let waiting = self.waiting.drain(..).map(|waiting| waiting.done);
        waiting.chain(self.parked.drain(..).map(|parked| parked.done)).collect()
    }
}

/// What is to be known about it, and what it is given.
impl Front {
    pub(super) const fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    pub(super) const fn queue_bytes(&self) -> u64 {
        self.queue_bytes
    }

    /// Bytes of records that came in and that readers cannot see yet.
    pub(super) const fn unseen_bytes(&self) -> u64 {
        self.unseen_bytes
    }

    /// Whether batches wait for a write; for a sync.
    pub(super) const fn waits(&self) -> (bool, bool) {
        let [write, sync] = self.waiting_for;
        (write > 0, sync > 0)
    }

    pub(super) const fn current(&self) -> &JournalFile {
        &self.current
    }

    /// Bytes that still fit into the current file.
    pub(super) const fn left_in_current(&self) -> u64 {
        self.current.bytes.saturating_sub(self.position)
    }

    /// Where the entries of the current file end.
    #[cfg(test)]
    pub(super) const fn end_of_entries(&self) -> u64 {
        self.position
    }

    pub(super) const fn ready(&self) -> Option<&JournalFile> {
        self.ready.as_ref()
    }

    /// Bytes that the journal files take, the one made ahead included.
    pub(super) fn journal_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|file| file.bytes).sum();
        sealed + self.current.bytes + self.ready.as_ref().map_or(0, |ready| ready.bytes)
    }

    pub(super) const fn sealed(&self) -> &VecDeque<Sealed> {
        &self.sealed
    }

    /// Adds a file from before the store was opened.
    pub(super) fn push_sealed(&mut self, sealed: Sealed) {
        self.sealed.push_back(sealed);
    }

    /// Takes out the full files up to this number.
    pub(super) fn take_sealed(&mut self, up_to: u64) -> Vec<Sealed> {
        let count = self.sealed.partition_point(|sealed| sealed.number <= up_to);
        self.sealed.drain(..count).collect()
    }

    /// Gives it the file after the current one. Returns what was there instead, unused.
    pub(super) fn set_ready(&mut self, ready: JournalFile) -> Option<JournalFile> {
        self.ready.replace(ready)
    }

    pub(super) fn take_ready(&mut self) -> Option<JournalFile> {
        self.ready.take()
    }

    pub(super) const fn parked(&self) -> &VecDeque<Parked> {
        &self.parked
    }

    pub(super) const fn parked_mut(&mut self) -> &mut VecDeque<Parked> {
        &mut self.parked
    }

    pub(super) fn park(&mut self, parked: Parked) {
        self.parked.push_back(parked);
    }

    /// Up to which entry readers see all batches, if none is just being shown.
    pub(super) fn seen(&self) -> u64 {
        let first = self.waiting.iter().map(|waiting| waiting.sequence).min();
        first.map_or(self.last_sequence, |first| first.saturating_sub(1))
    }
}

fn record_bytes(change: &Change) -> u64 {
    match change {
        Change::Append { records, .. } => records.byte_len() as u64,
        _ => 0,
    }
}
