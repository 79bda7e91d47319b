//! The wire protocol, as pure functions over buffers.
//!
//! Every frame is `[u32 length][u8 type][postcard header][raw bodies]`, little-endian; `length`
//! counts everything behind itself. Each stream begins with the client's [`Frame::Hello`] and the
//! broker's [`Frame::Welcome`]; until then nothing else is served. Requests are pipelined:
//! producers, subscriptions and operators' requests carry numbers that the client chose, and
//! answers name them.
//!
//! Compatibility: a peer of another major version is refused. Minor versions add frame types and
//! refusal codes only, each behind a feature bit that both sides must have offered.

mod codec;
mod frame;
mod write_queue;

pub use codec::{DecodeError, Decoder, FRAME_BYTES_MIN, FrameType, SETTLEMENTS_MAX, encode};
pub use frame::{
    Features, Frame, Hello, InstanceId, PROTOCOL_MAJOR, PROTOCOL_MINOR, PeerLimits, Welcome,
};
pub use write_queue::WriteQueue;

#[cfg(test)]
mod tests;
