//! The contract between a broker and whatever knows who may come in: [`Access`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::{Action, Peer, Permissions, TopicName};

/// Says who may come in, and what they may do there.
///
/// # What an implementation keeps to
///
/// - It answers from memory, at once: it is called on the threads that serve all peers. Who has to
///   ask elsewhere (a directory, another service) keeps what it learnt, and
///   [revokes](Grant::revoke) what no longer stands.
/// - It compares tokens in a time that tells nothing about them, against all that it knows.
/// - It neither logs nor shows a token.
/// - It may be called from several threads at once, and for each stream of a connection. The broker
///   counts wrong tokens and turns away who brings many, before it asks.
///
/// The same [`Grant`] may be given to any number of peers; revoking it ends all of their sessions.
pub trait Access: Send + Sync + 'static {
    /// Lets a peer in or not. `token` is what its hello, or its HTTP request, carries. It is
    /// hostile input: any text of up to [`TOKEN_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`Denied`]. The peer is told no more than that it is not let in.
    fn admit(&self, peer: &Peer, token: Option<&str>) -> Result<Grant, Denied>;
}

/// Somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// It brought no token, and proved to be nobody who needs none.
    #[error("no token")]
    NoToken,
    /// Its token is none that is known: what somebody who guesses brings. Many of them in a row
    /// make the broker turn their address away for a while.
    #[error("a wrong token")]
    WrongToken,
}

/// Who somebody is, and what they may do. Cheap to clone; all clones are one grant.
#[derive(Clone)]
pub struct Grant(Arc<Inner>);

struct Inner {
    who: Arc<str>,
    permissions: Permissions,
    revoked: AtomicBool,
}

impl Grant {
    /// A grant under a name, which is for logs: no secret.
    #[must_use]
    pub fn new(who: impl Into<String>, permissions: Permissions) -> Self {
        let revoked = AtomicBool::new(false);
        Self(Arc::new(Inner { who: who.into().into(), permissions, revoked }))
    }

    /// Its name.
    #[must_use]
    pub fn who(&self) -> &str {
        &self.0.who
    }

    /// The same, to be kept.
    pub(crate) fn owner(&self) -> Arc<str> {
        self.0.who.clone()
    }

    /// What it permits, as long as it is not revoked.
    #[must_use]
    pub fn permissions(&self) -> &Permissions {
        &self.0.permissions
    }

    /// Whether both are one grant.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Takes it back, for good. Nothing that arrives afterwards on its sessions is carried out
    /// and nothing more is delivered to them; they end within a heartbeat. What was accepted before
    /// stays accepted.
    pub fn revoke(&self) {
        self.0.revoked.store(true, Ordering::Release);
    }

    /// Whether it was taken back.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.0.revoked.load(Ordering::Acquire)
    }

    /// Whether it stands and permits this, on a topic or on the node (`None`).
    #[must_use]
    pub fn permits(&self, action: Action, topic: Option<&TopicName>) -> bool {
        let permissions = self.permissions();
        !self.is_revoked()
            && match topic {
                Some(topic) => permissions.allow(action, topic),
                None => permissions.allow_all(action),
            }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("who", &self.0.who)
            .field("permissions", &self.0.permissions)
            .field("revoked", &self.is_revoked())
            .finish()
    }
}

/// Lets everybody in, with all permissions: for programs that embed a broker, and for nodes that
/// only their own machine reaches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Everybody;

impl Access for Everybody {
    fn admit(&self, _: &Peer, _: Option<&str>) -> Result<Grant, Denied> {
        // One for each, so that whoever revokes one ends no other.
        Ok(Grant::new("everybody", Permissions::all()))
    }
}

/// Lets those in who know one secret, with all permissions.
pub struct SharedToken {
    token: String,
    grant: Grant,
}

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a token of {bytes} bytes; it must have 1 to {TOKEN_BYTES_MAX}")]
pub struct TokenError {
    /// Its length.
    pub bytes: usize,
}

impl SharedToken {
    /// Asks for this token.
    ///
    /// # Errors
    /// [`TokenError`] when it has no byte, or more than [`TOKEN_BYTES_MAX`].
    pub fn new(token: impl Into<String>) -> Result<Self, TokenError> {
        let token = token.into();
        if !(1..=TOKEN_BYTES_MAX).contains(&token.len()) {
            return Err(TokenError { bytes: token.len() });
        }
        Ok(Self { token, grant: Grant::new("token", Permissions::all()) })
    }
}

impl Access for SharedToken {
    fn admit(&self, _: &Peer, token: Option<&str>) -> Result<Grant, Denied> {
        let token = token.ok_or(Denied::NoToken)?;
        if is_same(token, &self.token) { Ok(self.grant.clone()) } else { Err(Denied::WrongToken) }
    }
}

impl fmt::Debug for SharedToken {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedToken").finish_non_exhaustive()
    }
}

/// Takes as long whatever the secret one is, its length included.
fn is_same(brought: &str, secret: &str) -> bool {
    let padded = |token: &str| {
        let mut bytes = [0; TOKEN_BYTES_MAX];
        bytes.iter_mut().zip(token.bytes()).for_each(|(to, from)| *to = from);
        bytes
    };
    let bytes = padded(brought).ct_eq(&padded(secret));
    (bytes & (brought.len() as u64).ct_eq(&(secret.len() as u64))).into()
}

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Address;

    fn peer() -> Peer {
        Peer { address: Address::new("tcp", "192.0.2.1:9"), identity: None }
    }

    #[test]
    fn promise_10_a_shared_token_is_asked_for_whole() {
        let access = SharedToken::new("secret").unwrap();
        let long = format!("secret{}", "\0".repeat(TOKEN_BYTES_MAX));
        for wrong in [&long, "", "secre", "secret\0", "secret2", "Secret", "\u{1F511}"] {
            assert_eq!(access.admit(&peer(), Some(wrong)).unwrap_err(), Denied::WrongToken);
        }
        assert_eq!(access.admit(&peer(), None).unwrap_err(), Denied::NoToken);
        let grant = access.admit(&peer(), Some("secret")).unwrap();
        assert!(grant.permits(Action::Administer, None));
        assert!(!format!("{access:?} {grant:?}").contains("secret"));
        for bytes in [0, TOKEN_BYTES_MAX + 1] {
            assert_eq!(SharedToken::new("x".repeat(bytes)).unwrap_err(), TokenError { bytes });
        }
    }

    #[test]
    fn a_revoked_grant_permits_nothing_to_any_of_its_clones() {
        let grant = Grant::new("a", Permissions::all());
        let clone = grant.clone();
        let topic = TopicName::new("t").unwrap();
        assert!(clone.permits(Action::Publish, Some(&topic)));
        grant.revoke();
        assert!(clone.is_revoked() && !clone.permits(Action::Publish, Some(&topic)));
        assert!(!Everybody.admit(&peer(), None).unwrap().is_revoked());
    }
}
