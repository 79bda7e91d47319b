//! Frames to bytes and back. No IO, no allocation before a length is checked.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::{Frame, WriteQueue};
use crate::{
    ChannelName, NameError, Offset, ProducerName, RecordBatch, Records, RecordsError, Seat,
    TABLE_ENTRY_BYTES, Tag, Timestamp, TopicName,
};

/// The smallest limit that a peer may set for frames: room for any frame without bodies that
/// either side must be able to send.
pub const FRAME_BYTES_MIN: u32 = 4096;

/// The most settlements in one frame: many times what a consumer can have in flight, and few
/// enough that nobody has to wait while they are looked through.
pub const SETTLEMENTS_MAX: u32 = 16_384;

/// The types of frames, as the byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// [`Frame::Hello`]
    Hello = 1,
    /// [`Frame::Welcome`]
    Welcome = 2,
    /// [`Frame::Goodbye`]
    Goodbye = 3,
    /// [`Frame::Ping`]
    Ping = 4,
    /// [`Frame::Pong`]
    Pong = 5,
    /// [`Frame::OpenProducer`]
    OpenProducer = 16,
    /// [`Frame::ProducerOpened`]
    ProducerOpened = 17,
    /// [`Frame::ProducerRefused`]
    ProducerRefused = 18,
    /// [`Frame::Publish`]
    Publish = 19,
    /// [`Frame::Confirmed`]
    Confirmed = 20,
    /// [`Frame::PublishRefused`]
    PublishRefused = 21,
    /// [`Frame::CloseProducer`]
    CloseProducer = 22,
    /// [`Frame::Subscribe`]
    Subscribe = 32,
    /// [`Frame::Subscribed`]
    Subscribed = 33,
    /// [`Frame::SubscribeRefused`]
    SubscribeRefused = 34,
    /// [`Frame::Credit`]
    Credit = 35,
    /// [`Frame::Deliver`]
    Deliver = 36,
    /// [`Frame::Settle`]
    Settle = 37,
    /// [`Frame::Settled`]
    Settled = 38,
    /// [`Frame::Unsubscribe`]
    Unsubscribe = 39,
    /// [`Frame::SubscriptionClosed`]
    SubscriptionClosed = 40,
    /// [`Frame::Credited`]
    Credited = 41,
    /// [`Frame::Admin`]
    Admin = 48,
    /// [`Frame::AdminAnswered`]
    AdminAnswered = 49,
}

impl FrameType {
    const ALL: [Self; 24] = [
        Self::Hello,
        Self::Welcome,
        Self::Goodbye,
        Self::Ping,
        Self::Pong,
        Self::OpenProducer,
        Self::ProducerOpened,
        Self::ProducerRefused,
        Self::Publish,
        Self::Confirmed,
        Self::PublishRefused,
        Self::CloseProducer,
        Self::Subscribe,
        Self::Subscribed,
        Self::SubscribeRefused,
        Self::Credit,
        Self::Deliver,
        Self::Settle,
        Self::Settled,
        Self::Unsubscribe,
        Self::SubscriptionClosed,
        Self::Credited,
        Self::Admin,
        Self::AdminAnswered,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why bytes are not a frame. The stream cannot go on after any of them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The frame's length is beyond the limit.
    #[error("a frame of {length} bytes; the limit is {limit}")]
    TooLong {
        /// Its length.
        length: u32,
        /// The limit.
        limit: u32,
    },
    /// The frame is empty: it has not even a type.
    #[error("a frame without a type")]
    Empty,
    /// The type is not known.
    #[error("frame type {0} is not known")]
    UnknownType(u8),
    /// The header is not the one of that type, or bytes follow it.
    #[error("the header of a {0:?} frame cannot be read")]
    Header(FrameType),
    /// A name in the header breaks the rule for names.
    #[error(transparent)]
    Name(#[from] NameError),
    /// More settlements than a frame may hold.
    #[error("a frame of {count} settlements; the limit is {SETTLEMENTS_MAX}")]
    Settlements {
        /// How many it claims to hold.
        count: u64,
    },
    /// The records do not fit together.
    #[error("the records of a {kind:?} frame: {error}")]
    Records {
        /// The frame's type.
        kind: FrameType,
        /// What is wrong with them.
        error: RecordsError,
    },
}

#[derive(Serialize, Deserialize)]
struct PublishHeader {
    handle: u32,
    sequence: u64,
    durability: Option<crate::Durability>,
    base: u32,
    count: u32,
}

#[derive(Serialize, Deserialize)]
struct DeliverHeader {
    handle: u32,
    first_tag: Tag,
    attempt: u32,
    first: Offset,
    time: Timestamp,
    base: u32,
    count: u32,
}

/// Appends a frame to what is to be written. Records are not copied unless they are small.
pub fn encode(frame: &Frame, into: &mut WriteQueue) {
    use FrameType as T;
    match frame {
        Frame::Hello(hello) => plain(into, T::Hello, hello),
        Frame::Welcome(welcome) => plain(into, T::Welcome, welcome),
        Frame::Goodbye { refusal } => plain(into, T::Goodbye, refusal),
        Frame::Ping { nonce } => plain(into, T::Ping, nonce),
        Frame::Pong { nonce } => plain(into, T::Pong, nonce),
        Frame::OpenProducer { handle, topic, name, epoch, seat } => {
            plain(into, T::OpenProducer, &(handle, topic, name, epoch, seat));
        }
        Frame::ProducerOpened { handle, epoch, last_sequence, durability } => {
            plain(into, T::ProducerOpened, &(handle, epoch, last_sequence, durability));
        }
        Frame::ProducerRefused { handle, refusal } => {
            plain(into, T::ProducerRefused, &(handle, refusal));
        }
        Frame::Publish { handle, sequence, durability, records } => {
            let header = PublishHeader {
                handle: *handle,
                sequence: *sequence,
                durability: *durability,
                base: records.base(),
                count: records.count() as u32,
            };
            with_records(into, T::Publish, &header, records);
        }
        Frame::Confirmed { handle, ranges, durability } => {
            plain(into, T::Confirmed, &(handle, ranges, durability));
        }
        Frame::PublishRefused { handle, sequence, count, refusal } => {
            plain(into, T::PublishRefused, &(handle, sequence, count, refusal));
        }
        Frame::CloseProducer { handle, forget } => {
            plain(into, T::CloseProducer, &(handle, forget));
        }
        Frame::Subscribe {
            handle,
            topic,
            channel,
            start,
            timeout_ms,
            credit,
            make_topic,
            seat,
        } => {
            let header = (handle, topic, channel, start, timeout_ms, credit, make_topic, seat);
            plain(into, T::Subscribe, &header);
        }
        Frame::Subscribed { handle, timeout_ms } => {
            plain(into, T::Subscribed, &(handle, timeout_ms));
        }
        Frame::SubscribeRefused { handle, refusal } => {
            plain(into, T::SubscribeRefused, &(handle, refusal));
        }
        Frame::Credit { handle, total } => plain(into, T::Credit, &(handle, total)),
        Frame::Credited { handle, total } => plain(into, T::Credited, &(handle, total)),
        Frame::Deliver { handle, first_tag, attempt, batch } => {
            let header = DeliverHeader {
                handle: *handle,
                first_tag: *first_tag,
                attempt: *attempt,
                first: batch.first,
                time: batch.time,
                base: batch.records.base(),
                count: batch.records.count() as u32,
            };
            with_records(into, T::Deliver, &header, &batch.records);
        }
        Frame::Settle { handle, request, settlements } => {
            plain(into, T::Settle, &(handle, request, settlements));
        }
        Frame::Settled { handle, request, stale } => {
            plain(into, T::Settled, &(handle, request, stale));
        }
        Frame::Unsubscribe { handle } => plain(into, T::Unsubscribe, handle),
        Frame::SubscriptionClosed { handle, refusal } => {
            plain(into, T::SubscriptionClosed, &(handle, refusal));
        }
        Frame::Admin { request, action } => plain(into, T::Admin, &(request, action)),
        Frame::AdminAnswered { request, result } => {
            plain(into, T::AdminAnswered, &(request, result));
        }
    }
}

/// Takes frames out of received bytes.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    frame_bytes_max: u32,
}

impl Decoder {
    /// One that refuses frames longer than this.
    #[must_use]
    pub const fn new(frame_bytes_max: u32) -> Self {
        Self { frame_bytes_max }
    }

    /// Takes the next frame from the front of `buffer`; `None` when it is not there whole.
    ///
    /// # Errors
    /// A [`DecodeError`]: nothing after it can be read.
    pub fn decode(&self, buffer: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(length) = self.peek_length(buffer)? else { return Ok(None) };
        if buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        buffer.advance(LENGTH_BYTES);
        decode_frame(buffer.split_to(length).freeze()).map(Some)
    }

    /// How many bytes are missing to the end of the frame at the front of `buffer`, as far as it
    /// can be told: what to make room for.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`] or [`DecodeError::Empty`].
    pub fn missing(&self, buffer: &[u8]) -> Result<usize, DecodeError> {
        let whole = self.peek_length(buffer)?.map_or(LENGTH_BYTES, |n| n + LENGTH_BYTES);
        Ok(whole.saturating_sub(buffer.len()))
    }

    /// Whether the frame at the front of `buffer` is a [`Frame::Publish`], as far as it can be told.
    #[must_use]
    pub fn is_publish(&self, buffer: &[u8]) -> bool {
        buffer.get(LENGTH_BYTES).is_some_and(|kind| *kind == FrameType::Publish as u8)
    }

    fn peek_length(&self, mut buffer: &[u8]) -> Result<Option<usize>, DecodeError> {
        if buffer.len() < LENGTH_BYTES {
            return Ok(None);
        }
        let length = buffer.get_u32_le();
        if length > self.frame_bytes_max {
            return Err(DecodeError::TooLong { length, limit: self.frame_bytes_max });
        }
        if length == 0 {
            return Err(DecodeError::Empty);
        }
        Ok(Some(length as usize))
    }
}

const LENGTH_BYTES: usize = 4;

fn decode_frame(mut frame: Bytes) -> Result<Frame, DecodeError> {
    use FrameType as T;
    if frame.is_empty() {
        return Err(DecodeError::Empty);
    }
    let byte = frame.get_u8();
    let kind = FrameType::from_byte(byte).ok_or(DecodeError::UnknownType(byte))?;
    Ok(match kind {
        T::Hello => Frame::Hello(header(kind, &frame)?),
        T::Welcome => Frame::Welcome(header(kind, &frame)?),
        T::Goodbye => Frame::Goodbye { refusal: header(kind, &frame)? },
        T::Ping => Frame::Ping { nonce: header(kind, &frame)? },
        T::Pong => Frame::Pong { nonce: header(kind, &frame)? },
        T::OpenProducer => {
            type Opening<'a> = (u32, &'a str, Option<&'a str>, Option<u64>, Option<Seat>);
            let (handle, topic, name, epoch, seat) =
                named(kind, &frame, |(_, topic, name, ..): &Opening<'_>| {
                    TopicName::new(topic)?;
                    name.map_or(Ok(()), |name| ProducerName::new(name).map(drop))
                })?;
            Frame::OpenProducer { handle, topic, name, epoch, seat }
        }
        T::ProducerOpened => {
            let (handle, epoch, last_sequence, durability) = header(kind, &frame)?;
            Frame::ProducerOpened { handle, epoch, last_sequence, durability }
        }
        T::ProducerRefused => {
            let (handle, refusal) = header(kind, &frame)?;
            Frame::ProducerRefused { handle, refusal }
        }
        T::Publish => {
            let (header, rest): (PublishHeader, _) = header_and_rest(kind, &frame)?;
            let records = records(kind, header.base, header.count, rest)?;
            Frame::Publish {
                handle: header.handle,
                sequence: header.sequence,
                durability: header.durability,
                records,
            }
        }
        T::Confirmed => {
            let (handle, ranges, durability) = header(kind, &frame)?;
            Frame::Confirmed { handle, ranges, durability }
        }
        T::PublishRefused => {
            let (handle, sequence, count, refusal) = header(kind, &frame)?;
            Frame::PublishRefused { handle, sequence, count, refusal }
        }
        T::CloseProducer => {
            let (handle, forget) = header(kind, &frame)?;
            Frame::CloseProducer { handle, forget }
        }
        T::Subscribe => {
            let (handle, topic, channel, start, timeout_ms, credit, make_topic, seat) =
                named(kind, &frame, |(_, topic, channel): &(u32, &str, &str)| {
                    TopicName::new(topic)?;
                    ChannelName::new(channel).map(drop)
                })?;
            Frame::Subscribe { handle, topic, channel, start, timeout_ms, credit, make_topic, seat }
        }
        T::Subscribed => {
            let (handle, timeout_ms) = header(kind, &frame)?;
            Frame::Subscribed { handle, timeout_ms }
        }
        T::SubscribeRefused => {
            let (handle, refusal) = header(kind, &frame)?;
            Frame::SubscribeRefused { handle, refusal }
        }
        T::Credit => {
            let (handle, total) = header(kind, &frame)?;
            Frame::Credit { handle, total }
        }
        T::Credited => {
            let (handle, total) = header(kind, &frame)?;
            Frame::Credited { handle, total }
        }
        T::Deliver => {
            let (header, rest): (DeliverHeader, _) = header_and_rest(kind, &frame)?;
            let records = records(kind, header.base, header.count, rest)?;
            let batch = RecordBatch { first: header.first, time: header.time, records };
            Frame::Deliver {
                handle: header.handle,
                first_tag: header.first_tag,
                attempt: header.attempt,
                batch,
            }
        }
        T::Settle => {
            // Each takes ten times as much in memory as it may take here: counted before they are
            // read.
            let counted: Result<((u32, u32, u64), _), _> = postcard::take_from_bytes(&frame);
            if let Ok(((_, _, count), _)) = counted
                && count > u64::from(SETTLEMENTS_MAX)
            {
                return Err(DecodeError::Settlements { count });
            }
            let (handle, request, settlements) = header(kind, &frame)?;
            Frame::Settle { handle, request, settlements }
        }
        T::Settled => {
            let (handle, request, stale) = header(kind, &frame)?;
            Frame::Settled { handle, request, stale }
        }
        T::Unsubscribe => Frame::Unsubscribe { handle: header(kind, &frame)? },
        T::SubscriptionClosed => {
            let (handle, refusal) = header(kind, &frame)?;
            Frame::SubscriptionClosed { handle, refusal }
        }
        T::Admin => {
            let (request, action) = header(kind, &frame)?;
            Frame::Admin { request, action }
        }
        T::AdminAnswered => {
            let (request, result) = header(kind, &frame)?;
            Frame::AdminAnswered { request, result }
        }
    })
}

/// Reads a header with names in it; where that fails, reads it again with the names as plain
/// text, to say which of them is at fault.
fn named<'a, T: DeserializeOwned, P: Deserialize<'a>>(
    kind: FrameType,
    frame: &'a Bytes,
    check: impl FnOnce(&P) -> Result<(), NameError>,
) -> Result<T, DecodeError> {
    header(kind, frame).or_else(|error| {
        if let Ok((plain, _)) = postcard::take_from_bytes(frame) {
            check(&plain)?;
        }
        Err(error)
    })
}

fn header<T: DeserializeOwned>(kind: FrameType, frame: &Bytes) -> Result<T, DecodeError> {
    let (header, rest) = header_and_rest(kind, frame)?;
    if rest.is_empty() { Ok(header) } else { Err(DecodeError::Header(kind)) }
}

fn header_and_rest<T: DeserializeOwned>(
    kind: FrameType,
    frame: &Bytes,
) -> Result<(T, Bytes), DecodeError> {
    let (header, rest) = postcard::take_from_bytes(frame).map_err(|_| DecodeError::Header(kind))?;
    let start = frame.len() - rest.len();
    Ok((header, frame.slice(start..)))
}

fn records(
    kind: FrameType,
    base: u32,
    count: u32,
    mut rest: Bytes,
) -> Result<Records, DecodeError> {
    let table_bytes = (count as usize).saturating_mul(TABLE_ENTRY_BYTES);
    if table_bytes > rest.len() {
        let error = RecordsError::TableLength(rest.len());
        return Err(DecodeError::Records { kind, error });
    }
    let table = rest.split_to(table_bytes);
    Records::from_parts(base, table, rest).map_err(|error| DecodeError::Records { kind, error })
}

/// Writes a frame that is all header.
fn plain<T: Serialize + ?Sized>(into: &mut WriteQueue, kind: FrameType, header: &T) {
    let start = begin(into.scratch(), kind, header);
    end(into.scratch(), start, 0);
    into.commit();
}

fn with_records<T: Serialize>(
    into: &mut WriteQueue,
    kind: FrameType,
    header: &T,
    records: &Records,
) {
    let start = begin(into.scratch(), kind, header);
    end(into.scratch(), start, records.byte_len());
    into.push_bytes(records.table());
    into.push_bytes(records.payload());
    into.commit();
}

fn begin<T: Serialize + ?Sized>(scratch: &mut BytesMut, kind: FrameType, header: &T) -> usize {
    let start = scratch.len();
    scratch.put_u32_le(0);
    scratch.put_u8(kind as u8);
    let header = postcard::serialize_with_flavor(header, Scratch(scratch));
    // The flavor grows without limit, and none of the headers' types can refuse to serialize.
    debug_assert!(header.is_ok(), "{kind:?}");
    start
}

fn end(scratch: &mut BytesMut, start: usize, bodies: usize) {
    let length = (scratch.len() - start - LENGTH_BYTES + bodies) as u32;
    if let Some(place) = scratch.get_mut(start..start + LENGTH_BYTES) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

/// Lets postcard write at the end of a buffer.
struct Scratch<'a>(&'a mut BytesMut);

impl postcard::ser_flavors::Flavor for Scratch<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
