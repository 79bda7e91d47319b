//! What the store does: the one that a history plays, or a real one that it is compared with.

use std::rc::Rc;

use super::{
    history::{History, unreadable},
    oracle::Oracle,
    real::{Ending, Found},
    saved::Saved,
    scenario::Failure,
};
use crate::{
    Committed, Durability, Offset, RecordBatch, StoreError, Timestamp, WriteBatch, WriteOp,
    model::{
        Command, Event,
        testing::{Contents, failed, full},
    },
};

impl History {
    /// The store is told to commit this.
    pub(super) fn begin_commit(&mut self, batch: WriteBatch, durability: Durability) {
        assert!(self.world.commit.is_none(), "one commit at a time");
        if let Some(store) = &mut self.store {
            store.begin(batch.clone(), durability);
        }
        self.world.commit = Some((batch, durability));
    }

    /// The commit under way ends, well unless a real store has it otherwise.
    pub(super) fn commit_one(&mut self) {
        let (batch, asked) = self.world.commit.as_ref().expect("a commit");
        let changes_log = batch.ops().iter().any(|op| {
            matches!(
                op,
                WriteOp::Append { .. } | WriteOp::Truncate { .. } | WriteOp::Discard { .. }
            )
        });
        let reach = match self.is_volatile() && changes_log {
            true => Durability::Memory,
            false => self.world.reach,
        };
        let asked = *asked;
        let result = match &mut self.store {
            Some(store) => store.finish(),
            None => Ok(Committed { durability: asked.min(reach) }),
        };
        match result {
            Ok(committed) => {
                let (batch, _) = self.world.commit.take().expect("a commit");
                self.world.stored.apply(&batch);
                self.oracle.committed(committed.durability);
                self.inform(Event::Committed { result: Ok(committed) });
            }
            Err(error) => self.not_committed(error),
        }
    }

    /// Whether the messages need not last.
    pub(super) fn is_volatile(&self) -> bool {
        self.settings.durability == Durability::Memory
    }

    /// What is there of that after a crash: the end of a log that need not last may be lost.
    pub(super) fn crashed(&self, saved: Rc<Saved>, level: Durability, keeps: usize) -> Rc<Saved> {
        if !self.is_volatile() || level == Durability::Memory || saved.contents.log.is_none() {
            return saved;
        }
        let bounds = saved.contents.bounds();
        let kept = bounds.end.since(bounds.first) * keeps.min(5) as u64 / 5;
        let mut saved = Saved::clone(&saved);
        saved.contents.cut(bounds.first.plus(kept));
        saved.len = saved.contents.bounds().end.0 as usize;
        Rc::new(saved)
    }

    fn not_committed(&mut self, error: StoreError) {
        self.world.commit = None;
        // Nobody knows what became of it.
        self.oracle.not_committed(matches!(error, StoreError::Failed(_)));
        if self.store.as_ref().is_some_and(|store| store.has_lost_power()) {
            self.dark = true;
            return;
        }
        self.unsaved |= self.stopping;
        self.inform(Event::Committed { result: Err(error) });
    }

    pub(super) fn commit(&mut self) {
        if self.world.commit.is_some() {
            self.commit_one();
            self.run();
            self.publish_on();
        }
    }

    pub(super) fn commit_all(&mut self) {
        while self.world.commit.is_some() {
            self.commit();
        }
    }

    /// The commit under way fails; with a real store it may, or a later one.
    pub(super) fn fail(&mut self, failure: Failure) {
        if let Some(store) = &mut self.store {
            store.trouble(failure);
            return self.commit();
        }
        let Some((batch, _)) = &self.world.commit else { return };
        if batch.is_empty() && failure == Failure::Full {
            // It finds room anywhere.
            return;
        }
        let error = match failure {
            Failure::Full => full(),
            Failure::Device => failed(),
            Failure::Other => unreadable(),
        };
        self.not_committed(error);
        self.run();
        self.publish_on();
    }

    /// Producers go on behind what is stored.
    fn publish_on(&mut self) {
        if self.world.commit.is_none() {
            for publisher in &mut self.publishers {
                publisher.next = self.oracle.last_sequence(&publisher.prefix) + 1;
            }
        }
    }

    pub(super) fn load_one(&mut self) {
        let Command::Load { ticket, from, limits } = self.world.loads.remove(0) else { return };
        let log = self.world.topic.log_name().clone();
        let result = match &mut self.store {
            Some(_) if self.world.unreadable => Err(unreadable()),
            Some(store) => store.read(&log, from, limits),
            None => self.world.read(from, limits),
        };
        self.inform(Event::Loaded { ticket, result });
    }

    pub(super) fn locate_one(&mut self) {
        let Some((ticket, time)) = self.locates.pop_front() else { return };
        let log = self.world.topic.log_name().clone();
        let end = self.world.stored.bounds().end;
        let result = match &mut self.store {
            _ if self.world.unreadable => Err(unreadable()),
            Some(store) => store.offset_at(&log, time),
            None => Ok(self.first_of(time).map_or(end, Offset)),
        };
        self.inform(Event::Located { ticket, result });
    }

    /// The first message taken in at this time or later.
    pub(super) fn first_of(&self, time: Timestamp) -> Option<u64> {
        let stored = &self.world.stored;
        let first = stored.bounds().first;
        let batch = stored.batches.iter().find(|batch: &&RecordBatch| batch.time >= time)?;
        Some(batch.first.max(first).0)
    }

    pub(super) fn read(&mut self) {
        if !self.world.loads.is_empty() {
            self.load_one();
        }
        self.locate_one();
        self.run();
    }

    pub(super) fn read_all(&mut self) {
        while !self.world.loads.is_empty() || !self.locates.is_empty() {
            self.read();
        }
    }

    /// What is there after a real store was ended so and started again, and how sure that was.
    pub(super) fn reopen(&mut self, ending: Ending) -> Option<(Rc<Saved>, Durability)> {
        let store = self.store.as_mut()?;
        if self.world.commit.take().is_some() {
            self.oracle.not_committed(true);
        }
        let found = store.restart(ending);
        self.dark = false;
        Some((self.oracle.recovered(&found), found.level))
    }
}

impl Oracle {
    /// What was found in a store is what it held after one of the commits, none of those missing
    /// that had to come through.
    fn recovered(&mut self, found: &Found) -> Rc<Saved> {
        let owed = self.snapshots.after_crash(found.level, 0);
        let kept = self.snapshots.last_that(found.level, |saved| is_found(&saved.contents, found));
        let saved = kept.or_else(|| {
            self.was_committed(found.level);
            Some(self.snapshots.now().clone()).filter(|saved| is_found(&saved.contents, found))
        });
        let saved = saved.unwrap_or_else(|| {
            panic!("promise 1: {found:?} is what no commit made: {:?} is owed", owed.contents)
        });
        match found.log {
            Some((options, bounds)) if !options.durable => {
                let mut kept = Saved::clone(&saved);
                kept.contents.log = found.log;
                kept.contents.batches.clone_from(&found.batches);
                kept.len = bounds.end.0 as usize;
                Rc::new(kept)
            }
            _ => saved,
        }
    }
}

fn is_found(contents: &Contents, found: &Found) -> bool {
    contents.values.iter().eq(found.values.iter().map(|(key, value)| (key, value)))
        && is_found_log(contents, found)
}

fn is_found_log(contents: &Contents, found: &Found) -> bool {
    let (Some((options, bounds)), Some((other, known))) = (contents.log, found.log) else {
        return contents.log == found.log;
    };
    if options != other {
        return false;
    }
    let kept = records(&contents.batches).filter(|record| record.0 >= bounds.first.0);
    if options.durable {
        return bounds == known && kept.eq(records(&found.batches));
    }
    // Of one that need not last the end may be lost, and what was given up, be it in front or in the
    // middle, may be there again; after an orderly end it is as it was.
    let lost = known.end <= bounds.end;
    let kept: Vec<_> = kept.collect();
    let mut both = records(&found.batches).filter(|record| record.0 >= bounds.first.0);
    let given_up = |offset| !kept.iter().any(|it| it.0 == offset);
    let same = both.all(|record| given_up(record.0) || kept.contains(&record));
    match found.level {
        Durability::Memory => bounds == known && records(&found.batches).eq(kept),
        _ => lost && same,
    }
}

/// However they are parted.
fn records(batches: &[RecordBatch]) -> impl Iterator<Item = (u64, Timestamp, bytes::Bytes)> {
    batches.iter().flat_map(|batch| {
        let record = |index| batch.records.encoded(index).expect("a record");
        let one = move |index| (batch.first.0 + index as u64, batch.time, record(index));
        (0..batch.records.count()).map(one)
    })
}
