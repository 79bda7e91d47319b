//! Connecting to the first of several addresses that answers.

use std::{io, net::SocketAddr, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{net::TcpStream, time::timeout};

/// Tries the addresses in their order, the next one as soon as one fails or is slow, and takes
/// the first connection. `None` when there is no address, the last failure when all fail.
pub(super) async fn any(
    candidates: Vec<SocketAddr>,
) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    let mut candidates = candidates.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = None;
    loop {
        attempts.extend(candidates.next().map(one));
        let ended = if candidates.len() == 0 {
            attempts.next().await
        } else {
            match timeout(PATIENCE, attempts.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(connected)) => return Ok(Some(connected)),
            Some(Err(error)) => failure = Some(error),
            None => return failure.map_or(Ok(None), Err),
        }
    }
}

async fn one(candidate: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = TcpStream::connect(candidate).await?;
    // Where nobody listens on a port of the range that outgoing connections are given, a
    // connection can get that very port and meet itself.
    if stream.local_addr()? == candidate {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok((stream, candidate))
}

/// How long one address is waited for before the next is tried beside it: what is customary, and
/// longer than the way around the earth.
const PATIENCE: Duration = Duration::from_millis(250);
