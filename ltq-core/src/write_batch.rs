//! What a store is asked to change, all of it or nothing: [`WriteBatch`].

use bytes::Bytes;

#[cfg(doc)]
use crate::Store;
use crate::{
    KEY_BYTES_MAX, LOG_NAME_BYTES_MAX, LogName, LogOptions, Offset, Records, StoreError, Timestamp,
    VALUE_BYTES_MAX,
};

/// One change of a [`WriteBatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOp {
    /// Makes a log, empty, its next offset `first`. Refused when there is one of that name.
    CreateLog {
        /// Its name.
        log: LogName,
        /// How it is kept.
        options: LogOptions,
        /// The offset that its first record will have.
        first: Offset,
    },
    /// Removes a log and all its records. Refused when there is none of that name.
    DeleteLog {
        /// Its name.
        log: LogName,
    },
    /// Adds records to the end of a log. Refused when they would take its end beyond the largest
    /// offset.
    Append {
        /// The log.
        log: LogName,
        /// Where the caller believes the log to end; refused when it ends elsewhere.
        at: Offset,
        /// The records' time. It may be earlier than that of the records before.
        time: Timestamp,
        /// The records; never empty.
        records: Records,
    },
    /// Gives up every record before an offset. Going back, or nowhere, changes nothing; going
    /// beyond the end is refused. The store may keep the space for some time, but never again
    /// returns those records, after a reopening neither once the truncation was durable.
    Truncate {
        /// The log.
        log: LogName,
        /// The new first offset.
        before: Offset,
    },
    /// Gives up the records of a stretch in the middle of a log. Its bounds stay as they are, also
    /// when the stretch begins or ends there. What lies before the log's first record, or was
    /// discarded before, changes nothing; a stretch that is empty, or ends beyond the log's end, is
    /// refused. A truncation may end inside a discarded stretch. The store may keep the space for
    /// some time, but never again returns those records, after a reopening neither once the
    /// discard was durable. Like a truncation it leaves no more in use than there was before.
    Discard {
        /// The log.
        log: LogName,
        /// The first offset that is given up.
        from: Offset,
        /// The first offset behind `from` that is kept.
        until: Offset,
    },
    /// Sets a value, whether or not there was one.
    Put {
        /// Its key: 1 to [`KEY_BYTES_MAX`] bytes.
        key: Bytes,
        /// The value: up to [`VALUE_BYTES_MAX`] bytes.
        value: Bytes,
    },
    /// Removes a value, whether or not there was one.
    Delete {
        /// Its key: 1 to [`KEY_BYTES_MAX`] bytes.
        key: Bytes,
    },
}

/// Changes that happen together or not at all, in this order: each is judged by what the ones
/// before it leave, so that a batch may make a log and append to it, or replace one by another of
/// the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    ops: Vec<WriteOp>,
}

impl WriteBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds any change.
    pub fn push(&mut self, op: WriteOp) -> &mut Self {
        self.ops.push(op);
        self
    }

    /// Adds a [`WriteOp::CreateLog`] that starts at offset 0.
    pub fn create_log(&mut self, log: LogName, options: LogOptions) -> &mut Self {
        self.push(WriteOp::CreateLog { log, options, first: Offset::ZERO })
    }

    /// Adds a [`WriteOp::DeleteLog`].
    pub fn delete_log(&mut self, log: LogName) -> &mut Self {
        self.push(WriteOp::DeleteLog { log })
    }

    /// Adds a [`WriteOp::Append`].
    pub fn append(
        &mut self,
        log: LogName,
        at: Offset,
        time: Timestamp,
        records: Records,
    ) -> &mut Self {
        self.push(WriteOp::Append { log, at, time, records })
    }

    /// Adds a [`WriteOp::Truncate`].
    pub fn truncate(&mut self, log: LogName, before: Offset) -> &mut Self {
        self.push(WriteOp::Truncate { log, before })
    }

    /// Adds a [`WriteOp::Discard`] of the records from `from` (inclusive) to `until` (exclusive).
    pub fn discard(&mut self, log: LogName, from: Offset, until: Offset) -> &mut Self {
        self.push(WriteOp::Discard { log, from, until })
    }

    /// Adds a [`WriteOp::Put`].
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> &mut Self {
        self.push(WriteOp::Put { key: key.into(), value: value.into() })
    }

    /// Adds a [`WriteOp::Delete`].
    pub fn delete(&mut self, key: impl Into<Bytes>) -> &mut Self {
        self.push(WriteOp::Delete { key: key.into() })
    }

    /// The changes in order.
    #[must_use]
    pub fn ops(&self) -> &[WriteOp] {
        &self.ops
    }

    /// The changes, taken out.
    #[must_use]
    pub fn into_ops(self) -> Vec<WriteOp> {
        self.ops
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Checks the rules that hold whatever the state of a store: names, keys, sizes, and that no
    /// append or discard is empty. A store calls it first.
    ///
    /// # Errors
    /// [`StoreError::Invalid`], with the value and the limit at fault.
    pub fn check(&self) -> Result<(), StoreError> {
        for op in &self.ops {
            match op {
                WriteOp::CreateLog { log, .. }
                | WriteOp::DeleteLog { log }
                | WriteOp::Truncate { log, .. } => check_name(log)?,
                WriteOp::Append { log, records, .. } => {
                    check_name(log)?;
                    if records.is_empty() {
                        return Err(StoreError::Invalid(format!("an append to {log} is empty")));
                    }
                }
                WriteOp::Discard { log, from, until } => {
                    check_name(log)?;
                    if from >= until {
                        return Err(StoreError::Invalid(format!(
                            "a discard of {log} from {from} to {until} is empty"
                        )));
                    }
                }
                WriteOp::Put { key, value } => {
                    check_key(key)?;
                    if value.len() > VALUE_BYTES_MAX {
                        return Err(StoreError::Invalid(format!(
                            "a value has {} bytes, and at most {VALUE_BYTES_MAX} are allowed",
                            value.len()
                        )));
                    }
                }
                WriteOp::Delete { key } => check_key(key)?,
            }
        }
        Ok(())
    }
}

impl FromIterator<WriteOp> for WriteBatch {
    fn from_iter<I: IntoIterator<Item = WriteOp>>(ops: I) -> Self {
        Self { ops: ops.into_iter().collect() }
    }
}

fn check_name(log: &LogName) -> Result<(), StoreError> {
    match log.as_str().len() {
        1..=LOG_NAME_BYTES_MAX => Ok(()),
        bytes => Err(StoreError::Invalid(format!(
            "a log's name has {bytes} bytes, and 1 to {LOG_NAME_BYTES_MAX} are allowed"
        ))),
    }
}

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(()),
        bytes => Err(StoreError::Invalid(format!(
            "a key has {bytes} bytes, and 1 to {KEY_BYTES_MAX} are allowed"
        ))),
    }
}
