use std::{io, panic::resume_unwind, sync::Arc};

use super::{BadNetwork, Shape};

impl BadNetwork {
    /// Runs a test on the near host of a network, where there can be one. That host has all of `addresses` beside its
    /// own.
    ///
    /// # Panics
    /// When the test does, or the host does not get its addresses.
    pub fn on_near<F: Future<Output = io::Result<()>>>(
        addresses: &str,
        body: impl FnOnce(Arc<Self>) -> F + Send + 'static,
    ) {
        let Some(network) = Self::or_skip(Shape::default(), 1) else { return };
        network.give_near(addresses).expect("addresses for the near host");
        let network = Arc::new(network);
        let on_it = network.clone();
        let run = move || {
            // Its threads are started by this one, and so on the same host.
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(body(on_it)).expect("the node is met");
        };
        let thread = network.near().run(run).expect("a thread");
        if let Err(panic) = thread.join().map(|entered| entered.expect("the host is entered")) {
            resume_unwind(panic);
        }
    }
}
