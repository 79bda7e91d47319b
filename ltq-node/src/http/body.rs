//! Reading request bodies within bounds: of each, of all together, and of time.

use std::sync::Arc;

use axum::{body::Body, http::StatusCode};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use ltq_core::RefusalCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// Bytes of request bodies that may be held at one time.
#[derive(Clone, Debug)]
pub(super) struct BodyBudget {
    room: Arc<Semaphore>,
    limit: u64,
}

/// A body, and the room that it takes until it is dropped.
pub(super) struct HeldBody {
    pub(super) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl BodyBudget {
    pub(super) fn new(limit: u64) -> Self {
        let units = usize::try_from(limit / UNIT).unwrap_or(usize::MAX);
        Self { room: Arc::new(Semaphore::new(units.clamp(1, Semaphore::MAX_PERMITS))), limit }
    }

    /// Bytes that are held now, in whole units.
    pub(super) fn held(&self) -> u64 {
        let units = usize::try_from(self.limit / UNIT).unwrap_or(usize::MAX);
        let units = units.clamp(1, Semaphore::MAX_PERMITS);
        units.saturating_sub(self.room.available_permits()) as u64 * UNIT
    }

    /// Reads a body of up to `max` bytes. A body that comes slowly holds room only for what has
    /// come, so that it takes none from others; the caller bounds the time. Cancel safe.
    pub(super) async fn read(&self, mut body: Body, max: u64) -> Result<HeldBody, ApiError> {
        let too_large = || {
            let detail = format!("the body is longer than the limit of {max} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            ApiError::new(status, RefusalCode::MessageTooLarge.as_str(), detail)
        };
        let announced = body.size_hint();
        if announced.lower() > max {
            return Err(too_large());
        }
        let mut room: Option<OwnedSemaphorePermit> = None;
        let mut whole = Gathered::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let detail = format!("the body did not arrive whole: {error}");
                ApiError::refused(RefusalCode::Malformed, detail)
            })?;
            let Ok(bytes) = frame.into_data() else { continue };
            if (whole.len() + bytes.len()) as u64 > max {
                return Err(too_large());
            }
            let wanted = ((whole.len() + bytes.len()) as u64).div_ceil(UNIT);
            let held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) as u64;
            if wanted > held {
                self.take(&mut room, wanted - held)?;
            }
            whole.push(bytes, announced.exact());
        }
        Ok(HeldBody { bytes: whole.finish(), _room: room })
    }

    fn take(&self, room: &mut Option<OwnedSemaphorePermit>, units: u64) -> Result<(), ApiError> {
        let full = |_| {
            let detail = format!(
                "the bodies of all requests together have reached the limit of {} bytes",
                self.limit
            );
            ApiError::refused(RefusalCode::LimitReached, detail)
        };
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let more = self.room.clone().try_acquire_many_owned(units).map_err(full)?;
        match room {
            Some(room) => room.merge(more),
            None => *room = Some(more),
        }
        Ok(())
    }
}

/// The parts of a body. Most bodies come in one part, which is not copied.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    rest: BytesMut,
}

impl Gathered {
    fn len(&self) -> usize {
        self.first.len().max(self.rest.len())
    }

    fn push(&mut self, bytes: Bytes, whole: Option<u64>) {
        if self.len() == 0 {
            self.first = bytes;
            return;
        }
        if self.rest.is_empty() {
            // What was announced was checked against the limit; it is not trusted beyond a part.
            let room = whole.unwrap_or(0).min(RESERVE_MAX) as usize;
            self.rest.reserve(room.max(self.first.len() + bytes.len()));
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&bytes);
    }

    fn finish(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}

/// Bytes are counted in these units: the semaphore counts up to a few billion on small machines.
const UNIT: u64 = 1024;
/// The most memory taken for a body before its bytes are there.
const RESERVE_MAX: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn chunked(parts: &[&'static [u8]]) -> Body {
        let parts: Vec<_> =
            parts.iter().map(|part| Ok::<_, std::io::Error>(Bytes::from_static(part))).collect();
        Body::from_stream(futures::stream::iter(parts))
    }

    #[tokio::test]
    async fn bodies_are_read_up_to_their_limit() {
        let budget = BodyBudget::new(1 << 20);
        let body = budget.read(chunked(&[b"ab", b"", b"cd", b"e"]), 5).await.unwrap();
        assert_eq!(body.bytes, "abcde");
        let body = budget.read(Body::empty(), 5).await.unwrap();
        assert_eq!(body.bytes, "");
        for body in [chunked(&[b"abc", b"def"]), Body::from("abcdef")] {
            let error = budget.read(body, 5).await.err().unwrap();
            assert_eq!((error.status.as_u16(), error.code), (413, "message_too_large"));
        }
    }

    #[tokio::test]
    async fn promise_9_all_bodies_together_are_bounded() {
        let budget = BodyBudget::new(4 * UNIT);
        let large: &'static [u8] = &[7; 3 * UNIT as usize];
        let held = budget.read(Body::from(large), 1 << 20).await.unwrap();
        let error = budget.read(Body::from(large), 1 << 20).await.err().unwrap();
        assert_eq!((error.status.as_u16(), error.code), (429, "limit_reached"));
        assert_eq!(budget.held(), 3 * UNIT);
        drop(held);
        budget.read(Body::from(large), 1 << 20).await.unwrap();
        assert_eq!((budget.room.available_permits(), budget.held()), (4, 0));
    }
}
