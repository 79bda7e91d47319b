//! What a consumer, its deliveries and the connection's task share.

mod standing;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use ltq_core::{
    ChannelName, Credit, RecordBatch, Refusal, RefusalCode, Settlement, StartAt, Tag, TagRange,
    TopicName, Verdict,
    protocol::{Frame, InstanceId},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::oneshot, time::Instant};
use tracing::debug;

use super::{
    credit::{CreditUse, CreditWindow},
    seat::{ConsumerSeat, Sitting},
    settling::{Settling, tags},
    watcher::Watcher,
};
pub(crate) use standing::Standing;

use crate::{
    SettleError, StaleError, UnknownCause,
    connection::{Hub, Opening, Place, Ready, Request, deadline},
    producer::{Violation, passes},
};

/// How a consumer was asked to be.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) topic: TopicName,
    pub(crate) channel: ChannelName,
    pub(crate) start: StartAt,
    pub(crate) timeout: Option<Duration>,
    pub(crate) credit: Credit,
    /// Whether the topic is made where it is not.
    pub(crate) make_topic: bool,
}

pub(crate) struct ConsumerShared {
    pub(crate) handle: u32,
    pub(crate) place: Place,
    pub(super) settings: Settings,
    sitting: Sitting,
    pub(super) hub: Arc<Hub>,
    /// The connection by which deliveries are valid; 0 when there is none.
    generation: AtomicU64,
    /// How long a delivery may stay unsettled, in milliseconds, as the broker said.
    timeout_ms: AtomicU64,
    /// Answers that came too late, in messages, as the broker said.
    stale: AtomicU64,
    /// Whoever lends it its credit.
    watcher: Option<Watcher>,
    core: Mutex<Core>,
}

struct Core {
    opening: Opening,
    generation: u64,
    /// The broker has said so, by the connection that is up.
    is_subscribed: bool,
    next_tag: u64,
    runs: VecDeque<Run>,
    credit: CreditWindow,
    settling: Settling<oneshot::Sender<Result<(), SettleError>>>,
    waker: Option<Waker>,
    /// The connection's task knows that there is something to send.
    queued: bool,
    end: Option<End>,
    closing: Option<Request<()>>,
}

/// Why nothing more comes.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// It was wished.
    Closed,
    /// The broker's reason, to be told once.
    Refused(Refusal),
}

/// Messages that came together.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) generation: u64,
    pub(super) first_tag: u64,
    pub(super) attempt: u32,
    pub(super) batch: RecordBatch,
    /// When the broker gives to others what is not settled of it.
    pub(super) until: Option<Instant>,
}

impl Run {
    /// Whether its time is up, so that others have it by now.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

impl ConsumerShared {
    /// With a watcher its credit is lent, and at first it has none.
    pub(super) fn new(
        hub: Arc<Hub>,
        (settings, seat): (Settings, ConsumerSeat),
        opening: Opening,
        watcher: Option<Watcher>,
    ) -> Self {
        let credit = match &watcher {
            Some(_) => CreditWindow::lent(),
            None => CreditWindow::new(settings.credit),
        };
        Self {
            handle: hub.next_handle(),
            place: Place::nowhere(),
            generation: AtomicU64::new(0),
            timeout_ms: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            watcher,
            core: Mutex::new(Core {
                opening,
                generation: 0,
                is_subscribed: false,
                next_tag: 1,
                runs: VecDeque::new(),
                credit,
                settling: Settling::default(),
                waker: None,
                queued: false,
                end: None,
                closing: None,
            }),
            sitting: seat.sit(settings.topic.clone(), settings.channel.clone()),
            settings,
            hub,
        }
    }

    /// How long a delivery may stay unsettled.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.load(Ordering::Relaxed))
    }

    /// When what is delivered or touched now is given to others.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        let timeout = self.timeout();
        (!timeout.is_zero()).then(|| deadline(now, timeout))
    }

    /// Messages whose answers came too late.
    pub(crate) fn stale(&self) -> u64 {
        self.stale.load(Ordering::Relaxed)
    }

    /// Whether deliveries of that connection can still be settled.
    pub(super) fn is_current(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    /// The next messages that came; an end once there is one.
    pub(super) fn poll_run(&self, context: &mut Context<'_>) -> Poll<Result<Run, End>> {
        let mut core = self.core.lock();
        if let Some(run) = core.runs.pop_front() {
            return Poll::Ready(Ok(run));
        }
        if let Some(end) = &core.end {
            return Poll::Ready(Err(end.clone()));
        }
        if core.waker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            core.waker = Some(context.waker().clone());
        }
        // What was settled may be granted again now that there is nothing to do.
        let wake = !core.queued && core.credit.is_due(true);
        core.queued |= wake;
        drop(core);
        if wake {
            self.hub.ready(Ready::Consumer(self.handle));
        }
        Poll::Pending
    }

    /// The next messages that came, if some wait.
    pub(super) fn try_run(&self) -> Option<Run> {
        self.core.lock().runs.pop_front()
    }

    /// Asks for more time for what nobody has taken yet.
    pub(super) fn touch_waiting(&self, now: Instant) {
        let until = self.until(now);
        let mut core = self.core.lock();
        let Core { runs, settling, .. } = &mut *core;
        let mut any = false;
        for run in runs.iter_mut().filter(|run| !run.has_expired(now)) {
            let tags = tags(run.first_tag, run.batch.records.count() as u64);
            settling.add(Settlement { tags, verdict: Verdict::Touch });
            run.until = until;
            any = true;
        }
        let wake = any && !std::mem::replace(&mut core.queued, true);
        drop(core);
        if wake {
            self.hub.ready(Ready::Consumer(self.handle));
        }
    }

    /// Answers for `count` deliveries from `first` on, which took so many bytes.
    pub(super) fn settle(
        &self,
        generation: u64,
        first: u64,
        count: u64,
        bytes: u64,
        verdict: Verdict,
    ) -> Result<(), StaleError> {
        self.add(generation, count, bytes, verdict, |settling| {
            settling.add(Settlement { tags: tags(first, count), verdict });
        })
    }

    /// As [`settle`](Self::settle), and tells the broker's word on it.
    pub(super) fn settle_confirmed(
        &self,
        generation: u64,
        first: u64,
        count: u64,
        bytes: u64,
        verdict: Verdict,
    ) -> Result<oneshot::Receiver<Result<(), SettleError>>, StaleError> {
        let (waiter, answer) = oneshot::channel();
        self.add(generation, count, bytes, verdict, |settling| {
            settling.add_confirmed(Settlement { tags: tags(first, count), verdict }, waiter);
        })?;
        Ok(answer)
    }

    fn add(
        &self,
        generation: u64,
        count: u64,
        bytes: u64,
        verdict: Verdict,
        add: impl FnOnce(&mut Settling<oneshot::Sender<Result<(), SettleError>>>),
    ) -> Result<(), StaleError> {
        let mut core = self.core.lock();
        if core.generation != generation {
            return Err(StaleError);
        }
        add(&mut core.settling);
        if verdict != Verdict::Touch {
            let is_others_room = core.credit.is_beyond_size();
            core.credit.settle(count, bytes);
            if is_others_room {
                self.note();
            } else if core.credit.usage().is_idle() {
                self.note_slack();
            }
        }
        let wake = !std::mem::replace(&mut core.queued, true);
        drop(core);
        if wake {
            self.hub.ready(Ready::Consumer(self.handle));
        }
        Ok(())
    }

    /// The window of deliveries that are not settled is to be so large.
    pub(super) fn set_credit(&self, credit: Credit) {
        let mut core = self.core.lock();
        core.credit.resize(credit);
        self.speak_of_credit(core);
    }

    /// What its credit stands at.
    pub(super) fn credit_use(&self) -> CreditUse {
        self.core.lock().credit.usage()
    }

    /// Sees to it that what is due to be said of credit is.
    fn speak_of_credit(&self, mut core: MutexGuard<'_, Core>) {
        let due = core.generation != 0 && core.credit.is_due(core.runs.is_empty());
        let wake = due && !std::mem::replace(&mut core.queued, true);
        drop(core);
        if wake {
            self.hub.ready(Ready::Consumer(self.handle));
        }
    }

    /// Whoever closes it wants to hear when that is done; at once if it is over already.
    pub(super) fn set_closing(&self, mut request: Request<()>) {
        let mut core = self.core.lock();
        match core.end {
            Some(_) => request.answer(Ok(())),
            None => core.closing = Some(request),
        }
    }
}

/// What the connection's task does with it.
impl ConsumerShared {
    /// The request to subscribe, on this connection to this server, which is this broker, unless it is over.
    pub(crate) fn subscribe_frame(
        &self,
        (server, instance): (&str, InstanceId),
        generation: u64,
        allowed: Credit,
    ) -> Option<Frame> {
        let mut core = self.core.lock();
        if core.end.is_some() {
            return None;
        }
        let Some(seat) = self.sitting.again(server, instance) else {
            let refusal = Refusal::new(RefusalCode::Fenced, "a later consumer has its seat");
            core.opening.answer(Err(refusal.clone()));
            self.end(&mut core, End::Refused(refusal));
            return None;
        };
        core.opening.sent();
        core.generation = generation;
        self.generation.store(generation, Ordering::Release);
        core.next_tag = 1;
        let credit = core.credit.start(allowed);
        let Settings { topic, channel, start, timeout, make_topic, .. } = &self.settings;
        Some(Frame::Subscribe {
            handle: self.handle,
            topic: topic.clone(),
            channel: channel.clone(),
            start: *start,
            timeout_ms: timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            credit,
            make_topic: *make_topic,
            seat: Some(seat),
        })
    }

    pub(crate) fn handle_subscribed(&self, timeout_ms: u64) -> Result<(), Violation> {
        let mut core = self.core.lock();
        if !core.opening.is_asked() {
            return Err(Violation("a subscription was opened that was not to be"));
        }
        self.timeout_ms.store(timeout_ms, Ordering::Relaxed);
        self.sitting.seated();
        core.opening.answer(Ok(()));
        core.is_subscribed = true;
        self.note();
        Ok(())
    }

    /// Returns whether to ask again later, which is by `later` then.
    pub(crate) fn handle_subscribe_refused(&self, refusal: &Refusal, later: Instant) -> bool {
        let mut core = self.core.lock();
        if core.generation == 0 {
            return false;
        }
        let first = core.opening.is_first();
        self.void(&mut core);
        if (!first && passes(refusal.code))
            || refusal.code == RefusalCode::Stopping
            || core.opening.asks_again(refusal, later)
        {
            return true;
        }
        core.opening.answer(Err(refusal.clone()));
        self.end(&mut core, End::Refused(refusal.clone()));
        false
    }

    pub(crate) fn handle_deliver(
        &self,
        first_tag: Tag,
        attempt: u32,
        batch: RecordBatch,
        now: Instant,
    ) -> Result<(), Violation> {
        let count = batch.records.count() as u64;
        let mut core = self.core.lock();
        if core.end.is_some() || core.generation == 0 {
            return Ok(());
        }
        if first_tag.0 != core.next_tag || count == 0 {
            return Err(Violation("a delivery whose tags do not follow on"));
        }
        if batch.first.0.checked_add(count).is_none() {
            return Err(Violation("a delivery with offsets beyond the last one"));
        }
        let bytes = credit_bytes(&batch);
        core.credit.receive(count, bytes, batch.records.largest() as u64)?;
        if core.credit.is_exhausted() {
            self.note();
        }
        core.next_tag = first_tag.0.saturating_add(count);
        let generation = core.generation;
        let (first_tag, until) = (first_tag.0, self.until(now));
        core.runs.push_back(Run { generation, first_tag, attempt, batch, until });
        let waker = core.waker.take();
        drop(core);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    pub(crate) fn handle_settled(&self, request: u32, stale: &[TagRange]) -> Result<(), Violation> {
        let messages =
            |range: &TagRange| (range.last.0.saturating_sub(range.first.0)).saturating_add(1);
        let late = stale.iter().map(messages).fold(0u64, u64::saturating_add);
        if late > 0 {
            debug!(handle = self.handle, late, "answers came too late");
            self.stale.fetch_add(late, Ordering::Relaxed);
        }
        if request == 0 {
            return Ok(());
        }
        let known = self.core.lock().settling.handle_settled(request, stale, |waiter, late| {
            drop(waiter.send(if late { Err(SettleError::Stale) } else { Ok(()) }));
        });
        if known { Ok(()) } else { Err(Violation("an answer to settlements that were not sent")) }
    }

    pub(crate) fn handle_credited(&self, total: Credit) -> Result<(), Violation> {
        let mut core = self.core.lock();
        if core.end.is_some() || core.generation == 0 {
            return Ok(());
        }
        core.credit.handle_credited(total)?;
        self.note();
        self.speak_of_credit(core);
        Ok(())
    }

    /// The next frame to send. Without one the consumer waits until it says that it is ready.
    pub(crate) fn poll_frame(&self, settlements_max: usize) -> Option<Frame> {
        let handle = self.handle;
        let mut core = self.core.lock();
        if core.generation != 0 {
            if let Some((request, settlements)) = core.settling.poll(settlements_max) {
                return Some(Frame::Settle { handle, request, settlements });
            }
            let starving = core.runs.is_empty();
            if let Some(total) = core.credit.poll(starving) {
                self.note_slack();
                return Some(Frame::Credit { handle, total });
            }
        }
        core.queued = false;
        None
    }

    /// Whether the connection's task knows that there is something to send, or would if it were up.
    pub(crate) fn is_queued(&self) -> bool {
        self.core.lock().queued
    }

    /// Whether the broker knows it on the connection that is up now.
    pub(crate) fn is_known(&self) -> bool {
        self.core.lock().generation != 0
    }

    /// The connection is gone, and with it every delivery.
    pub(crate) fn handle_cut(&self) {
        let mut core = self.core.lock();
        self.void(&mut core);
        core.queued = false;
        if let Some(mut closing) = core.closing.take() {
            closing.lost();
        }
    }

    /// The subscription is over, by wish or for a reason. Returns whether to subscribe again later.
    pub(crate) fn handle_closed(&self, refusal: Option<&Refusal>) -> bool {
        let mut core = self.core.lock();
        if refusal.is_some() && core.generation == 0 {
            return false;
        }
        self.void(&mut core);
        match refusal {
            Some(refusal) if passes(refusal.code) => return true,
            Some(refusal) => self.end(&mut core, End::Refused(refusal.clone())),
            None => self.end(&mut core, End::Closed),
        }
        if let Some(mut closing) = core.closing.take() {
            closing.answer(Ok(()));
        }
        false
    }

    /// There will be no connection any more.
    pub(crate) fn abandon(&self) {
        let mut core = self.core.lock();
        self.void(&mut core);
        core.opening.abandon();
        core.closing = None;
        self.end(&mut core, End::Closed);
    }

    /// Makes all deliveries void.
    fn void(&self, core: &mut Core) {
        core.generation = 0;
        core.is_subscribed = false;
        self.generation.store(0, Ordering::Release);
        self.note();
        core.opening.again();
        core.runs.clear();
        core.credit.stop();
        core.settling.clear(|waiter, sent| {
            let unknown = SettleError::Unknown(UnknownCause::ConnectionLost);
            drop(waiter.send(Err(if sent { unknown } else { SettleError::Stale })));
        });
    }

    fn end(&self, core: &mut Core, end: End) {
        core.end.get_or_insert(end);
        self.note();
        if let Some(waker) = core.waker.take() {
            waker.wake();
        }
    }
}

/// What a delivery costs of a consumer's credit in bytes: its encoded messages.
pub(super) fn credit_bytes(batch: &RecordBatch) -> u64 {
    batch.records.payload().len() as u64
}
