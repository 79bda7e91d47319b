//! Getting a registry's welcome.

use std::time::Duration;

use ltq_core::{Address, Connection};
use thiserror::Error;
use tokio::time::timeout;

use super::{Config, ToldLimits};
use crate::registry::{
    link::{Link, LinkError},
    protocol::{Ask, GoodbyeCode, MAGIC, REGISTRY_PROTOCOL, SILENT_BEATS, Say},
};

/// A registry that said welcome.
pub(super) struct Talk {
    /// Held for as long as it is talked over.
    _connection: Box<dyn Connection>,
    pub(super) link: Link,
    pub(super) heartbeat: Duration,
    /// Which run of the registry it is.
    pub(super) run: u64,
}

/// Why a registry is not talked to.
#[derive(Debug, Error)]
pub(super) enum TalkError {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error(transparent)]
    Transport(#[from] ltq_core::TransportError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("it ends the connection: {detail}")]
    Goodbye { code: GoodbyeCode, detail: String },
    #[error("it speaks no protocol of a registry: {0}")]
    Protocol(&'static str),
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    #[error("nothing of what it is told was read for {0:?}")]
    Unread(Duration),
    #[error("it tells of more than it may: {} nodes, {} topics and {} channels", .0.nodes_max, .0.topics_max, .0.channels_max)]
    TooMuch(ToldLimits),
}

impl TalkError {
    /// Whether it will say the same again, for what it is asked by.
    pub(super) const fn is_final(&self) -> bool {
        match self {
            Self::Goodbye { code, .. } => {
                matches!(
                    code,
                    GoodbyeCode::Unauthorized | GoodbyeCode::Forbidden | GoodbyeCode::Version
                )
            }
            _ => false,
        }
    }
}

impl Talk {
    /// Connects and says hello, within the timeout.
    pub(super) async fn begin(config: &Config, address: &Address) -> Result<Self, TalkError> {
        let patience = config.connect_timeout;
        match timeout(patience, Self::connect(config, address)).await {
            Ok(talk) => talk,
            Err(_) => Err(TalkError::TimedOut(patience)),
        }
    }

    async fn connect(config: &Config, address: &Address) -> Result<Self, TalkError> {
        let connection = config.transport.connect(address).await?;
        let mut link = Link::new(connection.open_stream().await?);
        let token = config.token.clone();
        link.mouth.say(&Ask::Hello { magic: MAGIC, version: REGISTRY_PROTOCOL, token })?;
        while link.mouth.unsent() > 0 {
            link.mouth.send_some().await?;
        }
        match link.ear.hear().await? {
            Say::Welcome { version: REGISTRY_PROTOCOL, registry: run, heartbeat_ms } => {
                let heartbeat = Duration::from_millis(heartbeat_ms.into());
                if !(HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&heartbeat) {
                    return Err(TalkError::Protocol("a heartbeat that is none"));
                }
                Ok(Self { _connection: connection, link, heartbeat, run })
            }
            Say::Welcome { .. } => Err(TalkError::Protocol("another version")),
            Say::Goodbye { code, detail } => Err(TalkError::Goodbye { code, detail }),
            _ => Err(TalkError::Protocol("its first frame is no welcome")),
        }
    }

    /// How long it may be silent.
    pub(super) fn patience(&self) -> Duration {
        self.heartbeat * SILENT_BEATS
    }
}

/// What a registry may ask for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const HEARTBEAT_MAX: Duration = Duration::from_secs(3_600);
