//! Reading request bodies within bounds: of each, of one address, of all together, and of time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{body::Body, http::StatusCode};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use ltq_core::{Networks, Origin, Peer, RefusalCode};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{HttpOptions, error::ApiError};

/// Bytes of request bodies that may be held at one time, by all and by one address.
#[derive(Clone, Debug)]
pub(super) struct BodyBudget {
    room: Arc<Semaphore>,
    limit: u64,
    /// Of one address, in bytes.
    part: u64,
    /// Of one site, in bytes.
    part_of_site: u64,
    exempt: Networks,
    by_address: Arc<Mutex<BTreeMap<Origin, u64>>>,
    refused_by_address: Arc<AtomicU64>,
}

/// A body, and the room that it takes until it is dropped.
pub(super) struct HeldBody {
    pub(super) bytes: Bytes,
    _room: Room,
}

/// What one body takes, given back when it is dropped.
struct Room {
    of_all: Option<OwnedSemaphorePermit>,
    units: u64,
    counted: Option<Origin>,
    by_address: Arc<Mutex<BTreeMap<Origin, u64>>>,
}

impl Room {
    /// Who is counted: an address, and its site.
    fn scopes(counted: Option<Origin>) -> [Option<Origin>; 2] {
        [counted, counted.and_then(Origin::site)]
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.units == 0 {
            return;
        }
        let mut by_address = self.by_address.lock();
        for scope in Self::scopes(self.counted).into_iter().flatten() {
            if let Some(has) = by_address.get_mut(&scope) {
                *has = has.saturating_sub(self.units);
                if *has == 0 {
                    by_address.remove(&scope);
                }
            }
        }
    }
}

impl BodyBudget {
    /// As `options` say; the largest body that is read at all is of `largest` bytes, which one address may always
    /// have.
    pub(super) fn new(options: &HttpOptions, largest: u64) -> Self {
        let limit = options.body_bytes_total_max;
        let part = options.body_bytes_per_address_max.unwrap_or(limit / 4).max(largest);
        let as_size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let part_of_site = Origin::share_of_site(as_size(part), as_size(limit)) as u64;
        Self {
            room: Arc::new(Semaphore::new(as_size(limit / UNIT).clamp(1, Semaphore::MAX_PERMITS))),
            limit,
            part,
            part_of_site,
            exempt: options.exempt_addresses.clone(),
            by_address: Arc::default(),
            refused_by_address: Arc::default(),
        }
    }

    /// How many bodies were refused because those of their address had its part.
    pub(super) fn refused_by_address(&self) -> u64 {
        self.refused_by_address.load(Ordering::Relaxed)
    }

    /// Bytes that are held now, in whole units.
    pub(super) fn held(&self) -> u64 {
        let units = usize::try_from(self.limit / UNIT).unwrap_or(usize::MAX);
        let units = units.clamp(1, Semaphore::MAX_PERMITS);
        units.saturating_sub(self.room.available_permits()) as u64 * UNIT
    }

    /// Reads a body of `peer`, of up to `max` bytes. A body that comes slowly holds room only for what has
    /// come, so that it takes none from others; the caller bounds the time. Cancel safe.
    pub(super) async fn read(
        &self,
        peer: &Peer,
        mut body: Body,
        max: u64,
    ) -> Result<HeldBody, ApiError> {
        let too_large = || {
            let detail = format!("the body is longer than the limit of {max} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            ApiError::new(status, RefusalCode::MessageTooLarge.as_str(), detail)
        };
        let announced = body.size_hint();
        if announced.lower() > max {
            return Err(too_large());
        }
        let mut room = Room {
            of_all: None,
            units: 0,
            counted: self.exempt.origin_of_peer(peer),
            by_address: self.by_address.clone(),
        };
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
            let more = wanted.saturating_sub(room.units);
            if more > 0 {
                self.take(&mut room, more)?;
            }
            whole.push(bytes, announced.exact());
        }
        Ok(HeldBody { bytes: whole.finish(), _room: room })
    }

    fn take(&self, room: &mut Room, units: u64) -> Result<(), ApiError> {
        let full = |_| {
            let detail = format!(
                "the bodies of all requests together have reached the limit of {} bytes",
                self.limit
            );
            ApiError::refused(RefusalCode::LimitReached, detail)
        };
        let scopes = Room::scopes(room.counted);
        let parts = [("address", self.part), ("site (IPv6 /48)", self.part_of_site)];
        let mut by_address = self.by_address.lock();
        for (scope, (of, part)) in scopes.into_iter().zip(parts) {
            let has = scope.map_or(0, |scope| by_address.get(&scope).copied().unwrap_or(0));
            // The last unit of a body is rarely full, and is not refused for that.
            if scope.is_some() && (has + units - 1).saturating_mul(UNIT) >= part {
                self.refused_by_address.fetch_add(1, Ordering::Relaxed);
                let detail = format!(
                    "the bodies of all requests of this {of} have reached the limit of {part} bytes"
                );
                return Err(ApiError::refused(RefusalCode::LimitReached, detail));
            }
        }
        let permits = u32::try_from(units).unwrap_or(u32::MAX);
        let more = self.room.clone().try_acquire_many_owned(permits).map_err(full)?;
        for scope in scopes.into_iter().flatten() {
            *by_address.entry(scope).or_default() += units;
        }
        drop(by_address);
        room.units += units;
        match &mut room.of_all {
            Some(of_all) => of_all.merge(more),
            None => room.of_all = Some(more),
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
    use std::{net::SocketAddr, time::Duration};

    use ltq_core::Address;

    use super::*;

    fn chunked(parts: &[&'static [u8]]) -> Body {
        let parts: Vec<_> =
            parts.iter().map(|part| Ok::<_, std::io::Error>(Bytes::from_static(part))).collect();
        Body::from_stream(futures::stream::iter(parts))
    }

    fn budget(total: u64, part: Option<u64>, largest: u64) -> BodyBudget {
        let options = HttpOptions {
            connections_max: 1,
            connections_per_address_max: None,
            request_timeout: Duration::from_secs(1),
            body_bytes_total_max: total,
            body_bytes_per_address_max: part,
            metrics_series_max: 0,
            metrics_public: true,
            exempt_addresses: ["198.51.100.7".parse().unwrap()].into_iter().collect(),
            at_loopback: true,
        };
        BodyBudget::new(&options, largest)
    }

    fn peer(of: &str) -> Peer {
        let address = SocketAddr::new(of.parse().unwrap(), 7).to_string();
        Peer { address: Address::new("http", &address), identity: None }
    }

    #[tokio::test]
    async fn bodies_are_read_up_to_their_limit() {
        let (budget, peer) = (budget(1 << 20, None, 0), peer("127.0.0.1"));
        let body = budget.read(&peer, chunked(&[b"ab", b"", b"cd", b"e"]), 5).await.unwrap();
        assert_eq!(body.bytes, "abcde");
        let body = budget.read(&peer, Body::empty(), 5).await.unwrap();
        assert_eq!(body.bytes, "");
        for body in [chunked(&[b"abc", b"def"]), Body::from("abcdef")] {
            let error = budget.read(&peer, body, 5).await.err().unwrap();
            assert_eq!((error.status.as_u16(), error.code), (413, "message_too_large"));
        }
    }

    #[tokio::test]
    async fn promise_9_all_bodies_together_are_bounded() {
        let (budget, peer) = (budget(4 * UNIT, None, 0), peer("127.0.0.1"));
        let large: &'static [u8] = &[7; 3 * UNIT as usize];
        let held = budget.read(&peer, Body::from(large), 1 << 20).await.unwrap();
        let error = budget.read(&peer, Body::from(large), 1 << 20).await.err().unwrap();
        assert_eq!((error.status.as_u16(), error.code), (429, "limit_reached"));
        assert_eq!((budget.held(), budget.refused_by_address()), (3 * UNIT, 0));
        drop(held);
        budget.read(&peer, Body::from(large), 1 << 20).await.unwrap();
        assert_eq!((budget.room.available_permits(), budget.held()), (4, 0));
    }

    /// How many bodies of 1 KiB it can hold of those, which come from one after the other.
    async fn held(budget: &BodyBudget, of: impl IntoIterator<Item = String>) -> Vec<HeldBody> {
        let body: &'static [u8] = &[7; UNIT as usize];
        let mut held = Vec::new();
        for of in of {
            match budget.read(&peer(&of), Body::from(body), 1 << 20).await {
                Ok(body) => held.push(body),
                Err(error) => assert_eq!(error.code, "limit_reached"),
            }
        }
        held
    }

    #[tokio::test]
    async fn promise_9_bodies_of_one_address_have_a_part_at_most() {
        let one = || std::iter::repeat_n("192.0.2.1".to_owned(), 20);
        for (part, largest, expected) in [
            (None, 0, 4),
            (Some(7 * UNIT), 0, 7),
            (Some(16 * UNIT), 0, 16),
            // Whatever is read at all fits in.
            (None, 6 * UNIT - 1, 6),
            (None, 6 * UNIT, 6),
        ] {
            let budget = budget(16 * UNIT, part, largest);
            let theirs = held(&budget, one()).await;
            assert_eq!(theirs.len(), expected, "{part:?} {largest}");
            let refused = if expected == 16 { 4 } else { 20 - expected as u64 };
            assert_eq!(budget.refused_by_address(), refused);
            let mut others = held(&budget, ["192.0.2.2".to_owned()]).await;
            assert_eq!(others.len(), usize::from(expected < 16), "the rest is for others");
            drop(theirs);
            others.extend(held(&budget, one().take(1)).await);
            assert!(!others.is_empty(), "what has gone is given back");
            drop(others);
            assert!(budget.by_address.lock().is_empty(), "who has gone is forgotten");
        }
    }

    #[tokio::test]
    async fn promise_9_bodies_of_a_site_have_three_quarters_and_who_is_named_is_not_counted() {
        let budget = budget(16 * UNIT, None, 0);
        let theirs = held(&budget, (0..20).map(|n| format!("2001:db8:1:{n}::1"))).await;
        assert_eq!((theirs.len(), budget.refused_by_address()), (12, 8));
        let proxy = held(&budget, std::iter::repeat_n("198.51.100.7".to_owned(), 20)).await;
        assert_eq!((proxy.len(), budget.refused_by_address()), (4, 8), "all that was left");
    }

    #[tokio::test]
    async fn a_body_that_is_refused_halfway_gives_all_back() {
        let budget = budget(16 * UNIT, None, 0);
        let part: &'static [u8] = &[7; 3 * UNIT as usize];
        let error = budget.read(&peer("192.0.2.1"), chunked(&[part, part]), 1 << 20).await.err();
        assert_eq!(error.unwrap().code, "limit_reached");
        assert_eq!((budget.held(), budget.by_address.lock().len()), (0, 0));
    }
}
