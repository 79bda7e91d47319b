//! What makes a restarted listener able to tell the clients of the one before.
//!
//! To a packet of a connection that it does not know, a listener answers with a stateless reset
//! (RFC 9000, 10.3), and the client learns at once, not by its idle timeout, that its connection is
//! lost. That takes a key which is still the same after a restart, and names of connections that
//! are not tied to one run.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use ring::{
    error::Unspecified,
    hmac,
    rand::{SecureRandom, SystemRandom},
};

/// For a listener whose certificate's key has made this secret.
///
/// # Errors
/// The operating system gives no randomness.
pub(super) fn endpoint_config(secret: &[u8; 32]) -> io::Result<EndpointConfig> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut config = EndpointConfig::new(Arc::new(key));
    let ids = Arc::new(Ids::new(|seed| SystemRandom::new().fill(seed))?);
    config.cid_generator(move || Box::new(RandomIds(Arc::clone(&ids))));
    Ok(config)
}

/// Names of connections that nobody can guess and that do not repeat: a count, through a keyed hash
/// whose key is chance. Chance is asked for once, when it can still be an error that there is none.
struct Ids {
    key: hmac::Key,
    next: AtomicU64,
}

impl Ids {
    fn new(fill: impl FnOnce(&mut [u8]) -> Result<(), Unspecified>) -> io::Result<Self> {
        let mut seed = [0; 32];
        fill(&mut seed)
            .map_err(|_| io::Error::other("the operating system gives no randomness"))?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &seed), next: AtomicU64::new(0) })
    }

    fn next(&self) -> ConnectionId {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let tag = hmac::sign(&self.key, &count.to_le_bytes());
        // It has 32 bytes.
        ConnectionId::new(tag.as_ref().get(..ID_BYTES).unwrap_or_default())
    }
}

/// Any packet may be for a connection of a listener before. Resets are shorter than what they
/// answer, and few in a second.
struct RandomIds(Arc<Ids>);

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.0.next()
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Enough to be unique and hard to guess.
const ID_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn without_chance_there_are_no_names_of_connections() {
        let error = Ids::new(|_| Err(Unspecified)).err().unwrap();
        assert!(error.to_string().contains("no randomness"), "{error}");
    }

    #[test]
    fn names_of_connections_have_their_length_and_do_not_repeat() {
        let ids = |seed: u8| {
            let ids = Ids::new(|bytes| {
                bytes.fill(seed);
                Ok(())
            });
            let ids = Arc::new(ids.unwrap());
            // An endpoint may ask for several generators.
            let mut generators = [RandomIds(ids.clone()), RandomIds(ids)];
            (0..2000).map(|n| generators[n % 2].generate_cid().to_vec()).collect::<Vec<_>>()
        };
        let mut seen = HashSet::new();
        for id in ids(1).into_iter().chain(ids(2)) {
            assert_eq!(id.len(), ID_BYTES);
            assert!(seen.insert(id));
        }
    }
}
