//! The model: every rule of delivery, as plain data.
//!
//! A [`Topic`] owns its channels. It is told what happened by [`Event`]s, with the time as an
//! argument, and says what is to be done by [`Command`]s. It knows nothing of tokio, sockets,
//! files, clocks or chance.

pub mod keys;

mod audit;
mod channel;
mod channels;
mod commit;
mod committing;
mod consumers;
mod delivering;
mod discarding;
mod ending;
mod event;
mod gate;
mod in_flight;
mod limits;
mod marks;
mod persisting;
mod producers;
mod publishing;
mod redelivery;
mod run_set;
mod settings;
mod stale_tags;
mod state;
mod subscribing;
mod topic;
mod window;
mod wish;

#[cfg(any(test, feature = "simulation"))]
pub mod histories;
#[cfg(any(test, feature = "simulation"))]
mod testing;
#[cfg(test)]
mod tests;

pub use audit::{Misfit, audit};
pub use event::{
    Claim, Command, ConsumerId, Delivery, Event, LoadTicket, ProducerId, Removed, Reply, RequestId,
    SequenceRange, SessionId, TopicAction,
};
pub use gate::Gate;
pub use marks::Limit;
pub use settings::ModelSettings;
pub use state::RestoreError;
pub use topic::Topic;
