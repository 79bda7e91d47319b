use bytes::BytesMut;
use ltq_core::{
    Records,
    protocol::{Decoder, Frame},
};

use crate::peer::bytes_of;

/// Any bytes decode to frames or are refused; what decodes can be looked at, sliced and encoded
/// again to the same frame.
pub fn decode(data: &[u8]) {
    let decoder = Decoder::new(1 << 20);
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(frame)) = decoder.decode(&mut buffer) {
        match &frame {
            Frame::Publish { records, .. } => look_at(records),
            Frame::Deliver { batch, .. } => look_at(&batch.records),
            _ => {}
        }
        let mut encoded = BytesMut::from(&bytes_of(&frame)[..]);
        let again = Decoder::new(u32::MAX).decode(&mut encoded);
        assert_eq!(again, Ok(Some(frame)));
        assert!(encoded.is_empty(), "{} bytes are left", encoded.len());
    }
}

fn look_at(records: &Records) {
    let _ = records.verify();
    assert!(records.largest() <= records.payload().len());
    assert_eq!(records.messages().count(), records.count());
    let count = records.count();
    let halves = (records.slice(0..count / 2), records.slice(count / 2..count));
    assert_eq!(halves.0.byte_len() + halves.1.byte_len(), records.byte_len());
    assert!(records.fitting(0, count, 100) <= count);
}
