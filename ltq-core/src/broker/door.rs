//! Who comes in, from where, and how often.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    by_address::ByAddress,
    rates::{RateLimit, Rates},
    settings::BrokerSettings,
    shared::Counters,
};
use crate::{
    Access, Action, Address, ChannelName, Denied, Grant, Limit, Origin, Peer, Refusal, RefusalCode,
    TOKEN_BYTES_MAX, TopicName,
};

/// Asks [`Access`] who may come in, and keeps what must be known of addresses: who brought wrong
/// tokens, who made topics.
pub(super) struct Door {
    limits: DoorLimits,
    tries: Mutex<ByAddress<Tries>>,
    guesses: RandomState,
    /// The same of whole sites, apart from those of which they consist: one has so many of them that it would make all
    /// others be forgotten.
    tries_of_sites: Mutex<ByAddress<Tries>>,
    topics: Mutex<Rates>,
    channels: Mutex<Rates>,
    denied: Mutex<Said>,
    forbidden: Mutex<Said>,
    failed: Mutex<Said>,
    silent: Mutex<Said>,
    not_accepted: Mutex<Said>,
}

/// What of the settings counts at the door.
#[derive(Clone, Copy, Debug)]
pub(super) struct DoorLimits {
    pub(super) wrong_tokens_max: u32,
    pub(super) lockout_max: Duration,
    pub(super) addresses_known_max: usize,
}

impl DoorLimits {
    pub(super) const fn of(settings: &BrokerSettings) -> Self {
        let &BrokerSettings { wrong_tokens_max, lockout_max, addresses_known_max, .. } = settings;
        Self { wrong_tokens_max, lockout_max, addresses_known_max }
    }
}

impl Door {
    pub(super) fn new(limits: DoorLimits) -> Self {
        Self {
            limits,
            tries: Mutex::new(ByAddress::new(limits.addresses_known_max)),
            guesses: RandomState::new(),
            tries_of_sites: Mutex::new(ByAddress::new(limits.addresses_known_max)),
            topics: Mutex::new(Rates::new(limits.addresses_known_max)),
            channels: Mutex::new(Rates::new(limits.addresses_known_max)),
            denied: Mutex::default(),
            forbidden: Mutex::default(),
            failed: Mutex::default(),
            silent: Mutex::default(),
            not_accepted: Mutex::default(),
        }
    }

    /// How many addresses were forgotten for want of room.
    pub(super) fn addresses_forgotten(&self) -> u64 {
        let (topics, channels) = (self.topics.lock().forgotten(), self.channels.lock().forgotten());
        let sites = self.tries_of_sites.lock().forgotten();
        self.tries.lock().forgotten() + sites + topics + channels
    }

    /// Lets a peer in that comes from there, or not, for reasons that it is not told. `known` is what was granted on its
    /// connection already: who shares an address with somebody who guesses keeps that, and may open
    /// further streams with it.
    pub(super) fn admit(
        &self,
        access: &Arc<dyn Access>,
        counters: &Counters,
        (peer, origin): (&Peer, Option<Origin>),
        token: Option<&str>,
        known: Option<&Grant>,
    ) -> Result<Grant, Refusal> {
        let now = Instant::now();
        let locked = origin.is_some_and(|origin| self.is_locked_out(origin, now));
        let cause = if locked {
            // Who brings no token guesses nothing, and is known by what the transport says.
            if token.is_none_or(|token| token.len() <= TOKEN_BYTES_MAX && known.is_some())
                && let Ok(grant) = access.admit(peer, token)
                && (token.is_none() || known.is_some_and(|known| grant.is(known)))
            {
                return Ok(grant);
            }
            counters.hellos_locked_out.fetch_add(1, Ordering::Relaxed);
            "too many wrong tokens"
        } else {
            let asked = match token {
                Some(token) if token.len() > TOKEN_BYTES_MAX => Err(Denied::WrongToken),
                token => access.admit(peer, token),
            };
            match (asked, origin) {
                (Ok(grant), origin) => {
                    // Who comes without one says nothing about those who guess beside it.
                    if let Some(origin) = origin.filter(|_| token.is_some()) {
                        self.tries.lock().forget(origin);
                        if let Some(site) = origin.site() {
                            self.tries_of_sites.lock().forget(site);
                        }
                    }
                    return Ok(grant);
                }
                (Err(Denied::WrongToken), Some(origin)) => {
                    self.note_wrong(origin, self.guesses.hash_one(token), now);
                    "a wrong token"
                }
                (Err(Denied::WrongToken), None) => "a wrong token",
                // Nothing was guessed; and probes of health come from where clients come from.
                (Err(Denied::NoToken), _) => "no token",
            }
        };
        counters.hellos_denied.fetch_add(1, Ordering::Relaxed);
        if let Some(count) = self.denied.lock().may_say(now) {
            let identity = peer.identity.as_deref();
            warn!(peer = %peer.address, identity, cause, count, "not let in");
        }
        // The same words for whatever cause: they are for nobody who may know more.
        Err(Refusal::new(RefusalCode::Unauthorized, "a valid token is needed"))
    }

    fn is_locked_out(&self, origin: Origin, now: Instant) -> bool {
        let locked = |tries: &Mutex<ByAddress<Tries>>, of| {
            tries.lock().get(of).is_some_and(|tries| tries.locked_until > now)
        };
        locked(&self.tries, origin)
            || origin.site().is_some_and(|site| locked(&self.tries_of_sites, site))
    }

    fn note_wrong(&self, origin: Origin, guess: u64, now: Instant) {
        let note = |tries: &Mutex<ByAddress<Tries>>, of, wrong_max| {
            let limits = DoorLimits { wrong_tokens_max: wrong_max, ..self.limits };
            tries.lock().of(of, || Tries::new(now)).note(now, guess, &limits);
        };
        let max = self.limits.wrong_tokens_max;
        note(&self.tries, origin, max);
        if let Some(site) = origin.site() {
            note(&self.tries_of_sites, site, max.saturating_mul(SITE_TRIES));
        }
    }

    /// Whether a grant permits something, on a topic or on the node.
    pub(super) fn permit(
        &self,
        counters: &Counters,
        peer: Option<&Address>,
        grant: &Grant,
        action: Action,
        topic: Option<&TopicName>,
    ) -> Result<(), Refusal> {
        if grant.permits(action, topic) {
            return Ok(());
        }
        if grant.is_revoked() {
            return Err(revoked());
        }
        counters.requests_forbidden.fetch_add(1, Ordering::Relaxed);
        let missing = format!("{action} on {}", topic.map_or("*", TopicName::as_str));
        if let Some(count) = self.forbidden.lock().may_say(Instant::now()) {
            let peer = peer.map(ToString::to_string);
            info!(who = grant.who(), peer, missing, count, "not permitted");
        }
        let detail = format!("the permission is missing: {missing}");
        Err(Refusal::new(RefusalCode::Forbidden, detail))
    }

    /// Whether one more topic may be made by use from there.
    pub(super) fn make_topic(
        &self,
        counters: &Counters,
        from: Option<Origin>,
        topic: &TopicName,
        per_minute: u32,
    ) -> Result<(), Refusal> {
        if may_make(&self.topics, from, per_minute) {
            return Ok(());
        }
        counters.topics_refused_by_address.fetch_add(1, Ordering::Relaxed);
        let detail = format!(
            "topic {topic} would be made by use; the limit of {per_minute} a minute for one \
             address is reached"
        );
        Err(Refusal::limit(Limit::TopicsPerMinute, detail))
    }

    /// The same for a channel.
    pub(super) fn make_channel(
        &self,
        from: Option<Origin>,
        topic: &TopicName,
        channel: &ChannelName,
        per_minute: u32,
    ) -> Result<(), Refusal> {
        if may_make(&self.channels, from, per_minute) {
            return Ok(());
        }
        let detail = format!(
            "channel {channel} of topic {topic} would be made by use; the limit of {per_minute} a \
             minute for one address is reached"
        );
        Err(Refusal::limit(Limit::ChannelsPerMinute, detail))
    }

    /// Whether a line may be logged about a stream that failed, and for how many of them it
    /// stands.
    pub(super) fn may_say_failed(&self) -> Option<u64> {
        self.failed.lock().may_say(Instant::now())
    }

    /// The same about a listener that could not accept.
    pub(super) fn may_say_not_accepted(&self) -> Option<u64> {
        self.not_accepted.lock().may_say(Instant::now())
    }

    /// The same about a connection on which no hello was said.
    pub(super) fn may_say_silent(&self) -> Option<u64> {
        self.silent.lock().may_say(Instant::now())
    }
}

/// Whether one more may be made from there.
fn may_make(rates: &Mutex<Rates>, from: Option<Origin>, per_minute: u32) -> bool {
    let Some(origin) = from else { return true };
    rates.lock().take(origin, RateLimit::per_minute(per_minute), Instant::now())
}

/// What a peer is told whose grant was taken back.
pub(super) fn revoked() -> Refusal {
    Refusal::new(RefusalCode::Unauthorized, "what the token permitted was taken back")
}

/// Wrong tokens in a row, each counted once: a program whose token was taken back brings the same again
/// and again, and guesses nothing.
#[derive(Debug)]
struct Tries {
    wrong: u32,
    locked_until: Instant,
    /// The newest of them, hashed by a key that nobody knows.
    known: VecDeque<u64>,
}

impl Tries {
    const fn new(now: Instant) -> Self {
        Self { wrong: 0, locked_until: now, known: VecDeque::new() }
    }

    fn note(&mut self, now: Instant, guess: u64, limits: &DoorLimits) {
        if self.known.contains(&guess) {
            return;
        }
        if self.known.len() >= KNOWN_GUESSES_MAX {
            self.known.pop_front();
        }
        self.known.push_back(guess);
        self.wrong = self.wrong.saturating_add(1);
        if let Some(beyond) = self.wrong.checked_sub(limits.wrong_tokens_max) {
            let pause = LOCKED_MIN.saturating_mul(1u32.checked_shl(beyond).unwrap_or(u32::MAX));
            self.locked_until = now + pause.min(limits.lockout_max);
        }
    }
}

/// Lines of a log, one a second at most: whoever can cause them must not fill the disk with them.
#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    since: u64,
}

impl Said {
    /// Whether to say it now, and how often it happened since it was said last.
    fn may_say(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.last.is_some_and(|last| now - last < SAID_PAUSE) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

/// So many of them are known again when they come again. More programs of one address that have each
/// an old token of their own are as good as a guesser.
const KNOWN_GUESSES_MAX: usize = 8;
/// For how long at first; twice as long after each further one.
const LOCKED_MIN: Duration = Duration::from_secs(1);
/// A site may bring so many times the wrong tokens of one address before all of it is turned away.
const SITE_TRIES: u32 = 4;
const SAID_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
