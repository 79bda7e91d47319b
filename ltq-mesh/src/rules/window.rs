//! What was sent to a peer and is not answered.
//!
//! A peer's inbox counts what it has stored of each sender, in the same step as it stores it. Numbers on the
//! wire begin at 1 with each connection. The inbox stores in their order, and nothing behind a message
//! that it does not store before its sender has confirmed to have heard of that. So what is stored of
//! the messages that were on their way when a connection was lost is always some first part of those that
//! the sender still has, and the inbox's count says how long a part: they are stored once, whatever was cut.

use std::collections::VecDeque;

use bytes::Bytes;

/// Names a message in a window; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// What the peer takes without having answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// The peer answers what was not sent, or was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NeverSent(pub(crate) u64);

/// What a new connection told of messages that were on their way when the last one was lost.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resumed<P> {
    /// Of these, that they are stored.
    pub(crate) stored: Vec<P>,
    /// Of these, nothing: the inbox is another one, or has lost its memory.
    pub(crate) forgotten: Vec<P>,
}

/// Messages to one peer in their order, each with whatever waits for its answer.
#[derive(Debug)]
pub(crate) struct Window<P> {
    entries: VecDeque<Entry<P>>,
    /// So many of them, the first ones, have a number on the connection that there is.
    on_wire: usize,
    on_wire_bytes: u64,
    /// The last number that was given on it.
    last_number: u64,
    /// The last one that was answered to be stored, with all before.
    answered: u64,
    tickets: u64,
    /// Which inbox the peer had when something was heard of it last.
    inbox: Option<u64>,
    /// What that one is known to hold.
    stored: u64,
}

#[derive(Debug)]
struct Entry<P> {
    ticket: Ticket,
    body: Bytes,
    bytes: u64,
    number: u64,
    /// It was on some connection, and may be stored.
    was_sent: bool,
    /// Nobody waits for it any more, and it is not sent again.
    is_given_up: bool,
    waiting: P,
}

impl<P> Default for Window<P> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            on_wire: 0,
            on_wire_bytes: 0,
            last_number: 0,
            answered: 0,
            tickets: 0,
            inbox: None,
            stored: 0,
        }
    }
}

impl<P> Window<P> {
    /// Takes a message in, behind all others. What room there is for it is for the caller to know.
    pub(crate) fn push(&mut self, body: Bytes, waiting: P) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let bytes = body.len() as u64;
        let entry =
            Entry { ticket, body, bytes, number: 0, was_sent: false, is_given_up: false, waiting };
        self.entries.push_back(entry);
        ticket
    }

    /// The next message to be sent on the connection that there is, and its number.
    pub(crate) fn next(&mut self, grant: Grant) -> Option<(u64, Bytes)> {
        let entry = self.entries.get_mut(self.on_wire)?;
        let is_room = self.on_wire == 0
            || (self.on_wire as u64) < grant.messages
                && self.on_wire_bytes.saturating_add(entry.bytes) <= grant.bytes;
        if !is_room {
            return None;
        }
        self.last_number += 1;
        entry.number = self.last_number;
        entry.was_sent = true;
        self.on_wire += 1;
        self.on_wire_bytes += entry.bytes;
        Some((entry.number, entry.body.clone()))
    }

    /// All up to this number are stored, but for those of which it was said that they are not.
    pub(crate) fn stored(&mut self, through: u64) -> Result<Vec<P>, NeverSent> {
        if through <= self.answered || through > self.last_number {
            return Err(NeverSent(through));
        }
        self.answered = through;
        let mut stored = Vec::new();
        while self.on_wire > 0
            && self.entries.front().is_some_and(|entry| entry.number <= through)
            && let Some(entry) = self.entries.pop_front()
        {
            self.on_wire -= 1;
            self.on_wire_bytes -= entry.bytes;
            // A count that an inbox lied about is no reason to panic.
            self.stored = self.stored.saturating_add(1);
            stored.push(entry.waiting);
        }
        Ok(stored)
    }

    /// The message of this number is not stored, and will not be.
    pub(crate) fn not_stored(&mut self, number: u64) -> Result<P, NeverSent> {
        let on_wire = self.entries.iter().take(self.on_wire);
        let at = on_wire.map(|entry| entry.number).position(|it| it == number);
        let entry = at.and_then(|at| self.entries.remove(at)).ok_or(NeverSent(number))?;
        self.on_wire -= 1;
        self.on_wire_bytes -= entry.bytes;
        Ok(entry.waiting)
    }

    /// Nobody waits for a message any more. Says whether it may have arrived; `None` when it was answered.
    /// If it cannot, it is gone. Else it keeps its place, without its body and what `release` takes with
    /// that, until it is known.
    pub(crate) fn give_up(&mut self, ticket: Ticket, release: impl FnOnce(&mut P)) -> Option<bool> {
        let at = self.entries.binary_search_by_key(&ticket, |entry| entry.ticket).ok()?;
        let entry = self.entries.get_mut(at)?;
        if entry.was_sent {
            entry.is_given_up = true;
            entry.body = Bytes::new();
            release(&mut entry.waiting);
            return Some(true);
        }
        self.entries.remove(at);
        Some(false)
    }

    /// The connection is lost.
    pub(crate) fn cut(&mut self) {
        (self.on_wire, self.on_wire_bytes) = (0, 0);
        (self.last_number, self.answered) = (0, 0);
    }

    /// There is another connection, to this inbox, which has stored so many of all messages that ever came to
    /// it under our name. What is not stored is sent again, unless it was given up.
    pub(crate) fn resume(&mut self, inbox: u64, last: u64) -> Resumed<P> {
        let were_sent = self.entries.iter().take_while(|entry| entry.was_sent).count();
        let more = last.checked_sub(self.stored).and_then(|more| usize::try_from(more).ok());
        let known = more.filter(|more| self.inbox == Some(inbox) && *more <= were_sent);
        let (stored, forgotten) = match known {
            Some(more) => (more, 0),
            None => (0, were_sent),
        };
        let mut take = |count| self.entries.drain(..count).map(|entry| entry.waiting).collect();
        let resumed = Resumed { stored: take(stored), forgotten: take(forgotten) };
        self.entries.retain_mut(|entry| {
            // The inbox takes nothing more from connections before this one.
            entry.was_sent = false;
            !entry.is_given_up
        });
        (self.inbox, self.stored) = (Some(inbox), last);
        resumed
    }

    /// Takes out what the peer would not take, having more bytes than this. Before anything is sent on the
    /// connection that there is: none of it is stored.
    pub(crate) fn take_larger(&mut self, bytes_max: u64) -> Vec<P> {
        let entries = std::mem::take(&mut self.entries).into_iter();
        let (larger, rest): (VecDeque<_>, _) = entries.partition(|entry| entry.bytes > bytes_max);
        self.entries = rest;
        larger.into_iter().map(|entry| entry.waiting).collect()
    }

    /// All that is left, and whether it may have arrived.
    pub(crate) fn drain(&mut self) -> Vec<(P, bool)> {
        self.cut();
        self.entries.drain(..).map(|entry| (entry.waiting, entry.was_sent)).collect()
    }

    /// Whether nobody waits for anything in it. What was given up is known to be unknown.
    pub(crate) fn is_idle(&self) -> bool {
        self.entries.iter().all(|entry| entry.is_given_up)
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
