//! Calling a peer.

use std::sync::atomic::{AtomicBool, Ordering};

use ltq_core::{Address, Transport as _};
use tokio::time::timeout;

use crate::{
    DownCause, MeshName,
    rules::{Call, Objection},
    shared::Shared,
    wire::{Farewell, Link, LinkError, MAGIC, PROTOCOL, Say},
};

/// Why nothing came of a call.
pub(crate) enum NotJoined {
    /// There is a call or connection the other way, which counts.
    Yielded,
    Failed(DownCause),
}

impl From<LinkError> for NotJoined {
    fn from(error: LinkError) -> Self {
        Self::Failed(match error {
            LinkError::Wire(error) => DownCause::Protocol(error.to_string()),
            error => DownCause::Lost(error.to_string()),
        })
    }
}

/// Calls a peer at an address. Says by `said_hello` when it may have been heard. Answers with the link and
/// the instance of who is there. Given up, the peer sees a connection that ends.
pub(crate) async fn dial(
    shared: &Shared,
    peer: &MeshName,
    address: &Address,
    call: Call,
    said_hello: &AtomicBool,
) -> Result<(Link, u64), NotJoined> {
    let after = shared.settings.hello_timeout;
    let calling = join(shared, peer, address, call, said_hello);
    match timeout(after, calling).await {
        Ok(joined) => joined,
        Err(_) => Err(NotJoined::Failed(DownCause::NoAnswer(after))),
    }
}

async fn join(
    shared: &Shared,
    peer: &MeshName,
    address: &Address,
    call: Call,
    said_hello: &AtomicBool,
) -> Result<(Link, u64), NotJoined> {
    let unreachable = |error: ltq_core::TransportError| {
        NotJoined::Failed(DownCause::Unreachable(error.to_string()))
    };
    let connection = shared.transports.connect(address).await.map_err(unreachable)?;
    let stream = connection.open_stream().await.map_err(unreachable)?;
    let mut link = Link::new(connection, stream);
    said_hello.store(true, Ordering::Release);
    link.mouth.say(&Say::Hello {
        magic: MAGIC,
        version: PROTOCOL,
        mesh: shared.mesh.clone(),
        from: shared.name.to_string(),
        to: peer.to_string(),
        id: call.id,
        after: call.after,
        token: shared.token.clone(),
    })?;
    while link.mouth.unsent() > 0 {
        link.mouth.send_some().await?;
    }
    match link.ear.hear().await? {
        Say::Welcome { instance } => Ok((link, instance)),
        Say::Goodbye { why, detail } => Err(refused(why, detail)),
        _ => {
            let what = "the answer to a hello is neither a welcome nor a goodbye";
            Err(NotJoined::Failed(DownCause::Protocol(what.to_owned())))
        }
    }
}

fn refused(why: Farewell, detail: String) -> NotJoined {
    NotJoined::Failed(match why {
        Farewell::Crossed | Farewell::Connected => return NotJoined::Yielded,
        Farewell::Unauthenticated => DownCause::Unauthenticated,
        Farewell::NameTaken => DownCause::NameTaken,
        Farewell::Stopping => DownCause::Stopping,
        _ => DownCause::Refused(detail),
    })
}

/// How a caller is told that it is not taken.
pub(crate) const fn farewell(objection: Objection) -> (Farewell, &'static str) {
    match objection {
        Objection::Crossed => (Farewell::Crossed, "there is a call the other way"),
        Objection::Connected => (Farewell::Connected, "there is a connection"),
        Objection::NameTaken => (Farewell::NameTaken, "another process of this name is connected"),
    }
}
