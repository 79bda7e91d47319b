//! Who a node lets in: tokens and identities of its configuration, which may change while it runs.

use std::{collections::BTreeMap, fmt};

use ltq_core::{Access, Denied, Grant, Peer, Permissions};
use parking_lot::RwLock;
use subtle::ConstantTimeEq as _;

use crate::config::{Config, TokenHash};

/// Lets in who brings a token that the configuration knows, or proves an identity that it names;
/// everybody where it has neither.
///
/// A token that is brought counts alone: if it is wrong, an identity does not help.
pub struct NodeAccess {
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    tokens: Vec<(TokenHash, Grant)>,
    identities: BTreeMap<String, Grant>,
    /// Where nobody has to say who they are.
    everybody: Option<Grant>,
}

/// What a change of the configuration did to grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantChanges {
    /// New ones, and those that permit something else than before.
    pub added: usize,
    /// Those that are gone or permitted something else: their sessions end.
    pub revoked: usize,
}

impl NodeAccess {
    /// Of what the configuration says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { known: RwLock::new(Known::new(config, &Known::default())) }
    }

    /// Whether peers have to say who they are.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.known.read().everybody.is_none()
    }

    /// Takes over what the configuration says now. Grants that are as before stand, and their
    /// sessions go on; others are revoked.
    pub fn change(&self, config: &Config) -> GrantChanges {
        let mut known = self.known.write();
        let after = Known::new(config, &known);
        let before = std::mem::replace(&mut *known, after);
        let is_in = |grant: &Grant, all: &Known| all.grants().any(|other| other.is(grant));
        let added = known.grants().filter(|grant| !is_in(grant, &before)).count();
        let gone: Vec<_> = before.grants().filter(|grant| !is_in(grant, &known)).collect();
        // Whoever comes back at once meets what is known now.
        gone.iter().for_each(|grant| grant.revoke());
        GrantChanges { added, revoked: gone.len() }
    }
}

impl Known {
    /// Of what the configuration says, with those grants of `before` that are to be the same.
    fn new(config: &Config, before: &Self) -> Self {
        let grant = |old: Option<&Grant>, who: &str, permissions: Permissions| {
            old.filter(|old| old.who() == who && *old.permissions() == permissions)
                .cloned()
                .unwrap_or_else(|| Grant::new(who, permissions))
        };
        let token = |hash: TokenHash, who: &str, permissions: Permissions| {
            let old = before.tokens.iter().find(|(old, _)| *old == hash);
            (hash, grant(old.map(|(_, grant)| grant), who, permissions))
        };
        let plain = config
            .token
            .iter()
            .map(|plain| token(TokenHash::of(&plain.0), "token", Permissions::all()));
        let tokens = config
            .tokens
            .iter()
            .map(|one| token(one.sha256, &format!("token:{}", one.name), one.permissions()));
        let identities = config.identities.iter().map(|one| {
            let name = &one.identity;
            let who = format!("identity:{name}");
            (name.clone(), grant(before.identities.get(name), &who, one.permissions()))
        });
        let everybody = (!config.authenticates())
            .then(|| grant(before.everybody.as_ref(), "everybody", Permissions::all()));
        Self { tokens: plain.chain(tokens).collect(), identities: identities.collect(), everybody }
    }

    fn grants(&self) -> impl Iterator<Item = &Grant> {
        let tokens = self.tokens.iter().map(|(_, grant)| grant);
        tokens.chain(self.identities.values()).chain(&self.everybody)
    }
}

impl Access for NodeAccess {
    fn admit(&self, peer: &Peer, token: Option<&str>) -> Result<Grant, Denied> {
        let known = self.known.read();
        if let Some(everybody) = &known.everybody {
            return Ok(everybody.clone());
        }
        let Some(token) = token else {
            let identity = peer.identity.as_ref().and_then(|name| known.identities.get(name));
            return identity.cloned().ok_or(Denied::NoToken);
        };
        let given = TokenHash::of(token);
        // All of them, and each in the same time: what does not match tells nothing.
        let mut found = None;
        for (hash, grant) in &known.tokens {
            if hash.0.ct_eq(&given.0).into() {
                found = Some(grant);
            }
        }
        found.cloned().ok_or(Denied::WrongToken)
    }
}

impl fmt::Debug for NodeAccess {
    /// The grants, without what they are given for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.known.read().grants()).finish()
    }
}

#[cfg(test)]
mod tests {
    use ltq_core::{Action, Address, TopicName, TopicPattern};

    use super::*;
    use crate::config::{IdentitySettings, TokenSettings};

    fn peer(identity: Option<&str>) -> Peer {
        let identity = identity.map(str::to_owned);
        Peer { address: Address::new("tcp", "192.0.2.1:9"), identity }
    }

    fn token(name: &str, secret: &str, publish: &str) -> TokenSettings {
        TokenSettings {
            name: name.to_owned(),
            sha256: TokenHash::of(secret),
            publish: vec![TopicPattern::new(publish).unwrap()],
            consume: Vec::new(),
            administer: Vec::new(),
        }
    }

    fn identity(name: &str) -> IdentitySettings {
        IdentitySettings {
            identity: name.to_owned(),
            publish: Vec::new(),
            consume: vec![TopicPattern::new("*").unwrap()],
            administer: Vec::new(),
        }
    }

    #[test]
    fn tokens_and_identities_are_known_and_nothing_else_is() {
        let config = Config {
            token: Some("plain".into()),
            tokens: vec![token("a", "sa", "a.*"), token("b", "sb", "b.*")],
            identities: vec![identity("alice")],
            ..Config::default()
        };
        let access = NodeAccess::new(&config);
        let who = |identity, token| {
            access.admit(&peer(identity), token).map(|grant| grant.who().to_owned())
        };
        assert_eq!(who(None, Some("plain")).unwrap(), "token");
        assert_eq!(who(None, Some("sa")).unwrap(), "token:a");
        assert_eq!(who(Some("alice"), Some("sb")).unwrap(), "token:b");
        assert_eq!(who(Some("alice"), None).unwrap(), "identity:alice");
        assert_eq!(who(Some("bob"), None), Err(Denied::NoToken));
        assert_eq!(who(None, None), Err(Denied::NoToken));
        assert_eq!(who(Some("alice"), Some("guess")), Err(Denied::WrongToken));
        // Neither the hash nor the name of a token is one.
        let hash = TokenHash::of("sa").to_string();
        for wrong in ["", "a", "token:a", "alice", &hash] {
            assert_eq!(who(None, Some(wrong)), Err(Denied::WrongToken), "{wrong}");
        }
        let shown = format!("{access:?}");
        assert!(shown.contains("token:a") && !shown.contains(&hash), "{shown}");
    }

    #[test]
    fn a_change_revokes_what_is_gone_or_different_and_nothing_else() {
        let config =
            |tokens: &[TokenSettings]| Config { tokens: tokens.to_vec(), ..Config::default() };
        let (a, b, c) = (token("a", "sa", "*"), token("b", "sb", "*"), token("c", "sc", "*"));
        let access = NodeAccess::new(&config(&[a.clone(), b, c]));
        let grant = |secret| access.admit(&peer(None), Some(secret));
        let [ga, gb, gc] = ["sa", "sb", "sc"].map(|secret| grant(secret).unwrap());
        // The first stays, the second permits less, the third is gone, a fourth is new.
        let less = token("b", "sb", "b.*");
        let changes = access.change(&config(&[token("d", "sd", "*"), less.clone(), a.clone()]));
        assert_eq!(changes, GrantChanges { added: 2, revoked: 2 });
        assert_eq!([&ga, &gb, &gc].map(Grant::is_revoked), [false, true, true]);
        assert_eq!(grant("sc").unwrap_err(), Denied::WrongToken);
        let topic = TopicName::new("x").unwrap();
        assert!(!grant("sb").unwrap().permits(Action::Publish, Some(&topic)));
        // The same once more changes nothing.
        let changes = access.change(&config(&[token("d", "sd", "*"), less, a]));
        assert_eq!(changes, GrantChanges::default());
        assert!(!ga.is_revoked());
    }

    #[test]
    fn who_came_in_while_it_was_open_has_to_come_again() {
        let access = NodeAccess::new(&Config::default());
        let everybody = access.admit(&peer(None), Some("anything")).unwrap();
        assert!(everybody.permits(Action::Administer, None));
        let closed = Config { token: Some("plain".into()), ..Config::default() };
        assert_eq!(access.change(&closed), GrantChanges { added: 1, revoked: 1 });
        assert!(everybody.is_revoked());
        assert_eq!(access.admit(&peer(None), None).unwrap_err(), Denied::NoToken);
    }
}
