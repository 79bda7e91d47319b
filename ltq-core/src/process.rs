//! Which process a task belongs to, where several share one runtime: in simulations, which stop one of them
//! as SIGSTOP does.
//!
//! Whatever spawns a task that goes on by itself wraps it in [`inherit`]. Without the feature `processes` that
//! is the task itself, and costs nothing.

#[cfg(feature = "processes")]
mod stopping;

#[cfg(feature = "processes")]
pub use stopping::{Process, Running, inherit};

/// A task of the process that spawns it: the same future, as there is one process only.
#[cfg(not(feature = "processes"))]
#[must_use]
#[inline]
pub const fn inherit<F: Future>(future: F) -> F {
    future
}
