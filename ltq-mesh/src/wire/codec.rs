//! Frames to bytes and back: pure functions over buffers.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::Say;

/// The longest frame that is no message, in bytes without its length. A hello has a token of 1,024 bytes
/// and three names, a refusal as many bytes of words.
pub(crate) const CONTROL_BYTES_MAX: usize = 4 << 10;

/// What a message's frame has beside the body, at most: which kind it is, and its number.
pub(crate) const MESSAGE_HEADER_BYTES: usize = 11;

/// Why bytes are no frame. The stream cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum WireError {
    #[error("a frame of {bytes} bytes; the limit is {max}")]
    TooLong { bytes: usize, max: usize },
    #[error("a frame that cannot be read: {0}")]
    Unreadable(postcard::Error),
    #[error("a frame with {0} bytes behind its end")]
    Behind(usize),
}

/// Appends a frame, but for the body behind it, which has so many bytes.
///
/// # Errors
/// [`WireError`] for words that are too many; nothing is appended then.
pub(crate) fn encode(say: &Say, body_bytes: usize, into: &mut BytesMut) -> Result<(), WireError> {
    let header = postcard::to_stdvec(say).map_err(WireError::Unreadable)?;
    let bytes = header.len().saturating_add(body_bytes);
    let max = match say {
        Say::Message { .. } => u32::MAX as usize,
        _ => CONTROL_BYTES_MAX,
    };
    if bytes > max {
        return Err(WireError::TooLong { bytes, max });
    }
    into.put_u32_le(bytes as u32);
    into.put_slice(&header);
    Ok(())
}

/// Takes the next frame, if all of it is there, and the body of a message, which has no more bytes than so
/// many. `None` for these takes no message at all.
///
/// # Errors
/// [`WireError`], as soon as enough of the frame is there to tell.
pub(crate) fn decode(
    from: &mut BytesMut,
    body_bytes_max: Option<usize>,
) -> Result<Option<(Say, Bytes)>, WireError> {
    let Some((mut length, rest)) = from.split_at_checked(LENGTH_BYTES) else { return Ok(None) };
    let length = length.get_u32_le() as usize;
    let message_max = body_bytes_max.map_or(0, |max| max.saturating_add(MESSAGE_HEADER_BYTES));
    if length > CONTROL_BYTES_MAX.max(message_max) {
        return Err(WireError::TooLong { bytes: length, max: CONTROL_BYTES_MAX.max(message_max) });
    }
    // What is no message is short: no memory is kept for the rest of one that is not.
    if length > CONTROL_BYTES_MAX && rest.first().is_some_and(|kind| *kind != MESSAGE) {
        return Err(WireError::TooLong { bytes: length, max: CONTROL_BYTES_MAX });
    }
    let Some(frame) = rest.get(..length) else { return Ok(None) };
    let (say, body) = postcard::take_from_bytes(frame).map_err(WireError::Unreadable)?;
    let (body, header) = (body.len(), length - body.len());
    match (&say, body_bytes_max) {
        (Say::Message { .. }, Some(max)) if body > max => {
            return Err(WireError::TooLong { bytes: body, max });
        }
        (Say::Message { .. }, Some(_)) => {}
        _ if body > 0 => return Err(WireError::Behind(body)),
        _ => {}
    }
    from.advance(LENGTH_BYTES + header);
    // A short body does not keep what it was read with.
    if body < COPIED_BELOW {
        let copy = from.get(..body).map(Bytes::copy_from_slice).unwrap_or_default();
        from.advance(body);
        return Ok(Some((say, copy)));
    }
    Ok(Some((say, from.split_to(body).freeze())))
}

const LENGTH_BYTES: usize = 4;
/// The first byte of a message: the first kind of [`Say`].
const MESSAGE: u8 = 0;
/// A sixteenth of what is read at a time.
const COPIED_BELOW: usize = 4 << 10;

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
