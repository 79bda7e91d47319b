//! A connection to a registry over which watches go.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ltq_core::Address;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::{
    Config,
    hearing::{Hearing, State},
    lines::{Changes, LineId, Lines, WatchId},
    talk::{Talk, TalkError},
};
use crate::registry::{
    link::Mouth,
    protocol::{Ask, GoodbyeCode, Say},
};

/// Listens to one registry for many watches.
pub(super) struct Line {
    config: Arc<Config>,
    registry: usize,
    address: Address,
    id: LineId,
    /// Watches came or went.
    changed: Arc<Notify>,
    watches: BTreeMap<WatchId, Hearing>,
    /// Whether somebody came since it was lost last.
    has_come: bool,
    /// For how long what was told counts beside others once it is not heard any more.
    memory: Duration,
    talking: Talking,
}

/// What belongs to one connection.
#[derive(Default)]
struct Talking {
    /// Which watch goes by which number.
    numbers: BTreeMap<u32, WatchId>,
    next: u32,
    /// Numbers that are watched no more, which the registry was not told yet.
    unwatched: VecDeque<u32>,
    /// Watches that were asked for, and of which not all was told yet.
    beginning: usize,
    /// Since when so many frames were said of watches.
    said: Option<(Instant, u32)>,
    /// Since when nothing is watched.
    quiet: Option<Instant>,
}

/// Nobody watches over this connection.
struct Unused;

impl Drop for Line {
    /// It ends with its runtime, if not by itself: whoever watches goes on over another line then.
    fn drop(&mut self) {
        let Some(lines) = self.config.lines.get(self.registry) else { return };
        let why = (self.address.clone(), "what listened to it is gone".to_owned());
        for watch in lines.end(self.id) {
            watch.lost(self.registry, self.memory, why.clone(), false);
        }
    }
}

impl Line {
    pub(super) fn new(
        config: Arc<Config>,
        registry: usize,
        address: Address,
        id: LineId,
        changed: Arc<Notify>,
    ) -> Self {
        let (watches, talking) = (BTreeMap::new(), Talking::default());
        let (has_come, memory) = (false, Duration::ZERO);
        Self { config, registry, address, id, changed, watches, has_come, memory, talking }
    }

    fn lines(&self) -> Option<&Lines> {
        self.config.lines.get(self.registry)
    }

    pub(super) async fn run(mut self) {
        let (mut failures, mut at) = (0_u32, Instant::now());
        while self.is_wanted(at).await {
            let began = Instant::now();
            self.talking = Talking::default();
            let error = match self.talk().await {
                Ok(Unused) => {
                    debug!(registry = %self.address, "nobody watches");
                    (failures, at) = (0, Instant::now());
                    continue;
                }
                Err(error) => error,
            };
            let refuses = error.is_final();
            let (why, now) = ((self.address.clone(), error.to_string()), Instant::now());
            // Those who came meanwhile wanted it, too.
            self.look();
            for watch in self.watches.values_mut() {
                watch.shared.lost(self.registry, self.memory, why.clone(), refuses);
                if watch.number().is_some() {
                    watch.is_due(now);
                }
            }
            warn!(registry = %self.address, %error, "a registry is not heard");
            // Who comes is not made to wait for what failed before.
            if std::mem::take(&mut self.has_come) || began.elapsed() > STABLE {
                failures = 0;
            }
            at = now + if refuses { self.config.retry.1 } else { self.config.wait(failures) };
            failures = failures.saturating_add(1);
        }
    }

    /// Takes in who came and went. True if somebody came.
    fn look(&mut self) -> bool {
        let Some(Changes { joined, left }) = self.lines().map(|it| it.changes(self.id)) else {
            return false;
        };
        let has_come = !joined.is_empty();
        self.watches.extend(joined.into_iter().map(|(id, watch)| (id, Hearing::new(watch))));
        for id in left {
            if let Some(number) = self.watches.remove(&id).and_then(|it| self.forget(&it)) {
                self.talking.unwatched.push_back(number);
            }
        }
        self.has_come |= has_come;
        has_come
    }

    /// A watch is none any more on this connection. Returns the number that it had.
    fn forget(&mut self, watch: &Hearing) -> Option<u32> {
        let number = watch.number()?;
        self.talking.numbers.remove(&number);
        self.talking.beginning -= usize::from(matches!(watch.state, State::Asked(..)));
        Some(number)
    }

    /// When the next watch is to be asked for.
    fn next_due(&self) -> Option<Instant> {
        let due = self.watches.values().filter_map(|watch| match watch.state {
            State::Due(at) => Some(at),
            State::Asked(..) | State::Heard(..) => None,
        });
        due.min()
    }

    /// Waits until the registry is to be connected to: not before then, but for one who comes, who has it tried
    /// at once. False if nobody watches any more.
    async fn is_wanted(&mut self, at: Instant) -> bool {
        loop {
            let has_come = self.look();
            let Some(due) = self.next_due() else {
                if self.lines().is_none_or(|lines| lines.end_if_unused(self.id)) {
                    return false;
                }
                self.changed.notified().await;
                continue;
            };
            if has_come {
                return true;
            }
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = sleep_until(due.max(at)) => return true,
            }
        }
    }

    /// Connects, unless all who wanted that are gone.
    async fn begin(&mut self) -> Result<Option<Talk>, TalkError> {
        let (config, address) = (Arc::clone(&self.config), self.address.clone());
        let mut beginning = std::pin::pin!(Talk::begin(&config, &address));
        let changed = Arc::clone(&self.changed);
        loop {
            tokio::select! {
                biased;
                talk = &mut beginning => return talk.map(Some),
                () = changed.notified() => {
                    self.look();
                    if self.watches.is_empty() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Until that ends, and why it does.
    async fn talk(&mut self) -> Result<Unused, TalkError> {
        let Some(mut talk) = self.begin().await? else { return Ok(Unused) };
        let (beat, patience, run) = (talk.heartbeat, talk.patience(), talk.run);
        self.memory = beat * MEMORY_BEATS;
        if let Some(lines) = self.lines() {
            lines.has_room(self.id);
        }
        let (mouth, ear) = (&mut talk.link.mouth, &mut talk.link.ear);
        let changed = Arc::clone(&self.changed);
        let start = Instant::now();
        let (mut heard, mut beaten, mut progress) = (start, start, start);
        // Whether it is to be looked at all watches, which is not done for each word that is heard.
        let (mut is_due, mut again) = (true, None);
        loop {
            let was_sending = mouth.unsent() > 0;
            if std::mem::replace(&mut is_due, false) {
                self.look();
                again = self.ask(mouth)?;
            }
            let is_sending = mouth.unsent() > 0;
            if is_sending && !was_sending {
                progress = Instant::now();
            }
            let quiet = self.quiet();
            // What it says comes behind what is to be done here, so that no flood of it holds that up.
            let said = tokio::select! {
                biased;
                sent = mouth.send_some() => {
                    sent?;
                    (progress, is_due) = (Instant::now(), true);
                    continue;
                }
                () = sleep_until(progress + patience), if is_sending => {
                    return Err(TalkError::Unread(patience));
                }
                () = sleep_until(beaten + beat) => {
                    beaten = Instant::now();
                    // A beat that was not read says as much as two of them.
                    if !is_sending {
                        mouth.say(&Ask::Beat)?;
                        progress = beaten;
                    }
                    continue;
                }
                () = changed.notified() => {
                    is_due = true;
                    continue;
                }
                () = sleep_until(again.unwrap_or(start)), if again.is_some() => {
                    is_due = true;
                    continue;
                }
                () = sleep_until(quiet.unwrap_or(start)), if quiet.is_some() => return Ok(Unused),
                said = ear.hear() => said?,
                () = sleep_until(heard + patience) => return Err(TalkError::Silent(patience)),
            };
            heard = Instant::now();
            match said {
                Say::Told { watch, part } => {
                    let Some(&id) = self.talking.numbers.get(&watch) else { continue };
                    let Some(hearing) = self.watches.get_mut(&id) else { continue };
                    match hearing.hear(self.registry, run, part, heard) {
                        Ok(false) => {}
                        Ok(true) => {
                            is_due = true;
                            if let State::Asked(number, at) = hearing.state {
                                hearing.state = State::Heard(number, at);
                                self.talking.beginning -= 1;
                            }
                        }
                        // Where it is the only one there is nothing more to be listened to.
                        Err(error @ TalkError::TooMuch(_)) if self.talking.numbers.len() > 1 => {
                            self.talking.unwatched.push_back(watch);
                            self.leave(id, &error);
                            is_due = true;
                        }
                        Err(error) => return Err(error),
                    }
                }
                Say::Goodbye { code, detail } => return Err(TalkError::Goodbye { code, detail }),
                Say::NotWatched { watch, code, detail } => {
                    let Some(&id) = self.talking.numbers.get(&watch) else { continue };
                    is_due = true;
                    // Those asked for before were taken in, as they were not refused.
                    let taken = self.talking.numbers.range(..watch).count();
                    if code == GoodbyeCode::Full && taken > 0 {
                        if let Some(hearing) = self.watches.remove(&id) {
                            self.forget(&hearing);
                        }
                        Lines::elsewhere(&self.config, self.registry, self.id, id, taken);
                    } else {
                        self.leave(id, &TalkError::Goodbye { code, detail });
                    }
                }
                _ => {}
            }
        }
    }

    /// One watch is not told of any more, which the others are; it is asked for again later.
    fn leave(&mut self, id: WatchId, error: &TalkError) {
        let Some(mut watch) = self.watches.remove(&id) else { return };
        self.forget(&watch);
        let (refuses, now) = (error.is_final(), Instant::now());
        watch.shared.lost(
            self.registry,
            self.memory,
            (self.address.clone(), error.to_string()),
            refuses,
        );
        let interest = &watch.shared.interest;
        warn!(registry = %self.address, %interest, %error, "a watch is not told of");
        if let State::Asked(_, at) | State::Heard(_, at) = watch.state
            && now.saturating_duration_since(at) > STABLE
        {
            watch.failures = 0;
        }
        let wait = if refuses { self.config.retry.1 } else { self.config.wait(watch.failures) };
        watch.failures = watch.failures.saturating_add(1);
        watch.is_due(now + wait);
        self.watches.insert(id, watch);
    }

    /// Says which watches are no more, and asks for those that are due, as many as may be at a time. When there is
    /// something to be asked for again, if that is not when something else happens.
    fn ask(&mut self, mouth: &mut Mouth) -> Result<Option<Instant>, TalkError> {
        let (now, talking) = (Instant::now(), &mut self.talking);
        let (since, mut said) = match talking.said {
            Some((since, said)) if now.saturating_duration_since(since) < WINDOW => (since, said),
            _ => (now, 0),
        };
        let mut is_more = !talking.unwatched.is_empty();
        while said < SAID_MAX
            && mouth.unsent() < UNSENT_BYTES_MAX
            && let Some(watch) = talking.unwatched.pop_front()
        {
            mouth.say(&Ask::Unwatch { watch })?;
            said += 1;
        }
        let mut next = None;
        for (id, watch) in &mut self.watches {
            let State::Due(at) = watch.state else { continue };
            if at > now {
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
                continue;
            }
            is_more = true;
            if said >= SAID_MAX
                || mouth.unsent() >= UNSENT_BYTES_MAX
                || talking.beginning >= BEGINNING_MAX
            {
                break;
            }
            // Numbers rise: a registry has those wait of which too many come, and ends who has one again and again.
            let number = talking.next;
            let Some(after) = number.checked_add(1) else {
                return Err(TalkError::Protocol("more watches than there are numbers"));
            };
            talking.next = after;
            mouth.say(&Ask::Watch { watch: number, interest: watch.shared.interest.clone() })?;
            talking.numbers.insert(number, *id);
            talking.beginning += 1;
            said += 1;
            watch.state = State::Asked(number, now);
        }
        talking.said = Some((since, said));
        Ok(if is_more && said >= SAID_MAX { Some(since + WINDOW) } else { next })
    }

    /// Until when the connection is kept, if nothing is watched over it.
    fn quiet(&mut self) -> Option<Instant> {
        let is_quiet = self.talking.numbers.is_empty();
        let now = Instant::now();
        self.talking.quiet = is_quiet.then(|| self.talking.quiet.unwrap_or(now));
        self.talking.quiet.map(|since| since + LINGER)
    }
}

/// For so many heartbeats what a registry told counts beside others when it is not heard any more.
const MEMORY_BEATS: u32 = 30;
/// A connection, or a watch, that lasted so long is a success.
const STABLE: Duration = Duration::from_secs(5);
/// So long a connection is kept over which nothing is watched: who watches something else next goes on with it.
const LINGER: Duration = Duration::from_secs(1);
/// So many frames of watches are said within a window at most: what a registry takes for a flood is more.
const SAID_MAX: u32 = 800;
const WINDOW: Duration = Duration::from_secs(1);
/// So many watches at most are asked for of which not all was told yet.
const BEGINNING_MAX: usize = 64;
/// Beyond so much that waits to be sent nothing more is asked for.
const UNSENT_BYTES_MAX: usize = 16 << 10;
