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
