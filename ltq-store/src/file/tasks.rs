//! The same two as tasks of the runtime that opened the store: for a simulated disk, where the order
//! of all that happens is to be the same again for the same seed.

use std::sync::Arc;

use ltq_core::process::inherit;
use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    engine::Engine,
    options::Simulation,
    rounds::{Committing, Keeping},
};

/// The tasks of a store.
#[derive(Debug)]
pub(super) struct Tasks([Task; 2]);

#[derive(Debug)]
struct Task {
    running: JoinHandle<()>,
    /// Held during a step; whether there is to be none any more.
    stopped: Arc<Mutex<bool>>,
}

impl Tasks {
    pub(super) fn start(engine: &Arc<Engine>, simulation: &Simulation) -> Self {
        let task = |run: fn(Work) -> JoinHandle<()>| {
            let (engine, simulation) = (Arc::clone(engine), simulation.clone());
            let stopped = Arc::new(Mutex::new(false));
            let running = run(Work { engine, simulation, stopped: Arc::clone(&stopped) });
            Task { running, stopped }
        };
        let commit = task(|work| tokio::spawn(inherit(commit(work))));
        let keep = task(|work| tokio::spawn(inherit(keep(work))));
        Self([commit, keep])
    }

    /// Ends the tasks, after what they are doing.
    pub(super) fn stop(self) {
        for Task { running, stopped } in self.0 {
            // A task that another thread runs notices only when its step is over.
            *stopped.lock() = true;
            running.abort();
        }
    }
}

/// What a task works with.
struct Work {
    engine: Arc<Engine>,
    simulation: Simulation,
    stopped: Arc<Mutex<bool>>,
}

impl Work {
    /// Waits as long as the disk takes, and does a step. `None` when there is to be none any more.
    async fn step<T>(&self, step: impl FnOnce(&Engine) -> T) -> Option<T> {
        sleep(self.simulation.latency()).await;
        let stopped = self.stopped.lock();
        if *stopped { None } else { Some(step(&self.engine)) }
    }
}

async fn commit(work: Work) {
    let (mut committing, engine) = (Committing::default(), &work.engine);
    loop {
        engine.commit_signal.raised(committing.until(engine)).await;
        if work.step(|engine| committing.step(engine)).await.is_none() {
            return;
        }
    }
}

async fn keep(work: Work) {
    let mut keeping = Keeping::default();
    while let Some(until) = work.step(|engine| keeping.step(engine)).await {
        work.engine.keep_signal.raised(until).await;
    }
}
