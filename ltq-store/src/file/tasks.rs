//! The same two as tasks of the runtime that opened the store: for a simulated disk, where the order
//! of all that happens is to be the same again for the same seed.

use std::sync::Arc;

use tokio::{task::JoinHandle, time::sleep};

use super::{
    engine::Engine,
    options::Simulation,
    rounds::{Committing, Keeping},
};

/// The tasks of a store.
#[derive(Debug)]
pub(super) struct Tasks([JoinHandle<()>; 2]);

impl Tasks {
    pub(super) fn start(engine: &Arc<Engine>, simulation: &Simulation) -> Self {
        let commit = tokio::spawn(commit(Arc::clone(engine), simulation.clone()));
        let keep = tokio::spawn(keep(Arc::clone(engine), simulation.clone()));
        Self([commit, keep])
    }

    /// Ends the tasks. What they were doing is done: no step of theirs waits for anything.
    pub(super) fn stop(self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn commit(engine: Arc<Engine>, simulation: Simulation) {
    let mut committing = Committing::default();
    loop {
        engine.commit_signal.raised(committing.until(&engine)).await;
        sleep(simulation.latency()).await;
        committing.step(&engine);
    }
}

async fn keep(engine: Arc<Engine>, simulation: Simulation) {
    let mut keeping = Keeping::default();
    loop {
        sleep(simulation.latency()).await;
        let until = keeping.step(&engine);
        engine.keep_signal.raised(until).await;
    }
}
