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
    entrance::Entry,
    holds::Hold,
    session::{self, SessionError},
    shared::{Phase, Shared},
    strangers::Strangers,
};
use crate::{
    Connection, Listener, Refusal, RefusalCode, TransportError,
    process::inherit,
    protocol::{Frame, WriteQueue, encode},
};

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
    let entry = match Entry::take(&shared.entrance, connection.peer()) {
        Ok(entry) => Arc::new(entry),
        Err(full) => return turn_away(shared, connection, &full.refusal()),
    };
    let shared = shared.clone();
    tokio::spawn(inherit(async move {
        if connection.multiplexed() {
            serve_streams(&shared, entry, connection).await;
        } else {
            serve_stream(&shared, entry, &*connection).await;
        }
    }));
}

/// Tells it so, as far as there are not too many of them; what is told is counted.
fn turn_away(shared: &Arc<Shared>, connection: Box<dyn Connection>, refusal: &Refusal) {
    let goodbye = Frame::Goodbye { refusal: refusal.clone() };
    let words = |write: &mut WriteQueue| encode(&goodbye, write);
    if shared.farewells.turn_away(connection, words, shared.closing()) {
        shared.refusals.count(refusal);
    }
}

/// A connection of one stream.
async fn serve_stream(shared: &Arc<Shared>, entry: Arc<Entry>, connection: &dyn Connection) {
    let stream = tokio::select! {
        biased;
        () = shared.closing() => return,
        () = entry.gives_way() => return,
        stream = timeout(shared.settings.hello_timeout, connection.accept_stream()) => stream,
    };
    match stream {
        Ok(Ok(Some(stream))) => {
            let peer = connection.peer();
            let together = shared.together(entry.origin());
            let ended = session::run(shared.clone(), peer, stream, together, entry, None).await;
            report(shared, connection, ended);
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => debug!(peer = %connection.peer().address, %error, "connection lost"),
        Err(_) => silent(shared, connection),
    }
}

/// A connection of many streams: one session each.
async fn serve_streams(shared: &Arc<Shared>, entry: Arc<Entry>, connection: Box<dyn Connection>) {
    let connection: Arc<dyn Connection> = Arc::from(connection);
    let strangers = Strangers::new(connection.clone(), shared);
    let together = shared.together(entry.origin());
    let hello_timeout = shared.settings.hello_timeout;
    let mut sessions = JoinSet::new();
    let mut closing = pin!(shared.closing());
    let mut unknown = pin!(sleep(hello_timeout));
    let mut gives_way = pin!(entry.gives_way());
    loop {
        if strangers.are_hopeless() {
            // Those that are there have a time of their own, and may be welcomed still: then it is worth more.
            tokio::select! {
                biased;
                () = &mut closing => break,
                () = &mut gives_way => break,
                () = strangers.known() => {}
                () = async { while sessions.join_next().await.is_some() {} } => {
                    if strangers.are_hopeless() {
                        shared.counters.connections_given_up.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                }
            }
        }
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
            // What streams there are say so.
            () = &mut gives_way => break,
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
                () = &mut gives_way => break,
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
        let (together, entry) = (together.clone(), entry.clone());
        sessions.spawn(inherit(async move {
            let (peer, stranger) = (connection.peer(), Some(stranger));
            let ended = session::run(shared.clone(), peer, stream, together, entry, stranger).await;
            report(&shared, &*connection, ended);
        }));
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

/// How long a listener rests after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
