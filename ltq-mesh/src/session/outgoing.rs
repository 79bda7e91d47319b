//! What is to be said besides messages.

use std::{collections::VecDeque, sync::Arc};

use crate::wire::{NotStored, Say};

/// Each thing once, however often it is to be said: a peer that reads nothing makes it no longer than
/// what it may have on its way.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    resume: Option<Say>,
    has_resumed: bool,
    ping: bool,
    pong: bool,
    stored: Option<u64>,
    /// No more than messages that were taken, each answered once.
    not_stored: VecDeque<(u64, Arc<NotStored>)>,
    /// No more than messages that were sent, each answered once.
    heard: VecDeque<u64>,
}

impl Outgoing {
    pub(super) fn resume(&mut self, resume: Say) {
        self.resume = Some(resume);
    }

    pub(super) fn ping(&mut self) {
        self.ping = true;
    }

    pub(super) fn pong(&mut self) {
        self.pong = true;
    }

    pub(super) fn stored(&mut self, through: u64) {
        self.stored = Some(through);
    }

    pub(super) fn not_stored(&mut self, number: u64, why: Arc<NotStored>) {
        self.not_stored.push_back((number, why));
    }

    /// How many of these wait to be said.
    pub(super) fn refusals(&self) -> usize {
        self.not_stored.len()
    }

    pub(super) fn heard(&mut self, number: u64) {
        self.heard.push_back(number);
    }

    /// Whether the peer was told of the inbox.
    pub(super) const fn has_resumed(&self) -> bool {
        self.has_resumed
    }

    /// What is to be said next. What is not stored goes before what is: the peer takes all that it was not
    /// told otherwise of for stored.
    pub(super) fn next(&mut self) -> Option<Say> {
        if let Some(resume) = self.resume.take() {
            self.has_resumed = true;
            return Some(resume);
        }
        if std::mem::take(&mut self.pong) {
            return Some(Say::Pong);
        }
        if std::mem::take(&mut self.ping) {
            return Some(Say::Ping);
        }
        if let Some((number, why)) = self.not_stored.pop_front() {
            return Some(Say::NotStored { number, why: Arc::unwrap_or_clone(why) });
        }
        if let Some(number) = self.heard.pop_front() {
            return Some(Say::Heard { number });
        }
        self.stored.take().map(|through| Say::Stored { through })
    }
}
