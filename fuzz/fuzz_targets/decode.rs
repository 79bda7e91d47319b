//! Any bytes decode to frames or are refused; what decodes can be looked at, sliced and encoded
//! again to the same frame.
//!
//! ```text
//! cargo +nightly fuzz run decode
//! ```
#![no_main]

use std::{
    io::{self, IoSlice},
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use ltq_core::{
    Records, SendStream,
    protocol::{Decoder, Frame, WriteQueue, encode},
};

struct Taken(BytesMut);

impl SendStream for Taken {
    fn poll_send(&mut self, _: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let before = self.0.len();
        for slice in bytes {
            self.0.extend_from_slice(slice);
        }
        Poll::Ready(Ok(self.0.len() - before))
    }
    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
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

fuzz_target!(|data: &[u8]| {
    let decoder = Decoder::new(1 << 20);
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(frame)) = decoder.decode(&mut buffer) {
        match &frame {
            Frame::Publish { records, .. } => look_at(records),
            Frame::Deliver { batch, .. } => look_at(&batch.records),
            _ => {}
        }
        let (mut queue, mut taken) = (WriteQueue::new(), Taken(BytesMut::new()));
        encode(&frame, &mut queue);
        let _ = queue.poll_flush(&mut Context::from_waker(Waker::noop()), &mut taken);
        let again = Decoder::new(u32::MAX).decode(&mut taken.0);
        assert_eq!(again, Ok(Some(frame)));
        assert!(taken.0.is_empty());
    }
});
