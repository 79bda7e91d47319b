//! The task that owns one topic: it feeds the model and carries out what the model says.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::{Sleep, sleep_until};
use tracing::{debug, error};

use super::{
    inbox::{Entry, Inbox},
    outbox::Outbox,
    refuse::refuse,
    shared::Shared,
};
use crate::{
    Monotonic, Offset, RecordBatch, StoreError,
    model::{Command, Event, LoadTicket, SessionId, Topic},
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
        dirty: Vec::new(),
        entries: Vec::new(),
        commit: None,
        answers: Vec::new(),
        timer: None,
        ended: false,
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
    /// Sessions that were told something in this turn.
    dirty: Vec<SessionId>,
    entries: Vec<Entry>,
    commit: Option<BoxFuture<Result<crate::Committed, StoreError>>>,
    answers: Vec<Answer>,
    timer: Option<(Monotonic, Pin<Box<Sleep>>)>,
    ended: bool,
}

impl Future for TopicTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let task = self.get_mut();
        for _ in 0..TURNS_MAX {
            let mut progress = task.hear(context);
            progress |= task.poll_store(context);
            progress |= task.poll_timer(context);
            if progress {
                task.carry_out(context);
                task.wake_sessions();
                if task.ended {
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
                match entry {
                    Entry::Attach(session, outbox) => {
                        self.outboxes.insert(session, outbox);
                    }
                    Entry::Event(event) => {
                        if let Event::SessionEnded { session } = event {
                            self.outboxes.remove(&session);
                        }
                        self.topic.handle(event, now);
                    }
                }
            }
        }
        self.entries = entries;
        heard
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
        let Some(deadline) = self.topic.poll_timeout() else {
            self.timer = None;
            return false;
        };
        let environment = &self.shared.environment;
        let sleep = match &mut self.timer {
            Some((at, sleep)) => {
                if *at != deadline {
                    *at = deadline;
                    sleep.as_mut().reset(environment.instant(deadline));
                }
                sleep
            }
            empty => {
                let sleep = Box::pin(sleep_until(environment.instant(deadline)));
                &mut empty.insert((deadline, sleep)).1
            }
        };
        if sleep.as_mut().poll(context).is_pending() {
            return false;
        }
        self.timer = None;
        let mut now = environment.now();
        // Timers have a grain of a millisecond; the model must find its deadline passed.
        now.monotonic = now.monotonic.max(deadline);
        self.topic.handle_timeout(now);
        true
    }

    /// Does what the model says until it says no more.
    fn carry_out(&mut self, context: &mut Context<'_>) {
        while let Some(command) = self.topic.poll_command() {
            match command {
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
                    if outbox.push_delivery(consumer, delivery, &self.inbox) {
                        self.handle(Event::Hold { consumer, held: true });
                    }
                    self.touch(consumer.session);
                }
                Command::Reply { session, reply } => {
                    let Some(outbox) = self.outboxes.get(&session) else { continue };
                    outbox.push_reply(reply);
                    self.touch(session);
                }
                Command::Deleted => {
                    self.shared.forget(&self.inbox);
                    self.ended = true;
                }
                Command::Stopped => self.ended = true,
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
        match &event {
            Event::Committed { result: Err(error) } => {
                error!(topic = %self.inbox.topic(), %error, "commit failed");
            }
            Event::Loaded { result: Err(error), .. } => {
                error!(topic = %self.inbox.topic(), %error, "read failed");
            }
            _ => {}
        }
        let now = self.shared.environment.now();
        self.topic.handle(event, now);
    }

    fn touch(&mut self, session: SessionId) {
        if self.dirty.last() != Some(&session) {
            self.dirty.push(session);
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
        self.dirty = Vec::new();
        if self.outboxes.is_empty() && self.outboxes.capacity() > 0 {
            self.outboxes = HashMap::new();
        }
    }

    /// Answers what came too late.
    fn end(&mut self) {
        let stopping = self.shared.is_stopping();
        for entry in self.inbox.close() {
            match entry {
                Entry::Attach(session, outbox) => {
                    self.outboxes.insert(session, outbox);
                }
                Entry::Event(event) => {
                    if let Some((session, reply)) = refuse(&event, self.inbox.topic(), stopping)
                        && let Some(outbox) = self.outboxes.get(&session)
                    {
                        outbox.push_reply(reply);
                        self.dirty.push(session);
                    }
                }
            }
        }
        self.wake_sessions();
        debug!(topic = %self.inbox.topic(), "topic ended");
        self.shared.ended(&self.inbox);
    }
}

/// Turns after which the task lets others run.
const TURNS_MAX: usize = 16;
