//! The two threads of a file store: one writes and syncs, one keeps house.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
};

use super::{
    engine::Engine,
    rounds::{Committing, Keeping},
};

/// The threads of a store.
#[derive(Debug)]
pub(super) struct Threads {
    stopping: Arc<AtomicBool>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn start(engine: &Arc<Engine>) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Self { stopping, running: Vec::new() };
        let mut start = |name: &str, run: fn(&Engine, &AtomicBool)| {
            let (engine, stopping) = (Arc::clone(engine), Arc::clone(&threads.stopping));
            let named = thread::Builder::new().name(name.to_owned());
            threads.running.push(named.spawn(move || run(&engine, &stopping))?);
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
    pub(super) fn stop(self, engine: &Engine) {
        self.stopping.store(true, SeqCst);
        for thread in self.running {
            engine.commit_signal.raise();
            engine.keep_signal.raise();
            if thread.join().is_err() {
                tracing::error!("a thread of the store had panicked");
            }
        }
    }
}

fn commit(engine: &Engine, stopping: &AtomicBool) {
    engine.commit_signal.bind();
    let mut committing = Committing::default();
    while !stopping.load(SeqCst) {
        engine.commit_signal.wait(committing.until(engine));
        if stopping.load(SeqCst) {
            break;
        }
        committing.step(engine);
    }
}

fn keep(engine: &Engine, stopping: &AtomicBool) {
    engine.keep_signal.bind();
    let mut keeping = Keeping::default();
    while !stopping.load(SeqCst) {
        let until = keeping.step(engine);
        engine.keep_signal.wait(until);
    }
}
