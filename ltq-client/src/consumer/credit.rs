//! How much a consumer has let the broker send. No IO.

use ltq_core::Credit;

use crate::producer::Violation;

/// The window of deliveries that are not settled: as much credit as its size is given at first,
/// and again what settled deliveries took.
///
/// More is granted in large steps, so that few frames are needed, or at once when the consumer has
/// nothing left to do.
#[derive(Debug)]
pub(super) struct CreditWindow {
    /// As large as it may be.
    size_max: Credit,
    size: Credit,
    /// Totals since the subscription began.
    granted: Credit,
    received: Credit,
    settled: Credit,
}

impl CreditWindow {
    pub(super) fn new(size_max: Credit) -> Self {
        let none = Credit::default();
        Self { size_max, size: size_max, granted: none, received: none, settled: none }
    }

    /// A subscription begins: what it is given at first, of what the broker allows.
    pub(super) fn start(&mut self, allowed: Credit) -> Credit {
        *self = Self::new(self.size_max);
        // Whatever a broker says it allows, less than one message is none.
        let within = |wanted: u64, allowed: u64| wanted.min(allowed.max(1));
        self.size.messages = within(self.size_max.messages, allowed.messages);
        self.size.bytes = within(self.size_max.bytes, allowed.bytes);
        self.granted = self.size;
        self.granted
    }

    /// Messages came in.
    pub(super) fn receive(
        &mut self,
        messages: u64,
        bytes: u64,
        largest: u64,
    ) -> Result<(), Violation> {
        self.received.messages = self.received.messages.saturating_add(messages);
        self.received.bytes = self.received.bytes.saturating_add(bytes);
        // The message that uses up the last bytes may go beyond.
        let allowed = self.granted.bytes.saturating_add(largest);
        if self.received.messages > self.granted.messages || self.received.bytes > allowed {
            return Err(Violation("more messages than there was credit for"));
        }
        Ok(())
    }

    /// Deliveries are done with, so that others may take their place.
    pub(super) fn settle(&mut self, messages: u64, bytes: u64) {
        self.settled.messages = self.settled.messages.saturating_add(messages);
        self.settled.bytes = self.settled.bytes.saturating_add(bytes);
    }

    /// Whether it is time to grant more. `starving` says that the consumer has nothing left to do.
    pub(super) fn is_due(&self, starving: bool) -> bool {
        let due = |size: u64, granted: u64, received: u64, settled: u64| {
            let more = size.saturating_add(settled).saturating_sub(granted);
            let left = granted.saturating_sub(received);
            more > 0 && (more >= size.div_ceil(2) || (starving && left < size.div_ceil(2)))
        };
        let Self { size, granted, received, settled, .. } = *self;
        due(size.messages, granted.messages, received.messages, settled.messages)
            || due(size.bytes, granted.bytes, received.bytes, settled.bytes)
    }

    /// The new total to grant, if it is time for one.
    pub(super) fn poll(&mut self, starving: bool) -> Option<Credit> {
        if !self.is_due(starving) {
            return None;
        }
        self.granted = Credit {
            messages: self.size.messages.saturating_add(self.settled.messages),
            bytes: self.size.bytes.saturating_add(self.settled.bytes),
        };
        Some(self.granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(messages: u64, bytes: u64) -> CreditWindow {
        let mut window = CreditWindow::new(Credit { messages, bytes });
        assert_eq!(window.start(ALL), Credit { messages, bytes });
        window
    }

    const ALL: Credit = Credit { messages: u64::MAX, bytes: u64::MAX };

    #[test]
    fn a_broker_that_allows_less_is_asked_for_less_and_one_that_allows_more_again_for_more() {
        let mut window = window(100, 1_000);
        let less = Credit { messages: 10, bytes: 1 << 20 };
        assert_eq!(window.start(less), Credit { messages: 10, bytes: 1_000 });
        window.receive(10, 10, 1).unwrap();
        assert!(window.receive(1, 1, 1).is_err(), "no more than it was given");
        window.settle(10, 10);
        assert_eq!(window.poll(true), Some(Credit { messages: 20, bytes: 1_010 }));
        assert_eq!(window.start(Credit::default()), Credit { messages: 1, bytes: 1 });
        assert_eq!(window.start(ALL), Credit { messages: 100, bytes: 1_000 });
    }

    #[test]
    fn credit_comes_back_in_halves_while_the_consumer_is_busy() {
        let mut window = window(10, 1000);
        window.receive(10, 100, 10).unwrap();
        window.settle(4, 40);
        assert_eq!(window.poll(false), None);
        window.settle(1, 10);
        assert_eq!(window.poll(false), Some(Credit { messages: 15, bytes: 1050 }));
        assert_eq!(window.poll(false), None);
        assert_eq!(window.poll(true), None);
    }

    #[test]
    fn credit_comes_back_at_once_when_the_consumer_starves() {
        let mut window = window(10, 1000);
        window.receive(10, 100, 10).unwrap();
        window.settle(1, 10);
        assert_eq!(window.poll(true), Some(Credit { messages: 11, bytes: 1010 }));
    }

    #[test]
    fn a_trickle_needs_no_credit_before_half_of_it_is_used() {
        let mut window = window(100, 1 << 20);
        for _ in 0..49 {
            window.receive(1, 1, 1).unwrap();
            window.settle(1, 1);
            assert_eq!(window.poll(true), None);
        }
        window.receive(1, 1, 1).unwrap();
        window.settle(1, 1);
        assert!(window.poll(true).is_some());
    }

    #[test]
    fn a_window_of_one_moves() {
        let mut window = window(1, 1);
        for sent in 1..=5 {
            window.receive(1, 300, 300).unwrap();
            assert_eq!(window.poll(true), None);
            window.settle(1, 300);
            assert_eq!(window.poll(false).unwrap().messages, 1 + sent);
        }
    }

    #[test]
    fn bytes_run_out_too() {
        let mut window = window(1000, 100);
        window.receive(2, 120, 60).unwrap();
        window.settle(2, 120);
        assert_eq!(window.poll(false), Some(Credit { messages: 1002, bytes: 220 }));
    }

    #[test]
    fn more_than_was_granted_is_a_violation() {
        assert!(window(2, 100).receive(3, 3, 1).is_err());
        assert!(window(9, 100).receive(3, 130, 20).is_err());
        window(9, 100).receive(3, 119, 20).unwrap();
        assert!(window(9, 100).receive(u64::MAX, u64::MAX, 0).is_err());
    }
}
