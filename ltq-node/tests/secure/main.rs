//! TLS and QUIC as people use them: `ltq-node` and `ltq` as processes, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these are tests; their helpers stand outside of the test functions"
)]

mod certificates;
mod everything;
mod in_between;
mod mutual;
mod node;
mod replaced;
