//! What has come from a peer over a connection and is not stored yet.
//!
//! Messages are judged one after another, and stored in their order. Of one that is not going to be stored
//! the peer is told at once, and what came behind it waits until the peer has confirmed to have heard that:
//! see [`window`](super::window) for why. Judging goes on meanwhile, so that many that are rejected
//! cost one way there and back together, and not one each.

use std::collections::VecDeque;

use bytes::Bytes;
use thiserror::Error;

use super::Grant;

/// A peer that does not keep to the protocol. Its connection ends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Misbehaviour {
    #[error("message {number} came where {expected} is next")]
    Number { number: u64, expected: u64 },
    #[error("more than {0} messages were sent without an answer, or without hearing of it")]
    Messages(u64),
    #[error("more than {0} bytes were sent without an answer")]
    Bytes(u64),
    #[error("message {0} was said to be heard of, and nothing was said of it")]
    Heard(u64),
    #[error("message {0} was answered, and was not sent or was answered before")]
    Answered(u64),
}

/// The messages of one connection that wait to be judged and stored, each with the room that it takes.
#[derive(Debug)]
pub(crate) struct Arrivals<R> {
    grant: Grant,
    queue: VecDeque<Arrival<R>>,
    /// So many of them, the first ones, are judged and to be stored.
    accepted: usize,
    bytes: u64,
    last: u64,
    /// Not stored, and told so; in the order in which that was said.
    unheard: VecDeque<u64>,
}

#[derive(Debug)]
struct Arrival<R> {
    number: u64,
    body: Bytes,
    /// Given back with the message.
    _room: R,
}

impl<R> Arrivals<R> {
    /// None yet, and no more at a time than this.
    pub(crate) const fn new(grant: Grant) -> Self {
        Self {
            grant,
            queue: VecDeque::new(),
            accepted: 0,
            bytes: 0,
            last: 0,
            unheard: VecDeque::new(),
        }
    }

    /// A message has come.
    pub(crate) fn arrive(&mut self, number: u64, body: Bytes, room: R) -> Result<(), Misbehaviour> {
        self.bytes = self.check(number, body.len())?;
        self.last = number;
        self.queue.push_back(Arrival { number, body, _room: room });
        Ok(())
    }

    /// A message has come for which there is no room. It is not going to be stored.
    pub(crate) fn turn_away(&mut self, number: u64, bytes: usize) -> Result<(), Misbehaviour> {
        self.check(number, bytes)?;
        self.last = number;
        self.unheard.push_back(number);
        Ok(())
    }

    /// Whether a message may come. Says how many bytes there are with it.
    fn check(&self, number: u64, bytes: usize) -> Result<u64, Misbehaviour> {
        let expected = self.last + 1;
        if number != expected {
            return Err(Misbehaviour::Number { number, expected });
        }
        if (self.queue.len() + self.unheard.len()) as u64 >= self.grant.messages {
            return Err(Misbehaviour::Messages(self.grant.messages));
        }
        let bytes = self.bytes + bytes as u64;
        if bytes > self.grant.bytes {
            return Err(Misbehaviour::Bytes(self.grant.bytes));
        }
        Ok(bytes)
    }

    /// The next message to be judged.
    pub(crate) fn to_judge(&self) -> Option<(u64, Bytes)> {
        let arrival = self.queue.get(self.accepted)?;
        Some((arrival.number, arrival.body.clone()))
    }

    /// The message that was to be judged next is to be stored.
    pub(crate) fn accept(&mut self) {
        self.accepted = (self.accepted + 1).min(self.queue.len());
    }

    /// The message that was to be judged next is not to be stored. Says its number.
    pub(crate) fn reject(&mut self) -> Option<u64> {
        let arrival = self.queue.remove(self.accepted)?;
        self.bytes -= arrival.body.len() as u64;
        self.unheard.push_back(arrival.number);
        Some(arrival.number)
    }

    /// The peer has heard of a message that is not stored.
    pub(crate) fn heard(&mut self, number: u64) -> Result<(), Misbehaviour> {
        if self.unheard.front() != Some(&number) {
            return Err(Misbehaviour::Heard(number));
        }
        self.unheard.pop_front();
        Ok(())
    }

    /// The message whose refusal the peer is to confirm next.
    pub(crate) fn first_unheard(&self) -> Option<u64> {
        self.unheard.front().copied()
    }

    /// The messages that may be stored now, at least one if there is one, then no more than so many bytes.
    pub(crate) fn to_store(&self, bytes_max: u64) -> Vec<Bytes> {
        let before = self.unheard.iter().min().copied().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let accepted = self.queue.iter().take(self.accepted);
        let ready = accepted.take_while(|arrival| arrival.number < before).take_while(|arrival| {
            let is_first = bytes == 0;
            // What a record takes beside its body.
            bytes += arrival.body.len() as u64 + 1;
            is_first || bytes <= bytes_max
        });
        ready.map(|arrival| arrival.body.clone()).collect()
    }

    /// The first so many of them are stored. Says the number of the last one.
    pub(crate) fn stored(&mut self, count: usize) -> Option<u64> {
        let mut last = None;
        for _ in 0..count {
            last = self.pop().or(last);
        }
        last
    }

    /// The first so many of them could not be stored. Says their numbers.
    pub(crate) fn refused(&mut self, count: usize) -> Vec<u64> {
        let refused: Vec<_> = (0..count).map_while(|_| self.pop()).collect();
        self.unheard.extend(&refused);
        refused
    }

    fn pop(&mut self) -> Option<u64> {
        self.accepted = self.accepted.checked_sub(1)?;
        let arrival = self.queue.pop_front()?;
        self.bytes -= arrival.body.len() as u64;
        Some(arrival.number)
    }
}

#[cfg(test)]
#[path = "arrivals_tests.rs"]
mod tests;
