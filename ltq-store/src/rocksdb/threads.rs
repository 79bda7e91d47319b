//! The two threads of a store: one commits, one keeps house. And how it is closed.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
};

use ltq_core::StoreError;
use parking_lot::Mutex;
use rocksdb::WriteBatch;

use super::{
    commit::Committer,
    database::{Database, Family, io_error},
    engine::Engine,
    format::key,
    state::State,
    times::Times,
};

/// The threads of a store.
#[derive(Debug)]
pub(super) struct Threads {
    running: Mutex<Vec<JoinHandle<()>>>,
    /// Held while the store is being closed; whether it was.
    closed: Mutex<bool>,
}

impl Threads {
    /// Those of a store that is only read.
    pub(super) fn none() -> Self {
        Self { running: Mutex::default(), closed: Mutex::new(false) }
    }

    pub(super) fn start(engine: &Arc<Engine>, times: Times) -> io::Result<Self> {
        let threads = Self::none();
        let committing = Arc::clone(engine);
        let commit = thread::Builder::new().name("ltq-commit".to_owned()).spawn(move || {
            committing.commit_loop(&mut Committer::new(times));
        })?;
        threads.running.lock().push(commit);
        let keeping = Arc::clone(engine);
        let keep = thread::Builder::new().name("ltq-keep".to_owned()).spawn(move || {
            keeping.keep_loop();
        });
        match keep {
            Ok(keep) => threads.running.lock().push(keep),
            Err(error) => {
                threads.stop(engine);
                return Err(error);
            }
        }
        Ok(threads)
    }

    /// Ends the threads, once what came in is through.
    pub(super) fn stop(&self, engine: &Engine) {
        engine.begin_closing();
        engine.front.lock().stopping = true;
        engine.arrived.notify_one();
        engine.keep.lock().stopping = true;
        engine.keep_due.notify_one();
        let running = std::mem::take(&mut *self.running.lock());
        for thread in running {
            if thread.join().is_err() {
                tracing::error!("a thread of the store had panicked");
            }
        }
    }

    /// Ends the threads and closes the store.
    pub(super) fn close(&self, engine: &Engine) -> Result<(), StoreError> {
        let mut closed = self.closed.lock();
        self.stop(engine);
        if std::mem::replace(&mut closed, true) {
            return Ok(());
        }
        let read_only =
            engine.database.read().as_ref().is_some_and(|database| database.is_read_only());
        let result = match engine.failure() {
            _ if read_only => Ok(()),
            Some(failure) => Err(failure),
            None => engine.settle_all(),
        };
        engine.give_up();
        result
    }
}

impl Engine {
    /// Lets no batch in any more. The ones that came in go on.
    pub(super) fn begin_closing(&self) {
        self.front.lock().stopped.get_or_insert(StoreError::Closed);
    }

    /// Makes everything durable: what the write-ahead log holds is in files then too.
    fn settle_all(&self) -> Result<(), StoreError> {
        let guard = self.database()?;
        let Some(database) = guard.as_ref() else { return Ok(()) };
        self.spare.clear();
        let mut batch = WriteBatch::default();
        loose_entries(&mut batch, database, &self.state.read())?;
        let done = if batch.is_empty() { Ok(()) } else { database.write(batch, true, true) };
        let done = done.and_then(|()| database.sync());
        done.map_err(|error| io_error("making everything durable", &error))?;
        for family in Family::ALL {
            let flushed = database.raw().flush_cf(database.family(family)?);
            flushed.map_err(|error| io_error("writing what is in memory to files", &error))?;
        }
        Ok(())
    }

    /// Gives up memory, files and the lock.
    pub(super) fn give_up(&self) {
        self.closed.store(true, Relaxed);
        self.spare.clear();
        // Waits for whoever reads.
        drop(self.database.write().take());
        *self.state.write() = State::new(0);
    }
}

/// What is not told as it happens of logs that are not durable.
fn loose_entries(
    batch: &mut WriteBatch,
    database: &Database,
    state: &State,
) -> Result<(), StoreError> {
    let (logs, discards) = (database.family(Family::Logs)?, database.family(Family::Discards)?);
    for (name, log) in state.logs.iter().filter(|(_, log)| !log.options.durable) {
        batch.put_cf(logs, name.as_str(), log.entry().encode());
        batch.delete_range_cf(discards, key(log.id, 0), key(log.id.saturating_add(1), 0));
        for stretch in log.discarded.iter() {
            let until = stretch.end.0.to_le_bytes();
            batch.put_cf(discards, key(log.id, stretch.start.0), until);
        }
    }
    Ok(())
}
