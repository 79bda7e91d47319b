//! Commits that go on when nobody waits for them any more, and end with the store.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
/// `None` once it is over.
type Slot = Arc<Mutex<Option<Work>>>;

/// What is under way. The tasks that drive it do not own it, so that what it borrows of the store
/// is gone when the store is, and not some time later.
#[derive(Default)]
pub(super) struct Running {
    slots: Mutex<(u64, HashMap<u64, Slot>)>,
}

impl Running {
    /// Goes on with `work` in a task of its own. The answer never comes when it panics.
    pub(super) fn start<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (done, answer) = oneshot::channel();
        let work: Work = Box::pin(async move {
            // Whoever asked may be gone.
            let _ = done.send(work.await);
        });
        let slot = Slot::new(Mutex::new(Some(work)));
        let number = {
            let mut slots = self.slots.lock();
            slots.0 += 1;
            let number = slots.0;
            slots.1.insert(number, Arc::clone(&slot));
            number
        };
        tokio::spawn(Driver { slot, number, running: Arc::clone(self) });
        answer
    }

    /// Ends everything where it stands.
    pub(super) fn end(&self) {
        let slots = std::mem::take(&mut self.slots.lock().1);
        for slot in slots.into_values() {
            drop(slot.lock().take());
        }
    }
}

struct Driver {
    slot: Slot,
    number: u64,
    running: Arc<Running>,
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.slot.lock();
        match slot.as_mut().map(|work| work.as_mut().poll(context)) {
            Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(())) | None => {
                *slot = None;
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.running.slots.lock().1.remove(&self.number);
        // With the runtime gone, or after a panic, nobody goes on with it.
        drop(self.slot.lock().take());
    }
}
