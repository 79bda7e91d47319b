//! A commit: what goes into it, and what is owed to whom when it ends.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::LazyLock,
};

use super::{
    ConsumerId, ProducerId, RequestId, SequenceRange,
    channels::Index,
    marks::Marks,
    producers::{Entry, Producer},
    run_set::Run,
};
use crate::{
    ChannelName, Durability, LogName, Offset, RecordBatch, Records, RecordsBuilder, Refusal,
    Retention, Timestamp, WriteBatch,
};

/// The commit that is being put together or under way. There is one at a time, so its lists are
/// used over and over.
#[derive(Debug, Default)]
pub(super) struct Commit {
    /// It was handed out and has not been answered.
    pub(super) outstanding: bool,
    /// The number of this one.
    pub(super) number: u64,
    /// How durable it has to be.
    pub(super) asked: Durability,
    /// It has to show that the store reaches so far, for everything stored before.
    pub(super) barrier: Option<Durability>,
    /// It makes the topic.
    pub(super) creates: bool,
    /// It removes the topic.
    pub(super) deletes: bool,
    pub(super) batch: WriteBatch,
    pub(super) appends: Appends,
    /// What happens when it ends, in this order.
    pub(super) effects: Vec<Effect>,
    pub(super) groups: Vec<Group>,
    outcomes: Vec<Link>,
    /// Channels that it makes, and where they start.
    pub(super) creating: BTreeMap<ChannelName, Offset>,
    /// Channels that it removes.
    pub(super) dropping: Vec<ChannelName>,
    /// Channels whose state it stores.
    pub(super) states: Vec<Index>,
    /// Where the log begins when it has succeeded.
    pub(super) truncate: Option<Offset>,
    /// What it discards in the middle of the log.
    pub(super) discards: Vec<Run>,
    /// The marks with those that it makes.
    pub(super) marks: Option<Box<Marks>>,
    /// Named producers that it stores.
    pub(super) puts: Vec<Entry>,
    /// Producers of it that were closed since, and as whose.
    pub(super) closing: Vec<(ProducerId, Entry)>,
    /// How many of the forgotten names it deletes.
    pub(super) forgets: usize,
}

/// The topic's commit, or the promise of one: a topic at rest has no room for it.
#[derive(Debug, Default)]
pub(super) struct CommitSlot {
    commit: Option<Box<Commit>>,
    /// The number of the last one.
    number: u64,
}

impl CommitSlot {
    /// Gives back the room, unless a commit is under way.
    pub(super) fn relax(&mut self) {
        if let Some(commit) = self.commit.take_if(|commit| !commit.outstanding) {
            self.number = commit.number;
        }
    }
}

impl Deref for CommitSlot {
    type Target = Commit;
    fn deref(&self) -> &Commit {
        static NONE: LazyLock<Commit> =
            LazyLock::new(|| Commit { number: u64::MAX, ..Commit::default() });
        self.commit.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for CommitSlot {
    fn deref_mut(&mut self) -> &mut Commit {
        let number = self.number;
        let commit = || Box::new(Commit { number, ..Commit::default() });
        self.commit.get_or_insert_with(commit)
    }
}

/// What happens when a commit ends.
#[derive(Debug)]
pub(super) enum Effect {
    /// A producer learns what became of its publishes.
    Publishes(usize),
    /// A session learns that its producer is open, behind the sequence `last`.
    Opened { id: ProducerId, entry: Entry, how: Opening, last: u64 },
    /// A channel comes to be.
    Created { channel: ChannelName, start: Offset },
    /// A consumer that waited for its channel joins it.
    Joined { consumer: ConsumerId, serial: u64, channel: ChannelName },
    /// A channel goes.
    Dropped { channel: ChannelName, request: RequestId },
    /// A channel was paused or resumed, and how it was before.
    ChannelPaused { channel: Index, before: bool, request: RequestId },
    /// The topic was paused or resumed, and how it was before.
    TopicPaused { before: bool, request: RequestId },
    /// The topic keeps something else from now on.
    Altered { retention: Retention, request: RequestId },
    /// A request is done.
    Done { request: RequestId },
    /// The topic goes.
    Deleted { request: Option<RequestId> },
}

/// How a producer was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// It was not known before.
    New,
    /// Its name was known and not in use.
    Again,
    /// The same instance came back.
    Resumed,
    /// A new instance takes over from one that is open.
    TakesOver,
}

/// The outcomes of one producer, in the order of its publishes.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: ProducerId,
    pub(super) entry: Entry,
    first: Option<usize>,
    last: Option<usize>,
    /// The last range that it stores.
    pub(super) stored: Option<SequenceRange>,
}

#[derive(Debug)]
struct Link {
    outcome: Outcome,
    next: Option<usize>,
}

/// What becomes of a publish, or of a part of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is stored by this commit.
    Stored(SequenceRange),
    /// It is a repeat: of messages that were stored before this commit, or of some that it stores.
    Duplicate { sequence: u64, count: u64, before: bool },
    /// It does not follow on `last`, the last sequence accepted before it.
    Gap { sequence: u64, count: u64, last: u64 },
    /// It is refused whatever becomes of the commit.
    Refused { sequence: u64, count: u64, refusal: Refusal },
}

impl Commit {
    /// Starts the next one, the log ending at `end`.
    pub(super) fn begin(&mut self, end: Offset, time: Timestamp) {
        self.number += 1;
        self.asked = Durability::Memory;
        self.appends = Appends { end, written: end, time, ..Appends::default() };
    }

    /// Clears away the last one.
    pub(super) fn finish(&mut self) {
        self.outstanding = false;
        self.barrier = None;
        self.creates = false;
        self.deletes = false;
        self.batch = WriteBatch::new();
        self.appends = Appends::default();
        self.effects.clear();
        self.groups.clear();
        self.outcomes.clear();
        self.creating.clear();
        self.dropping.clear();
        self.states.clear();
        self.truncate = None;
        self.discards.clear();
        self.marks = None;
        self.puts.clear();
        self.closing.clear();
        self.forgets = 0;
    }

    /// Whether nobody waits for it and nothing is in it but, maybe, the making of the topic.
    pub(super) fn is_blank(&self) -> bool {
        self.effects.is_empty() && self.puts.is_empty() && self.states.is_empty()
    }

    pub(super) fn needs(&mut self, durability: Durability) {
        self.asked = self.asked.max(durability);
    }

    /// Makes a producer part of this commit.
    pub(super) const fn enlist(&self, producer: &mut Producer) {
        if producer.commit != self.number {
            producer.commit = self.number;
            producer.group = None;
        }
    }

    /// Whether a producer is part of this commit.
    pub(super) const fn has(&self, producer: &Producer) -> bool {
        producer.commit == self.number
    }

    /// Adds an outcome for a producer, behind its earlier ones.
    pub(super) fn add_outcome(
        &mut self,
        id: ProducerId,
        entry: Entry,
        producer: &mut Producer,
        outcome: Outcome,
    ) {
        self.enlist(producer);
        // Another session may have come back as the same producer since its last outcome.
        let known = |number: &usize| self.groups.get(*number).is_some_and(|group| group.id == id);
        let number = producer.group.filter(known).unwrap_or_else(|| {
            self.groups.push(Group { id, entry, first: None, last: None, stored: None });
            self.effects.push(Effect::Publishes(self.groups.len() - 1));
            self.groups.len() - 1
        });
        producer.group = Some(number);
        let Some(group) = self.groups.get_mut(number) else { return };
        let last = group.last.and_then(|last| self.outcomes.get_mut(last));
        if let Outcome::Stored(range) = &outcome {
            if let Some(Link { outcome: Outcome::Stored(before), .. }) = last
                && before.offset.map(|offset| offset.plus(before.count)) == range.offset
            {
                before.count += range.count;
                group.stored = Some(*before);
                return;
            }
            group.stored = Some(*range);
        }
        let place = self.outcomes.len();
        match group.last.replace(place).and_then(|last| self.outcomes.get_mut(last)) {
            Some(last) => last.next = Some(place),
            None => group.first = Some(place),
        }
        self.outcomes.push(Link { outcome, next: None });
    }

    /// The outcomes of a group, in order.
    pub(super) fn outcomes(&self, group: &Group) -> impl Iterator<Item = &Outcome> + '_ {
        let mut at = group.first;
        std::iter::from_fn(move || {
            let link = self.outcomes.get(at?)?;
            at = link.next;
            Some(&link.outcome)
        })
    }
}

/// The records of a commit on their way into its batch.
#[derive(Debug, Default)]
pub(super) struct Appends {
    /// Where the log ends with everything taken in so far.
    pub(super) end: Offset,
    /// Where it ends with what is in the batch.
    written: Offset,
    time: Timestamp,
    /// One small publish that has had no company yet.
    single: Option<Records>,
    small: RecordsBuilder,
    pub(super) bytes: usize,
    pub(super) publishes: usize,
    /// What is in the batch.
    pub(super) written_batches: Vec<RecordBatch>,
}

impl Appends {
    /// Takes in records and says where they go. `room` is about how many bytes are to come.
    pub(super) fn push(
        &mut self,
        batch: &mut WriteBatch,
        log: &LogName,
        records: Records,
        room: usize,
    ) -> Offset {
        let at = self.end;
        let bytes = records.byte_len();
        self.end = at.plus(records.count() as u64);
        self.bytes += bytes;
        self.publishes += 1;
        if bytes >= COPIED_BELOW {
            self.flush(batch, log);
            self.write(batch, log, records);
        } else if let Some(first) = self.single.take() {
            let bytes = first.byte_len() + bytes + room;
            self.small = RecordsBuilder::with_capacity(bytes / RECORD_BYTES_GUESS, bytes);
            self.small.extend(&first);
            self.small.extend(&records);
        } else if self.small.count() > 0 {
            self.small.extend(&records);
        } else {
            self.single = Some(records);
        }
        at
    }

    /// Puts what was collected into the batch.
    pub(super) fn flush(&mut self, batch: &mut WriteBatch, log: &LogName) {
        if let Some(records) = self.single.take() {
            self.write(batch, log, records);
        } else if self.small.count() > 0 {
            let records = self.small.finish();
            self.small = RecordsBuilder::new();
            self.write(batch, log, records);
        }
    }

    fn write(&mut self, batch: &mut WriteBatch, log: &LogName, records: Records) {
        let first = self.written;
        self.written = first.plus(records.count() as u64);
        self.written_batches.push(RecordBatch { first, time: self.time, records: records.clone() });
        batch.append(log.clone(), first, self.time, records);
    }
}

/// Publishes smaller than this are copied together, so that a commit of many small ones is one
/// stretch of memory, one entry in the log and one delivery; copying 16 KiB takes about as long as
/// the bookkeeping of one more entry. Larger ones stay the bytes that came from the socket.
const COPIED_BELOW: usize = 16 << 10;
/// For the first size of the table; it grows if this was wrong.
const RECORD_BYTES_GUESS: usize = 64;
