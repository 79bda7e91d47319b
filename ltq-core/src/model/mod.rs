//! The model: every rule of delivery, as plain data.
//!
//! A [`Topic`] owns its channels. It is told what happened by [`Event`]s, with the time as an
//! argument, and says what is to be done by [`Command`]s. It knows nothing of tokio, sockets,
//! files, clocks or chance.

mod event;

pub use event::{
    Command, ConsumerId, Delivery, Event, LoadTicket, ProducerId, Reply, RequestId, SequenceRange,
    SessionId, TopicAction,
};

#[allow(missing_docs)]
mod standin {
    use super::*;
    use crate::*;
    use bytes::Bytes;
    use std::time::Duration;
    #[derive(Clone, Debug)]
    pub struct ModelSettings {
        pub delivery_timeout_max: Duration,
        pub credit_max: Credit,
        pub run_bytes_max: usize,
    }
    impl Default for ModelSettings {
        fn default() -> Self {
            loop {}
        }
    }
    #[derive(Debug, thiserror::Error)]
    #[error("x")]
    pub struct RestoreError;
    pub struct Topic;
    impl Topic {
        pub fn create(_: TopicName, _: TopicSettings, _: ModelSettings, _: Now) -> Self {
            Self
        }
        pub fn restore(
            _: TopicName,
            _: ModelSettings,
            _: Bounds,
            _: Vec<(Bytes, Bytes)>,
            _: Now,
        ) -> Result<Self, RestoreError> {
            Ok(Self)
        }
        pub fn handle(&mut self, _: Event, _: Now) {}
        pub fn handle_timeout(&mut self, _: Now) {}
        pub fn poll_timeout(&self) -> Option<Monotonic> {
            None
        }
        pub fn poll_command(&mut self) -> Option<Command> {
            None
        }
        pub fn name(&self) -> &TopicName {
            loop {}
        }
        pub fn log_name(&self) -> &LogName {
            loop {}
        }
    }
    pub mod keys {
        use crate::*;
        pub fn topic_of(_: &[u8]) -> Option<TopicName> {
            None
        }
        pub fn log_name(_: &TopicName) -> LogName {
            loop {}
        }
    }
}
pub use standin::*;
