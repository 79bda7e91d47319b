//! How much a consumer has let the broker send. No IO.

use ltq_core::Credit;

use crate::producer::Violation;

/// What a consumer's credit stands at: [`Consumer::credit_use`](crate::Consumer::credit_use).
///
/// While nothing is being made smaller, `open` and `unsettled` together are at most `size`, but for
/// the message that uses up the last bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreditUse {
    /// How much may be delivered and not settled: what was asked for, as far as the broker allows it.
    pub size: Credit,
    /// What the broker may still send as things are; part of it may be on its way. Nothing while
    /// there is no connection.
    pub open: Credit,
    /// What came and is not settled, taken or not. Nothing while there is no connection: what came by
    /// the one that was lost is void.
    pub unsettled: Credit,
}

impl CreditUse {
    /// Whether the broker may send nothing more before something is settled.
    #[must_use]
    pub const fn is_exhausted(&self) -> bool {
        self.open.messages == 0 || self.open.bytes == 0
    }

    /// Whether nothing came that is not settled.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.unsettled.messages == 0
    }
}

/// The window of deliveries that are not settled: as much credit as its size is given at first,
/// and again what settled deliveries took.
///
/// More is granted in large steps, so that few frames are needed, or at once when the consumer has
/// nothing left to do, or when the window was made larger. When it was made smaller, what the broker
/// has not used is taken back; until it has answered, all that was granted counts, and nothing more is
/// granted.
///
/// One that is lent has the size that it was lent last, which may be none, and none in each subscription
/// before it is lent some.
#[derive(Debug)]
pub(crate) struct CreditWindow {
    /// As large as it was asked to be, and as the broker lets it be.
    wanted: Credit,
    allowed: Credit,
    size: Credit,
    /// Totals since the subscription began.
    granted: Credit,
    received: Credit,
    settled: Credit,
    /// The total that the broker was asked to go back to and has not answered.
    asked: Option<Credit>,
    /// It was made larger, and what that brings is not granted yet.
    grown: bool,
    is_lent: bool,
    marks: Marks,
}

/// What happened to a window since somebody looked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The most that was unsettled at once.
    pub(crate) peak: Credit,
    /// Something came that used up what was open.
    pub(crate) was_exhausted: bool,
}

impl CreditWindow {
    pub(crate) fn new(wanted: Credit) -> Self {
        let none = Credit::default();
        Self {
            wanted,
            allowed: ALL,
            size: wanted,
            granted: none,
            received: none,
            settled: none,
            asked: None,
            grown: false,
            is_lent: false,
            marks: Marks::default(),
        }
    }

    /// One that is lent what it has.
    pub(crate) fn lent() -> Self {
        Self { is_lent: true, ..Self::new(Credit::default()) }
    }

    /// A subscription begins: what it is given at first, of what the broker allows.
    pub(crate) fn start(&mut self, allowed: Credit) -> Credit {
        *self = Self { is_lent: self.is_lent, ..Self::new(self.wanted) };
        // Whatever a broker says it allows, less than one message is none.
        self.allowed = allowed.at_least(ONE);
        self.size = self.wanted.at_most(self.allowed);
        self.granted = self.size;
        self.granted
    }

    /// The subscription is over for now, and with it all that was granted and came.
    pub(crate) fn stop(&mut self) {
        let Self { wanted, allowed, size, .. } = *self;
        *self = match self.is_lent {
            true => Self { allowed, ..Self::lent() },
            false => Self { allowed, size, ..Self::new(wanted) },
        };
    }

    /// The window is to be so large from now on, and in subscriptions to come.
    pub(crate) fn resize(&mut self, wanted: Credit) {
        self.lend(wanted.at_least(ONE));
    }

    /// The same, and it may be none.
    pub(crate) fn lend(&mut self, wanted: Credit) {
        self.wanted = wanted;
        let size = self.wanted.at_most(self.allowed);
        self.grown |= !size.is_within(self.size);
        self.size = size;
    }

    /// Messages came in.
    pub(crate) fn receive(
        &mut self,
        messages: u64,
        bytes: u64,
        largest: u64,
    ) -> Result<(), Violation> {
        self.received = self.received.plus(Credit { messages, bytes });
        let CreditUse { open, unsettled, .. } = self.usage();
        self.marks.peak = self.marks.peak.at_least(unsettled);
        self.marks.was_exhausted |= open.messages == 0 || open.bytes == 0;
        // The message that uses up the last bytes may go beyond.
        let allowed = self.granted.plus(Credit { messages: 0, bytes: largest });
        if self.received.is_within(allowed) {
            Ok(())
        } else {
            Err(Violation("more messages than there was credit for"))
        }
    }

    /// Deliveries are done with, so that others may take their place.
    pub(crate) fn settle(&mut self, messages: u64, bytes: u64) {
        self.settled = self.settled.plus(Credit { messages, bytes });
    }

    /// The broker has taken credit back: this is the total that holds now. It answers behind all that
    /// it sent until then, so that there is only one right answer.
    pub(crate) fn handle_credited(&mut self, total: Credit) -> Result<(), Violation> {
        let Some(asked) = self.asked.take() else {
            return Err(Violation("credit was taken back that was not to be"));
        };
        if total != asked.at_least(self.received) {
            return Err(Violation("credit was taken back otherwise than asked"));
        }
        self.granted = total;
        Ok(())
    }

    /// Whether there is something to say: more to grant, or something to take back. `starving` says
    /// that the consumer has nothing left to do.
    pub(crate) fn is_due(&self, starving: bool) -> bool {
        self.asked.is_none() && (self.excess().is_some() || self.is_grant_due(starving))
    }

    fn is_grant_due(&self, starving: bool) -> bool {
        let due = |size: u64, granted: u64, received: u64, settled: u64| {
            let more = size.saturating_add(settled).saturating_sub(granted);
            let left = granted.saturating_sub(received);
            let half = size.div_ceil(2);
            more > 0 && (self.grown || more >= half || (starving && left < half))
        };
        let Self { size, granted, received, settled, .. } = *self;
        due(size.messages, granted.messages, received.messages, settled.messages)
            || due(size.bytes, granted.bytes, received.bytes, settled.bytes)
    }

    /// The total to go back to, if the broker may send what there is no place for.
    fn excess(&self) -> Option<Credit> {
        let most = self.size.plus(self.settled).at_least(self.received);
        (!self.granted.is_within(most)).then(|| self.granted.at_most(most))
    }

    /// The new total to tell the broker, if it is time for one.
    pub(crate) fn poll(&mut self, starving: bool) -> Option<Credit> {
        if self.asked.is_some() {
            return None;
        }
        if let Some(less) = self.excess() {
            self.asked = Some(less);
            return Some(less);
        }
        let due = self.is_grant_due(starving);
        self.grown = false;
        if !due {
            return None;
        }
        // What came of a window that was larger may be more than there is place for now.
        self.granted = self.size.plus(self.settled).at_least(self.granted);
        Some(self.granted)
    }

    /// Whether nothing more can come before something is settled or granted.
    pub(crate) const fn is_exhausted(&self) -> bool {
        self.usage().is_exhausted()
    }

    /// Whether what can be settled makes room for nothing here, and so for others.
    pub(crate) const fn is_beyond_size(&self) -> bool {
        !self.granted.minus(self.settled).is_within(self.size)
    }

    /// What happened since this was asked last.
    pub(crate) fn take_marks(&mut self) -> Marks {
        let unsettled = self.usage().unsettled;
        std::mem::replace(&mut self.marks, Marks { peak: unsettled, was_exhausted: false })
    }

    pub(crate) const fn allowed(&self) -> Credit {
        self.allowed
    }

    pub(crate) const fn received(&self) -> Credit {
        self.received
    }

    pub(crate) const fn usage(&self) -> CreditUse {
        let Self { size, granted, received, settled, .. } = *self;
        CreditUse { size, open: granted.minus(received), unsettled: received.minus(settled) }
    }
}

const ONE: Credit = Credit { messages: 1, bytes: 1 };
const ALL: Credit = Credit { messages: u64::MAX, bytes: u64::MAX };

#[cfg(test)]
mod tests;
