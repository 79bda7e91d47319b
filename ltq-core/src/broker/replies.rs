//! Replies as the frames that tell them.

use crate::{
    AdminResponse, ChannelStats, HeldUp, Limit, NodeStats, Refusal, TagRange, TopicName,
    TopicStats,
    model::{Reply, SequenceRange},
    protocol::{Frame, WriteQueue, encode},
};

/// Appends what tells a reply, in frames that are no longer than the peer reads.
pub(super) fn write(reply: Reply, frame_bytes_max: u32, into: &mut WriteQueue) {
    let room = (frame_bytes_max as usize).saturating_sub(HEADER_BYTES_MAX);
    let frame = match reply {
        Reply::Confirmed { handle, ranges, durability } => {
            let count = (room / RANGE_BYTES_MAX).max(1);
            let mut rest = ranges;
            while rest.len() > count {
                let ranges: Vec<SequenceRange> = rest.drain(..count).collect();
                encode(&Frame::Confirmed { handle, ranges, durability }, into);
            }
            Frame::Confirmed { handle, ranges: rest, durability }
        }
        Reply::Settled { handle, request, mut stale } => {
            // More than a consumer can have in flight, so that only nonsense is cut short.
            stale.truncate((room / TAGS_BYTES_MAX).max(1));
            Frame::Settled { handle, request, stale }
        }
        Reply::Admin { request, result } => {
            // An operator's answer is the only one whose size follows that of the node.
            let bytes = postcard::to_stdvec(&result).map_or(usize::MAX, |bytes| bytes.len());
            let result = if bytes <= room {
                result
            } else {
                let detail = format!(
                    "the answer has {bytes} bytes and the client reads frames of up to \
                     {frame_bytes_max}; ask for one topic at a time"
                );
                Err(Refusal::limit(Limit::Answer, detail))
            };
            Frame::AdminAnswered { request, result }
        }
        Reply::ProducerOpened { handle, epoch, last_sequence, durability } => {
            Frame::ProducerOpened { handle, epoch, last_sequence, durability }
        }
        Reply::ProducerRefused { handle, refusal } => Frame::ProducerRefused { handle, refusal },
        Reply::PublishRefused { handle, sequence, count, refusal } => {
            Frame::PublishRefused { handle, sequence, count, refusal }
        }
        Reply::Subscribed { handle, timeout } => Frame::Subscribed {
            handle,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        },
        Reply::SubscribeRefused { handle, refusal } => Frame::SubscribeRefused { handle, refusal },
        Reply::Credited { handle, total } => Frame::Credited { handle, total },
        Reply::SubscriptionClosed { handle, refusal } => {
            Frame::SubscriptionClosed { handle, refusal }
        }
    };
    encode(&frame, into);
}

/// What a reply holds beside itself.
pub(super) const fn heap_bytes(reply: &Reply) -> usize {
    match reply {
        Reply::Confirmed { ranges, .. } => ranges.capacity() * size_of::<SequenceRange>(),
        Reply::Settled { stale, .. } => stale.capacity() * size_of::<TagRange>(),
        reply => match refusal_of(reply) {
            Some(refusal) => refusal.detail.capacity(),
            None => 0,
        },
    }
}

/// What an operator's answer holds, and about as much as it is encoded. Names count whole, since those of topics
/// that are gone are kept by the answer alone.
pub(super) fn answer_bytes(result: &Result<AdminResponse, Refusal>) -> usize {
    match result {
        Ok(AdminResponse::Done) => 0,
        Ok(AdminResponse::Topics(names)) => {
            names.iter().map(|name| size_of::<TopicName>() + name.as_str().len()).sum()
        }
        Ok(AdminResponse::Topic(stats)) => topic_bytes(stats),
        Ok(AdminResponse::Stats(stats)) => {
            let held_up = stats.held_up.iter().map(|held| size_of::<HeldUp>() + held.why.len());
            let topics = stats.topics.iter().map(topic_bytes);
            size_of::<NodeStats>() + held_up.chain(topics).sum::<usize>()
        }
        Err(refusal) => refusal.detail.len(),
    }
}

fn topic_bytes(stats: &TopicStats) -> usize {
    let channel =
        |channel: &ChannelStats| size_of::<ChannelStats>() + channel.channel.as_str().len();
    let channels = stats.channels.iter().map(channel).sum::<usize>();
    size_of::<TopicStats>() + stats.topic.as_str().len() + channels
}

/// The refusal that a reply tells.
pub(super) const fn refusal_of(reply: &Reply) -> Option<&Refusal> {
    match reply {
        Reply::ProducerRefused { refusal, .. }
        | Reply::PublishRefused { refusal, .. }
        | Reply::SubscribeRefused { refusal, .. }
        | Reply::SubscriptionClosed { refusal: Some(refusal), .. }
        | Reply::Admin { result: Err(refusal), .. } => Some(refusal),
        _ => None,
    }
}

/// A frame's bytes beside the list or answer in it.
const HEADER_BYTES_MAX: usize = 32;
/// Two numbers of ten bytes, a place that there may not be, and one byte that says so.
const RANGE_BYTES_MAX: usize = 31;
/// Two tags.
const TAGS_BYTES_MAX: usize = 20;
