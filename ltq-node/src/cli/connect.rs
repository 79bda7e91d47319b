//! Getting to the node.

use std::time::Duration;

use ltq_client::{Client, ClientBuilder, ConnectError};
use tokio::time::Instant;

use super::{CliError, args::ServerArgs};

/// A client of no server yet.
pub(crate) fn template(args: &ServerArgs) -> ClientBuilder {
    let mut builder = Client::builder()
        .name(concat!("ltq/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(args.timeout.min(ATTEMPT_MAX))
        .request_timeout(args.timeout)
        .heartbeat(args.heartbeat.unwrap_or_default());
    if let Some(token) = &args.token {
        builder = builder.token(&token.0);
    }
    builder
}

/// A client of the node, not connected yet.
pub(crate) fn builder(args: &ServerArgs) -> Result<ClientBuilder, CliError> {
    let mut builder = template(args);
    for server in args.servers() {
        builder = builder.server(server);
    }
    #[cfg(any(feature = "tls", feature = "quic"))]
    if let Some(transports) = args.tls.transports(args.servers())? {
        builder = builder.transports(transports);
    }
    Ok(builder)
}

/// A client that is connected.
pub(crate) async fn connect(args: &ServerArgs) -> Result<Client, CliError> {
    attempts(args.timeout, async |time| Ok(builder(args)?.connect_timeout(time).connect().await?))
        .await
}

/// Attempts to connect for as long as the command may take for it, while nobody answers or who does is full for now.
/// An attempt is told how long it may take.
pub(crate) async fn attempts(
    timeout: Duration,
    attempt: impl AsyncFn(Duration) -> Result<Client, CliError>,
) -> Result<Client, CliError> {
    let begun = Instant::now();
    loop {
        let left = timeout.saturating_sub(begun.elapsed()).max(ATTEMPT_MIN);
        match attempt(left.min(timeout).min(ATTEMPT_MAX)).await {
            Err(CliError::Connect(ConnectError::TimedOut { .. })) if begun.elapsed() < timeout => {}
            // By itself it tries again for as long as an attempt may take.
            Err(CliError::Connect(error))
                if error.may_pass() && begun.elapsed() + ATTEMPT_MIN < timeout => {}
            result => return result,
        }
    }
}

/// An attempt to connect takes so long at most. One whose packets go nowhere, as from an address that
/// was just lost, is made again sooner than all the time that the command has is over.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// The last one has so long, to come to something.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use ltq_core::{Refusal, RefusalCode};

    use super::*;

    /// How many attempts there were in so much time, of `after` each.
    async fn attempts_in(timeout: Duration, after: Duration) -> (u32, Duration) {
        let (count, begun) = (Cell::new(0), Instant::now());
        let result = attempts(timeout, async |_| {
            count.set(count.get() + 1);
            tokio::time::sleep(after).await;
            let address = "tcp://192.0.2.1:1".parse().unwrap();
            Err(CliError::Connect(ConnectError::TimedOut { address, after }))
        });
        assert!(result.await.is_err());
        (count.get(), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_asked_for_as_long_as_the_command_may_take() {
        let seconds = Duration::from_secs;
        assert_eq!(attempts_in(seconds(60), seconds(5)).await, (12, seconds(60)));
        assert_eq!(attempts_in(seconds(2), seconds(2)).await, (1, seconds(2)));
        let count = Cell::new(0);
        let refused = attempts(seconds(60), async |_| {
            count.set(count.get() + 1);
            Err(CliError::Connect(ConnectError::NoServer))
        });
        assert!(refused.await.is_err());
        assert_eq!(count.get(), 1, "an answer is an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn promise_15_who_is_full_for_now_is_asked_for_as_long_as_the_command_may_take() {
        let seconds = Duration::from_secs;
        for (timeout, attempts_made) in [(seconds(12), vec![5, 5, 2]), (seconds(2), vec![2])] {
            let (times, begun) = (RefCell::new(Vec::new()), Instant::now());
            let result = attempts(timeout, async |time| {
                times.borrow_mut().push(time.as_secs());
                tokio::time::sleep(time).await;
                let address = "tcp://192.0.2.1:1".parse().unwrap();
                let refusal = Refusal::new(RefusalCode::LimitReached, "");
                Err(CliError::Connect(ConnectError::Refused { address, refusal }))
            });
            let error = result.await.unwrap_err().to_string();
            assert!(error.contains("limit_reached"), "{error}");
            assert_eq!((times.into_inner(), begun.elapsed()), (attempts_made, timeout));
        }
    }
}
