//! One connection, from the hellos to its end.
//!
//! Its parts run side by side in the peer's task: one hears, one speaks, one has messages judged, one has
//! them stored. They share a lock that is never held over an await.

mod outgoing;
mod storing;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

use crate::{
    DownCause, PeerState, handler,
    peer::Peer,
    room::Taken,
    rules::{Arrivals, Grant, Misbehaviour, NeverSent},
    shared::Shared,
    wire::{Ear, Farewell, Link, LinkError, Mouth, NotStored, Say},
};
use outgoing::Outgoing;

/// Why a connection ends.
pub(crate) struct End {
    pub(crate) cause: DownCause,
    /// What the peer is told of it.
    farewell: Option<(Farewell, String)>,
}

impl End {
    fn of(cause: DownCause) -> Self {
        Self { cause, farewell: None }
    }

    fn saying(cause: DownCause, farewell: Farewell) -> Self {
        let detail = cause.to_string();
        Self { cause, farewell: Some((farewell, detail)) }
    }
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Wire(error) => {
                Self::saying(DownCause::Protocol(error.to_string()), Farewell::Protocol)
            }
            error => Self::of(DownCause::Lost(error.to_string())),
        }
    }
}

impl From<Misbehaviour> for End {
    fn from(error: Misbehaviour) -> Self {
        Self::saying(DownCause::Protocol(error.to_string()), Farewell::Protocol)
    }
}

impl From<NeverSent> for End {
    fn from(NeverSent(number): NeverSent) -> Self {
        Misbehaviour::Answered(number).into()
    }
}

/// What the parts of a session share.
struct Session<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    /// Which process of the peer's name is there.
    instance: u64,
    state: PeerState,
    talk: Mutex<Talk>,
    /// There may be something to be judged.
    arrived: Notify,
    /// There may be something to be stored.
    ready: Notify,
    /// There may be something else that the peer has to confirm to have heard.
    unheard: Notify,
    /// What a message is told for which there is no room.
    crowded: Arc<NotStored>,
}

struct Talk {
    arrivals: Arrivals<Taken>,
    outgoing: Outgoing,
    /// How long the peer waits for an answer; `None` until it has said so.
    patience: Option<Duration>,
}

/// Runs a connection to that instance of a peer until it ends, and says goodbye.
pub(crate) async fn run(
    shared: &Shared,
    peer: &Peer,
    link: Link,
    instance: u64,
    is_ours: bool,
) -> End {
    let state = PeerState::Connected { address: link.address().clone(), is_ours };
    let Link { mut mouth, ear, connection } = link;
    let settings = &shared.settings;
    let grant = Grant {
        messages: settings.unacknowledged_messages_max as u64,
        bytes: settings.unacknowledged_bytes_max as u64,
    };
    let talk =
        Talk { arrivals: Arrivals::new(grant), outgoing: Outgoing::default(), patience: None };
    let session = Session {
        shared,
        peer,
        instance,
        state,
        talk: Mutex::new(talk),
        arrived: Notify::new(),
        ready: Notify::new(),
        unheard: Notify::new(),
        crowded: Arc::new(NotStored::Full(CROWDED.to_owned())),
    };
    let storing = session.store();
    tokio::pin!(storing);
    let end = tokio::select! {
        biased;
        () = shared.stopping() => None,
        end = session.hear(ear) => Some(end),
        end = session.speak(&mut mouth) => Some(end),
        end = session.judge() => Some(end),
        end = session.heed() => Some(end),
        end = &mut storing => Some(end),
    };
    let end = match end {
        Some(end) => end,
        None => {
            // What is being stored is answered still.
            let last = async {
                tokio::select! {
                    _ = &mut storing => {}
                    () = session.all_stored() => {}
                }
            };
            let _late = timeout(LAST_WORDS, last).await;
            session.say_the_rest(&mut mouth);
            End::saying(DownCause::Stopping, Farewell::Stopping)
        }
    };
    peer.cut(end.cause.clone());
    if let Some((why, detail)) = &end.farewell {
        debug!(peer = %peer.name(), cause = %end.cause, "connection ended");
        say_goodbye(&mut mouth, *why, detail.clone()).await;
    }
    drop(connection);
    end
}

/// Says the last words. Whoever does not take them has it coming.
pub(crate) async fn say_goodbye(mouth: &mut Mouth, why: Farewell, detail: String) {
    let detail = crate::wire::shortened(detail);
    if mouth.say(&Say::Goodbye { why, detail }).is_ok() {
        let _gone = timeout(LAST_WORDS, mouth.finish()).await;
    }
}

impl Session<'_> {
    /// Hears the peer, and gives it up when it says nothing for too long.
    async fn hear(&self, mut ear: Ear) -> End {
        let silence = self.shared.settings.read_timeout;
        let (mut last, mut asked) = (Instant::now(), false);
        let mut patience = silence;
        let slowness = self.slowness();
        // Since when a frame has been there in part.
        let mut begun: Option<Instant> = None;
        loop {
            let wake = if asked { last + patience } else { last + silence / SIGNS };
            let body_max = Some(self.shared.settings.message_bytes_max);
            let heard = tokio::select! {
                biased;
                heard = ear.hear_some(body_max) => heard,
                () = self.peer.probe.notified() => {
                    self.ask();
                    // From now, but not longer than before.
                    let until = Instant::now() + silence / SIGNS;
                    patience = patience.min(until.saturating_duration_since(last));
                    asked = true;
                    continue;
                }
                () = sleep_until(wake) => {
                    if asked {
                        return End::saying(DownCause::Silent(patience), Farewell::Silent);
                    }
                    self.ask();
                    asked = true;
                    continue;
                }
            };
            (last, asked, patience) = (Instant::now(), false, silence);
            // A peer that never stops talking does not keep the others of this session from their turn.
            tokio::task::consume_budget().await;
            let taken = match heard {
                Ok(Some((say, body))) => {
                    begun = None;
                    self.take(say, body)
                }
                Ok(None) if begun.get_or_insert(last).elapsed() > slowness => {
                    Err(End::saying(DownCause::Slow(slowness), Farewell::Silent))
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    fn ask(&self) {
        self.talk.lock().outgoing.ping();
        self.peer.work.notify_one();
    }

    /// Does what something that was heard asks for.
    fn take(&self, say: Say, body: bytes::Bytes) -> Result<(), End> {
        match say {
            Say::Message { number } => {
                let mut talk = self.talk.lock();
                if talk.patience.is_none() {
                    return Err(unexpected("a message before the inbox was told"));
                }
                match self.shared.arriving.try_take(body.len()) {
                    Some(taken) => talk.arrivals.arrive(number, body, taken)?,
                    None => {
                        talk.arrivals.turn_away(number, body.len())?;
                        talk.outgoing.not_stored(number, self.crowded.clone());
                        self.unheard.notify_one();
                        self.peer.work.notify_one();
                    }
                }
                drop(talk);
                self.arrived.notify_one();
            }
            Say::Stored { through } => self.peer.stored(through)?,
            Say::NotStored { number, why } => {
                self.peer.not_stored(number, why)?;
                self.talk.lock().outgoing.heard(number);
                self.peer.work.notify_one();
            }
            Say::Heard { number } => {
                self.talk.lock().arrivals.heard(number)?;
                self.unheard.notify_one();
                self.ready.notify_one();
            }
            Say::Ping => {
                self.talk.lock().outgoing.pong();
                self.peer.work.notify_one();
            }
            Say::Pong => {}
            Say::Resume {
                inbox,
                stored,
                messages_max,
                bytes_max,
                message_bytes_max,
                patience_ms,
            } => {
                let patience = Duration::from_millis(patience_ms).min(PATIENCE_MAX);
                if self.talk.lock().patience.replace(patience).is_some() {
                    return Err(unexpected("the inbox was told twice"));
                }
                let grant = Grant { messages: messages_max.max(1), bytes: bytes_max };
                let own = self.shared.settings.message_bytes_max;
                let bytes_max = own.min(message_bytes_max as usize);
                self.peer.resume(inbox, stored, grant, bytes_max);
                self.shared.states.peer(self.peer.name(), self.state.clone());
            }
            Say::Goodbye { why: Farewell::Stopping, .. } => {
                return Err(End::of(DownCause::Stopping));
            }
            Say::Goodbye { detail, .. } => return Err(End::of(DownCause::Refused(detail))),
            Say::Hello { .. } => return Err(unexpected("a second hello")),
            Say::Welcome { .. } => return Err(unexpected("a second welcome")),
        }
        Ok(())
    }

    /// Says what there is to be said, and gives a peer up that takes nothing for too long.
    async fn speak(&self, mouth: &mut Mouth) -> End {
        let patience = self.shared.settings.write_timeout;
        loop {
            if let Err(error) = self.fill(mouth) {
                return error.into();
            }
            if mouth.unsent() == 0 {
                self.peer.work.notified().await;
                continue;
            }
            match timeout(patience, mouth.send_some()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.into(),
                Err(_) => return End::of(DownCause::Stalled(patience)),
            }
        }
    }

    /// Gives the mouth what there is, as much as is sensible at a time; what is no message goes first.
    fn fill(&self, mouth: &mut Mouth) -> Result<(), LinkError> {
        while mouth.unsent() < UNSENT_BYTES_MAX {
            let control = self.talk.lock().outgoing.next();
            if let Some(say) = control {
                mouth.say(&say)?;
                if let Say::NotStored { .. } = say {
                    // There is room for another one.
                    self.arrived.notify_one();
                }
                continue;
            }
            // Nothing is sent before the inbox was told: the peer would not know what to do with it.
            if !self.talk.lock().outgoing.has_resumed() {
                return Ok(());
            }
            let Some((number, body)) = self.peer.next_message() else { return Ok(()) };
            mouth.message(number, body)?;
        }
        Ok(())
    }

    /// Gives the mouth what is no message, of which there is little.
    fn say_the_rest(&self, mouth: &mut Mouth) {
        while let Some(say) = self.talk.lock().outgoing.next() {
            if mouth.say(&say).is_err() {
                return;
            }
        }
    }

    /// Waits until nothing that is accepted is left to be stored, or may not be stored yet.
    async fn all_stored(&self) {
        while !self.talk.lock().arrivals.to_store(1).is_empty() {
            self.peer.work.notified().await;
        }
    }

    /// Gives a peer up that does not confirm to have heard of a refusal: what it sent behind that would
    /// take room for ever.
    async fn heed(&self) -> End {
        // Behind the largest message of ours, and then behind the largest of the peer's.
        let patience = 2 * self.slowness();
        loop {
            let Some(first) = self.talk.lock().arrivals.first_unheard() else {
                self.unheard.notified().await;
                continue;
            };
            let heard = async {
                while self.talk.lock().arrivals.first_unheard() == Some(first) {
                    self.unheard.notified().await;
                }
            };
            if timeout(patience, heard).await.is_err() {
                let what = "it does not confirm to have heard that a message is not stored";
                return unexpected(what);
            }
        }
    }

    /// How long one frame may take on its way: nobody waits for a message that takes longer.
    fn slowness(&self) -> Duration {
        self.shared.settings.read_timeout.max(self.shared.settings.acknowledgement_timeout)
    }

    /// Has messages judged, one after another, as long as the peer takes the answers.
    async fn judge(&self) -> End {
        loop {
            let (next, patience) = {
                let talk = self.talk.lock();
                let is_heeded = talk.outgoing.refusals() < REFUSALS_MAX;
                let next = is_heeded.then(|| talk.arrivals.to_judge()).flatten();
                (next, talk.patience.unwrap_or(PATIENCE_MAX))
            };
            let Some((_, body)) = next else {
                self.arrived.notified().await;
                continue;
            };
            let judged = match &self.shared.handler {
                Some(handler) => {
                    let lines = &self.shared.lines.handler;
                    handler::ask(&**handler, self.peer.name(), &body, patience, lines).await
                }
                None => Ok(()),
            };
            let mut talk = self.talk.lock();
            match judged {
                Ok(()) => {
                    talk.arrivals.accept();
                    self.ready.notify_one();
                }
                Err(reason) => {
                    if let Some(number) = talk.arrivals.reject() {
                        talk.outgoing.not_stored(number, Arc::new(NotStored::Rejected(reason)));
                        self.unheard.notify_one();
                        self.peer.work.notify_one();
                    }
                }
            }
        }
    }
}

fn unexpected(what: &str) -> End {
    End::saying(DownCause::Protocol(what.to_owned()), Farewell::Protocol)
}

/// What the sender of a message is told for which there is no room.
const CROWDED: &str = "too much has come from all programs together and is not stored yet";
/// Refusals, each with its words, that wait to be said.
const REFUSALS_MAX: usize = 64;
/// A sign of life is asked for after this part of the read timeout.
const SIGNS: u32 = 3;
/// What waits for the stream at a time; one message may go beyond it.
const UNSENT_BYTES_MAX: usize = 256 << 10;
/// The longest that a handler may take, whatever its peer says: the longest acknowledgement timeout.
const PATIENCE_MAX: Duration = Duration::from_secs(3_600);
/// How long a goodbye may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
