//! What of that which one producer could not publish another may.

use ltq_core::RefusalCode;

use super::calls::Failure;

/// Which failed messages go to another producer instead of to their caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// None: there is no other producer.
    Nothing,
    /// Those that were never sent.
    Unsent,
    /// Those of which it is known that they are not stored, and that another node may take.
    NotStored,
    /// All that another node may take: some may be stored twice.
    All,
}

impl Elsewhere {
    pub(crate) fn takes(self, failure: &Failure) -> bool {
        match failure {
            Failure::Closed => self != Self::Nothing,
            Failure::Refused(refusal) => {
                matches!(self, Self::NotStored | Self::All) && Fault::of(refusal.code).is_nodes()
            }
            Failure::Unknown(_) => self == Self::All,
            Failure::NotSent | Failure::Late => false,
        }
    }
}

/// Where the reason of a refusal lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// With this node, for now.
    Node,
    /// With this node, for as long as this producer lasts.
    NodeForGood,
    /// With the message, or with who publishes it: another node would say the same.
    Publisher,
}

impl Fault {
    pub(crate) const fn of(code: RefusalCode) -> Self {
        match code {
            RefusalCode::StoreFull
            | RefusalCode::StoreFailed
            | RefusalCode::OutcomeUnknown
            | RefusalCode::LimitReached
            | RefusalCode::Stopping
            | RefusalCode::Draining
            | RefusalCode::Internal
            | RefusalCode::NoSuchTopic
            | RefusalCode::DurabilityUnavailable
            | RefusalCode::Unauthorized => Self::Node,
            // The operator does not want it there.
            RefusalCode::TopicDeleted => Self::NodeForGood,
            _ => Self::Publisher,
        }
    }

    pub(crate) const fn is_nodes(self) -> bool {
        matches!(self, Self::Node | Self::NodeForGood)
    }
}

#[cfg(test)]
mod tests {
    use ltq_core::Refusal;

    use super::*;
    use crate::UnknownCause;

    #[test]
    fn what_goes_elsewhere_is_what_another_node_may_take() {
        let refused = |code| Failure::Refused(Refusal::new(code, ""));
        let unknown = Failure::Unknown(UnknownCause::ConnectionLost);
        let full = refused(RefusalCode::StoreFull);
        let cases = [
            (Failure::Closed, [false, true, true, true]),
            (full, [false, false, true, true]),
            (refused(RefusalCode::TopicDeleted), [false, false, true, true]),
            (unknown, [false, false, false, true]),
            (refused(RefusalCode::MessageTooLarge), [false; 4]),
            (refused(RefusalCode::Forbidden), [false; 4]),
            (refused(RefusalCode::Fenced), [false; 4]),
            (Failure::Late, [false; 4]),
            (Failure::NotSent, [false; 4]),
        ];
        let all = [Elsewhere::Nothing, Elsewhere::Unsent, Elsewhere::NotStored, Elsewhere::All];
        for (failure, goes) in cases {
            assert_eq!(all.map(|elsewhere| elsewhere.takes(&failure)), goes, "{failure:?}");
        }
    }
}
