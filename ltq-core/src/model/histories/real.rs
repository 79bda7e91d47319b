//! A store that a history is played over, in place of the one that it plays itself.

use bytes::Bytes;

use super::scenario::Failure;
use crate::{
    Bounds, Committed, Durability, LogName, LogOptions, Offset, ReadLimits, RecordBatch,
    StoreError, Timestamp, WriteBatch,
};

/// A store that is driven by hand and does what it does only when it is called, and the same again
/// for the same calls. What goes wrong with it by itself, and when its power goes, it decides by a
/// chance of its own.
pub trait RealStore {
    /// Takes in a commit, after the last one has ended. Whether it gets on with it before
    /// [`finish`](Self::finish) is its own affair.
    fn begin(&mut self, batch: WriteBatch, durability: Durability);

    /// How the commit that was begun last has ended.
    ///
    /// # Errors
    /// As [`Store::commit`](crate::Store::commit) says.
    fn finish(&mut self) -> Result<Committed, StoreError>;

    /// Reads what is committed.
    ///
    /// # Errors
    /// As [`Store::read`](crate::Store::read) says.
    fn read(
        &mut self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError>;

    /// The first message of that time or later.
    ///
    /// # Errors
    /// As [`Store::offset_at`](crate::Store::offset_at) says.
    fn offset_at(&mut self, log: &LogName, time: Timestamp) -> Result<Offset, StoreError>;

    /// Something else gets its turn: whatever the store does by itself.
    fn work(&mut self);

    /// Something of this kind goes wrong soon, or no more if it does already.
    fn trouble(&mut self, failure: Failure);

    /// Nothing goes wrong any more, from the next start on at the latest.
    fn mend(&mut self);

    /// Whether it has lost its power by itself: nothing that is said to it or by it counts any
    /// more until it is started again.
    fn has_lost_power(&self) -> bool;

    /// Whether it can only get well by losing its power, or takes no commits any more.
    fn is_unwell(&self) -> bool;

    /// Ends it and opens it again, and says what is there then.
    fn restart(&mut self, ending: Ending) -> Found;
}

/// How a store ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is closed.
    Closed,
    /// Its process is killed.
    Killed,
    /// Its machine loses power.
    PowerLost,
}

/// What is in a store after it was opened.
#[derive(Clone, Debug)]
pub struct Found {
    /// All commits that reached this are to be there: [`Durability::Memory`] after an orderly end.
    pub level: Durability,
    /// Its one log.
    pub log: Option<(LogOptions, Bounds)>,
    /// All records in that, in order.
    pub batches: Vec<RecordBatch>,
    /// All values, ordered by key.
    pub values: Vec<(Bytes, Bytes)>,
}
