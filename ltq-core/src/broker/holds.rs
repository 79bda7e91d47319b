//! Limits beyond which peers wait.

use std::sync::atomic::{AtomicU64, Ordering};

/// A limit beyond which nothing is refused: whoever reaches it waits until there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    PublishBytes,
    PublishBytesPerConnection,
    PublishBytesPerAddress,
    PublishBytesTotal,
    PartialBytesTotal,
    InboxEntries,
    AnswerBytes,
    AnswerBytesPerConnection,
    AnswerBytesPerAddress,
    AnswerBytesTotal,
    DeliveryBytes,
    DeliveryBytesPerAddress,
    DeliveryBytesTotal,
    Streams,
    UnknownStreams,
    OpeningStreams,
    Surveys,
    TopicLists,
    ChannelRuns,
}

impl Hold {
    const ALL: [Self; 19] = [
        Self::PublishBytes,
        Self::PublishBytesPerConnection,
        Self::PublishBytesPerAddress,
        Self::PublishBytesTotal,
        Self::PartialBytesTotal,
        Self::InboxEntries,
        Self::AnswerBytes,
        Self::AnswerBytesPerConnection,
        Self::AnswerBytesPerAddress,
        Self::AnswerBytesTotal,
        Self::DeliveryBytes,
        Self::DeliveryBytesPerAddress,
        Self::DeliveryBytesTotal,
        Self::Streams,
        Self::UnknownStreams,
        Self::OpeningStreams,
        Self::Surveys,
        Self::TopicLists,
        Self::ChannelRuns,
    ];

    /// Whether it is the publishes of a stream that wait, and nothing that comes before them.
    pub(super) const fn is_of_publishes(self) -> bool {
        matches!(
            self,
            Self::PublishBytes
                | Self::PublishBytesPerConnection
                | Self::PublishBytesPerAddress
                | Self::PublishBytesTotal
        )
    }

    /// The setting.
    const fn as_str(self) -> &'static str {
        match self {
            Self::PublishBytes => "publish_bytes_max",
            Self::PublishBytesPerConnection => "publish_bytes_per_connection_max",
            Self::PublishBytesPerAddress => "publish_bytes_per_address_max",
            Self::PublishBytesTotal => "publish_bytes_total_max",
            Self::PartialBytesTotal => "partial_bytes_total_max",
            Self::InboxEntries => "inbox_entries_max",
            Self::AnswerBytes => "answer_bytes_max",
            Self::AnswerBytesPerConnection => "answer_bytes_per_connection_max",
            Self::AnswerBytesPerAddress => "answer_bytes_per_address_max",
            Self::AnswerBytesTotal => "answer_bytes_total_max",
            Self::DeliveryBytes => "delivery_bytes_max",
            Self::DeliveryBytesPerAddress => "delivery_bytes_per_address_max",
            Self::DeliveryBytesTotal => "delivery_bytes_total_max",
            Self::Streams => "streams_max",
            Self::UnknownStreams => "unknown_streams_max",
            Self::OpeningStreams => "opening_streams_max",
            Self::Surveys => "surveys_max",
            Self::TopicLists => "topic_lists_max",
            Self::ChannelRuns => "channel_runs_max",
        }
    }
}

/// How often peers were made to wait at each limit.
#[derive(Debug, Default)]
pub(super) struct Holds([AtomicU64; Hold::ALL.len()]);

impl Holds {
    /// One began to wait.
    pub(super) fn count(&self, hold: Hold) {
        let place = Hold::ALL.iter().position(|it| *it == hold);
        if let Some(count) = place.and_then(|place| self.0.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn all(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Hold::ALL.iter().map(|hold| hold.as_str()).zip(counts).collect()
    }
}
