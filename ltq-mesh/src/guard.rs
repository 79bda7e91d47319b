//! Tasks of others' code: a transport, a discovery scheme. A panic of theirs ends nothing for good.

use std::{any::Any, panic::AssertUnwindSafe};

use futures::FutureExt as _;

/// Runs it, and says with what words it panicked if it did.
pub(crate) async fn guarded<T>(task: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(task).catch_unwind().await.map_err(|panic| words(&*panic))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without words".to_owned())
}
