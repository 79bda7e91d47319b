//! What a case finds on its way.

use std::{fmt::Display, future::poll_fn, pin::pin, task::Poll};

/// Why a case stopped before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The promise was not kept: why.
    Failed(String),
    /// It does not apply to what is tried: why.
    Skipped(String),
}

/// How a case, or a step of it, ended.
pub type CaseResult<T = ()> = Result<T, Stop>;

/// The promise was not kept.
///
/// # Errors
/// Always.
pub fn fail<T>(why: impl Into<String>) -> CaseResult<T> {
    Err(Stop::Failed(why.into()))
}

/// The case does not apply to what is tried.
///
/// # Errors
/// Always.
pub fn skip<T>(why: impl Into<String>) -> CaseResult<T> {
    Err(Stop::Skipped(why.into()))
}

/// Fails the case unless the condition holds.
///
/// # Errors
/// It does not.
pub fn ensure(condition: bool, why: impl FnOnce() -> String) -> CaseResult {
    if condition { Ok(()) } else { fail(why()) }
}

/// Fails the case on an error of what should have worked.
///
/// # Errors
/// It did not.
pub fn worked<T, E: Display>(what: &str, result: Result<T, E>) -> CaseResult<T> {
    result.or_else(|error| fail(format!("{what} failed: {error}")))
}

/// Polls once and gives up.
pub async fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    let mut future = pin!(future);
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
