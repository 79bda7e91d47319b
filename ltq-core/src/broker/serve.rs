//! Taking connections in.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    holds::Hold,
    session::{self, SessionError},
    shared::{Phase, Shared},
    strangers::Strangers,
};
use crate::{Connection, Listener, Origin, RefusalCode, TransportError, process::inherit};

/// Accepts until the node stops or the listener is closed.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut listener: Box<dyn Listener>,
) -> Result<(), TransportError> {
    let mut phase = shared.phase.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase > Phase::Running) => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(connection) => take_in(&shared, connection),
            Err(TransportError::Closed) => return Ok(()),
            Err(error) => {
                let address = listener.local_address();
                match shared.door.may_say_not_accepted() {
                    Some(count) => warn!(%address, %error, count, "accept failed"),
                    None => debug!(%address, %error, "accept failed"),
                }
                // A shortage of descriptors lasts; without a pause this would be a hot loop.
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn take_in(shared: &Arc<Shared>, connection: Box<dyn Connection>) {
    let origin = Origin::of_peer(connection.peer());
    let max = shared.settings.connections_per_address_max;
    if !shared.door.enter(origin, max) {
        let counters = &shared.counters;
        let count = counters.connections_refused_by_address.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            let peer = &connection.peer().address;
            warn!(%peer, max, count, "refused: too many connections of one address");
        }
        return;
    }
    let max = shared.settings.connections_max;
    let mut refused = false;
    shared.connections.send_if_modified(|open| {
        refused = *open >= max;
        *open += usize::from(!refused);
        !refused
    });
    if refused {
        shared.door.leave(origin);
        let count = shared.counters.connections_refused.fetch_add(1, Ordering::Relaxed) + 1;
        // An operator has to know of it; a flood of connections is no reason for one of lines.
        if count.is_power_of_two() {
            warn!(peer = %connection.peer().address, max, count, "refused: too many connections");
        }
        return;
    }
    shared.counters.connections_accepted.fetch_add(1, Ordering::Relaxed);
    let open = OpenConnection(shared.clone(), origin);
    tokio::spawn(inherit(async move {
        if connection.multiplexed() {
            serve_streams(&open.0, connection).await;
        } else {
            serve_stream(&open.0, &*connection).await;
        }
    }));
}

/// A connection of one stream.
async fn serve_stream(shared: &Arc<Shared>, connection: &dyn Connection) {
    let stream = tokio::select! {
        biased;
        () = shared.closing() => return,
        stream = timeout(shared.settings.hello_timeout, connection.accept_stream()) => stream,
    };
    match stream {
        Ok(Ok(Some(stream))) => {
            let peer = connection.peer();
            let together = shared.together(Origin::of_peer(peer));
            let ended = session::run(shared.clone(), peer, stream, together, None).await;
            report(shared, connection, ended);
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => debug!(peer = %connection.peer().address, %error, "connection lost"),
        Err(_) => silent(shared, connection),
    }
}

/// A connection of many streams: one session each.
async fn serve_streams(shared: &Arc<Shared>, connection: Box<dyn Connection>) {
    let connection: Arc<dyn Connection> = Arc::from(connection);
    let strangers = Strangers::new(connection.clone(), shared);
    let together = shared.together(Origin::of_peer(connection.peer()));
    let hello_timeout = shared.settings.hello_timeout;
    let mut sessions = JoinSet::new();
    let mut closing = pin!(shared.closing());
    let mut unknown = pin!(sleep(hello_timeout));
    while !strangers.are_hopeless() {
        if sessions.len() >= shared.settings.streams_max {
            shared.holds.count(Hold::Streams);
        }
        while sessions.len() >= shared.settings.streams_max {
            sessions.join_next().await;
        }
        let next = async { (strangers.room().await, connection.accept_stream().await) };
        let (room, stream) = tokio::select! {
            biased;
            () = &mut closing => break,
            next = next => next,
            Some(_) = sessions.join_next() => continue,
            // One that has no stream says nothing, not even hello.
            () = sleep(hello_timeout), if sessions.is_empty() => {
                silent(shared, &*connection);
                break;
            }
            // And one that opens stream after stream has said none for as long. Those that are there
            // have a time of their own, and may be welcomed still.
            () = &mut unknown, if !strangers.are_known() => tokio::select! {
                biased;
                () = &mut closing => break,
                () = strangers.known() => continue,
                () = async { while sessions.join_next().await.is_some() {} } => {
                    silent(shared, &*connection);
                    break;
                }
            },
        };
        let Ok(Some(stream)) = stream else { break };
        let stranger = strangers.meet(room);
        let (shared, connection) = (shared.clone(), connection.clone());
        let together = together.clone();
        sessions.spawn(inherit(async move {
            let peer = connection.peer();
            let ended = session::run(shared.clone(), peer, stream, together, Some(stranger)).await;
            report(&shared, &*connection, ended);
        }));
    }
    if strangers.are_hopeless() {
        shared.counters.connections_given_up.fetch_add(1, Ordering::Relaxed);
    }
    while sessions.join_next().await.is_some() {}
    shared.left(&together);
}

fn silent(shared: &Shared, connection: &dyn Connection) {
    shared.counters.sessions_failed.fetch_add(1, Ordering::Relaxed);
    let (peer, waited) = (&connection.peer().address, shared.settings.hello_timeout);
    match shared.door.may_say_silent() {
        Some(count) => info!(%peer, count, "no hello came within {waited:?}"),
        None => debug!(%peer, "no hello came within {waited:?}"),
    }
}

fn report(shared: &Shared, connection: &dyn Connection, ended: Result<(), SessionError>) {
    let peer = &connection.peer().address;
    match ended {
        Ok(()) => debug!(%peer, "connection ended"),
        Err(SessionError::Refused(refusal)) if refusal.code == RefusalCode::Stopping => {}
        Err(SessionError::Refused(refusal)) => {
            shared.counters.sessions_failed.fetch_add(1, Ordering::Relaxed);
            // Whoever can cause these lines must not fill the disk with them.
            match shared.door.may_say_failed() {
                Some(count) => info!(%peer, %refusal, count, "connection refused"),
                None => debug!(%peer, %refusal, "connection refused"),
            }
        }
        Err(error @ SessionError::Cut(_)) => {
            shared.counters.sessions_failed.fetch_add(1, Ordering::Relaxed);
            debug!(%peer, %error, "connection lost");
        }
    }
}

/// Counts a connection as long as it lives.
struct OpenConnection(Arc<Shared>, Option<Origin>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.door.leave(self.1);
        self.0.connections.send_modify(|open| *open -= 1);
    }
}

/// How long a listener rests after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
