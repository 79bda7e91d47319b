//! Who does the work of a file store, and how that ends.

use std::{future::Future, sync::Arc};

use ltq_core::StoreError;
use parking_lot::Mutex;
use tokio::{runtime::Handle, task::spawn_blocking, time::sleep};

use super::{
    engine::{Caller, Engine},
    options::Simulation,
    tasks::Tasks,
    threads::Threads,
};

/// Those who work for a store.
#[derive(Debug)]
pub(super) struct Workers {
    running: Mutex<Running>,
    /// Held while the store is being closed; whether it was.
    closed: Mutex<bool>,
    simulation: Option<Simulation>,
}

#[derive(Debug)]
enum Running {
    Nobody,
    Threads(Threads),
    Tasks(Tasks),
}

impl Workers {
    /// Of a store that needs none.
    pub(super) fn none(simulation: Option<Simulation>) -> Self {
        Self { running: Mutex::new(Running::Nobody), closed: Mutex::new(false), simulation }
    }

    pub(super) fn start(engine: &Arc<Engine>) -> Result<Self, StoreError> {
        let simulation = engine.options.simulation.clone();
        let running = match &simulation {
            Some(simulation) => Running::Tasks(Tasks::start(engine, simulation)),
            None => Running::Threads(Threads::start(engine).map_err(|error| StoreError::Io {
                doing: "starting a thread".to_owned(),
                cause: error.to_string(),
            })?),
        };
        Ok(Self { running: Mutex::new(running), ..Self::none(simulation) })
    }

    /// Ends them, after what they are doing.
    pub(super) fn stop(&self, engine: &Engine) {
        match std::mem::replace(&mut *self.running.lock(), Running::Nobody) {
            Running::Nobody => (),
            Running::Threads(threads) => threads.stop(engine),
            Running::Tasks(tasks) => tasks.stop(),
        }
    }

    /// Ends them and closes the store.
    pub(super) fn close(&self, engine: &Engine) -> Result<(), StoreError> {
        let mut closed = self.closed.lock();
        self.stop(engine);
        if std::mem::replace(&mut *closed, true) {
            return Ok(());
        }
        engine.finish_closing()
    }

    /// What the calling thread may be made to wait for: where others work beside it, a sync.
    pub(super) fn caller(&self) -> Caller {
        let syncs = match &self.simulation {
            Some(simulation) => simulation.random().is_multiple_of(2),
            None => Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() > 1),
        };
        if syncs { Caller::Syncs } else { Caller::Writes }
    }

    /// Does what blocks where it harms nobody.
    pub(super) fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + 'static {
        block(self.simulation.clone(), "reading", work)
    }
}

/// Does what blocks on a thread of tokio's blocking pool; in a simulation here, after some time.
pub(super) async fn block<T: Send + 'static>(
    simulation: Option<Simulation>,
    doing: &str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    if let Some(simulation) = simulation {
        sleep(simulation.latency()).await;
        return work();
    }
    spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(StoreError::Io { doing: doing.to_owned(), cause: error.to_string() })
    })
}
