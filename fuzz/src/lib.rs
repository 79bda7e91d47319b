//! What LTQ reads that others wrote, fed with bytes of any kind.
//!
//! Each target is a function of bytes that panics when something is wrong. The tests of this package
//! run them over the corpus in `corpus/`, and over changes to it made by chance; `scripts/fuzz.sh`
//! runs one of them under libFuzzer, which looks for bytes that reach code no others did.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "config")]
mod config;
mod decode;
mod hello;
mod peer;
mod serve;

use std::time::Duration;

#[cfg(feature = "config")]
pub use config::config;
pub use decode::decode;
pub use hello::hello;
pub use serve::serve;

/// A function of bytes that panics when something is wrong.
pub type Target = fn(&[u8]);

/// All targets, by their names, which their folders in `corpus/` have too.
pub const TARGETS: &[(&str, Target)] = &[
    ("decode", decode),
    ("hello", hello),
    ("serve", serve),
    #[cfg(feature = "config")]
    ("config", config),
];

/// Runs a target's asynchronous part. Time passes when nothing else happens, so that waiting for what
/// never comes fails at once.
fn run(target: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(target);
}

/// A broker comes to rest within this, of a clock that stands still while anything happens.
const STOP: Duration = Duration::from_secs(10);
