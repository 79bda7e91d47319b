//! Listeners that were dropped while some of their connections were still to be told.

use std::sync::Arc;

use quinn::Endpoint;
use tokio::{runtime::Handle, sync::watch};

/// How many listeners of a transport are gone and have connections that are not.
#[derive(Debug, Default)]
pub(super) struct Leaving(watch::Sender<usize>);

impl Leaving {
    /// A listener goes. Its port is free once its connections are gone, as ever.
    pub(super) fn follow(self: &Arc<Self>, endpoint: Endpoint) {
        // Without a runtime nothing is sent any more.
        let Ok(runtime) = Handle::try_current() else { return };
        self.0.send_modify(|count| *count += 1);
        let counted = Counted(Arc::clone(self));
        runtime.spawn(async move {
            tokio::select! {
                () = endpoint.wait_idle() => {}
                // The runtime that drove it is gone, which no connection is told: nothing is sent
                // any more, and keeping it would keep the port.
                () = driven(&endpoint) => {}
            }
            drop(counted);
        });
    }

    /// Waits until there are none. Cancel safe.
    pub(super) async fn over(&self) {
        let mut count = self.0.subscribe();
        // The sender is this object's, so that it is there.
        let _none = count.wait_for(|count| *count == 0).await;
    }
}

/// Waits until nobody drives it any more.
async fn driven(endpoint: &Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        incoming.refuse();
    }
}

/// Takes itself off the count also when its runtime ends.
struct Counted(Arc<Leaving>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
