//! What makes a restarted listener able to tell the clients of the one before.
//!
//! To a packet of a connection that it does not know, a listener answers with a stateless reset
//! (RFC 9000, 10.3), and the client learns at once, not by its idle timeout, that its connection is
//! lost. That takes a key which is still the same after a restart, and names of connections that
//! are not tied to one run.

use std::{sync::Arc, time::Duration};

use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};

/// For a listener whose certificate's key has made this secret.
pub(super) fn endpoint_config(secret: &[u8; 32]) -> EndpointConfig {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut config = EndpointConfig::new(Arc::new(key));
    config.cid_generator(|| Box::new(RandomIds(SystemRandom::new())));
    config
}

/// Any packet may be for a connection of a listener before. Resets are shorter than what they
/// answer, and few in a second.
struct RandomIds(SystemRandom);

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        // A system out of randomness fails the handshake; an id by itself need not be secret.
        let _zeros = self.0.fill(&mut id);
        ConnectionId::new(&id)
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
