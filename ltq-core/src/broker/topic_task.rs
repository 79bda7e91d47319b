//! The task that owns one topic: it feeds the model and carries out what the model says.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use foldhash::{HashMap, HashMapExt};
use tokio::{
    task::yield_now,
    time::{Sleep, sleep_until},
};
use tracing::{debug, error, info};

use super::{
    holds::Hold,
    inbox::{Entry, Inbox},
    outbox::{Outbox, Outgoing},
    outstanding::LeftWithTopic,
    patience::Patience,
    refuse::{gone, refuse},
    removals::Removals,
    shared::Shared,
};
use crate::{
    AdminResponse, ChannelName, Monotonic, Now, Offset, RecordBatch, Refusal, StoreError,
    model::{Command, ConsumerId, Event, Gate, LoadTicket, Removed, Reply, SessionId, Topic},
};

/// Runs a topic until it is deleted or has stopped.
///
/// Not an `async fn`: that would keep its arguments beside the task that is made of them, twice
/// the memory of an idle topic.
pub(super) fn run(
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    topic: Topic,
) -> impl Future<Output = ()> + Send {
    TopicTask {
        shared,
        inbox,
        topic,
        outboxes: HashMap::new(),
        released: Vec::new(),
        reading: Vec::new(),
        has_read: false,
        dirty: Vec::new(),
        entries: Vec::new(),
        commit: None,
        answers: Vec::new(),
        timer: None,
        counted_bytes: 0,
        left: LeftWithTopic::default(),
        failing: false,
        reading_failed: None,
        removals: Removals::default(),
        cut: false,
        patience: Patience::default(),
        stage: Stage::Running,
    }
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An answer of the store that is not there yet.
enum Answer {
    Loaded(LoadTicket, BoxFuture<Result<Vec<RecordBatch>, StoreError>>),
    Located(LoadTicket, BoxFuture<Result<Offset, StoreError>>),
}

struct TopicTask {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    topic: Topic,
    outboxes: HashMap<SessionId, Arc<Outbox>>,
    /// Consumers that there may be room for again, as was heard in this turn.
    released: Vec<ConsumerId>,
    /// Consumers that there was room for, so that something is read for them.
    reading: Vec<ConsumerId>,
    /// Something was read.
    has_read: bool,
    /// Sessions that were told something in this turn.
    dirty: Vec<SessionId>,
    entries: Vec<Entry>,
    commit: Option<BoxFuture<Result<crate::Committed, StoreError>>>,
    answers: Vec<Answer>,
    /// Wakes this task at the topic's next moment, or before.
    timer: Option<(Monotonic, Pin<Box<Sleep>>)>,
    /// What the topic's unanswered requests count in the budget.
    counted_bytes: usize,
    left: LeftWithTopic,
    /// The last commit failed: said once, not for each of them.
    failing: bool,
    /// When it was last said that a read failed. Others may work meanwhile.
    reading_failed: Option<Monotonic>,
    removals: Removals,
    /// The store is not waited for any more.
    cut: bool,
    patience: Patience,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// The model has said its last word.
    Ended,
    /// So has this task.
    Over,
}

impl Future for TopicTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let task = self.get_mut();
        let mut progress = task.poll_store(context);
        if !progress
            && task.patience.waits(task.inbox.len())
            && pin!(yield_now()).poll(context).is_pending()
        {
            return Poll::Pending;
        }
        for _ in 0..TURNS_MAX {
            progress |= task.hear(context);
            progress |= task.poll_store(context);
            progress |= task.poll_timer(context);
            if std::mem::take(&mut progress) {
                let read = match std::mem::take(&mut task.has_read) {
                    true => std::mem::take(&mut task.reading),
                    false => Vec::new(),
                };
                task.carry_out(context);
                task.tell_channels();
                task.end_turns(read);
                task.count();
                task.wake_sessions();
                if task.stage == Stage::Ended {
                    task.end();
                    return Poll::Ready(());
                }
            } else {
                task.rest();
                return Poll::Pending;
            }
        }
        // Other tasks of this worker get their turn.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl TopicTask {
    /// Tells the model everything that came in.
    fn hear(&mut self, context: &Context<'_>) -> bool {
        let mut entries = std::mem::take(&mut self.entries);
        let heard = self.inbox.poll_drain(context, &mut entries).is_ready();
        if heard {
            let now = self.shared.environment.now();
            for entry in entries.drain(..) {
                self.counted_bytes += entry.weight();
                self.hear_one(entry, now);
            }
        }
        self.entries = entries;
        heard
    }

    fn hear_one(&mut self, entry: Entry, now: Now) {
        match entry {
            Entry::Attach(session, outbox) => {
                self.outboxes.insert(session, outbox);
            }
            Entry::Event(event) => {
                if let Event::SessionEnded { session } = event {
                    self.outboxes.remove(&session);
                }
                if let Event::Release { consumer } = event {
                    self.released.push(consumer);
                }
                self.topic.handle(event, now);
            }
            Entry::Left(behind) => self.left.leave(self.counted_bytes, behind),
            Entry::Show(outbox) => {
                let stats = AdminResponse::Topic(Box::new(self.topic.stats()));
                outbox.push(Outgoing::Own(Reply::Admin { request: 0, result: Ok(stats) }));
                outbox.wake();
            }
            Entry::Tell => {
                self.shared.catalogue.put(self.inbox.topic(), self.topic.channel_names())
            }
            Entry::Cut => {
                self.cut = true;
                self.answers.clear();
                if self.commit.take().is_some() {
                    self.handle(Event::Committed { result: Err(cut()) });
                }
            }
        }
    }

    /// Counts what the topic keeps for unanswered requests, all that was heard being counted.
    fn count(&mut self) {
        let bytes = self.topic.unanswered_bytes();
        let before = std::mem::replace(&mut self.counted_bytes, bytes);
        self.left.count(before, bytes);
        if bytes > before {
            self.shared.published.take(bytes - before);
        } else {
            self.shared.published.give_back(before - bytes);
        }
    }

    fn poll_store(&mut self, context: &mut Context<'_>) -> bool {
        let mut progress = false;
        if let Some(commit) = &mut self.commit
            && let Poll::Ready(result) = commit.as_mut().poll(context)
        {
            self.commit = None;
            self.handle(Event::Committed { result });
            progress = true;
        }
        let mut index = 0;
        while let Some(answer) = self.answers.get_mut(index) {
            let event = match answer {
                Answer::Loaded(ticket, future) => match future.as_mut().poll(context) {
                    Poll::Ready(result) => Some(Event::Loaded { ticket: *ticket, result }),
                    Poll::Pending => None,
                },
                Answer::Located(ticket, future) => match future.as_mut().poll(context) {
                    Poll::Ready(result) => Some(Event::Located { ticket: *ticket, result }),
                    Poll::Pending => None,
                },
            };
            match event {
                Some(event) => {
                    drop(self.answers.swap_remove(index));
                    self.handle(event);
                    progress = true;
                }
                None => index += 1,
            }
        }
        progress
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> bool {
        let next = self.topic.poll_timeout().into_iter().chain(self.removals.due()).min();
        let environment = &self.shared.environment;
        match (&mut self.timer, next) {
            (None, None) => return false,
            (None, Some(deadline)) => {
                let sleep = Box::pin(sleep_until(environment.instant(deadline)));
                self.timer = Some((deadline, sleep));
            }
            (Some((at, sleep)), Some(deadline)) if deadline < *at => {
                *at = deadline;
                sleep.as_mut().reset(environment.instant(deadline));
            }
            // Deadlines move back all the time; waking once too early costs less than telling the
            // timer of each of them.
            (Some(_), _) => {}
        }
        let Some((at, sleep)) = &mut self.timer else { return false };
        if sleep.as_mut().poll(context).is_pending() {
            return false;
        }
        let mut now = environment.now();
        // Timers have a grain of a millisecond; the model must find its deadline passed.
        now.monotonic = now.monotonic.max(*at);
        self.timer = None;
        if let Some(losses) = self.removals.tell(now.monotonic) {
            losses.log(self.inbox.topic());
        }
        self.topic.handle_timeout(now);
        true
    }

    /// Does what the model says until it says no more.
    fn carry_out(&mut self, context: &mut Context<'_>) {
        while let Some(command) = self.topic.poll_command(&mut Sessions {
            shared: &self.shared,
            inbox: &self.inbox,
            outboxes: &self.outboxes,
            reading: &mut self.reading,
        }) {
            match command {
                Command::Commit { .. } if self.cut => {
                    self.handle(Event::Committed { result: Err(StoreError::Closed) });
                }
                Command::Commit { batch, durability } => {
                    let store = self.shared.store.clone();
                    let mut commit: BoxFuture<_> =
                        Box::pin(async move { store.commit(batch, durability).await });
                    match commit.as_mut().poll(context) {
                        Poll::Ready(result) => self.handle(Event::Committed { result }),
                        Poll::Pending => self.commit = Some(commit),
                    }
                }
                Command::Load { ticket, from, limits } => {
                    let log = self.topic.log_name();
                    if let Some(result) = self.shared.store.try_read(log, from, limits) {
                        self.handle(Event::Loaded { ticket, result });
                        continue;
                    }
                    let (store, log) = (self.shared.store.clone(), log.clone());
                    let future = Box::pin(async move { store.read(&log, from, limits).await });
                    self.answer(context, Answer::Loaded(ticket, future));
                }
                Command::Locate { ticket, time } => {
                    let (store, log) = (self.shared.store.clone(), self.topic.log_name().clone());
                    let future = Box::pin(async move { store.offset_at(&log, time).await });
                    self.answer(context, Answer::Located(ticket, future));
                }
                Command::Deliver { consumer, delivery } => {
                    let Some(outbox) = self.outboxes.get(&consumer.session) else { continue };
                    outbox.push_delivery(consumer.handle, delivery);
                    self.touch(consumer.session);
                }
                Command::Reply { session, reply } => {
                    let Some(outbox) = self.outboxes.get(&session) else { continue };
                    outbox.push(Outgoing::Reply(reply));
                    self.touch(session);
                }
                Command::Removed(removed) => self.log_removed(removed),
                Command::Deleted => {
                    self.shared.forget(&self.inbox);
                    self.stage = Stage::Ended;
                }
                Command::Stopped => self.stage = Stage::Ended,
            }
        }
    }

    /// Keeps a future that was never polled, polling it so that it wakes this task.
    fn answer(&mut self, context: &mut Context<'_>, mut answer: Answer) {
        let event = match &mut answer {
            Answer::Loaded(ticket, future) => match future.as_mut().poll(context) {
                Poll::Ready(result) => Event::Loaded { ticket: *ticket, result },
                Poll::Pending => return self.answers.push(answer),
            },
            Answer::Located(ticket, future) => match future.as_mut().poll(context) {
                Poll::Ready(result) => Event::Located { ticket: *ticket, result },
                Poll::Pending => return self.answers.push(answer),
            },
        };
        self.handle(event);
    }

    fn handle(&mut self, event: Event) {
        self.has_read |= matches!(event, Event::Loaded { .. });
        let (doing, failure) = match &event {
            Event::Committed { result } => ("committing", result.as_ref().err()),
            // That nothing is left there is an answer.
            Event::Loaded { result: Err(StoreError::Discarded { .. }), .. } => ("", None),
            Event::Loaded { result: Err(StoreError::NoSuchLog(_)), .. }
                if self.topic.is_giving_up_log() =>
            {
                ("", None)
            }
            // The topic gave up what it had asked for.
            Event::Loaded { result: Err(StoreError::OutOfRange { bounds, .. }), .. }
                if self.topic.gave_up_before(bounds.first) =>
            {
                ("", None)
            }
            Event::Loaded { result, .. } => ("reading", result.as_ref().err()),
            _ => ("", None),
        };
        let now = self.shared.environment.now();
        let said = match &event {
            Event::Committed { .. } => {
                failure.is_some() && std::mem::replace(&mut self.failing, true)
            }
            _ => self.reading_failed.is_some_and(|at| now.monotonic < at.plus(SAID_PAUSE)),
        };
        if let Some(error) = failure.filter(|_| !said) {
            error!(topic = %self.inbox.topic(), %error, "{doing} failed");
            if !matches!(event, Event::Committed { .. }) {
                self.reading_failed = Some(now.monotonic);
            }
        } else if failure.is_none() && self.failing && matches!(event, Event::Committed { .. }) {
            self.failing = false;
            info!(topic = %self.inbox.topic(), "committing works again");
        }
        self.topic.handle(event, now);
    }

    /// Says what a limit took away, and whom it took it from.
    fn log_removed(&mut self, removed: Removed) {
        let topic = self.inbox.topic();
        let Removed { first, until, bytes, limit, dropped } = &removed;
        let messages = until.since(*first);
        debug!(%topic, %first, %until, messages, bytes, ?limit, "messages removed by a limit");
        if dropped.is_empty() {
            return;
        }
        let now = self.shared.environment.now().monotonic;
        if let Some(losses) = self.removals.note(removed, now) {
            losses.log(topic);
        }
    }

    fn touch(&mut self, session: SessionId) {
        if self.dirty.last() != Some(&session) {
            self.dirty.push(session);
        }
    }

    /// Tells whoever wants to know of channels that came or went.
    fn tell_channels(&mut self) {
        if self.topic.take_channels_changed()
            && self.stage == Stage::Running
            && self.shared.catalogue.is_kept()
        {
            self.shared.catalogue.put(self.inbox.topic(), self.topic.channel_names());
        }
    }

    /// Lets others go on where there was nothing for those who might have got something.
    fn end_turns(&mut self, mut read: Vec<ConsumerId>) {
        read.retain(|consumer| !self.reading.contains(consumer));
        let released = self.released.drain(..).map(|consumer| (consumer, false));
        for (consumer, read) in released.chain(read.into_iter().map(|consumer| (consumer, true))) {
            if let Some(outbox) = self.outboxes.get(&consumer.session) {
                outbox.turn_over(consumer.handle, read);
            }
        }
    }

    fn wake_sessions(&mut self) {
        for session in self.dirty.drain(..) {
            if let Some(outbox) = self.outboxes.get(&session) {
                outbox.wake();
            }
        }
    }

    /// Gives back what a burst needed.
    fn rest(&mut self) {
        self.entries = Vec::new();
        (self.released, self.dirty) = (Vec::new(), Vec::new());
        if self.reading.is_empty() {
            self.reading = Vec::new();
        }
        if self.outboxes.is_empty() && self.outboxes.capacity() > 0 {
            self.outboxes = HashMap::new();
        }
    }

    /// Answers what came too late.
    fn end(&mut self) {
        if std::mem::replace(&mut self.stage, Stage::Over) == Stage::Over {
            return;
        }
        if let Some(losses) = self.removals.last() {
            losses.log(self.inbox.topic());
        }
        let refusal = gone(self.inbox.topic(), self.shared.is_stopping());
        // Not under the inbox's lock: who waits for room is woken when they are dropped.
        let (mut asked, mut left) = (Vec::new(), Vec::new());
        let inbox = Arc::clone(&self.inbox);
        inbox.close(|entry| {
            self.counted_bytes += entry.weight();
            match entry {
                Entry::Attach(session, outbox) => {
                    self.outboxes.insert(session, outbox);
                }
                Entry::Event(event) => {
                    if let Some((session, reply)) = refuse(&event, &refusal)
                        && let Some(outbox) = self.outboxes.get(&session)
                    {
                        outbox.push(Outgoing::Reply(reply));
                        self.dirty.push(session);
                    }
                }
                Entry::Show(outbox) => {
                    let result = Err(refusal.clone());
                    outbox.push(Outgoing::Own(Reply::Admin { request: 0, result }));
                    asked.push(outbox);
                }
                Entry::Left(behind) => left.push(behind),
                Entry::Tell | Entry::Cut => {}
            }
        });
        drop(left);
        asked.iter().for_each(|outbox| outbox.wake());
        self.shared.published.give_back(std::mem::take(&mut self.counted_bytes));
        self.wake_sessions();
        debug!(topic = %self.inbox.topic(), "topic ended");
        self.shared.ended(&self.inbox);
    }
}

impl Drop for TopicTask {
    /// However the task ends, nobody waits for it to hear anything.
    fn drop(&mut self) {
        self.end();
    }
}

/// The sessions of a topic, as its model asks about them.
struct Sessions<'a> {
    shared: &'a Shared,
    inbox: &'a Arc<Inbox>,
    outboxes: &'a HashMap<SessionId, Arc<Outbox>>,
    reading: &'a mut Vec<ConsumerId>,
}

impl Gate for Sessions<'_> {
    fn admit(&mut self, consumer: ConsumerId, bytes: usize) -> bool {
        // Nothing is kept for a session that is gone.
        let Some(outbox) = self.outboxes.get(&consumer.session) else { return true };
        let admitted = outbox.admit(consumer, bytes, self.inbox);
        if admitted && bytes == 0 && !self.reading.contains(&consumer) {
            self.reading.push(consumer);
        }
        admitted
    }

    fn may_make(&mut self, consumer: ConsumerId, channel: &ChannelName) -> Result<(), Refusal> {
        let outbox = self.outboxes.get(&consumer.session);
        let from = outbox.and_then(|outbox| outbox.together().origin);
        let per_minute = self.shared.settings.channels_per_minute_max;
        self.shared.door.make_channel(from, self.inbox.topic(), channel, per_minute)
    }

    fn runs_reached(&mut self) {
        self.shared.holds.count(Hold::ChannelRuns);
    }
}

/// What became of a commit that is not waited for.
fn cut() -> StoreError {
    StoreError::Failed("the node stopped before the commit ended".to_owned())
}

/// That reads fail is said once in so long: a topic with consumers tries again for as long as they do.
const SAID_PAUSE: Duration = Duration::from_secs(10);
/// Turns after which the task lets others run.
const TURNS_MAX: usize = 16;
