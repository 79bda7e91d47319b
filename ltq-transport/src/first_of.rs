//! Connecting to the first of several addresses that answers.

use std::{io, net::SocketAddr, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;

/// Tries the addresses in their order, the next one as soon as one fails or is slow, and takes
/// the first connection. Attempts that lose are dropped.
///
/// # Errors
/// The last failure when all fail; `NotFound` when there is no address.
pub(crate) async fn first_of<T, A>(
    candidates: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> A,
) -> io::Result<T>
where
    A: Future<Output = io::Result<T>>,
{
    let mut candidates = candidates.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = None;
    loop {
        attempts.extend(candidates.next().map(&attempt));
        let ended = if candidates.len() == 0 {
            attempts.next().await
        } else {
            match timeout(PATIENCE, attempts.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(connected)) => return Ok(connected),
            Some(Err(error)) => failure = Some(error),
            None => return Err(failure.unwrap_or_else(|| io::ErrorKind::NotFound.into())),
        }
    }
}

/// How long one address is waited for before the next is tried beside it: what is customary, and
/// longer than the way around the earth.
const PATIENCE: Duration = Duration::from_millis(250);
