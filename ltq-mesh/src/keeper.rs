//! The one task of a peer: it dials, takes calls, and runs the one connection that there is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ltq_core::Address;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use crate::{
    DownCause, PeerState,
    dial::{self, NotJoined},
    guard::guarded,
    lines::say,
    listening::Caller,
    peer::{Listed, Peer},
    rules::{Call, ConnectionId, Decision, Objection, Standing, decide},
    session,
    shared::Shared,
    wire::{Link, Say},
};

/// A connection on which both have said who they are.
struct Joined {
    link: Link,
    id: ConnectionId,
    /// Who is at the other end.
    instance: u64,
}

pub(crate) struct Keeper {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    callers: mpsc::Receiver<Caller>,
    listed: watch::Receiver<Listed>,
    attempts: u64,
    failures: u32,
    /// The last connection that there was.
    last: Option<ConnectionId>,
}

impl Keeper {
    pub(crate) fn new(
        shared: Arc<Shared>,
        peer: Arc<Peer>,
        callers: mpsc::Receiver<Caller>,
    ) -> Self {
        let listed = peer.listed.subscribe();
        Self { shared, peer, callers, listed, attempts: 0, failures: 0, last: None }
    }

    /// Keeps the peer connected until the mesh is closed, or the peer is one that is not listed and has not
    /// called for a while. After a panic, as a transport may have, it begins anew.
    pub(crate) async fn run(mut self) {
        let shared = self.shared.clone();
        let mut down = None;
        loop {
            match guarded(self.keep_up(down.take())).await {
                Ok(Kept::Forgotten) => return,
                Ok(Kept::Stopped) => break,
                Err(panic) => {
                    let (lines, peer) = (&shared.lines.panicked, self.peer.name());
                    say!(lines, error, %peer, panic, "a peer's task panicked; it begins anew");
                    self.failures = self.failures.saturating_add(1);
                    down = Some(DownCause::Internal(panic));
                }
            }
        }
        shared.end(&self.peer);
    }

    async fn keep_up(&mut self, mut down: Option<DownCause>) -> Kept {
        let shared = self.shared.clone();
        loop {
            let joined = tokio::select! {
                biased;
                () = shared.stopping() => return Kept::Stopped,
                joined = self.join(down.take()) => joined,
            };
            let Some(joined) = joined else { return Kept::Forgotten };
            // Where each session ends that is not followed by another one at once.
            let cause = self.keep(joined).await;
            let lines = &shared.lines.disconnected;
            say!(lines, info, peer = %self.peer.name(), %cause, "disconnected");
            down = Some(cause);
        }
    }

    /// Runs connections as long as one follows on the other, and says why the last one ended.
    async fn keep(&mut self, joined: Joined) -> DownCause {
        let shared = self.shared.clone();
        let peer = self.peer.clone();
        let mut current = joined;
        loop {
            let Joined { link, id, instance } = current;
            self.last = Some(id);
            self.failures = 0;
            let is_ours = id.dialer == shared.instance;
            let (lines, address) = (&shared.lines.connected, link.address());
            say!(lines, info, peer = %peer.name(), %address, is_ours, "connected");
            let standing = Standing::Connected { id, peer: instance };
            let next = {
                let session = session::run(&shared, &peer, link, instance, is_ours);
                tokio::pin!(session);
                loop {
                    tokio::select! {
                        biased;
                        end = &mut session => break Err(end.cause),
                        Some(caller) = self.callers.recv() => {
                            if let Some(joined) = self.answer(caller, standing) {
                                break Ok(joined);
                            }
                        }
                    }
                }
            };
            match next {
                Ok(joined) => {
                    peer.cut(DownCause::Replaced);
                    self.tell(PeerState::Connecting { attempt: 1 });
                    current = joined;
                }
                Err(cause) => return cause,
            }
        }
    }

    /// Waits for a connection, be it by dialing or by a call. `None` when the peer need not be kept.
    async fn join(&mut self, mut down: Option<DownCause>) -> Option<Joined> {
        loop {
            if let Some(cause) = down.take()
                && let Some(joined) = self.pause(cause).await
            {
                return Some(joined);
            }
            let listed = self.listed.borrow_and_update().clone();
            let addresses = listed.as_deref().unwrap_or_default();
            if addresses.is_empty() {
                match self.wait_for_call(listed.is_some()).await {
                    Waited::Joined(joined) => return Some(joined),
                    Waited::Listed => continue,
                    Waited::Forgotten => return None,
                }
            }
            let attempt = self.failures.saturating_add(1);
            self.tell(PeerState::Connecting { attempt });
            for address in addresses {
                match self.dial(address).await {
                    Ok(joined) => return Some(joined),
                    // The other one is on its way, or there is one that the peer has still to lose.
                    Err(NotJoined::Yielded) => down = Some(DownCause::Replaced),
                    Err(NotJoined::Failed(cause)) => {
                        debug!(peer = %self.peer.name(), %address, %cause, "a call failed");
                        down = Some(cause);
                    }
                }
            }
            if down != Some(DownCause::Replaced) {
                self.failures = attempt;
            }
        }
    }

    /// Waits before the next attempt.
    async fn pause(&mut self, cause: DownCause) -> Option<Joined> {
        let listed = self.listed.borrow().as_ref().is_some_and(|addresses| !addresses.is_empty());
        self.peer.cut(cause.clone());
        if !listed {
            return None;
        }
        let interval = self.shared.settings.reconnect_interval;
        let retry_in = jittered(interval, self.shared.environment.random());
        // That it called itself is no failure, and what comes of that is seen soon.
        if cause != DownCause::Replaced {
            self.tell(PeerState::Disconnected { failures: self.failures, cause, retry_in });
        }
        let until = Instant::now() + retry_in;
        loop {
            tokio::select! {
                biased;
                Some(caller) = self.callers.recv() => {
                    if let Some(joined) = self.answer(caller, Standing::Free) {
                        return Some(joined);
                    }
                }
                () = sleep_until(until) => return None,
                changed = self.listed.changed() => if changed.is_ok() { return None },
            }
        }
    }

    /// Waits for a peer whose address is not known.
    async fn wait_for_call(&mut self, is_listed: bool) -> Waited {
        self.tell(PeerState::Waiting);
        self.peer.cut(DownCause::NoAddress);
        let settings = &self.shared.settings;
        let patience = settings.read_timeout + settings.acknowledgement_timeout;
        loop {
            tokio::select! {
                biased;
                Some(caller) = self.callers.recv() => {
                    if let Some(joined) = self.answer(caller, Standing::Free) {
                        return Waited::Joined(joined);
                    }
                }
                changed = self.listed.changed() => if changed.is_ok() { return Waited::Listed },
                () = sleep(patience), if !is_listed => {
                    if self.shared.forget(&self.peer, || !self.callers.is_empty()) {
                        return Waited::Forgotten;
                    }
                }
            }
        }
    }

    /// Calls the peer, unless it calls meanwhile and that counts.
    async fn dial(&mut self, address: &Address) -> Result<Joined, NotJoined> {
        self.attempts += 1;
        let id = ConnectionId { dialer: self.shared.instance, attempt: self.attempts };
        let call = Call { id, after: self.last };
        let (shared, peer) = (self.shared.clone(), self.peer.clone());
        let said_hello = AtomicBool::new(false);
        let dialing = dial::dial(&shared, peer.name(), address, call, &said_hello);
        tokio::pin!(dialing);
        loop {
            tokio::select! {
                biased;
                joined = &mut dialing => {
                    let (link, instance) = joined?;
                    link.connection.welcomed();
                    return Ok(Joined { link, id, instance });
                }
                Some(caller) = self.callers.recv() => {
                    let said_hello = said_hello.load(Ordering::Acquire);
                    if let Some(joined) = self.answer(caller, Standing::Dialing { said_hello }) {
                        return Ok(joined);
                    }
                }
            }
        }
    }

    /// Takes a call, or refuses it.
    fn answer(&self, caller: Caller, standing: Standing) -> Option<Joined> {
        let call = caller.call;
        match decide(&self.shared.name, self.peer.name(), standing, call) {
            Decision::Take => {
                let mut link = caller.taken();
                let welcome = Say::Welcome { instance: self.shared.instance };
                link.mouth.say(&welcome).ok()?;
                link.connection.welcomed();
                Some(Joined { link, id: call.id, instance: call.id.dialer })
            }
            Decision::Refuse(objection) => {
                debug!(peer = %self.peer.name(), ?objection, "a call is not taken");
                if objection == Objection::NameTaken {
                    self.peer.probe.notify_one();
                }
                let (why, detail) = dial::farewell(objection);
                caller.refuse(why, detail.to_owned());
                None
            }
        }
    }

    fn tell(&self, state: PeerState) {
        self.shared.states.peer(self.peer.name(), state);
    }
}

/// Why a peer is kept no longer.
enum Kept {
    /// It need not be.
    Forgotten,
    /// The mesh is closed.
    Stopped,
}

/// What came of waiting for a call.
enum Waited {
    Joined(Joined),
    /// There may be addresses.
    Listed,
    /// It need not be kept.
    Forgotten,
}

/// Between half of it and all.
pub(crate) fn jittered(interval: Duration, random: u64) -> Duration {
    let half = interval / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
    interval - Duration::from_nanos(random.checked_rem(nanos.saturating_add(1)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_half_of_it_at_least() {
        let interval = Duration::from_secs(1);
        assert_eq!(jittered(interval, 0), interval);
        assert_eq!(jittered(interval, 300_000_000), Duration::from_millis(700));
        for random in [1, 499_999_999, 500_000_000, u64::MAX] {
            let wait = jittered(interval, random);
            assert!((interval / 2..=interval).contains(&wait), "{wait:?}");
        }
    }
}
