//! What whoever lends a consumer its credit sees of it, and how it is lent.

use ltq_core::Credit;

use super::{ConsumerShared, End};
use crate::{CreditUse, consumer::Marks};

/// How it stands with a consumer.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// The connection by which it is subscribed; `None` while it is not.
    pub(crate) subscribed: Option<u64>,
    /// The most that the broker lets it have.
    pub(crate) allowed: Credit,
    pub(crate) credit: CreditUse,
    /// What happened since this was asked last.
    pub(crate) marks: Marks,
    /// What came by this connection.
    pub(crate) received: Credit,
    pub(crate) end: Option<End>,
}

impl ConsumerShared {
    /// How it stands. What changes after this is noted anew.
    pub(crate) fn standing(&self) -> Standing {
        if let Some(watcher) = &self.watcher {
            watcher.rest();
        }
        let mut core = self.core.lock();
        Standing {
            subscribed: core.is_subscribed.then_some(core.generation),
            allowed: core.credit.allowed(),
            credit: core.credit.usage(),
            marks: core.credit.take_marks(),
            received: core.credit.received(),
            end: core.end.clone(),
        }
    }

    /// Lends it so much, which may be none, for as long as this connection lasts. Once it is gone, so is
    /// what was lent. Returns what its credit stands at now; nothing when the connection is gone.
    pub(crate) fn lend(&self, connection: u64, credit: Credit) -> Option<CreditUse> {
        let mut core = self.core.lock();
        if core.generation != connection {
            return None;
        }
        core.credit.lend(credit);
        let usage = core.credit.usage();
        self.speak_of_credit(core);
        Some(usage)
    }

    /// Whether it is subscribed by the connection that is up.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.core.lock().is_subscribed
    }

    /// Something changed for whoever lends it its credit.
    pub(super) fn note(&self) {
        if let Some(watcher) = &self.watcher {
            watcher.note();
        }
    }

    /// It may need less than it did.
    pub(super) fn note_slack(&self) {
        if let Some(watcher) = &self.watcher {
            watcher.note_slack();
        }
    }
}
