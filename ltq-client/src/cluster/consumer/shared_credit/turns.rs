//! How shares take turns where there are more of them than messages to share.

use std::time::Duration;

use ltq_core::Credit;
use tokio::time::Instant;

use super::{Share, SharedCredit};

/// A share's place in the line.
#[derive(Debug)]
pub(super) struct Turn {
    /// Who has the least is next. A turn in which a message came costs less than one in vain, so that
    /// credit is mostly where messages are, and everybody has his turn.
    paid: u64,
    /// It has its turn until then, or until it has used it.
    pub(super) ends: Option<Instant>,
    /// A message came that used up what it had.
    pub(super) is_used: bool,
}

impl Turn {
    /// At the end of the line as it is.
    pub(super) fn new<'a>(others: impl Iterator<Item = &'a Self>) -> Self {
        let paid = others.map(|turn| turn.paid).min().unwrap_or(0);
        Self { paid, ends: None, is_used: false }
    }

    pub(super) const fn ends_at(&self) -> Option<Instant> {
        self.ends
    }

    fn end(&mut self) {
        let price = if self.is_used { USED_PRICE } else { UNUSED_PRICE };
        *self = Self { paid: self.paid.saturating_add(price), ends: None, is_used: false };
    }
}

impl SharedCredit {
    /// Ends the turns that are over, and gives those a turn who waited longest, as far as there is room.
    pub(super) fn take_turns(&mut self, places: u64, now: Instant) {
        let Credit { messages, bytes } = self.total;
        let one = Credit { messages: messages / places.max(1), bytes: bytes / places.max(1) };
        for share in self.members() {
            share.shrink(one);
            if share.size.messages == 0 {
                continue;
            }
            let ends = *share.turn.ends.get_or_insert(now + TURN);
            if share.turn.is_used || ends <= now {
                share.turn.end();
                share.shrink(Credit::default());
            }
        }
        let mut free = self.free();
        let mut line: Vec<_> = self.members().filter(|share| is_waiting(share)).collect();
        line.sort_by_key(|share| share.turn.paid);
        for share in line {
            if !one.is_within(free) {
                break;
            }
            share.size = one.at_most(share.allowed);
            share.turn.ends = Some(now + TURN);
            share.turn.is_used = false;
            free = free.minus(one);
        }
    }
}

/// Whether it has nothing, nor what it had before.
const fn is_waiting(share: &Share) -> bool {
    share.size.messages == 0 && share.out.messages == 0
}

/// Who gets nothing in this time gives way to the next.
const TURN: Duration = Duration::from_millis(50);
const USED_PRICE: u64 = 1;
const UNUSED_PRICE: u64 = 8;
