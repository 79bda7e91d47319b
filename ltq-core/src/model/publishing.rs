//! How publishes get into a commit: in sequence, once, and as durable as asked.

use super::{
    ProducerId, Reply, SequenceRange, Topic,
    commit::Outcome,
    producers::{Entry, Handle},
    wish::{Flow, Wish},
};
use crate::{Durability, Records, Refusal, RefusalCode};

/// A publish that waits for its place in a commit.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) producer: ProducerId,
    pub(super) sequence: u64,
    pub(super) durability: Option<Durability>,
    pub(super) records: Records,
}

impl Topic {
    pub(super) fn wish_publish(
        &mut self,
        producer: ProducerId,
        sequence: u64,
        durability: Option<Durability>,
        records: Records,
    ) {
        let count = records.count() as u64;
        let wish = match self.closed() {
            Some(refusal) => Wish::RefusePublish { producer, sequence, count, refusal },
            None => {
                self.wished_bytes += records.byte_len();
                Wish::Publish(Publish { producer, sequence, durability, records })
            }
        };
        self.wishes.push_back(wish);
    }

    /// Puts a publish into the commit, finds it to be a repeat, or refuses it.
    pub(super) fn take_publish(&mut self, publish: Publish) -> Flow {
        let bytes = publish.records.byte_len();
        let Publish { producer: id, sequence, .. } = publish;
        let count = publish.records.count() as u64;
        let entry = match self.producers.handle(id) {
            Handle::Open(entry) => entry,
            handle => {
                self.wished_bytes -= bytes;
                let refusal = not_open(id, handle);
                self.refuse_publish(id, sequence, count, refusal);
                return Flow::Next;
            }
        };
        match self.place(id, entry, publish) {
            Ok(None) => {}
            Ok(Some(publish)) => return Flow::Wait(Wish::Publish(publish)),
            Err(NotStored::Refused { from, refusal }) => {
                self.refuse_publish(id, from, sequence + count - from, refusal);
            }
            Err(NotStored::Impossible) => {
                let detail = format!(
                    "a publish of {count} messages cannot have sequence {sequence}; sequences \
                     count from 1 and end at {}",
                    u64::MAX
                );
                let refusal = Refusal::new(RefusalCode::OutOfRange, detail);
                self.refuse_publish(id, sequence, count, refusal);
            }
            Err(NotStored::Gap { last }) => {
                self.figures.refused += count;
                self.outcome(id, entry, Outcome::Gap { sequence, count, last });
            }
        }
        self.wished_bytes -= bytes;
        Flow::Next
    }

    fn place(
        &mut self,
        id: ProducerId,
        entry: Entry,
        publish: Publish,
    ) -> Result<Option<Publish>, NotStored> {
        let Publish { sequence, durability, ref records, .. } = publish;
        let count = records.count() as u64;
        let end = sequence.checked_add(count).filter(|&end| sequence > 0 && end > sequence);
        let end = end.ok_or(NotStored::Impossible)?;
        let Some(producer) = self.producers.get(entry) else {
            return Err(NotStored::Gap { last: 0 });
        };
        let (committed, accepted) = (producer.committed, producer.accepted);
        let weakest = producer.durability;
        let asked = self
            .asked(durability)
            .map_err(|refusal| NotStored::Refused { from: sequence, refusal })?;
        if sequence > accepted.saturating_add(1) {
            return Err(NotStored::Gap { last: accepted });
        }
        let unproven = asked > self.store.reach();
        let repeats_stored = sequence <= committed;
        if (repeats_stored && (unproven || asked > weakest)) || (unproven && durability.is_some()) {
            // It must be seen first that the store reaches so far.
            return match self.store_failed() {
                Some(refusal) => {
                    let refusal = if repeats_stored { unproven_repeat(&refusal) } else { refusal };
                    Err(NotStored::Refused { from: sequence, refusal })
                }
                None => {
                    if self.commit.is_blank() {
                        self.commit.barrier = Some(asked);
                        self.commit.needs(asked);
                    }
                    Ok(Some(publish))
                }
            };
        }
        let fresh_from = sequence.max(accepted.saturating_add(1));
        let fresh = end.saturating_sub(fresh_from);
        let room = self.limits.commit_bytes_max.saturating_sub(self.commit.appends.bytes);
        if fresh > 0 && self.commit.appends.publishes > 0 && records.byte_len() > room {
            return Ok(Some(publish));
        }
        let refused = self.store_failed().filter(|_| fresh > 0);
        if fresh < count {
            let count = count - fresh;
            self.figures.duplicates += count;
            self.commit.needs(if accepted > committed { asked } else { Durability::Memory });
            if fresh > 0
                && refused.is_none()
                && let Some(producer) = self.producers.get_mut(entry)
            {
                // It is told together with what is new.
                self.commit.enlist(producer);
            }
            let before = repeats_stored;
            self.outcome(id, entry, Outcome::Duplicate { sequence, count, before });
        }
        if fresh == 0 {
            return Ok(None);
        }
        if let Some(refusal) = refused {
            return Err(NotStored::Refused { from: fresh_from, refusal });
        }
        let records = match fresh == count {
            true => publish.records,
            false => publish.records.slice((count - fresh) as usize..count as usize),
        };
        let room = self.wished_bytes.min(room);
        let commit = &mut *self.commit;
        let at = commit.appends.push(&mut commit.batch, &self.log, records, room);
        commit.needs(asked);
        if let Some(producer) = self.producers.get_mut(entry) {
            producer.accepted = end - 1;
            let range = SequenceRange { sequence: fresh_from, count: fresh, offset: Some(at) };
            commit.add_outcome(id, entry, producer, Outcome::Stored(range));
        }
        Ok(None)
    }

    /// How durable a publish is to be, as far as that can be had at all.
    fn asked(&self, durability: Option<Durability>) -> Result<Durability, Refusal> {
        let ceiling = self.store.ceiling;
        match durability {
            None => Ok(self.settings.durability.min(ceiling)),
            Some(asked) if asked <= ceiling => Ok(asked),
            Some(asked) => {
                let detail = format!(
                    "a publish to topic {} asks for {asked}, and {ceiling} is the most that there is",
                    self.name
                );
                Err(Refusal::new(RefusalCode::DurabilityUnavailable, detail))
            }
        }
    }

    /// Refuses a publish, behind the earlier ones of its producer.
    pub(super) fn refuse_publish(
        &mut self,
        id: ProducerId,
        sequence: u64,
        count: u64,
        refusal: Refusal,
    ) {
        self.figures.refused = self.figures.refused.saturating_add(count);
        match self.producers.handle(id) {
            Handle::Open(entry) => {
                self.outcome(id, entry, Outcome::Refused { sequence, count, refusal });
            }
            Handle::Fenced | Handle::Unknown => {
                self.tell_refused(id, sequence, count, refusal);
            }
        }
    }

    /// The store could not show that it reaches as far as this publish asks.
    pub(super) fn refuse_unproven(&mut self, publish: &Publish, refusal: &Refusal) {
        let Publish { producer: id, sequence, .. } = *publish;
        let repeats = match self.producers.handle(id) {
            Handle::Open(entry) => {
                self.producers.get(entry).is_some_and(|producer| sequence <= producer.committed)
            }
            Handle::Fenced | Handle::Unknown => false,
        };
        let refusal = if repeats { unproven_repeat(refusal) } else { refusal.clone() };
        self.refuse_publish(id, sequence, publish.records.count() as u64, refusal);
    }

    /// Settles what becomes of a publish: with the commit if its producer has a part in that, or
    /// else at once.
    fn outcome(&mut self, id: ProducerId, entry: Entry, outcome: Outcome) {
        let Some(producer) = self.producers.get_mut(entry) else { return };
        if self.commit.has(producer) {
            self.commit.add_outcome(id, entry, producer, outcome);
            return;
        }
        match outcome {
            Outcome::Refused { sequence, count, refusal } => {
                self.tell_refused(id, sequence, count, refusal);
            }
            Outcome::Gap { sequence, count, last } => {
                self.tell_refused(id, sequence, count, gap(last, sequence));
            }
            Outcome::Duplicate { sequence, count, .. } => {
                let mut ranges = Vec::new();
                producer.recall(sequence, count, |range| ranges.push(range));
                let durability = producer.durability.min(self.store.reach());
                let handle = id.handle;
                self.reply(id.session, Reply::Confirmed { handle, ranges, durability });
            }
            Outcome::Stored(_) => {}
        }
    }

    pub(super) fn tell_refused(
        &mut self,
        id: ProducerId,
        sequence: u64,
        count: u64,
        refusal: Refusal,
    ) {
        let handle = id.handle;
        self.reply(id.session, Reply::PublishRefused { handle, sequence, count, refusal });
    }
}

/// Why a publish, or what is new of it, is not stored.
enum NotStored {
    /// Its sequence cannot be.
    Impossible,
    /// Something is missing behind the last sequence accepted.
    Gap { last: u64 },
    /// From this sequence on, for this reason.
    Refused { from: u64, refusal: Refusal },
}

/// What is said of a publish that does not follow on the last one.
pub(super) fn gap(last: u64, got: u64) -> Refusal {
    let detail = format!("sequence {got} does not follow; {} is expected", last.saturating_add(1));
    Refusal::new(RefusalCode::SequenceGap, detail)
}

/// What is said of a repeat that is stored, when nobody can tell how durably.
fn unproven_repeat(why: &Refusal) -> Refusal {
    let detail = format!("it is stored, but it is not known how durably: {}", why.detail);
    Refusal::new(RefusalCode::OutcomeUnknown, detail)
}

fn not_open(id: ProducerId, handle: Handle) -> Refusal {
    match handle {
        Handle::Fenced => {
            let detail = format!("a newer instance has taken over from producer {}", id.handle);
            Refusal::new(RefusalCode::Fenced, detail)
        }
        Handle::Open(_) | Handle::Unknown => {
            let detail = format!("producer {} is not open", id.handle);
            Refusal::new(RefusalCode::NoSuchHandle, detail)
        }
    }
}
