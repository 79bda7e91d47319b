//! The two threads of a file store: one writes and syncs, one keeps house.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ltq_core::StoreError;
use parking_lot::Mutex;

use super::{engine::Engine, rewrite::Rewrote};

/// The threads of a store.
#[derive(Debug)]
pub(super) struct Threads {
    stopping: Arc<AtomicBool>,
    running: Mutex<Vec<JoinHandle<()>>>,
    /// Held while the store is being closed; whether it was.
    closed: Mutex<bool>,
}

impl Threads {
    /// Of a store that needs none.
    pub(super) fn none() -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        Self { stopping, running: Mutex::default(), closed: Mutex::new(false) }
    }

    pub(super) fn start(engine: &Arc<Engine>) -> io::Result<Self> {
        let threads = Self::none();
        let start = |name: &str, run: fn(&Engine, &AtomicBool)| {
            let (engine, stopping) = (Arc::clone(engine), Arc::clone(&threads.stopping));
            let named = thread::Builder::new().name(name.to_owned());
            let thread = named.spawn(move || run(&engine, &stopping))?;
            threads.running.lock().push(thread);
            Ok(())
        };
        let started = start("ltq-commit", commit).and_then(|()| start("ltq-keep", keep));
        if let Err(error) = started {
            threads.stop(engine);
            return Err(error);
        }
        Ok(threads)
    }

    /// Ends the threads, after what they are doing.
    pub(super) fn stop(&self, engine: &Engine) {
        self.stopping.store(true, SeqCst);
        let running = std::mem::take(&mut *self.running.lock());
        for thread in running {
            engine.commit_signal.raise();
            engine.keep_signal.raise();
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
        engine.finish_closing()
    }
}

/// Writes and syncs whenever somebody waits for it, and in time when nobody does.
fn commit(engine: &Engine, stopping: &AtomicBool) {
    engine.commit_signal.bind();
    let mut sync_at = None;
    while !stopping.load(SeqCst) {
        let timeout = if engine.failure().is_none() && engine.is_unsynced() {
            let interval = engine.options.os_sync_interval;
            let at = *sync_at.get_or_insert_with(|| Instant::now() + interval);
            engine.timed.store(true, SeqCst);
            Some(at.saturating_duration_since(Instant::now()))
        } else {
            sync_at = None;
            // Whoever writes something after this raises the signal; so look once more.
            if engine.timed.swap(false, SeqCst) {
                continue;
            }
            None
        };
        engine.commit_signal.wait(timeout);
        if stopping.load(SeqCst) {
            break;
        }
        let due = sync_at.is_some_and(|at| at <= Instant::now());
        // A failure is told to whoever waits.
        let _ = engine.commit_step(due);
    }
}

/// Keeps house whenever there is something to be done.
fn keep(engine: &Engine, stopping: &AtomicBool) {
    engine.keep_signal.bind();
    let mut rest_until = None;
    while !stopping.load(SeqCst) {
        // A failure is told to whoever waits.
        let _ = engine.keep_step();
        let began = Instant::now();
        if rest_until.is_none_or(|until| until <= began) {
            let rewrote = engine.rewrite_step();
            let now = Instant::now();
            rest_until = match rewrote {
                Ok(Rewrote::More) => Some(now + (now - began) * REST),
                Ok(Rewrote::NoRoom) => Some(now + ROOM_AGAIN),
                Ok(Rewrote::Nothing) | Err(_) => None,
            };
        }
        let rest = rest_until.map(|until| until.saturating_duration_since(Instant::now()));
        engine.keep_signal.wait(rest);
    }
}

/// How many times as long as a step of writing segments anew took it rests: commits have the disk
/// for themselves for three quarters of the time.
const REST: u32 = 3;
/// When there was no room for that it looks again, as nobody tells that there is.
const ROOM_AGAIN: Duration = Duration::from_secs(5);
