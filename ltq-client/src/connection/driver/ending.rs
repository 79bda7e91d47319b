//! How the task comes to its end.

use std::{task::Poll, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{Driver, phases::Phase};
use crate::{CloseError, connection::deadline};

/// The end, as it was asked for.
pub(super) struct Stop {
    pub(super) deadline: Option<Instant>,
    after: Duration,
    /// Whoever waits for it; nobody when all handles were dropped.
    pub(super) replies: Vec<oneshot::Sender<Result<(), CloseError>>>,
    /// Nothing more will be sent.
    finished: bool,
}

impl Stop {
    pub(super) const fn new(after: Duration) -> Self {
        Self { deadline: None, after, replies: Vec::new(), finished: false }
    }
}

impl Driver {
    /// Closes the producers that were to be closed and are answered. Returns whether there were
    /// any.
    pub(super) fn close_producers(&mut self, now: Instant) -> bool {
        let before = self.closing.len();
        let producers = &mut self.producers;
        let phase = &mut self.phase;
        self.closing.retain(|handle| {
            let Some(producer) = producers.get(handle) else { return false };
            if !producer.is_done() {
                return true;
            }
            if let Phase::Up(link) = phase {
                link.leave_producer(producer, now);
            }
            producers.remove(handle);
            false
        });
        self.closing.len() < before
    }

    /// Whether the task is at its end, as it was asked.
    pub(super) fn poll_stop(&mut self, now: Instant) -> Poll<()> {
        let Some(stop) = &mut self.stop else { return Poll::Pending };
        // Somebody who asked for the end waits for word of the last settlements; who just left
        // does not.
        let awaited = if stop.replies.is_empty() { 0 } else { self.unsubscribing.len() };
        let answered = self.producers.is_empty() && awaited == 0;
        if stop.deadline.is_none_or(|deadline| now < deadline) {
            if !answered {
                return Poll::Pending;
            }
            if let Phase::Up(link) = &mut self.phase {
                if stop.deadline.is_none() {
                    let wait = deadline(now, stop.after);
                    stop.deadline = Some(wait);
                    self.timer.no_later_than(wait);
                }
                if link.finish(now) && !stop.finished {
                    stop.finished = true;
                    let wait = deadline(now, FINISH_WAIT);
                    stop.deadline = Some(stop.deadline.map_or(wait, |at| at.min(wait)));
                    self.timer.no_later_than(wait);
                }
                return Poll::Pending;
            }
        }
        let publishes = self.producers.values().map(|producer| producer.pending()).sum();
        let error = CloseError { publishes, subscriptions: awaited, after: stop.after };
        let result = if answered { Ok(()) } else { Err(error) };
        let replies = std::mem::take(&mut stop.replies);
        self.shut();
        for reply in replies {
            drop(reply.send(result.clone()));
        }
        Poll::Ready(())
    }

    /// Nobody waits for this task any longer.
    pub(super) fn shut(&mut self) {
        self.hub.close();
        self.producers.values().for_each(|producer| producer.abandon());
        self.consumers.values().for_each(|consumer| consumer.abandon());
        self.unsubscribing.values().for_each(|consumer| consumer.abandon());
    }
}

/// How long the broker may take to end the streams that this side has ended.
const FINISH_WAIT: Duration = Duration::from_secs(1);
