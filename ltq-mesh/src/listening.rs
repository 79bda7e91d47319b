//! Taking calls in, on listeners that open themselves again.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use ltq_core::{Address, Connection, Listener, Origin, Transport as _, TransportError};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::{
    ListenerState, MeshName,
    guard::guarded,
    lines::say,
    rules::Call,
    session::say_goodbye,
    shared::Shared,
    wire::{Farewell, Link, LinkError, MAGIC, PROTOCOL, Say},
};

/// Somebody who calls and is of the mesh, and is not answered yet.
pub(crate) struct Caller {
    pub(crate) call: Call,
    link: Link,
    open: Open,
}

impl Caller {
    /// It counts as a stranger no longer.
    pub(crate) fn taken(self) -> Link {
        self.link
    }

    /// Tells it why it is not taken, in a task of its own.
    pub(crate) fn refuse(mut self, why: Farewell, detail: String) {
        tokio::spawn(async move {
            say_goodbye(&mut self.link.mouth, why, detail).await;
            drop(self.open);
        });
    }
}

/// Listens at one address for as long as the mesh is open. When the listener cannot be opened, says that no
/// call can come any more, panics, or fails [`FAILURES_MAX`] times in a row, it is opened again after the
/// retry interval.
pub(crate) async fn listen(shared: Arc<Shared>, at: usize, address: Address) {
    let retry_in = shared.settings.listen_retry_interval;
    let mut place = Place { asked: address.clone(), last: address, has_failed: false };
    loop {
        let failed = tokio::select! {
            () = shared.stopping() => return,
            failed = guarded(serve(&shared, at, &mut place)) => failed,
        };
        let why =
            failed.map_or_else(|panic| format!("it panicked: {panic}"), |error| error.to_string());
        // Once, until it listens again.
        if !std::mem::replace(&mut place.has_failed, true) {
            let (lines, address) = (&shared.lines.listening, &place.last);
            say!(lines, warn, %address, why, ?retry_in, "not listening; it is tried again");
        }
        shared.states.listener(at, ListenerState::Failed { why, retry_in });
        tokio::select! {
            () = shared.stopping() => return,
            () = sleep(retry_in) => {}
        }
    }
}

/// Where a listener is opened.
struct Place {
    /// Where it was asked for.
    asked: Address,
    /// Where it was last: a port that was asked for as 0 stays what it was given, as long as that is free.
    last: Address,
    /// It is known to have failed.
    has_failed: bool,
}

async fn open(shared: &Shared, place: &Place) -> Result<Box<dyn Listener>, TransportError> {
    match shared.transports.listen(&place.last).await {
        Err(_) if place.last != place.asked => shared.transports.listen(&place.asked).await,
        opened => opened,
    }
}

async fn serve(shared: &Arc<Shared>, at: usize, place: &mut Place) -> TransportError {
    let mut listener = match open(shared, place).await {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let address = listener.local_address();
    place.last = address.clone();
    place.has_failed = false;
    say!(shared.lines.listening, info, %address, "listening");
    shared.states.listener(at, ListenerState::Listening(address.clone()));
    let mut failures = 0;
    loop {
        match accept(shared, &mut *listener).await {
            Ok(()) => failures = 0,
            Err(TransportError::Closed) => return TransportError::Closed,
            Err(error) => {
                failures += 1;
                if failures >= FAILURES_MAX {
                    return error;
                }
                debug!(%address, %error, "a call was not taken in");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(shared: &Arc<Shared>, listener: &mut dyn Listener) -> Result<(), TransportError> {
    let connection = listener.accept().await?;
    let origin = Origin::of_peer(connection.peer());
    let Some(open) = shared.callers.one_more(origin) else {
        debug!(peer = %connection.peer().address, "too many who have not said who they are");
        return Ok(());
    };
    let shared = shared.clone();
    tokio::spawn(async move {
        let stopping = shared.clone();
        tokio::select! {
            () = stopping.stopping() => {}
            () = greet(shared, connection, open) => {}
        }
    });
    Ok(())
}

/// Hears who is there, and brings them to their peer's task.
async fn greet(shared: Arc<Shared>, connection: Box<dyn Connection>, open: Open) {
    let address = connection.peer().address.clone();
    let greeting = async {
        match connection.accept_stream().await {
            Ok(Some(stream)) => {
                let mut link = Link::new(connection, stream);
                Some((link.ear.hear().await, link))
            }
            Ok(None) | Err(_) => None,
        }
    };
    let Ok(Some((heard, mut link))) = timeout(shared.settings.hello_timeout, greeting).await else {
        debug!(peer = %address, "no hello came");
        return;
    };
    let refused = |error: LinkError| (Farewell::Protocol, error.to_string());
    match heard.map_err(refused).and_then(|say| admit(&shared, &link, say)) {
        Ok((from, call)) => shared.called(&from, Caller { call, link, open }),
        Err((why, detail)) => {
            debug!(peer = %address, ?why, detail, "a caller is refused");
            say_goodbye(&mut link.mouth, why, detail).await;
        }
    }
}

/// Whether a hello is one of this mesh, by who knows its token, and for us.
fn admit(shared: &Shared, link: &Link, say: Say) -> Result<(MeshName, Call), (Farewell, String)> {
    let Say::Hello { magic, version, mesh, from, to, id, after, token } = say else {
        return Err((Farewell::Protocol, "the first words must be a hello".to_owned()));
    };
    if magic != MAGIC {
        return Err((Farewell::Protocol, "this is a program of a mesh of LTQ".to_owned()));
    }
    if version != PROTOCOL {
        let detail = format!("version {PROTOCOL} is spoken here, and {version} by the caller");
        return Err((Farewell::Version, detail));
    }
    // Before anything is told of who is here.
    if shared.access.admit(link.connection.peer(), token.as_deref()).is_err() {
        return Err((Farewell::Unauthenticated, "a valid token is needed".to_owned()));
    }
    if mesh != shared.mesh {
        return Err((Farewell::WrongPlace, format!("this is the mesh {:?}", shared.mesh)));
    }
    if shared.name != *to.as_str() {
        return Err((
            Farewell::WrongPlace,
            format!("this is {}, and not who is wanted", shared.name),
        ));
    }
    let from = MeshName::new(&from).map_err(|error| (Farewell::Protocol, error.to_string()))?;
    if from == shared.name {
        return Err((Farewell::NameTaken, format!("this is {from} itself")));
    }
    Ok((from, Call { id, after }))
}

/// Those who have not said who they are.
#[derive(Clone)]
pub(crate) struct Callers(Arc<Counts>);

struct Counts {
    max: usize,
    now: Mutex<(usize, HashMap<Origin, usize>)>,
}

/// One of them, until it is dropped.
struct Open {
    counts: Weak<Counts>,
    origin: Option<Origin>,
}

impl Callers {
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Counts { max, now: Mutex::default() }))
    }

    /// One more, if that is not too many, in all or from there.
    fn one_more(&self, origin: Option<Origin>) -> Option<Open> {
        let mut now = self.0.now.lock();
        let (all, by_origin) = &mut *now;
        let from_there = origin.map_or(0, |origin| by_origin.get(&origin).copied().unwrap_or(0));
        if *all >= self.0.max || from_there >= self.0.max / ORIGIN_PART {
            return None;
        }
        *all += 1;
        if let Some(origin) = origin {
            *by_origin.entry(origin).or_default() += 1;
        }
        Some(Open { counts: Arc::downgrade(&self.0), origin })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(counts) = self.counts.upgrade() else { return };
        let mut now = counts.now.lock();
        let (all, by_origin) = &mut *now;
        *all = all.saturating_sub(1);
        if let Some(origin) = self.origin
            && let Some(count) = by_origin.get_mut(&origin)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_origin.remove(&origin);
            }
        }
    }
}

/// With the pause after each, a second.
const FAILURES_MAX: u32 = 10;
/// How long a listener rests after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The part of all callers that may come from one address.
const ORIGIN_PART: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promise_10_callers_from_one_address_leave_room_for_others() {
        let origin = |text: &str| Origin::of(&text.parse().expect("an address"));
        let callers = Callers::new(8);
        let flood = origin("tcp://192.0.2.1:1");
        let mut open = vec![callers.one_more(flood), callers.one_more(flood)];
        assert!(open.iter().all(Option::is_some) && callers.one_more(flood).is_none());
        open.extend(
            (0..6).map(|n| callers.one_more(origin(&format!("tcp://192.0.2.{}:1", n + 2)))),
        );
        assert!(open.iter().all(Option::is_some));
        assert!(callers.one_more(None).is_none(), "too many in all");
        open.remove(0);
        assert!(callers.one_more(flood).is_some(), "there is room for one");
    }
}
