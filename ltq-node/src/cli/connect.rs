//! Getting to the node.

use std::time::Duration;

use ltq_client::{Client, ClientBuilder};

use super::{CliError, args::ServerArgs};

/// A client of the node, not connected yet.
pub(crate) fn builder(args: &ServerArgs) -> Result<ClientBuilder, CliError> {
    let mut builder = Client::builder()
        .server(&args.server)
        .name(concat!("ltq/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(args.timeout.min(ATTEMPT_MAX))
        .request_timeout(args.timeout);
    if let Some(token) = &args.token {
        builder = builder.token(&token.0);
    }
    #[cfg(any(feature = "tls", feature = "quic"))]
    if let Some(transports) = args.tls.transports(&args.server)? {
        builder = builder.transports(transports);
    }
    Ok(builder)
}

/// A client that is connected.
pub(crate) async fn connect(args: &ServerArgs) -> Result<Client, CliError> {
    Ok(builder(args)?.connect().await?)
}

/// An attempt to connect takes so long at most. One whose packets go nowhere, as from an address that
/// was just lost, is made again sooner than all the time that the command has is over.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
