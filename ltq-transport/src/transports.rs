//! Several transports as one.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Listener, Transport, TransportError};

/// A set of transports, which is itself one: the scheme of an address says which of them is meant.
///
/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Transports {
    members: Vec<Arc<dyn Transport>>,
    /// Their schemes, for people to read.
    schemes: String,
}

impl Transports {
    /// An empty set, which knows no address.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a transport, in the place of one with the same scheme.
    #[must_use]
    pub fn with(self, transport: impl Transport) -> Self {
        self.with_arc(Arc::new(transport))
    }

    /// Adds a transport that is shared already, in the place of one with the same scheme.
    #[must_use]
    pub fn with_arc(mut self, transport: Arc<dyn Transport>) -> Self {
        self.members.retain(|member| member.scheme() != transport.scheme());
        self.members.push(transport);
        self.schemes = self.members.iter().map(|t| t.scheme()).collect::<Vec<_>>().join(", ");
        self
    }

    /// Whether there is a transport for addresses like this one.
    #[must_use]
    pub fn knows(&self, address: &Address) -> bool {
        self.members.iter().any(|member| member.scheme() == address.scheme())
    }

    fn of(&self, address: &Address) -> Result<&dyn Transport, TransportError> {
        let member = self.members.iter().find(|member| member.scheme() == address.scheme());
        member.map(|member| &**member).ok_or_else(|| TransportError::Address {
            address: address.clone(),
            why: match &*self.schemes {
                "" => "no transport is set up".to_owned(),
                known => {
                    format!("no transport has the scheme {:?}; known: {known}", address.scheme())
                }
            },
        })
    }
}

impl fmt::Debug for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Transports").field(&self.schemes).finish()
    }
}

#[async_trait]
impl Transport for Transports {
    /// All their schemes, separated by commas.
    fn scheme(&self) -> &str {
        &self.schemes
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        self.of(address)?.listen(address).await
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        self.of(address)?.connect(address).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InProcess;

    #[tokio::test]
    async fn the_scheme_picks_and_an_unknown_one_names_the_known() {
        let here = Address::new("in-process", "here");
        let there = Address::new("carrier-pigeon", "there");
        let none = Transports::new().connect(&here).await.err().unwrap().to_string();
        assert_eq!(none, "in-process://here cannot be used: no transport is set up");

        let set = Transports::new().with(InProcess::new()).with(InProcess::new());
        assert_eq!(set.scheme(), "in-process");
        let _listener = set.listen(&here).await.unwrap();
        set.connect(&here).await.unwrap();
        for error in [set.connect(&there).await.err(), set.listen(&there).await.err()] {
            assert_eq!(
                error.unwrap().to_string(),
                "carrier-pigeon://there cannot be used: \
                 no transport has the scheme \"carrier-pigeon\"; known: in-process"
            );
        }
    }
}
