//! Frames to bytes and back.

use bytes::{Buf, BufMut, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::protocol::REGISTRY_FRAME_BYTES_MAX;

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

/// Appends a frame.
///
/// # Errors
/// [`WireError::TooLong`]; nothing is appended then.
pub(crate) fn encode(frame: &impl Serialize, into: &mut BytesMut) -> Result<(), WireError> {
    let bytes = postcard::to_stdvec(frame).map_err(WireError::Unreadable)?;
    if bytes.len() > REGISTRY_FRAME_BYTES_MAX {
        let max = REGISTRY_FRAME_BYTES_MAX;
        return Err(WireError::TooLong { bytes: bytes.len(), max });
    }
    into.put_u32_le(bytes.len() as u32);
    into.put_slice(&bytes);
    Ok(())
}

/// Takes the next frame, if all of it is there. One that is longer than `bytes_max` is none.
pub(crate) fn decode<T: DeserializeOwned>(
    from: &mut BytesMut,
    bytes_max: usize,
) -> Result<Option<T>, WireError> {
    let Some(mut length) = from.get(..LENGTH_BYTES) else { return Ok(None) };
    let length = length.get_u32_le() as usize;
    let max = bytes_max.min(REGISTRY_FRAME_BYTES_MAX);
    if length > max {
        return Err(WireError::TooLong { bytes: length, max });
    }
    let Some(frame) = from.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return Ok(None) };
    let (decoded, behind) = postcard::take_from_bytes(frame).map_err(WireError::Unreadable)?;
    if !behind.is_empty() {
        return Err(WireError::Behind(behind.len()));
    }
    from.advance(LENGTH_BYTES + length);
    Ok(Some(decoded))
}

const LENGTH_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::Interest;

    use super::{
        super::protocol::{Ask, MAGIC, REGISTRY_PROTOCOL, Say},
        *,
    };

    const ALL: usize = REGISTRY_FRAME_BYTES_MAX;

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces() {
        let hello =
            Ask::Hello { magic: MAGIC, version: REGISTRY_PROTOCOL, token: Some("t".to_owned()) };
        let asks = [
            hello,
            Ask::Beat,
            Ask::Watch { watch: 7, interest: Interest::Topic("a".parse().unwrap()) },
        ];
        let mut bytes = BytesMut::new();
        asks.iter().for_each(|ask| encode(ask, &mut bytes).unwrap());
        let (mut received, mut decoded) = (BytesMut::new(), Vec::new());
        for byte in bytes {
            received.put_u8(byte);
            while let Some(ask) = decode::<Ask>(&mut received, ALL).unwrap() {
                decoded.push(ask);
            }
        }
        assert_eq!(decoded, asks);
        assert!(received.is_empty());
    }

    #[test]
    fn what_is_no_frame_is_refused_before_memory_is_taken() {
        let mut long = BytesMut::new();
        long.put_u32_le(u32::MAX);
        let bytes = u32::MAX as usize;
        assert_eq!(decode::<Ask>(&mut long, ALL), Err(WireError::TooLong { bytes, max: ALL }));
        let mut short = BytesMut::new();
        encode(&Ask::Beat, &mut short).unwrap();
        assert_eq!(decode::<Ask>(&mut short, 0), Err(WireError::TooLong { bytes: 1, max: 0 }));
        let mut behind = BytesMut::new();
        behind.put_u32_le(3);
        behind.put_slice(&postcard::to_stdvec(&Ask::Beat).unwrap());
        behind.put_slice(&[0, 0]);
        assert_eq!(decode::<Ask>(&mut behind, ALL), Err(WireError::Behind(2)));
        let detail = "x".repeat(REGISTRY_FRAME_BYTES_MAX);
        let mut into = BytesMut::new();
        let frame = Say::NotTaken { superseded: false, detail };
        assert!(matches!(encode(&frame, &mut into), Err(WireError::TooLong { .. })));
        assert!(into.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut asks = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode::<Ask>(&mut asks, ALL) {}
            let mut says = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode::<Say>(&mut says, ALL) {}
        }
    }
}
